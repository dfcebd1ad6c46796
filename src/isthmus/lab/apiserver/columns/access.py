"""The columns of Ingresses, classes, roles and bindings."""

import datetime
from typing import Any

from isthmus.lab.apiserver.columns.text import NONE, age_of
from isthmus.lab.apiserver.errors import Json

_MAX_HOSTS = 3


def ingress(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, class, hosts, addresses, ports, age."""
    spec = value.get("spec", {})
    held = [rule["host"] for rule in spec.get("rules", ())[:_MAX_HOSTS] if rule.get("host")]
    hosts = ",".join(held) or "*"
    more = len(spec.get("rules", ())) - _MAX_HOSTS
    if held and more > 0:
        hosts += f" + {more} more..."
    points = value.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    addresses = ",".join(sorted({point.get("ip") or point.get("hostname", "") for point in points}))
    ports = "80, 443" if spec.get("tls") else "80"
    name = value["metadata"]["name"]
    return [name, spec.get("ingressClassName", NONE), hosts, addresses, ports, age_of(value, now)]


def ingress_class(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, controller, parameters, age."""
    spec = value.get("spec", {})
    held = spec.get("parameters")
    shown = NONE
    if held is not None:
        group = f".{held['apiGroup']}" if held.get("apiGroup") else ""
        shown = f"{held.get('kind', '')}{group}/{held.get('name', '')}"
    return [value["metadata"]["name"], spec.get("controller", ""), shown, age_of(value, now)]


def binding(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, role, age, users, groups, service accounts."""
    about = value.get("roleRef", {})
    held: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in value.get("subjects", ()):
        name = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            name = f"{subject.get('namespace', '')}/{name}"
        held.setdefault(subject.get("kind", ""), []).append(name)
    shown = [", ".join(held[kind]) for kind in ("User", "Group", "ServiceAccount")]
    return [value["metadata"]["name"], f"{about.get('kind')}/{about.get('name')}", age_of(value, now), *shown]
