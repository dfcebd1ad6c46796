"""Deletion: preconditions, grace, finalizers, propagation.

An object goes at once unless its kind gives it a grace, a finalizer holds it, or the client asks that a controller
first deals with its dependents; then it is marked and stays readable until the last of these is gone.
"""

import datetime

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes.calls import Call, time_text
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.inputs import decoding
from isthmus.lab.apiserver.inputs.parameters import flag
from isthmus.lab.apiserver.schema.typetable import META, find
from isthmus.lab.apiserver.storage.state import Transaction, decode
from isthmus.lab.apiserver.storage.watchcache import Stored

_POLICIES = ("Foreground", "Background", "Orphan")
_FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


class Options(msgspec.Struct, frozen=True):
    """metav1.DeleteOptions, from the body or the query."""

    grace: int | None = None
    uid: str | None = None
    version: str | None = None
    policy: str | None = None  # None: as the object's finalizers say, else Background
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
    policy = options.get("propagationPolicy") or query.get("propagationPolicy") or None
    orphan = options.get("orphanDependents")
    if orphan is None and query.get("orphanDependents"):
        orphan = flag(query, "orphanDependents")
    if policy is not None and orphan is not None:
        text = "orphanDependents and deletionPropagation cannot be both set"
        raise errors.unprocessable("DeleteOptions.meta.k8s.io", "", [errors.invalid("propagationPolicy", policy, text)])
    if policy is not None and policy not in _POLICIES:
        bad = errors.unsupported("propagationPolicy", policy, (*_POLICIES, "nil"))
        raise errors.unprocessable("DeleteOptions.meta.k8s.io", "", [bad])
    if orphan is not None:
        policy = "Orphan" if orphan else "Background"
    dry_run = options.get("dryRun") or ([query["dryRun"]] if query.get("dryRun") else [])
    if dry_run not in ([], ["All"]):
        bad = errors.unsupported("dryRun", dry_run, ("All",))
        raise errors.unprocessable("DeleteOptions.meta.k8s.io", "", [bad])
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
    _check_preconditions(call, options, metadata)
    hooks.check_delete(value)
    old = life.load(transaction, call)
    asked = None if options.grace is None else options.grace if options.grace >= 0 else 1
    begun, held = "deletionTimestamp" in metadata, metadata.get("deletionGracePeriodSeconds", 0)
    if begun and held:
        if asked is None or asked >= held:
            return life.store(transaction, resource, value, old=old), False
        grace = _shorten(life, metadata, by=held - asked, asked=asked)
    else:
        grace = 0 if begun else hooks.grace(value, asked)
        if not begun:
            metadata["deletionTimestamp"] = life.source.timestamp(later=grace)
            metadata["deletionGracePeriodSeconds"] = grace
    _set_finalizers(metadata, options.policy)
    if not grace and not metadata.get("finalizers") and not hooks.lingers(value):
        if not begun:
            for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):
                del metadata[name]
        return transaction.remove(resource, value), True
    if not begun:
        hooks.mark_deleted(value)
        if resource.generation:
            metadata["generation"] = metadata.get("generation", 0) + 1
    return life.store(transaction, resource, value, old=old), False


def _check_preconditions(call: Call, options: Options, metadata: Json) -> None:
    for name, asked, held, fate in (
        ("UID", options.uid, metadata.get("uid"), "deleted and then recreated"),
        ("ResourceVersion", options.version, metadata.get("resourceVersion"), "modified"),
    ):
        if asked is not None and asked != held:
            text = f"the {name} in the precondition ({asked}) does not match the {name} in record ({held})"
            about = call.resource.qualified_kind
            raise errors.conflict(about, call.name, f"{text}. The object might have been {fate}")


def _shorten(life: Lifecycle, metadata: Json, *, by: int, asked: int) -> int:
    """Brings a deletion that has begun `by` seconds nearer, but not into the past; returns the new grace."""
    due = datetime.datetime.fromisoformat(metadata["deletionTimestamp"]) - datetime.timedelta(seconds=by)
    if due < life.source.now():
        due, asked = life.source.now(), min(asked, 1)
    metadata["deletionTimestamp"] = time_text(due)
    metadata["deletionGracePeriodSeconds"] = asked
    return asked


def _set_finalizers(metadata: Json, policy: str | None) -> None:
    """Notes for the garbage collector what is to happen to dependents; without a policy what is noted stays."""
    if policy is None:
        return
    kept = [name for name in metadata.get("finalizers", ()) if name not in _FINALIZERS.values()]
    if policy in _FINALIZERS:
        kept.append(_FINALIZERS[policy])
    if kept:
        metadata["finalizers"] = kept
    else:
        metadata.pop("finalizers", None)
