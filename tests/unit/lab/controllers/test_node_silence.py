"""Which node is given up, and which is not because it is this side that hears nothing."""

import asyncio
import contextlib
from typing import Any

import pytest
from msgspec import to_builtins

from isthmus.kube.errors import ConnectionFailed
from isthmus.kube.reflector import Snapshot
from isthmus.kube.resources import LEASES, NODES
from isthmus.lab.controllers.nodes.lifecycle import NodeLifecycle
from isthmus.lab.controllers.objects.meta import Meta
from isthmus.lab.controllers.objects.nodes import Lease, LeaseSpec
from isthmus.lab.controllers.world import NODE_LEASES, World
from tests.support.clusterobjects import NOW, FakeClient, node

pytestmark = pytest.mark.looptime
GRACE = 40.0


class Rig:
    def __init__(self) -> None:
        self.client = FakeClient()
        self.world: Any = World(self.client, clock=lambda: NOW)
        self.lifecycle = NodeLifecycle(self.world, grace=GRACE)

    async def begin(self) -> None:
        self.client.put(NODES, to_builtins(node("a")))
        await self.world.nodes.take(Snapshot((node("a"), node("b"))))
        await self.renew("2027-01-15T08:00:00.000000Z")
        await self.look()

    async def renew(self, at: str, *, seen: bool = True) -> None:
        lease = Lease(metadata=Meta(name="a", namespace=NODE_LEASES), spec=LeaseSpec(renewTime=at))
        self.client.put(LEASES, lease)
        if seen:
            await self.world.leases.take(Snapshot((lease,)))

    async def look(self) -> None:
        await self.lifecycle._round(("", "a"))

    @property
    def lost(self) -> bool:
        return ("patch", "a") in self.client.calls


async def test_silence_beyond_the_grace_is_a_lost_node() -> None:
    rig = Rig()
    await rig.begin()
    await asyncio.sleep(39)
    await rig.look()
    assert not rig.lost
    await asyncio.sleep(2)
    await rig.look()
    assert rig.lost
    ready = rig.client.objects[str(NODES), "", "a"]["status"]["conditions"]
    assert {one["status"] for one in ready} == {"Unknown"}


async def test_a_renewal_that_the_watch_did_not_show_counts() -> None:
    rig = Rig()
    await rig.begin()
    await asyncio.sleep(39)
    await rig.renew("2027-01-15T08:00:30.000000Z", seen=False)
    await rig.look()
    await asyncio.sleep(5)
    await rig.look()
    assert not rig.lost


async def test_an_older_renewal_from_a_late_watch_is_no_sign_of_life() -> None:
    rig = Rig()
    await rig.begin()
    await asyncio.sleep(30)
    await rig.renew("2027-01-15T07:59:50.000000Z")
    await rig.look()
    await asyncio.sleep(11)
    await rig.look()
    assert rig.lost


async def test_an_api_server_that_was_away_costs_no_node() -> None:
    rig = Rig()
    await rig.begin()
    await asyncio.sleep(30)
    rig.client.unreachable = True
    for _ in range(20):
        await asyncio.sleep(5)
        with contextlib.suppress(ConnectionFailed):
            await rig.look()
    rig.client.unreachable = False
    await asyncio.sleep(15)
    await rig.look()
    assert not rig.lost
    await asyncio.sleep(30)
    await rig.look()
    assert rig.lost
