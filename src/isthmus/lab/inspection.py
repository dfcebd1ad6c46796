"""Looking into a running lab from the machine: processes, logs, and programs in a node's namespaces."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from isthmus.lab.control import Connection, Describe
from isthmus.lab.launch import child_environment
from isthmus.lab.plan import check_known
from isthmus.lab.statedir import ClusterDir, StateDir

_FOLLOW_PAUSE = 0.2
"""Seconds between two looks at a log; files tell nobody that they have grown."""


class InspectionError(Exception):
    """What was asked for is not there; the message names what is."""


class ProcessRow(msgspec.Struct, frozen=True):
    """A process of the lab; `pid` is as this machine sees it (0: not running), `memory` in bytes."""

    cluster: str
    node: str
    name: str
    state: str
    pid: int
    restarts: int
    memory: int


def processes(connection: Connection) -> list[ProcessRow]:
    """Returns every kept-alive process of the lab, the supervisor first."""
    supervisor = connection.supervisor_pid
    outside = _outside_numbers(supervisor)
    rows = [ProcessRow("", "", "supervisor", "running", supervisor, 0, _memory(supervisor))]
    for cluster in connection.ask(Describe()).clusters:
        for unit in cluster.units:
            pid = outside.get(unit.pid, 0)
            rows.append(
                ProcessRow(cluster.plan.name, unit.node, unit.name, unit.state, pid, unit.restarts, _memory(pid))
            )
    return rows


def whole_memory(connection: Connection) -> tuple[int, int]:
    """Returns (processes, bytes) of everything in the lab, pods included."""
    supervisor = connection.supervisor_pid
    pids = _inside(supervisor)
    return len(pids), sum(_memory(pid) for pid in pids)


def run_in_node(connection: Connection, state: StateDir, *, cluster: str, node: str, argv: Sequence[str]) -> int:
    """Runs a program of this machine in a node's namespaces, on this terminal; returns its exit code.

    A node may be given without the cluster's name before it. Raises PlanError for an unknown cluster, InspectionError
    for a node that is unknown or stopped.
    """
    running = {found.plan.name: found for found in connection.ask(Describe()).clusters}
    check_known([cluster], list(running))
    names = [known.name for known in running[cluster].plan.nodes]
    chosen = node if node in names else f"{cluster}-{node}"
    if chosen not in names:
        raise InspectionError(f'no node "{node}" in cluster "{cluster}"; there are: {", ".join(names)}')
    if chosen in running[cluster].stopped_nodes:
        raise InspectionError(f'node "{chosen}" is stopped; start it with: isthmus lab start node {chosen}')
    words, environment = command_in_node(connection, state.cluster(cluster), node=chosen, argv=argv)
    try:
        return subprocess.run(words, env=environment, check=False).returncode
    except FileNotFoundError as error:
        raise InspectionError("nsenter is not installed (package util-linux)") from error


def command_in_node(
    connection: Connection, place: ClusterDir, *, node: str, argv: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Returns the words and the environment that run `argv` in the namespaces of a node."""
    words = ["nsenter", "--target", str(connection.supervisor_pid)]
    if os.readlink("/proc/self/ns/user") != os.readlink(f"/proc/{connection.supervisor_pid}/ns/user"):
        words += ["--user", "--preserve-credentials"]
    words += ["--mount", "--pid", "--ipc", "--"]
    words += ["nsenter", f"--net={place.node_namespace(node, 'net')}", f"--uts={place.node_namespace(node, 'uts')}"]
    return [*words, "--", *argv], {**os.environ, "PATH": child_environment()["PATH"]}


def log_files(state: StateDir, *, cluster: str | None, component: str | None) -> dict[str, Path]:
    """Returns the logs by title; raises InspectionError if there is none of that name."""
    if cluster is None:
        return {"supervisor": state.supervisor_log}
    place = state.cluster(cluster)
    if not place.logs.is_dir():
        known = sorted(path.name for path in state.clusters.iterdir()) if state.clusters.is_dir() else []
        raise InspectionError(
            f'no logs of a cluster "{cluster}"' + (f"; there are: {', '.join(known)}" if known else "")
        )
    found = {path.stem: path for path in sorted(place.logs.glob("*.log"))}
    if component is None:
        return found
    chosen = _component(found, component, cluster)
    if chosen is None:
        raise InspectionError(f'no log of "{component}" in cluster "{cluster}"; there are: {", ".join(found)}')
    return {chosen: found[chosen]}


def tail(path: Path, lines: int) -> list[str]:
    """Returns the last lines of a log, reading no more of it than 8 MiB."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 8 * 1024 * 1024, 0))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def follow(files: dict[str, Path], *, lines: int) -> Iterator[tuple[str, str]]:
    """Yields (title, line): the last lines of each log, and then new ones as they come, until the caller stops."""
    positions: dict[str, tuple[int, int]] = {}
    for title, path in files.items():
        positions[title] = _position(path)
        for line in tail(path, lines):
            yield title, line
    while True:
        # Files tell nobody when they grow; this ends with the command.
        time.sleep(_FOLLOW_PAUSE)
        for title, path in files.items():
            inode, offset = positions[title]
            now, size = _position(path)
            if now != inode or size < offset:
                offset = 0
            if size > offset:
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(size - offset)
                whole = data.rpartition(b"\n")[0]
                offset += len(whole) + 1 if whole else 0
                for line in whole.decode(errors="replace").splitlines():
                    yield title, line
            positions[title] = (now, offset)


def _component(found: dict[str, Path], component: str, cluster: str) -> str | None:
    for candidate in (component, f"node-{component}", f"agent-{component}"):
        if candidate in found:
            return candidate
    for kind in ("node", "agent"):
        short = f"{kind}-{cluster}-{component.removeprefix(f'{kind}-')}"
        if short in found and component.startswith(f"{kind}-"):
            return short
    return None


def _position(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size


def _outside_numbers(supervisor: int) -> dict[int, int]:
    """Returns the process numbers inside the lab -> those of this machine."""
    numbers = {}
    depth = len(_namespace_numbers(supervisor))
    for pid in _inside(supervisor):
        own = _namespace_numbers(pid)
        if len(own) == depth:
            numbers[own[-1]] = pid
    return numbers


def _inside(supervisor: int) -> list[int]:
    """Returns the processes of the lab: those in its PID namespace or below it."""
    depth = len(_namespace_numbers(supervisor))
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            children.setdefault(_parent(int(entry)), []).append(int(entry))
    found, queue = [], [supervisor]
    while queue:
        pid = queue.pop()
        if len(_namespace_numbers(pid)) >= depth > 0:
            found.append(pid)
        queue += children.get(pid, [])
    return found


def _namespace_numbers(pid: int) -> list[int]:
    """Returns the numbers of a process in each PID namespace, this machine's first; empty if it is gone."""
    return [int(word) for word in _status_field(pid, "NSpid:")]


def _parent(pid: int) -> int:
    words = _status_field(pid, "PPid:")
    return int(words[0]) if words else 0


def _status_field(pid: int, name: str) -> list[str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    return next((line.split()[1:] for line in lines if line.startswith(name)), [])


def _memory(pid: int) -> int:
    """Proportional set size where the kernel tells it, which counts shared pages once over all processes."""
    for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
                if line.startswith(key):
                    return int(line.split()[1]) * 1024
        except OSError:
            continue
    return 0
