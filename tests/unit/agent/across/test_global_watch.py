"""What time and nodes do to backends of other clusters, in virtual time, and what is said about it."""

import asyncio
import contextlib
import datetime

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from isthmus.agent.across import services as global_services
from isthmus.agent.across import watch as global_watch
from isthmus.agent.across.liveness import Health, Place
from isthmus.agent.across.watch import GlobalWatch
from isthmus.kube.meshobjects import ClusterSeenByNode, MeshCluster, MeshNodeStatus
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.model.endpoint import Cluster, Node
from isthmus.model.mesh import ClusterJoined, ClusterLeft, ClusterSeen, ClusterSynced, NodeTold, SliceTold
from tests.unit.agent.across.test_global_services import Agent, global_service, shared
from tests.unit.agent.services.test_services import slice_

pytestmark = pytest.mark.looptime

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()


def _clock() -> float:
    return EPOCH + asyncio.get_running_loop().time()


class Watch(GlobalWatch):
    """A watch of the agent of `test_global_services`, whose mesh store may be silent."""

    def __init__(self, *, probe_port=None, staleness=600.0) -> None:
        self.agent = Agent()
        self.registry = CollectorRegistry()
        self.silent_since: float | None = None
        self.changes = 0
        self.others = ["west"]
        super().__init__(
            self.agent.globals,
            registry=self.registry,
            members=lambda: self.others,
            on_change=self._count,
            probe_port=probe_port,
            staleness=staleness,
            silence=lambda: 0.0 if self.silent_since is None else _clock() - self.silent_since,
            now=_clock,
        )
        self.agent.services(Put(global_service()))
        self.agent.slices(Put(slice_("10.1.0.1", nodeName="n2")))
        self.mesh([NodeTold(Node("west", "west-1", ("127.0.0.1",), ())), SliceTold(shared("10.2.0.1"))])

    def _count(self) -> None:
        self.changes += 1

    @property
    def used(self) -> set[str]:
        return self.agent.reachable

    def value(self, name: str, cluster: str = "west") -> float | None:
        self.measure()
        return self.registry.get_sample_value(f"isthmus_agent_{name}", {"cluster": cluster})


@contextlib.asynccontextmanager
async def running(watch: Watch):
    task = asyncio.create_task(watch.serve())
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def mesh_cluster(name: str = "west", *, since: float | str = 0.0, over: str = "") -> MeshCluster:
    text = since if isinstance(since, str) else datetime.datetime.fromtimestamp(EPOCH + since, datetime.UTC).isoformat()
    return msgspec.convert({"metadata": {"name": name}, "spec": {"drain": {"since": text, "over": over}}}, MeshCluster)


UNDRAINED = msgspec.convert({"metadata": {"name": "west"}}, MeshCluster)


def _said(logs: list[dict], *events: str) -> list[str]:
    return [log["event"] for log in logs if log["event"] in events]


# -- drains ------------------------------------------------------------------------------------------------------


async def test_a_drain_takes_a_tenth_at_each_step_and_nothing_happens_in_between():
    async with running(Watch()) as watch:
        with capture_logs() as logs:
            watch.on_clusters(Snapshot((mesh_cluster(over="10m"),)))
            await asyncio.sleep(59)
            assert watch.globals.drained == {} and watch.changes == 0
            for step in range(1, 10):
                await asyncio.sleep(60)
                assert watch.globals.drained == {"west": 100 - 10 * step}
                assert watch.used == {"10.1.0.1", "10.2.0.1"}
            await asyncio.sleep(60)
            assert watch.globals.drained == {"west": 0}
            assert watch.used == {"10.1.0.1"}
            assert watch.changes == 10
        assert _said(logs, global_watch.DRAINING, global_watch.DRAINED) == [global_watch.DRAINING, global_watch.DRAINED]
        assert watch.value("cluster_drained") == 1


@pytest.mark.parametrize(
    "how", [Put(UNDRAINED), Gone(mesh_cluster()), Snapshot(())], ids=["undrained", "gone", "not listed"]
)
async def test_an_undrained_cluster_is_back_at_once(how):
    async with running(Watch()) as watch:
        watch.on_clusters(Put(mesh_cluster()))
        assert watch.used == {"10.1.0.1"}
        with capture_logs() as logs:
            watch.on_clusters(how)
        assert watch.used == {"10.1.0.1", "10.2.0.1"}
        assert _said(logs, global_watch.UNDRAINED) == [global_watch.UNDRAINED]


async def test_a_drain_that_cannot_be_read_drains_and_is_said_once():
    async with running(Watch()) as watch:
        with capture_logs() as logs:
            for _ in range(3):
                watch.on_clusters(Put(mesh_cluster(since="yesterday")))
                await asyncio.sleep(100)
        assert watch.used == {"10.1.0.1"}
        assert len(_said(logs, global_watch.BAD_DRAIN)) == 1


# -- staleness ---------------------------------------------------------------------------------------------------


async def test_a_cluster_whose_source_failed_for_long_is_stale_until_it_is_heard_of():
    async with running(Watch()) as watch:
        with capture_logs() as logs:
            watch.mesh([ClusterSeen("west", EPOCH + 5, "connection refused")])
            await asyncio.sleep(604)
            assert watch.used == {"10.1.0.1", "10.2.0.1"} and watch.health("west") == "Unwatched"
            assert watch.reason("west") == "connection refused"
            await asyncio.sleep(2)
            assert watch.used == {"10.1.0.1"} and watch.health("west") == "Stale"
            assert watch.value("cluster_reachable") == 0
            assert watch.value("remote_backends_unreachable") == 1

            watch.mesh([ClusterSeen("west")])
            await asyncio.sleep(0.1)
            assert watch.used == {"10.1.0.1", "10.2.0.1"} and watch.reason("west") == ""
        assert _said(logs, global_watch.CLUSTER_STALE, global_watch.CLUSTER_FRESH) == [
            global_watch.CLUSTER_STALE,
            global_watch.CLUSTER_FRESH,
        ]


async def test_a_mesh_store_that_is_away_for_long_makes_all_others_stale():
    async with running(Watch(staleness=60)) as watch:
        await asyncio.sleep(1000)
        watch.silent_since = _clock()
        await asyncio.sleep(58)
        assert watch.used == {"10.1.0.1", "10.2.0.1"}
        await asyncio.sleep(3)
        assert watch.used == {"10.1.0.1"}
        watch.silent_since = None
        await asyncio.sleep(2)
        assert watch.used == {"10.1.0.1", "10.2.0.1"}


async def test_with_no_limit_nothing_is_ever_stale_and_a_cluster_that_left_is_forgotten():
    async with running(Watch(staleness=0)) as watch:
        watch.mesh([ClusterSeen("west", EPOCH, "away")])
        watch.silent_since = EPOCH
        await asyncio.sleep(1e6)
        assert watch.globals.stale == frozenset()

    async with running(Watch()) as watch:
        watch.mesh([ClusterSeen("west", EPOCH - 1e6, "away"), ClusterLeft("west")])
        watch.mesh([ClusterJoined(Cluster("west", 2)), ClusterSynced("west"), SliceTold(shared("10.2.0.1"))])
        await asyncio.sleep(10)
        assert watch.globals.stale == frozenset()


async def test_the_own_cluster_is_never_stale_here():
    async with running(Watch()) as watch:
        watch.mesh([ClusterSeen("east", EPOCH - 1e6, "away")])
        await asyncio.sleep(10)
        assert watch.globals.stale == frozenset()
        assert watch.used == {"10.1.0.1", "10.2.0.1"}


# -- nodes -------------------------------------------------------------------------------------------------------


async def test_each_change_of_a_node_or_a_cluster_is_one_line_and_one_change():
    watch = Watch(probe_port=1)
    watch.mesh(
        [NodeTold(Node("west", "west-2", ("127.0.0.2",), ())), SliceTold(shared("10.2.1.1", node="west-2", name="b"))]
    )
    one, two = Place("west", "west-1", 4), Place("west", "west-2", 4)
    with capture_logs() as logs:
        for place in (one, one, two):
            watch._turned([(place, Health.UNREACHABLE)])
        assert watch.used == {"10.1.0.1"}
        assert watch.health("west") == "Unreachable" and watch.unreachable("west") == ("west-1", "west-2")
        assert watch.value("nodes_unreachable") == 2
        watch._turned([(one, Health.REACHABLE)])
        assert watch.used == {"10.1.0.1", "10.2.0.1"}
    assert [log["event"] for log in logs] == [
        global_watch.NODE_DOWN,
        global_watch.NODE_DOWN,
        global_watch.CLUSTER_DOWN,
        global_watch.NODE_UP,
        global_watch.CLUSTER_UP,
    ]


@pytest.mark.parametrize(("age", "known"), [(60, True), (7200, False)])
async def test_an_agent_that_comes_during_an_outage_knows_from_its_own_last_word_who_had_answered(age, known):
    watch = Watch(probe_port=1)
    written = datetime.datetime.fromtimestamp(_clock() - age, datetime.UTC).isoformat()
    seen = ClusterSeenByNode(name="west", unreachable=("west-1",))
    watch.recall(MeshNodeStatus(heartbeat=written, clusters=(seen,)))
    assert watch.health("west") == ("Reachable" if known else "Unknown"), "and its silence counts"


async def test_gauges_of_a_cluster_go_with_it():
    watch = Watch(probe_port=1)
    assert (watch.value("remote_backends"), watch.value("cluster_reachable")) == (1, 1)
    watch.others = []
    assert watch.value("remote_backends") is None and watch.value("nodes_unreachable") is None


async def test_left_out_addresses_and_wrong_annotations_are_logged_and_counted():
    watch = Watch()
    with capture_logs() as logs:
        watch.mesh([SliceTold(shared("10.2.0.1", "127.0.0.1"))])
        watch.on_services(Put(global_service(annotations={"service.cilium.io/global": "yes"})))
        watch.catch_up()
    assert _said(logs, global_watch.LEFT_OUT, global_watch.BAD_ANNOTATION) == [
        global_watch.LEFT_OUT,
        global_watch.BAD_ANNOTATION,
    ]
    assert watch.value("remote_backends_left_out") == 0, "the service is not global any more"
    assert watch.registry.get_sample_value("isthmus_agent_global_services_with_problems") == 1


# -- beginnings, parts and clocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["told", "not there", "no answer"])
async def test_a_new_agent_waits_until_it_knows_who_is_drained_and_not_for_ever(how):
    watch = Watch()
    assert watch.missing == ["mesh clusters"]
    watch.on_namespaces(Snapshot(()))
    if how == "told":
        watch.on_clusters(Snapshot((mesh_cluster(),)))
        assert watch.used == {"10.1.0.1"}, "and not a moment of anything else"
    elif how == "not there":
        watch.on_no_clusters()
        assert watch.changes == 1
    else:
        await asyncio.sleep(global_watch.PATIENCE - 0.1)
        assert watch.missing == ["mesh clusters"] and watch.changes == 0
        await asyncio.sleep(0.2)
        assert watch.changes == 1
    assert watch.missing == []


async def test_what_changes_everywhere_is_done_in_parts_with_others_in_between(monkeypatch):
    monkeypatch.setattr(global_services, "PART", 1)
    watch = Watch()
    for number in range(2, 6):
        watch.agent.services(Put(global_service(f"web{number}", clusterIPs=[f"172.20.9.{number}"])))
        watch.mesh([SliceTold(shared(f"10.2.0.{number}", of=f"web{number}", name=f"b{number}"))])
    choices = watch.agent.compiler._choices
    async with running(watch):
        watch.on_clusters(Put(mesh_cluster()))
        passes = []
        while watch.globals.unfinished:
            passes.append(sum(choice.weight("west") == 0 for choice in choices.values()))
            await asyncio.sleep(0)
        assert set(passes) >= {1, 2, 3, 4}, "others had their turn after each part"
        assert all(choice.weight("west") == 0 for choice in choices.values())
        changes = watch.changes
        await asyncio.sleep(10)
        assert watch.changes == changes, "and then nothing more"


async def test_an_outage_that_ends_while_its_parts_are_done_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(global_services, "PART", 1)
    watch = Watch(probe_port=None)
    watch.mesh([SliceTold(shared(f"10.2.0.{number}", name=f"b{number}")) for number in range(2, 6)])
    place = Place("west", "west-1", 4)
    async with running(watch):
        watch._turned([(place, Health.UNREACHABLE)])
        assert watch.globals.unfinished and watch.globals.unreachable["west"] == 1
        watch._turned([(place, Health.REACHABLE)])
        await asyncio.sleep(1)
        assert not watch.globals.unfinished and watch.globals.unreachable["west"] == 0


async def test_a_clock_that_is_set_is_noticed_within_a_minute():
    watch, jump = Watch(staleness=0), 0.0
    watch._now = lambda: _clock() + jump
    async with running(watch):
        watch.on_clusters(Snapshot((mesh_cluster(over="100h"),)))
        await asyncio.sleep(1)
        jump = 50 * 3600.0
        await asyncio.sleep(60)
        assert watch.globals.drained == {"west": 50}
        jump = 0.0
        await asyncio.sleep(60)
        assert watch.globals.drained == {}
