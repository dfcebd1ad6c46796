"""Rules: what every policy API is parsed into, and the only form that policy is judged, compiled and explained in.

Invariants: all types are immutable and hashable, so equal peers are one key in the compiler's caches, and nothing in
them can point back, so the garbage collector need not look (`gc=False`; there may be 100,000 of them). What could not
be understood, or cannot be enforced, is represented by what it may still restrict (see `Policy.problems`), never by
what it might allow. What a policy refers to (Services, CIDR groups) is resolved when it is parsed; a rule stands alone.
Keeping each API's own object tree to the end was rejected: two readers of the same YAML would disagree sooner or later.
"""

from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec

from isthmus.model.flow import Protocol
from isthmus.model.identity import Identity
from isthmus.model.selector import Selector
from isthmus.policy.names import NamePattern

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

LAST_PORT = 65535


class Direction(Enum):
    """Seen from the subject: traffic to it is ingress, traffic from it is egress."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Scope(Enum):
    """Which clusters a peer selector sees when it does not name one."""

    CLUSTERSET = "clusterset"
    LOCAL = "local"


class Tier(Enum):
    """Who is asked first: Admin, then the policies of namespaces and of Cilium's kinds, then Baseline."""

    ADMIN = "Admin"
    NORMAL = "NetworkPolicy"
    BASELINE = "Baseline"


class Action(Enum):
    """What a rule says of what it matches; PASS (Admin and Baseline only) leaves the tier."""

    ALLOW = "Allow"
    DENY = "Deny"
    PASS = "Pass"  # noqa: S105 - the word of the API


class ObjectRef(msgspec.Struct, frozen=True, gc=False, order=True):
    """The API object that a rule came from; `part` counts the independent policies of one object (Cilium's `specs`)."""

    kind: str
    namespace: str
    name: str
    uid: str = ""
    part: int = 0

    @property
    def place(self) -> tuple[str, str, str]:
        """Returns where the object is, whoever it is: kind, namespace ("" where the kind has none) and name."""
        return self.kind, self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Grade(Enum):
    """What a problem means for the object."""

    INVALID = "Invalid"
    """The owner of the API refuses such an object: an update does not replace the last valid version."""
    UNENFORCED = "NotEnforced"
    """Valid, but not something we can do: that part fails closed."""
    WARNING = "Warning"
    """Enforced as written, and perhaps not as meant."""


class Problem(msgspec.Struct, frozen=True, gc=False):
    """What is wrong with an object: `field` is a path such as `spec.ingress[0].ports[1].port`."""

    field: str
    message: str
    grade: Grade = Grade.INVALID

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class PodPeer(msgspec.Struct, frozen=True, gc=False):
    """Pods by what they are: every given condition must hold.

    `namespace` is an exact name ("" = not constrained); `cluster` likewise, and is how a local scope is expressed.
    """

    pods: Selector = Selector()
    namespaces: Selector = Selector()
    namespace: str = ""
    cluster: str = ""

    def matches(self, identity: Identity) -> bool:
        """Tells whether pods of `identity` are meant."""
        return (
            not identity.reserved
            and (not self.cluster or identity.cluster == self.cluster)
            and (not self.namespace or identity.namespace == self.namespace)
            and (not self.namespaces.terms or self.namespaces.accepts(identity.namespace_label))
            and (not self.pods.terms or self.pods.accepts(identity.pod_label))
        )

    def __str__(self) -> str:
        parts = [
            f"namespace {self.namespace}" if self.namespace else "",
            f"namespaces {self.namespaces}" if self.namespaces.terms else "",
            f"pods {self.pods}",
            f"in cluster {self.cluster}" if self.cluster else "",
        ]
        return " ".join(filter(None, parts))


class EndpointPeer(msgspec.Struct, frozen=True, gc=False):
    """Who has the labels that Cilium gives to pods and reserved identities; entities are such selectors too.

    The namespace and cluster that Cilium adds to a selector are terms of it already. `entity` is the word that the user
    wrote, if it was one; it changes nothing.
    """

    selector: Selector
    entity: str = ""

    def matches(self, identity: Identity) -> bool:
        """Tells whether `identity` is meant."""
        return self.selector.accepts(identity.cilium_label)

    def __str__(self) -> str:
        return f"entity {self.entity}" if self.entity else f"endpoints {self.selector}"


class NodePeer(msgspec.Struct, frozen=True, gc=False):
    """Nodes by their labels; `cluster` is an exact name ("" = of any), `own` says whether the pod's own node counts."""

    selector: Selector = Selector()
    cluster: str = ""
    own: bool = True

    def matches(self, identity: Identity) -> bool:
        """Tells whether nodes of `identity` are meant."""
        return (
            ("remote-node" in identity.reserved or (self.own and "host" in identity.reserved))
            and (not self.cluster or identity.cluster == self.cluster)
            and self.selector.accepts(identity.pod_label)
        )

    def __str__(self) -> str:
        return f"nodes {self.selector}" + (f" in cluster {self.cluster}" if self.cluster else "")


class CidrPeer(msgspec.Struct, frozen=True, gc=False):
    """Addresses in `network` and in none of `excepts`.

    Also addresses of pods and nodes (they are IPs), unless `outside`: then only those of the world, as Cilium has it.
    """

    network: Network
    excepts: tuple[Network, ...] = ()
    outside: bool = False

    def matches(self, address: Address, identity: Identity) -> bool:
        """Tells whether `address`, which `identity` holds, is meant; one of the other family never is."""
        return (
            address in self.network
            and not any(address in hole for hole in self.excepts)
            and (not self.outside or "world" in identity.reserved)
        )

    def __str__(self) -> str:
        return f"{self.network}" + "".join(f" except {hole}" for hole in self.excepts)


class NamePeer(msgspec.Struct, frozen=True, gc=False):
    """Addresses outside the ClusterSet that one of `patterns` led to, as far as a DNS proxy has learned."""

    patterns: tuple[NamePattern, ...]

    def matches(self, names: frozenset[str], identity: Identity) -> bool:
        """Tells whether an address that `names` led to, and `identity` holds, is meant."""
        return "world" in identity.reserved and any(
            pattern.matches(name) for pattern in self.patterns for name in names
        )

    def __str__(self) -> str:
        return "names " + ",".join(map(str, self.patterns))


IdentityPeer = PodPeer | EndpointPeer | NodePeer
"""Peers that depend on the identity alone."""
Peer = PodPeer | EndpointPeer | NodePeer | CidrPeer | NamePeer


def means(peer: Peer, address: Address, identity: Identity, names: frozenset[str] = frozenset()) -> bool:
    """Tells whether `peer` means `address`, which `identity` holds and `names` led to."""
    match peer:
        case CidrPeer():
            return peer.matches(address, identity)
        case NamePeer():
            return peer.matches(names, identity)
        case _:
            return peer.matches(identity)


class PortRange(msgspec.Struct, frozen=True, gc=False, order=True):
    """Ports `first`-`last` (inclusive) of IP protocol `protocol`; 0-65535 is every port of it."""

    protocol: int
    first: int = 0
    last: int = LAST_PORT

    @property
    def whole(self) -> bool:
        """Tells whether every port of the protocol is meant."""
        return self.first == 0 and self.last == LAST_PORT

    def matches(self, protocol: int, port: int) -> bool:
        """Tells whether the destination port is in the range."""
        return protocol == self.protocol and self.first <= port <= self.last

    def __str__(self) -> str:
        word = Protocol(self.protocol).name if self.protocol in set(Protocol) else f"protocol {self.protocol}"
        if self.whole:
            return f"{word}"
        return f"{self.first}/{word}" if self.first == self.last else f"{self.first}-{self.last}/{word}"


class PortName(msgspec.Struct, frozen=True, gc=False, order=True):
    """A container port by name; its number is what the destination pod says it is, and may differ from pod to pod.

    `protocol` 0 stands for the one that the container port has.
    """

    protocol: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}/{Protocol(self.protocol).name}" if self.protocol else self.name


class IcmpType(msgspec.Struct, frozen=True, gc=False, order=True):
    """Messages of one type (0-255) of ICMP or ICMPv6, whatever their code."""

    protocol: int
    type: int

    def matches(self, protocol: int, port: int) -> bool:
        """Tells whether a flow of `protocol` with `port` (the type) is meant."""
        return protocol == self.protocol and port == self.type

    def __str__(self) -> str:
        return f"{'ICMPv6' if self.protocol == Protocol.ICMPV6 else Protocol(self.protocol).name} type {self.type}"


Port = PortRange | PortName | IcmpType


class Rule(msgspec.Struct, frozen=True, gc=False):
    """Does `action` for `ports` (None = any protocol and port) with `peers` (None = anyone, anywhere).

    `index` counts the rules of one direction (and action) in the object, `field` is the path there, such as
    `spec.egressDeny[0]`, `name` is what the user calls it.
    """

    direction: Direction
    index: int
    peers: tuple[Peer, ...] | None = None
    ports: tuple[Port, ...] | None = None
    action: Action = Action.ALLOW
    field: str = ""
    name: str = ""


class Policy(msgspec.Struct, frozen=True, gc=False):
    """One independent policy: its subjects are pods of its own cluster that `subject` selects.

    In the normal tier a subject is isolated in the directions of `isolates`: there it may do what the union of the
    rules of all policies of that tier allows, and nothing else. DENY rules of that tier win over all of its ALLOW
    rules, isolated or not. In the other tiers `isolates` is empty and `rules` are asked in order, policies by
    `priority` (the lowest first) and then by name. `namespace` is empty for cluster-scoped kinds.
    """

    ref: ObjectRef
    namespace: str
    subject: PodPeer | EndpointPeer
    isolates: frozenset[Direction]
    rules: tuple[Rule, ...] = ()
    scope: Scope = Scope.CLUSTERSET
    problems: tuple[Problem, ...] = ()
    tier: Tier = Tier.NORMAL
    priority: int = 0
    generation: int = 0

    @property
    def valid(self) -> bool:
        """Tells whether the owner of the API would accept the object."""
        return not any(problem.grade is Grade.INVALID for problem in self.problems)

    @property
    def rank(self) -> tuple[int, str, ObjectRef]:
        """Orders the policies of one tier."""
        return self.priority, self.ref.name, self.ref

    @property
    def directions(self) -> frozenset[Direction]:
        """Returns the directions in which it says anything."""
        return self.isolates | {rule.direction for rule in self.rules}

    @property
    def spares_own_node(self) -> bool:
        """Tells whether it lets its subjects talk to their own node, whatever it allows (NetworkPolicy)."""
        return self.ref.kind == "NetworkPolicy"

    def selects(self, pod: Identity) -> bool:
        """Tells whether a pod of this cluster, with all its labels, is a subject."""
        return (not self.namespace or pod.namespace == self.namespace) and self.subject.matches(pod)
