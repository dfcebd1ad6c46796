"""Which nodes have which policies, kept as both change: always what asking every node about every policy would say."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.kube.meshobjects import MeshNode, MeshNodeStatus, PoliciesOnNode, PolicyException, RecentPolicy
from isthmus.kube.schema import ObjectMeta
from isthmus.mesh.control.policies.rollout import PATIENCE, Rollout
from isthmus.mesh.enforcement import NodeReport, PolicyVersion, Standing

NODES = ("n1", "n2")
NAMES = ("a", "b")
KINDS = ("CiliumNetworkPolicy", "ClusterNetworkPolicy")
START = 1_800_000_000.0
numbers = st.integers(1, 6)
kinds, names, nodes = st.sampled_from(KINDS), st.sampled_from(NAMES), st.sampled_from(NODES)
generations = st.integers(0, 2)
recents = st.builds(
    lambda kind, name, generation: RecentPolicy(kind, "", name, generation, "2027-01-15T08:00:00Z"),
    kinds, names, generations,
)  # fmt: skip
exceptions = st.builds(
    lambda kind, name, generation, state: PolicyException(kind, "", name, generation, state, "because"),
    kinds, names, generations, st.sampled_from(["Invalid", "Kept", "Refused", "PartiallyEnforced"]),
)  # fmt: skip
reports = st.none() | st.builds(
    lambda marks, recent, excepted: PoliciesOnNode(
        watermarks={kind: str(mark) for kind, mark in marks.items()}, recent=tuple(recent), exceptions=tuple(excepted)
    ),
    st.dictionaries(kinds, numbers), st.lists(recents, max_size=3), st.lists(exceptions, max_size=2),
)  # fmt: skip
steps = st.one_of(
    st.tuples(st.just("policy"), kinds, names, st.sampled_from("uuuv"), generations, numbers),
    st.tuples(st.just("no policy"), kinds, names),
    st.tuples(st.just("node"), nodes),
    st.tuples(st.just("no node"), nodes),
    st.tuples(st.just("report"), nodes, reports, st.sampled_from([0.0, 0.0, 0.0, 200.0])),
    st.tuples(st.just("marks"), nodes, kinds, st.sampled_from([2, 2, -2])),
    st.tuples(st.just("no report"), nodes),
    st.tuples(st.just("time"), st.sampled_from([1.0, 61.0, 100.0])),
)


class Model:
    """The same, by asking everybody."""

    def __init__(self) -> None:
        self.policies: dict[Any, PolicyVersion] = {}
        self.nodes: dict[str, float] = {}
        self.counted: set[str] = set()
        self.mesh_nodes: dict[str, MeshNode] = {}

    def put(self, version: PolicyVersion) -> None:
        known = self.policies.get(version.place)
        if known is None or known.uid != version.uid or known.generation != version.generation or not known.generation:
            self.policies[version.place] = version

    def look(self, now: float) -> None:
        """Notes which nodes count by now: those that were well once, and those that had time enough."""
        for node, since in self.nodes.items():
            well = NodeReport(node, self.mesh_nodes.get(node)).fault(now) is None
            if well or now - since >= PATIENCE:
                self.counted.add(node)

    def counts(self, place: Any, now: float) -> Counter[Standing]:
        found: Counter[Standing] = Counter()
        for node in self.nodes.keys() & self.counted:
            report = NodeReport(node, self.mesh_nodes.get(node))
            found[(report.fault(now) or report.of(self.policies[place])).standing] += 1
        return found


def stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40))
def test_what_is_kept_is_what_asking_everybody_would_say(script: list[Any]) -> None:
    rollout, model, now = Rollout(), Model(), START
    known: dict[Any, Any] = {}
    well = PoliciesOnNode(watermarks=dict.fromkeys(KINDS, "1"))
    begun = [("node", node) for node in NODES] + [("report", node, well, 0.0) for node in NODES]
    for step in [*begun, *script]:
        match step:
            case "policy", kind, name, uid, generation, number:
                version = PolicyVersion(kind, "", name, uid, generation, str(number))
                rollout.put_policy(version)
                model.put(version)
            case "no policy", kind, name:
                rollout.drop_policy((kind, "", name))
                model.policies.pop((kind, "", name), None)
                known.pop((kind, "", name), None)
            case "node", node:
                rollout.put_node(node, now=now)
                model.nodes.setdefault(node, now)
            case "no node", node:
                rollout.drop_node(node)
                model.nodes.pop(node, None)
                model.counted.discard(node)
            case "report", node, told, age:
                status = MeshNodeStatus(heartbeat=stamp(now - age), policies=told)
                model.mesh_nodes[node] = MeshNode(metadata=ObjectMeta(node), status=status)
                rollout.put_mesh_node(model.mesh_nodes[node], now=now)
            case "marks", node, kind, change:
                before = model.mesh_nodes.get(node)
                told = before.status.policies if before is not None else None
                if told is None:
                    continue
                mark = str(int(told.watermarks.get(kind, "0")) + change)
                told = msgspec.structs.replace(told, watermarks={**told.watermarks, kind: mark})
                status = MeshNodeStatus(heartbeat=stamp(now), policies=told)
                model.mesh_nodes[node] = MeshNode(metadata=ObjectMeta(node), status=status)
                rollout.put_mesh_node(model.mesh_nodes[node], now=now)
            case "no report", node:
                rollout.drop_mesh_node(node, now=now)
                model.mesh_nodes.pop(node, None)
            case "time", seconds:
                now += seconds
                rollout.tick(now=now)
        model.look(now)
        changed, everything = rollout.take()
        for place in model.policies:
            counts = model.counts(place, now)
            summary = rollout.summary(place)
            assert summary.counts == dict(counts)
            assert summary.total == sum(counts.values())
            told = (summary.unknown, counts if not summary.everywhere else counts[Standing.PARTIAL] > 0)
            assert place in changed or everything or known.get(place) == told, "it has to be looked at again"
            known[place] = told
