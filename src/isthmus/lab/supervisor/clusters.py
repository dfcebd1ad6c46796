"""The clusters that run: what a request changes, in the order in which it can be undone.

Invariants: a cluster that failed to come up is taken down again at once, with its files unless it was only to be
brought back; deleting ends the processes first, then whatever else lives in the cluster's network namespaces (pods
outlive their node's process), then links and routes; the roster names a cluster only while it exists.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from isthmus.lab.control import AgentHealth, ClusterState, Reply, UnitSpec, UnitState
from isthmus.lab.plan import ClusterPlan, Mode, NodePlan
from isthmus.lab.statedir import StateDir
from isthmus.lab.supervisor.commands import CommandError
from isthmus.lab.supervisor.doorway import Doorway
from isthmus.lab.supervisor.health import ask_agents
from isthmus.lab.supervisor.logfile import LogFile
from isthmus.lab.supervisor.nursery import Nursery
from isthmus.lab.supervisor.partition import Partitions, UnknownEndError
from isthmus.lab.supervisor.remains import kill_all_in
from isthmus.lab.supervisor.roster import write_roster
from isthmus.lab.supervisor.segment import (
    cut_node,
    set_up_cluster,
    set_up_node,
    take_down_cluster,
    take_down_node,
    unplug_node,
)
from isthmus.lab.supervisor.unit import STOP_GRACE, Children, Place, Unit

_log = structlog.get_logger()


class RefusedError(Exception):
    """The request cannot be carried out; the message says why."""


class RunningCluster:
    """A cluster with its processes."""

    def __init__(self, plan: ClusterPlan, *, keep: bool) -> None:
        self.plan = plan
        self.keep = keep
        self.committed = False
        self.units: dict[str, Unit] = {}
        self.doorways: list[Doorway] = []
        self.stopped_nodes: dict[str, frozenset[str]] = {}
        """Nodes that were stopped, with the processes that ended because of it."""

    def describe(self) -> ClusterState:
        """Returns what `lab list` and `lab ps` show."""
        units = tuple(
            UnitState(name=unit.name, node=unit.node, pid=unit.pid, restarts=unit.restarts, state=unit.state)
            for unit in self.units.values()
        )
        return ClusterState(
            plan=self.plan, committed=self.committed, units=units, stopped_nodes=tuple(sorted(self.stopped_nodes))
        )


class Clusters:
    """All clusters of a lab."""

    def __init__(
        self, state: StateDir, *, children: Children, nursery: Nursery, environment: Mapping[str, str]
    ) -> None:
        self._state = state
        self._children = children
        self._nursery = nursery
        self._environment = environment
        self._clusters: dict[str, RunningCluster] = {}
        self._partitions = Partitions()
        self._cut: dict[str, frozenset[str]] = {}
        """What each node was last told to drop."""

    def __len__(self) -> int:
        return len(self._clusters)

    def describe(self) -> Reply:
        """Returns the state of every cluster, by ID, and the partitions."""
        return Reply(
            clusters=tuple(self._clusters[plan.name].describe() for plan in self._plans()),
            partitions=self._partitions.pairs,
        )

    async def health(self, name: str) -> tuple[AgentHealth, ...]:
        """Returns what the agents of a cluster answer; raises RefusedError."""
        cluster = self._find(name)
        if cluster.plan.mode is Mode.NONE:
            return ()
        up = [node for node in cluster.plan.nodes if node.name not in cluster.stopped_nodes]
        answers = {answer.node: answer for answer in await ask_agents(up)}
        return tuple(
            answers.get(node.name) or AgentHealth(node=node.name, missing="the node is stopped")
            for node in cluster.plan.nodes
        )

    async def create(self, plan: ClusterPlan, *, keep: bool) -> None:
        """Makes the network of a cluster; raises RefusedError."""
        for other in self._clusters.values():
            if other.plan.name == plan.name or other.plan.id == plan.id:
                raise RefusedError(f'cluster "{other.plan.name}" with ID {other.plan.id} exists')
        others = self._plans()
        self._clusters[plan.name] = RunningCluster(plan, keep=keep)
        try:
            set_up_cluster(plan, others=others, run_dir=self._state.run, down=self._down())
            self._apply_partitions()
            self._write_roster()
        except (CommandError, OSError) as error:
            await self.delete(plan.name, keep_files=keep)
            raise RefusedError(f'cannot make the network of cluster "{plan.name}": {error}') from error
        _log.info("cluster network up", cluster=plan.name, nodes=len(plan.nodes))

    def start(self, name: str, specs: Iterable[UnitSpec], *, descriptor: int | None) -> None:
        """Starts processes; takes over `descriptor`. Raises RefusedError."""
        cluster = self._find(name)
        doorway = None
        if descriptor is not None:
            doorway = Doorway(descriptor)
            cluster.doorways.append(doorway)
        nodes = {node.name for node in cluster.plan.nodes}
        for spec in specs:
            if spec.name in cluster.units:
                raise RefusedError(f'cluster "{name}" has a process {spec.name} already')
            if spec.node not in nodes:
                raise RefusedError(f'cluster "{name}" has no node {spec.node}')
            cluster.units[spec.name] = unit = self._unit(name, spec, doorway if spec.listener else None)
            unit.start()

    def commit(self, name: str) -> None:
        """Marks a cluster as complete; raises RefusedError."""
        self._find(name).committed = True

    def kept(self, name: str) -> bool:
        """Tells whether the files of a cluster outlive its failure."""
        return name in self._clusters and self._clusters[name].keep

    async def delete(self, name: str, *, keep_files: bool = False) -> None:
        """Takes a cluster down and removes its files unless told otherwise; raises RefusedError."""
        cluster = self._find(name)
        await _stop_all(cluster.units.values())
        await kill_all_in(self._state.run / name)
        del self._clusters[name]
        self._partitions.forget(cluster.plan)
        take_down_cluster(cluster.plan, others=self._plans(), run_dir=self._state.run, down=self._down())
        for doorway in cluster.doorways:
            doorway.close()
        for node in cluster.plan.nodes:
            self._cut.pop(node.name, None)
        with contextlib.suppress(CommandError):
            self._apply_partitions()
        with contextlib.suppress(OSError):
            self._write_roster()
        if not keep_files:
            shutil.rmtree(self._state.cluster(name).root, ignore_errors=True)
        _log.info("cluster deleted", cluster=name, files="kept" if keep_files else "removed")

    async def halt(self) -> None:
        """Ends the processes of all clusters; what they wrote stays. The namespaces go with the supervisor."""
        await _stop_all([unit for cluster in self._clusters.values() for unit in cluster.units.values()])
        _log.info("all clusters stopped", clusters=len(self._clusters))

    async def stop_units(self, name: str, units: Iterable[str]) -> None:
        """Ends processes until they are started again; raises RefusedError."""
        cluster = self._find(name)
        chosen = [self._find_unit(cluster, unit) for unit in units]
        await _stop_all(unit for unit in chosen if unit.state != "stopped")
        _log.info("units stopped", cluster=name, units=[unit.name for unit in chosen])

    def start_units(self, name: str, units: Iterable[str]) -> None:
        """Starts processes that were stopped; raises RefusedError."""
        cluster = self._find(name)
        chosen = [self._find_unit(cluster, unit) for unit in units]
        for unit in chosen:
            if unit.node in cluster.stopped_nodes:
                raise RefusedError(
                    f'{unit.name}: node "{unit.node}" is stopped; start it with: isthmus lab start node {unit.node}'
                )
        for unit in chosen:
            self._resume(unit)

    async def stop_node(self, name: str, node: str) -> None:
        """Cuts the power of a node; raises RefusedError."""
        cluster = self._find(name)
        plan = self._find_node(cluster, node)
        if node in cluster.stopped_nodes:
            return
        here = [unit for unit in cluster.units.values() if unit.node == node and unit.state != "stopped"]
        cluster.stopped_nodes[node] = frozenset(unit.name for unit in here)
        unplug_node(cluster.plan, plan)
        await _stop_all(here, grace=0)
        for directory in self._namespaces(name, node):
            await kill_all_in(directory)
        take_down_node(cluster.plan, plan, run_dir=self._state.run)
        self._cut.pop(node, None)
        _log.info("node stopped", cluster=name, node=node)

    def start_node(self, name: str, node: str) -> None:
        """Boots a node that was stopped; raises RefusedError."""
        cluster = self._find(name)
        plan = self._find_node(cluster, node)
        if node not in cluster.stopped_nodes:
            return
        try:
            set_up_node(cluster.plan, plan, everyone=self._plans(), run_dir=self._state.run)
            units = cluster.stopped_nodes.pop(node)
            self._apply_partitions()
        except (CommandError, OSError) as error:
            raise RefusedError(f'cannot make the network of node "{node}": {error}') from error
        for unit in units:
            self._resume(cluster.units[unit])
        _log.info("node started", cluster=name, node=node)

    def partition(self, one: str, other: str) -> None:
        """Cuts two clusters or nodes off from each other; raises RefusedError."""
        try:
            self._partitions.cut(one, other, plans=self._plans())
            self._apply_partitions()
        except UnknownEndError as error:
            raise RefusedError(str(error)) from error
        except CommandError as error:
            self._partitions.heal(one, other, plans=self._plans())
            raise RefusedError(f"cannot cut {one} and {other} off from each other: {error}") from error

    def heal(self, one: str, other: str) -> None:
        """Undoes a partition, or all of them; raises RefusedError."""
        try:
            self._partitions.heal(one, other, plans=self._plans())
            self._apply_partitions()
        except (UnknownEndError, CommandError) as error:
            raise RefusedError(str(error)) from error

    def _apply_partitions(self) -> None:
        plans = self._plans()
        for cluster in self._clusters.values():
            for node in cluster.plan.nodes:
                wanted = self._partitions.cut_off(node, plans=plans)
                if node.name not in cluster.stopped_nodes and wanted != self._cut.get(node.name, frozenset()):
                    cut_node(cluster.plan, node, addresses=wanted, run_dir=self._state.run)
                    self._cut[node.name] = wanted

    def _resume(self, unit: Unit) -> None:
        try:
            unit.resume()
        except OSError as error:
            raise RefusedError(f"{unit.name} cannot listen again: {error.strerror or error}") from error

    def _namespaces(self, name: str, node: str) -> tuple[Path, Path]:
        """Returns where the namespace files of a node and of its pods are."""
        place = self._state.run / name
        return place / "nodes" / node, place / "sandboxes" / node

    def _plans(self) -> list[ClusterPlan]:
        """Returns the plans of all clusters by ID, the order in which people see them."""
        return sorted((cluster.plan for cluster in self._clusters.values()), key=lambda plan: plan.id)

    def _down(self) -> frozenset[str]:
        return frozenset(node for cluster in self._clusters.values() for node in cluster.stopped_nodes)

    def _find(self, name: str) -> RunningCluster:
        cluster = self._clusters.get(name)
        if cluster is None:
            raise RefusedError(f'no cluster "{name}"')
        return cluster

    def _find_unit(self, cluster: RunningCluster, name: str) -> Unit:
        unit = cluster.units.get(name)
        if unit is None:
            raise RefusedError(f'cluster "{cluster.plan.name}" has no process {name}')
        return unit

    def _find_node(self, cluster: RunningCluster, name: str) -> NodePlan:
        for node in cluster.plan.nodes:
            if node.name == name:
                return node
        raise RefusedError(f'cluster "{cluster.plan.name}" has no node {name}')

    def _unit(self, cluster: str, spec: UnitSpec, doorway: Doorway | None) -> Unit:
        place = self._state.cluster(cluster)
        return Unit(
            spec.name,
            argv=spec.argv,
            node=spec.node,
            log=LogFile(place.log(spec.name)),
            children=self._children,
            environment=self._environment,
            place=Place(net=place.node_namespace(spec.node, "net"), uts=place.node_namespace(spec.node, "uts")),
            nursery=self._nursery,
            doorway=doorway,
        )

    def _write_roster(self) -> None:
        write_roster(self._state, self._plans())


async def _stop_all(units: Iterable[Unit], *, grace: float = STOP_GRACE) -> None:
    async with asyncio.TaskGroup() as group:
        for unit in units:
            group.create_task(unit.stop(grace=grace))
