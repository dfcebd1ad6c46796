"""API objects of a cluster -> the few facts that the importer keeps of them. Pure.

Objects are not believed more than necessary: labels that claim a cluster are taken out, addresses and labels that no
API server would accept are left out, and all of that is said. The rest of the object still counts.
"""

import re
import sys
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

import msgspec

from isthmus.kube.schema import Namespace, Node, Pod
from isthmus.mesh.source.reports import BAD_ADDRESS, BAD_LABEL, BAD_NETWORK, FOREIGN_CLAIM, TOO_MANY
from isthmus.model import endpoint, labels
from isthmus.model.endpoint import NamedPort

FINISHED = ("Succeeded", "Failed")
MAX_ADDRESSES = 16
"""Addresses of one pod, or pod networks of one node; two is dual stack."""

Problem = tuple[str, str, str]
"""(key, value, reason), as in a Report."""

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class PodFacts(msgspec.Struct, frozen=True, gc=False):
    """A pod that owns addresses, or may: not on the host's network, not finished."""

    namespace: str
    name: str
    uid: str
    labels: dict[str, str]
    service_account: str
    node: str
    host_ip: str
    ips: tuple[str, ...]
    named_ports: tuple[NamedPort, ...]
    terminating: bool
    running: bool
    created: str

    @property
    def claim(self) -> tuple[bool, bool, str, str, str, str]:
        """Orders the claims on one address: the greatest has it. The living before the dying, the younger first."""
        return (not self.terminating, self.running, self.created, self.uid, self.namespace, self.name)


def pod_facts(pod: Pod) -> tuple[PodFacts | None, list[Problem]]:
    """Returns what counts of a pod, None if it owns no address, and what is wrong with it.

    `labels` are not filtered yet, since the filter changes with the policies.
    """
    meta, spec, status = pod.metadata, pod.spec, pod.status
    problems: list[Problem] = []
    if spec.hostNetwork or status.phase in FINISHED:
        return None, problems
    texts = [entry.ip for entry in status.podIPs if entry.ip] or ([status.podIP] if status.podIP else [])
    if len(texts) > MAX_ADDRESSES:
        problems.append(("status.podIPs", str(len(texts)), TOO_MANY))
    ips: dict[str, None] = {}
    for text in texts[:MAX_ADDRESSES]:
        ip = canonical_ip(text)
        if ip is None:
            problems.append(("status.podIPs", text, BAD_ADDRESS))
        else:
            ips[ip] = None
    facts = PodFacts(
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        labels=clean_labels(meta.labels, problems),
        service_account=sys.intern(spec.serviceAccountName),
        node=sys.intern(spec.nodeName),
        host_ip=canonical_ip(status.hostIP) or "",
        ips=tuple(ips),
        named_ports=named_ports(pod),
        terminating=bool(meta.deletionTimestamp),
        running=status.phase == "Running",
        created=meta.creationTimestamp,
    )
    return facts, problems


def named_ports(pod: Pod) -> tuple[NamedPort, ...]:
    """Returns the named ports of all containers and of sidecars (init containers that are restarted always)."""
    sidecars = [container for container in pod.spec.initContainers if container.restartPolicy == "Always"]
    return tuple(
        NamedPort(port.name, port.containerPort, port.protocol)
        for container in (*pod.spec.containers, *sidecars)
        for port in container.ports
        if port.name and 0 < port.containerPort <= 65535 and port.protocol in ("TCP", "UDP", "SCTP")
    )


def namespace_labels(namespace: Namespace, *, cluster: str) -> tuple[dict[str, str], list[Problem]]:
    """Returns the labels of a namespace without those that say its name or its cluster, and what is wrong."""
    problems = foreign_claims(namespace.metadata.labels, cluster=cluster)
    found = clean_labels(namespace.metadata.labels, problems)
    found.pop(labels.NAMESPACE_NAME, None)
    return found, problems


def node_facts(node: Node, *, cluster: str) -> tuple[endpoint.Node, list[Problem]]:
    """Returns the node's record and what is wrong with it; addresses that are names are left out silently."""
    problems: list[Problem] = []
    addresses: dict[str, None] = {}
    for entry in node.status.addresses[:MAX_ADDRESSES]:
        ip = canonical_ip(entry.address)
        if ip is not None:
            addresses[ip] = None
        elif entry.type.endswith("IP"):
            problems.append(("status.addresses", entry.address, BAD_ADDRESS))
    texts = node.spec.podCIDRs or ((node.spec.podCIDR,) if node.spec.podCIDR else ())
    if len(texts) > MAX_ADDRESSES:
        problems.append(("spec.podCIDRs", str(len(texts)), TOO_MANY))
    networks: dict[str, None] = {}
    for text in texts[:MAX_ADDRESSES]:
        network = canonical_network(text)
        if network is None:
            problems.append(("spec.podCIDRs", text, BAD_NETWORK))
        else:
            networks[network] = None
    record = endpoint.Node(
        cluster=cluster,
        name=node.metadata.name,
        addresses=tuple(addresses),
        pod_cidrs=tuple(networks),
        labels=clean_labels(node.metadata.labels, problems),
    )
    return record, problems


def foreign_claims(found: dict[str, str], *, cluster: str) -> list[Problem]:
    """Returns a problem for each label that names another cluster."""
    claims = labels.foreign_claims(found, cluster=cluster)
    return [(key, value, FOREIGN_CLAIM) for key, value in claims.items()]


def clean_labels(found: dict[str, str], problems: list[Problem]) -> dict[str, str]:
    """Returns the labels that are valid and do not speak of a cluster; the invalid ones go to `problems`."""
    clean = {}
    for key, value in found.items():
        if key in labels.CLUSTER_KEYS:
            continue
        if _valid_label(key, value):
            clean[sys.intern(key)] = sys.intern(value)
        else:
            problems.append((f"metadata.labels[{key[:80]}]", value, BAD_LABEL))
    return clean


@lru_cache(maxsize=16384)
def _valid_label(key: str, value: str) -> bool:
    """Tells whether an API server would take the label (apimachinery: IsQualifiedName, IsValidLabelValue)."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or _PREFIX.fullmatch(prefix) is None):
        return False
    return _NAME.fullmatch(name) is not None and (value == "" or _NAME.fullmatch(value) is not None)


def canonical_ip(text: str) -> str | None:
    """Returns an address as everyone writes it, None if it is none that a pod or node can have.

    An IPv4 address mapped into IPv6 is the IPv4 address: the kernel will show it as that.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        return None
    return str(address)


def canonical_network(text: str) -> str | None:
    """Returns a network as everyone writes it, host bits cleared; None if it is none, or is everything."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    return str(network) if network.prefixlen > 0 and "%" not in text else None
