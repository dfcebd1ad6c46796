"""Deployment: one step at a time, with upstream's words."""

from typing import Any

import pytest
from msgspec.structs import replace

from isthmus.lab.controllers.effects import Change, Create, Delete, Tell
from isthmus.lab.controllers.objects.meta import stamp
from isthmus.lab.controllers.objects.workloads import Condition, Deployment, DeploymentStatus, ReplicaSet
from isthmus.lab.controllers.workloads.deployment import HISTORY, REVISION, Plan, name_of_new, plan
from isthmus.lab.controllers.workloads.rollout import DESIRED, MAXIMUM, fenceposts, resolved
from isthmus.lab.controllers.workloads.templates import TEMPLATE_HASH, encoded_hash
from tests.support.clusterobjects import NOW, deployment, pod, replica_set


def step(item: Deployment, *sets: ReplicaSet, pods: dict[str, Any] | None = None, now: float = NOW) -> Plan:
    return plan(item, sets, pods=pods or {}, now=now)


def sizes(found: Plan) -> dict[str, int]:
    result = {}
    for effect in found.effects:
        if isinstance(effect, Create):
            result["new"] = effect.body["spec"]["replicas"]
        elif isinstance(effect, Change) and "replicas" in effect.patch.get("spec", {}):
            result[effect.name] = effect.patch["spec"]["replicas"]
    return result


def conditions(found: Plan) -> dict[str, tuple[str, str]]:
    assert found.status is not None
    return {one.type: (one.status, one.reason) for one in found.status.patch["status"]["conditions"]}


def noted(replicas: int, maximum: int, revision: int) -> dict[str, str]:
    return {DESIRED: str(replicas), MAXIMUM: str(maximum), REVISION: str(revision)}


def test_the_first_replica_set_bears_the_hash_everywhere() -> None:
    item = deployment(replicas=2, annotations={"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "y"})
    found = step(item)
    (created,) = found.effects
    assert isinstance(created, Create)
    hash_ = encoded_hash(item.spec.template)
    meta, spec = created.body["metadata"], created.body["spec"]
    labels = {"app": "a", TEMPLATE_HASH: hash_}
    assert meta["name"] == name_of_new(item) == f"d-{hash_}"
    assert meta["annotations"] == {"note": "x", DESIRED: "2", MAXIMUM: "3", REVISION: "1"}
    assert spec["replicas"] == 2
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"] == labels
    assert created.words == ("ScalingReplicaSet", f"Scaled up replica set d-{hash_} from 0 to 2")
    assert conditions(found)["Progressing"] == ("True", "NewReplicaSetCreated")
    assert found.status is not None
    assert found.status.patch["metadata"] == {"annotations": {REVISION: "1"}}


def test_a_collision_gives_another_name() -> None:
    item = deployment()
    assert name_of_new(item) != name_of_new(replace(item, status=DeploymentStatus(collisionCount=1)))


@pytest.mark.parametrize(
    ("value", "total", "up", "expected"),
    [("25%", 10, True, 3), ("25%", 10, False, 2), (4, 10, True, 4), ("100%", 3, False, 3), ("x", 9, True, 0)],
)
def test_percentages_round_up_for_surge_and_down_for_unavailable(
    value: int | str, total: int, up: bool, expected: int
) -> None:
    assert resolved(value, total, up=up) == expected


def test_both_zero_would_never_move() -> None:
    assert fenceposts(deployment(replicas=3, surge="0%", unavailable="10%")) == (0, 1)


def test_the_new_one_grows_before_the_old_one_shrinks() -> None:
    item = deployment(replicas=4, image="two", surge=1, unavailable=1)
    old = replica_set("old", replicas=4, observed=(4, 4, 4), annotations=noted(4, 5, 1), created=NOW - 50)
    assert sizes(step(item, old)) == {"new": 1}
    new = replica_set("new", replicas=1, image="two", annotations=noted(4, 5, 2))
    assert sizes(step(item, old, new)) == {"old": 3}


def test_old_pods_that_do_not_work_go_first() -> None:
    item = deployment(replicas=4, image="two", surge=0, unavailable=2)
    broken = replica_set("broken", replicas=3, observed=(3, 0, 0), annotations=noted(4, 4, 1), created=NOW - 50)
    good = replica_set("good", image="three", replicas=2, observed=(2, 2, 2), annotations=noted(4, 4, 2))
    new = replica_set("new", replicas=0, image="two", annotations=noted(4, 4, 3))
    assert sizes(step(item, broken, good, new)) == {"broken": 0}


def test_a_late_status_of_the_old_one_does_not_cost_available_pods() -> None:
    item = deployment(replicas=10, image="two", surge=0, unavailable=2)
    # It was asked to shrink to 8, but still reports 10; one of two new pods is available.
    old = replica_set("old", replicas=8, observed=(10, 10, 10), annotations=noted(10, 10, 1), created=NOW - 50)
    new = replica_set("new", replicas=2, image="two", observed=(2, 1, 1), annotations=noted(10, 10, 2))
    assert sizes(step(item, old, new)) == {"old": 7}


def test_words_of_a_scale() -> None:
    item = deployment(replicas=3, surge=1, unavailable=0)
    found = step(item, replica_set("new", replicas=1, annotations=noted(1, 2, 1), observed=(1, 1, 1)))
    assert [effect.message for effect in found.effects if isinstance(effect, Tell)] == [
        "Scaled up replica set new from 1 to 3"
    ]


def test_a_scale_during_a_rollout_is_spread_in_proportion() -> None:
    item = deployment(replicas=15, image="two", surge=3, unavailable=2)
    old = replica_set("old", replicas=8, observed=(8, 8, 8), annotations=noted(10, 13, 1), created=NOW - 50)
    new = replica_set("new", replicas=5, image="two", observed=(5, 5, 0), annotations=noted(10, 13, 2))
    # The example of the documentation: of 5 additional replicas 3 go to the old and 2 to the new one.
    assert sizes(step(item, old, new)) == {"old": 11, "new": 7}


def test_recreate_waits_until_the_last_old_pod_is_gone() -> None:
    item = deployment(replicas=2, image="two", kind="Recreate")
    old = replica_set("old", replicas=2, observed=(2, 2, 2), annotations=noted(2, 2, 1))
    assert sizes(step(item, old)) == {"old": 0}
    stopped = replica_set("old", replicas=0, annotations=noted(2, 2, 1))
    assert sizes(step(item, stopped, pods={"uid-old": [pod("p", leaving=True)]})) == {}
    assert sizes(step(item, stopped, pods={"uid-old": [pod("p", phase="Failed")]})) == {"new": 2}


def test_a_rollback_moves_the_old_revision_to_the_front() -> None:
    item = deployment(replicas=1, image="one", annotations={REVISION: "2"})
    first = replica_set("first", replicas=0, annotations=noted(1, 2, 1), created=NOW - 90)
    second = replica_set("second", image="two", replicas=1, observed=(1, 1, 1), annotations=noted(1, 2, 2))
    found = step(item, first, second)
    changes = {effect.name: effect.patch for effect in found.effects if isinstance(effect, Change)}
    annotations = changes["first"]["metadata"]["annotations"]
    assert (annotations[REVISION], annotations[HISTORY]) == ("3", "1")
    assert found.status is not None
    assert found.status.patch["metadata"]["annotations"] == {REVISION: "3"}


def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    item = deployment(replicas=3, image="two", paused=True)
    found = step(item, replica_set("old", replicas=1, observed=(1, 1, 1), annotations=noted(1, 2, 1)))
    assert sizes(found) == {"old": 3}
    assert conditions(found)["Progressing"] == ("Unknown", "DeploymentPaused")


def done(**status: Any) -> DeploymentStatus:
    counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    return DeploymentStatus(observedGeneration=1, **{**counts, **status})


def progressing(reason: str, at: float = NOW) -> Condition:
    return Condition("Progressing", "True", lastUpdateTime=stamp(at), lastTransitionTime=stamp(at), reason=reason)


def test_completion_is_told_and_nothing_written_after_it() -> None:
    item = deployment(annotations={REVISION: "1"}, status=done(conditions=(progressing("ReplicaSetUpdated"),)))
    new = replica_set("new", observed=(1, 1, 1), annotations=noted(1, 2, 1))
    found = step(item, new)
    assert conditions(found)["Progressing"] == ("True", "NewReplicaSetAvailable")
    assert conditions(found)["Available"] == ("True", "MinimumReplicasAvailable")
    assert found.again is None
    assert found.status is not None
    told = tuple(found.status.patch["status"]["conditions"])
    settled = replace(item, status=replace(item.status, conditions=told))
    assert step(settled, new, now=NOW + 99) == Plan()


def test_a_rollout_that_does_not_move_times_out() -> None:
    status = done(availableReplicas=0, readyReplicas=0, unavailableReplicas=1)
    status = replace(status, conditions=(progressing("ReplicaSetUpdated", NOW - 700),))
    item = deployment(progressDeadlineSeconds=600, annotations={REVISION: "1"}, status=status)
    new = replica_set("new", observed=(1, 0, 0), annotations=noted(1, 2, 1))
    assert conditions(step(item, new))["Progressing"] == ("False", "ProgressDeadlineExceeded")
    assert step(item, new, now=NOW - 200).again == pytest.approx(101, abs=1)


def test_revisions_beyond_the_limit_are_forgotten_when_the_rollout_is_done() -> None:
    item = deployment(revisionHistoryLimit=1, status=done(), annotations={REVISION: "4"})
    old = [
        replica_set(f"old{n}", image=f"v{n}", replicas=0, annotations=noted(1, 2, n), created=NOW - 99 + n)
        for n in (1, 2, 3)
    ]
    new = replica_set("new", observed=(1, 1, 1), annotations=noted(1, 2, 4))
    found = step(item, *old, new)
    assert [effect.name for effect in found.effects if isinstance(effect, Delete)] == ["old1", "old2"]


def test_why_pods_cannot_be_made_is_told_above() -> None:
    item = deployment(annotations={REVISION: "1"})
    new = replica_set("new", annotations=noted(1, 2, 1))
    bad = Condition("ReplicaFailure", "True", reason="FailedCreate", message="quota")
    found = step(item, replace(new, status=replace(new.status, conditions=(bad,))))
    assert conditions(found)["ReplicaFailure"] == ("True", "FailedCreate")
