"""Services of several clusters: which backends are there and which are flagged, who is probed, what is said."""

import msgspec
import pytest

from isthmus.agent.across.liveness import Health, Place
from isthmus.agent.across.services import GlobalServices
from isthmus.agent.services.staging import Stage
from isthmus.agent.services.view import ServiceView
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.schema import Bare
from isthmus.model.endpoint import Cluster, Endpoint, Node
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSynced,
    EndpointTold,
    NodeGone,
    NodeTold,
    SliceGone,
    SliceTold,
)
from isthmus.model.service import Target
from isthmus.model.sharing import SharedEndpoint, SharedPort, SharedSlice
from isthmus.ruleset import lines
from isthmus.ruleset.service_layout import REFUSED
from isthmus.ruleset.services import ServiceCompiler
from isthmus.ruleset.table import Table
from isthmus.services.pool import Reach
from tests.support.service_tables import in_use
from tests.unit.agent.services.test_services import VIP, service, slice_

GLOBAL = {"service.cilium.io/global": "true"}
FRONTEND = (VIP, 6, 80)


def global_service(name="web", *, annotations=None, **given):
    obj = service(name, **given)
    meta = msgspec.structs.replace(obj.metadata, annotations=GLOBAL if annotations is None else annotations)
    return msgspec.structs.replace(obj, metadata=meta)


def namespace(name="x", **annotations) -> Bare:
    return msgspec.convert({"metadata": {"name": name, "annotations": annotations}}, Bare)


CLOSED = namespace(**{"clustermesh.cilium.io/global": "false"})


def shared(*addresses, cluster="west", name="web-9", of="web", port=8080, weight=100, version=4, **endpoint):
    given = {"node": f"{cluster}-1", **endpoint}
    return SharedSlice(
        cluster,
        "x",
        name,
        of,
        version,
        tuple(SharedEndpoint(address, **given) for address in addresses),
        (SharedPort("", 6, port),),
        weight,
    )


class Agent:
    """The view of an agent of node n1 of cluster east, and what others tell it."""

    def __init__(self, *, everything=True):
        self.pods = {}
        self.compiler = ServiceCompiler(Table(), node="n1")
        self.globals = GlobalServices(
            self.compiler, own="east", node="n1", everything=everything, endpoint=lambda ip: self.pods.get(ip)
        )
        self.view = ServiceView(self.globals.stage, cluster="east")
        self.namespaces(Snapshot(()))
        self.tell(
            *(event for name in ("east", "west") for event in (ClusterJoined(Cluster(name, 1)), ClusterSynced(name)))
        )

    def services(self, change):
        self.globals.services(change)
        return self.view.services(change)

    def slices(self, change):
        return self.view.slices(change)

    def namespaces(self, change):
        self.globals.namespaces(change)

    def tell(self, *events):
        for event in events:
            if isinstance(event, EndpointTold):
                self.pods[event.endpoint.ip] = event.endpoint
        self.globals.mesh(events)

    @property
    def reachable(self) -> set[str]:
        return {target.address for target in in_use(self.compiler, FRONTEND)}

    def targets(self) -> dict[str, str]:
        return {
            f"{place.cluster}/{place.node}": address
            for place, address in self.globals.neighbours.take_targets().items()
        }


@pytest.fixture
def agent() -> Agent:
    agent = Agent()
    agent.services(Put(global_service()))
    agent.slices(Put(slice_("10.1.0.1", nodeName="n2")))
    agent.tell(
        NodeTold(Node("east", "n1", ("172.18.0.1",), ("10.1.1.0/24",))),
        NodeTold(Node("east", "n2", ("172.18.0.2",), ("10.1.0.0/24",))),
        NodeTold(Node("west", "west-1", ("172.18.1.1", "fd00::1"), ("10.2.0.0/24",))),
        NodeTold(Node("west", "west-2", ("172.18.1.2",), ("10.2.1.0/24",))),
    )
    return agent


# -- whose backends ----------------------------------------------------------------------------------------------


def test_backends_of_all_clusters_are_used_alike_and_go_one_by_one(agent: Agent):
    agent.tell(SliceTold(shared("10.2.0.1", "10.2.0.2")))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1", "10.2.0.2"}
    assert in_use(agent.compiler, FRONTEND) >= {Target("10.2.0.1", 8080)}
    assert agent.globals.backends == {"west": 2}

    agent.tell(SliceTold(shared("10.2.0.2")))
    assert agent.reachable == {"10.1.0.1", "10.2.0.2"}
    agent.tell(SliceGone("west", ("x", "web-9")))
    assert agent.reachable == {"10.1.0.1"}
    assert agent.globals.backends["west"] == 0


def test_a_service_that_is_not_global_here_gets_nothing_of_others_until_it_is_and_nothing_after(agent: Agent):
    agent.services(Put(service()))
    agent.tell(SliceTold(shared("10.2.0.1")))
    assert agent.reachable == {"10.1.0.1"}
    assert all(len(key) == 2 for key in agent.compiler.slices)

    agent.services(Put(global_service()))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1"}
    agent.services(Put(global_service(annotations={"io.cilium/global-service": "false"})))
    assert agent.reachable == {"10.1.0.1"}


def test_a_namespace_that_is_not_global_keeps_others_out_until_it_is(agent: Agent):
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.namespaces(Put(CLOSED))
    assert agent.reachable == {"10.1.0.1"}
    assert agent.globals.declarations.count == 0

    agent.namespaces(Put(namespace("y")))
    assert agent.reachable == {"10.1.0.1"}
    agent.namespaces(Gone(CLOSED))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1"}
    agent.namespaces(Snapshot((CLOSED,)))
    assert agent.reachable == {"10.1.0.1"}
    agent.namespaces(Snapshot((namespace(),)))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1"}


def test_a_cluster_that_has_not_told_everything_does_not_count_until_it_has(agent: Agent):
    agent.tell(ClusterJoined(Cluster("north", 3)), SliceTold(shared("10.3.0.1", cluster="north")))
    assert agent.reachable == {"10.1.0.1"}
    agent.tell(ClusterSynced("north"))
    assert agent.reachable == {"10.1.0.1", "10.3.0.1"}
    agent.tell(ClusterSynced("north"))
    assert agent.globals.backends["north"] == 1

    agent.tell(ClusterLeft("north"))
    assert agent.reachable == {"10.1.0.1"}
    agent.tell(ClusterJoined(Cluster("north", 3)), SliceTold(shared("10.3.0.2", cluster="north")))
    assert agent.reachable == {"10.1.0.1"}


def test_what_the_own_cluster_publishes_is_not_heard_twice(agent: Agent):
    agent.tell(SliceTold(shared("10.1.0.1", "10.1.0.9", cluster="east")))
    assert agent.reachable == {"10.1.0.1"}


def test_a_slice_may_move_to_another_service(agent: Agent):
    agent.services(Put(global_service("api", clusterIPs=["172.20.0.2"])))
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.tell(SliceTold(shared("10.2.0.1", of="api")))
    assert agent.reachable == {"10.1.0.1"}
    assert {t.address for t in in_use(agent.compiler, ("172.20.0.2", 6, 80))} == {"10.2.0.1"}


def test_affinity_and_weights_of_the_others_and_drains_decide_who_is_used(agent: Agent):
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.services(Put(global_service(annotations={**GLOBAL, "service.cilium.io/affinity": "local"})))
    assert agent.reachable == {"10.1.0.1"}
    agent.services(Put(global_service(annotations={**GLOBAL, "isthmus.dev/affinity": "west,east"})))
    assert agent.reachable == {"10.2.0.1"}

    agent.services(Put(global_service()))
    agent.tell(SliceTold(shared("10.2.0.1", weight=0)))
    assert agent.reachable == {"10.1.0.1"}
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.globals.drain({"east": 0})
    assert agent.reachable == {"10.2.0.1"}
    agent.globals.drain({})
    assert agent.reachable == {"10.1.0.1", "10.2.0.1"}


def test_beside_a_kube_proxy_only_global_services_are_in_the_table(agent: Agent):
    agent = Agent(everything=False)
    agent.slices(Snapshot((slice_("10.1.0.1", name="api-1", of="api"), slice_("10.1.0.2"))))
    agent.services(Snapshot((service("api", clusterIPs=["172.20.0.2"]), service())))
    agent.tell(SliceTold(shared("10.2.0.1")))
    assert not agent.compiler.services and not agent.compiler.slices

    agent.services(Put(global_service()))
    assert agent.reachable == {"10.1.0.2", "10.2.0.1"}
    assert list(agent.compiler.services) == [("x", "web")]
    agent.namespaces(Put(CLOSED))
    assert not agent.compiler.services and not agent.compiler.slices
    agent.namespaces(Put(namespace()))
    assert agent.reachable == {"10.1.0.2", "10.2.0.1"}

    agent.slices(Put(slice_("10.1.0.2", "10.1.0.3")))
    assert agent.reachable == {"10.1.0.2", "10.1.0.3", "10.2.0.1"}
    agent.services(Put(service()))
    assert not agent.compiler.services and not agent.compiler.slices
    agent.slices(Snapshot(()))
    agent.services(Put(global_service()))
    assert agent.reachable == {"10.2.0.1"}
    agent.services(Snapshot(()))
    assert not agent.compiler.services


def test_beside_a_kube_proxy_nothing_is_said_of_services_that_are_not_ours(agent: Agent):
    agent = Agent(everything=False)
    bad = {"externalIPs": ["0.0.0.0"]}
    assert agent.services(Put(service(**bad))) == []
    assert agent.slices(Put(slice_("300.1.1.1"))) == []
    assert len(agent.services(Put(global_service(**bad)))) == 1
    assert agent.view.faulty == 1
    agent.services(Put(service(**bad)))
    assert agent.view.faulty == 0


def test_mirrored_slices_count_only_where_the_agent_leaves_global_services_to_them(agent: Agent):
    mirror = slice_("10.2.0.1", name="web-west")
    labels = {
        **mirror.metadata.labels,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.isthmus.dev",
    }
    mirror = msgspec.structs.replace(mirror, metadata=msgspec.structs.replace(mirror.metadata, labels=labels))
    agent.slices(Put(mirror))
    assert agent.reachable == {"10.1.0.1"}

    plain = ServiceView(Stage(ServiceCompiler(Table(), node="n1")), cluster="east")
    plain.services(Put(global_service()))
    plain.slices(Put(mirror))
    assert {target.address for target in in_use(plain.compiler, FRONTEND)} == {"10.2.0.1"}


def test_a_headless_service_is_counted_and_has_no_dataplane(agent: Agent):
    agent.services(Put(global_service("db", clusterIP="None", clusterIPs=["None"])))
    agent.tell(SliceTold(shared("10.2.0.1", of="db")))
    assert agent.globals.declarations.count == 2
    assert agent.globals.backends["west"] == 0


def test_the_last_backend_of_all_leaves_a_refusal(agent: Agent):
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.slices(Gone(slice_("10.1.0.1")))
    assert agent.reachable == {"10.2.0.1"}
    agent.tell(SliceTold(shared()))
    assert agent.compiler.table.elements["services4"][FRONTEND] == REFUSED


# -- whose addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.1.0.77", "belongs to cluster east"),
        ("172.18.0.2", "belongs to cluster east"),
        ("127.0.0.1", "not an address that a backend can have"),
        ("169.254.169.254", "not an address that a backend can have"),
        ("224.0.0.1", "not an address that a backend can have"),
        ("fd00::7", "not an address that a backend can have"),
        ("10.2.0.01", "not an address that a backend can have"),
        ("web.example", "not an address that a backend can have"),
    ],
)
def test_an_address_that_is_not_the_clusters_to_share_is_left_out_and_said_once(agent: Agent, address, why):
    for _ in range(2):
        agent.tell(SliceTold(shared("10.2.0.1", address)))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1"}
    assert [news.reasons for news in agent.globals.take_left_out()] == [((address, why),)]
    assert agent.globals.left_out() == {"west": 1}

    agent.tell(SliceTold(shared("10.2.0.1")))
    assert [news.reasons for news in agent.globals.take_left_out()] == [()]
    assert not agent.globals.left_out()


def test_an_address_changes_hands_with_the_network_that_holds_it(agent: Agent):
    agent.tell(SliceTold(shared("10.9.0.1")))
    assert "10.9.0.1" in agent.reachable, "nobody's"
    agent.tell(NodeTold(Node("east", "n3", ("172.18.0.3",), ("10.9.0.0/24",))))
    assert "10.9.0.1" not in agent.reachable
    agent.tell(NodeTold(Node("west", "west-3", ("172.18.1.3",), ("10.9.0.0/28",))))
    assert "10.9.0.1" in agent.reachable, "the narrower network decides"
    agent.tell(NodeGone("west", "west-3"))
    assert "10.9.0.1" not in agent.reachable
    agent.tell(NodeGone("east", "n3"))
    assert "10.9.0.1" in agent.reachable


# -- who is there ------------------------------------------------------------------------------------------------


def test_only_nodes_with_backends_of_services_of_several_clusters_are_probed_and_never_the_own_one(agent: Agent):
    assert agent.globals.neighbours.take_targets() is None
    agent.tell(SliceTold(shared("10.2.0.1")))
    assert agent.targets() == {"east/n2": "172.18.0.2", "west/west-1": "172.18.1.1"}
    assert agent.globals.neighbours.take_targets() is None

    agent.slices(Put(slice_("10.1.1.1", nodeName="n1")))
    assert agent.targets() == {"west/west-1": "172.18.1.1"}
    agent.tell(SliceTold(shared("10.2.1.1", node="west-2")))
    assert agent.targets() == {"west/west-2": "172.18.1.2"}
    agent.services(Put(service()))
    assert agent.targets() == {}


def test_backends_of_an_unreachable_node_are_used_only_if_nothing_else_is_left(agent: Agent):
    agent.tell(SliceTold(shared("10.2.0.1")), SliceTold(shared("10.2.1.1", node="west-2", name="web-8")))
    agent.globals.turned((Place("west", "west-1", 4), Health.UNREACHABLE))
    assert agent.reachable == {"10.1.0.1", "10.2.1.1"}
    assert agent.globals.unreachable == {"west": 1}
    assert not agent.globals.neighbours.cluster_down("west")

    agent.globals.turned((Place("west", "west-2", 4), Health.UNREACHABLE))
    assert agent.globals.neighbours.cluster_down("west")
    agent.globals.turned((Place("east", "n2", 4), Health.UNREACHABLE))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1", "10.2.1.1"}, "refusing would be certain failure"
    agent.globals.turned((Place("west", "west-1", 4), Health.REACHABLE))
    assert agent.reachable == {"10.2.0.1"}


def test_a_backend_that_comes_on_an_unreachable_node_is_flagged_at_once(agent: Agent):
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.globals.turned((Place("west", "west-1", 4), Health.UNREACHABLE))
    agent.tell(SliceTold(shared("10.2.0.1", "10.2.0.2")))
    assert agent.reachable == {"10.1.0.1"}
    assert agent.globals.unreachable == {"west": 2}


def test_a_service_of_one_cluster_keeps_its_backends_whatever_is_said_of_their_nodes(agent: Agent):
    agent.services(Put(global_service("api", clusterIPs=["172.20.0.2"])))
    agent.tell(SliceTold(shared("10.2.0.1")), SliceTold(shared("10.2.0.1", "10.2.1.1", of="api", name="api-1")))
    agent.globals.turned((Place("west", "west-1", 4), Health.UNREACHABLE))
    assert {t.address for t in in_use(agent.compiler, ("172.20.0.2", 6, 80))} == {"10.2.0.1", "10.2.1.1"}

    agent.slices(Gone(slice_()))
    assert agent.reachable == {"10.2.0.1"}
    assert not any(b.reachable is False for s in agent.compiler.slices.values() for _, b in s.backends)


@pytest.mark.parametrize("known_by", ["node", "host address"])
def test_the_node_of_a_backend_of_which_nobody_told_it_is_that_of_the_pod(agent: Agent, known_by):
    agent.tell(SliceTold(shared("10.2.0.1", node="")), SliceTold(shared("10.2.0.2", node="", name="web-8")))
    assert agent.targets() == {"east/n2": "172.18.0.2"}
    pod = Endpoint("west", "10.2.0.1", 1, "x", "p", node="west-1" if known_by == "node" else "", host_ip="172.18.1.1")
    agent.tell(EndpointTold(pod))
    name = "west-1" if known_by == "node" else "172.18.1.1"
    assert agent.targets() == {"east/n2": "172.18.0.2", f"west/{name}": "172.18.1.1"}

    agent.globals.turned((Place("west", name, 4), Health.UNREACHABLE))
    assert agent.reachable == {"10.1.0.1"}, "all known nodes of the cluster are down, so is the unknown one"
    agent.globals.turned((Place("west", name, 4), Health.REACHABLE))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1", "10.2.0.2"}


def test_a_node_is_probed_at_its_address_of_the_backends_family_or_at_any_and_again_when_it_moves(agent: Agent):
    agent.tell(
        SliceTold(shared("fd00:2::1", version=6)), SliceTold(shared("fd00:2::2", version=6, node="west-2", name="b"))
    )
    agent.slices(Put(slice_("fd00:1::1", kind="IPv6", name="six", nodeName="n2")))
    targets = agent.globals.neighbours.take_targets()
    assert targets[Place("west", "west-1", 6)] == "fd00::1"
    assert targets[Place("west", "west-2", 6)] == "172.18.1.2"

    agent.globals.turned((Place("west", "west-2", 6), Health.UNREACHABLE))
    agent.tell(NodeTold(Node("west", "west-2", ("172.18.1.9",), ("10.2.1.0/24",))))
    assert agent.globals.neighbours.take_targets()[Place("west", "west-2", 6)] == "172.18.1.9"
    assert agent.globals.unreachable["west"] == 0, "of the new address nothing is known"
    agent.tell(NodeGone("west", "west-2"))
    assert Place("west", "west-2", 6) not in agent.globals.neighbours.take_targets()


def test_a_stale_cluster_is_used_only_if_nothing_else_is_left(agent: Agent):
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.globals.set_stale(frozenset({"west"}))
    assert agent.reachable == {"10.1.0.1"}
    agent.slices(Put(slice_("10.1.0.1", conditions={"ready": False})))
    assert agent.reachable == {"10.2.0.1"}
    agent.globals.set_stale(frozenset())
    agent.slices(Put(slice_("10.1.0.1")))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1"}


# -- what is said ------------------------------------------------------------------------------------------------


def test_wrong_annotations_are_said_once_and_once_more_when_they_are_mended(agent: Agent):
    bad = global_service(annotations={**GLOBAL, "service.cilium.io/affinity": "near"})
    agent.services(Put(bad))
    agent.services(Snapshot((bad,)))
    (report,) = agent.globals.declarations.take_reports()
    assert [p.field for p in report.problems] == ["metadata.annotations[service.cilium.io/affinity]"]
    assert agent.globals.declarations.faulty == 1

    agent.services(Put(service()))
    (mended,) = agent.globals.declarations.take_reports()
    assert mended.problems == () and agent.globals.declarations.faulty == 0
    agent.namespaces(Put(namespace(**{"clustermesh.cilium.io/global": "no"})))
    assert [r.ref.kind for r in agent.globals.declarations.take_reports()] == ["Namespace"]
    agent.namespaces(Snapshot(()))
    assert agent.globals.declarations.faulty == 0


def test_each_cluster_has_a_count_of_what_it_shares(agent: Agent):
    agent.tell(
        SliceTold(shared("10.2.0.1")), SliceTold(shared("10.2.0.2", name="b")), SliceTold(shared(of="z", name="z"))
    )
    assert agent.globals.shared_by() == {"west": 2}


def test_too_many_backends_are_said_also_when_they_are_others(agent: Agent, monkeypatch):
    monkeypatch.setitem(lines._ROOM, Reach.ALL, 2)
    agent.tell(SliceTold(shared("10.2.0.1", "10.2.0.2")))
    (report,) = agent.view.recount(agent.globals.take_touched())
    assert "too many backends: 1" in str(report.problems[0])
    agent.tell(SliceGone("west", ("x", "web-9")))
    (mended,) = agent.view.recount(agent.globals.take_touched())
    assert mended.problems == ()


# -- what is forgotten, and what was never meant -------------------------------------------------------------------


def test_while_a_cluster_changes_its_weight_slice_by_slice_the_greater_one_counts(agent: Agent):
    for weights in ((20, 100), (100, 20)):
        agent.tell(*(SliceTold(shared(f"10.2.0.{n}", name=f"s{n}", weight=w)) for n, w in enumerate(weights, 1)))
        assert agent.compiler._choices["x", "web"].weight("west") == 100
    agent.tell(SliceTold(shared("10.2.0.1", name="s1", weight=20)))
    assert agent.compiler._choices["x", "web"].weight("west") == 20


def test_the_networks_of_a_cluster_that_left_are_everybodys_to_name(agent: Agent):
    agent.tell(ClusterJoined(Cluster("north", 3)), ClusterSynced("north"))
    agent.tell(SliceTold(shared("10.2.0.1", cluster="north")))
    assert agent.reachable == {"10.1.0.1"} and agent.globals.left_out() == {"north": 1}
    agent.tell(ClusterLeft("west"))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1"} and not agent.globals.left_out()

    agent.tell(SliceTold(shared("127.0.0.1", cluster="north")))
    assert agent.globals.left_out() == {"north": 1}
    agent.tell(SliceGone("north", ("x", "web-9")))
    assert not agent.globals.left_out()


def test_a_slice_that_moves_to_a_service_that_only_its_cluster_answers_for_needs_no_probes(agent: Agent):
    agent.services(Put(global_service("api", clusterIPs=["172.20.9.9"])))
    agent.tell(SliceTold(shared("10.2.0.1")))
    assert ("west", "x", "web-9") in agent.globals.neighbours.slices()
    agent.tell(SliceTold(shared("10.2.0.1", of="api")))
    assert set(agent.globals.neighbours.slices()) == set()
    assert not agent.globals.neighbours.watched("west")


def test_a_slice_without_backends_makes_nobody_worth_probing(agent: Agent):
    agent.tell(SliceTold(shared()))
    assert agent.globals.neighbours.take_targets() is None


def test_the_own_node_is_not_probed_in_any_family(agent: Agent):
    agent.slices(Put(slice_("fd00:10::5", name="web-6", nodeName="n1", kind="IPv6")))
    agent.tell(SliceTold(shared("10.2.0.1")), SliceTold(shared("fd00:20::1", name="six", version=6)))
    assert {place.node for place in agent.globals.neighbours.watched("east")} == {"n2"}
    assert {place.version for place in agent.globals.neighbours.watched("west")} == {4, 6}


def test_a_namespace_that_is_not_listed_any_more_forbids_nothing(agent: Agent):
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.namespaces(Put(CLOSED))
    assert agent.reachable == {"10.1.0.1"}
    agent.namespaces(Snapshot(()))
    assert agent.reachable == {"10.1.0.1", "10.2.0.1"}


def test_own_backends_without_a_node_are_never_lost_with_the_other_nodes(agent: Agent):
    agent.slices(Put(slice_("10.1.0.7", name="web-2")))
    agent.tell(SliceTold(shared("10.2.0.1")))
    agent.globals.turned((Place("east", "n2", 4), Health.UNREACHABLE))
    assert agent.reachable == {"10.1.0.7", "10.2.0.1"}
