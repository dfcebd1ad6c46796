import datetime
from typing import Any

import pytest

from isthmus.lab.apiserver.columns import columns_for, kinds, pod
from isthmus.lab.apiserver.columns.text import duration, selector
from isthmus.lab.apiserver.schema.kinds import RESOURCES

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (601, "10m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (9 * 3600 + 60, "9h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (9 * 86400, "9d"),
        (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_ages_are_short(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_every_row_has_a_cell_for_every_column() -> None:
    for resource in RESOURCES:
        columns = columns_for(resource)
        assert len(columns.row({"metadata": {"name": "x"}}, NOW)) == len(columns.definitions), resource.plural


def made(status: dict[str, Any], **spec: Any) -> dict[str, Any]:
    metadata = {"name": "p", "creationTimestamp": "2026-01-01T11:00:00Z"}
    return {"metadata": metadata, "spec": {"containers": [{"name": "c"}], **spec}, "status": status}


def container(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "c", "state": state, "ready": "running" in state, "restartCount": 0, **more}


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
        (
            {"phase": "Pending", "containerStatuses": [container({"waiting": {"reason": "ImagePullBackOff"}})]},
            "ImagePullBackOff",
        ),
        ({"phase": "Running", "containerStatuses": [container({"running": {}})]}, "Running"),
        (
            {"phase": "Succeeded", "containerStatuses": [container({"terminated": {"reason": "Completed"}})]},
            "Completed",
        ),
        ({"phase": "Failed", "containerStatuses": [container({"terminated": {"exitCode": 3}})]}, "ExitCode:3"),
        ({"phase": "Failed", "containerStatuses": [container({"terminated": {"signal": 9}})]}, "Signal:9"),
        ({"phase": "Pending", "initContainerStatuses": [container({"running": {}})]}, "Init:0/1"),
        (
            {"phase": "Pending", "initContainerStatuses": [container({"waiting": {"reason": "CrashLoopBackOff"}})]},
            "Init:CrashLoopBackOff",
        ),
    ],
)
def test_the_status_of_a_pod_is_one_word(status: dict[str, Any], word: str) -> None:
    value = made(status, initContainers=[{"name": "c"}] if "initContainerStatuses" in status else [])
    assert pod.status_word(value) == word


def test_a_deleted_pod_is_terminating() -> None:
    value = made({"phase": "Running"})
    value["metadata"]["deletionTimestamp"] = "2026-01-01T11:00:00Z"
    assert pod.status_word(value) == "Terminating"


def test_restarts_say_when_the_last_one_was() -> None:
    ended = {"terminated": {"finishedAt": "2026-01-01T11:55:00Z"}}
    value = made(
        {"phase": "Running", "containerStatuses": [container({"running": {}}, restartCount=2, lastState=ended)]}
    )
    assert pod.row(value, NOW)[1:5] == ["1/1", "Running", "2 (5m ago)", "60m"]


def test_selectors_are_shown_as_kubectl_writes_them() -> None:
    terms = [
        {"key": "b", "operator": "In", "values": ["2", "1"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"},
    ]
    assert selector({"matchLabels": {"a": "x"}, "matchExpressions": terms}) == "!d,a=x,b in (1,2),c"
    assert selector({}) == "<none>"


def test_load_balancers_and_external_names() -> None:
    spec = {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30001}]}
    assert kinds.service({"metadata": {"name": "s"}, "spec": spec}, NOW)[1:5] == [
        "LoadBalancer",
        "10.0.0.1",
        "<pending>",
        "80:30001/TCP",
    ]
