"""What is known of every cluster of a ClusterSet at one moment, as far as policy depends on it.

One immutable value, so that "before" and "after" of a change can be held beside each other. Policies stay the API
objects that they are: a change is a change of objects, and what a user is told to apply is one. Invariants: labels
never claim a cluster (they were cleaned when they were read); an address belongs to at most one pod. Rejected: asking
the agents of the nodes, which answer for one node each, and only while they run.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from isthmus.model.endpoint import NamedPort
from isthmus.policy.cilium.groups import cidr_group
from isthmus.policy.context import CidrGroup
from isthmus.policy.rules import Scope

GROUP = "CiliumCIDRGroup"
Object = Mapping[str, Any]
"""An API object as decoded JSON, with `apiVersion` and `kind`."""


class PodSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A pod with addresses. `workload` is what made it, as `Deployment/x-wing`, "" for a bare pod.

    `ports` are (IP protocol, number) of its container ports. An `imaginary` pod stands for those that a workload will
    have; its addresses are made up. A pod of the host's network is its node to policy.
    """

    namespace: str
    name: str
    labels: dict[str, str] = {}
    uid: str = ""
    service_account: str = ""
    node: str = ""
    ips: tuple[str, ...] = ()
    named_ports: tuple[NamedPort, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    workload: str = ""
    host_network: bool = False
    imaginary: bool = False
    standing: tuple[bool, bool, str] = (True, True, "")

    @property
    def key(self) -> str:
        """Returns `namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def owner(self) -> str:
        """Returns the name that people call it by: the workload's, else its own."""
        return self.workload.partition("/")[2] or self.name


class NodeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A node: its addresses and pod networks as canonical text."""

    name: str
    addresses: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    pod_cidrs: tuple[str, ...] = ()


class ServicePortSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A port of a Service; a `target` that is text names a container port."""

    port: int
    protocol: int
    name: str = ""
    target: int | str = 0


class ServiceSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A Service. `selector` is None where it has none; `backends` are the addresses behind it.

    `told` is what EndpointSlices say of the ports there, by address: (name of the Service's port, protocol, number).
    `stands_for` is the name of the Service of the ClusterSet that it was derived for, "" for any other.

    `is_global` says that it uses the backends of other clusters, `shared` that others may use its own, `preference`
    whose it prefers (none, local, remote, or clusters in their order).
    """

    namespace: str
    name: str
    labels: dict[str, str] = {}
    selector: dict[str, str] | None = None
    ips: tuple[str, ...] = ()
    ports: tuple[ServicePortSeen, ...] = ()
    backends: tuple[str, ...] = ()
    told: dict[str, tuple[tuple[str, int, int], ...]] = {}
    stands_for: str = ""
    is_global: bool = False
    shared: bool = False
    preference: str = ""


class ClusterSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster: `scope` is the default of its policies, `namespaces` are labels by name, `origin` says who told us.

    `api_servers` are the addresses of its API server, as its own pods reach it. `exports` are its ServiceExports
    (namespace, name), as far as they were read: whoever knows the Services derived from them needs none. `kept` are the
    nodes that go on with an earlier version of a policy (kind, namespace, name) than the one in `policies`.
    """

    name: str
    scope: Scope = Scope.CLUSTERSET
    properties: dict[str, str] = {}
    namespaces: dict[str, dict[str, str]] = {}
    pods: tuple[PodSeen, ...] = ()
    nodes: tuple[NodeSeen, ...] = ()
    services: tuple[ServiceSeen, ...] = ()
    policies: tuple[Object, ...] = ()
    cidr_groups: tuple[CidrGroup, ...] = ()
    api_servers: tuple[str, ...] = ()
    exports: frozenset[tuple[str, str]] = frozenset()
    kept: dict[tuple[str, str, str], tuple[str, ...]] = {}
    origin: str = ""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """All clusters that were read. `current` and `namespace` are meant where none is named ("" if no cluster is).

    `incidental` are label keys that make pods of one workload look different and mean nothing unless a policy selects
    on them. `warnings` are for people.
    """

    clusters: tuple[ClusterSeen, ...]
    current: str = ""
    namespace: str = "default"
    incidental: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    def cluster(self, name: str) -> ClusterSeen | None:
        """Returns the cluster of that name."""
        return next((cluster for cluster in self.clusters if cluster.name == name), None)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A policy or CIDR group that a cluster gets in the place of what has its kind and name there, or that it loses."""

    cluster: str
    object: Object
    delete: bool = False


def place(obj: Object) -> tuple[str, str, str]:
    """Returns kind, namespace and name of an object, whatever it holds."""
    meta = obj.get("metadata")
    found = meta if isinstance(meta, Mapping) else {}
    return str(obj.get("kind", "")), str(found.get("namespace") or ""), str(found.get("name") or "")


def places(cluster: ClusterSeen) -> set[tuple[str, str, str]]:
    """Returns the policies and CIDR groups that a cluster has, as kind, namespace and name."""
    return {*map(place, cluster.policies), *((GROUP, "", group.name) for group in cluster.cidr_groups)}


def changed(picture: Picture, *changes: Change) -> Picture:
    """Returns the picture after `changes`, one after the other. Raises KeyError for a cluster that is not in it."""
    clusters = {cluster.name: cluster for cluster in picture.clusters}
    for change in changes:
        cluster = clusters[change.cluster]
        where = place(change.object)
        if where[0] == GROUP:
            groups = {group.name: group for group in cluster.cidr_groups}
            groups.pop(where[2], None)
            group = cidr_group(change.object)
            if group is not None and not change.delete:
                groups[group.name] = group
            clusters[change.cluster] = msgspec.structs.replace(cluster, cidr_groups=tuple(groups.values()))
            continue
        policies = {place(obj): obj for obj in cluster.policies}
        if change.delete:
            policies.pop(where, None)
        else:
            policies[where] = change.object
        clusters[change.cluster] = msgspec.structs.replace(cluster, policies=tuple(policies.values()))
    return msgspec.structs.replace(picture, clusters=tuple(clusters[cluster.name] for cluster in picture.clusters))
