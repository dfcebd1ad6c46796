"""What a controller's pure function asks for: writes and words, as data.

A plan is a sequence of effects. Creates and deletes carry whom to tell about them, because the words (`Created pod: x`,
`Error creating: ...`) depend on the outcome, which only the performer knows.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from isthmus.kube.client import Patch
from isthmus.kube.resources import Resource
from isthmus.kube.schema import ObjectReference
from isthmus.lab.controllers.objects.meta import Object, OwnerReference

Json = dict[str, Any]


class Create(msgspec.Struct, frozen=True):
    """Create `body`; tell `owner` SuccessfulCreate or FailedCreate; `words` replaces what is said of success."""

    resource: Resource
    body: Json
    owner: ObjectReference | None = None
    words: tuple[str, str] | None = None
    """Reason and message; an empty reason says nothing."""


class Delete(msgspec.Struct, frozen=True):
    """Delete this very object; tell `owner` SuccessfulDelete or FailedDelete; `words` replaces what is said."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    owner: ObjectReference | None = None
    propagation: str | None = None
    grace: int | None = None
    words: tuple[str, str] | None = None


class Change(msgspec.Struct, frozen=True):
    """Patch an object; with `version` only if it still is what was seen."""

    resource: Resource
    namespace: str
    name: str
    patch: Json
    kind: Patch = Patch.MERGE
    subresource: str | None = None
    version: str = ""
    uid: str = ""


class Tell(msgspec.Struct, frozen=True):
    """Write an Event."""

    about: ObjectReference
    reason: str
    message: str
    type: str = "Normal"


Effect = Create | Delete | Change | Tell


def delete(
    item: Object, resource: Resource, *, owner: ObjectReference | None = None, words: tuple[str, str] | None = None
) -> Delete:
    """Returns the deletion of an object."""
    meta = item.metadata
    return Delete(resource, meta.namespace, meta.name, meta.uid, owner, words=words)


def status(item: Object, resource: Resource, patch: Json) -> Change:
    """Returns the change of an object's status, if the object still is what was seen."""
    meta = item.metadata
    return Change(
        resource, meta.namespace, meta.name, {"status": patch}, subresource="status", version=meta.resourceVersion
    )


def adopt(item: Object, resource: Resource, owner: OwnerReference) -> Change:
    """Returns the change that makes `owner` the controller of an orphan."""
    meta = item.metadata
    patch = {"metadata": {"uid": meta.uid, "ownerReferences": [owner]}}
    return Change(resource, meta.namespace, meta.name, patch, kind=Patch.STRATEGIC)


def release(item: Object, resource: Resource, uid: str) -> Change:
    """Returns the change that ends an object's ownership by the owner with `uid`."""
    meta = item.metadata
    patch = {"metadata": {"uid": meta.uid, "ownerReferences": [{"$patch": "delete", "uid": uid}]}}
    return Change(resource, meta.namespace, meta.name, patch, kind=Patch.STRATEGIC)


def creates(effects: Sequence[Effect]) -> int:
    """Returns how many objects a plan creates."""
    return sum(isinstance(effect, Create) for effect in effects)
