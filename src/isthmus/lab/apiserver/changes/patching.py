"""Patches of all four types, from request body to stored object.

All of them are an update of what is stored now, inside one transaction, so a patch never meets a conflict that its
author did not ask for with a resourceVersion.
"""

from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes.apply import server_side_apply
from isthmus.lab.apiserver.changes.calls import Call
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.changes.ownership import leaves, read_managers
from isthmus.lab.apiserver.changes.patch import json_patch, merge_patch
from isthmus.lab.apiserver.changes.strategic import strategic_merge
from isthmus.lab.apiserver.errors import ApiError, Json
from isthmus.lab.apiserver.schema.typetable import ObjectType
from isthmus.lab.apiserver.storage.state import Transaction, decode
from isthmus.lab.apiserver.storage.watchcache import Stored

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
MAX_SHOWN = 512  # characters of a patch in an error
TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)
CUSTOM_TYPES = (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)  # without Go types nobody can say how lists merge


def apply_patch(value: Json, patch: Any, *, media_type: str, shape: ObjectType) -> Json:
    """Returns `value` with a patch of one of the three plain types applied."""
    if media_type == JSON_PATCH:
        return json_patch(value, patch)
    if not isinstance(patch, dict):
        raise errors.bad_request("error decoding patch: the patch is not an object")
    if media_type == MERGE_PATCH:
        merged: Json = merge_patch(value, patch)
        return merged
    return strategic_merge(value, patch, shape)


def shown(patch: Any) -> str:
    """Returns the beginning of a patch as text."""
    text = msgspec.json.encode(patch).decode()
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def patch_object(life: Lifecycle, transaction: Transaction, call: Call, patch: Any, *, media_type: str) -> Stored:
    """Applies a JSON, merge or strategic merge patch; raises 404, 400, 409 or 422."""
    old = life.load(transaction, call)
    patched = apply_patch(life.load(transaction, call), patch, media_type=media_type, shape=call.resource.type())
    for name, held in (("kind", call.resource.kind), ("apiVersion", call.resource.api_version)):
        if patched.setdefault(name, held) != held:
            raise errors.bad_request(f"{name} cannot be changed by a patch")
    try:
        value = life.read_body(call, patched)
    except ApiError as failure:
        if failure.code == 400 and "strict decoding error" in failure.message:
            detail = failure.message[failure.message.index("strict decoding error") :]
            raise errors.unprocessable("", "", [errors.invalid("patch", shown(patch), detail)]) from failure
        raise
    return life.update(transaction, call, value, old=old)


def apply_object(life: Lifecycle, transaction: Transaction, call: Call, config: Json) -> tuple[Stored, bool]:
    """Applies a configuration (server-side apply). Returns the object, and whether it was created."""
    for name in ("kind", "apiVersion"):
        if not config.get(name):
            raise errors.bad_request(f"invalid object type: {name} is required in a configuration to apply")
    if config.get("metadata", {}).get("managedFields"):
        raise errors.bad_request("metadata.managedFields must be nil")
    value = life.read_body(call, config)
    value["metadata"].setdefault("name", call.name)
    shape = call.resource.type()
    stored = transaction.get(call.resource, namespace=call.namespace, name=call.name)
    writer = life.writer(call, "Apply")
    if stored is None:
        if call.subresource:
            raise errors.not_found(call.resource.qualified, call.name)
        if value["metadata"].get("uid"):
            raise errors.conflict(call.resource.qualified, call.name, "uid mismatch: the object does not exist")
        sent = frozenset(leaves(value, shape))
        entry = writer.with_paths(sent)
        return life.create(transaction, call, value, managers=[entry]), True
    old = decode(call.resource, stored)
    if call.resource.subresource("status") and not call.subresource:
        value.pop("status", None)
    asked = {name: value["metadata"].get(name) for name in ("resourceVersion", "uid")}
    merged, managers = server_side_apply(
        old, value, shape=shape, managers=read_managers(old["metadata"]), writer=writer, force=call.force
    )
    for name, item in asked.items():
        if item:
            merged["metadata"][name] = item
    cleaned, _ = call.resource.conform(merged)
    return life.update(transaction, call, cleaned, old=old, managers=managers), False
