"""Deletion: preconditions, grace, finalizers, propagation.

An object goes at once unless its kind gives it a grace, a finalizer holds it, or the client asks that a controller
first deals with its dependents; then it is marked and stays readable until the last of these is gone.
"""

import msgspec

from isthmus.lab.apiserver import decoding, errors
from isthmus.lab.apiserver.calls import Call
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.lifecycle import Lifecycle
from isthmus.lab.apiserver.state import Transaction, decode
from isthmus.lab.apiserver.typetable import META, find
from isthmus.lab.apiserver.watchcache import Stored

_POLICIES = ("Background", "Foreground", "Orphan")
_FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


class Options(msgspec.Struct, frozen=True):
    """metav1.DeleteOptions, from the body or the query."""

    grace: int | None = None
    uid: str | None = None
    version: str | None = None
    policy: str = "Background"
    dry_run: bool = False


def read_options(body: Json, query: dict[str, str]) -> Options:
    """Returns the options; those of the body come before those of the query. Raises ApiError (400 or 422)."""
    shape = find("DeleteOptions", package=META)
    options, _ = decoding.conform(body, shape, kind="DeleteOptions", version="v1")
    if "gracePeriodSeconds" not in options and query.get("gracePeriodSeconds"):
        text = query["gracePeriodSeconds"]
        if not text.lstrip("-").isdecimal():
            raise errors.bad_request(f"gracePeriodSeconds: {text!r} is not a number")
        options["gracePeriodSeconds"] = int(text)
    policy = options.get("propagationPolicy") or query.get("propagationPolicy") or "Background"
    if policy not in _POLICIES:
        bad = errors.unsupported("propagationPolicy", policy, _POLICIES)
        raise errors.unprocessable("DeleteOptions", "", [bad])
    if options.get("orphanDependents"):
        policy = "Orphan"
    dry_run = options.get("dryRun") or ([query["dryRun"]] if query.get("dryRun") else [])
    if dry_run not in ([], ["All"]):
        raise errors.unprocessable("DeleteOptions", "", [errors.unsupported("dryRun", dry_run, ("All",))])
    preconditions = options.get("preconditions", {})
    return Options(
        grace=options.get("gracePeriodSeconds"),
        uid=preconditions.get("uid"),
        version=preconditions.get("resourceVersion"),
        policy=policy,
        dry_run=bool(dry_run),
    )


def delete(life: Lifecycle, transaction: Transaction, call: Call, options: Options) -> tuple[Stored, bool]:
    """Deletes the object that the call names. Returns its state, and whether it is gone already. Raises 404, 409."""
    return _delete(life, transaction, call, options, life.load(transaction, call))


def delete_all(
    life: Lifecycle, transaction: Transaction, call: Call, options: Options, *, chosen: list[Stored]
) -> list[Stored]:
    """Deletes what is still there of `chosen`; returns the states."""
    done = []
    for stored in chosen:
        held = transaction.get(call.resource, namespace=stored.namespace, name=stored.name)
        if held is not None:
            single = msgspec.structs.replace(call, namespace=held.namespace, name=held.name)
            done.append(_delete(life, transaction, single, options, decode(call.resource, held))[0])
    return done


def _delete(
    life: Lifecycle, transaction: Transaction, call: Call, options: Options, value: Json
) -> tuple[Stored, bool]:
    resource, hooks = call.resource, life.hooks(call.resource)
    metadata = value["metadata"]
    for name, asked, held in (
        ("UID", options.uid, metadata.get("uid")),
        ("ResourceVersion", options.version, metadata.get("resourceVersion")),
    ):
        if asked is not None and asked != held:
            text = f"Precondition failed: {name} in precondition: {asked}, {name} in object meta: {held}"
            raise errors.conflict(resource.qualified, call.name, text)
    hooks.check_delete(value)
    finalizer = _FINALIZERS.get(options.policy)
    if finalizer and finalizer not in metadata.get("finalizers", ()):
        metadata["finalizers"] = [*metadata.get("finalizers", ()), finalizer]
    grace = hooks.grace(value, options.grace)
    if not grace and not metadata.get("finalizers") and not hooks.lingers(value):
        return transaction.remove(resource, value), True
    old = life.load(transaction, call)
    begun = "deletionTimestamp" in metadata
    if not begun or grace < metadata.get("deletionGracePeriodSeconds", 0):
        metadata["deletionTimestamp"] = life.source.timestamp(later=grace)
        metadata["deletionGracePeriodSeconds"] = grace
        if not begun:
            hooks.mark_deleted(value)
            if resource.generation:
                metadata["generation"] = metadata.get("generation", 0) + 1
    return life.store(transaction, resource, value, old=old), False
