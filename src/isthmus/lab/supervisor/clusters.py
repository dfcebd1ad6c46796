"""The clusters that run: what a request changes, in the order in which it can be undone.

Invariants: a cluster that failed to come up is taken down again at once; deleting ends the processes first, then
whatever else lives in the cluster's network namespaces (pods outlive their node's process), then links and routes;
the roster names a cluster only while it exists.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from isthmus.lab.control import ClusterState, UnitSpec, UnitState
from isthmus.lab.plan import ClusterPlan
from isthmus.lab.statedir import StateDir
from isthmus.lab.supervisor.commands import CommandError
from isthmus.lab.supervisor.logfile import LogFile
from isthmus.lab.supervisor.nursery import Nursery
from isthmus.lab.supervisor.roster import write_roster
from isthmus.lab.supervisor.segment import namespace_inodes, set_up_cluster, take_down_cluster
from isthmus.lab.supervisor.unit import Children, Place, Unit

_KILL_ROUNDS = 50
_KILL_PAUSE = 0.02
"""Seconds between looks for processes that are left."""

_log = structlog.get_logger()


class RefusedError(Exception):
    """The request cannot be carried out; the message says why."""


class RunningCluster:
    """A cluster with its processes."""

    def __init__(self, plan: ClusterPlan) -> None:
        self.plan = plan
        self.committed = False
        self.units: dict[str, Unit] = {}
        self.descriptors: list[int] = []

    def describe(self) -> ClusterState:
        """Returns what `lab list` and `lab ps` show."""
        units = tuple(
            UnitState(name=unit.name, node=unit.node, pid=unit.pid, restarts=unit.restarts, state=unit.state)
            for unit in self.units.values()
        )
        return ClusterState(plan=self.plan, committed=self.committed, units=units)


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

    def __len__(self) -> int:
        return len(self._clusters)

    def describe(self) -> tuple[ClusterState, ...]:
        """Returns the state of every cluster, by ID."""
        return tuple(cluster.describe() for cluster in sorted(self._clusters.values(), key=lambda c: c.plan.id))

    async def create(self, plan: ClusterPlan) -> None:
        """Makes the network of a cluster; raises RefusedError."""
        for other in self._clusters.values():
            if other.plan.name == plan.name or other.plan.id == plan.id:
                raise RefusedError(f'cluster "{other.plan.name}" with ID {other.plan.id} exists')
        others = [other.plan for other in self._clusters.values()]
        self._clusters[plan.name] = RunningCluster(plan)
        try:
            set_up_cluster(plan, others=others, run_dir=self._state.run)
            self._write_roster()
        except (CommandError, OSError) as error:
            await self.delete(plan.name)
            raise RefusedError(f'cannot make the network of cluster "{plan.name}": {error}') from error
        _log.info("cluster network up", cluster=plan.name, nodes=len(plan.nodes))

    def start(self, name: str, specs: Iterable[UnitSpec], *, descriptor: int | None) -> None:
        """Starts processes; takes over `descriptor`. Raises RefusedError."""
        cluster = self._find(name)
        if descriptor is not None:
            cluster.descriptors.append(descriptor)
        nodes = {node.name for node in cluster.plan.nodes}
        for spec in specs:
            if spec.name in cluster.units:
                raise RefusedError(f'cluster "{name}" has a process {spec.name} already')
            if spec.node not in nodes:
                raise RefusedError(f'cluster "{name}" has no node {spec.node}')
            cluster.units[spec.name] = unit = self._unit(name, spec, descriptor if spec.listener else None)
            unit.start()

    def commit(self, name: str) -> None:
        """Marks a cluster as complete; raises RefusedError."""
        self._find(name).committed = True

    async def delete(self, name: str) -> None:
        """Takes a cluster down and removes its files; raises RefusedError."""
        cluster = self._find(name)
        async with asyncio.TaskGroup() as group:
            for unit in cluster.units.values():
                group.create_task(unit.stop())
        await _kill_all_in(self._state.run / name)
        del self._clusters[name]
        take_down_cluster(
            cluster.plan, others=[other.plan for other in self._clusters.values()], run_dir=self._state.run
        )
        for descriptor in cluster.descriptors:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            self._write_roster()
        shutil.rmtree(self._state.cluster(name).root, ignore_errors=True)
        _log.info("cluster deleted", cluster=name)

    def _find(self, name: str) -> RunningCluster:
        cluster = self._clusters.get(name)
        if cluster is None:
            raise RefusedError(f'no cluster "{name}"')
        return cluster

    def _unit(self, cluster: str, spec: UnitSpec, descriptor: int | None) -> Unit:
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
            descriptor=descriptor,
        )

    def _write_roster(self) -> None:
        write_roster(self._state, [cluster.plan for cluster in self._clusters.values()])


async def _kill_all_in(directory: Path) -> None:
    """Kills every process in the network namespaces of a cluster; the lab's /proc shows all of them and no others."""
    inodes = namespace_inodes(directory)
    for _round in range(_KILL_ROUNDS):
        left = [pid for pid in _process_numbers() if _net_inode(pid) in inodes]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_KILL_PAUSE)
    _log.error("processes survive their cluster", directory=directory.name, count=len(left))


def _process_numbers() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def _net_inode(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None
