"""Disruption budgets: how many pods may go, and who is still counted."""

from typing import Any

import msgspec
import pytest

from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.workloads import disruption
from isthmus.lab.controllers.workloads.disruption import Budget, BudgetSpec

NOW = 1_000_000.0
LABELS = {"app": "web"}


def pod(name: str, *, ready: bool = True, owner: str = "rs", **metadata: Any) -> Pod:
    owners = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": owner, "controller": True}]
    meta = {"name": name, "namespace": "n", "uid": name, "labels": LABELS, **metadata}
    held = {"metadata": {**meta, "ownerReferences": owners if owner else []}}
    held["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    return msgspec.convert(held, Pod)


def budget(status: dict[str, Any] | None = None, **spec: Any) -> Budget:
    meta = {"name": "b", "namespace": "n", "uid": "b", "generation": 1, "resourceVersion": "5"}
    held = {"metadata": meta, "spec": {"selector": {"matchLabels": LABELS}, **spec}, "status": status or {}}
    return msgspec.convert(held, Budget)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (BudgetSpec(minAvailable=2), (3, 2)),
        (BudgetSpec(minAvailable="50%"), (5, 3)),
        (BudgetSpec(maxUnavailable=1), (5, 4)),
        (BudgetSpec(maxUnavailable="30%"), (5, 3)),
        (BudgetSpec(maxUnavailable=9), (5, 0)),
        (BudgetSpec(), (3, 0)),
    ],
)
def test_numbers_are_of_the_pods_and_shares_of_what_is_wanted(spec: BudgetSpec, expected: tuple[int, int]) -> None:
    assert disruption.sizes(spec, pods=3, scale=5) == expected


def test_what_is_told_is_told_once() -> None:
    pods = [pod("a"), pod("b"), pod("c", ready=False)]
    patch, again = disruption.status(budget(minAvailable=1), pods, scale=3, now=NOW)
    assert patch is not None and again is None
    told = {"observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 3}
    assert told.items() <= patch.items() and patch["disruptionsAllowed"] == 1
    assert patch["conditions"][0]["reason"] == "SufficientPods"
    assert disruption.status(budget(patch, minAvailable=1), pods, scale=3, now=NOW + 9) == (None, None)


def test_an_evicted_pod_is_not_healthy_until_it_is_gone_or_its_deletion_did_not_happen() -> None:
    noted = {"disruptedPods": {"a": "1970-01-12T13:46:40Z", "gone": "1970-01-12T13:46:40Z"}}  # NOW
    pods = [pod("a"), pod("b")]
    patch, again = disruption.status(budget(noted, minAvailable=1), pods, scale=2, now=NOW + 20)
    assert patch is not None and (patch["currentHealthy"], patch["disruptionsAllowed"]) == (1, 0)
    assert patch["disruptedPods"] == {"a": "1970-01-12T13:46:40Z", "gone": None}
    assert again == disruption.WAIT - 20
    patch, again = disruption.status(budget(noted, minAvailable=1), pods, scale=2, now=NOW + disruption.WAIT)
    assert patch is not None and (patch["currentHealthy"], again) == (2, None)
    leaving = [pod("a", deletionTimestamp="1970-01-12T13:46:40Z"), pod("b")]
    patch, _ = disruption.status(budget(noted, minAvailable=1), leaving, scale=2, now=NOW + 20)
    assert patch is not None and patch["disruptedPods"] == {"a": None, "gone": None}


def test_controllers_are_counted_once_and_lone_pods_each() -> None:
    pods = [pod("a"), pod("b"), pod("c", owner=""), pod("d", owner="other")]
    assert disruption.scale_of(pods, {"rs": 4}) == 6


def test_an_empty_selector_means_everything_and_none_means_nothing() -> None:
    assert budget(selector={}).covers({})
    assert not budget(selector=None).covers(LABELS)
    assert not budget().covers({"app": "other"})
