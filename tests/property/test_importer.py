"""Whatever the order of events, what was told step by step is what a fresh import of the final state tells."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.schema import Namespace, Node, Pod
from isthmus.mesh.overlap import Overlaps
from isthmus.mesh.source.importer import Importer
from isthmus.model.endpoint import Cluster, Endpoint
from isthmus.model.endpoint import Node as NodeRecord
from isthmus.model.identity import Identity
from isthmus.model.mesh import (
    ClusterLeft,
    EndpointGone,
    EndpointTold,
    IdentityGone,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
)
from tests.support.kubeobjects import a_namespace, a_node, a_pod
from tests.support.mesh import Believer

C1 = Cluster("cluster-1", 1)

labels = st.dictionaries(
    st.sampled_from(["app", "pod-template-hash", "cluster.clusterset.k8s.io", "bad key"]),
    st.sampled_from(["a", "b", "cluster-2", "no good"]),
    max_size=3,
)
ips = st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "nonsense", "::ffff:10.0.0.1"]), max_size=3
)
pods = st.builds(
    lambda name, uid, ips, **rest: a_pod(name, *ips, uid=f"{name}-{uid}", **rest),
    st.sampled_from(["p1", "p2", "p3", "p4"]),
    st.integers(0, 1),
    ips,
    namespace=st.sampled_from(["demo", "prod"]),
    labels=labels,
    phase=st.sampled_from(["Running", "Running", "Pending", "Succeeded"]),
    host_network=st.sampled_from([False, False, False, True]),
    terminating=st.sampled_from([False, False, True]),
    created=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
    node=st.sampled_from(["n1", "n2"]),
)
namespaces = st.builds(
    lambda name, uid, team: a_namespace(name, uid=f"{name}-{uid}", team=team),
    st.sampled_from(["demo", "prod"]),
    st.integers(0, 1),
    st.sampled_from(["a", "b"]),
)
nodes = st.builds(
    lambda name, cidr: a_node(name, "192.0.2.1", cidrs=(cidr,)),
    st.sampled_from(["n1", "n2"]),
    st.sampled_from(["10.0.0.0/24", "10.0.1.0/24", "junk"]),
)
moves = st.one_of(
    st.tuples(st.just("put"), st.one_of(pods, namespaces, nodes)),
    st.tuples(st.just("gone"), st.one_of(pods, namespaces, nodes)),
    st.tuples(st.just("snapshot"), st.sampled_from([Pod, Namespace, Node])),
    st.tuples(st.just("select"), st.sampled_from([(), ("pod-template-hash",), ("app",)])),
)


def feed(importer: Importer, kind: type, change: Any) -> list[MeshEvent]:
    if kind is Pod:
        return importer.pods(change)
    return importer.namespaces(change) if kind is Namespace else importer.nodes(change)


@settings(max_examples=300)
@given(history=st.lists(moves, max_size=40))
def test_step_by_step_is_the_same_as_all_at_once(history: list[tuple[str, Any]]) -> None:
    state: dict[type, dict[tuple[str, str], Any]] = {Pod: {}, Namespace: {}, Node: {}}
    selected: tuple[str, ...] = ()
    importer, believer = Importer(C1), Believer()
    for move, value in history:
        if move == "select":
            selected = value
            believer.take(importer.select(value))
            continue
        if move == "snapshot":
            believer.take(feed(importer, value, Snapshot(tuple(state[value].values()))))
            continue
        objects = state[type(value)]
        key = (value.metadata.namespace, value.metadata.name)
        if move == "put":
            objects[key] = value
            believer.take(feed(importer, type(value), Put(value)))
        else:
            if key in objects and (type(value) is Node or objects[key].metadata.uid == value.metadata.uid):
                del objects[key]
            # Also deletes of what is not there, or of an earlier object of the name: they must change nothing.
            believer.take(feed(importer, type(value), Gone(value)))

    fresh, other = Importer(C1), Believer()
    other.take(fresh.select(selected))
    for kind in (Node, Pod, Namespace):
        other.take(feed(fresh, kind, Snapshot(tuple(state[kind].values()))))
    assert believer.meaning() == other.meaning()
    assert believer.nodes == other.nodes
    assert importer.counts == fresh.counts
    assert (
        len(believer.identities)
        == importer.counts["identities"]
        == len({e.identity for e in believer.endpoints.values()})
    )


# -- overlaps ------------------------------------------------------------------------------------------------------

CLUSTERS = {name: Cluster(name, number) for number, name in enumerate(["c1", "c2", "c3"], 1)}
steps = st.one_of(
    st.tuples(
        st.just("endpoint"), st.sampled_from(sorted(CLUSTERS)), st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.9.1"])
    ),
    st.tuples(
        st.just("endpoint gone"),
        st.sampled_from(sorted(CLUSTERS)),
        st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.9.1"]),
    ),
    st.tuples(
        st.just("node"),
        st.sampled_from(sorted(CLUSTERS)),
        st.sampled_from(["n1 10.0.0.0/24", "n1 10.0.0.0/25", "n2 10.0.0.0/16", "n2 10.0.9.0/24", "n1 10.0.9.0/24"]),
    ),
    st.tuples(st.just("node gone"), st.sampled_from(sorted(CLUSTERS)), st.sampled_from(["n1", "n2"])),
    st.tuples(st.just("left"), st.sampled_from(sorted(CLUSTERS)), st.just("")),
)


@settings(max_examples=300)
@given(history=st.lists(steps, max_size=40))
def test_no_address_is_told_of_two_clusters_and_what_waits_is_told_in_the_end(
    history: list[tuple[str, str, str]],
) -> None:
    overlaps, believer = Overlaps(), Believer()
    endpoints: dict[tuple[str, str], Endpoint] = {}
    nodes: dict[tuple[str, str], NodeRecord] = {}

    def tell(*events: MeshEvent) -> None:
        believer.take(overlaps.apply(events))

    for step, cluster, what in history:
        number = CLUSTERS[cluster].id << 16 | 300
        match step:
            case "endpoint":
                endpoints[cluster, what] = Endpoint(cluster, what, number, "demo", f"{cluster}-{what}")
                tell(IdentityTold(Identity(number, cluster, "demo", {}, {})), EndpointTold(endpoints[cluster, what]))
            case "endpoint gone" if (cluster, what) in endpoints:
                del endpoints[cluster, what]
                tell(EndpointGone(cluster, what))
                if not any(owner == cluster for owner, _ in endpoints):
                    tell(IdentityGone(cluster, number))
            case "node":
                name, cidr = what.split()
                nodes[cluster, name] = NodeRecord(cluster, name, pod_cidrs=(cidr,))
                tell(NodeTold(nodes[cluster, name]))
            case "node gone" if (cluster, what) in nodes:
                del nodes[cluster, what]
                tell(NodeGone(cluster, what))
            case "left":
                tell(ClusterLeft(cluster))
                for table in (endpoints, nodes):
                    for key in [key for key in table if key[0] == cluster]:
                        del table[key]
        held = [ip for _, ip in believer.endpoints]
        assert len(held) == len(set(held))
        assert believer.endpoints.items() <= endpoints.items()
        assert len(endpoints) - len(believer.endpoints) == overlaps.withheld
        assert set(believer.nodes) == set(nodes)

    for owner in ("c1", "c2"):
        tell(ClusterLeft(owner))
    # Alone, a cluster has everything that it told.
    assert believer.endpoints == {key: value for key, value in endpoints.items() if key[0] == "c3"}
    assert believer.nodes == {key: value for key, value in nodes.items() if key[0] == "c3"}
