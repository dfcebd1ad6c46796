"""The thin shell around the pure functions of this package: what wakes a workload, what it owns, and its writes.

Invariant: before an orphan is adopted the owner is read from the server (as upstream does), because a cached owner may
have been deleted and made anew.
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from isthmus.kube.errors import Conflict, KubeError
from isthmus.kube.keyqueue import KeyQueue
from isthmus.lab.controllers.effects import Change, Effect
from isthmus.lab.controllers.objects.meta import Key, Object
from isthmus.lab.controllers.ownership import claim
from isthmus.lab.controllers.performer import refused
from isthmus.lab.controllers.selection import selects
from isthmus.lab.controllers.store import Store
from isthmus.lab.controllers.world import World

T = TypeVar("T", bound=Object)
C = TypeVar("C", bound=Object)
S = TypeVar("S", bound=Object)


class Shell(Generic[T, C]):
    """One controller; subclasses say what a round does. `also` are stores that must be read before the first."""

    def __init__(
        self, world: World, component: str, *, owners: Store[T], children: Store[C], also: Sequence[Store[Any]] = ()
    ) -> None:
        self.world = world
        self.owners = owners
        self.children = children
        self.hands = world.performer(component)
        self._needed: tuple[Store[Any], ...] = (owners, children, *also)
        self.queue = KeyQueue(component, self._work)
        owners.listen(self._owner_changed)
        children.listen(self._child_changed)

    async def serve(self) -> None:
        """Works until cancelled, as soon as everything needed was read."""
        for store in self._needed:
            await store.synced.wait()
        await self.queue.serve()

    async def round(self, item: T) -> float | None:
        """Does what has to be done for one object; returns after how many seconds to look again."""
        raise AssertionError(f"{type(self).__name__} has no round")

    async def _work(self, key: Key) -> float | None:
        item = self.owners.get(*key)
        if item is None:
            self.queue.forget(key)
            return None
        return await self.round(item)

    def _owner_changed(self, before: T | None, after: T | None) -> None:
        item = after or before
        if item is not None:
            self.queue.add(item.key)

    def _child_changed(self, before: C | None, after: C | None) -> None:
        mine = self.owners.resource
        for item in (before, after):
            owner = item.controller if item is not None else None
            if item is not None and owner is not None and owner.kind == mine.kind:
                self.queue.add((item.metadata.namespace, owner.name))
        if after is not None and after.controller is None and not after.leaving:
            spec: Any
            for candidate in self.owners.by("namespace", after.metadata.namespace):
                spec = candidate
                if selects(spec.spec.selector, after.metadata.labels):
                    self.queue.add(candidate.key)

    async def claimed(self, item: T, selector: dict[str, Any]) -> list[C]:
        """Returns what the object owns, after adoptions and releases. Raises KubeError."""
        return await self.claimed_of(self.children, item, selector)

    async def claimed_of(self, store: Store[S], item: T, selector: dict[str, Any]) -> list[S]:
        """Returns what of a store the object owns, after adoptions and releases. Raises KubeError."""
        for _ in range(2):
            near = store.by("namespace", item.metadata.namespace)
            claims = claim(item, selector, near, kind=self.owners.resource, of=store.resource)
            changes = [*claims.releases, *claims.adoptions]
            if not changes:
                break
            if claims.adoptions:
                await self._must_live(item)
            await self.hands.perform(changes)
        return list(claims.owned)

    async def _must_live(self, item: T) -> None:
        meta = item.metadata
        current = await self.world.client.get(self.owners.resource, meta.name, type=Object, namespace=meta.namespace)
        if current.metadata.uid != meta.uid or current.leaving:
            raise Conflict(
                status=409, reason="Conflict", message=f"{meta.name} is another object now or on its way out"
            )

    async def attempt(self, effects: Sequence[Effect]) -> tuple[str, KubeError | None]:
        """Performs a plan; returns what a status should say of its failure, and the failure."""
        failure = await self.hands.perform(effects)
        return (str(failure) if refused(failure) else ""), failure

    async def conclude(self, status: Change | None, failure: KubeError | None) -> None:
        """Writes a status and then raises what went wrong, so that the round is tried again."""
        if status is not None:
            await self.hands.perform([status])
        if failure is not None:
            raise failure
