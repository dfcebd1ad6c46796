"""Who is in the ClusterSet, as the objects of one cluster say it: its own name and number, and how to reach peers.

ConfigMap kube-system/isthmus-config says what this cluster is; Secret kube-system/isthmus-clustermesh holds an entry
for each peer, under the peer's name: YAML with name, id and a kubeconfig. Invariants: an entry that cannot be used
costs nothing but itself, and is named with the reason; no reason repeats what may be a secret; what an entry says can
neither read a file of the reader's machine nor run a program there. Pure: reading and following is for others.
Rejected: an object per peer (a CRD), which would tempt people to write credentials where everybody may read them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml

from isthmus.kube.access import Access
from isthmus.kube.errors import DECODE_ERRORS, ConfigError, clip
from isthmus.kube.kubeconfig import inline, plain_data
from isthmus.mesh.clusters import ClustersError, ClusterSpec, own_cluster
from isthmus.model.endpoint import Cluster
from isthmus.model.identity import MAX_CLUSTER_ID
from isthmus.policy.rules import Scope

NAMESPACE = "kube-system"
CONFIG = "isthmus-config"
"""The ConfigMap that says what this cluster is."""

POLICY_SCOPE = "policy-scope"
"""In the data of that ConfigMap: which clusters a policy's selector sees that names none."""

PEERS = "isthmus-clustermesh"
"""The Secret with an entry for each peer."""

MAX_ENTRY = 128 << 10
"""Bytes of one entry; an authority and a token are some 4 kB."""

DEPLOYMENT, LAB = "deployment", "lab"
"""Who runs the tracker and the agents: workloads of the cluster, or the lab around it."""


class MembershipError(Exception):
    """An object cannot be understood; the message names it and the field."""


class Configuration(msgspec.Struct, frozen=True):
    """What a cluster is in the ClusterSet.

    `tracker` says who runs it (DEPLOYMENT or LAB); `address` (host:port) is where its etcd listens if that is no pod;
    `scope` is that of its policies, as its agents are told.
    """

    cluster: Cluster
    max_connected: int = MAX_CLUSTER_ID
    tracker: str = DEPLOYMENT
    address: str = ""
    scope: Scope = Scope.CLUSTERSET


class Refused(msgspec.Struct, frozen=True):
    """An entry that cannot be used, and why."""

    name: str
    reason: str


class Peer(msgspec.Struct, frozen=True):
    """A peer and how to reach it."""

    cluster: Cluster
    access: Access


class Membership(msgspec.Struct, frozen=True):
    """What the Secret says: usable peers by name, and the entries that are not."""

    peers: tuple[Peer, ...] = ()
    refused: tuple[Refused, ...] = ()


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    id: int
    kubeconfig: Any


def read_configuration(data: Mapping[str, str]) -> Configuration:
    """Reads the data of the ConfigMap. Raises MembershipError."""
    where = f"ConfigMap {NAMESPACE}/{CONFIG}"
    try:
        cluster = own_cluster(
            data.get("cluster-name", ""),
            _number(data.get("cluster-id", "0"), f"{where}: cluster-id"),
            flags=(f"{where}: cluster-name", f"{where}: cluster-id"),
        )
    except ClustersError as error:
        raise MembershipError(str(error)) from None
    limit = _number(data.get("max-connected-clusters", str(MAX_CLUSTER_ID)), f"{where}: max-connected-clusters")
    tracker = data.get("tracker", DEPLOYMENT)
    if tracker not in (DEPLOYMENT, LAB):
        raise MembershipError(f"{where}: tracker: {clip(tracker)!r} is not one of {DEPLOYMENT}, {LAB}")
    scope = data.get(POLICY_SCOPE, Scope.CLUSTERSET.value)
    if scope not in {known.value for known in Scope}:
        raise MembershipError(f"{where}: {POLICY_SCOPE}: {clip(scope)!r} is neither clusterset nor local")
    return Configuration(cluster, limit, tracker, data.get("tracker-address", ""), Scope(scope))


def configuration_data(configuration: Configuration) -> dict[str, str]:
    """Returns the data of the ConfigMap."""
    data = {
        "cluster-name": configuration.cluster.name,
        "cluster-id": str(configuration.cluster.id),
        "max-connected-clusters": str(configuration.max_connected),
        "tracker": configuration.tracker,
    }
    if configuration.address:
        data["tracker-address"] = configuration.address
    if configuration.scope is not Scope.CLUSTERSET:
        data[POLICY_SCOPE] = configuration.scope.value
    return data


def read_peers(data: Mapping[str, bytes], *, own: str) -> Membership:
    """Reads the data of the Secret; an entry under the `own` name means nothing, so that all clusters may share one."""
    peers: list[Peer] = []
    refused: list[Refused] = []
    for name, content in sorted(data.items()):
        if name == own:
            continue
        try:
            peers.append(_peer(name, content))
        except (ConfigError, ClustersError, MembershipError) as error:
            refused.append(Refused(name, str(error)))
    return Membership(tuple(peers), tuple(refused))


def peer_entry(cluster: Cluster, *, server: str, token: str, ca: bytes | None, server_name: str | None = None) -> bytes:
    """Returns the entry for a peer; `ca` is PEM, None for an API server that the system's roots vouch for."""
    target: dict[str, Any] = {"server": server}
    if ca is not None:
        target["certificate-authority-data"] = msgspec.to_builtins(ca)
    if server_name:
        target["tls-server-name"] = server_name
    name = cluster.name
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": target}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    entry = {"name": name, "id": cluster.id, "kubeconfig": kubeconfig}
    text = yaml.safe_dump(entry, sort_keys=False, width=2**20)
    assert isinstance(text, str)  # noqa: S101
    return text.encode()


def merge_peers(
    listed: Sequence[ClusterSpec], membership: Membership, *, before: Mapping[str, ClusterSpec]
) -> tuple[list[ClusterSpec], tuple[Refused, ...]]:
    """Returns the peers that are joined beside the `listed` clusters (own one, flags, file), and who is refused.

    `before` holds the peers of the last time: such a one keeps its number against a newcomer, and its access when its
    entry has become unreadable. A name or number of a listed cluster stays with that.
    """
    refused = list(membership.refused)
    names = {spec.cluster.name for spec in listed}
    owners = {spec.cluster.id: spec.cluster.name for spec in listed}
    candidates = [ClusterSpec(peer.cluster, access=peer.access) for peer in membership.peers]
    candidates += [before[item.name] for item in membership.refused if item.name in before]

    def newcomers_last(spec: ClusterSpec) -> tuple[bool, str]:
        known = before.get(spec.cluster.name)
        return known is None or known.cluster != spec.cluster, spec.cluster.name

    accepted: list[ClusterSpec] = []
    for spec in sorted(candidates, key=newcomers_last):
        name, number = spec.cluster.name, spec.cluster.id
        if name in names:
            refused.append(Refused(name, "a cluster of this name is given by --cluster or --clusters-file too"))
        elif number in owners:
            refused.append(Refused(name, f"id {number} is that of cluster {owners[number]}"))
        else:
            owners[number] = name
            accepted.append(spec)
    accepted.sort(key=lambda spec: spec.cluster.name)
    return accepted, tuple(sorted(refused, key=lambda item: item.name))


def _peer(name: str, content: bytes) -> Peer:
    if len(content) > MAX_ENTRY:
        raise MembershipError(f"longer than {MAX_ENTRY} bytes")
    tree = plain_data(content, origin="entry")
    try:
        # Not strict: all numbers are text as far as a kubeconfig is concerned.
        entry = msgspec.convert(tree, _Entry, strict=False)
    except DECODE_ERRORS as error:
        raise MembershipError(clip(str(error))) from None
    cluster = own_cluster(entry.name, entry.id, flags=("name", "id"))
    if entry.name != name:
        raise MembershipError(f"name: {entry.name!r} is not the name of the entry")
    kubeconfig = entry.kubeconfig
    if isinstance(kubeconfig, str):
        kubeconfig = plain_data(kubeconfig.encode(), origin="kubeconfig")
    return Peer(cluster, inline(kubeconfig, origin=f"Secret {NAMESPACE}/{PEERS} {name}"))


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise MembershipError(f"{where}: {clip(text)!r} is not a number")
    return int(text)
