"""What policies refer to besides pods: CIDR groups, Services, and the addresses of the own API server. Pure.

Keeps no more than a reading of a policy needs, and tells which objects changed in a way that one could mind: the
backends of a Service with a selector are its pods, which policy knows by their labels already. Invariant: `groups` and
`services` are the mappings that the policies' Context holds, so a reading always sees what was told last. Rejected:
resolving when rules are compiled, where one Service that changes would touch every policy to find out that none names
it.
"""

from collections.abc import Iterable
from typing import TypeVar

from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.schema import EndpointOfSlice, EndpointSlice, Service
from isthmus.mesh.source.objects import canonical_ip
from isthmus.mesh.source.slices import SERVICE_NAME
from isthmus.policy.cilium.groups import cidr_group
from isthmus.policy.context import CidrGroup, ServiceFacts

API_SERVER = ("default", "kubernetes")
"""Where every API server tells its own addresses (kube-apiserver keeps this Service and its EndpointSlices)."""

ServiceName = tuple[str, str]
T = TypeVar("T")


class References:
    """CIDR groups and Services by name."""

    def __init__(self) -> None:
        self.groups: dict[str, CidrGroup] = {}
        self.services: dict[ServiceName, ServiceFacts] = {}
        self.slices_known = False
        self.services_known = False
        self._slices: dict[tuple[str, str], tuple[ServiceName, tuple[str, ...]]] = {}
        self._slices_of: dict[ServiceName, set[tuple[str, str]]] = {}

    def on_groups(self, change: Change[dict[str, object]]) -> set[str]:
        """Takes in a change of CiliumCIDRGroups; returns the names of those that a policy could mind."""
        put, gone = _difference(change)
        found = {group.name: group for group in map(cidr_group, put) if group is not None}
        if gone is None:
            lost = self.groups.keys() - found.keys()
        else:
            lost = {group.name for group in map(cidr_group, gone) if group is not None} & self.groups.keys()
        changed = lost | {name for name, group in found.items() if self.groups.get(name) != group}
        for name in lost:
            del self.groups[name]
        self.groups.update(found)
        return changed

    def on_services(self, change: Change[Service]) -> set[str]:
        """Takes in a change of Services; returns the names (in any namespace) of those that a policy could mind."""
        put, gone = _difference(change)
        found = {(obj.metadata.namespace, obj.metadata.name): self._facts(obj) for obj in put}
        if gone is None:
            self.services_known = True
            lost = self.services.keys() - found.keys()
        else:
            lost = {(obj.metadata.namespace, obj.metadata.name) for obj in gone} & self.services.keys()
        changed = lost | {name for name, facts in found.items() if self.services.get(name) != facts}
        for name in lost:
            del self.services[name]
        self.services.update(found)
        return {name for _, name in changed}

    def on_slices(self, change: Change[EndpointSlice]) -> set[str]:
        """Takes in a change of EndpointSlices; returns the names of the Services that a policy could mind."""
        put, gone = _difference(change)
        keys = {(obj.metadata.namespace, obj.metadata.name) for obj in put}
        if gone is None:
            self.slices_known = True
            lost = self._slices.keys() - keys
        else:
            lost = {(obj.metadata.namespace, obj.metadata.name) for obj in gone} & self._slices.keys()
        touched = {self._drop_slice(key) for key in (*lost, *(keys & self._slices.keys()))}
        for obj in put:
            key, service = (obj.metadata.namespace, obj.metadata.name), _service_of(obj)
            self._slices[key] = service, addresses(obj)
            self._slices_of.setdefault(service, set()).add(key)
            touched.add(service)
        changed: set[str] = set()
        for key in touched & self.services.keys():
            before = self.services[key]
            now = self._with_backends(before)
            if now != before:
                self.services[key] = now
                changed.add(key[1])
        return changed

    def _drop_slice(self, key: tuple[str, str]) -> ServiceName:
        service, _ = self._slices.pop(key)
        of = self._slices_of[service]
        of.discard(key)
        if not of:
            del self._slices_of[service]
        return service

    def _facts(self, obj: Service) -> ServiceFacts:
        selector = dict(obj.spec.selector) or None
        meta = obj.metadata
        return self._with_backends(ServiceFacts(meta.namespace, meta.name, dict(meta.labels), selector))

    def _with_backends(self, facts: ServiceFacts) -> ServiceFacts:
        """Returns the facts with the addresses behind a Service without a selector."""
        if facts.selector is not None:
            return facts
        keys = self._slices_of.get((facts.namespace, facts.name), ())
        found = tuple(sorted({ip for key in keys for ip in self._slices[key][1]}))
        return ServiceFacts(facts.namespace, facts.name, facts.labels, None, found)


class ApiServers:
    """The addresses of the own API server, as its EndpointSlices have them."""

    def __init__(self) -> None:
        self._slices: dict[str, tuple[str, ...]] = {}

    @property
    def addresses(self) -> frozenset[str]:
        """Returns the canonical addresses."""
        return frozenset(ip for found in self._slices.values() for ip in found)

    def take(self, change: Change[EndpointSlice]) -> None:
        """Takes in a change of EndpointSlices, of which others than the API server's do not matter."""
        put, gone = _difference(change)
        if gone is None:
            self._slices.clear()
        # Slices of other namespaces are whoever's may write there, and may have the same names.
        for obj in (*(gone or ()), *put):
            if obj.metadata.namespace == API_SERVER[0]:
                self._slices.pop(obj.metadata.name, None)
        for obj in put:
            if _service_of(obj) == API_SERVER:
                # Also those that are not ready: to whom else would the address belong?
                self._slices[obj.metadata.name] = _canonical(obj.endpoints or ())


def addresses(obj: EndpointSlice) -> tuple[str, ...]:
    """Returns the canonical addresses of those endpoints of a slice that connections are sent to."""
    return _canonical(endpoint for endpoint in obj.endpoints or () if _in_use(endpoint))


def _in_use(endpoint: EndpointOfSlice) -> bool:
    conditions = endpoint.conditions
    return conditions.ready is not False or bool(conditions.serving and conditions.terminating)


def _canonical(endpoints: Iterable[EndpointOfSlice]) -> tuple[str, ...]:
    found = (canonical_ip(ip) for endpoint in endpoints for ip in endpoint.addresses[:1])
    return tuple(dict.fromkeys(ip for ip in found if ip is not None))


def _service_of(obj: EndpointSlice) -> ServiceName:
    return obj.metadata.namespace, obj.metadata.labels.get(SERVICE_NAME, "")


def _difference(change: Change[T]) -> tuple[tuple[T, ...], tuple[T, ...] | None]:
    """Returns what is there, and what is gone: None for all else."""
    match change:
        case Put(obj):
            return (obj,), ()
        case Gone(obj):
            return (), (obj,)
        case Snapshot(objects):
            return objects, None
