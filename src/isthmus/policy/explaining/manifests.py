"""Policy objects to suggest: the narrowest that allow one peer to one subject, as a user could have written them.

Invariants: subject and peer are named by all labels that count, by namespace, and by cluster where there are several;
pods that have these labels and more are excluded by name of the label. Where a kind has no word for a peer (a node, in
Cilium's kinds), the next wider one is used and `wider` says so. Rejected: editing the policy that isolates: its author
may apply it again.
"""

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any

import msgspec

from isthmus.model.flow import PORT_PROTOCOLS, Protocol
from isthmus.model.identity import Identity
from isthmus.model.labels import CILIUM_CLUSTER, CLUSTERSET_CLUSTER, NAMESPACE_NAME, POD_NAMESPACE
from isthmus.policy.rules import Direction, Tier

CILIUM_KINDS = ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
_PROTOCOL_NAMES: dict[int, str] = {int(number): name for name, number in PORT_PROTOCOLS.items()}
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
MOST_EXCLUDED = 8
"""Labels that one selector excludes."""


class Selected(msgspec.Struct, frozen=True, kw_only=True):
    """Pods, by what all of them have, and label keys that others have besides: those are not meant."""

    cluster: str
    namespace: str
    labels: dict[str, str]
    without: tuple[str, ...] = ()

    @property
    def selector(self) -> dict[str, Any]:
        """Returns a LabelSelector for the pods of the namespace."""
        found: dict[str, Any] = {}
        if self.labels:
            found["matchLabels"] = dict(sorted(self.labels.items()))
        if self.without:
            found["matchExpressions"] = [{"key": key, "operator": "DoesNotExist"} for key in self.without]
        return found


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy should allow. `peer` is pods, or an address with the identity that has it; "" is any address.

    `named` says whether the peer's cluster is named; `port` is a number, or the type of an ICMP message.
    """

    direction: Direction
    subject: Selected
    peer: Selected | None
    address: str
    identity: Identity
    protocol: int
    port: int
    named: bool
    name: str


def selected(identity: Identity, others: Iterable[Identity]) -> Selected:
    """Returns how to select the pods of an identity, and none of `others` as far as labels can tell them apart."""
    labels = identity.labels
    without: dict[str, None] = {}
    for other in others:
        if (other.cluster, other.namespace) != (identity.cluster, identity.namespace):
            continue
        if all(other.labels.get(key) == value for key, value in labels.items()):
            more = sorted(set(other.labels) - set(labels))
            if more and not any(key in without for key in more):
                without[more[0]] = None
    return Selected(
        cluster=identity.cluster,
        namespace=identity.namespace,
        labels=labels,
        without=tuple(without)[:MOST_EXCLUDED],
    )


def name_for(subject: str, peer: str, direction: Direction, taken: Iterable[str]) -> str:
    """Returns a name that is free: `x-wing-to-rebel-base`, or `rebel-base-from-x-wing`."""
    joint = "from" if direction is Direction.INGRESS else "to"
    words = [_NOT_IN_NAMES.sub("-", text.lower()).strip("-")[:26].strip("-") or "pods" for text in (subject, peer)]
    base = f"{words[0]}-{joint}-{words[1]}"
    names, found, number = set(taken), base, 1
    while found in names:
        number += 1
        found = f"{base}-{number}"
    return found


def network_policy(draft: Draft) -> dict[str, Any]:
    """Returns a NetworkPolicy. It has no word for ICMP: then the rule is for every port, which `draft` decides."""
    if draft.peer is None:
        chosen: list[dict[str, Any]] = [{"ipBlock": {"cidr": cidr}} for cidr in _networks(draft.address)]
    else:
        space = {NAMESPACE_NAME: draft.peer.namespace}
        if draft.named:
            space[CLUSTERSET_CLUSTER] = draft.peer.cluster
        chosen = [{"namespaceSelector": {"matchLabels": space}, "podSelector": draft.peer.selector}]
    word, peers = ("ingress", "from") if draft.direction is Direction.INGRESS else ("egress", "to")
    rule: dict[str, Any] = {peers: chosen}
    if draft.protocol in _PROTOCOL_NAMES:
        rule["ports"] = [{"port": draft.port, "protocol": _PROTOCOL_NAMES[draft.protocol]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": draft.name, "namespace": draft.subject.namespace},
        "spec": {"podSelector": draft.subject.selector, "policyTypes": [word.capitalize()], word: [rule]},
    }


def cilium_policy(draft: Draft) -> dict[str, Any]:
    """Returns a CiliumNetworkPolicy."""
    word, side = ("ingress", "from") if draft.direction is Direction.INGRESS else ("egress", "to")
    rule: dict[str, Any] = {}
    if draft.peer is not None:
        labels = dict(draft.peer.labels)
        if draft.peer.namespace != draft.subject.namespace:
            labels[POD_NAMESPACE] = draft.peer.namespace
        if draft.named:
            labels[CILIUM_CLUSTER] = draft.peer.cluster
        chosen = msgspec.structs.replace(draft.peer, labels=labels)
        rule[f"{side}Endpoints"] = [chosen.selector]
    elif "host" in draft.identity.reserved:
        rule[f"{side}Entities"] = ["host"]
    elif "kube-apiserver" in draft.identity.reserved:
        rule[f"{side}Entities"] = ["kube-apiserver"]
    elif "remote-node" in draft.identity.reserved:
        rule[f"{side}Entities"] = ["remote-node"]
    elif draft.address:
        rule[f"{side}CIDR"] = _networks(draft.address)
    else:
        rule[f"{side}Entities"] = ["world"]
    if draft.protocol in _PROTOCOL_NAMES:
        rule["toPorts"] = [{"ports": [{"port": str(draft.port), "protocol": _PROTOCOL_NAMES[draft.protocol]}]}]
    elif draft.protocol in (Protocol.ICMP, Protocol.ICMPV6):
        family = "IPv6" if draft.protocol == Protocol.ICMPV6 else "IPv4"
        rule["icmps"] = [{"fields": [{"family": family, "type": draft.port}]}]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": draft.name, "namespace": draft.subject.namespace},
        "spec": {"endpointSelector": draft.subject.selector, word: [rule]},
    }


def ordered_rule(draft: Draft, *, action: str, older: bool = False) -> dict[str, Any] | None:
    """Returns a rule of a ClusterNetworkPolicy, or of its `older` forms.

    None where there is no word for the peer: ingress from what is no pod.
    """
    peers = "from" if draft.direction is Direction.INGRESS else "to"
    peer: dict[str, Any]
    if draft.peer is not None:
        space = {NAMESPACE_NAME: draft.peer.namespace}
        if draft.named:
            space[CLUSTERSET_CLUSTER] = draft.peer.cluster
        peer = {"pods": {"namespaceSelector": {"matchLabels": space}, "podSelector": draft.peer.selector}}
    elif draft.direction is Direction.EGRESS:
        peer = {"networks": _networks(draft.address)}
    else:
        return None
    rule: dict[str, Any] = {"action": action, peers: [peer]}
    if draft.protocol in _PROTOCOL_NAMES:
        word = _PROTOCOL_NAMES[draft.protocol]
        if older:
            rule["ports"] = [{"portNumber": {"protocol": word, "port": draft.port}}]
        else:
            rule["protocols"] = [{word.lower(): {"destinationPort": {"number": draft.port}}}]
    return rule


def cluster_policy(draft: Draft, *, tier: Tier, priority: int, action: str) -> dict[str, Any] | None:
    """Returns a ClusterNetworkPolicy, or None where it has no word for the peer."""
    rule = ordered_rule(draft, action=action)
    if rule is None:
        return None
    subject = {
        "pods": {
            "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: draft.subject.namespace}},
            "podSelector": draft.subject.selector,
        }
    }
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": draft.name},
        "spec": {"tier": tier.value, "priority": priority, "subject": subject, draft.direction.value: [rule]},
    }


def applicable(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an object as it can be applied elsewhere: without what its server added."""
    meta = obj.get("metadata") or {}
    kept = {key: meta[key] for key in ("name", "namespace", "labels", "annotations") if meta.get(key)}
    notes = {k: v for k, v in (kept.get("annotations") or {}).items() if not k.startswith("kubectl.kubernetes.io/")}
    kept.pop("annotations", None)
    if notes:
        kept["annotations"] = notes
    rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata", "status")}
    return {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), "metadata": kept, **rest}


def _networks(ip: str) -> list[str]:
    return [str(ip_network(ip))] if ip else ["0.0.0.0/0", "::/0"]
