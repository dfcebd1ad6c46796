"""Faults on demand: which processes or nodes people mean when they say "stop the tracker of koornacht".

Invariants: a name that means nothing is refused with those that mean something, before anything is stopped; saying it
twice is as good as once. A fault lasts until it is undone, or until the whole lab is stopped.
"""

from collections.abc import Callable, Sequence

from isthmus.lab.control import (
    ClusterState,
    Connection,
    StartNode,
    StartUnits,
    StopNode,
    StopUnits,
    UnitState,
)
from isthmus.lab.life.readiness import Waiting
from isthmus.lab.units import apiserver


class FaultError(Exception):
    """What was named is not there, or not enough was said; the message lists what there is."""


class Target:
    """A node, or processes of a cluster."""

    def __init__(self, cluster: str, title: str, *, node: str = "", units: tuple[str, ...] = ()) -> None:
        self.cluster = cluster
        self.title = title
        self.node = node
        self.units = units

    def is_stopped(self, clusters: Sequence[ClusterState]) -> bool:
        """Tells whether it is stopped now, whole."""
        cluster = next(found for found in clusters if found.plan.name == self.cluster)
        if self.node:
            return self.node in cluster.stopped_nodes
        return all(unit.state == "stopped" for unit in cluster.units if unit.name in self.units)

    def stop(self, connection: Connection) -> None:
        """Stops it; raises ControlError."""
        connection.ask(StopNode(self.cluster, self.node) if self.node else StopUnits(self.cluster, self.units))

    def wait(self, waiting: Waiting) -> None:
        """Waits until what was started is well again, as far as that can be asked; raises NotReadyError."""
        nodes = [self.node] if self.node else [unit.removeprefix("agent-") for unit in self.units]
        if self.node or "apiserver" in self.units:
            waiting.api_server()
        if self.node:
            waiting.nodes_named(nodes)
        if self.node or any(unit.startswith("agent-") for unit in self.units):
            waiting.agents(nodes)

    def start(self, connection: Connection) -> None:
        """Starts it; raises ControlError."""
        connection.ask(StartNode(self.cluster, self.node) if self.node else StartUnits(self.cluster, self.units))


def targets(clusters: Sequence[ClusterState], kind: str, names: Sequence[str]) -> list[Target]:
    """Returns what `kind` and names of nodes or clusters mean.

    `kind` is node, tracker, apiserver, controllers or agent.
    A cluster's name means all of the kind in it; without names the lab's only cluster is meant, but never all its
    nodes. Raises FaultError.
    """
    chosen = list(dict.fromkeys(names)) or _only(clusters, kind)
    find = {"node": _nodes, "agent": _agents}.get(kind)
    found = []
    for name in chosen:
        found += (find or _of_cluster(kind))(clusters, name)
    return found


def _only(clusters: Sequence[ClusterState], kind: str) -> list[str]:
    if kind == "node":
        listed = ", ".join(node.name for cluster in clusters for node in cluster.plan.nodes)
        raise FaultError(f"name the node; there are: {listed}")
    if len(clusters) != 1:
        listed = ", ".join(cluster.plan.name for cluster in clusters)
        raise FaultError(f"whose {kind}? Name the cluster; there are: {listed}")
    return [clusters[0].plan.name]


def _nodes(clusters: Sequence[ClusterState], name: str) -> list[Target]:
    for cluster in clusters:
        for node in cluster.plan.nodes:
            if node.name == name:
                return [Target(cluster.plan.name, f"node {name}", node=name)]
    listed = ", ".join(node.name for cluster in clusters for node in cluster.plan.nodes)
    raise FaultError(f'no node "{name}"; there are: {listed}')


def _agents(clusters: Sequence[ClusterState], name: str) -> list[Target]:
    found = [
        Target(cluster.plan.name, f"agent of {unit.node}", units=(unit.name,))
        for cluster in clusters
        for unit in cluster.units
        if unit.name == f"agent-{unit.node}" and name in (unit.node, cluster.plan.name)
    ]
    if not found:
        nodes = ", ".join(_with_agents(clusters)) or "none"
        raise FaultError(f'no agent of a node or cluster "{name}"; nodes with agents: {nodes}')
    return found


def _with_agents(clusters: Sequence[ClusterState]) -> list[str]:
    return [unit.node for cluster in clusters for unit in cluster.units if unit.name == f"agent-{unit.node}"]


def _of_cluster(kind: str) -> Callable[[Sequence[ClusterState], str], list[Target]]:
    def find(clusters: Sequence[ClusterState], name: str) -> list[Target]:
        for cluster in clusters:
            if cluster.plan.name == name:
                units = tuple(unit.name for unit in cluster.units if _is_of(kind, unit))
                if not units:
                    raise FaultError(f'cluster "{name}" has no {kind}')
                return [Target(name, f"{kind} of {name}", units=units)]
        listed = ", ".join(cluster.plan.name for cluster in clusters)
        raise FaultError(f'no cluster "{name}"; there are: {listed}')

    return find


def _is_of(kind: str, unit: UnitState) -> bool:
    return unit.name in apiserver.NAMES if kind == "apiserver" else unit.name == kind
