"""Clusters as their API servers say, all at the same time.

By default those of the mesh that the current context belongs to, as far as the kubeconfig has contexts for them.
Invariants: a cluster that cannot be read is an error that names it, or a warning if a part will do: an answer that
silently leaves a cluster out is wrong; every cluster has a time limit of its own. Two contexts of one cluster are one.
Rejected: reading the store of a tracker, to which people at a keyboard have no access.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from isthmus.kube.client import Client
from isthmus.kube.errors import Forbidden, KubeError, NotFound
from isthmus.kube.kubeconfig import context_names, load
from isthmus.kube.meshobjects import NO_MEMBER, MeshCluster, MeshNode
from isthmus.kube.resources import (
    CILIUM_CIDR_GROUPS,
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    MESH_CLUSTERS,
    MESH_NODES,
    NAMESPACES,
    NODES,
    PODS,
    POLICY_KINDS,
    SERVICES,
    Resource,
)
from isthmus.kube.schema import ConfigMap, EndpointSlice, Namespace, Node, Service
from isthmus.mesh.membership import CONFIG, NAMESPACE
from isthmus.mesh.picture.drawing import INCIDENTAL, OwnedPod, Parts, default_scope, draw
from isthmus.mesh.source.properties import VERSIONS, ClusterProperty
from isthmus.policy.explaining.facts import ClusterSeen, Object, Picture
from isthmus.policy.rules import Scope

AT_ONCE = 8
"""Clusters that are asked at a time."""

PATIENCE = 15.0
"""Seconds to find out whose cluster a context leads to."""

READING = 90.0
"""Seconds for all that one cluster holds: 10,000 pods are some 5."""

T = TypeVar("T")


class PictureError(Exception):
    """The clusters cannot be read; the message names them."""


class Place(msgspec.Struct):
    """A context that answers: `name` is its cluster's, `config` what the cluster says it is."""

    context: str
    client: Client
    name: str
    config: Mapping[str, str]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which clusters to read: `contexts` empty means those of the mesh of the current one.

    `scopes` go before what the clusters say, "" is for all of them. With `partial`, what cannot be read is a warning.
    """

    kubeconfig: Path | None = None
    contexts: tuple[str, ...] = ()
    scopes: Mapping[str, Scope] = {}
    partial: bool = False


async def read_live(wanted: Wanted) -> Picture:
    """Returns what the clusters hold. Raises PictureError."""
    return await with_places(wanted, _read_all)


async def with_places(wanted: Wanted, work: Callable[[Wanted, list[Place], str, list[str]], Awaitable[T]]) -> T:
    """Opens the clusters, and returns what `work` makes of them: it gets the places, the current one and warnings.

    Raises PictureError.
    """
    try:
        current = (await asyncio.to_thread(load, wanted.kubeconfig)).context if not wanted.contexts else ""
        names = list(dict.fromkeys(wanted.contexts)) or list(await asyncio.to_thread(context_names, wanted.kubeconfig))
    except KubeError as error:
        raise PictureError(str(error)) from None
    # A service account in a pod has no contexts.
    names = names or [current]
    async with AsyncExitStack() as stack:
        gate = asyncio.Semaphore(AT_ONCE)
        looked = await asyncio.gather(*(_look(stack, gate, wanted.kubeconfig, name) for name in names))
        troubles = {name: found for name, found in zip(names, looked, strict=True) if isinstance(found, str)}
        places = [found for found in looked if isinstance(found, Place)]
        warnings: list[str] = []
        if wanted.contexts:
            chosen = places
            _complain([f"context {name}: {why}" for name, why in troubles.items()], wanted, warnings)
            first = chosen[0].name if chosen else ""
        else:
            chosen, first = await _of_the_mesh(places, current, troubles, wanted, warnings)
        if not chosen:
            raise PictureError("no cluster can be read" + "".join(f"\n  {text}" for text in warnings))
        unique: dict[str, Place] = {}
        for place in chosen:
            unique.setdefault(place.name, place)
        return await work(wanted, list(unique.values()), first, warnings)


async def _look(stack: AsyncExitStack, gate: asyncio.Semaphore, kubeconfig: Path | None, context: str) -> Place | str:
    try:
        async with gate, asyncio.timeout(PATIENCE):
            access = await asyncio.to_thread(load, kubeconfig, context=context or None)
            client = await stack.enter_async_context(Client(access))
            try:
                found = await client.get(CONFIG_MAPS, CONFIG, type=ConfigMap, namespace=NAMESPACE)
                config = found.data
            except NotFound:
                config = {}
            return Place(context, client, config.get("cluster-name") or context or "cluster", config)
    except TimeoutError:
        return f"no answer in {PATIENCE:g} s"
    except KubeError as error:
        return str(error).removeprefix(f"context {context}: ")


async def _of_the_mesh(
    places: list[Place], current: str, troubles: Mapping[str, str], wanted: Wanted, warnings: list[str]
) -> tuple[list[Place], str]:
    """Returns the places of the mesh of the current context, and the name of that one's cluster."""
    own = next((place for place in places if place.context == current), None)
    if own is None:
        raise PictureError(f"context {current}: {troubles.get(current, 'it does not answer')}")
    if not own.config:
        warnings.append(f"context {current}: its cluster is of no mesh; it is looked at alone")
        return [own], own.name
    try:
        known = await own.client.list_all(MESH_CLUSTERS, type=MeshCluster)
        members = {c.metadata.name for c in known if c.status.id and c.status.reason != NO_MEMBER}
    except (NotFound, Forbidden) as error:
        members = set()
        warnings.append(
            f"context {current}: who is in the mesh cannot be read ({error}); {own.name} is looked at alone"
        )
    except KubeError as error:
        raise PictureError(f"context {current}: {error}") from None
    chosen = [place for place in places if place.config and place.name in {*members, own.name}]
    missing = sorted(members - {place.name for place in chosen})
    silent = "".join(f"\n  context {name}: {why}" for name, why in troubles.items())
    _complain(
        [f"cluster {name} of the mesh cannot be read: no context of the kubeconfig leads to it" for name in missing],
        wanted,
        warnings,
        more=silent,
    )
    chosen.sort(key=lambda place: place.context != current)
    return chosen, own.name


def _complain(found: list[str], wanted: Wanted, warnings: list[str], *, more: str = "") -> None:
    if found and not wanted.partial:
        raise PictureError("; ".join(found) + more + "\nAsk with --partial for an answer without it")
    warnings += found


async def _read_all(wanted: Wanted, places: list[Place], current: str, warnings: list[str]) -> Picture:
    gate = asyncio.Semaphore(AT_ONCE)
    read = await asyncio.gather(*(_bounded(gate, _read(wanted, place, warnings)) for place in places))
    clusters = []
    for place, found in zip(places, read, strict=True):
        if isinstance(found, ClusterSeen):
            clusters.append(found)
        else:
            _complain([f"cluster {place.name} (context {place.context}): {found}"], wanted, warnings)
    if not clusters:
        raise PictureError("no cluster can be read" + "".join(f"\n  {text}" for text in warnings))
    return Picture(
        clusters=tuple(sorted(clusters, key=lambda cluster: cluster.name)),
        current=current,
        namespace=namespace_of(places, current),
        incidental=INCIDENTAL,
        warnings=tuple(warnings),
    )


def namespace_of(places: list[Place], current: str) -> str:
    """Returns the namespace of the context that leads to the current cluster."""
    return next((place.client.access.namespace for place in places if place.name == current), "") or "default"


async def _bounded(gate: asyncio.Semaphore, work: Coroutine[Any, Any, ClusterSeen]) -> ClusterSeen | str:
    try:
        async with gate, asyncio.timeout(READING):
            return await work
    except TimeoutError:
        return f"not everything was read in {READING:g} s"
    except ExceptionGroup as group:
        # One request that failed ended the others; what they say then is no news.
        failed = next((error for error in group.exceptions if isinstance(error, KubeError)), None)
        if failed is None:
            raise
        return str(failed)


async def _read(wanted: Wanted, place: Place, warnings: list[str]) -> ClusterSeen:
    client = place.client
    async with asyncio.TaskGroup() as group:
        namespaces = group.create_task(client.list_all(NAMESPACES, type=Namespace))
        nodes = group.create_task(client.list_all(NODES, type=Node))
        pods = group.create_task(client.list_all(PODS, type=OwnedPod))
        services = group.create_task(client.list_all(SERVICES, type=Service))
        slices = group.create_task(client.list_all(ENDPOINT_SLICES, type=EndpointSlice))
        policies = [group.create_task(whole(client, resource)) for resource in POLICY_KINDS]
        groups = group.create_task(whole(client, CILIUM_CIDR_GROUPS))
        properties = group.create_task(_properties(client, place, warnings))
        mesh_nodes = group.create_task(_mesh_nodes(client))
    parts = Parts(
        namespaces=namespaces.result(),
        nodes=nodes.result(),
        pods=pods.result(),
        services=services.result(),
        slices=slices.result(),
        properties=properties.result(),
        policies=[obj for task in policies for obj in task.result()],
        cidr_groups=groups.result(),
        mesh_nodes=mesh_nodes.result(),
    )
    return draw(parts, cluster=place.name, scope=scope_of(wanted, place), origin=f"context {place.context}")


def scope_of(wanted: Wanted, place: Place) -> Scope:
    """Returns the default scope of a cluster's policies: what was asked for, else what it says. Raises PictureError."""
    said = wanted.scopes.get(place.name) or wanted.scopes.get("")
    if said is not None:
        return said
    try:
        return default_scope(place.config)
    except ValueError as error:
        raise PictureError(f"context {place.context}: {error}") from None


async def whole(client: Client, resource: Resource, namespace: str | None = None) -> list[Object]:
    """Returns the objects of a kind as they are, with what they are; none where the kind is not served."""
    try:
        found = await client.list_all(resource, type=dict[str, Any], namespace=namespace)
    except NotFound:
        return []
    said = {"apiVersion": resource.api_version, "kind": resource.kind}
    return [{**said, **obj} for obj in found]


async def _properties(client: Client, place: Place, warnings: list[str]) -> list[ClusterProperty]:
    for resource in VERSIONS:
        try:
            return await client.list_all(resource, type=ClusterProperty)
        except NotFound:
            continue
        except Forbidden as error:
            warnings.append(f"cluster {place.name}: its properties cannot be read: {error}")
            break
    return []


async def _mesh_nodes(client: Client) -> list[MeshNode]:
    """Returns what agents say; whoever may not read it is told that nodes may have earlier versions, not which."""
    try:
        return await client.list_all(MESH_NODES, type=MeshNode)
    except (NotFound, Forbidden):
        return []
