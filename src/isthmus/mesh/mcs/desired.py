"""What a merge of exports comes to, as objects of the own cluster: a ServiceImport and its derived Service.

Invariants: nothing that another cluster says makes an object that the API server refuses (labels that are none are left
out, annotations are bounded) or one that would not be what it is for (marks of ours and of the mesh are not taken from
others); a port leads to local pods only if the local Service has it. For a port that is exported by others alone, the
derived Service names a target that no pod has, and the EndpointSlice controller then leaves the port out; with a number
it would send clients to local pods that do not listen there. Rejected: a derived Service for each cluster, which is a
way to choose clusters, and KEP-1645 rules that out.
"""

import re
from collections.abc import Mapping
from typing import Any

from isthmus.mesh.mcs.api import (
    DERIVED,
    MANAGED_BY,
    OURS,
    SERVICE_NAME,
    SOURCE_CLUSTER,
    Api,
    Service,
    ServiceExport,
    ServiceImport,
    derived_name,
)
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.service import ServiceKey
from isthmus.model.sharing import ServicePort, SharedExport
from isthmus.services.exports import CLIENT_IP, CLUSTER_SET_IP, HEADLESS, Merged, protocol_name
from isthmus.services.settings import ALIASES, GLOBAL, SHARED

Json = dict[str, Any]

MAX_LABELS = 64
MAX_ANNOTATIONS = 64 * 1024
"""Characters of all annotations of an import; the API allows 256 KiB of one object."""
NOWHERE = "not-here"
"""The target of a port that only others export: a name of a port (RFC 6335) that no pod should have."""
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_RESERVED_LABELS = frozenset(
    {SOURCE_CLUSTER, SERVICE_NAME, MANAGED_BY, "kubernetes.io/service-name", "service.kubernetes.io/headless",
     "endpointslice.kubernetes.io/managed-by", "service.kubernetes.io/service-proxy-name"}
)  # fmt: skip
# A derived Service is global and shared, or there would be no import.
_RESERVED_ANNOTATIONS = frozenset({DERIVED, GLOBAL, ALIASES[GLOBAL], SHARED, ALIASES[SHARED]})


def own_export(service: Service, export: ServiceExport, *, cluster: str) -> SharedExport:
    """Returns what the own cluster exports, as the others hear of it."""
    spec, affinity = service.spec, service.spec.sessionAffinityConfig
    seconds = affinity.clientIP.timeoutSeconds if affinity is not None and affinity.clientIP is not None else None
    return SharedExport(
        cluster=cluster,
        namespace=export.metadata.namespace,
        name=export.metadata.name,
        created=export.metadata.creationTimestamp,
        type=HEADLESS if spec.headless else CLUSTER_SET_IP,
        ports=tuple(
            ServicePort(port.name, int(PORT_PROTOCOLS[port.protocol]), port.port, port.appProtocol)
            for port in spec.ports
            if port.protocol in PORT_PROTOCOLS
        ),
        session_affinity=spec.sessionAffinity,
        affinity_seconds=(seconds or 0) if spec.sessionAffinity == CLIENT_IP else 0,
        ip_families=spec.ipFamilies,
        internal_traffic_policy=spec.internalTrafficPolicy,
        traffic_distribution=spec.trafficDistribution,
        labels=export.spec.exportedLabels,
        annotations=export.spec.exportedAnnotations,
    )


def remembered(found: ServiceImport, *, cluster: str) -> SharedExport:
    """Returns what an import says, as an export older than all others.

    It stands for clusters that exported the Service when we were here last and have told nothing yet since.
    """
    spec, affinity = found.spec, found.spec.sessionAffinityConfig
    seconds = affinity.clientIP.timeoutSeconds if affinity is not None and affinity.clientIP is not None else None
    meta = found.metadata
    return SharedExport(
        cluster=cluster,
        namespace=meta.namespace,
        name=meta.name,
        created="0001-01-01T00:00:00Z",
        type=spec.type,
        ports=tuple(
            ServicePort(port.name, int(PORT_PROTOCOLS[port.protocol]), port.port, port.appProtocol)
            for port in spec.ports
            if port.protocol in PORT_PROTOCOLS
        ),
        session_affinity=spec.sessionAffinity,
        affinity_seconds=seconds or 0,
        ip_families=spec.ipFamilies,
        internal_traffic_policy=spec.internalTrafficPolicy,
        traffic_distribution=spec.trafficDistribution,
        labels={key: value for key, value in meta.labels.items() if key != MANAGED_BY},
        annotations={key: value for key, value in meta.annotations.items() if key != DERIVED},
    )


def import_body(key: ServiceKey, merged: Merged, *, api: Api, ips: tuple[str, ...]) -> Json:
    """Returns the ServiceImport; `ips` are the addresses of the derived Service, as far as it has them."""
    spec: Json = {"type": merged.type, "ports": [_import_port(port) for port in merged.ports]}
    if merged.type != HEADLESS:
        spec |= _affinity(merged)
        if ips:
            spec["ips"] = list(ips)
    if merged.ip_families:
        spec["ipFamilies"] = list(merged.ip_families)
    spec["internalTrafficPolicy"] = merged.internal_traffic_policy
    if merged.traffic_distribution:
        spec["trafficDistribution"] = merged.traffic_distribution
    return {
        "apiVersion": api.imports.api_version,
        "kind": api.imports.kind,
        "metadata": {
            "namespace": key[0],
            "name": key[1],
            "labels": {**labels(merged.labels), MANAGED_BY: OURS},
            "annotations": {**annotations(merged.annotations), DERIVED: derived_name(key)},
        },
        "spec": spec,
    }


def derived_body(
    key: ServiceKey, merged: Merged, *, owner: ServiceImport, local: Service | None, held: Service | None, own: str
) -> Json:
    """Returns the derived Service; `local` is the exported Service of the own cluster, None if it exports none.

    `held` is the derived Service as it is, None if there is none: what cannot be changed in it stays.

    A Service with a selector lends it, so that the cluster's EndpointSlice controller finds the pods, as fast as for
    any other. Not a headless one: its endpoints' host names depend on the Service's name, so their slices are copied.
    """
    targets = {} if local is None else {(port.port, port.protocol): port.targetPort for port in local.spec.ports}
    headless = merged.type == HEADLESS
    spec: Json = {
        "type": "ClusterIP",
        "ports": [
            {**_import_port(port), "targetPort": targets.get((port.port, protocol_name(port.protocol)), NOWHERE)}
            for port in merged.ports
        ],
        **(_affinity(merged) if not headless else {}),
        "internalTrafficPolicy": merged.internal_traffic_policy,
    }
    if headless:
        spec["clusterIP"] = "None"
    if local is not None and lends_selector(local, merged):
        spec["selector"] = local.spec.selector
    if local is not None and local.spec.publishNotReadyAddresses:
        spec["publishNotReadyAddresses"] = True
    if merged.traffic_distribution == "PreferClose":
        # The others are refused by servers that do not have them yet, and the whole Service with them.
        spec["trafficDistribution"] = merged.traffic_distribution
    spec |= _families(merged, held)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": key[0],
            "name": derived_name(key),
            "labels": {
                **labels(merged.labels),
                SERVICE_NAME: key[1],
                # The cluster's EndpointSlice controller copies it to the slices of this cluster's pods.
                SOURCE_CLUSTER: own,
                MANAGED_BY: OURS,
            },
            "annotations": {**annotations(merged.annotations), GLOBAL: "true"},
            "ownerReferences": [
                {
                    "apiVersion": owner.apiVersion,
                    "kind": owner.kind,
                    "name": key[1],
                    "uid": owner.metadata.uid,
                    "controller": True,
                }
            ],
        },
        "spec": spec,
    }


def must_be_made_again(held: Service, merged: Merged) -> bool:
    """Whether a derived Service cannot be changed to what it should be: its address or its only family is another."""
    families = held.spec.ipFamilies
    alien = len(merged.ip_families) == 1 and bool(families) and merged.ip_families[0] not in families
    return held.spec.headless != (merged.type == HEADLESS) or alien


def lends_selector(local: Service, merged: Merged) -> bool:
    """Whether the pods of the local Service are found by its selector; otherwise its slices are copied."""
    return bool(local.spec.selector) and merged.type != HEADLESS


def labels(given: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels of an export that may be taken over."""
    good = {key: given[key] for key in sorted(given) if key not in _RESERVED_LABELS and _is_label(key, given[key])}
    return dict(list(good.items())[:MAX_LABELS])


def annotations(given: Mapping[str, str]) -> dict[str, str]:
    """Returns the annotations of an export that may be taken over."""
    found: dict[str, str] = {}
    room = MAX_ANNOTATIONS
    for key in sorted(given):
        room -= len(key) + len(given[key])
        if key in _RESERVED_ANNOTATIONS or not _is_key(key) or room < 0:
            continue
        found[key] = given[key]
    return found


def _affinity(merged: Merged) -> Json:
    if merged.session_affinity != CLIENT_IP:
        return {"sessionAffinity": "None"}
    seconds = min(max(merged.affinity_seconds, 1), 86400)
    return {"sessionAffinity": CLIENT_IP, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}


def _families(merged: Merged, held: Service | None) -> Json:
    """Returns the families of a derived Service: those of the exports, and what it has once stays."""
    wanted = merged.ip_families
    if held is not None and held.spec.ipFamilies:
        dual = max(len(held.spec.ipFamilies), len(wanted)) > 1
        return {"ipFamilyPolicy": "PreferDualStack" if dual else "SingleStack", "ipFamilies": [*held.spec.ipFamilies]}
    if len(wanted) == 1:
        return {"ipFamilyPolicy": "SingleStack", "ipFamilies": [*wanted]}
    return {"ipFamilyPolicy": "PreferDualStack"}


def _import_port(port: ServicePort) -> Json:
    found: Json = {"port": port.port, "protocol": protocol_name(port.protocol)}
    if port.name:
        found["name"] = port.name
    if port.app_protocol and _is_key(port.app_protocol):
        found["appProtocol"] = port.app_protocol
    return found


def _is_label(key: str, value: str) -> bool:
    return _is_key(key) and (not value or _NAME.fullmatch(value) is not None)


def _is_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    return _NAME.fullmatch(name) is not None and (not slash or _PREFIX.fullmatch(prefix) is not None)
