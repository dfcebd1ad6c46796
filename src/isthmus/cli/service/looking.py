"""Reading what is known of a global service from the API server of one cluster.

Invariant: whatever is missing is said by its name, with what makes it appear: the Service, the annotation, the
definitions of our objects, the tracker. Rejected: asking the tracker itself, which needs a way to it; what it writes
can be read by whoever may read Services.
"""

import asyncio
from typing import Any

import msgspec

from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, KubeError, NotFound
from isthmus.kube.meshobjects import GlobalService, MeshCluster, MeshNode
from isthmus.kube.resources import EVENTS, GLOBAL_SERVICES, MESH_CLUSTERS, MESH_NODES, NAMESPACES, SERVICES, Resource
from isthmus.kube.schema import Namespace, Service
from isthmus.mesh.mcs.api import PREFIX, SERVICE_NAME, derived_name
from isthmus.services.settings import NAMESPACE_GLOBAL, namespace_is_global, settings


class Missing(KubeError):
    """What was asked for is not there; the message says what to do."""


class Event(msgspec.Struct, frozen=True):
    """An Event of a Service."""

    type: str
    reason: str
    message: str
    component: str
    last: str
    count: int = 1


class Found(msgspec.Struct, frozen=True):
    """What is known of one global service; `warnings` are for people.

    `imported` is the name of the ServiceImport that the Service stands for, "" if it stands for itself.
    """

    service: Service
    object: GlobalService
    clusters: tuple[MeshCluster, ...] = ()
    nodes: tuple[MeshNode, ...] = ()
    events: tuple[Event, ...] = ()
    warnings: tuple[str, ...] = ()
    imported: str = ""


class Listed(msgspec.Struct, frozen=True):
    """The global services of a cluster; `imports` are the names of the ServiceImports that some of them stand for, by
    namespace and name."""

    services: list[GlobalService]
    clusters: list[MeshCluster]
    imports: dict[tuple[str, str], str] = {}


async def list_services(client: Client, namespace: str | None) -> Listed:
    """Returns the GlobalServices (of all namespaces if it is None) and the MeshClusters. Raises Missing, KubeError."""
    try:
        found = await client.list_all(GLOBAL_SERVICES, type=GlobalService, namespace=namespace)
    except NotFound:
        raise Missing(_undefined(client)) from None
    clusters = await _optional(client, MESH_CLUSTERS, MeshCluster, [])
    imports = {}
    if any(item.metadata.name.startswith(PREFIX) for item in found):
        for service in await _derived(client, namespace):
            imports[service.metadata.namespace, service.metadata.name] = _imported(service)
    return Listed(found, clusters, imports)


async def _derived(client: Client, namespace: str | None) -> list[Service]:
    """Returns the Services that stand for imports; none where they may not be seen: they are called as they are."""
    try:
        return await client.list_all(SERVICES, type=Service, namespace=namespace, label_selector=SERVICE_NAME)
    except Forbidden:
        return []


def _imported(service: Service) -> str:
    meta = service.metadata
    name = meta.labels.get(SERVICE_NAME, "")
    return name if name and meta.name == derived_name((meta.namespace, name)) else ""


async def find(client: Client, namespace: str, name: str) -> Found:
    """Returns what is known of a global service. Raises Missing if there is none, KubeError.

    A name that no global service has may be that of a ServiceImport.
    """
    service, found = await asyncio.gather(
        _optional_one(client, SERVICES, namespace, name, Service),
        _optional_one(client, GLOBAL_SERVICES, namespace, name, GlobalService),
    )
    if service is None or found is None:
        derived = derived_name((namespace, name))
        standing, its = await asyncio.gather(
            _optional_one(client, SERVICES, namespace, derived, Service),
            _optional_one(client, GLOBAL_SERVICES, namespace, derived, GlobalService),
        )
        if standing is not None and (its is not None or service is None):
            service, found = standing, its
    if service is None:
        raise Missing(f"Service {namespace}/{name} does not exist")
    if found is None:
        raise Missing(await _why_none(client, service))
    warnings: list[str] = []
    clusters, nodes, events = await asyncio.gather(
        _optional(client, MESH_CLUSTERS, MeshCluster, warnings),
        _optional(client, MESH_NODES, MeshNode, warnings),
        _events(client, service, warnings),
    )
    if _is_old(service, found):
        warnings.insert(
            0, "this does not say what the Service says now: the tracker of this cluster is silent, or only just at it"
        )
    return Found(service, found, tuple(clusters), tuple(nodes), tuple(events), tuple(warnings), _imported(service))


def _is_old(service: Service, found: GlobalService) -> bool:
    """Whether a GlobalService describes another Service than this one is now."""
    said = settings(service.metadata.annotations, headless=service.spec.clusterIP == "None")
    status = found.status
    return not said.is_global or (said.preference, said.shared) != (status.affinity, status.shared)


async def _why_none(client: Client, service: Service) -> str:
    """Returns why a Service has no GlobalService, and what to do."""
    meta = service.metadata
    what = f"Service {meta.namespace}/{meta.name}"
    try:
        await client.list_all(GLOBAL_SERVICES, type=dict[str, Any], namespace=meta.namespace)
    except NotFound:
        return _undefined(client)
    said = settings(meta.annotations, headless=service.spec.clusterIP == "None")
    wrong = "".join(f"\nIts {problem}" for problem in said.problems)
    if not said.is_global:
        how = f"kubectl annotate service {meta.name} -n {meta.namespace} --overwrite service.cilium.io/global=true"
        return f"{what} is not global. To make it global in this cluster:\n  {how}{wrong}"
    if service.spec.type == "ExternalName":
        return f"{what} is of type ExternalName, which has no backends: it cannot be global"
    try:
        namespace = await client.get(NAMESPACES, meta.namespace, type=Namespace)
    except (Forbidden, NotFound):
        namespace = None
    if namespace is not None and not namespace_is_global(namespace.metadata.annotations)[0]:
        return f"{what} is not global, because namespace {meta.namespace} is annotated {NAMESPACE_GLOBAL}=false"
    return (
        f"{what} is global, but nobody has described it yet: is the tracker of this cluster running? "
        "(isthmus clustermesh status)"
    )


async def _optional_one(client: Client, resource: Resource, namespace: str, name: str, type: Any) -> Any:
    """Returns an object, None if there is none."""
    try:
        return await client.get(resource, name, type=type, namespace=namespace)
    except NotFound:
        return None


async def _optional(client: Client, resource: Resource, type: Any, warnings: list[str]) -> list[Any]:
    """Returns a collection; one that cannot be read is empty, and said."""
    try:
        return await client.list_all(resource, type=type)
    except (Forbidden, NotFound) as error:
        warnings.append(f"{resource}: {error}")
        return []


async def _events(client: Client, service: Service, warnings: list[str]) -> list[Event]:
    meta = service.metadata
    selector = f"involvedObject.kind=Service,involvedObject.name={meta.name}"
    try:
        found = await client.list_all(EVENTS, type=dict[str, Any], namespace=meta.namespace, field_selector=selector)
    except (Forbidden, NotFound) as error:
        warnings.append(f"events: {error}")
        return []
    events = [_event(obj) for obj in found if obj.get("involvedObject", {}).get("uid") in ("", None, meta.uid)]
    return sorted(events, key=lambda event: event.last)


def _event(obj: dict[str, Any]) -> Event:
    source, count = obj.get("source") or {}, obj.get("count")
    return Event(
        type=str(obj.get("type") or ""),
        reason=str(obj.get("reason") or ""),
        message=" ".join(str(obj.get("message") or "").split()),
        component=str(source.get("component") or obj.get("reportingComponent") or ""),
        last=str(obj.get("lastTimestamp") or obj.get("eventTime") or obj["metadata"].get("creationTimestamp") or ""),
        count=count if isinstance(count, int) else 1,
    )


def _undefined(client: Client) -> str:
    context = client.access.context
    option = f" --context {context}" if context else ""
    return f"this cluster does not know GlobalServices; run: isthmus clustermesh enable{option}"
