"""The Node object: registering it, and saying every few seconds that the node is alive.

As kubelets do: the Lease in kube-node-lease is renewed often and cheaply, the status seldom. Invariants: what others
put on the Node (labels, taints, cordons) is kept; a Node that was deleted is registered again.
"""

import asyncio
import datetime
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from isthmus import __version__
from isthmus.kube.client import Client, Patch
from isthmus.kube.errors import KubeError, NotFound
from isthmus.kube.resources import LEASES, NODES
from isthmus.lab.node.pods.status import stamp
from isthmus.lab.node.server import PORT

LEASE_SECONDS = 40
RENEW_INTERVAL = 10.0
STATUS_INTERVAL = 20.0
"""Seconds; kubelets use 40, 10 and 300. Here a node that was thought lost is soon seen to be back."""
MAX_PODS = 110
_EVICTION_KIB = 100 * 1024

KUBELET_VERSION = f"v1.33.0-isthmus.{__version__}"
"""The API version whose behaviour is imitated, and whose imitation it is."""

_NAMESPACE = "kube-node-lease"
_log = structlog.get_logger()


class NodeFacts(msgspec.Struct, frozen=True):
    """What a node says of itself."""

    name: str
    address: str
    pod_cidr: str
    control_plane: bool
    tainted: bool
    address6: str = ""
    pod_cidr6: str = ""
    images: tuple[str, ...] = ()
    """The names of the images that there are."""

    @property
    def pod_cidrs(self) -> list[str]:
        """The networks of the node's pods, IPv4 first."""
        return [cidr for cidr in (self.pod_cidr, self.pod_cidr6) if cidr]


class Registration:
    """Keeps the Node object and its Lease; run `serve` in a task."""

    def __init__(self, client: Client, facts: NodeFacts) -> None:
        self._client = client
        self._facts = facts
        self._trouble = ""

    async def serve(self) -> None:
        """Works until cancelled."""
        status_due = 0.0
        while True:
            pause = RENEW_INTERVAL
            try:
                await self._renew()
                if time.monotonic() >= status_due:
                    await self._write_node()
                    status_due = time.monotonic() + STATUS_INTERVAL
            except NotFound:
                status_due, pause = 0.0, 0.5  # the Node or its namespace was deleted
            except KubeError as error:
                # Often at the start, when the API server begins together with us.
                pause = 1.0
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    _log.warning("node heartbeat failed", reason=str(error))
            else:
                if self._trouble:
                    self._trouble = ""
                    _log.info("node heartbeat works again")
            await asyncio.sleep(pause)

    async def _write_node(self) -> None:
        try:
            current = await self._client.get(NODES, self._facts.name, type=dict)
        except NotFound:
            # With its status, as kubelets do: a scheduler never sees a node that has nothing to give.
            status = node_status(self._facts, now=time.time(), known=())
            current = await self._client.create(NODES, {**node_object(self._facts), "status": status}, type=dict)
            _log.info("node registered", node=self._facts.name)
        known = (current.get("status") or {}).get("conditions") or []
        body = {"status": status_patch(node_status(self._facts, now=time.time(), known=known))}
        await self._client.patch(NODES, self._facts.name, body, type=dict, kind=Patch.STRATEGIC, subresource="status")

    async def _renew(self) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        name = self._facts.name
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        try:
            await self._client.patch(LEASES, name, {"spec": spec}, type=dict, namespace=_NAMESPACE)
        except NotFound:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": _NAMESPACE},
                "spec": spec,
            }
            await self._client.create(LEASES, lease, type=dict, namespace=_NAMESPACE)


def node_object(facts: NodeFacts) -> dict[str, Any]:
    """Returns the Node to register."""
    labels = {
        "kubernetes.io/hostname": facts.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _architecture(),
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": _architecture(),
    }
    spec: dict[str, Any] = {"podCIDR": facts.pod_cidr, "podCIDRs": facts.pod_cidrs}
    if facts.control_plane:
        labels["node-role.kubernetes.io/control-plane"] = ""
    if facts.tainted:
        spec["taints"] = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": facts.name, "labels": labels}, "spec": spec}


def status_patch(status: dict[str, Any]) -> dict[str, Any]:
    """Returns the strategic merge patch that makes a node's status this one.

    Addresses are merged by their type, of which a node of two families has two alike: the list is replaced whole, as
    kubelets do.
    """
    return {**status, "addresses": [{"$patch": "replace"}, *status["addresses"]]}


def node_status(facts: NodeFacts, *, now: float, known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the status of a node that is well; `known` are the conditions that the API has."""
    before = {condition.get("type"): condition for condition in known}
    release = os.uname()
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "the lab's node is posting ready status"),
    ]
    return {
        "addresses": [
            *({"type": "InternalIP", "address": ip} for ip in (facts.address, facts.address6) if ip),
            {"type": "Hostname", "address": facts.name},
        ],
        "capacity": capacity(),
        "allocatable": allocatable(),
        "images": [{"names": [f"lab/{name}:latest"], "sizeBytes": 0} for name in facts.images[:50]],
        "conditions": [
            {
                "type": kind,
                "status": value,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": stamp(now),
                "lastTransitionTime": _last_change(before.get(kind), value) or stamp(now),
            }
            for kind, value, reason, message in conditions
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
        "nodeInfo": {
            "architecture": _architecture(),
            "operatingSystem": "linux",
            "osImage": "Isthmus lab",
            "kernelVersion": release.release,
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "containerRuntimeVersion": f"lab://{__version__}",
            "machineID": _identity("machine", facts.name),
            "systemUUID": _identity("system", facts.name),
            "bootID": _boot_id(),
        },
    }


def capacity() -> dict[str, str]:
    """Returns what the machine has: all nodes of a lab share it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{memory}Ki",
        "ephemeral-storage": f"{_disk() // 1024}Ki",
        "pods": str(MAX_PODS),
        "hugepages-2Mi": "0",
        "hugepages-1Gi": "0",
    }


def allocatable() -> dict[str, str]:
    """Returns what pods may ask for: everything but the kubelet's eviction threshold of 100 MiB of memory."""
    has = capacity()
    return {**has, "memory": f"{max(int(has['memory'].removesuffix('Ki')) - _EVICTION_KIB, 0)}Ki"}


def _disk() -> int:
    try:
        found = os.statvfs("/")
    except OSError:
        return 0
    return found.f_blocks * found.f_frsize


def _last_change(before: dict[str, Any] | None, value: str) -> str:
    if before is None or before.get("status") != value:
        return ""
    return str(before.get("lastTransitionTime") or "")


def _identity(kind: str, name: str) -> str:
    """A stable identity of a node: it has no hardware of its own."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{kind}.{name}.lab"))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
