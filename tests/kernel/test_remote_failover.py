"""Three clusters, real packets and real probes: who falls silent gets no new connections until it is back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from isthmus.agent.across.liveness import Health, Place
from isthmus.agent.across.services import GlobalServices
from isthmus.agent.across.watch import GlobalWatch
from isthmus.agent.services.view import ServiceView
from isthmus.kernel.namespaces import inside_descriptor
from isthmus.kube.reflector import Put, Snapshot
from isthmus.model.endpoint import Cluster, Node
from isthmus.model.mesh import ClusterJoined, ClusterSynced, NodeTold, SliceTold
from tests.support.netns import GATEWAY4, GATEWAY6, World
from tests.support.service_node import NODE, VIP4, VIP6, Answerers, ServiceNode
from tests.unit.agent.across.test_global_services import global_service, shared
from tests.unit.agent.services.test_services import slice_

PORT = 10250
HOSTS = {
    "client": ("10.244.0.10", "fd00:10:244::a"),
    "n2": ("172.18.0.2", "fd00:172:18::2", "10.1.0.1", "fd00:1::1"),
    "west-1": ("172.18.1.1", "fd00:172:18:1::1", "10.2.0.1", "fd00:2::1"),
    "north-1": ("172.18.2.1", "fd00:172:18:2::1", "10.3.0.1", "fd00:3::1"),
}
VIPS = {4: VIP4, 6: VIP6}
EVERYONE = {"n2:8080", "west-1:8080", "north-1:8080"}


@pytest.fixture
def node() -> Iterator[ServiceNode]:
    """A node of cluster east with a client; a second node of east, and one each of west and north, with a backend."""
    with World(HOSTS) as world, Answerers() as answerers:
        for name in HOSTS.keys() - {"client"}:
            answerers.add(world, name, (8080,), ("TCP",))
        made = ServiceNode(world, outside=HOSTS.keys() - {"client"})
        assert world.elements, "opened before the loop takes the namespace's thread"
        yield made


class Failover:
    """The part of an agent that matters, at work in the node's namespace."""

    def __init__(self, node: ServiceNode, version: int) -> None:
        self.node = node
        self.version = version
        self.changes = asyncio.Event()
        self.registry = CollectorRegistry()
        joined = GlobalServices(node.services, own="east", node=NODE)
        self.watch = GlobalWatch(
            joined,
            registry=self.registry,
            members=lambda: ["west", "north"],
            on_change=self.changes.set,
            probe_port=PORT,
            staleness=0,
        )
        self.view = ServiceView(joined.stage, cluster="east")
        self._tell()
        node.push()

    def _tell(self) -> None:
        at = 0 if self.version == 4 else 1
        web = global_service(clusterIPs=list(VIPS.values()), clusterIP=VIP4)
        self.watch.on_namespaces(Snapshot(()))
        self.watch.on_services(Put(web))
        self.view.services(Put(web))
        self.view.slices(Put(slice_(HOSTS["n2"][2 + at], nodeName="n2", kind=f"IPv{self.version}")))
        events = []
        for cluster, host in (("east", "n2"), ("west", "west-1"), ("north", "north-1")):
            ips = HOSTS[host]
            events += [
                ClusterJoined(Cluster(cluster, 1)),
                NodeTold(Node(cluster, host, ips[:2])),
                ClusterSynced(cluster),
            ]
            if cluster != "east":
                events.append(SliceTold(shared(ips[2 + at], cluster=cluster, node=host, version=self.version)))
        self.watch.mesh(events)

    def health(self, cluster: str, host: str) -> Health:
        prober = self.watch._prober
        assert prober is not None
        return prober.liveness.health(Place(cluster, host, self.version))

    async def until(self, health: Health, *hosts: tuple[str, str]) -> None:
        """Waits until hosts are that, and writes what follows as an agent does."""
        async with asyncio.timeout(60):
            while any(self.health(*host) is not health for host in hosts):
                self.changes.clear()
                await self.changes.wait()
        self.node.push()

    async def misses(self, count: int) -> None:
        """Waits until so many probes were in vain."""
        async with asyncio.timeout(60):
            while (self.registry.get_sample_value("isthmus_agent_probes_total", {"outcome": "missed"}) or 0) < count:
                await asyncio.sleep(0.02)

    async def answers(self, times: int = 60) -> set[str]:
        """Opens connections from the client, and returns who answered."""
        ask = self.node.ask_often
        return set(await asyncio.to_thread(ask, "client", VIPS[self.version], 80, times=times, patience=20))

    def silence(self, host: str) -> None:
        """Takes a host's way back: what is sent to it vanishes."""
        self.node.world[host].command("ip", f"-{self.version}", "route", "del", "default")

    def restore(self, host: str) -> None:
        gateway = GATEWAY4 if self.version == 4 else GATEWAY6
        self.node.world[host].command(
            "ip", f"-{self.version}", "route", "add", "default", "via", gateway, "dev", "eth0"
        )


@asynccontextmanager
async def failing_over(node: ServiceNode, version: int) -> AsyncIterator[Failover]:
    failover = Failover(node, version)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(failover.watch.serve())
        yield failover
        serving.cancel()


WEST, NORTH, SECOND = ("west", "west-1"), ("north", "north-1"), ("east", "n2")


@pytest.mark.parametrize("version", [4, 6])
def test_new_connections_go_elsewhere_while_a_cluster_is_silent_and_come_back_with_it(node: ServiceNode, version):
    async def story() -> None:
        async with failing_over(node, version) as failover:
            await failover.until(Health.REACHABLE, WEST, NORTH, SECOND)
            assert await failover.answers() == EVERYONE

            failover.silence("west-1")
            await failover.until(Health.UNREACHABLE, WEST)
            assert await failover.answers() == EVERYONE - {"west-1:8080"}
            failover.silence("n2")
            await failover.until(Health.UNREACHABLE, SECOND)
            assert await failover.answers(20) == {"north-1:8080"}

            failover.restore("west-1")
            await failover.until(Health.REACHABLE, WEST)
            assert await failover.answers() == EVERYONE - {"n2:8080"}

    inside_descriptor(node.world.router.descriptor, lambda: asyncio.run(story()))


def test_a_port_that_is_filtered_from_the_start_is_no_reason_to_leave_a_cluster_out(node: ServiceNode):
    rules = f"table inet t {{\nchain c {{\ntype filter hook input priority 0;\ntcp dport {PORT} drop\n}}\n}}\n"
    node.world["west-1"].command("nft", "-f", "-", text=rules)

    async def story() -> None:
        async with failing_over(node, 4) as failover:
            await failover.until(Health.REACHABLE, NORTH, SECOND)
            await failover.misses(5)
            assert failover.health(*WEST) is Health.UNKNOWN
            assert await failover.answers() == EVERYONE

    inside_descriptor(node.world.router.descriptor, lambda: asyncio.run(story()))
