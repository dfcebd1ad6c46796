"""Whether two rules could mean the same flow: asked where order matters, by `precedence` and by `ordered.ties`.

Invariant: what cannot be told apart by looking at the rules alone is taken to overlap; who asks is then slower, or
warns of packets that do not exist, and never wrong. Rejected: looking at the pods that exist now, which would give
another answer with every pod.
"""

from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.rules import CidrPeer, EndpointPeer, IcmpType, NamePeer, NodePeer, Peer, PodPeer, Port, PortName


def peers_overlap(one: Peer, other: Peer) -> bool:
    """Tells whether somebody could be both; pods and nodes have addresses, so networks mean them too."""
    return not (_apart(one, other) or _apart(other, one))


def selectors_overlap(one: Selector, other: Selector) -> bool:
    """Tells whether some labels could be meant by both."""
    return not any(a.key == b.key and _exclude(a, b) for a in one.terms for b in other.terms)


def ports_overlap(one: Port, other: Port) -> bool:
    """Tells whether a flow could have both; a name may stand for any number."""
    if one.protocol and other.protocol and one.protocol != other.protocol:
        return False
    if isinstance(one, PortName) or isinstance(other, PortName):
        return True
    first, last = (one.type, one.type) if isinstance(one, IcmpType) else (one.first, one.last)
    low, high = (other.type, other.type) if isinstance(other, IcmpType) else (other.first, other.last)
    return first <= high and low <= last


def _apart(one: Peer, other: Peer) -> bool:
    """Tells whether nobody can be both peers; looks at the pair in one order only where their kinds differ."""
    match one, other:
        case PodPeer(), PodPeer():
            return (
                _differ(one.namespace, other.namespace)
                or _differ(one.cluster, other.cluster)
                or not selectors_overlap(one.pods, other.pods)
                or not selectors_overlap(one.namespaces, other.namespaces)
            )
        case NodePeer(), NodePeer():
            return _differ(one.cluster, other.cluster) or not selectors_overlap(one.selector, other.selector)
        case EndpointPeer(), EndpointPeer():
            return not selectors_overlap(one.selector, other.selector)
        case CidrPeer(), CidrPeer():
            return one.network.version != other.network.version or not one.network.overlaps(other.network)
        case (PodPeer(), NodePeer()) | ((PodPeer() | NodePeer()), NamePeer()):
            return True
        case ((PodPeer() | NodePeer()), CidrPeer()):
            return other.outside
        case _:
            return False


def _differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)


def _exclude(one: Term, other: Term) -> bool:
    """Tells whether no value of their label meets both terms."""
    match one.operator, other.operator:
        case Operator.IN, Operator.IN:
            return set(one.values).isdisjoint(other.values)
        case Operator.IN, Operator.NOT_IN:
            return set(one.values) <= set(other.values)
        case Operator.NOT_IN, Operator.IN:
            return set(other.values) <= set(one.values)
        case (Operator.DOES_NOT_EXIST, Operator.IN | Operator.EXISTS) | (
            Operator.IN | Operator.EXISTS,
            Operator.DOES_NOT_EXIST,
        ):
            return True
    return False
