"""Who is collected, and who is not."""

from typing import Any

import pytest

from isthmus.kube.errors import KubeError
from isthmus.kube.resources import CONFIG_MAPS, PODS, REPLICA_SETS, Resource
from isthmus.lab.controllers.garbage.collector import Collector
from isthmus.lab.controllers.garbage.graph import FOREGROUND, ORPHAN, Fate, Graph, Trace, TraceMeta, fate
from isthmus.lab.controllers.objects.meta import OwnerReference
from isthmus.lab.controllers.world import World
from tests.support.clusterobjects import FakeClient


def ref(uid: str, *, kind: str = "ReplicaSet", api: str = "apps/v1", block: bool = True) -> OwnerReference:
    return OwnerReference(api, kind, uid, uid, blockOwnerDeletion=block)


def trace(
    name: str, *owners: OwnerReference, namespace: str = "n", leaving: bool = False, finalizers: tuple[str, ...] = ()
) -> Trace:
    return Trace(
        TraceMeta(name, namespace, name, "1", "2027-01-15T08:00:00Z" if leaving else None, finalizers, owners or None)
    )


def test_the_end_of_an_owner_is_a_look_at_its_dependents() -> None:
    graph = Graph()
    graph.put(REPLICA_SETS, trace("r"))
    assert graph.put(PODS, trace("p", ref("r"))) == {"p"}
    assert graph.remove("r") == {"p"}
    assert graph.remove("p") == set()
    assert len(graph) == 0


def test_an_owner_that_was_never_seen_is_known_as_such() -> None:
    graph = Graph()
    assert graph.put(PODS, trace("p", ref("ghost"))) == {"p"}
    ghost = graph.get("ghost")
    assert ghost is not None
    assert ghost.virtual


def test_a_snapshot_removes_what_it_does_not_hold() -> None:
    graph = Graph()
    graph.replace(REPLICA_SETS, [trace("r"), trace("s")])
    graph.put(PODS, trace("p", ref("r")))
    assert graph.replace(REPLICA_SETS, [trace("s")]) == {"p"}


def test_an_owner_deleted_in_the_foreground_waits_for_those_that_block() -> None:
    graph = Graph()
    graph.put(PODS, trace("blocks", ref("r")))
    graph.put(PODS, trace("does-not", ref("r", block=False)))
    looks = graph.put(REPLICA_SETS, trace("r", leaving=True, finalizers=(FOREGROUND,)))
    assert looks == {"r", "blocks", "does-not"}
    assert [node.uid for node in graph.blocking("r")] == ["blocks"]
    assert graph.remove("blocks") == {"r"}


@pytest.mark.parametrize(
    ("owners", "finalizers", "missing", "waiting", "dependents", "expected"),
    [
        (("a",), (), ("a",), (), (), Fate(delete="Background")),
        (("a",), (FOREGROUND,), ("a",), (), (), Fate(delete="Foreground")),
        (("a",), (ORPHAN,), ("a",), (), (), Fate(delete="Orphan")),
        (("a", "b"), (), ("a",), (), (), Fate(drop=("a",))),
        (("a", "b"), (), ("a",), ("b",), (), Fate(delete="Background")),
        (("a",), (), (), ("a",), ("d",), Fate(delete="Foreground")),
    ],
)
def test_fates(owners: Any, finalizers: Any, missing: Any, waiting: Any, dependents: Any, expected: Fate) -> None:
    graph = Graph()
    graph.put(PODS, trace("p", *map(ref, owners), finalizers=finalizers))
    for name in dependents:
        graph.put(CONFIG_MAPS, trace(name, ref("p", kind="Pod", api="v1")))
    node = graph.get("p")
    assert node is not None
    assert fate(node, missing=missing, waiting=waiting, stuck=False) == expected


class Rig:
    """A collector on a server in memory."""

    def __init__(self) -> None:
        self.client = FakeClient()
        world: Any = World(self.client)
        self.collector = Collector(world)
        for resource in (PODS, REPLICA_SETS, CONFIG_MAPS):
            self.collector.monitors.resources[resource.group, resource.kind] = resource

    def put(self, resource: Resource, one: Trace) -> None:
        meta = one.metadata
        found: dict[str, Any] = {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": "1",
        }
        found["ownerReferences"] = [
            {"apiVersion": o.apiVersion, "kind": o.kind, "name": o.name, "uid": o.uid, "blockOwnerDeletion": True}
            for o in meta.ownerReferences or ()
        ]
        if meta.deletionTimestamp:
            found |= {"deletionTimestamp": meta.deletionTimestamp, "finalizers": list(meta.finalizers or ())}
        self.client.put(resource, {"kind": resource.kind, "metadata": found})
        self.collector.graph.put(resource, one)

    async def look(self, uid: str) -> list[tuple[str, str]]:
        await self.collector._round(("", uid))
        return self.client.calls


async def test_a_dependent_of_an_owner_that_does_not_exist_goes() -> None:
    rig = Rig()
    rig.put(PODS, trace("p", ref("ghost")))
    assert await rig.look("p") == [("delete", "p")]


async def test_an_owner_of_the_same_name_with_another_uid_does_not_count() -> None:
    rig = Rig()
    rig.client.put(REPLICA_SETS, {"kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "n", "uid": "second"}})
    rig.put(PODS, trace("p", OwnerReference("apps/v1", "ReplicaSet", "r", "first")))
    assert await rig.look("p") == [("delete", "p")]


async def test_an_owner_that_the_graph_does_not_know_yet_is_asked_for() -> None:
    rig = Rig()
    rig.client.put(REPLICA_SETS, {"kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "n", "uid": "r"}})
    rig.put(PODS, trace("p", ref("r")))
    assert await rig.look("p") == []


async def test_an_owner_in_another_namespace_is_none_and_the_dependent_is_told() -> None:
    rig = Rig()
    rig.put(CONFIG_MAPS, trace("far", namespace="elsewhere"))
    rig.put(PODS, trace("p", ref("far", kind="ConfigMap", api="v1")))
    assert await rig.look("p") == [("delete", "p")]
    (entry,) = rig.collector._events._queue
    assert entry.key[2] == "OwnerRefInvalidNamespace"
    assert 'does not exist in namespace "n"' in entry.key[3]


async def test_a_kind_that_is_not_served_decides_nothing() -> None:
    rig = Rig()
    rig.put(PODS, trace("p", ref("x", kind="Widget", api="example.com/v1")))
    with pytest.raises(KubeError, match="Widget is not served"):
        await rig.look("p")
    assert rig.client.calls == []


async def test_the_last_blocker_releases_its_owner() -> None:
    rig = Rig()
    rig.put(REPLICA_SETS, trace("r", leaving=True, finalizers=(FOREGROUND, "other.io/x")))
    await rig.look("r")
    assert rig.client.objects[str(REPLICA_SETS), "n", "r"]["metadata"]["finalizers"] == ["other.io/x"]


async def test_orphans_lose_their_owner_before_it_goes() -> None:
    rig = Rig()
    rig.put(REPLICA_SETS, trace("r", leaving=True, finalizers=(ORPHAN,)))
    rig.put(PODS, trace("p", ref("r")))
    assert await rig.look("r") == [("patch", "p"), ("patch", "r")]
    assert "ownerReferences" not in rig.client.objects[str(PODS), "n", "p"]["metadata"]


async def test_one_lost_owner_of_two_is_only_struck_off() -> None:
    rig = Rig()
    rig.put(REPLICA_SETS, trace("r"))
    rig.put(PODS, trace("p", ref("r"), ref("ghost")))
    assert await rig.look("p") == [("patch", "p")]
    references = rig.client.objects[str(PODS), "n", "p"]["metadata"]["ownerReferences"]
    assert [one["uid"] for one in references] == ["r"]
