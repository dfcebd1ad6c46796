"""MeshClusters."""

from isthmus.kube.resources import MESH_CLUSTERS
from isthmus.mesh.control.effects import Delete
from isthmus.mesh.control.world import Member
from isthmus.model.mesh import ClusterLeft, ServiceTold
from isthmus.model.sharing import SharedService
from tests.support.control import Place

DRAIN = {"drain": {"since": "2025-01-31T12:00:00Z", "over": "10m"}}


def test_each_member_has_an_object_with_its_state() -> None:
    place = Place()
    place.members("there")
    place.world.tell([ServiceTold(SharedService("there", "demo", n, shared=n != "c")) for n in "abc"])
    place.settle()
    status = place.world.mesh_clusters["there"].status
    assert (status.id, status.own, status.state, status.services) == (2, False, "Synced", 2)
    assert place.world.mesh_clusters["here"].status.own
    assert place.settle() == []


def test_since_changes_with_the_state_alone() -> None:
    place = Place()
    place.members("there")
    place.settle()
    since = place.world.mesh_clusters["there"].status.since
    place.now += 60
    place.observe([Member("here", 1, "Synced"), Member("there", 2, "Synced", nodes=3, synced=1.0)])
    place.settle()
    assert place.world.mesh_clusters["there"].status.nodes == 3
    assert place.world.mesh_clusters["there"].status.since == since
    place.observe([Member("here", 1, "Synced"), Member("there", 2, "Degraded", "pods: no route")])
    place.settle()
    status = place.world.mesh_clusters["there"].status
    assert (status.state, status.reason) == ("Degraded", "pods: no route")
    assert status.since > since


def test_a_cluster_that_was_not_heard_since_the_start_keeps_its_numbers() -> None:
    place = Place()
    place.put(MESH_CLUSTERS, {"metadata": {}, "status": {"id": 2, "state": "Synced", "nodes": 5, "services": 7}}, name="there")  # fmt: skip  # noqa: E501
    place.observe([Member("here", 1, "Synced"), Member("there", 2, "Degraded", "no route")])
    place.settle()
    status = place.world.mesh_clusters["there"].status
    assert (status.state, status.nodes, status.services) == ("Degraded", 5, 7)


def test_a_drain_survives_every_write() -> None:
    place = Place()
    place.members("there")
    place.settle()
    body = place.objects["meshclusters", "", "there"]
    place.put(MESH_CLUSTERS, {**body, "spec": DRAIN}, name="there")
    place.observe([Member("here", 1, "Synced"), Member("there", 2, "Degraded", "gone")])
    place.settle()
    assert place.objects["meshclusters", "", "there"]["spec"] == DRAIN


def test_the_object_of_a_cluster_that_left_goes() -> None:
    place = Place()
    place.members("there")
    place.settle()
    place.world.tell([ClusterLeft("there")])
    place.members()
    assert [type(effect) for effect in place.settle()] == [Delete]
    assert list(place.world.mesh_clusters) == ["here"]


def test_nothing_goes_as_long_as_the_members_are_not_known() -> None:
    place = Place()
    place.put(MESH_CLUSTERS, {"metadata": {}, "status": {"id": 2, "state": "Synced"}}, name="there")
    place.members(known=False)
    place.settle()
    assert "there" in place.world.mesh_clusters
    place.members()
    place.settle()
    assert "there" not in place.world.mesh_clusters


def test_a_drained_cluster_that_left_keeps_its_object_until_the_drain_is_taken_off() -> None:
    place = Place()
    place.members("there")
    place.settle()
    place.put(MESH_CLUSTERS, {**place.objects["meshclusters", "", "there"], "spec": DRAIN}, name="there")
    place.world.tell([ClusterLeft("there")])
    place.members()
    place.settle()
    status = place.world.mesh_clusters["there"].status
    assert status.state == "Degraded"
    assert "not a member" in status.reason
    assert place.settle() == []
    place.put(MESH_CLUSTERS, {**place.objects["meshclusters", "", "there"], "spec": {}}, name="there")
    place.settle()
    assert "there" not in place.world.mesh_clusters


def test_a_peer_whose_entry_cannot_be_read_keeps_its_object_and_says_why() -> None:
    place = Place()
    place.members("there")
    place.settle()
    place.world.kept = {"there": "kubeconfig: not YAML"}
    place.members()
    place.settle()
    status = place.world.mesh_clusters["there"].status
    assert (status.state, status.reason) == ("Degraded", "kubeconfig: not YAML")


def test_a_drain_of_a_cluster_that_never_joined_stays_as_it_is() -> None:
    place = Place()
    place.put(MESH_CLUSTERS, {"metadata": {}, "spec": DRAIN}, name="later")
    place.members()
    place.settle()
    assert place.objects["meshclusters", "", "later"]["spec"] == DRAIN
    assert "status" not in place.objects["meshclusters", "", "later"]
