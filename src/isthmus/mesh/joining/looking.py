"""Looking at a cluster of the mesh: everything that its status is judged from, and waiting until it is well.

Invariant: what is not served (no definitions yet) counts as not there; any other failure is told.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from isthmus.kube.errors import KubeError, NotFound
from isthmus.kube.meshobjects import MeshCluster, MeshNode
from isthmus.kube.resources import DEPLOYMENTS, LEASES, MESH_CLUSTERS, MESH_NODES, NODES, Resource
from isthmus.kube.schema import Lease, LeaseSpec, Node
from isthmus.mesh.joining.members import Member
from isthmus.mesh.joining.objects import TRACKER
from isthmus.mesh.joining.status import Replicas, Seen, Status, judge
from isthmus.mesh.joining.telling import waiting_for
from isthmus.mesh.membership import DEPLOYMENT, NAMESPACE, Membership, read_peers

PAUSE = 0.5
"""Seconds between two looks."""

_T = TypeVar("_T")


class _Scale(msgspec.Struct, frozen=True):
    replicas: int | None = 1


class _ScaleStatus(msgspec.Struct, frozen=True):
    observedGeneration: int = 0
    updatedReplicas: int = 0
    readyReplicas: int = 0


async def look(member: Member) -> Status:
    """Returns how the mesh is in a cluster. Raises JoiningError if it is not enabled there, KubeError."""
    configuration, service = await member.enabled()
    nodes, peers, mesh_nodes, mesh_clusters, lease, replicas = await asyncio.gather(
        member.client.list_all(NODES, type=Node),
        member.peers(),
        _served(member, MESH_NODES, MeshNode),
        _served(member, MESH_CLUSTERS, MeshCluster),
        _lease(member),
        _replicas(member) if configuration.tracker == DEPLOYMENT else _none(),
    )
    membership: Membership = read_peers(peers, own=configuration.cluster.name)
    return judge(
        Seen(
            configuration=configuration,
            service=service,
            now=datetime.now(UTC),
            nodes=nodes,
            replicas=replicas,
            membership=membership,
            mesh_nodes=mesh_nodes,
            mesh_clusters=mesh_clusters,
            lease=lease,
        )
    )


async def wait_until_well(
    member: Member, *, limit: float, on_wait: Callable[[float, str], None], pause: float = PAUSE
) -> Status:
    """Looks until all is well, or for `limit` seconds, and returns the last status.

    `on_wait` hears for how long (seconds) and what for, whenever that is something new. An API server that does not
    answer meanwhile is waited for too. Raises JoiningError if the mesh is not enabled, KubeError if it never answered.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    said = ""
    last: Status | None = None
    while True:
        try:
            last = await look(member)
            reason = waiting_for(last)
            if not reason:
                return last
        except KubeError as error:
            if loop.time() - began >= limit and last is None:
                raise
            reason = f"for the API server: {error}"
        waited = loop.time() - began
        if waited >= limit and last is not None:
            return last
        if reason != said:
            said = reason
            on_wait(waited, reason)
        await asyncio.sleep(pause)


async def _served(member: Member, resource: Resource, type: type[_T]) -> list[_T]:
    try:
        return await member.client.list_all(resource, type=type)
    except NotFound:
        return []


async def _lease(member: Member) -> LeaseSpec | None:
    try:
        return (await member.client.get(LEASES, TRACKER, type=Lease, namespace=NAMESPACE)).spec
    except NotFound:
        return None


async def _replicas(member: Member) -> Replicas | None:
    try:
        found: dict[str, Any] = await member.client.get(DEPLOYMENTS, TRACKER, type=dict, namespace=NAMESPACE)
    except NotFound:
        return None
    spec = msgspec.convert(found.get("spec") or {}, _Scale)
    status = msgspec.convert(found.get("status") or {}, _ScaleStatus)
    current = status.observedGeneration >= int(found["metadata"].get("generation") or 0)
    return Replicas(
        wanted=1 if spec.replicas is None else spec.replicas,
        ready=min(status.updatedReplicas, status.readyReplicas) if current else 0,
    )


async def _none() -> None:
    return None
