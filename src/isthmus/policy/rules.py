"""Rules: what every policy API is parsed into, and the only form that policy is judged, compiled and explained in.

Invariants: all types are immutable and hashable, so equal peers are one key in the compiler's caches. A rule that could
not be understood is represented by what it may still restrict (see `Policy.problems`), never by what it might allow.
Keeping each API's own object tree to the end was rejected: two readers of the same YAML would disagree sooner or later.
"""

from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec

from isthmus.model.identity import Identity
from isthmus.model.selector import Selector

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


class ObjectRef(msgspec.Struct, frozen=True, order=True):
    """The API object that a rule came from."""

    kind: str
    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with an object: `field` is a path such as `spec.ingress[0].ports[1].port`."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class PodPeer(msgspec.Struct, frozen=True):
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
            (not self.cluster or identity.cluster == self.cluster)
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


class CidrPeer(msgspec.Struct, frozen=True):
    """Addresses in `network` and in none of `excepts`; also addresses of pods (they are IPs)."""

    network: Network
    excepts: tuple[Network, ...] = ()

    def matches(self, address: Address) -> bool:
        """Tells whether `address` is meant; an address of the other family never is."""
        return address in self.network and not any(address in hole for hole in self.excepts)

    def __str__(self) -> str:
        return f"{self.network}" + "".join(f" except {hole}" for hole in self.excepts)


Peer = PodPeer | CidrPeer


class PortRange(msgspec.Struct, frozen=True, order=True):
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


class PortName(msgspec.Struct, frozen=True, order=True):
    """A container port by name; its number is what the destination pod says it is, and may differ from pod to pod."""

    protocol: int
    name: str


Port = PortRange | PortName


class Rule(msgspec.Struct, frozen=True):
    """Allows `ports` (None = any protocol and port) with `peers` (None = anyone, in or outside the ClusterSet)."""

    direction: Direction
    index: int
    peers: tuple[Peer, ...] | None = None
    ports: tuple[Port, ...] | None = None


class Policy(msgspec.Struct, frozen=True):
    """One policy object: pods of `namespace` that `subject` selects are isolated in the directions of `isolates`.

    An isolated pod may do what the union of the rules of all policies that isolate it in that direction allows.
    """

    ref: ObjectRef
    namespace: str
    subject: Selector
    isolates: frozenset[Direction]
    rules: tuple[Rule, ...] = ()
    scope: Scope = Scope.CLUSTERSET
    problems: tuple[Problem, ...] = ()

    def selects(self, namespace: str, labels: dict[str, str]) -> bool:
        """Tells whether a pod of this cluster is a subject."""
        return namespace == self.namespace and self.subject.matches(labels)
