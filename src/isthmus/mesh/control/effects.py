"""What a plan asks for: writes and words, as data.

A plan looks at what is and at what should be, and returns the difference; doing it and planning again must give
nothing. Rejected: writers that plan and write in one go, which can only be tested with a server.
"""

from typing import Any

import msgspec

from isthmus.kube.resources import Resource
from isthmus.kube.schema import ObjectReference

Json = dict[str, Any]


class Create(msgspec.Struct, frozen=True):
    """Create `body`."""

    resource: Resource
    namespace: str
    name: str
    body: Json


class Change(msgspec.Struct, frozen=True):
    """Merge `patch` into an object, or with `status` into its status; with `version` only if it still is that one."""

    resource: Resource
    namespace: str
    name: str
    patch: Json
    status: bool = False
    version: str = ""


class Delete(msgspec.Struct, frozen=True):
    """Delete this very object."""

    resource: Resource
    namespace: str
    name: str
    uid: str


class Tell(msgspec.Struct, frozen=True):
    """Write an Event, once what comes before it is done; `failed` are clusters that it says have nobody left."""

    about: ObjectReference
    reason: str
    message: str
    type: str = "Normal"
    failed: tuple[str, ...] = ()


Write = Create | Change | Delete
Effect = Write | Tell
