"""A store shows what was written through it, whatever the watch says and when."""

from typing import Any

import pytest
from msgspec.structs import replace

from isthmus.kube.errors import ApiError, ConnectionFailed, Forbidden
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import PODS, REPLICA_SETS
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.performer import Unsettled
from isthmus.lab.controllers.store import Store
from isthmus.lab.controllers.workloads.sets import ReplicaSets
from isthmus.lab.controllers.world import World
from tests.support.clusterobjects import NOW, FakeClient, names, pod, replica_set


def version(item: Pod, number: int) -> Pod:
    return replace(item, metadata=replace(item.metadata, resourceVersion=str(number)))


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def store(client: FakeClient) -> Store[Pod]:
    found: Store[Pod] = Store(client, PODS, Pod)
    found.index("node", lambda item: (item.spec.nodeName,))
    return found


async def test_an_older_event_does_not_undo_a_write(store: Store[Pod]) -> None:
    await store.take(Snapshot((version(pod("a", on=""), 1),)))
    store.wrote(version(pod("a", on="n1"), 5))
    await store.take(Put(version(pod("a", on=""), 3)))
    assert [item.metadata.resourceVersion for item in store.by("node", "n1")] == ["5"]
    await store.take(Put(version(pod("a", on="n2"), 6)))
    assert store.by("node", "n1") == []
    assert len(store.by("node", "n2")) == 1


async def test_an_answer_that_comes_after_the_end_brings_nothing_back(store: Store[Pod]) -> None:
    await store.take(Snapshot((version(pod("a"), 1),)))
    await store.take(Gone(version(pod("a"), 7)))
    store.wrote(version(pod("a"), 5))
    assert len(store) == 0


async def test_the_end_of_a_former_object_does_not_hide_the_new_one(store: Store[Pod]) -> None:
    await store.take(Snapshot(()))
    fresh = version(pod("a"), 9)
    store.wrote(replace(fresh, metadata=replace(fresh.metadata, uid="new")))
    await store.take(Gone(version(pod("a"), 7)))
    assert len(store) == 1


async def test_a_snapshot_from_before_a_write_keeps_what_the_server_has(client: FakeClient, store: Store[Pod]) -> None:
    store.wrote(version(pod("here"), 5))
    store.wrote(version(pod("gone"), 6))
    client.put(PODS, pod("here"))
    await store.take(Snapshot(()))
    assert [item.metadata.name for item in store] == ["here"]


async def test_a_pod_whose_deletion_was_accepted_is_leaving_at_once(store: Store[Pod]) -> None:
    await store.take(Snapshot((version(pod("a"), 1),)))
    store.deleted("n", "a", uid="uid-a", at="2027-01-15T08:00:00Z")
    assert [item.leaving for item in store] == [True]
    await store.take(Put(version(pod("a"), 2)))
    assert [item.leaving for item in store] == [True]
    await store.take(Gone(version(pod("a"), 3)))
    assert len(store) == 0


async def test_listeners_hear_before_and_after(store: Store[Pod]) -> None:
    heard: list[tuple[bool, bool]] = []
    store.listen(lambda before, after: heard.append((before is not None, after is not None)))
    await store.take(Snapshot((pod("a"),)))
    await store.take(Put(version(pod("a"), 2)))
    await store.take(Snapshot(()))
    assert heard == [(False, True), (True, True), (True, False)]


class Rig:
    """A ReplicaSet controller whose watches never deliver anything."""

    def __init__(self, client: FakeClient, replicas: int) -> None:
        self.client = client
        self.world = World(client, clock=lambda: NOW)
        self.shell = ReplicaSets(self.world, fresh=names())
        self.set(replicas)

    def set(self, replicas: int) -> None:
        self.item = replica_set(replicas=replicas)
        self.client.put(REPLICA_SETS, self.item)

    async def round(self) -> Any:
        return await self.shell.round(self.item)

    def made(self, what: str = "create") -> list[str]:
        return [name for verb, name in self.client.calls if verb == what and name != "r"]

    def status(self) -> dict[str, Any]:
        return self.client.objects[str(REPLICA_SETS), "n", "r"]["status"]


async def test_a_lagging_watch_never_creates_twice(client: FakeClient) -> None:
    rig = Rig(client, 5)
    for _ in range(3):
        await rig.round()
    assert len(rig.made()) == 5
    assert rig.status()["replicas"] == 5


async def test_a_lagging_watch_never_deletes_one_too_many(client: FakeClient) -> None:
    rig = Rig(client, 5)
    await rig.round()
    rig.set(3)
    for _ in range(3):
        await rig.round()
    assert len(set(rig.made("delete"))) == len(rig.made("delete")) == 2


async def test_a_create_whose_answer_was_lost_is_found_again(client: FakeClient) -> None:
    rig = Rig(client, 1)
    client.lose = 1
    with pytest.raises(ConnectionFailed):
        await rig.round()
    with pytest.raises(Unsettled):
        await rig.round()
    await rig.round()
    assert len(rig.made()) == 1


async def test_nothing_is_made_while_it_is_not_known_what_was_made(client: FakeClient) -> None:
    rig = Rig(client, 2)
    client.lose = 1
    with pytest.raises(ConnectionFailed):
        await rig.round()
    client.unreachable = True
    with pytest.raises(ConnectionFailed):
        await rig.round()
    assert len(rig.made()) == 1


async def test_a_refusal_is_met_once_and_told_in_the_status(client: FakeClient) -> None:
    rig = Rig(client, 100)
    client.refuse["pods"] = Forbidden(status=403, message="exceeded quota: q")
    with pytest.raises(ApiError):
        await rig.round()
    assert len(rig.made()) == 1
    (condition,) = rig.status()["conditions"]
    told = (condition["type"], condition["reason"], condition["message"])
    assert told == ("ReplicaFailure", "FailedCreate", "exceeded quota: q")


async def test_a_namespace_that_is_going_is_no_failure(client: FakeClient) -> None:
    rig = Rig(client, 1)
    text = "unable to create new content in namespace n because it is being terminated"
    client.refuse["pods"] = Forbidden(status=403, message=text)
    await rig.round()
    assert (
        "conditions" not in client.objects[str(REPLICA_SETS), "n", "r"].get("status", {})
        or not rig.status()["conditions"]
    )
