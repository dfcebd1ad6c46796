"""Rules as values that can be written as nft text and be executed by an interpreter.

Invariant: a rule holds nothing but these statements, so what is sent to the kernel and what the interpreter runs are
the same thing. Building text directly was rejected: nothing but a kernel could then say what it means.
"""

from enum import Enum

import msgspec

from isthmus.policy.rules import Address, Network


class Expr(Enum):
    """Something of a packet that can be looked up; the value is nft's text for it."""

    SOURCE4 = "ct original ip saddr"  # who opened the connection
    SOURCE6 = "ct original ip6 saddr"
    TARGET4 = "ct reply ip saddr"  # who answers: the real backend, after DNAT
    TARGET6 = "ct reply ip6 saddr"
    HEADER_SOURCE4 = "ip saddr"
    HEADER_SOURCE6 = "ip6 saddr"
    HEADER_TARGET4 = "ip daddr"
    HEADER_TARGET6 = "ip6 daddr"
    SCRATCH = "meta priority"  # holds the peer's identity while a gate is passed
    PROTOCOL = "meta l4proto"
    DESTINATION_PORT = "th dport"
    SOURCE_PORT = "th sport"
    # nft 1.0.6 has room for 16 bytes of key where the packet path adds elements: IPv6 clients go by a hash. Two that
    # share it (one pair among 100,000 clients) get the same backend of one service, and of two are remembered by turns.
    CLIENT6 = "jhash ip6 saddr . ip6 daddr . meta l4proto . th dport mod 4294967295 seed 0x69737468"


class InDirection(msgspec.Struct, frozen=True):
    """Is the packet of the connection's original direction (or a reply)."""

    reply: bool


class HasProtocol(msgspec.Struct, frozen=True):
    """Is the packet of this IP protocol."""

    protocol: int


class PortIn(msgspec.Struct, frozen=True):
    """Is the port in any of `ranges` (first and last, inclusive)."""

    port: Expr
    ranges: tuple[tuple[int, int], ...]


class AddressIn(msgspec.Struct, frozen=True):
    """Is the address in one of `networks`, all of one family; they do not overlap."""

    address: Expr
    networks: tuple[Network, ...]


Box = tuple[Address, Address, int, int, int]
"""First and last address, protocol, first and last port."""


class AddressPortIn(msgspec.Struct, frozen=True):
    """Is the packet of a protocol and port that `boxes` has for its address; all of one family, none overlap."""

    address: Expr
    port: Expr
    boxes: tuple[Box, ...]


class IcmpIs(msgspec.Struct, frozen=True):
    """Was the connection opened by an ICMP (`protocol` 1) or ICMPv6 (58) message of this type."""

    protocol: int
    type: int


class PeerIs(msgspec.Struct, frozen=True):
    """Is the identity in the scratch one of `numbers`."""

    numbers: tuple[int, ...]


class Family(msgspec.Struct, frozen=True):
    """Is the packet IPv4 or IPv6."""

    version: int


class Lookup(msgspec.Struct, frozen=True):
    """Is the concatenation of `fields` in the set (or, with `negated`, is it not).

    The last `ignored` bits of the last field, which is a port then, count as zero.
    """

    fields: tuple[Expr, ...]
    set: str
    negated: bool = False
    ignored: int = 0


class FromThisNode(msgspec.Struct, frozen=True):
    """Was the packet sent by one of the node's own addresses."""


class RelatedError(msgspec.Struct, frozen=True):
    """Is the packet an ICMP error about a connection that is already known."""


class Established(msgspec.Struct, frozen=True):
    """Is the packet of a connection that both sides have sent packets of."""


class Unjudgeable(msgspec.Struct, frozen=True):
    """Is the packet of no connection that conntrack follows."""


class ByState(msgspec.Struct, frozen=True):
    """Jumps to `new` for packets that open a connection, to `unjudgeable` for those of none that conntrack follows.

    Without `new` (empty) the former just go on.
    """

    unjudgeable: str
    new: str = ""


class NeighbourDiscovery(msgspec.Struct, frozen=True):
    """Is the packet IPv6 router or neighbour discovery (ICMPv6 133-137)."""


class Keep(msgspec.Struct, frozen=True):
    """Sets the scratch to a number; 0 is how packets leave us."""

    number: int


class KeepFrom(msgspec.Struct, frozen=True):
    """Sets the scratch to what `map` holds for `fields`; on a miss the rule ends and the scratch stays."""

    fields: tuple[Expr, ...]
    map: str


class KeepHash(msgspec.Struct, frozen=True):
    """Sets the scratch to a hash of the packet."""

    field: Expr


class KeepRandom(msgspec.Struct, frozen=True):
    """Sets the scratch to a number below `modulus` by chance."""

    modulus: int


class GoBy(msgspec.Struct, frozen=True):
    """Jumps where `map` says for `fields`; on a miss the rule ends."""

    fields: tuple[Expr, ...]
    map: str


class JumpTo(msgspec.Struct, frozen=True):
    """Runs another chain and comes back."""

    chain: str


class GoTo(msgspec.Struct, frozen=True):
    """Goes on in another chain and does not come back."""

    chain: str


class Return(msgspec.Struct, frozen=True):
    """Goes back to the calling chain: the packet is allowed here."""


class Drop(msgspec.Struct, frozen=True):
    """Counts and drops the packet silently."""


class Translated(msgspec.Struct, frozen=True):
    """Is the packet of a connection whose destination was translated, by us or by others (or is it not)."""

    negated: bool = False


class Translate(msgspec.Struct, frozen=True):
    """Sends the connection to what `map` holds for `fields` and ends the hook; on a miss the rule ends."""

    version: int
    fields: tuple[Expr, ...]
    map: str


class Masquerade(msgspec.Struct, frozen=True):
    """Gives the connection the node's address as its source and ends the hook."""


class Refuse(msgspec.Struct, frozen=True):
    """Drops the packet and says so to the sender: with a TCP reset, or an ICMP "port unreachable"."""

    reset: bool


class Remember(msgspec.Struct, frozen=True):
    """Adds `fields` with the scratch to a dynamic map, or (what it holds then stays) makes it last `seconds` again."""

    fields: tuple[Expr, ...]
    map: str
    seconds: int


class Forget(msgspec.Struct, frozen=True):
    """Removes `fields` from a dynamic map."""

    fields: tuple[Expr, ...]
    map: str


Statement = (
    InDirection
    | HasProtocol
    | PortIn
    | AddressIn
    | AddressPortIn
    | IcmpIs
    | PeerIs
    | Family
    | Lookup
    | FromThisNode
    | RelatedError
    | Established
    | Unjudgeable
    | ByState
    | NeighbourDiscovery
    | Keep
    | KeepFrom
    | KeepHash
    | KeepRandom
    | GoBy
    | JumpTo
    | GoTo
    | Return
    | Drop
    | Translated
    | Translate
    | Masquerade
    | Refuse
    | Remember
    | Forget
)

MAX_COMMENT = 120  # bytes; nftables stores 128 with the header


class Rule(msgspec.Struct, frozen=True):
    """Statements that are run in order until one does not hold."""

    statements: tuple[Statement, ...]
    comment: str = ""


class Chain(msgspec.Struct, frozen=True):
    """A chain; `hook` is nft's text of a base chain's hook, or empty."""

    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    comment: str = ""
