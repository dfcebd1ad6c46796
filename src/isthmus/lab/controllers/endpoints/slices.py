"""EndpointSlices of a Service: what they should say, and what has to be written for that."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from isthmus.kube.resources import ENDPOINT_SLICES, ENDPOINTS, SERVICES, Resource
from isthmus.lab.controllers.effects import Change, Create, Effect, delete
from isthmus.lab.controllers.endpoints.backends import (
    HEADLESS,
    IPV4,
    IPV6,
    endpoint,
    families,
    is_headless,
    ports,
    sorted_pods,
)
from isthmus.lab.controllers.endpoints.packing import MAX, Group, pack
from isthmus.lab.controllers.objects.meta import Object, owned_by
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.services import Endpoints, EndpointSlice, Service

Json = dict[str, Any]
MANAGER = "endpointslice-controller.k8s.io"
MIRROR = "endpointslicemirroring-controller.k8s.io"
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"
_RESERVED = (SERVICE_NAME, MANAGED_BY, HEADLESS)
Suffix = Callable[[], str]


def plan(
    service: Service, pods: Iterable[Pod], slices: Iterable[EndpointSlice], *, fresh: Suffix, limit: int = MAX
) -> list[Effect]:
    """Returns what to write for a Service with a selector; `slices` are all that name the Service."""
    labels = {key: value for key, value in service.metadata.labels.items() if key not in _RESERVED}
    labels |= {SERVICE_NAME: service.metadata.name, MANAGED_BY: MANAGER}
    if is_headless(service):
        labels[HEADLESS] = ""
    behind = sorted_pods(pods)
    wanted = {family: _groups(service, behind, family) for family in families(service)}
    mine = [item for item in slices if item.metadata.labels.get(MANAGED_BY) == MANAGER]
    return _writes(service, SERVICES, wanted, mine, labels=labels, fresh=fresh, limit=limit)


def mirror(
    endpoints: Endpoints, service: Service, slices: Iterable[EndpointSlice], *, fresh: Suffix, limit: int = MAX
) -> list[Effect]:
    """Returns what to write so that slices say what a hand-made Endpoints object says."""
    labels = {key: value for key, value in endpoints.metadata.labels.items() if key not in _RESERVED}
    labels |= {SERVICE_NAME: service.metadata.name, MANAGED_BY: MIRROR}
    wanted: dict[str, list[Group]] = {}
    for subset in endpoints.subsets:
        for family in (IPV4, IPV6):
            entries = list(_mirrored(subset, family))
            if entries:
                listed = [{"name": port.get("name") or "", **port} for port in subset.get("ports") or ()]
                wanted.setdefault(family, []).append(Group(listed, entries))
    mine = [item for item in slices if item.metadata.labels.get(MANAGED_BY) == MIRROR]
    if not wanted:
        return [delete(item, ENDPOINT_SLICES) for item in mine]
    return _writes(endpoints, ENDPOINTS, wanted, mine, labels=labels, fresh=fresh, limit=limit)


def is_mirrored(endpoints: Endpoints, service: Service | None) -> bool:
    """Whether an Endpoints object is to be mirrored: made by hand, for a Service without selector."""
    meta = endpoints.metadata
    if (meta.namespace, meta.name) == ("default", "kubernetes"):
        return False  # the API server writes both itself
    if meta.labels.get(SKIP_MIRROR) == "true" or LEADER in meta.annotations or endpoints.leaving:
        return False
    return service is not None and not service.spec.selector and service.spec.type != "ExternalName"


def _mirrored(subset: Mapping[str, Any], family: str) -> Iterable[Json]:
    for field, ready in (("addresses", True), ("notReadyAddresses", False)):
        for one in subset.get(field) or ():
            ip = one.get("ip", "")
            if (":" in ip) != (family == IPV6):
                continue
            entry: Json = {"addresses": [ip], "conditions": {"ready": ready}}
            entry |= {key: one[key] for key in ("hostname", "nodeName", "targetRef") if one.get(key)}
            yield entry


def _groups(service: Service, pods: Sequence[Pod], family: str) -> list[Group]:
    by_ports: dict[bytes, tuple[list[Json], list[Json]]] = {}
    for pod in pods:
        entry = endpoint(service, pod, family)
        if entry is None:
            continue
        listed = ports(service, pod)
        by_ports.setdefault(msgspec.json.encode(listed), (listed, []))[1].append(entry)
    return [Group(listed, entries) for listed, entries in by_ports.values()]


def _writes(
    owner: Object,
    kind: Resource,
    wanted: Mapping[str, Sequence[Group]],
    slices: Sequence[EndpointSlice],
    *,
    labels: dict[str, str],
    fresh: Suffix,
    limit: int,
) -> list[Effect]:
    effects: list[Effect] = []
    removed: list[Effect] = [
        delete(item, ENDPOINT_SLICES) for item in slices if item.addressType not in wanted and not item.leaving
    ]
    for family, groups in wanted.items():
        existing = [item for item in slices if item.addressType == family and not item.leaving]
        packed = pack(groups, existing, limit=limit)
        effects += [Create(ENDPOINT_SLICES, _body(owner, kind, family, group, labels, fresh)) for group in packed.new]
        changed = {item.metadata.name: group for item, group in packed.changed}
        gone = {item.metadata.name for item in packed.surplus}
        for item in existing:
            if item.metadata.name in gone:
                continue
            patch: Json = {}
            if (content := changed.get(item.metadata.name)) is not None:
                patch |= {"endpoints": list(content.endpoints), "ports": list(content.ports)}
            if item.metadata.labels != labels:
                surplus = dict.fromkeys(item.metadata.labels.keys() - labels.keys())
                patch["metadata"] = {"labels": {**surplus, **labels}}
            if patch:
                meta = item.metadata
                effects.append(Change(ENDPOINT_SLICES, meta.namespace, meta.name, patch, version=meta.resourceVersion))
        removed += [delete(item, ENDPOINT_SLICES) for item in packed.surplus]
    # What is new is there before what is old goes, so that no endpoint is missing in between.
    return [*effects, *removed]


def _body(owner: Object, kind: Resource, family: str, group: Group, labels: dict[str, str], fresh: Suffix) -> Json:
    prefix = f"{owner.metadata.name[:57]}-"
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": prefix + fresh(),
            "generateName": prefix,
            "namespace": owner.metadata.namespace,
            "labels": labels,
            "ownerReferences": [owned_by(owner, kind)],
        },
        "addressType": family,
        "endpoints": list(group.endpoints),
        "ports": list(group.ports),
    }
