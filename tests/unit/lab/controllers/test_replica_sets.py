"""ReplicaSet: how many pods, which go first, what the status says; and who owns what."""

import pytest
from msgspec.structs import replace

from isthmus.kube.resources import PODS, REPLICA_SETS
from isthmus.lab.controllers.effects import Create, Delete
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.workloads import Condition
from isthmus.lab.controllers.ownership import claim
from isthmus.lab.controllers.workloads import replicaset
from isthmus.lab.controllers.workloads.ranking import DELETION_COST, to_delete
from tests.support.clusterobjects import NOW, SELECTOR, names, owner, pod, replica_set


def test_missing_pods_are_made_of_the_template() -> None:
    effects = replicaset.plan(replica_set("web-1", replicas=3), [pod("a")], crowd={}, fresh=names())
    assert [type(effect) for effect in effects] == [Create, Create]
    assert isinstance(effects[0], Create)
    meta = effects[0].body["metadata"]
    assert (meta["name"], meta["generateName"], meta["labels"]) == ("web-1-00000", "web-1-", {"app": "a"})
    assert meta["ownerReferences"] == [owner("uid-web-1", name="web-1")]


def test_pods_that_are_over_or_leaving_do_not_count() -> None:
    pods = [pod("a", phase="Failed"), pod("b", phase="Succeeded"), pod("c", leaving=True)]
    assert len(replicaset.plan(replica_set(replicas=1), pods, crowd={}, fresh=names())) == 1


def test_surplus_pods_are_deleted_by_uid() -> None:
    effects = replicaset.plan(replica_set(replicas=0), [pod("a")], crowd={}, fresh=names())
    assert [(effect.name, effect.uid) for effect in effects if isinstance(effect, Delete)] == [("a", "uid-a")]


@pytest.mark.parametrize(
    ("worse", "better", "crowd"),
    [
        (pod("w", on="", phase="Pending"), pod("b", phase="Pending"), {}),
        (pod("w", phase="Pending"), pod("b", ready=False), {}),
        (pod("w", ready=False), pod("b"), {}),
        (pod("w", annotations={DELETION_COST: "-5"}), pod("b"), {}),
        (pod("w", on="n2"), pod("b"), {"n2": 2, "n1": 1}),
        (pod("w", since=NOW - 10), pod("b", since=NOW - 500), {}),
        (pod("w", created=NOW - 10), pod("b", created=NOW - 500), {}),
    ],
)
def test_which_pods_go_first(worse: Pod, better: Pod, crowd: dict[str, int]) -> None:
    for pods in ([worse, better], [better, worse]):
        assert to_delete(pods, 1, crowd=crowd) == (worse,)


def test_status_counts_and_stays_silent_when_it_says_the_same() -> None:
    item = replica_set(replicas=3, min_ready=30)
    pods = [pod("a"), pod("b", since=NOW - 10), pod("c", ready=False), pod("d", leaving=True)]
    found = replicaset.status(item, pods, failure="", now=NOW)
    assert found is not None
    assert (found["replicas"], found["readyReplicas"], found["availableReplicas"]) == (3, 2, 1)
    assert replicaset.recheck(item, pods, now=NOW) == 20
    known = replica_set(replicas=1, observed=(1, 1, 1))
    known = replace(known, status=replace(known.status, fullyLabeledReplicas=1))
    assert replicaset.status(known, [pod("a")], failure="", now=NOW) is None


def test_a_failure_keeps_its_time_and_goes_when_it_is_over() -> None:
    item = replica_set(replicas=1)
    first = replicaset.status(item, [], failure="quota", now=NOW)
    assert first is not None
    (condition,) = first["conditions"]
    assert isinstance(condition, Condition)
    failing = replace(item, status=replace(item.status, conditions=(condition,)))
    assert replicaset.status(failing, [], failure="quota", now=NOW + 60) is None
    over = replicaset.status(failing, [], failure="", now=NOW + 60)
    assert over is not None
    assert over["conditions"] is None


def test_ownership_goes_by_uid_and_selector() -> None:
    pods = [
        pod("mine", by=owner("uid-r")),
        pod("others", by=owner("uid-x")),
        pod("strayed", by=owner("uid-r"), labels={"app": "b"}),
        pod("orphan"),
        pod("dying", leaving=True),
        pod("unrelated", labels={}),
    ]
    claims = claim(replica_set(), SELECTOR, pods, kind=REPLICA_SETS, of=PODS)
    assert [item.metadata.name for item in claims.owned] == ["mine"]
    assert [(change.name, change.patch["metadata"]["ownerReferences"]) for change in claims.releases] == [
        ("strayed", [{"$patch": "delete", "uid": "uid-r"}])
    ]
    assert [change.name for change in claims.adoptions] == ["orphan"]


def test_an_owner_that_is_being_deleted_takes_and_releases_nothing() -> None:
    item = replica_set()
    item = replace(item, metadata=replace(item.metadata, deletionTimestamp="2027-01-15T08:00:00Z"))
    pods = [pod("orphan"), pod("strayed", by=owner("uid-r"), labels={}), pod("mine", by=owner("uid-r"))]
    claims = claim(item, SELECTOR, pods, kind=REPLICA_SETS, of=PODS)
    assert ([one.metadata.name for one in claims.owned], claims.adoptions, claims.releases) == (["mine"], (), ())
