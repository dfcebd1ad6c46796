"""Writing a drain into the clusters whose clients shall leave a cluster, all at once and each for itself.

Every member is told, the drained one too: its own clients leave its backends as well. Invariants: asking twice changes
nothing; a drain never gives connections back (who wants that undrains); one moment is the beginning everywhere, so all
members come to the same share; what could not be written is named by its cluster, and a member that no context reaches
is one of those. Rejected: one object in one cluster, which the others would have to be able to reach to drain it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from isthmus.cli.service.tables import spoken_drain
from isthmus.kube.errors import Forbidden, KubeError, NotFound
from isthmus.kube.kubeconfig import context_names
from isthmus.kube.meshobjects import NO_MEMBER, Drain, GlobalService, MeshCluster
from isthmus.kube.resources import GLOBAL_SERVICES, MESH_CLUSTERS
from isthmus.mesh.joining.members import JoiningError, Member, open_member
from isthmus.services.draining import percent_left

AT_ONCE = 8
"""Clusters that are spoken to at a time."""

MOST_NAMED = 5
"""Services in one line."""

PATIENCE = 15.0
"""Seconds for which one cluster may keep us waiting: the others must not wait for one that is away."""


class Asked(msgspec.Struct, frozen=True):
    """What the command was asked; `over` is a duration, or "" for at once; None as `drain` takes a drain off."""

    cluster: str
    drain: Drain | None
    dry_run: bool = False


class Line(msgspec.Struct, frozen=True):
    """What became of one cluster."""

    text: str
    well: bool = True


class _Place(msgspec.Struct):
    """A member that answers."""

    name: str
    member: Member
    known: dict[str, MeshCluster]

    @property
    def members(self) -> list[str]:
        """Returns the clusters that are members as this one sees it."""
        return [name for name, item in self.known.items() if item.status.id and item.status.reason != NO_MEMBER]


async def change(
    asked: Asked, *, kubeconfig: Path | None, contexts: Sequence[str], now: float
) -> tuple[list[Line], list[str]]:
    """Drains or undrains, and returns what became of each cluster, and the members that were changed or are as asked.

    Without `contexts` all of the kubeconfig are looked at, and those of no member are left alone. Raises JoiningError
    if there is no such cluster, KubeError for a kubeconfig that cannot be read.
    """
    names = list(dict.fromkeys(contexts)) or list(await asyncio.to_thread(context_names, kubeconfig))
    if not names:
        raise JoiningError("the kubeconfig has no contexts")
    gate = asyncio.Semaphore(AT_ONCE)
    async with AsyncExitStack() as stack:
        looked = await asyncio.gather(
            *(_look(stack, gate, kubeconfig, name, explicit=bool(contexts)) for name in names)
        )
        lines = [found for found in looked if isinstance(found, Line)]
        places: dict[str, _Place] = {}
        for found in looked:
            if isinstance(found, _Place):
                places.setdefault(found.name, found)
        members = {*places, *(name for place in places.values() for name in place.members)}
        _check(asked, members, places, lines)
        lines = _trouble(lines, members - set(places), explicit=bool(contexts))
        written = await asyncio.gather(*(_one(gate, place, asked, now) for place in _ordered(places)))
    return [*written, *lines], sorted(places)


def _check(asked: Asked, members: set[str], places: dict[str, _Place], lines: list[Line]) -> None:
    if not places:
        why = "".join(f"\n  {line.text}" for line in lines)
        raise JoiningError(f"no context leads to a member of a cluster mesh; see: isthmus clustermesh enable{why}")
    drained = any(asked.cluster in place.known for place in places.values())
    if asked.cluster not in members and not (drained and asked.drain is None):
        raise JoiningError(
            f"there is no cluster {asked.cluster} in the mesh; its members are {', '.join(sorted(members))}"
        )


def _trouble(lines: list[Line], missing: set[str], *, explicit: bool) -> list[Line]:
    """Returns what is worth telling of contexts that led nowhere, and of members that no context led to."""
    if explicit:
        return lines
    which = "no context that answers" if lines else "no context of the kubeconfig"
    absent = [Line(f"⚠️  {name}: {which} leads to it", False) for name in sorted(missing)]
    # A context that does not answer matters only where a member may be behind it.
    return [msgspec.structs.replace(line, well=True) for line in lines] + absent


def _ordered(places: dict[str, _Place]) -> list[_Place]:
    return [places[name] for name in sorted(places)]


async def _look(
    stack: AsyncExitStack, gate: asyncio.Semaphore, kubeconfig: Path | None, context: str, *, explicit: bool
) -> _Place | Line | None:
    """Finds out whose cluster a context leads to; None for one that is of no mesh."""
    try:
        async with gate, asyncio.timeout(PATIENCE):
            member = await stack.enter_async_context(open_member(kubeconfig, context))
            configuration = await member.configuration()
            if configuration is None:
                return Line(f"⚠️  context {context}: its cluster is of no mesh", False) if explicit else None
            try:
                known = await member.client.list_all(MESH_CLUSTERS, type=MeshCluster)
            except NotFound:
                known = []  # said when it is written to
            return _Place(configuration.cluster.name, member, {item.metadata.name: item for item in known})
    except TimeoutError:
        return Line(f"⚠️  context {context}: no answer in {PATIENCE:g} s", False)
    except (JoiningError, KubeError) as error:
        text = str(error).removeprefix(f"context {context}: ")
        return Line(f"⚠️  context {context}: {text}", False)


async def _one(gate: asyncio.Semaphore, place: _Place, asked: Asked, now: float) -> Line:
    try:
        async with gate, asyncio.timeout(PATIENCE):
            text = await _write(place, asked, now)
            alone = await _alone(place, asked.cluster) if asked.drain is not None else []
    except TimeoutError:
        return Line(f"⚠️  {place.name}: no answer in {PATIENCE:g} s", False)
    except NotFound:
        how = f"isthmus clustermesh enable --context {place.member.context}"
        return Line(f"⚠️  {place.name}: this cluster does not know MeshClusters; run: {how}", False)
    except KubeError as error:
        return Line(f"⚠️  {place.name}: {error}", False)
    lines = [f"✅ {place.name}: {text}" + (" (dry run)" if asked.dry_run else "")]
    if alone:
        more = f" and {len(alone) - MOST_NAMED} more" if len(alone) > MOST_NAMED else ""
        named = ", ".join(alone[:MOST_NAMED]) + more
        lines.append(f"ℹ️  {place.name}: {asked.cluster} alone has ready backends of, and goes on serving: {named}")
    return Line("\n".join(lines))


async def _alone(place: _Place, cluster: str) -> list[str]:
    """Returns the Services that no other cluster has ready backends of; none where that may not be seen."""
    try:
        found = await place.member.client.list_all(GLOBAL_SERVICES, type=GlobalService)
    except (Forbidden, NotFound):
        return []
    return sorted(
        f"{item.metadata.namespace}/{item.metadata.name}"
        for item in found
        if [entry.name for entry in item.status.clusters if entry.ready] == [cluster]
    )


async def _write(place: _Place, asked: Asked, now: float) -> str:
    stored = place.known.get(asked.cluster)
    before = stored.spec.drain if stored is not None else None
    wanted = _wanted(before, asked.drain, now)
    if wanted == before:
        said = "not drained" if before is None else f"{_said(asked, before, now)} already"
        return f"{asked.cluster} is {said}"
    if not asked.dry_run:
        await _store(place, asked.cluster, stored, wanted)
    if wanted is None:
        return f"{asked.cluster} gets new connections again"
    return f"{asked.cluster} is {_said(asked, wanted, now)}".replace("draining,", f"draining over {wanted.over},")


def _wanted(before: Drain | None, asked: Drain | None, now: float) -> Drain | None:
    """Returns the drain that an object should carry: one that is under way goes on, and never back."""
    if asked is None or before is None:
        return asked
    merged = Drain(before.since, asked.over)
    left = percent_left(before.since, before.over, now=now)[0]
    return before if percent_left(merged.since, merged.over, now=now)[0] > left or not left else merged


async def _store(place: _Place, name: str, stored: MeshCluster | None, drain: Drain | None) -> None:
    client = place.member.client
    given = None if drain is None else {"since": drain.since, "over": drain.over or None}
    patch = {"spec": {"drain": given}}
    try:
        await client.patch(MESH_CLUSTERS, name, patch, type=MeshCluster)
    except NotFound:
        if drain is None:
            return
        body = {
            "apiVersion": MESH_CLUSTERS.api_version,
            "kind": MESH_CLUSTERS.kind,
            "metadata": {"name": name},
            "spec": {"drain": drain},
        }
        await client.create(MESH_CLUSTERS, body, type=MeshCluster)


def _said(asked: Asked, drain: Drain, now: float) -> str:
    return spoken_drain(asked.cluster, {asked.cluster: percent_left(drain.since, drain.over, now=now)[0]})
