"""Waiting until a new cluster's policies are enforced.

A cluster whose agents do not run is open, and must not look ready.

The agents listen on the segment, where only programs of the lab can reach them, so they are asked from their own node.
A process that keeps ending is not waited for: what it said last is the reason.
"""

import subprocess
import time

from isthmus.lab.components import AGENT_METRICS_PORT
from isthmus.lab.control import Connection, Describe
from isthmus.lab.inspection import command_in_node, tail
from isthmus.lab.plan import ClusterPlan, Mode, NodePlan
from isthmus.lab.probe import NotReadyError
from isthmus.lab.statedir import StateDir

HOPELESS = 3  # restarts within one creation: what is slow to start does not end
_PAUSE = 0.05  # seconds
_PATIENCE = "2"  # seconds for one answer


def wait_enforcing(state: StateDir, plan: ClusterPlan, connection: Connection, *, deadline: float) -> None:
    """Waits until every agent of the cluster has written its first ruleset. Raises NotReadyError."""
    if plan.mode is Mode.NONE:
        return
    for node in plan.nodes:
        while (reason := _missing(state, plan, connection, node)) is not None:
            _give_up_on_broken(state, plan, connection)
            if time.monotonic() > deadline:
                raise NotReadyError(f"agent of {node.name}: {reason}")
            time.sleep(_PAUSE)


def _missing(state: StateDir, plan: ClusterPlan, connection: Connection, node: NodePlan) -> str | None:
    url = f"http://{node.address}:{AGENT_METRICS_PORT}/readyz"
    ask = ["curl", "-sS", "--max-time", _PATIENCE, "--noproxy", "*", url]
    words, environment = command_in_node(connection, state.cluster(plan.name), node=node.name, argv=ask)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0 and "readyz check passed" in done.stdout:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith("[-]")]
    return "; ".join(failed) or done.stderr.strip() or "no answer"


def _give_up_on_broken(state: StateDir, plan: ClusterPlan, connection: Connection) -> None:
    for cluster in connection.ask(Describe()).clusters:
        for unit in cluster.units if cluster.plan == plan else ():
            if unit.restarts >= HOPELESS and unit.name.partition("-")[0] in ("agent", "tracker"):
                said = [
                    line for line in tail(state.cluster(plan.name).logs / f"{unit.name}.log", 20) if line[:2] != "--"
                ]
                raise NotReadyError(f"{unit.name} keeps ending: {said[-1] if said else 'it says nothing'}")
