"""Partitions: which nodes do not hear each other.

A node drops what comes in from the hardware addresses it is cut off from, before its own rules and connection tracking
see it, so that both families, pods and nodes are cut alike, in both directions because both sides do it. Invariants:
what a node drops follows from the set of partitions alone; a node that boots again is cut as before. Rejected: taking
links down, which cuts a node off from everybody; dropping by IP address, which forgets what a pod may forge.
"""

from collections.abc import Sequence

from isthmus.lab.plan import ClusterPlan, NodePlan
from isthmus.lab.supervisor.segment import mac_address

Pair = tuple[str, str]


class UnknownEndError(Exception):
    """No cluster or node has this name; the message lists those there are."""


class Partitions:
    """The pairs of clusters or nodes that are cut off from each other, each in the order of the alphabet."""

    def __init__(self) -> None:
        self._pairs: set[Pair] = set()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All of them, sorted."""
        return tuple(sorted(self._pairs))

    def cut(self, one: str, other: str, *, plans: Sequence[ClusterPlan]) -> None:
        """Adds a pair; raises UnknownEndError."""
        if one == other:
            raise UnknownEndError(f'"{one}" cannot be cut off from itself; name two clusters or nodes')
        for name in (one, other):
            _members(name, plans)
        self._pairs.add(_pair(one, other))

    def heal(self, one: str, other: str, *, plans: Sequence[ClusterPlan]) -> None:
        """Removes a pair, or all if both names are empty; raises UnknownEndError."""
        if not one and not other:
            self._pairs.clear()
            return
        for name in (one, other):
            _members(name, plans)
        self._pairs.discard(_pair(one, other))

    def forget(self, plan: ClusterPlan) -> None:
        """Removes the pairs of a cluster that is gone."""
        names = {plan.name, *(node.name for node in plan.nodes)}
        self._pairs = {pair for pair in self._pairs if not names & set(pair)}

    def cut_off(self, node: NodePlan, *, plans: Sequence[ClusterPlan]) -> frozenset[str]:
        """Returns the hardware addresses that `node` does not hear."""
        found: set[str] = set()
        for pair in self._pairs:
            for near, far in (pair, pair[::-1]):
                if node in _members(near, plans):
                    # A node that is cut off from its own cluster still hears itself.
                    found.update(mac_address(peer) for peer in _members(far, plans) if peer != node)
        return frozenset(found)


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _members(name: str, plans: Sequence[ClusterPlan]) -> tuple[NodePlan, ...]:
    """Returns the nodes that a name means: of a cluster, or one; raises UnknownEndError."""
    for plan in plans:
        if plan.name == name:
            return plan.nodes
    for plan in plans:
        for node in plan.nodes:
            if node.name == name:
                return (node,)
    clusters = ", ".join(plan.name for plan in plans)
    nodes = ", ".join(node.name for plan in plans for node in plan.nodes)
    raise UnknownEndError(f'no cluster or node "{name}"; clusters: {clusters}; nodes: {nodes}')
