"""ClusterProperties of a cluster: what it tells of itself, and what is said of the rest."""

from isthmus.kube.schema import ObjectMeta
from isthmus.kube.watch import Gone, Put, Snapshot
from isthmus.mesh.source.properties import TOO_MANY, UNUSABLE, ClusterProperty, Properties, PropertySpec
from isthmus.mesh.source.reports import Report
from isthmus.model.endpoint import Cluster
from isthmus.wire.kvstore import MAX_PROPERTIES

C1 = Cluster("cluster-1", 1)


def prop(name: str, value: str) -> ClusterProperty:
    return ClusterProperty(metadata=ObjectMeta(name), spec=PropertySpec(value))


def test_properties_follow_the_objects_and_changes_are_said() -> None:
    found = Properties(C1)
    assert not found.take(Snapshot(()))
    assert found.take(Snapshot((prop("region", "north"), prop("tier", "gold"))))
    assert found.cluster == Cluster("cluster-1", 1, {"region": "north", "tier": "gold"})
    assert not found.take(Put(prop("region", "north")))
    assert found.take(Put(prop("region", "south")))
    assert found.take(Gone(prop("tier", "gold")))
    assert found.cluster.properties == {"region": "south"}
    assert not found.take(Gone(prop("tier", "gold")))
    assert found.take(Snapshot(()))
    assert found.cluster == C1
    assert found.reports() == []


def test_what_cannot_be_a_label_value_is_said_once_and_left_out() -> None:
    found = Properties(C1)
    assert not found.take(Put(prop("note", "not a label!")))
    (report,) = found.reports()
    assert (report.kind, report.name, report.key, report.value) == (
        "ClusterProperty", "note", "spec.value", "not a label!"
    )  # fmt: skip
    assert UNUSABLE in report.reason

    found.take(Snapshot((prop("note", "not a label!"), prop("long", "x" * 100_000), prop("n" * 64, "x"))))
    assert [(r.name, r.key, r.value) for r in found.reports()] == [
        ("long", "spec.value", "x" * 128),
        ("n" * 64, "metadata.name", "n" * 64),
    ]
    assert found.cluster.properties == {}

    assert found.take(Put(prop("note", "fine")))
    assert found.take(Put(prop("note", "not fine!"))), "what was told of it goes"
    assert found.cluster.properties == {}


def test_the_name_of_the_cluster_is_what_is_configured() -> None:
    found = Properties(C1)
    assert not found.take(Put(prop("cluster.clusterset.k8s.io", "cluster-2")))
    (report,) = found.reports()
    assert "is not the name of the cluster, which is 'cluster-1'" in report.reason

    assert found.take(Put(prop("cluster.clusterset.k8s.io", "cluster-1")))
    assert found.take(Put(prop("clusterset.k8s.io", "amsterdam")))
    assert found.cluster.properties == {
        "cluster.clusterset.k8s.io": "cluster-1",
        "clusterset.k8s.io": "amsterdam",
    }
    assert found.reports() == []


def test_a_cluster_tells_so_many_properties_and_the_first_by_name() -> None:
    found = Properties(C1)
    names = [f"p{i:03}" for i in range(MAX_PROPERTIES + 2)]
    assert found.take(Snapshot(tuple(prop(name, "x") for name in reversed(names))))
    assert list(found.cluster.properties) == names[:MAX_PROPERTIES]
    assert found.reports() == [
        Report("ClusterProperty", "", name, "metadata.name", "", TOO_MANY) for name in names[MAX_PROPERTIES:]
    ]

    assert found.take(Gone(prop(names[0], "x")))
    assert list(found.cluster.properties) == names[1 : MAX_PROPERTIES + 1]
    assert found.reports() == []
