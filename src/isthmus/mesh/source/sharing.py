"""One cluster's Services, EndpointSlices and ServiceExports -> what it tells the others of them. Pure.

Invariants: what is told follows from the objects as they are now and not from their order; a Service is told while it
is global, its slices while it is shared as well, an export while there is a Service for it; a slice that somebody
mirrored in from another cluster is never told on, or two clusters would feed each other backends for ever; of a
namespace that is not known yet nothing is told, because it may say that nothing of it leaves the cluster. Rejected:
telling the slices of all Services and leaving the choice to the readers, which is most of a cluster for nothing.
"""

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

import msgspec

from isthmus.kube.schema import EndpointSlice, Namespace
from isthmus.kube.schema import Service as ServiceObject
from isthmus.kube.watch import Change, Gone, Put, Snapshot
from isthmus.mesh.mcs.api import ServiceExport
from isthmus.mesh.source.objects import Problem, clean_labels
from isthmus.mesh.source.reports import Report, Reports
from isthmus.mesh.source.slices import is_mirrored, slice_of, usable_address
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.mesh import ExportGone, ExportTold, MeshEvent, ServiceGone, ServiceTold, SliceGone, SliceTold
from isthmus.model.service import ServiceKey
from isthmus.model.sharing import FULL_WEIGHT, ServicePort, SharedExport, SharedService, SharedSlice
from isthmus.services.settings import namespace_is_global, settings

SERVICE, SLICE, EXPORT = "Service", "EndpointSlice", "ServiceExport"
SliceKey = tuple[str, str]
_K = TypeVar("_K")
DEFAULT_AFFINITY = 10800
MAX_PORTS = 1000
MAX_ADDRESSES = 100


class _Facts(msgspec.Struct, frozen=True, gc=False):
    """What counts of a Service: itself, as it is told when it is global, and what its export needs."""

    service: SharedService
    annotations: dict[str, str]
    created: str
    session_affinity: str
    affinity_seconds: int
    ip_families: tuple[str, ...]
    internal_traffic_policy: str
    traffic_distribution: str


class _Offer(msgspec.Struct, frozen=True, gc=False):
    """What counts of a ServiceExport."""

    created: str
    labels: dict[str, str]
    annotations: dict[str, str]


class Sharing:
    """Holds what `cluster` has and what was told of it. Each method returns the events to tell."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._reports = Reports()
        self._namespaces: dict[str, bool] = {}
        self._services: dict[ServiceKey, _Facts] = {}
        self._services_in: dict[str, set[ServiceKey]] = {}
        self._slices: dict[SliceKey, SharedSlice] = {}
        self._slices_of: dict[ServiceKey, set[SliceKey]] = {}
        self._offers: dict[ServiceKey, _Offer] = {}
        self._told_services: dict[ServiceKey, SharedService] = {}
        self._told_slices: dict[SliceKey, SharedSlice] = {}
        self._told_exports: dict[ServiceKey, SharedExport] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Returns how much of each kind is told."""
        return {
            "services": len(self._told_services),
            "slices": len(self._told_slices),
            "exports": len(self._told_exports),
        }

    def reports(self) -> list[Report]:
        """Returns the problems that were found since the last call."""
        return self._reports.take()

    # -- objects -----------------------------------------------------------------------------------------------

    def namespaces(self, change: Change[Namespace]) -> list[MeshEvent]:
        """Takes a change of the cluster's namespaces."""
        before = dict(self._namespaces)
        match change:
            case Put(namespace):
                self._put_namespace(namespace)
            case Gone(namespace):
                self._namespaces.pop(namespace.metadata.name, None)
                self._reports.forget("Namespace", "", namespace.metadata.name)
            case Snapshot(namespaces):
                self._namespaces = {}
                self._reports.retain("Namespace", {("", namespace.metadata.name) for namespace in namespaces})
                for namespace in namespaces:
                    self._put_namespace(namespace)
        changed = {n for n in {*before, *self._namespaces} if before.get(n) != self._namespaces.get(n)}
        return self._agree({key for name in changed for key in self._services_in.get(name, ())})

    def services(self, change: Change[ServiceObject]) -> list[MeshEvent]:
        """Takes a change of the cluster's Services."""
        match change:
            case Put(obj):
                keys = self._put_service(obj)
            case Gone(obj):
                keys = self._drop_service(_place(obj))
            case Snapshot(objects):
                return self.retain_services(objects) + self.put_services(objects)
        return self._agree(keys)

    def retain_services(self, objects: Sequence[ServiceObject]) -> list[MeshEvent]:
        """Drops the Services that are not among `objects`: the first half of taking a snapshot."""
        present = {_place(obj) for obj in objects}
        gone = [key for key in self._services if key not in present]
        for key in gone:
            self._drop_service(key)
        self._reports.retain(SERVICE, present)
        return self._agree(gone)

    def put_services(self, objects: Sequence[ServiceObject]) -> list[MeshEvent]:
        """Takes Services in: the second half of taking a snapshot, which may be done in pieces."""
        return self._agree({key for obj in objects for key in self._put_service(obj)})

    def slices(self, change: Change[EndpointSlice]) -> list[MeshEvent]:
        """Takes a change of the cluster's EndpointSlices."""
        match change:
            case Put(obj):
                return self._agree_slices([_place(obj)] if self._put_slice(obj) else [])
            case Gone(obj):
                self._reports.forget(SLICE, *_place(obj))
                self._drop_slice(_place(obj))
                return self._agree_slices([_place(obj)])
            case Snapshot(objects):
                return self.retain_slices(objects) + self.put_slices(objects)

    def retain_slices(self, objects: Sequence[EndpointSlice]) -> list[MeshEvent]:
        """Drops the slices that are not among `objects`: the first half of taking a snapshot."""
        present = {_place(obj) for obj in objects}
        gone = [key for key in self._slices if key not in present]
        for key in gone:
            self._drop_slice(key)
        self._reports.retain(SLICE, present)
        return self._agree_slices(gone)

    def put_slices(self, objects: Sequence[EndpointSlice]) -> list[MeshEvent]:
        """Takes slices in: the second half of taking a snapshot, which may be done in pieces."""
        return self._agree_slices([_place(obj) for obj in objects if self._put_slice(obj)])

    def exports(self, change: Change[ServiceExport]) -> list[MeshEvent]:
        """Takes a change of the cluster's ServiceExports."""
        match change:
            case Put(obj):
                self._put_export(obj)
                keys: Collection[ServiceKey] = [_place(obj)]
            case Gone(obj):
                self._offers.pop(_place(obj), None)
                self._reports.forget(EXPORT, *_place(obj))
                keys = [_place(obj)]
            case Snapshot(objects):
                keys = {*self._offers, *map(_place, objects)}
                self._offers.clear()
                self._reports.retain(EXPORT, {_place(obj) for obj in objects})
                for obj in objects:
                    self._put_export(obj)
        return self._agree(keys)

    # -- what is known -----------------------------------------------------------------------------------------

    def _put_namespace(self, namespace: Namespace) -> None:
        name = namespace.metadata.name
        self._namespaces[name], problems = namespace_is_global(namespace.metadata.annotations)
        said = [(problem.field, "", problem.message) for problem in problems]
        self._reports.tell("Namespace", "", name, said)

    def _put_service(self, obj: ServiceObject) -> set[ServiceKey]:
        key = _place(obj)
        if obj.spec.type == "ExternalName":
            # It has no backends, only another name for them.
            self._reports.forget(SERVICE, *key)
            return self._drop_service(key)
        problems: list[Problem] = []
        facts = _facts(obj, cluster=self._cluster, problems=problems)
        found = settings(facts.annotations, headless=facts.service.headless).problems
        problems += [(problem.field, "", problem.message) for problem in found]
        self._reports.tell(SERVICE, *key, problems)
        if facts == self._services.get(key):
            return set()
        self._services[key] = facts
        self._services_in.setdefault(key[0], set()).add(key)
        return {key}

    def _drop_service(self, key: ServiceKey) -> set[ServiceKey]:
        if self._services.pop(key, None) is None:
            return set()
        _discard(self._services_in, key[0], key)
        self._reports.forget(SERVICE, *key)
        return {key}

    def _put_slice(self, obj: EndpointSlice) -> bool:
        """Takes a slice in; returns whether that is news."""
        key = _place(obj)
        mirrored = is_mirrored(obj, cluster=self._cluster)
        found, problems = (None, []) if mirrored else slice_of(obj, cluster=self._cluster)
        self._reports.tell(SLICE, *key, [(problem.field, "", problem.message) for problem in problems])
        if found == self._slices.get(key):
            return False
        self._drop_slice(key)
        if found is not None:
            self._slices[key] = found
            self._slices_of.setdefault(found.service_key, set()).add(key)
        return True

    def _drop_slice(self, key: SliceKey) -> None:
        known = self._slices.pop(key, None)
        if known is not None:
            _discard(self._slices_of, known.service_key, key)

    def _put_export(self, obj: ServiceExport) -> None:
        problems: list[Problem] = []
        self._offers[_place(obj)] = _Offer(
            obj.metadata.creationTimestamp,
            clean_labels(obj.spec.exportedLabels, problems),
            obj.spec.exportedAnnotations,
        )
        said = [(key.replace("metadata.labels", "spec.exportedLabels"), value, why) for key, value, why in problems]
        self._reports.tell(EXPORT, *_place(obj), said)

    # -- what is told ------------------------------------------------------------------------------------------

    def _agree(self, keys: Iterable[ServiceKey]) -> list[MeshEvent]:
        """Makes what was told of these Services, their slices and their exports agree with what is now."""
        events: list[MeshEvent] = []
        for key in sorted(keys):
            shared = self._shared(key)
            before = self._told_services.get(key)
            if shared is None:
                self._told_services.pop(key, None)
            elif shared != before:
                self._told_services[key] = shared
                events.append(ServiceTold(shared))
            if _gift(shared) != _gift(before):
                events += self._agree_slices(sorted(self._slices_of.get(key, ())))
            if shared is None and before is not None:
                events.append(ServiceGone(self._cluster, key))
            self._agree_export(key, events)
        return events

    def _agree_slices(self, keys: Iterable[SliceKey]) -> list[MeshEvent]:
        events: list[MeshEvent] = []
        for key in keys:
            found, before = self._slices.get(key), self._told_slices.get(key)
            service = self._told_services.get(found.service_key) if found is not None else None
            if found is None or service is None or not service.shared:
                if before is not None:
                    del self._told_slices[key]
                    events.append(SliceGone(self._cluster, key))
                continue
            if service.weight != found.weight:
                found = msgspec.structs.replace(found, weight=service.weight)
            if found != before:
                self._told_slices[key] = found
                events.append(SliceTold(found))
        return events

    def _shared(self, key: ServiceKey) -> SharedService | None:
        """Returns a Service as it is to be told; None if it is not global, or there is none."""
        facts = self._services.get(key)
        namespace_global = self._namespaces.get(key[0])
        if facts is None or not namespace_global:
            return None
        found = settings(facts.annotations, headless=facts.service.headless)
        if not found.is_global:
            return None
        return msgspec.structs.replace(
            facts.service, shared=found.shared, weight=found.weight, problems=tuple(map(str, found.problems))
        )

    def _agree_export(self, key: ServiceKey, events: list[MeshEvent]) -> None:
        facts, offer = self._services.get(key), self._offers.get(key)
        if facts is None or offer is None or not self._namespaces.get(key[0]):
            if self._told_exports.pop(key, None) is not None:
                events.append(ExportGone(self._cluster, key))
            return
        export = SharedExport(
            cluster=self._cluster,
            namespace=key[0],
            name=key[1],
            created=offer.created,
            type="Headless" if facts.service.headless else "ClusterSetIP",
            ports=facts.service.ports,
            session_affinity=facts.session_affinity,
            affinity_seconds=facts.affinity_seconds,
            ip_families=facts.ip_families,
            internal_traffic_policy=facts.internal_traffic_policy,
            traffic_distribution=facts.traffic_distribution,
            labels=offer.labels,
            annotations=offer.annotations,
        )
        if self._told_exports.get(key) != export:
            self._told_exports[key] = export
            events.append(ExportTold(export))


def _facts(obj: ServiceObject, *, cluster: str, problems: list[Problem]) -> _Facts:
    spec, meta = obj.spec, obj.metadata
    given = [ip for ip in spec.clusterIPs or (spec.clusterIP,) if ip]
    ips = [address for ip in given[:MAX_ADDRESSES] if ip != "None" and (address := usable_address(ip)) is not None]
    service = SharedService(
        cluster=cluster,
        namespace=sys.intern(meta.namespace),
        name=sys.intern(meta.name),
        headless="None" in given,
        cluster_ips=tuple(ips),
        ports=tuple(
            ServicePort(sys.intern(port.name), int(protocol), port.port, port.appProtocol)
            for port in spec.ports[:MAX_PORTS]
            if (protocol := PORT_PROTOCOLS.get(port.protocol)) is not None and 0 < port.port <= 65535
        ),
        weight=FULL_WEIGHT,
        labels=clean_labels(meta.labels, problems),
        selector=clean_labels(spec.selector, []),
    )
    sticky = spec.sessionAffinity == "ClientIP"
    config = spec.sessionAffinityConfig
    seconds = (config.clientIP.timeoutSeconds if config and config.clientIP else None) or DEFAULT_AFFINITY
    return _Facts(
        service=service,
        annotations={key: value for key, value in meta.annotations.items() if _matters(key)},
        created=meta.creationTimestamp,
        session_affinity="ClientIP" if sticky else "None",
        affinity_seconds=seconds if sticky else 0,
        ip_families=spec.ipFamilies,
        internal_traffic_policy=spec.internalTrafficPolicy,
        traffic_distribution=spec.trafficDistribution,
    )


def _matters(annotation: str) -> bool:
    """Whether an annotation may be one that settings are read from; the others can be of any size."""
    return annotation.partition("/")[0] in ("service.cilium.io", "io.cilium", "isthmus.dev")


def _gift(service: SharedService | None) -> int | None:
    """What of a Service its slices depend on: its weight if they are given, else None."""
    return service.weight if service is not None and service.shared else None


def _place(obj: ServiceObject | EndpointSlice | ServiceExport) -> tuple[str, str]:
    return obj.metadata.namespace, obj.metadata.name


def _discard(index: dict[_K, set[tuple[str, str]]], key: _K, item: tuple[str, str]) -> None:
    siblings = index[key]
    siblings.discard(item)
    if not siblings:
        del index[key]
