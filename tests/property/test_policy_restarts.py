"""An agent that may be killed at any moment enforces what one that lives for ever does, once it has seen the same."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.policies.book import Unseen
from isthmus.agent.policies.kept import decode, encode
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import CILIUM_NETWORK_POLICIES
from isthmus.policy.context import CidrGroup, Use
from tests.unit.agent.policies.test_book import Followed

NAMES = "pq"
RULES: dict[str, Any] = {
    "valid": [{"fromEntities": ["world"]}],
    "other": [{"fromEntities": ["cluster"]}],
    "group": [{"fromCIDRSet": [{"cidrGroupRef": "g"}]}],
    "bad": "all",
    "bad too": [{"fromCIDR": ["10.0.0.0/33"]}],
    "bad group": [{"fromCIDRSet": [{"cidrGroupRef": "g"}], "fromCIDR": ["10.0.0.0/33"]}],
}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES), st.sampled_from(sorted(RULES))),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(st.just("anew"), st.sampled_from(NAMES), st.sampled_from(sorted(RULES))),
        st.tuples(st.just("widen")),
        st.tuples(st.just("restart"), st.permutations(("list", "groups", "hidden", "again"))),
    ),
    max_size=24,
)


class Cluster:
    """The objects of a cluster as its API server has them."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.group = CidrGroup("g", {}, ("10.0.0.0/8",))
        self._count = 0

    def put(self, name: str, rules: str, *, anew: bool = False) -> dict[str, Any]:
        self._count += 1
        before = self.objects.get(name)
        metadata = {"namespace": "x", "name": name, "uid": str(self._count), "generation": 1}
        if before is not None and not anew:
            metadata |= {"uid": before["metadata"]["uid"], "generation": before["metadata"]["generation"] + 1}
        metadata["resourceVersion"] = str(100 + self._count)
        spec = {"endpointSelector": {}, "ingress": deepcopy(RULES[rules])}
        kind = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}
        self.objects[name] = {**kind, "metadata": metadata, "spec": spec}
        return self.objects[name]


class Agent(Followed):
    """A book that is told what the cluster has."""

    def __init__(self, cluster: Cluster, earlier: Any = None) -> None:
        super().__init__(earlier or {})
        self.cluster = cluster

    def tell(self, what: str) -> None:
        match what:
            case "list":
                self.take(Snapshot(tuple(self.cluster.objects.values())), CILIUM_NETWORK_POLICIES)
            case "groups":
                self.groups["g"] = self.cluster.group
                self.refer(Use.CIDR_GROUPS, "g")
            case "hidden" if not self.book.total:
                self.take(Unseen(()), CILIUM_NETWORK_POLICIES)

    def restarted(self, order: Sequence[str]) -> "Agent":
        """Returns the next run, after another one that was killed wherever `again` stands in `order`."""
        next_one = Agent(self.cluster, self._stored())
        for what in order[: order.index("again")]:
            next_one.tell(what)
        last = Agent(self.cluster, next_one._stored())
        for what in (*order[order.index("again") :], *order):
            last.tell(what)
        return last

    def _stored(self) -> Any:
        file = encode(self.book.kept_versions(), cluster="east", node="n1")
        assert not file.left_out
        return decode(file.content, cluster="east", node="n1")

    @property
    def kept(self) -> dict[str, int]:
        found = [entry for entry in self.book.faulty.values() if entry.kept]
        return {entry.ref.name: entry.in_force.generation for entry in found if entry.in_force is not None}


@given(STEPS)
def test_restarts_change_nothing(steps):
    cluster = Cluster()
    steady = Agent(cluster)
    killed = Agent(cluster)
    for agent in (steady, killed):
        agent.tell("groups")
        agent.tell("list")
    for step in steps:
        match step:
            case ("put" | "anew" as what, name, rules):
                obj = cluster.put(name, rules, anew=what == "anew")
                for agent in (steady, killed):
                    agent.take(Put(obj), CILIUM_NETWORK_POLICIES)
            case ("delete", name) if name in cluster.objects:
                obj = cluster.objects.pop(name)
                for agent in (steady, killed):
                    agent.take(Gone(obj), CILIUM_NETWORK_POLICIES)
            case ("widen",):
                cluster.group = CidrGroup("g", {}, (*cluster.group.cidrs, f"11.{len(cluster.group.cidrs)}.0.0/16"))
                for agent in (steady, killed):
                    agent.tell("groups")
            case ("restart", order):
                killed = killed.restarted(order)
        assert killed.policies == steady.policies
        assert killed.kept == steady.kept
        assert killed.book.kept_versions() == steady.book.kept_versions()
        assert killed.book.waiting == frozenset()
