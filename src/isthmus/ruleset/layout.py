"""The layout of table `inet isthmus`: the sets and chains that every node has, and what leads to gates.

A packet at postrouting (after DNAT, before SNAT; IPVS included) meets two verdict maps keyed by pod IP: by the
address that opened the connection (egress) and by the one that answers (ingress). They jump to the gate of the
policies that concern the pod (see isthmus.ruleset.stages), or miss. Both expressions are of the *connection*, so the
same text judges replies, DNAT'd packets and, after a change, connections that already exist; nothing is remembered per
connection, so nothing can go stale. (Remembering a verdict in the conntrack mark was rejected: see docs/decisions.md.)
What a pod sends to its own node never gets to postrouting. If some gate may forbid that, and only then, there is a
second hook, at input, after IPVS has taken what is for Services (priority 99): there the peer is the node.

Invariant: the chains here follow from the node alone, from which directions are `guarded`, and from whether any gate
judges the node.
"""

from collections.abc import Iterable, Iterator

from isthmus.model.identity import HOST, WORLD
from isthmus.policy.rules import Direction, Network
from isthmus.ruleset.rules import (
    AddressIn,
    ByState,
    Chain,
    Drop,
    Established,
    Expr,
    Family,
    FromThisNode,
    GoBy,
    GoTo,
    JumpTo,
    Keep,
    KeepFrom,
    Lookup,
    NeighbourDiscovery,
    Return,
    Rule,
)
from isthmus.ruleset.sets import Field, Holds, SetSpec

HOOK = "type filter hook postrouting priority srcnat - 5; policy accept;"
BASE = "postrouting"
BASE6 = "postrouting6"
INPUT_HOOK = "type filter hook input priority 110; policy accept;"
INPUT = "input"
INPUT6 = "input6"
NEW = {4: "new4", 6: "new6"}
UNTRACKED = "untracked"
UNTRACKED_INPUT = "untracked_to_node"
UNKNOWN_POD = "unknown_pod"
KEEP_PEER = {Direction.INGRESS: "peer_is_source", Direction.EGRESS: "peer_is_target"}
KEEP_ANYONE = {Direction.INGRESS: "anyone_is_source", Direction.EGRESS: "anyone_is_target"}
"""As KEEP_PEER, but they know the node itself."""

PEERS = {4: SetSpec("peers4", (Field.IPV4,), Holds.IDENTITY), 6: SetSpec("peers6", (Field.IPV6,), Holds.IDENTITY)}
EGRESS = {4: SetSpec("egress4", (Field.IPV4,), Holds.VERDICT), 6: SetSpec("egress6", (Field.IPV6,), Holds.VERDICT)}
INGRESS = {4: SetSpec("ingress4", (Field.IPV4,), Holds.VERDICT), 6: SetSpec("ingress6", (Field.IPV6,), Holds.VERDICT)}
PODS = {4: SetSpec("pods4", (Field.IPV4,)), 6: SetSpec("pods6", (Field.IPV6,))}
TO_NODE = {4: SetSpec("to_node4", (Field.IPV4,), Holds.VERDICT), 6: SetSpec("to_node6", (Field.IPV6,), Holds.VERDICT)}
SELF = {4: SetSpec("self4", (Field.IPV4, Field.IPV4)), 6: SetSpec("self6", (Field.IPV6, Field.IPV6))}
FIXED = (PEERS, EGRESS, INGRESS, TO_NODE, PODS, SELF)

SOURCE = {4: Expr.SOURCE4, 6: Expr.SOURCE6}
TARGET = {4: Expr.TARGET4, 6: Expr.TARGET6}


def base_chains(
    *, pod_cidrs: Iterable[Network], guarded: frozenset[Direction], keep_live: bool = False
) -> tuple[Chain, ...]:
    """Returns the chains that every node has.

    `guarded` are the directions in which some policy of the cluster could forbid something: in them, a pod of this
    node that is not known yet (an address of `pod_cidrs` that is neither in `pods` nor the node's own) cannot open or
    accept a connection. With `keep_live`, packets of established connections are not judged. Each family has its own
    way, so that an IPv4 packet passes no rule for IPv6.
    """
    cidrs = sorted(pod_cidrs, key=str)
    chains = []
    for version in (4, 6):
        judge = [
            *([_LIVE] if keep_live else []),
            Rule((GoBy((SOURCE[version],), EGRESS[version].name),)),
            Rule((GoBy((TARGET[version],), INGRESS[version].name),)),
        ]
        guard = bool(guarded) and any(cidr.version == version for cidr in cidrs)
        judge.append(Rule((ByState(UNTRACKED, NEW[version] if guard else ""),)))
        chains.append(_base(version, judge, names=(BASE, BASE6), hook=HOOK))
    for version in (4, 6):
        rules = [
            Rule(
                (
                    AddressIn(side[version], (cidr,)),
                    Lookup((side[version],), PODS[version].name, True),
                    JumpTo(UNKNOWN_POD),
                )
            )
            for cidr in cidrs
            if cidr.version == version
            for direction, side in ((Direction.EGRESS, SOURCE), (Direction.INGRESS, TARGET))
            if direction in guarded
        ]
        chains.append(Chain(NEW[version], tuple(rules), comment="connections that are being opened"))
    return (
        *chains,
        Chain(
            UNTRACKED,
            (
                Rule((NeighbourDiscovery(), Return())),
                Rule((FromThisNode(), Return())),
                Rule((GoBy((Expr.HEADER_SOURCE4,), EGRESS[4].name),)),
                Rule((GoBy((Expr.HEADER_SOURCE6,), EGRESS[6].name),)),
                Rule((GoBy((Expr.HEADER_TARGET4,), INGRESS[4].name),)),
                Rule((GoBy((Expr.HEADER_TARGET6,), INGRESS[6].name),)),
            ),
            comment="packets of no connection that conntrack follows: nothing but the node gets through a gate",
        ),
        Chain(
            UNKNOWN_POD,
            (Rule((FromThisNode(), Return())), Rule((Drop(),))),
            comment="pods of this node that are not known yet",
        ),
        *_keep_chains(),
    )


def _keep_chains() -> Iterator[Chain]:
    """Yields chains of their own: libnftables fetches all elements of a map that new rules name (17 ms at 100k)."""
    for direction, side in ((Direction.INGRESS, SOURCE), (Direction.EGRESS, TARGET)):
        by_address = (
            Rule((Keep(WORLD),)),
            *(Rule((KeepFrom((side[version],), PEERS[version].name),)) for version in (4, 6)),
        )
        comment = "puts the identity of the peer into the priority of the packet"
        yield Chain(KEEP_PEER[direction], by_address, comment=comment)
        yield Chain(KEEP_ANYONE[direction], (*by_address, Rule((FromThisNode(), Keep(HOST)))), comment=comment)


_LIVE = Rule((Established(), Return()))


def input_chains(*, keep_live: bool = False) -> tuple[Chain, ...]:
    """Returns the chains of the input hook: for nodes with a pod that may not call its own node."""
    chains = []
    for version in (4, 6):
        judge = [
            *([_LIVE] if keep_live else []),
            Rule((GoBy((SOURCE[version],), TO_NODE[version].name),)),
            Rule((ByState(UNTRACKED_INPUT),)),
        ]
        chains.append(_base(version, judge, names=(INPUT, INPUT6), hook=INPUT_HOOK))
    untracked = (
        Rule((NeighbourDiscovery(), Return())),
        Rule((GoBy((Expr.HEADER_SOURCE4,), TO_NODE[4].name),)),
        Rule((GoBy((Expr.HEADER_SOURCE6,), TO_NODE[6].name),)),
    )
    return (*chains, Chain(UNTRACKED_INPUT, untracked, comment="packets to the node of no connection"))


def _base(version: int, judge: list[Rule], *, names: tuple[str, str], hook: str) -> Chain:
    if version == 6:
        return Chain(names[1], tuple(judge))
    return Chain(names[0], (Rule((Family(6), GoTo(names[1]))), *judge), hook=hook)
