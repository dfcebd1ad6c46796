"""Joining the clusters of a lab, with the same code and the same objects as `isthmus clustermesh` on any cluster.

A cluster whose trackers and agents are the lab's says so in its ConfigMap; what follows is ordinary. Invariants: a
cluster that is gone is forgotten by those that are left, at once or when they come back; what people part by hand stays
parted. Rejected: a file of credentials that the lab keeps for all trackers, which would leave the mesh of the lab
unlike any other.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar
from urllib.parse import urlsplit

from isthmus.kube.errors import KubeError
from isthmus.lab.life.meeting import JoinError
from isthmus.lab.plan import SEGMENT, ClusterPlan, Mode
from isthmus.lab.statedir import StateDir
from isthmus.lab.units.credentials import server_url
from isthmus.lab.units.members import ETCD_PORT
from isthmus.mesh.joining import objects
from isthmus.mesh.joining.connecting import Party, forget, join
from isthmus.mesh.joining.enabling import Wishes, enable
from isthmus.mesh.joining.members import JoiningError, Member, open_member
from isthmus.mesh.membership import LAB, Configuration, read_peers
from isthmus.model.endpoint import Cluster
from isthmus.policy.rules import Scope

SERVICE_TYPE = "ClusterIP"
"""Of the tracker's Service, where the lab enables the mesh itself."""

_PAUSE = 0.1
"""Seconds between two looks at whether somebody gave up."""

_FORGET_LIMIT = 5.0
"""Seconds for a cluster to forget another; it may be that its API server is stopped."""

_T = TypeVar("_T")


def join_cluster(
    state: StateDir,
    plan: ClusterPlan,
    others: Sequence[ClusterPlan],
    *,
    returning: bool,
    given_up: threading.Event,
    limit: float,
) -> list[ClusterPlan]:
    """Makes a cluster known to itself, and joins it with `others`; returns those that it was joined with.

    One that is `returning` has all that already, and only forgets who is gone. Blocks, `limit` seconds at most. Raises
    JoinError.
    """
    try:
        return _performed(lambda: _join_all(state, plan, others, returning=returning), given_up=given_up, limit=limit)
    except (JoiningError, KubeError) as error:
        raise JoinError(str(error)) from error
    except TimeoutError:
        raise JoinError(f"not joined in {limit:.0f} s") from None


def configuration_of(plan: ClusterPlan) -> Configuration:
    """Returns what a cluster of the lab is in the mesh."""
    address = f"{plan.control_plane.address}:{ETCD_PORT}"
    scope = Scope(plan.policy_scope.value)
    return Configuration(Cluster(plan.name, plan.id), tracker=LAB, address=address, scope=scope)


def forget_cluster(state: StateDir, gone: str, left: Iterable[ClusterPlan]) -> list[str]:
    """Lets those that are left forget a cluster that goes or is gone; returns who could not be told, and why."""

    async def one(plan: ClusterPlan) -> str:
        try:
            async with asyncio.timeout(_FORGET_LIMIT), _member(state, plan) as member:
                if plan.mode is Mode.TRACKER:
                    await forget(member, gone, tell=_silent)
        except (JoiningError, KubeError) as error:
            return f"{plan.name}: {error}"
        except TimeoutError:
            return f"{plan.name}: no answer in {_FORGET_LIMIT:.0f} s"
        return ""

    async def all_of_them() -> list[str]:
        return [text for text in await asyncio.gather(*(one(plan) for plan in left)) if text]

    return asyncio.run(all_of_them())


async def _join_all(
    state: StateDir, plan: ClusterPlan, others: Sequence[ClusterPlan], *, returning: bool
) -> list[ClusterPlan]:
    if returning and plan.mode is not Mode.TRACKER:
        return []
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(_member(state, plan))
        if plan.mode is Mode.TRACKER:
            if returning and await member.configuration() is not None:
                await _forget_strangers(member, plan, {path.name for path in state.clusters.iterdir()})
                return []
            await member.apply([objects.config_map(configuration_of(plan))])
            if plan.connect:
                await enable(member, Wishes(service_type=SERVICE_TYPE, definitions=False), tell=_silent)
        halves = []
        for other in others:
            peer = await stack.enter_async_context(_member(state, other))
            halves += [(member, plan, peer, other), (peer, other, member, plan)]
        await asyncio.gather(*(_join(*half) for half in halves if half[1].mode is Mode.TRACKER))
        return list(others)


async def _join(reader: Member, reading: ClusterPlan, read: Member, plan: ClusterPlan) -> None:
    await join(reader, configuration_of(reading), Party(read, server_url(plan)), configuration_of(plan), tell=_silent)


async def _forget_strangers(member: Member, plan: ClusterPlan, known: set[str]) -> None:
    """Forgets clusters of this lab that were deleted while nobody ran: nothing else is on the segment."""
    peers = read_peers(await member.peers(), own=plan.name).peers
    for peer in peers:
        if peer.cluster.name not in known and _on_segment(peer.access.server):
            await forget(member, peer.cluster.name, tell=_silent)


def _on_segment(server: str) -> bool:
    try:
        return ip_address(urlsplit(server).hostname or "") in ip_network(SEGMENT)
    except ValueError:
        return False


def _member(state: StateDir, plan: ClusterPlan) -> AbstractAsyncContextManager[Member]:
    return open_member(state.cluster(plan.name).kubeconfig("admin"), None)


def _performed(work: Callable[[], Coroutine[Any, Any, _T]], *, given_up: threading.Event, limit: float) -> _T:
    """Runs `work`; raises TimeoutError when it takes too long, or somebody gives up."""

    async def guarded() -> _T:
        async with asyncio.timeout(limit):
            task = asyncio.create_task(work())
            try:
                while not task.done():
                    await asyncio.wait([task], timeout=_PAUSE)
                    if given_up.is_set():
                        raise TimeoutError
            finally:
                task.cancel()
            return task.result()

    return asyncio.run(guarded())


def _silent(_text: str) -> None:
    """Says nothing: the lab tells its own steps."""
