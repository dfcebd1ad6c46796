"""Who controls what: which objects a controller owns, which orphans it takes, which it lets go.

As upstream's ControllerRefManager: an object belongs to the controller that its reference names by uid; labels that do
not match the selector any more end that; an orphan that matches is taken, but never by an owner that is being deleted.
"""

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec

from isthmus.kube.resources import Resource
from isthmus.lab.controllers.effects import Change, adopt, release
from isthmus.lab.controllers.objects.meta import Object, owned_by
from isthmus.lab.controllers.selection import selector_of

T = TypeVar("T", bound=Object)


class Claims(msgspec.Struct, Generic[T], frozen=True):
    """What is owned, and the changes that make and end ownership."""

    owned: tuple[T, ...]
    adoptions: tuple[Change, ...] = ()
    releases: tuple[Change, ...] = ()


def claim(
    owner: Object, selector: dict[str, Any], candidates: Iterable[T], *, kind: Resource, of: Resource
) -> Claims[T]:
    """Returns what `owner` (of resource `kind`) owns among `candidates` (of resource `of`, in its namespace)."""
    wanted = selector_of(selector)
    owned: list[T] = []
    adoptions: list[Change] = []
    releases: list[Change] = []
    for item in candidates:
        matches = wanted is not None and wanted.matches(item.metadata.labels)
        controller = item.controller
        if controller is not None:
            if controller.uid != owner.metadata.uid:
                continue
            if matches:
                owned.append(item)
            elif not owner.leaving:
                releases.append(release(item, of, owner.metadata.uid))
        elif matches and not owner.leaving and not item.leaving:
            adoptions.append(adopt(item, of, owned_by(owner, kind)))
    return Claims(tuple(owned), tuple(adoptions), tuple(releases))
