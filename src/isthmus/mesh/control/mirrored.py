"""Other clusters' backends as EndpointSlices of this one, for what reads those alone: a kube-proxy, DNS of headless
Services.

Labels are Cilium's and the MCS API's, with a manager of our own (KEP-752: whoever manages a slice says so, and touches
no other). Which clusters are mirrored is the choice that a node would make. Invariants: one slice there is one here, by
a name that depends on nothing else, so a change of one backend is one small write; what a cluster that was not heard
yet had stays; only what carries our label is changed or deleted, whoever left it. Rejected: one slice with all backends
of a Service, which every change of any cluster writes anew.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from ipaddress import ip_address

from isthmus.kube.resources import ENDPOINT_SLICES
from isthmus.kube.schema import EndpointConditions, EndpointOfSlice, EndpointPort
from isthmus.mesh.control.effects import Change, Create, Delete, Effect, Json
from isthmus.mesh.control.facts import MAX_ENDPOINTS, OwnService, protocol_word
from isthmus.mesh.control.global_services import View, view_of
from isthmus.mesh.control.objects import (
    HEADLESS,
    OURS,
    SOURCE_SERVICE,
    OwnedMeta,
    StoredSlice,
    owned_by_service,
    plain,
)
from isthmus.mesh.control.seeing import wanted_ports
from isthmus.mesh.control.world import Key, World, source_of
from isthmus.mesh.source.slices import MANAGED_BY, SERVICE_NAME, SOURCE_CLUSTER
from isthmus.model.sharing import SharedEndpoint, SharedPort, SharedSlice

HEADLESS_ONLY = "nftables"
ALL = "endpointslices"
OFF = "off"

_OWN_LABELS = (SERVICE_NAME, MANAGED_BY, SOURCE_CLUSTER, SOURCE_SERVICE, HEADLESS)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_QUALIFIED = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_TYPES = {4: "IPv4", 6: "IPv6"}
_MAX_PORT = 65535
_LONGEST_ZONE = 63
_LONGEST_NAME = 253


def plan(world: World, key: Key, *, mode: str) -> list[Effect]:
    """Returns what makes our EndpointSlices of a Service what they should be."""
    view = view_of(world, key) if mode != OFF else None
    if view is not None and mode != ALL and not view.service.settings.sync_slices:
        view = None
    wanted = {obj.metadata.name: obj for obj in _wanted(world, view)} if view is not None else {}
    effects: list[Effect] = []
    for name, obj in wanted.items():
        stored = world.mirrored.get((key[0], name))
        if stored is None:
            effects.append(Create(ENDPOINT_SLICES, key[0], name, _body(obj)))
        elif stored.metadata.deletionTimestamp:
            continue
        elif stored.addressType != obj.addressType:
            effects.append(Delete(ENDPOINT_SLICES, key[0], name, stored.metadata.uid))  # cannot be changed
            effects.append(Create(ENDPOINT_SLICES, key[0], name, _body(obj)))
        elif _content(stored) != _content(obj):
            version = stored.metadata.resourceVersion
            effects.append(Change(ENDPOINT_SLICES, key[0], name, _patch(stored, obj), version=version))
    for place, stored in sorted(world.mirrored_of(key).items()):
        if place[1] in wanted or stored.metadata.deletionTimestamp or _kept(world, view, source_of(stored)):
            continue
        effects.append(Delete(ENDPOINT_SLICES, *place, stored.metadata.uid))
    return effects


def _kept(world: World, view: View | None, cluster: str) -> bool:
    """Whether what a cluster had stays, because it was not heard yet and nothing says that it is not used."""
    return view is not None and world.unheard(cluster) and (cluster in view.used or cluster not in view.parts)


def _wanted(world: World, view: View) -> Iterator[StoredSlice]:
    used = {name for name in view.used if name != world.own}
    for found in world.slices(view.service.key):
        part = view.parts.get(found.cluster)
        if found.cluster in used and part is not None and part.shared:
            yield from _mirrors(found, view.service)


def _mirrors(found: SharedSlice, service: OwnService) -> Iterator[StoredSlice]:
    """Yields what stands for another cluster's slice: one, or more where it holds more than the API allows."""
    allowed = wanted_ports(service)
    ports = tuple(
        EndpointPort(port.name, protocol_word(port.protocol), port.port, _app_protocol(port))
        for port in found.ports
        if (allowed is None or (port.name, port.protocol) in allowed)
        and 0 < port.port <= _MAX_PORT
        and (not port.name or _LABEL.fullmatch(port.name))
    )
    if found.version not in _TYPES or (allowed and not ports):
        return
    endpoints = [_endpoint(endpoint) for endpoint in found.endpoints if _usable(endpoint.address, found.version)]
    labels = {
        SERVICE_NAME: service.name,
        MANAGED_BY: OURS,
        SOURCE_CLUSTER: found.cluster,
        # Names below clusterset.local go by it.
        SOURCE_SERVICE: service.imported or found.service,
        **({HEADLESS: ""} if service.headless else {}),
    }
    for number, start in enumerate(range(0, len(endpoints), MAX_ENDPOINTS) or (0,)):
        meta = OwnedMeta(
            name=slice_name(found, service.name, number),
            namespace=service.namespace,
            labels=labels,
            ownerReferences=(owned_by_service(service.name, service.uid),),
        )
        yield StoredSlice(
            metadata=meta,
            addressType=_TYPES[found.version],
            endpoints=tuple(endpoints[start : start + MAX_ENDPOINTS]),
            ports=ports,
        )


def slice_name(found: SharedSlice, service: str, number: int = 0) -> str:
    """Returns the name of what stands for the `number`th part of another cluster's slice: SERVICE-CLUSTER-HASH."""
    origin = f"{found.cluster}/{found.namespace}/{found.name}/{found.version}/{number}"
    digest = base64.b32hexencode(hashlib.sha256(origin.encode()).digest()).decode().lower()[:10]
    return f"{service}-{found.cluster}"[: _LONGEST_NAME - 11].rstrip("-.") + f"-{digest}"


def _app_protocol(port: SharedPort) -> str | None:
    return port.app_protocol if _QUALIFIED.fullmatch(port.app_protocol) else None


def _endpoint(endpoint: SharedEndpoint) -> EndpointOfSlice:
    return EndpointOfSlice(
        addresses=(endpoint.address,),
        conditions=EndpointConditions(endpoint.ready, endpoint.serving, endpoint.terminating),
        zone=endpoint.zone if 0 < len(endpoint.zone) <= _LONGEST_ZONE else None,
        hostname=endpoint.hostname if _LABEL.fullmatch(endpoint.hostname) else None,
    )


def _usable(address: str, version: int) -> bool:
    """Whether the API takes an address: of one that it does not, the whole slice would be refused."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    special = found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
    return found.version == version and not special


def _content(obj: StoredSlice) -> tuple[object, ...]:
    """Returns what has to be as we want it; labels and annotations that others add are theirs."""
    labels = tuple((key, obj.metadata.labels.get(key)) for key in _OWN_LABELS)
    return labels, obj.metadata.ownerReferences, obj.endpoints or (), obj.ports or ()


def _body(obj: StoredSlice) -> Json:
    meta = obj.metadata
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "labels": dict(meta.labels),
            "ownerReferences": plain(meta.ownerReferences),
        },
        "addressType": obj.addressType,
        "endpoints": plain(obj.endpoints or ()),
        "ports": plain(obj.ports or ()),
    }


def _patch(stored: StoredSlice, obj: StoredSlice) -> Json:
    """Returns what makes a stored slice the wanted one; a field that others filled where we say nothing goes too."""
    meta = obj.metadata
    labels = {key: meta.labels.get(key) for key in _OWN_LABELS if key in meta.labels or key in stored.metadata.labels}
    return {
        "metadata": {"labels": labels, "ownerReferences": plain(meta.ownerReferences)},
        "endpoints": plain(obj.endpoints or ()),
        "ports": plain(obj.ports or ()),
    }
