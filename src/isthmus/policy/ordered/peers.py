"""Peers of the ordered tiers: pods, networks, nodes and domain names, and what each fails to.

Invariants: `namespaces` and `pods` mean pods only, so never what has the network of a host. Under the local scope an
accepting or passing rule that names no cluster sees its own cluster, a denying one sees them all: a guard that was
written before the cluster joined others does not stop guarding, and nobody of another cluster gets round it by an
exemption that was meant for others. Names are for accepting rules of the Admin tier alone (NPEP-133); where another
rule has them, it denies every address that a name could lead to.
Treating a peer of an unknown kind as one that matches nothing was rejected: denials would be lost.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_network

import msgspec

from isthmus.model.selector import Selector
from isthmus.policy.context import NO_NAMES, Context
from isthmus.policy.fields import Reader, show
from isthmus.policy.names import MAX_NAME, NamePattern
from isthmus.policy.rules import Action, CidrPeer, Direction, Grade, NamePeer, NodePeer, Peer, PodPeer, Scope, Tier

POD_PEERS = frozenset({"namespaces", "pods"})
MAX_ADDRESSES = 25  # networks or domainNames of one peer, in every version
MAX_CIDR_TEXT = 43

_REMOVED = {
    "sameLabels": "write a rule for each tenant",
    "notSameLabels": "write a rule for each tenant",
    "namespaceSelector": "the selector itself stands in its place",
}
_WORLD: tuple[Peer, ...] = tuple(CidrPeer(ip_network(every), outside=True) for every in ("0.0.0.0/0", "::/0"))
# The API's own pattern has A-z for A-Z, which lets in six characters more at the start of a label.
_LABEL_AS_ADMITTED = re.compile(r"[a-zA-z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?")
_LABEL = re.compile(r"[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?")


class Peers(msgspec.Struct):
    """The peers of a rule: those with names for their ports, others, and those that are denied whatever it says.

    Not `sound` if one could not be read.
    """

    pods: tuple[Peer, ...] = ()
    others: tuple[Peer, ...] = ()
    denied: tuple[Peer, ...] = ()
    sound: bool = True


class PeerReader:
    """Reads peers of one object; `egress` are the words for peers that a rule for egress may use."""

    def __init__(
        self, reader: Reader, context: Context, scope: Scope, egress: frozenset[str], need_namespaces: bool
    ) -> None:
        self.reader, self.context, self.scope = reader, context, scope
        self.words = {Direction.INGRESS: POD_PEERS, Direction.EGRESS: egress}
        self.need_namespaces = need_namespaces

    def pods(self, entry: Mapping[str, object], field: str, words: frozenset[str] = POD_PEERS) -> PodPeer | None:
        """Returns the pods that a subject (or a peer) with `namespaces` or `pods` means, in any cluster."""
        match one_of(self.reader, entry, field, words):
            case "namespaces":
                selector = self._selector(entry["namespaces"], f"{field}.namespaces")
                return PodPeer(namespaces=selector) if selector is not None else None
            case "pods":
                return self._namespaced(entry["pods"], f"{field}.pods")
        return None

    def add(
        self, peers: Peers, item: object, field: str, *, direction: Direction, action: Action | None, tier: Tier
    ) -> None:
        """Reads one peer of a rule (`action` is None if that could not be read) and adds it to `peers`."""
        entry = self.reader.mapping(item, field)
        word = one_of(self.reader, entry, field, self.words[direction]) if entry is not None else None
        if entry is None or word is None:
            peers.sound = False
            return
        path = f"{field}.{word}"
        match word:
            case "networks":
                networks = self._networks(entry[word], path)
                peers.others += networks[0]
                peers.sound = peers.sound and networks[1]
            case "nodes":
                selector = self.reader.selector(entry[word], path)
                if selector is None:
                    peers.sound = False
                else:
                    peers.others += (NodePeer(selector, self.context.cluster),)
            case "domainNames":
                self._add_names(peers, entry[word], path, allowed=action is Action.ALLOW and tier is Tier.ADMIN)
                if action is Action.ALLOW:
                    peers.denied = ()
            case _:
                pods = self.pods(entry, field)
                if pods is None:
                    peers.sound = False
                else:
                    peers.pods += (self._scoped(pods, action),)

    def _scoped(self, peer: PodPeer, action: Action | None) -> PodPeer:
        narrow = self.scope is Scope.LOCAL and action in (Action.ALLOW, Action.PASS)
        if not narrow or peer.pods.names_clusters or peer.namespaces.names_clusters:
            return peer
        return msgspec.structs.replace(peer, cluster=self.context.cluster)

    def _selector(self, value: object, field: str) -> Selector | None:
        if isinstance(value, Mapping):
            for word, instead in _REMOVED.items():
                if word in value:
                    self.reader.complain(f"{field}.{word}", f"was removed from the API; {instead}")
                    return None
        return self.reader.selector(value, field)

    def _namespaced(self, value: object, field: str) -> PodPeer | None:
        entry = self.reader.mapping(value, field)
        if entry is None:
            return None
        before = len(self.reader.problems)
        for unknown in sorted(entry.keys() - {"namespaceSelector", "podSelector"}):
            self.reader.complain(f"{field}.{unknown}", "is not a known field")
        if entry.get("podSelector") is None:
            self.reader.complain(f"{field}.podSelector", "Required value")
        namespaces: Selector | None = Selector()
        if entry.get("namespaceSelector") is not None:
            namespaces = self._selector(entry["namespaceSelector"], f"{field}.namespaceSelector")
        elif self.need_namespaces:
            self.reader.complain(f"{field}.namespaceSelector", "Required value")
        if len(self.reader.problems) > before or namespaces is None:
            return None
        pods = self.reader.selector(entry["podSelector"], f"{field}.podSelector")
        return PodPeer(pods, namespaces) if pods is not None else None

    def _texts(self, value: object, field: str) -> tuple[list[tuple[str, str]], bool]:
        """Returns the texts of a set with their paths, and whether all of it could be read."""
        before = len(self.reader.problems)
        found = [(item, path) for item, path in self.reader.items(value, field)]
        sound = len(self.reader.problems) == before and bool(found)
        if value == []:
            self.reader.complain(field, "Invalid value: 0: should have at least 1 items")
        if len(found) > MAX_ADDRESSES:
            self.reader.complain(field, f"Too many: {len(found)}: must have at most {MAX_ADDRESSES} items")
        seen: set[str] = set()
        texts: list[tuple[str, str]] = []
        for item, path in found:
            if not isinstance(item, str):
                self.reader.complain(path, f"must be a string, is {show(item)}")
                sound = False
            elif item in seen:
                self.reader.complain(path, f"Duplicate value: {show(item)}")
            else:
                seen.add(item)
                texts.append((item, path))
        return texts, sound

    def _networks(self, value: object, field: str) -> tuple[tuple[Peer, ...], bool]:
        texts, sound = self._texts(value, field)
        peers: list[Peer] = []
        for text, path in texts:
            network = None
            if len(text) > MAX_CIDR_TEXT:
                self.reader.complain(path, f"Too long: may not be more than {MAX_CIDR_TEXT} bytes")
            else:
                network = self.reader.network(text, path)
            first = network[0] if network is not None else None
            if isinstance(first, IPv6Address) and first.ipv4_mapped is not None:
                self.reader.complain(path, f"{show(text)} is an IPv4 network in IPv6; write it as IPv4")
                network = None
            if network is None:
                sound = False
            else:
                peers.append(CidrPeer(network))
        return tuple(peers), sound

    def _add_names(self, peers: Peers, value: object, field: str, *, allowed: bool) -> None:
        texts, sound = self._texts(value, field)
        patterns: list[NamePattern] = []
        for text, path in texts:
            pattern = self._name(text, path)
            if pattern is not None:
                patterns.append(pattern)
        peers.sound = peers.sound and sound
        if not allowed:
            self.reader.complain(field, "is for Accept rules of the Admin tier only", Grade.UNENFORCED)
            peers.denied = _WORLD
            return
        if not self.context.dns_proxy:
            self.reader.complain(field, NO_NAMES, Grade.UNENFORCED)
        if patterns:
            peers.others += (NamePeer(tuple(sorted(set(patterns)))),)

    def _name(self, text: str, field: str) -> NamePattern | None:
        """Returns a name of two labels or more, with or without a leading `*.` and a final dot."""
        labels = text.removeprefix("*.").removesuffix(".").split(".")
        if len(labels) < 2 or not all(map(_LABEL_AS_ADMITTED.fullmatch, labels)):
            self.reader.complain(field, f"Invalid value: {show(text)}: is not a domain name, or *. and one")
        elif len(text) > MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
            self.reader.complain(field, f"{show(text)} is not a name that DNS can have", Grade.UNENFORCED)
        else:
            return NamePattern(text, whole_labels=True)
        return None


def one_of(reader: Reader, entry: Mapping[str, object], field: str, words: frozenset[str]) -> str | None:
    """Returns the one key of `entry` that has a value; None (with a problem) unless it is one of `words`."""
    given = sorted(key for key in entry if entry[key] is not None)
    if len(given) == 1 and given[0] in words:
        return given[0]
    if unknown := sorted(set(given) - words):
        reader.complain(f"{field}.{unknown[0]}", f"is not a known field; should be one of {', '.join(sorted(words))}")
    elif not given:
        reader.complain(field, f"Invalid value: should have at least 1 property: one of {', '.join(sorted(words))}")
    else:
        reader.complain(field, f"Too many: {len(given)}: must have at most 1 property, has {', '.join(given)}")
    return None
