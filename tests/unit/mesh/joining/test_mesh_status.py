"""The status of the mesh for every shape that it can have, judged and in words."""

import datetime
import json

import msgspec

from isthmus.kube.access import Access
from isthmus.kube.meshobjects import ClusterSeenByNode, MeshCluster, MeshClusterStatus, MeshNode, MeshNodeStatus
from isthmus.kube.schema import (
    LeaseSpec,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Node,
    NodeAddress,
    NodeStatus,
    ObjectMeta,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from isthmus.mesh.joining.status import FRESH, Replicas, Seen, judge
from isthmus.mesh.joining.telling import as_json, summary, waiting_for
from isthmus.mesh.membership import LAB, Configuration, Membership, Peer, Refused
from isthmus.model.endpoint import Cluster

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
TION = Peer(Cluster("tion", 2), Access("https://tion"))


def service(kind: str = "ClusterIP", *, ingress: tuple[LoadBalancerIngress, ...] = ()) -> Service:
    return Service(
        metadata=ObjectMeta(name="isthmus-tracker"),
        spec=ServiceSpec(
            type=kind, clusterIP="10.0.0.9", clusterIPs=("10.0.0.9",), ports=(ServicePort(2379, nodePort=32379),)
        ),
        status=ServiceStatus(LoadBalancerStatus(ingress)),
    )


def node(name: str, address: str) -> Node:
    return Node(metadata=ObjectMeta(name=name), status=NodeStatus(addresses=(NodeAddress("InternalIP", address),)))


def agent(name: str, *clusters: ClusterSeenByNode, age: float = 5, services: int = 0, ready: bool = True) -> MeshNode:
    heartbeat = (NOW - datetime.timedelta(seconds=age)).isoformat().replace("+00:00", "Z")
    status = MeshNodeStatus(
        ready=ready,
        reason="" if ready else "no kernel",
        heartbeat=heartbeat,
        clusters=clusters,
        globalServices=services,
    )
    return MeshNode(metadata=ObjectMeta(name=name), status=status)


def cluster(name: str, state: str = "Synced", *, own: bool = False, reason: str = "") -> MeshCluster:
    return MeshCluster(metadata=ObjectMeta(name=name), status=MeshClusterStatus(own=own, state=state, reason=reason))


SEES_TION = ClusterSeenByNode("tion", ready=True)
WELL = Seen(
    configuration=Configuration(Cluster("koornacht", 1)),
    service=service(),
    now=NOW,
    nodes=[node("n1", "172.18.0.2"), node("n2", "172.18.0.3")],
    replicas=Replicas(1, 1),
    membership=Membership((TION,)),
    mesh_nodes=[agent("n1", SEES_TION, services=2), agent("n2", SEES_TION, services=1)],
    mesh_clusters=[cluster("koornacht", own=True), cluster("tion")],
)


def seen(**changes: object) -> Seen:
    return msgspec.structs.replace(WELL, **changes)


def test_all_is_well() -> None:
    status = judge(WELL)
    assert status.well
    assert waiting_for(status) == ""
    assert summary(status) == (
        """\
✅ Service "isthmus-tracker" of type "ClusterIP" found
✅ Cluster access information is available:
  - 10.0.0.9:2379
✅ Deployment isthmus-tracker is ready

✅ All 2 nodes are connected to all clusters [min:1 / avg:1.0 / max:1]
✅ All 1 trackers are connected to all clusters [min:1 / avg:1.0 / max:1]

🔌 Cluster Connections:
  - tion: 2/2 configured, 2/2 connected - tracker: 1/1 configured, 1/1 connected

🔀 Global services: [ min:1 / avg:1.5 / max:2 ]
"""
    )


def test_enabled_and_not_connected_with_anybody_is_well() -> None:
    status = judge(
        seen(
            membership=Membership(),
            mesh_nodes=[agent("n1"), agent("n2")],
            mesh_clusters=[cluster("koornacht", own=True)],
        )
    )
    assert status.well
    text = summary(status)
    assert "✅ All 2 nodes are connected to all clusters [min:0 / avg:0.0 / max:0]" in text
    assert "🔌 No cluster connected" in text
    assert "Errors" not in text


def test_one_node_of_two_is_not_connected() -> None:
    late = ClusterSeenByNode("tion", ready=False, reason="synchronization in progress for endpoints")
    status = judge(seen(mesh_nodes=[agent("n1", SEES_TION), agent("n2", late)]))
    assert not status.well
    assert waiting_for(status) == "for clusters to be connected: 1 nodes are not ready"
    text = summary(status)
    assert "⚠️  1/2 nodes are not connected to all clusters [min:0 / avg:0.5 / max:1]" in text
    assert "  - tion: 2/2 configured, 1/2 connected - tracker: 1/1 configured, 1/1 connected" in text
    assert "❌ 1 Errors:\n  ❌ n2 is not connected to cluster tion: synchronization in progress for endpoints\n" in text
    assert "💡 Run 'kubectl get pods -n kube-system -l app.kubernetes.io/name=isthmus-agent" in text


def test_a_silent_agent_is_not_believed() -> None:
    old = FRESH.total_seconds() + 45
    status = judge(seen(mesh_nodes=[agent("n1", SEES_TION), agent("n2", SEES_TION, age=old, services=50)]))
    assert status.nodes.not_ready == ("n2",)
    assert "❌ n2: its agent has been silent for 3m15s" in summary(status)
    assert status.global_services.max == 0


def test_an_agent_whose_clock_is_ahead_is_believed_and_one_without_a_time_is_not() -> None:
    nonsense = MeshNode(metadata=ObjectMeta(name="n2"), status=MeshNodeStatus(ready=True, heartbeat="soon"))
    status = judge(seen(mesh_nodes=[agent("n1", SEES_TION, age=-3600), nonsense]))
    assert status.nodes.not_ready == ("n2",)


def test_a_node_without_an_agent_is_missing_even_if_there_are_no_peers() -> None:
    status = judge(
        seen(membership=Membership(), mesh_nodes=[agent("n1")], mesh_clusters=[cluster("koornacht", own=True)])
    )
    assert not status.well
    assert "❌ n2: its agent has not been heard of" in summary(status)


def test_an_agent_that_does_not_enforce_is_not_ready() -> None:
    status = judge(seen(mesh_nodes=[agent("n1", SEES_TION), agent("n2", SEES_TION, ready=False)]))
    assert "❌ n2: its agent is not ready: no kernel" in summary(status)
    assert status.nodes.clusters["tion"].connected == 2


def test_the_tracker_is_not_connected_and_that_is_the_likely_cause_for_nodes() -> None:
    late = ClusterSeenByNode("tion", ready=False)
    status = judge(
        seen(
            mesh_nodes=[agent("n1", late), agent("n2", late)],
            mesh_clusters=[cluster("koornacht", own=True), cluster("tion", "Degraded", reason="Connect call failed")],
        )
    )
    text = summary(status)
    assert "⚠️  1/1 trackers are not connected to all clusters [min:0 / avg:0.0 / max:0]" in text
    assert "tracker: 1/1 configured, 0/1 connected" in text
    assert "❌ isthmus-tracker is not connected to cluster tion: Connect call failed" in text
    assert "💡 Double check that the tracker reaches that API server" in text
    assert text.count("💡 This is likely caused by the tracker not being connected to the given cluster") == 2


def test_refused_credentials_are_hinted_at() -> None:
    clusters = [cluster("koornacht", own=True), cluster("tion", "Degraded", reason="Unauthorized")]
    assert "repeat 'isthmus clustermesh connect'" in summary(judge(seen(mesh_clusters=clusters)))


def test_an_entry_that_cannot_be_used_is_an_error() -> None:
    status = judge(seen(membership=Membership((TION,), (Refused("alderaan", "not YAML"),))))
    assert not status.well
    text = summary(status)
    assert "❌ isthmus-tracker is not connected to cluster alderaan: its entry in Secret kube-system/isthmus-cl" in text
    assert "alderaan: 0/2 configured, 0/2 connected - tracker: 0/1 configured, 0/1 connected" in text


def test_a_tracker_that_says_nothing_is_waited_for() -> None:
    status = judge(seen(mesh_clusters=[]))
    assert waiting_for(status) == (
        "for deployment isthmus-tracker to become ready: it has not said yet how its own cluster is"
    )
    assert "tracker: status not available" in summary(status)


def test_a_deployment_that_is_not_there_or_not_ready_is_waited_for() -> None:
    assert "there is no Deployment" in waiting_for(judge(seen(replicas=None)))
    assert waiting_for(judge(seen(replicas=Replicas(1, 0)))) == (
        "for deployment isthmus-tracker to become ready: only 0 of 1 replicas are available"
    )


def test_the_lab_s_tracker_needs_no_deployment() -> None:
    configuration = Configuration(Cluster("koornacht", 1), tracker=LAB, address="10.0.0.1:2379")
    status = judge(seen(configuration=configuration, replicas=None, mesh_nodes=[agent("n1", SEES_TION)]))
    text = summary(status)
    assert "✅ isthmus-tracker of the lab is ready" in text
    assert "💡 Run 'isthmus lab logs koornacht agent-n2' to investigate the cause" in text


def test_a_tracker_that_gave_its_lease_back_or_let_it_run_out_is_gone() -> None:
    renewed = (NOW - datetime.timedelta(seconds=50)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert judge(seen(lease=LeaseSpec("tracker-0", 60, renewed))).well
    said = "for deployment isthmus-tracker to become ready: it "
    assert waiting_for(judge(seen(lease=LeaseSpec("", 60, renewed)))) == f"{said}was stopped"
    assert waiting_for(judge(seen(lease=LeaseSpec("tracker-0", 30, renewed)))) == f"{said}has been silent for 0m50s"
    assert waiting_for(judge(seen(lease=LeaseSpec("tracker-0")))) == f"{said}is silent"


def test_access_by_node_port_is_at_every_node_with_a_warning() -> None:
    text = summary(judge(seen(service=service("NodePort"))))
    assert "⚠️  Service type NodePort detected! Service may fail when nodes are removed from the cluster!" in text
    assert "  - 172.18.0.2:32379\n  - 172.18.0.3:32379\n" in text


def test_access_by_load_balancer_waits_for_its_address() -> None:
    status = judge(seen(service=service("LoadBalancer")))
    assert waiting_for(status) == "for access information: IP address of the load balancer is not known yet"
    assert not status.well
    ingress = (LoadBalancerIngress(ip="192.168.56.223"), LoadBalancerIngress(hostname="lb.example"))
    text = summary(judge(seen(service=service("LoadBalancer", ingress=ingress))))
    assert "  - 192.168.56.223:2379\n  - lb.example:2379\n" in text


def test_clusters_that_nodes_cannot_reach_or_hear_are_warned_of_and_the_mesh_is_well() -> None:
    cut = ClusterSeenByNode("tion", ready=True, health="Unreachable")
    old = ClusterSeenByNode("tion", ready=True, health="Stale")
    gone = agent("n3", cut)  # its node is no more
    status = judge(seen(mesh_nodes=[agent("n1", cut), agent("n2", old), gone]))
    assert status.well
    text = summary(status)
    assert (
        "connected - tracker: 1/1 configured, 1/1 connected\n"
        "⚠️  1/2 nodes cannot reach tion: its backends are used only if nothing else is left\n"
        "⚠️  1/2 nodes have no news of tion: its backends are used only if nothing else is left\n"
    ) in text
    assert as_json(status)["health"] == {"tion": {"unreachable": ("n1",), "stale": ("n2",)}}
    silent = judge(seen(mesh_nodes=[agent("n1", cut, age=FRESH.total_seconds() + 1), agent("n2", SEES_TION)]))
    assert as_json(silent)["health"] == {"tion": {"unreachable": (), "stale": ()}}
    assert "cannot reach" not in summary(silent)


def test_of_many_reasons_the_first_is_shown_and_the_json_has_all() -> None:
    away = "pods: no answer; nodes: no answer; services: no answer"
    status = judge(seen(mesh_clusters=[cluster("koornacht", own=True), cluster("tion", "Degraded", reason=away)]))
    line = "❌ isthmus-tracker is not connected to cluster tion: pods: no answer (and 2 more: -o json)\n"
    assert line in summary(status)
    assert as_json(status)["kvstoremesh"]["status"]["errors"] == {"isthmus-tracker": {"tion": away}}


def test_the_json_has_cilium_s_keys() -> None:
    late = ClusterSeenByNode("tion", ready=False, reason="not ready")
    status = judge(seen(mesh_nodes=[agent("n1", SEES_TION), agent("n2", late)]))
    found = json.loads(msgspec.json.encode(as_json(status)))
    assert found["connectivity"] == {
        "clusters": {"tion": {"configured": 2, "connected": 1}},
        "connected": {"min": 0, "avg": 0.5, "max": 1},
        "total": 2,
        "not_ready": 1,
        "errors": {"n2": {"tion": "not ready"}},
    }
    assert found["kvstoremesh"]["enabled"] is True
    assert found["kvstoremesh"]["status"]["clusters"] == {"tion": {"configured": 1, "connected": 1}}
    assert found["access_information"] == {"service_type": "ClusterIP", "endpoints": ["10.0.0.9:2379"], "missing": ""}
    assert found["well"] is False
