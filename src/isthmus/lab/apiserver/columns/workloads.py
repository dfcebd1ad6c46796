"""The columns of sets, Jobs, disruption budgets and priority classes."""

import datetime
from typing import Any

from isthmus.lab.apiserver.columns.text import NONE, age_of, duration, label_pairs, seconds_since, selector
from isthmus.lab.apiserver.errors import Json


def containers(value: Json) -> list[str]:
    """Returns the names and the images of the containers of a workload's template."""
    held = value.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
    return [",".join(item.get(name, "") for item in held) for name in ("name", "image")]


def stateful_set(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, ready, age, containers, images."""
    ready, wanted = value.get("status", {}).get("readyReplicas", 0), value.get("spec", {}).get("replicas", 0)
    return [value["metadata"]["name"], f"{ready}/{wanted}", age_of(value, now), *containers(value)]


def daemon_set(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, five counts, node selector, age, containers, images, selector."""
    status, spec = value.get("status", {}), value.get("spec", {})
    names = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    nodes = label_pairs(spec.get("template", {}).get("spec", {}).get("nodeSelector"))
    counted = [status.get(name, 0) for name in names]
    shown = [*containers(value), selector(spec.get("selector"))]
    return [value["metadata"]["name"], *counted, nodes, age_of(value, now), *shown]


def controller_revision(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, controller, revision, age."""
    owners = [owner for owner in value["metadata"].get("ownerReferences", ()) if owner.get("controller")]
    shown = NONE
    if owners:
        group = owners[0].get("apiVersion", "").rpartition("/")[0]
        kind = f"{owners[0].get('kind', '')}.{group}" if group else owners[0].get("kind", "")
        shown = f"{kind.lower()}/{owners[0].get('name', '')}"
    return [value["metadata"]["name"], shown, value.get("revision", 0), age_of(value, now)]


def job(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, status, completions, duration, age, containers, images, selector."""
    spec, status = value.get("spec", {}), value.get("status", {})
    true = {item.get("type") for item in status.get("conditions", ()) if item.get("status") == "True"}
    word = "Running"
    if true & {"Complete", "Failed"}:
        word = "Complete" if "Complete" in true else "Failed"
    elif "deletionTimestamp" in value["metadata"]:
        word = "Terminating"
    elif true & {"Suspended", "FailureTarget"}:
        word = "Suspended" if "Suspended" in true else "FailureTarget"
    done = status.get("succeeded", 0)
    parallel = spec.get("parallelism", 0)
    if "completions" in spec:
        shown = f"{done}/{spec['completions']}"
    else:
        shown = f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"
    lasted = ""
    began = seconds_since(status.get("startTime"), now)
    if began is not None:
        ended = seconds_since(status.get("completionTime"), now)
        lasted = duration(began - (ended or 0))
    tail = [*containers(value), selector(spec.get("selector"))]
    return [value["metadata"]["name"], word, shown, lasted, age_of(value, now), *tail]


def disruption_budget(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, least available, most unavailable, allowed disruptions, age."""
    spec = value.get("spec", {})
    amounts = [str(spec.get(name, "N/A")) for name in ("minAvailable", "maxUnavailable")]
    allowed = value.get("status", {}).get("disruptionsAllowed", 0)
    return [value["metadata"]["name"], *amounts, allowed, age_of(value, now)]


def priority_class(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, value, whether it is the default, age, preemption policy."""
    held = [value.get("value", 0), value.get("globalDefault", False)]
    return [value["metadata"]["name"], *held, age_of(value, now), value.get("preemptionPolicy", "")]
