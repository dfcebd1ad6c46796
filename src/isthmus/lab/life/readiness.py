"""Waiting until a cluster is well: API server, nodes, agents, addons.

A cluster whose agents do not run is open, and must not look ready. A process that keeps ending is not waited for: what
it said last is the reason.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from isthmus.lab.control import Connection, Describe, Health
from isthmus.lab.inspection import tail
from isthmus.lab.life.api import TROUBLE, Api, admin_api
from isthmus.lab.plan import ClusterPlan, Mode
from isthmus.lab.statedir import StateDir

HOPELESS = 3
"""Restarts within one creation: what is slow to start does not end."""
HOPELESS_REAL = 8
"""The same where kube-apiserver runs, which ends when its etcd is slow to answer."""
_PAUSE = 0.05
"""Seconds between two questions; there is nobody to tell a command when another process is ready."""


class NotReadyError(Exception):
    """The cluster did not become ready in time; the message says what was missing."""


class Waiting:
    """Waits for the parts of one cluster, until `deadline` of time.monotonic().

    The API server of a cluster that comes back still says what was true before: with `since` nothing older counts.
    """

    def __init__(
        self,
        state: StateDir,
        plan: ClusterPlan,
        *,
        connection: Connection,
        api: Api,
        deadline: float,
        since: datetime | None = None,
        given_up: threading.Event | None = None,
    ) -> None:
        self._state = state
        self._plan = plan
        self._connection = connection
        self._api = api
        self._deadline = deadline
        self._since = since
        self._given_up = given_up or threading.Event()

    def api_server(self) -> None:
        """Waits for the API server. Raises NotReadyError."""
        self._until(lambda: missing_api(self._api))

    def nodes(self) -> None:
        """Waits until every node is ready, and pods can be made in the default namespace. Raises NotReadyError."""
        self.nodes_named([node.name for node in self._plan.nodes])
        self._until(self._missing_account)

    def nodes_named(self, names: Sequence[str]) -> None:
        """Waits until these nodes are ready. Raises NotReadyError."""
        self._until(lambda: missing_nodes(self._api, names, since=self._since))

    def agents(self, names: Sequence[str] = ()) -> None:
        """Waits until the agents of these nodes, or all, have written their first ruleset. Raises NotReadyError."""
        if self._plan.mode is not Mode.NONE:
            self._until(lambda: missing_agents(self._connection, self._plan, names))

    def deployments(self, names: Sequence[tuple[str, str]]) -> None:
        """Waits until each Deployment (namespace, name) has a pod that is ready. Raises NotReadyError."""
        for namespace, name in names:
            self._until(partial(missing_deployment, self._api, namespace, name, since=self._since))

    def acquaintance(self, others: Sequence[ClusterPlan], *, limit: float) -> str:
        """Waits until the agents here know all of `others`, and theirs all of this cluster; returns what is missing.

        Waits `limit` seconds at most. Raises NotReadyError if somebody gave up.
        """
        deadline = min(self._deadline, time.monotonic() + limit)
        sides = [(self._plan, self._api, [other.name for other in others])]
        sides += [
            (other, admin_api(self._state.cluster(other.name).kubeconfig("admin")), [self._plan.name])
            for other in others
        ]
        for plan, api, names in sides:
            if plan.mode is not Mode.TRACKER:
                continue
            while reason := asked(partial(missing_acquaintance, api, plan, names)):
                if time.monotonic() > deadline:
                    return reason
                if self._given_up.wait(_PAUSE):
                    raise NotReadyError("given up")
        return ""

    def _until(self, missing: Callable[[], str]) -> None:
        while reason := asked(missing):
            self._give_up_on_broken()
            if time.monotonic() > self._deadline:
                raise NotReadyError(reason)
            if self._given_up.wait(_PAUSE):
                raise NotReadyError("given up")

    def _missing_account(self) -> str:
        status, _body = self._api.get("/api/v1/namespaces/default/serviceaccounts/default")
        return "" if status == 200 else "no default ServiceAccount yet"

    def _give_up_on_broken(self) -> None:
        limit = HOPELESS_REAL if self._plan.binaries else HOPELESS
        for cluster in self._connection.ask(Describe()).clusters:
            for unit in cluster.units if cluster.plan.name == self._plan.name else ():
                if unit.restarts >= limit:
                    path = self._state.cluster(self._plan.name).log(unit.name)
                    said = [line for line in tail(path, 20) if line[:2] != "--"]
                    raise NotReadyError(f"{unit.name} keeps ending: {said[-1] if said else 'it says nothing'}")


def asked(missing: Callable[[], str]) -> str:
    """Returns what `missing` says, or what went wrong while it was asked."""
    try:
        return missing()
    except TimeoutError:
        return "API server: it does not answer"
    except TROUBLE as error:
        return f"API server: {getattr(error, 'strerror', None) or error}"


def missing_api(api: Api) -> str:
    """Returns what the API server lacks; raises one of TROUBLE."""
    status, body = api.get("/readyz")
    return "" if status == 200 else f"API server: not ready: {body[:200].decode(errors='replace')}"


def missing_nodes(api: Api, names: Sequence[str], *, since: datetime | None = None) -> str:
    """Returns which of these nodes are not ready, or have not been heard of `since`; raises one of TROUBLE."""
    ready = {item["metadata"]["name"] for item in _items(api, "/api/v1/nodes") if _is_ready(item)}
    if since is not None:
        leases = _items(api, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        ready &= {item["metadata"]["name"] for item in leases if _is_after(item["spec"].get("renewTime"), since)}
    waiting = [name for name in names if name not in ready]
    return f"nodes not ready: {', '.join(waiting)}" if waiting else ""


def missing_agents(connection: Connection, plan: ClusterPlan, names: Sequence[str] = ()) -> str:
    """Returns what the agents that do not enforce say, of these nodes or of all; raises ControlError."""
    answers = [answer for answer in connection.ask(Health(plan.name)).health if not names or answer.node in names]
    silent = [answer for answer in answers if answer.missing]
    if not silent:
        return ""
    nodes = ", ".join(answer.node for answer in silent)
    return f"agents that do not enforce: {nodes} ({silent[0].missing})"


def missing_acquaintance(api: Api, plan: ClusterPlan, names: Sequence[str]) -> str:
    """Returns which of the clusters `names` the agents of a cluster do not know yet; raises one of TROUBLE."""
    known: dict[str, set[str]] = {}
    for item in _items(api, "/apis/isthmus.dev/v1alpha1/meshnodes"):
        clusters = (item.get("status") or {}).get("clusters") or []
        known[item["metadata"]["name"]] = {entry["name"] for entry in clusters if entry.get("ready")}
    for node in plan.nodes:
        waiting = [name for name in names if name not in known.get(node.name, ())]
        if waiting:
            return f"{node.name} does not know all of {', '.join(waiting)} yet"
    return ""


def missing_deployment(api: Api, namespace: str, name: str, *, since: datetime | None = None) -> str:
    """Returns what a Deployment lacks, empty if one of its pods is ready (and began `since`); raises one of TROUBLE."""
    found = api.read(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    if found is not None and (found.get("status") or {}).get("readyReplicas"):
        labels = found["spec"]["selector"].get("matchLabels") or {}
        query = quote(",".join(f"{key}={value}" for key, value in labels.items()))
        if since is None or any(
            _is_ready(pod) and _began(pod, since)
            for pod in _items(api, f"/api/v1/namespaces/{namespace}/pods?labelSelector={query}")
        ):
            return ""
    return f"{name} in {namespace} is not ready"


def _items(api: Api, path: str) -> list[dict[str, Any]]:
    return list((api.read(path) or {}).get("items") or [])


def _is_ready(item: dict[str, Any]) -> bool:
    """Tells whether a node or a pod is ready."""
    conditions = item.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _began(pod: dict[str, Any], since: datetime) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return any(_is_after((entry["state"].get("running") or {}).get("startedAt"), since) for entry in statuses)


def _is_after(stamp: object, since: datetime) -> bool:
    """Compares by the second, which is all that some of the API's times have."""
    return isinstance(stamp, str) and datetime.fromisoformat(stamp) >= since.replace(microsecond=0)
