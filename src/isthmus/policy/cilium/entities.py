"""Entities: Cilium's words for what is no pod, or is a pod by its cluster alone (reference: cilium-policy §1.4).

They ignore the scope: `cluster` has the pods of the own cluster only, and nodes of all. Words for what does not exist
here (`init`, `ingress`, `health`, `unmanaged`) are valid and select nothing.
"""

from ipaddress import ip_network

from isthmus.model.identity import RESERVED_SOURCE
from isthmus.model.labels import CILIUM_CLUSTER
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.rules import CidrPeer, EndpointPeer, Peer

ABSENT = frozenset({"init", "ingress", "health", "unmanaged"})
"""Reserved words that nothing has here."""
_RESERVED = frozenset({"world", "host", "remote-node", "kube-apiserver", "none"}) | ABSENT
RESERVED_KEYS = frozenset(RESERVED_SOURCE + word for word in _RESERVED)
"""The labels of those, as selectors may name them."""
_MESH = ("host", "remote-node", "kube-apiserver")


EVERYONE = "all"
"""The entity that is no condition at all: pods, nodes and the world."""


def entity(word: str, cluster: str) -> tuple[Peer, ...] | None:
    """Returns whom `word` means in a policy of `cluster`: any of these peers; None if there is no such entity."""
    match word:
        case "all":
            return (EndpointPeer(Selector(), word),)
        case "world-ipv4":
            return (CidrPeer(ip_network("0.0.0.0/0"), outside=True),)
        case "world-ipv6":
            return (CidrPeer(ip_network("::/0"), outside=True),)
        case "cluster":
            return (*_reserved(word, *_MESH), _pods(word, Term(CILIUM_CLUSTER, Operator.IN, (cluster,))))
        case "cluster-mesh":
            return (*_reserved(word, *_MESH), _pods(word, Term(CILIUM_CLUSTER, Operator.EXISTS)))
    return _reserved(word, word) if word in _RESERVED else None


def _reserved(entity_word: str, *words: str) -> tuple[EndpointPeer, ...]:
    return tuple(_pods(entity_word, Term(RESERVED_SOURCE + word, Operator.EXISTS)) for word in words)


def _pods(word: str, term: Term) -> EndpointPeer:
    return EndpointPeer(Selector.of(term), word)
