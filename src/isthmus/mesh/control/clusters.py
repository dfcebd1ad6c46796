"""MeshClusters: one for each member, with how it is; what users ask of it (`spec`) is never touched.

A cluster that leaves the set loses its object, unless that carries a drain: who drains a cluster, takes it out and puts
it back wants it to come back drained. Such an object says that its cluster is no member, and goes when the drain is
taken off. Invariants: the status alone is written, so no write can lose a drain; since when a state holds survives a
restart. Rejected: an object per cluster with the drain in the status, which a tracker would have to keep.
"""

import datetime

from isthmus.kube.meshobjects import NO_MEMBER, MeshCluster, MeshClusterStatus
from isthmus.kube.resources import MESH_CLUSTERS
from isthmus.mesh.control.effects import Change, Create, Delete, Effect
from isthmus.mesh.control.objects import plain
from isthmus.mesh.control.world import World

_LONGEST = 1024


def plan(world: World, name: str, *, now: float) -> list[Effect]:
    """Returns what makes a MeshCluster what it should be; `now` in Unix seconds."""
    member, stored = world.members.get(name), world.mesh_clusters.get(name)
    if stored is not None and stored.metadata.deletionTimestamp:
        return []  # somebody's finalizer holds it
    if member is None:
        return _left(world, stored, now)
    effects: list[Effect] = []
    if stored is None:
        body = {"apiVersion": MESH_CLUSTERS.api_version, "kind": MESH_CLUSTERS.kind, "metadata": {"name": name}}
        effects.append(Create(MESH_CLUSTERS, "", name, body))
    before = stored.status if stored is not None else MeshClusterStatus()
    # Of a cluster that was not heard since the start, what was known before is more than nothing.
    counted = before if member.synced is None and name != world.own else None
    status = MeshClusterStatus(
        id=member.id,
        own=name == world.own,
        state=member.state,
        reason=member.reason[:_LONGEST],
        since=before.since if before.state == member.state and before.since else stamp(now),
        lastSynced=stamp(member.synced) if member.synced is not None else before.lastSynced,
        nodes=counted.nodes if counted else member.nodes,
        identities=counted.identities if counted else member.identities,
        endpoints=counted.endpoints if counted else member.endpoints,
        services=counted.services if counted else world.services_shared_by(name),
    )
    return effects + _status(name, before, status)


def only_counts(world: World, name: str) -> bool:
    """Whether nothing but numbers would change, which can wait a little."""
    member, stored = world.members.get(name), world.mesh_clusters.get(name)
    if member is None or stored is None:
        return False
    status = stored.status
    return (status.id, status.state, status.reason) == (member.id, member.state, member.reason[:_LONGEST])


def _left(world: World, stored: MeshCluster | None, now: float) -> list[Effect]:
    if stored is None or not world.members_known:
        return []
    name = stored.metadata.name
    reason = world.kept.get(name, "")
    if stored.spec.drain is None and not reason:
        return [Delete(MESH_CLUSTERS, "", name, stored.metadata.uid)]
    before = stored.status
    if not before.id:
        return []  # drained before it ever joined: nothing to say yet
    since = before.since if before.state == "Degraded" and before.since else stamp(now)
    why = (reason or NO_MEMBER)[:_LONGEST]
    gone = MeshClusterStatus(id=before.id, state="Degraded", reason=why, since=since, lastSynced=before.lastSynced)
    return _status(name, before, gone)


def _status(name: str, before: MeshClusterStatus, status: MeshClusterStatus) -> list[Effect]:
    if status == before:
        return []
    # A time that is not known has to be absent: "" is no time to the API.
    given = {key: value if value != "" else None for key, value in plain(status).items()}
    return [Change(MESH_CLUSTERS, "", name, {"status": given}, status=True)]


def stamp(moment: float) -> str:
    """Returns Unix seconds as the API writes times."""
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
