"""What a ServiceExport and a ServiceImport are told: conditions with the reasons of API version v1beta1.

A condition keeps its time as long as its status does. Conditions of other types belong to others and are left alone.
Rejected: no condition Conflict without a conflict (as in v1alpha1), which looks like nobody having looked.
"""

from collections.abc import Sequence
from typing import Any

from isthmus.mesh.mcs.api import Condition, Service
from isthmus.services.exports import HEADLESS, Merged

Json = dict[str, Any]
MAX_MESSAGE = 1024
_EXPORT_TYPES = ("Valid", "Ready", "Conflict")
_IMPORT_TYPES = ("Ready",)
_NO_ADDRESS = "The Service that stands for it has no address yet"


def invalid(service: Service | None) -> tuple[str, str] | None:
    """Returns reason and message if a Service cannot be exported."""
    if service is None:
        return "NoService", "There is no Service of this name in the namespace"
    if service.spec.type == "ExternalName":
        return "InvalidServiceType", "A Service of type ExternalName has no endpoints that could be exported"
    if any(owner.kind == "ServiceImport" for owner in service.metadata.ownerReferences):
        return "InvalidServiceType", "A Service that stands for an import cannot be exported again"
    return None


def of_export(service: Service | None, merged: Merged | None, *, shared: bool) -> tuple[Condition, ...]:
    """Returns the conditions of an export; `shared`: its namespace takes part; `merged`: of all exports and it."""
    wrong = invalid(service)
    if wrong is not None:
        reason, message = wrong
        waits = "Pending" if reason == "NoService" else "Failed"
        return (_condition("Valid", False, reason, message), _condition("Ready", False, waits, message))
    valid = _condition("Valid", True, "Valid", "The Service may be exported")
    if not shared:
        message = "The namespace is annotated clustermesh.cilium.io/global=false: nothing of it is shared"
        return (valid, _condition("Ready", False, "Failed", message))
    ready = _condition("Ready", True, "Exported", "The Service is told to all clusters")
    if merged is None:
        return (valid, ready)
    message = merged.message or "All exports of the Service agree"
    return (valid, ready, _condition("Conflict", bool(merged.conflicts), merged.reason, message))


def of_import(merged: Merged, *, ips: Sequence[str], refusal: tuple[str, str] | None) -> tuple[Condition, ...]:
    """Returns the conditions of an import; `refusal` is why it has no Service of its own (reason, message)."""
    if refusal is not None:
        return (_condition("Ready", False, *refusal),)
    if merged.type != HEADLESS and not ips:
        return (_condition("Ready", False, "Pending", _NO_ADDRESS),)
    return (_condition("Ready", True, "Ready", "The Service can be used"),)


def troubles(held: Sequence[Condition]) -> list[Condition]:
    """Returns the conditions of an export that somebody has to act upon; Ready only repeats an invalid one."""
    valid = all(one.status == "True" for one in held if one.type == "Valid")
    bad = {"Valid": "False", "Conflict": "True", **({"Ready": "False"} if valid else {})}
    return [one for one in held if bad.get(one.type) == one.status]


def same(held: Sequence[Condition], wanted: Sequence[Condition], *, kinds: tuple[str, ...]) -> bool:
    """Whether the conditions of `kinds` are as they should be, apart from their times."""
    return {_key(one) for one in held if one.type in kinds} == {_key(one) for one in wanted}


def stamped(held: Sequence[Condition], wanted: Sequence[Condition], *, generation: int, now: str) -> list[Json]:
    """Returns conditions to write; `now` is RFC 3339, for those whose status changed."""
    times = {(one.type, one.status): one.lastTransitionTime for one in held}
    return [
        {
            "type": one.type,
            "status": one.status,
            "reason": one.reason,
            "message": one.message,
            "observedGeneration": generation,
            "lastTransitionTime": times.get((one.type, one.status)) or now,
        }
        for one in wanted
    ]


def export_is_told(held: Sequence[Condition], wanted: Sequence[Condition]) -> bool:
    """Whether a ServiceExport says what it should."""
    return same(held, wanted, kinds=_EXPORT_TYPES)


def import_is_told(held: Sequence[Condition], wanted: Sequence[Condition]) -> bool:
    """Whether a ServiceImport says what it should."""
    return same(held, wanted, kinds=_IMPORT_TYPES)


def _key(one: Condition) -> tuple[str, str, str, str]:
    return one.type, one.status, one.reason, one.message


def _condition(kind: str, status: bool, reason: str, message: str) -> Condition:
    text = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."
    return Condition(kind, "True" if status else "False", reason, text)
