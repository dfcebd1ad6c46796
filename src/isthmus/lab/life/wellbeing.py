"""How a lab is: what people see of its clusters, whether they run or are stopped.

Invariant: a cluster is well only if everything in it that should run does: API server, nodes, agents, processes.
"""

import msgspec

from isthmus.lab.control import ClusterState, Connection, Describe
from isthmus.lab.inspection import processes, whole_memory
from isthmus.lab.launch import connect
from isthmus.lab.life.api import admin_api
from isthmus.lab.life.notes import Note, complete, noted
from isthmus.lab.life.readiness import asked, missing_agents, missing_api, missing_nodes
from isthmus.lab.plan import GlobalServices, Mode, ServiceProxy
from isthmus.lab.statedir import StateDir


class ClusterHealth(msgspec.Struct, frozen=True, rename="camel"):
    """How a cluster is; `memory` (bytes) is that of its own processes, without pods. Texts say what is missing."""

    name: str
    state: str
    """running or stopped."""
    healthy: bool
    api_server: str = ""
    nodes: str = ""
    agents: str = ""
    node_count: int = 0
    agent_count: int = 0
    stopped_nodes: tuple[str, ...] = ()
    stopped_units: tuple[str, ...] = ()
    waiting_units: tuple[str, ...] = ()
    memory: int = 0
    service_proxy: str = ""
    """Who serves ClusterIPs: isthmus, or none of the lab's."""
    global_services: str = ""
    """nftables, endpointslices or off."""
    policy_scope: str = ""
    """clusterset or local."""
    live_connections: str = ""
    """cut or keep."""


class LabHealth(msgspec.Struct, frozen=True, rename="camel"):
    """How a lab is; `memory` (bytes) is that of everything in it."""

    running: bool
    healthy: bool
    clusters: tuple[ClusterHealth, ...] = ()
    partitions: tuple[tuple[str, str], ...] = ()
    processes: int = 0
    memory: int = 0


def lab_health(state: StateDir) -> LabHealth:
    """Asks every cluster of the lab; raises ControlError, KubeconfigError."""
    connection = connect(state)
    notes = {note.plan.name: note for note in complete(noted(state))}
    if connection is None:
        stopped = tuple(ClusterHealth(name=name, state="stopped", healthy=False) for name in notes)
        return LabHealth(running=False, healthy=False, clusters=stopped)
    with connection:
        reply = connection.ask(Describe())
        memory: dict[str, int] = {}
        for row in processes(connection):
            memory[row.cluster] = memory.get(row.cluster, 0) + row.memory
        alive = [
            _health(state, cluster, connection, memory=memory.get(cluster.plan.name, 0)) for cluster in reply.clusters
        ]
        count, whole = whole_memory(connection)
    names = {cluster.name for cluster in alive}
    stopped = tuple(ClusterHealth(name=n, state="stopped", healthy=False) for n in notes if n not in names)
    return LabHealth(
        running=True,
        healthy=bool(alive) and not stopped and all(cluster.healthy for cluster in alive),
        clusters=(*alive, *stopped),
        partitions=reply.partitions,
        processes=count,
        memory=whole,
    )


def _health(state: StateDir, cluster: ClusterState, connection: Connection, *, memory: int) -> ClusterHealth:
    plan = cluster.plan
    api = admin_api(state.cluster(plan.name).kubeconfig("admin"), patience=3.0)
    names = [node.name for node in plan.nodes]
    server = asked(lambda: missing_api(api)).removeprefix("API server: ")
    nodes = "not known" if server else asked(lambda: missing_nodes(api, names))
    agents = missing_agents(connection, plan)
    stopped = tuple(unit.name for unit in cluster.units if unit.state == "stopped")
    waiting = tuple(unit.name for unit in cluster.units if unit.state == "waiting")
    return ClusterHealth(
        name=plan.name,
        state="running",
        healthy=not (server or nodes or agents or stopped or waiting),
        api_server=server,
        nodes=nodes,
        agents=agents,
        node_count=len(names),
        agent_count=0 if plan.mode is Mode.NONE else len(names),
        stopped_nodes=cluster.stopped_nodes,
        stopped_units=stopped,
        waiting_units=waiting,
        memory=memory,
        service_proxy=(ServiceProxy.ISTHMUS if plan.serves else ServiceProxy.NONE).value,
        global_services=(GlobalServices.OFF if plan.mode is Mode.NONE else plan.global_services).value,
        policy_scope=plan.policy_scope.value,
        live_connections=plan.live_connections.value,
    )


class ClusterView(msgspec.Struct, frozen=True):
    """A cluster with what its directory says of it; `state` is running or stopped."""

    note: Note
    state: str


def lab_view(state: StateDir) -> list[ClusterView]:
    """Returns every cluster of the lab, by ID; raises ControlError."""
    connection = connect(state)
    alive: dict[str, ClusterState] = {}
    if connection is not None:
        with connection:
            alive = {cluster.plan.name: cluster for cluster in connection.ask(Describe()).clusters}
    return [
        ClusterView(note=note, state="running" if note.plan.name in alive else "stopped")
        for note in noted(state)
        if note.complete or note.plan.name in alive
    ]
