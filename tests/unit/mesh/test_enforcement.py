"""Which nodes enforce a policy object, by what they and it say."""

from datetime import UTC, datetime
from typing import Any

import pytest

from isthmus.kube.meshobjects import MeshNode, MeshNodeStatus, PoliciesOnNode, PolicyException, RecentPolicy
from isthmus.kube.schema import ObjectMeta
from isthmus.mesh.enforcement import MOST_RECENT, Standing, enforcement, number_of, version_of

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC).timestamp()
BEAT = "2026-01-01T11:59:30Z"
START = "2026-01-01T10:00:00.000Z"


def policy(name: str = "p", *, version: str = "50", generation: int = 2, **meta: Any) -> dict[str, Any]:
    created = {"creationTimestamp": "2026-01-01T09:00:00Z", **meta}
    where = {"namespace": "demo", "name": name, "uid": f"uid-{name}"}
    return {
        "kind": "NetworkPolicy",
        "metadata": {**where, "resourceVersion": version, "generation": generation, **created},
    }


def recent(name: str = "p", *, generation: int = 2, since: str = "2026-01-01T11:00:00.123Z") -> RecentPolicy:
    return RecentPolicy("NetworkPolicy", "demo", name, generation, since)


def exception(state: str, *, generation: int = 2) -> PolicyException:
    return PolicyException("NetworkPolicy", "demo", "p", generation, state, "because")


def agent(
    name: str = "n1",
    *recents: RecentPolicy,
    watermark: str = "",
    exceptions: tuple[PolicyException, ...] = (),
    heartbeat: str = BEAT,
    since: str = START,
) -> MeshNode:
    watermarks = {"NetworkPolicy": watermark} if watermark else {}
    told = PoliciesOnNode(watermarks=watermarks, recent=recents, exceptions=exceptions, since=since)
    return MeshNode(metadata=ObjectMeta(name), status=MeshNodeStatus(heartbeat=heartbeat, policies=told))


def on_n1(obj: dict[str, Any], *agents: MeshNode) -> Any:
    (found,) = enforcement([obj], mesh_nodes=agents, nodes=["n1"], now=NOW)
    return found.nodes[0]


def test_a_recent_change_of_this_generation_is_enforced_since_then() -> None:
    found = on_n1(policy(), agent("n1", recent()))
    assert (found.standing, found.since, found.exact) == (Standing.ENFORCED, "2026-01-01T11:00:00.123Z", True)
    assert on_n1(policy(generation=3), agent("n1", recent())).standing is Standing.PENDING


@pytest.mark.parametrize(
    ("watermark", "version", "reached"),
    [
        ("50", "50", True),
        ("100", "99", True),
        ("49", "50", False),
        ("", "50", False),
        ("50", "", False),
        ("50", "fifty", False),
        ("9" * 40, "50", False),
        ("٥٥", "50", False),
        ("-1", "50", False),
    ],
)
def test_what_a_kind_s_watermark_covers_is_enforced(watermark: str, version: str, reached: bool) -> None:
    found = on_n1(policy(version=version), agent(watermark=watermark))
    assert (found.standing is Standing.ENFORCED) is reached
    if reached:
        assert (found.since, found.exact) == (START, False)


def test_an_object_that_was_made_again_is_not_the_one_that_the_node_has() -> None:
    again = policy(creationTimestamp="2026-01-01T11:30:00Z")
    assert on_n1(again, agent("n1", recent())).standing is Standing.PENDING
    assert on_n1(again, agent("n1", recent(), watermark="50")).standing is Standing.ENFORCED


def test_objects_without_a_generation_go_by_the_watermark_alone() -> None:
    assert on_n1(policy(generation=0), agent("n1", recent(generation=0))).standing is Standing.PENDING


@pytest.mark.parametrize(
    ("state", "standing"),
    [
        ("Invalid", Standing.INVALID),
        ("Kept", Standing.KEPT),
        ("Refused", Standing.REFUSED),
        ("PartiallyEnforced", Standing.PARTIAL),
        ("SomethingNew", Standing.REFUSED),
    ],
)
def test_exceptions_say_what_a_node_does_instead(state: str, standing: Standing) -> None:
    found = on_n1(policy(), agent("n1", recent(), exceptions=(exception(state),)))
    assert (found.standing, found.message) == (standing, "because")
    assert bool(found.since) is standing.counts
    earlier = agent("n1", recent(), exceptions=(exception(state, generation=1),))
    assert on_n1(policy(), earlier).standing is Standing.ENFORCED


@pytest.mark.parametrize(("state", "standing"), [("Kept", Standing.KEPT), ("PartiallyEnforced", Standing.PENDING)])
def test_where_an_earlier_version_stays_nothing_is_waited_for(state: str, standing: Standing) -> None:
    told = agent("n1", exceptions=(exception(state),), watermark="49")
    assert on_n1(policy(), told).standing is standing
    assert on_n1(policy(generation=3), told).standing is Standing.PENDING
    assert on_n1(policy(creationTimestamp="2026-01-01T11:59:31Z"), told).standing is Standing.PENDING, "another object"


def test_nodes_that_cannot_say_are_told_apart() -> None:
    without = MeshNode(metadata=ObjectMeta("n3"), status=MeshNodeStatus(heartbeat=BEAT))
    agents = [agent("n1", recent()), agent("n2", recent(), heartbeat="2026-01-01T11:56:00Z"), without]
    (found,) = enforcement([policy()], mesh_nodes=[*agents, agent("gone")], nodes=["n4", "n3", "n2", "n1"], now=NOW)
    assert [(one.node, one.standing) for one in found.nodes] == [
        ("n1", Standing.ENFORCED),
        ("n2", Standing.SILENT),
        ("n3", Standing.UNTOLD),
        ("n4", Standing.NO_AGENT),
    ]
    assert (found.enforced, found.total, found.everywhere) == (1, 4, False)
    assert [one.node for one in found.lagging] == ["n2", "n3", "n4"]
    assert found.nodes[1].message == "no heartbeat since 2026-01-01T11:56:00Z"


@pytest.mark.parametrize("heartbeat", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_a_heartbeat_that_is_no_time_is_none(heartbeat: str) -> None:
    assert on_n1(policy(), agent("n1", recent(), heartbeat=heartbeat)).standing is Standing.SILENT


def test_since_is_the_last_node_that_knows_it_exactly() -> None:
    agents = [
        agent("n1", recent(since="2026-01-01T11:00:00.500Z")),
        agent("n2", recent(since="2026-01-01T11:00:01.250Z")),
        agent("n3", watermark="60", since="2026-01-01T11:30:00Z"),
    ]
    (found,) = enforcement([policy()], mesh_nodes=agents, nodes=["n1", "n2", "n3"], now=NOW)
    assert found.since == ("2026-01-01T11:00:01.250Z", True)
    (found,) = enforcement([policy()], mesh_nodes=agents, nodes=["n3"], now=NOW)
    assert found.since == ("2026-01-01T11:30:00Z", False)
    (found,) = enforcement([policy()], mesh_nodes=[], nodes=["n3"], now=NOW)
    assert found.since == ("", False)


def test_what_fell_out_of_the_recent_changes_was_there_before_the_oldest() -> None:
    many = [recent(f"q{i}", since=f"2026-01-01T11:00:{i % 60:02}.{i:03}Z") for i in range(MOST_RECENT)]
    found = on_n1(policy(), agent("n1", *many, watermark="60"))
    assert (found.since, found.exact) == ("2026-01-01T11:00:00.000Z", False)


def test_a_cluster_without_nodes_enforces_nothing() -> None:
    (found,) = enforcement([policy()], mesh_nodes=[], nodes=[], now=NOW)
    assert (found.total, found.everywhere) == (0, False)


@pytest.mark.parametrize(
    "obj",
    [
        {},
        {"metadata": 7},
        {"metadata": {}},
        {"kind": 7, "metadata": {"name": "p"}},
        {"kind": "X", "metadata": {"name": ""}},
    ],
)
def test_objects_that_cannot_be_told_are_left_out(obj: dict[str, Any]) -> None:
    assert enforcement([obj], mesh_nodes=[], nodes=["n1"], now=NOW) == []


def test_a_hostile_head_is_read_as_far_as_it_goes() -> None:
    meta = {"name": "p", "namespace": 7, "uid": [], "generation": "2", "resourceVersion": 50, "creationTimestamp": {}}
    found = version_of({"kind": "NetworkPolicy", "metadata": meta})
    assert found is not None
    assert (found.place, found.uid, found.generation, found.version) == (("NetworkPolicy", "", "p"), "", 0, "")
    assert version_of({"metadata": {"name": "p"}}, "NetworkPolicy") is not None


def test_versions_are_numbers_or_nothing() -> None:
    assert [number_of(text) for text in ("0", "007", "12", "", "x", "1.5", "9" * 21)] == [0, 7, 12, -1, -1, -1, -1]
