"""pods/eviction: a deletion that a PodDisruptionBudget may put off.

The budget's status is its controller's; what is taken from it here is noted in `disruptedPods`, in the same
transaction as the deletion, so that two evictions never spend the same allowance. Until the controller has counted,
nothing may be evicted, as in the real server.
"""

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes import deletion
from isthmus.lab.apiserver.changes.calls import Call
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.errors import ApiError, Json
from isthmus.lab.apiserver.inputs import decoding
from isthmus.lab.apiserver.schema.typetable import find
from isthmus.lab.apiserver.storage.state import Transaction, decode
from isthmus.lab.apiserver.strategies.workloads import selects

MAX_DISRUPTED = 2000  # evictions that the controller has not seen yet
_REFUSAL = "Cannot evict pod as it would violate the pod's disruption budget."


def read(call: Call, body: Json) -> Json:
    """Returns the policy/v1 Eviction of a request; raises 400."""
    if body.get("apiVersion") == "policy/v1beta1":
        body["apiVersion"] = "policy/v1"
    decoding.check_kind(body, kind="Eviction", api_version="policy/v1")
    shape = find("Eviction", package="io.k8s.api.policy.v1")
    eviction, _ = decoding.conform(body, shape, kind="Eviction", version="policy/v1")
    if eviction.get("metadata", {}).get("name", call.name) != call.name:
        raise errors.bad_request("name in URL does not match name in Eviction object")
    return eviction


def evict(life: Lifecycle, transaction: Transaction, call: Call, options: deletion.Options) -> None:
    """Deletes the pod that the call names; raises 404, 429 if its budget forbids that, 500 if it has two."""
    pod = life.load(transaction, call)
    guarded = pod.get("status", {}).get("phase") not in ("Succeeded", "Failed", "Pending")
    if guarded and "deletionTimestamp" not in pod["metadata"]:
        _spend(life, transaction, call, pod)
    old = life.load(transaction, call)
    conditions = pod.setdefault("status", {}).setdefault("conditions", [])
    conditions[:] = [item for item in conditions if item.get("type") != "DisruptionTarget"]
    conditions.append(
        {
            "type": "DisruptionTarget",
            "status": "True",
            "lastTransitionTime": life.source.timestamp(),
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }
    )
    if options.version is not None and options.version != old["metadata"]["resourceVersion"]:
        raise errors.conflict(call.resource.qualified, call.name)
    noted = msgspec.structs.replace(call, subresource="status")
    life.finish(transaction, noted, pod, old=old)
    plain = msgspec.structs.replace(call, subresource="")
    deletion.delete(life, transaction, plain, msgspec.structs.replace(options, version=None))


def _spend(life: Lifecycle, transaction: Transaction, call: Call, pod: Json) -> None:
    """Takes one disruption from the budget that covers the pod, if there is one."""
    budgets = transaction.registry.get("poddisruptionbudgets", "policy")
    labels = pod["metadata"].get("labels", {})
    held = [
        budget
        for stored in transaction.all(budgets)
        if stored.namespace == call.namespace
        and "selector" in (budget := decode(budgets, stored)).get("spec", {})
        and selects(budget["spec"]["selector"], labels)
    ]
    if not held:
        return
    if len(held) > 1:
        text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise ApiError(500, "", text)
    budget = held[0]
    name, spec, status = budget["metadata"]["name"], budget["spec"], budget.setdefault("status", {})
    healthy, wanted = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    if not _ready(pod) and (
        spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow" or (healthy >= wanted and wanted > 0)
    ):
        return
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 0):
        raise _refused(f"The disruption budget {name} is still being processed by the server.", after=10)
    if len(status.get("disruptedPods", {})) > MAX_DISRUPTED:
        text = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise errors.denied("poddisruptionbudget.policy", name, text)
    if status.get("disruptionsAllowed", 0) <= 0:
        text = f"The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
        raise _refused(text, after=0)
    old = msgspec.json.decode(msgspec.json.encode(budget))
    status["disruptionsAllowed"] -= 1
    status.setdefault("disruptedPods", {})[call.name] = life.source.timestamp()
    about = msgspec.structs.replace(call, resource=budgets, name=name, subresource="status")
    life.finish(transaction, about, budget, old=old)


def _ready(pod: Json) -> bool:
    held = pod.get("status", {}).get("conditions", ())
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in held)


def _refused(detail: str, *, after: int) -> ApiError:
    details: Json = {"causes": [{"reason": "DisruptionBudget", "message": detail}]}
    if after:
        details["retryAfterSeconds"] = after
    return ApiError(429, "TooManyRequests", _REFUSAL, details=details)
