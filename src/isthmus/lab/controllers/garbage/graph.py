"""Who owns whom, over all resources of the API, by uid: the memory of the garbage collector, and what it concludes.

Invariants: a node knows its owners by uid and its dependents; an owner that is only known from references is
*virtual* until it is seen or the server says that it does not exist, so a restart finds what went while nobody
looked. Nothing here speaks to anybody. Rejected: keeping whole metadata: a cluster has many objects, and few have
owners.
"""

from collections.abc import Iterable, Iterator

import msgspec

from isthmus.kube.resources import Resource
from isthmus.lab.controllers.objects.meta import OwnerReference

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


class TraceMeta(msgspec.Struct, frozen=True, gc=False):
    """What is read of an object's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    deletionTimestamp: str | None = None
    finalizers: tuple[str, ...] | None = None
    ownerReferences: tuple[OwnerReference, ...] | None = None


class Trace(msgspec.Struct, frozen=True, gc=False):
    """An object of any kind."""

    metadata: TraceMeta
    kind: str = ""


class Node:
    """An object, or one that is said to be (`resource` None)."""

    __slots__ = ("deleting", "dependents", "finalizers", "name", "namespace", "owners", "resource", "uid")

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.resource: Resource | None = None
        self.namespace = ""
        self.name = ""
        self.deleting = False
        self.finalizers: tuple[str, ...] = ()
        self.owners: tuple[OwnerReference, ...] = ()
        self.dependents: set[str] | None = None

    @property
    def virtual(self) -> bool:
        """Whether it was never seen."""
        return self.resource is None

    @property
    def foreground(self) -> bool:
        """Whether it waits for its dependents to go."""
        return self.deleting and FOREGROUND in self.finalizers

    @property
    def orphaning(self) -> bool:
        """Whether it waits for its dependents to be let go."""
        return self.deleting and ORPHAN in self.finalizers


class Graph:
    """All nodes by uid. The methods that take changes return the uids that need a look."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, uid: str) -> Node | None:
        """Returns a node."""
        return self._nodes.get(uid)

    def dependents(self, uid: str) -> list[Node]:
        """Returns what names an object as its owner."""
        node = self._nodes.get(uid)
        if node is None or not node.dependents:
            return []
        return [self._nodes[one] for one in node.dependents if one in self._nodes]

    def of(self, resource: Resource) -> Iterator[Node]:
        """Returns the nodes of a resource."""
        return (node for node in list(self._nodes.values()) if node.resource == resource)

    def put(self, resource: Resource, trace: Trace) -> set[str]:
        """Takes an object as it is now."""
        meta = trace.metadata
        node = self._nodes.setdefault(meta.uid, Node(meta.uid))
        new = node.virtual
        owners = meta.ownerReferences or ()
        before = {owner.uid for owner in node.owners}
        after = {owner.uid for owner in owners}
        was_foreground, was_orphaning = node.foreground, node.orphaning
        changed = owners != node.owners
        node.resource, node.namespace, node.name = resource, meta.namespace, meta.name
        node.owners, node.finalizers = owners, meta.finalizers or ()
        node.deleting = bool(meta.deletionTimestamp)
        looks: set[str] = set()
        for uid in before - after:
            self._unlink(uid, node.uid)
            looks.add(uid)  # it may have waited for this one
        for uid in after - before:
            owner = self._nodes.setdefault(uid, Node(uid))
            if owner.dependents is None:
                owner.dependents = set()
            owner.dependents.add(node.uid)
        if changed:
            looks |= {node.uid} if owners else set()
            looks |= {uid for uid in before & after if self._waits(uid)}
        if node.foreground and not was_foreground:
            looks |= {node.uid, *(node.dependents or ())}
        if node.orphaning and not was_orphaning:
            looks.add(node.uid)
        if node.deleting:
            looks |= {uid for uid in after if self._waits(uid)}
        if new and node.dependents:
            # References may have named it wrongly (another namespace, another kind): now it can be told.
            looks |= {one for one in node.dependents if not self.coordinates_match(one, node)}
        return looks

    def remove(self, uid: str) -> set[str]:
        """Takes note that an object is no more."""
        node = self._nodes.get(uid)
        if node is None:
            return set()
        looks = set(node.dependents or ())
        for owner in node.owners:
            self._unlink(owner.uid, uid)
            if self._waits(owner.uid):
                looks.add(owner.uid)
        if node.dependents:
            # Its dependents still name it; it is kept as one that is only said to be.
            node.resource, node.owners, node.finalizers, node.deleting = None, (), (), False
        else:
            del self._nodes[uid]
        return looks

    def replace(self, resource: Resource, traces: Iterable[Trace]) -> set[str]:
        """Takes all objects of a resource; what is not among them is no more."""
        looks: set[str] = set()
        present: set[str] = set()
        for trace in traces:
            present.add(trace.metadata.uid)
            looks |= self.put(resource, trace)
        for node in self.of(resource):
            if node.uid not in present:
                looks |= self.remove(node.uid)
        return looks

    def coordinates_match(self, dependent: str, owner: Node) -> bool:
        """Whether a dependent's reference names its owner by the kind and the namespace that it has."""
        node = self._nodes.get(dependent)
        if node is None or owner.resource is None:
            return True
        for reference in node.owners:
            if reference.uid == owner.uid:
                return (
                    reference.kind == owner.resource.kind
                    and reference.name == owner.name
                    and owner.namespace in ("", node.namespace)
                )
        return True

    def blocking(self, uid: str) -> list[Node]:
        """Returns the dependents that keep an owner that is deleted in the foreground."""
        return [
            node
            for node in self.dependents(uid)
            if any(owner.uid == uid and owner.blockOwnerDeletion for owner in node.owners)
        ]

    def _waits(self, uid: str) -> bool:
        node = self._nodes.get(uid)
        return node is not None and (node.foreground or node.orphaning)

    def _unlink(self, owner: str, dependent: str) -> None:
        node = self._nodes.get(owner)
        if node is None or node.dependents is None:
            return
        node.dependents.discard(dependent)
        if not node.dependents:
            node.dependents = None
            if node.virtual:
                del self._nodes[owner]


class Fate(msgspec.Struct, frozen=True):
    """What becomes of an object whose owners were looked at."""

    delete: str = ""
    """The propagation policy to delete it with; empty to let it live."""
    drop: tuple[str, ...] = ()
    """Uids of owners whose references are to be taken out, because others remain."""
    unblock: bool = False
    """Whether its references must stop blocking first: owner and dependent wait for each other."""


def fate(node: Node, *, missing: Iterable[str], waiting: Iterable[str], stuck: bool) -> Fate:
    """Returns what becomes of an object; `missing` and `waiting` are its owners that are gone or wait for it.

    `stuck` says that a dependent of its own is being deleted in the foreground (a circle).
    """
    gone, held = tuple(missing), tuple(waiting)
    if len(gone) + len(held) < len(node.owners):
        return Fate(drop=(*gone, *held))
    if held and node.dependents:
        return Fate(delete="Foreground", unblock=stuck)
    if ORPHAN in node.finalizers:
        return Fate(delete="Orphan")
    return Fate(delete="Foreground" if FOREGROUND in node.finalizers else "Background")
