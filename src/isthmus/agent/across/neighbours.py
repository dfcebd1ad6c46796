"""Which nodes hold backends of services that two clusters answer for, at what address each is probed, and who is down.

Keeps two directions of one relation: a slice's places, and a place's slices, so that a node that stops answering leads
to the slices it is in and to no others. Invariants: the node this runs on is never among them; a place without a known
address is nobody's target and counts as reachable; a cluster is down when all its targets are, and then so are its
backends whose node nobody told. Pure.
"""

from collections.abc import Callable, Iterable, Mapping

from isthmus.agent.across.liveness import Health, Place
from isthmus.mesh.source.objects import canonical_ip
from isthmus.model.endpoint import Endpoint, Node, family_of
from isthmus.model.service import Backend, Slice, SliceKey

NOWHERE = ""
"""The name of a node that is not known."""


class Neighbours:
    """The nodes of all clusters as far as they matter to services of several clusters. For one thread."""

    def __init__(self, *, own: str, node: str, endpoint: Callable[[str], Endpoint | None]) -> None:
        """`endpoint` finds a pod by its address: for backends of which nobody told the node."""
        self._own = own
        self._node = node
        self._endpoint = endpoint
        self._addresses: dict[tuple[str, str], tuple[str, ...]] = {}
        self._slices: dict[Place, set[SliceKey]] = {}
        self._places: dict[SliceKey, frozenset[Place]] = {}
        self._nameless: dict[str, set[SliceKey]] = {}  # by the addresses of backends without a node
        self._without: dict[SliceKey, frozenset[str]] = {}  # the same, the other way round
        self._targets: dict[str, dict[Place, str]] = {}  # by cluster
        self._down: dict[str, set[Place]] = {}
        self._changed = False

    # -- what is asked -----------------------------------------------------------------------------------------

    def take_targets(self) -> Mapping[Place, str] | None:
        """Returns what to probe and at which address; None if that has not changed since the last time."""
        if not self._changed:
            return None
        self._changed = False
        return {place: address for targets in self._targets.values() for place, address in targets.items()}

    def watched(self, cluster: str) -> Iterable[Place]:
        """Returns the targets in a cluster."""
        return self._targets.get(cluster, {})

    def down(self, cluster: str) -> frozenset[Place]:
        """Returns the targets in a cluster that do not answer any more."""
        return frozenset(self._down.get(cluster, ()))

    def is_down(self, place: Place) -> bool:
        """Tells whether a target does not answer any more."""
        return place in self._down.get(place.cluster, ())

    def cluster_down(self, cluster: str) -> bool:
        """Tells whether another cluster has targets, and none of them answers any more."""
        targets = self._targets.get(cluster, {})
        return cluster != self._own and bool(targets) and len(self._down.get(cluster, ())) == len(targets)

    def reaches(self, backend: Backend) -> bool:
        """Tells whether a backend's node is not known to be down."""
        down = self._down.get(backend.cluster)
        if not down:
            return True
        place = self._place(backend)
        return place not in down if place.node else not self.cluster_down(backend.cluster)

    def slices(self) -> Iterable[SliceKey]:
        """Returns the slices that are kept here."""
        return self._places.keys()

    @property
    def nodes(self) -> int:
        """Returns how many nodes all clusters have together."""
        return len(self._addresses)

    # -- what is told; each returns the slices that must be looked at again ------------------------------------

    def put_node(self, node: Node) -> set[SliceKey]:
        """A node exists, or has other addresses."""
        key = (node.cluster, node.name)
        if self._addresses.get(key) == node.addresses:
            return set()
        self._addresses[key] = node.addresses
        return self._retarget(key)

    def drop_node(self, cluster: str, name: str) -> set[SliceKey]:
        """A node is gone."""
        if self._addresses.pop((cluster, name), None) is None:
            return set()
        return self._retarget((cluster, name))

    def nodes_of(self, cluster: str) -> list[str]:
        """Returns the names of a cluster's nodes."""
        return [name for member, name in self._addresses if member == cluster]

    def put_slice(self, slice_: Slice) -> set[SliceKey]:
        """A slice's backends matter from now on, or are others."""
        places = {self._place(backend) for _, backend in slice_.backends}
        self._name(slice_.key, frozenset(b.target.address for _, b in slice_.backends if not b.node))
        places.discard(Place(self._own, self._node, 4))
        places.discard(Place(self._own, self._node, 6))
        return self._relate(slice_.key, frozenset(places))

    def drop_slice(self, key: SliceKey) -> set[SliceKey]:
        """A slice's backends do not matter any more."""
        self._name(key, frozenset())
        return self._relate(key, frozenset())

    def pod_moved(self, ip: str) -> frozenset[SliceKey]:
        """Returns the slices of which a backend's node may be known, or another, now that more is known of its pod."""
        return frozenset(self._nameless.get(ip, ()))

    def turned(self, place: Place, health: Health) -> set[SliceKey]:
        """A target answers or does not."""
        down = self._down.get(place.cluster, set())
        if place not in self._targets.get(place.cluster, {}) or (health is Health.UNREACHABLE) == (place in down):
            return set()
        all_down = self.cluster_down(place.cluster)
        if health is Health.UNREACHABLE:
            self._down.setdefault(place.cluster, set()).add(place)
        else:
            down.discard(place)
        return set(self._slices.get(place, ())) | self._nowhere(place.cluster, before=all_down)

    # -- inside ------------------------------------------------------------------------------------------------

    def _place(self, backend: Backend) -> Place:
        version = family_of(backend.target.address)
        if backend.node:
            return Place(backend.cluster, backend.node, version)
        pod = self._endpoint(backend.target.address)
        name = (pod.node or pod.host_ip) if pod is not None and pod.cluster == backend.cluster else NOWHERE
        return Place(backend.cluster, name, version)

    def _relate(self, key: SliceKey, places: frozenset[Place]) -> set[SliceKey]:
        before = self._places.pop(key, frozenset())
        if places:
            self._places[key] = places
        again: set[SliceKey] = set()
        for place in before - places:
            keys = self._slices[place]
            keys.discard(key)
            if not keys:
                del self._slices[place]
                again |= self._aim(place)
        for place in places - before:
            self._slices.setdefault(place, set()).add(key)
            again |= self._aim(place)
        return again

    def _retarget(self, key: tuple[str, str]) -> set[SliceKey]:
        return set().union(*(self._aim(Place(*key, version)) for version in (4, 6)))

    def _aim(self, place: Place) -> set[SliceKey]:
        """Makes a place a target, or none, as it should be."""
        address = self._address(place) if place in self._slices else ""
        targets = self._targets.setdefault(place.cluster, {})
        if targets.get(place, "") == address:
            if not targets:
                del self._targets[place.cluster]
            return set()
        self._changed = True
        all_down = self.cluster_down(place.cluster)
        again: set[SliceKey] = set()
        if place in self._down.get(place.cluster, ()):  # what is said of the next address is not known yet
            self._down[place.cluster].discard(place)
            again |= self._slices.get(place, set())
        if address:
            targets[place] = address
        else:
            del targets[place]
        again |= self._nowhere(place.cluster, before=all_down)
        if not self._targets[place.cluster]:
            del self._targets[place.cluster]
            self._down.pop(place.cluster, None)
        return again

    def _nowhere(self, cluster: str, *, before: bool) -> set[SliceKey]:
        """Returns the slices with backends on nodes that nobody told, if what is said of their cluster changed."""
        if self.cluster_down(cluster) is before:
            return set()
        return set().union(*(self._slices.get(Place(cluster, NOWHERE, version), set()) for version in (4, 6)))

    def _address(self, place: Place) -> str:
        known = self._addresses.get((place.cluster, place.node), ())
        same = [address for address in known if family_of(address) == place.version]
        if same or known:
            return (same or known)[0]
        return canonical_ip(place.node) or "" if place.node else ""

    def _name(self, key: SliceKey, nameless: frozenset[str]) -> None:
        before = self._without.pop(key, frozenset())
        if nameless:
            self._without[key] = nameless
        for address in before - nameless:
            self._nameless[address].discard(key)
            if not self._nameless[address]:
                del self._nameless[address]
        for address in nameless - before:
            self._nameless.setdefault(address, set()).add(key)
