"""Joins what is known of global services and keeps the dataplane as it says: own Services and their annotations,
namespaces, slices of other clusters, drains, and which nodes and clusters can be reached.

One slice changes, one slice is looked at; what is more (a cluster that joins, a node that moves) is looked at once for
a whole batch. What one word may change everywhere (a drain, an outage, another node) is done in parts, each from what
holds by then: of 10,000 services that takes seconds, in which probes go on and the first ones are written. No I/O, no
clock. Invariants: slices of other clusters are in the compiler only for services that are
global here, and only those of clusters that have told everything; a backend whose address another cluster owns is left
out and said; a drain, a weight or an affinity is one Choice for a service and touches no slice. Rejected: working out a
service's backends as one list at each change.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from isthmus.agent.across.liveness import Health, Place
from isthmus.agent.across.neighbours import Neighbours
from isthmus.agent.across.ownership import Owners
from isthmus.agent.services.declarations import Declarations
from isthmus.agent.services.staging import Stage
from isthmus.kube.reflector import Change
from isthmus.kube.schema import Bare
from isthmus.kube.schema import Service as ServiceObject
from isthmus.mesh.source.slices import usable_address
from isthmus.model.endpoint import Endpoint, family_of
from isthmus.model.mesh import (
    ClusterLeft,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    MeshEvent,
    NodeGone,
    NodeTold,
    SliceGone,
    SliceTold,
)
from isthmus.model.service import Backend, PortKey, ServiceKey, Slice, SliceKey
from isthmus.model.sharing import SharedSlice
from isthmus.ruleset.services import ServiceCompiler
from isthmus.services.choice import choice

PART = 50
"""Services or slices that are done at once, of what may be done in parts: some 30 ms."""


class LeftOut(msgspec.Struct, frozen=True):
    """Backends of a slice that are not used, by address: why."""

    slice: SliceKey
    reasons: tuple[tuple[str, str], ...]


class _Members(msgspec.Struct):
    """Who else answers for a service: slices, how many of each cluster have backends, and what these count for."""

    slices: set[SliceKey]
    full: Counter[str]
    weights: dict[str, Counter[int]]


class GlobalServices:
    """The global services of one node. For one thread."""

    def __init__(
        self,
        compiler: ServiceCompiler,
        *,
        own: str,
        node: str,
        everything: bool = True,
        endpoint: Callable[[str], Endpoint | None] = lambda _: None,
    ) -> None:
        """`everything` says that services that are not global are served too; `endpoint` finds a pod by address."""
        self.stage = Stage(compiler, judge=self, everything=everything)
        self.declarations = Declarations()
        self.neighbours = Neighbours(own=own, node=node, endpoint=endpoint)
        self._compiler = compiler
        self.own = own
        self._used: set[ServiceKey] = set()
        self._contested: set[ServiceKey] = set()
        self._members: dict[ServiceKey, _Members] = {}
        self._slices: dict[SliceKey, SharedSlice] = {}
        self._complete: set[str] = set()
        self._owners = Owners()
        self._drained: dict[str, int] = {}
        self._stale: frozenset[str] = frozenset()
        self._left_out: dict[SliceKey, tuple[tuple[str, str], ...]] = {}
        self._news: list[LeftOut] = []
        self._touched: set[ServiceKey] = set()
        self._due_services: set[ServiceKey] = set()
        self._due_slices: set[SliceKey] = set()  # to be made anew from what was told
        self._due_flags: set[SliceKey] = set()  # of which only the flags may differ
        self._later_services: set[ServiceKey] = set()  # the same, for `go_on`
        self._later_slices: set[SliceKey] = set()
        self._later_flags: set[SliceKey] = set()
        self.backends: Counter[str] = Counter()
        """Backends of other clusters that are in the dataplane, by cluster."""
        self.unreachable: Counter[str] = Counter()
        """Those of them that are not reachable."""

    # -- what is asked -----------------------------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """Returns what has not been told yet, for people."""
        return [] if self.declarations.known else ["namespaces"]

    @property
    def stale(self) -> frozenset[str]:
        """Returns the clusters that have not been heard of for too long."""
        return self._stale

    @property
    def drained(self) -> Mapping[str, int]:
        """Returns what is left of the clusters that are drained, in per cent."""
        return self._drained

    def left_out(self) -> Counter[str]:
        """Returns how many backends are left out, by cluster."""
        found: Counter[str] = Counter()
        for key, reasons in self._left_out.items():
            found[key[0]] += len(reasons)
        return found

    def shared_by(self) -> Counter[str]:
        """Returns how many services each other cluster shares."""
        return Counter(cluster for cluster, _ in {(s.cluster, s.service_key) for s in self._slices.values()})

    def take_left_out(self) -> list[LeftOut]:
        """Returns of which slices other backends are left out than the last time."""
        news, self._news = self._news, []
        return news

    def take_touched(self) -> set[ServiceKey]:
        """Returns the services that have other slices of other clusters than the last time."""
        touched, self._touched = self._touched, set()
        return touched

    # -- what is told ------------------------------------------------------------------------------------------

    def services(self, change: Change[ServiceObject]) -> None:
        """Takes in what Services say about other clusters; to be called before the services themselves are put."""
        self._due_services |= self.declarations.services(change)
        self._settle()

    def namespaces(self, change: Change[Bare]) -> None:
        """Takes in what namespaces say about other clusters."""
        self._due_services |= self.declarations.namespaces(change)
        self._settle()

    def mesh(self, events: Sequence[MeshEvent]) -> None:
        """Takes in a batch of mesh events."""
        owners_changed = False
        for event in events:
            match event:
                case SliceTold(shared):
                    self._put_slice(shared)
                case SliceGone(cluster, (namespace, name)):
                    self._drop_slice((cluster, namespace, name))
                case EndpointTold(endpoint):
                    self._pod_moved(endpoint.ip)
                case EndpointGone(_, ip):
                    self._pod_moved(ip)
                case NodeTold(node):
                    self._due_flags |= self.neighbours.put_node(node)
                    owners_changed |= self._owners.put(node)
                case NodeGone(cluster, name):
                    self._due_flags |= self.neighbours.drop_node(cluster, name)
                    owners_changed |= self._owners.drop(cluster, name)
                case ClusterSynced(name) if name not in self._complete:
                    self._complete.add(name)
                    for key in [key for key in self._slices if key[0] == name]:
                        self._count(key, self._slices[key], 1)
                case ClusterLeft(name):
                    self._leave(name)
                    owners_changed = True
        if owners_changed:
            self._later_slices |= self._slices.keys()
            self.go_on()
        self._settle()

    def drain(self, left: Mapping[str, int]) -> None:
        """Says how much is left of the clusters that are drained, in per cent; of others, all."""
        if left != self._drained:
            self._drained = dict(left)
            self._later_services |= self._used
            self.go_on()

    def set_stale(self, clusters: frozenset[str]) -> None:
        """Says which clusters have not been heard of for too long."""
        changed = self._stale ^ clusters
        if changed:
            self._stale = clusters
            self._later_flags |= {key for key in self.neighbours.slices() if len(key) == 3 and key[0] in changed}
            self.go_on()

    def turned(self, *changes: tuple[Place, Health]) -> None:
        """Says which nodes answer, or do not any more; together, since one slice may have backends on all of them."""
        for place, health in changes:
            self._later_flags |= self.neighbours.turned(place, health)
        self.go_on()

    @property
    def unfinished(self) -> bool:
        """Tells whether `go_on` has something to do."""
        return bool(self._later_services or self._later_slices or self._later_flags)

    def go_on(self) -> None:
        """Does a part of what a drain, an outage or a node left to do."""
        room = PART
        while self._later_flags and room > 0:  # who is not reached is urgent
            self._due_flags.add(self._later_flags.pop())
            room -= 1
        while self._later_services and room > 0:
            self._due_services.add(self._later_services.pop())
            room -= 1
        while self._later_slices and room > 0:
            self._due_slices.add(self._later_slices.pop())
            room -= 1
        self._settle()

    # -- for the stage -----------------------------------------------------------------------------------------

    def declared(self, key: ServiceKey) -> bool:
        """Tells whether a service asks to be global, its namespace apart."""
        return self.declarations.asks(key)

    def used(self, key: ServiceKey) -> bool:
        """Tells whether a service is global here, and has an address."""
        return key in self._used

    def flagged(self, slice_: Slice) -> Slice:
        """Returns a slice with what is known of its backends' nodes and cluster."""
        if slice_.service in self._contested:
            self._due_flags |= self.neighbours.put_slice(slice_) - {slice_.key}
            wrong = [entry for entry in slice_.backends if entry[1].reachable is not self._reaches(entry[1])]
        else:
            wrong = [entry for entry in slice_.backends if not entry[1].reachable]
        if not wrong:
            return slice_
        turned = ((port, msgspec.structs.replace(b, reachable=not b.reachable)) for port, b in wrong)
        return Slice(slice_.key, slice_.service, slice_.backends.difference(wrong).union(turned))

    def own_changed(self, before: Slice | None, after: Slice | None) -> None:
        """Hears of each change of an own slice once it is made; None for one that was not there, or is gone."""
        if before is not None and after is None:
            self._due_flags |= self.neighbours.drop_slice(before.key)
        for slice_ in (before, after):
            if slice_ is not None and slice_.service in self._used:
                self._due_services.add(slice_.service)
        self._settle()

    # -- other clusters' slices --------------------------------------------------------------------------------

    def _put_slice(self, shared: SharedSlice) -> None:
        if shared.cluster == self.own:
            return  # the own API server says it first, and more of it
        key = (shared.cluster, shared.namespace, shared.name)
        before = self._slices.get(key)
        if before == shared:
            return
        self._slices[key] = shared
        if shared.cluster in self._complete:
            if before is not None:
                self._count(key, before, -1)
            self._count(key, shared, 1)

    def _drop_slice(self, key: SliceKey) -> None:
        before = self._slices.pop(key, None)
        if before is not None and before.cluster in self._complete:
            self._count(key, before, -1)

    def _count(self, key: SliceKey, shared: SharedSlice, step: int) -> None:
        """Takes a slice into its service, or out of it."""
        service, cluster = shared.service_key, shared.cluster
        members = self._members.setdefault(service, _Members(set(), Counter(), {}))
        (members.slices.add if step > 0 else members.slices.discard)(key)
        members.full[cluster] += step * bool(shared.endpoints and shared.ports)
        weights = members.weights.setdefault(cluster, Counter())
        weights[shared.weight] += step
        if not weights[shared.weight]:
            del weights[shared.weight]
            if not weights:
                del members.weights[cluster]
        self._due_services.add(service)
        self._due_slices.add(key)

    def _leave(self, cluster: str) -> None:
        for key in [key for key in self._slices if key[0] == cluster]:
            self._drop_slice(key)
        for name in self.neighbours.nodes_of(cluster):
            self._due_flags |= self.neighbours.drop_node(cluster, name)
            self._owners.drop(cluster, name)
        self._complete.discard(cluster)

    def _pod_moved(self, ip: str) -> None:
        for key in self.neighbours.pod_moved(ip):
            self._due_flags.add(key)

    def _has_own(self, key: ServiceKey) -> bool:
        own = map(self.stage.slice, self.stage.slices_of(key))
        return any(slice_ is not None and slice_.backends for slice_ in own)

    # -- what follows ------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Brings the compiler up to date with all that is due."""
        while self._due_services:
            self._settle_service(self._due_services.pop())
        while self._due_slices:
            self._settle_slice(self._due_slices.pop())
        while self._due_flags:
            self._flag(self._due_flags.pop())

    def _settle_service(self, key: ServiceKey) -> None:
        settings = self.declarations.settings(key)
        used = settings is not None
        members = self._members.get(key)
        slices = members.slices if members is not None else set()
        was_contested = key in self._contested
        others = sum(1 for count in members.full.values() if count > 0) if members is not None else 0
        contested = used and others + (others == 1 and self._has_own(key)) > 1
        (self._contested.add if contested else self._contested.discard)(key)
        if used is not (key in self._used):
            self._due_slices |= slices
            if used:
                self._used.add(key)
                self.stage.admit(key)
            else:
                self._used.discard(key)
                self.stage.withdraw(key)
                self._compiler.set_choice(key, None)
        if settings is not None:
            told = {cluster: max(weights) for cluster, weights in members.weights.items()} if members else {}
            made = choice(settings, own=self.own, told=told, drained=self._drained)
            self._compiler.set_choice(key, made)
        if contested is not was_contested:
            concerned = {*slices, *self.stage.slices_of(key)}
            self._due_flags |= concerned
            if not contested:
                for slice_ in concerned:
                    self._due_flags |= self.neighbours.drop_slice(slice_)
        if members is not None and not slices:
            del self._members[key]

    def _settle_slice(self, key: SliceKey) -> None:
        """Makes a slice of another cluster what it should be in the compiler."""
        shared = self._slices.get(key)
        held = self._compiler.slices.get(key)
        for of in (shared.service_key if shared else None, held.service if held else None):
            if of is not None:
                self._touched.add(of)
        if shared is None or shared.cluster not in self._complete or shared.service_key not in self._used:
            self._left_out.pop(key, None)
            self._recount(key, None)
            self._due_flags |= self.neighbours.drop_slice(key)
            self._compiler.drop_slice(key)
            return
        if held is not None and held.service != shared.service_key:
            self._due_flags |= self.neighbours.drop_slice(key)
        made = self.flagged(Slice(key, shared.service_key, self._admissible(key, shared)))
        self._recount(key, made)
        self._compiler.put_slice(made)

    def _admissible(self, key: SliceKey, shared: SharedSlice) -> frozenset[tuple[PortKey, Backend]]:
        """Returns the backends of a slice whose addresses its cluster may name; notes the others."""
        reasons: dict[str, str] = {}
        for address in {endpoint.address for endpoint in shared.endpoints}:
            if usable_address(address) != address or family_of(address) != shared.version:
                reasons[address] = "not an address that a backend can have"
            elif (owner := self._owners.other(address, cluster=shared.cluster)) is not None:
                reasons[address] = f"belongs to cluster {owner}"
        said = tuple(sorted(reasons.items()))
        if said != self._left_out.get(key, ()):
            self._news.append(LeftOut(key, said))
            self._left_out[key] = said
            if not said:
                del self._left_out[key]
        backends = shared.backends()
        return frozenset(b for b in backends if b[1].target.address not in reasons) if reasons else backends

    def _flag(self, key: SliceKey) -> None:
        if len(key) == 2:
            self.stage.refresh((key,))
            return
        held = self._compiler.slices.get(key)
        if held is not None:
            made = self.flagged(held)
            self._recount(key, made)
            self._compiler.put_slice(made)

    def _reaches(self, backend: Backend) -> bool:
        return backend.cluster not in self._stale and self.neighbours.reaches(backend)

    def _recount(self, key: SliceKey, made: Slice | None) -> None:
        """Counts a slice in place of the one that the compiler holds."""
        cluster = key[0]
        for slice_, step in ((self._compiler.slices.get(key), -1), (made, 1)):
            if slice_ is not None:
                self.backends[cluster] += step * len(slice_.backends)
                self.unreachable[cluster] += step * sum(1 for _, b in slice_.backends if not b.reachable)
