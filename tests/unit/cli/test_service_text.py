"""`isthmus service describe` and `list` as text and as JSON."""

import json
from typing import Any

import msgspec
import pytest

from isthmus.cli.service import describing
from isthmus.cli.service.looking import Event, Found, Listed
from isthmus.cli.service.tables import age, table
from isthmus.kube.meshobjects import GlobalService, MeshCluster, MeshNode
from isthmus.kube.schema import Service
from isthmus.services.draining import moment

SINCE = "2025-01-31T12:00:00Z"
NOW = (moment(SINCE) or 0) + 300

SERVICE = {
    "metadata": {
        "name": "web",
        "namespace": "demo",
        "uid": "u",
        "annotations": {"service.cilium.io/global": "true", "note": "x"},
    },
    "spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]},
}
STATUS = {
    "affinity": "none",
    "shared": True,
    "used": "here, there",
    "summary": "here 2/2, there 1/2",
    "ports": [{"name": "http", "port": 80}],
    "clusters": [
        {
            "name": "here",
            "own": True,
            "state": "Synced",
            "backends": 60,
            "ready": 2,
            "share": 67,
            "used": True,
            "why": "used: 2 ready backends",
            "endpoints": [{"address": "10.1.0.1", "ports": ["http:8080/TCP"], "node": "n1"}],
        },
        {
            "name": "there",
            "state": "Degraded",
            "backends": 2,
            "ready": 1,
            "weight": 40,
            "share": 33,
            "used": True,
            "why": "used: 1 ready backend; draining, 40 % left",
            "endpoints": [
                {"address": "10.2.0.1", "ports": ["8080/TCP"], "ready": False},
                {"address": "10.2.0.2", "ready": False, "terminating": True},
            ],
        },
    ],
    "conditions": [
        {"type": "Valid", "status": "True", "reason": "Accepted", "lastTransitionTime": SINCE},
        {"type": "Conflict", "status": "True", "reason": "PortMismatch", "message": "there has nothing"},
    ],
}


def node(name: str, heartbeat: str = "2025-01-31T12:04:30Z", **seen: Any) -> dict[str, Any]:
    clusters = [{"name": "there", "ready": True, "health": "Reachable", **seen}]
    return {"metadata": {"name": name}, "status": {"ready": True, "heartbeat": heartbeat, "clusters": clusters}}


def found(*nodes: dict[str, Any], drain: dict[str, str] | None = None, **given: Any) -> Found:
    clusters = [{"metadata": {"name": "there"}, "spec": {"drain": drain} if drain else {}}]
    meta = {"name": "web", "namespace": "demo", "creationTimestamp": SINCE}
    return Found(
        msgspec.convert(SERVICE, Service),
        msgspec.convert({"metadata": meta, "status": STATUS}, GlobalService),
        tuple(msgspec.convert(item, MeshCluster) for item in clusters),
        tuple(msgspec.convert(item, MeshNode) for item in nodes),
        **given,
    )


def test_a_service_is_described_as_kubectl_describes() -> None:
    event = Event("Normal", "GlobalServiceRestored", "there: ready backends again", "isthmus-tracker", SINCE, 3)
    text = describing.text(
        found(node("n1"), node("n2"), drain={"since": SINCE, "over": "10m"}, events=(event,)), now=NOW
    )
    assert (
        text
        == """\
Name:         web
Namespace:    demo
Cluster:      here
Annotations:  service.cilium.io/global: true
IPs:          10.0.0.1
Ports:        http  80/TCP
Affinity:     none
Shared:       true
Weight:       100 %
Used:         here, there
Clusters:
  Name              State      Backends   Ready   Weight   Share   Used   Why
  here (this one)   Synced     60         2       100      67 %    yes    used: 2 ready backends
  there             Degraded   2          1       40       33 %    yes    used: 1 ready backend; draining, 50 % left
Endpoints:
  here:
    Address    Ports           Node   State
    10.1.0.1   http:8080/TCP   n1     ready
    and 59 more
  there:
    Address    Ports      Node     State
    10.2.0.1   8080/TCP   <none>   not ready
    10.2.0.2   <none>     <none>   terminating
Nodes:
  All 2 nodes see every cluster.
Conditions:
  Type       Status   Reason         Since       Message
  Valid      True     Accepted       5m
  Conflict   True     PortMismatch   <unknown>   there has nothing
Events:
  Type     Reason                  Age       From              Message
  Normal   GlobalServiceRestored   5m (x3)   isthmus-tracker   there: ready backends again
"""
    )


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            node("n1", health="Unreachable", unreachable=["w1", "w2"], since=SINCE),
            "n1: there is Unreachable since 5m (w1, w2)",
        ),
        (node("n1", health="Stale", since=SINCE), "n1: there is Stale since 5m"),
        (node("n1", unreachable=["w1"]), "n1: nodes of there do not answer: w1"),
        (node("n1", ready=False, reason="syncing"), "n1: there is not known as a whole: syncing"),
        (node("n1", heartbeat=SINCE), "n1: its agent said nothing for 5m"),
    ],
)
def test_nodes_that_see_something_else_are_named(given: dict[str, Any], line: str) -> None:
    text = describing.text(found(given, node("n2")), now=NOW)
    assert f"Nodes:\n  {line}\n" in text


def test_what_is_missing_is_said() -> None:
    text = describing.text(found(warnings=("the tracker is silent",)), now=NOW)
    assert text.startswith("Warning: the tracker is silent\n")
    assert "<none>: no agent has said what it sees" in text
    assert text.endswith("Events:        <none>\n")


def test_json_has_the_same_keys_whatever_there_is() -> None:
    full = describing.as_json(found(node("n1"), drain={"since": SINCE}), now=NOW)
    assert list(full) == [
        "namespace", "name", "import", "affinity", "shared", "used", "clusters", "conditions", "created", "cluster",
        "annotations", "clusterIPs", "weight", "ports", "nodes", "events", "warnings",
    ]  # fmt: skip
    assert [cluster["drainLeft"] for cluster in full["clusters"]] == [None, 0]
    assert full["used"] == ["here", "there"]
    assert full["nodes"][0]["clusters"][0]["health"] == "Reachable"
    json.dumps(full)


def test_lists_show_drains_and_with_wide_the_conditions() -> None:
    item = found(drain={"since": SINCE, "over": "10m"})
    (row,) = describing.rows(Listed([item.object], list(item.clusters)), now=NOW, wide=True)
    assert row == [
        "demo",
        "web",
        "none",
        "true",
        "here 2/60, there 1/2 (draining, 50 % left)",
        "here, there",
        "5m",
        "True",
        "True",
    ]
    assert len(describing.head(wide=True)) == len(row)


def test_a_service_that_stands_for_an_import_is_called_by_its_name() -> None:
    item = found(imported="shop")
    listed = Listed([item.object], list(item.clusters), {("demo", "web"): "shop"})
    assert describing.rows(listed, now=NOW, wide=False)[0][1] == "shop (import)"
    assert describing.as_listed(item.object, listed, now=NOW)["import"] == "shop"
    text = describing.text(item, now=NOW)
    assert text.startswith("Name:         shop (import)\nService:      web\nNamespace:    demo\n")
    assert describing.as_json(item, now=NOW)["import"] == "shop"
    assert describing.as_json(found(), now=NOW)["import"] == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (3600, "60m"), (3 * 3600, "3h"), (3 * 3600 + 61, "3h1m"),
     (9 * 3600, "9h"), (3 * 86400 + 7200, "3d2h"), (30 * 86400, "30d"), (800 * 86400, "2y"), (-5, "0s")],
)  # fmt: skip
def test_ages_are_written_as_kubectl_writes_them(seconds: int, text: str) -> None:
    began = moment(SINCE)
    assert began is not None
    assert age(SINCE, now=began + seconds) == text


def test_tables_have_no_spaces_at_the_end() -> None:
    assert table(["A", "B"], [["long", ""]]) == ["A      B", "long"]
