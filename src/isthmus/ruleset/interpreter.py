"""Runs the table on a packet as the kernel would, so that what we send can be tested without a kernel.

Only what the statements of `isthmus.ruleset.rules` need of a packet is modelled. A look-up of something the packet does
not have (an IPv4 address of an IPv6 packet, the connection of an untracked packet) ends the rule, as in nftables.
"""

from enum import Enum
from ipaddress import ip_address

import msgspec

from isthmus.model.flow import Flow
from isthmus.policy.rules import Address
from isthmus.ruleset.rules import (
    AddressIn,
    ByState,
    Drop,
    Expr,
    Family,
    FromThisNode,
    GoBy,
    GoTo,
    HasProtocol,
    InDirection,
    JumpTo,
    Keep,
    KeepFrom,
    Lookup,
    NeighbourDiscovery,
    PortIn,
    RelatedError,
    Return,
    Rule,
    Statement,
)
from isthmus.ruleset.sets import Jump, Value
from isthmus.ruleset.table import Table

MAX_JUMPS = 16  # NFT_JUMP_STACK_SIZE


class Packet(msgspec.Struct):
    """A packet of the connection `flow` (original tuple, after DNAT) as it passes the node's postrouting hook.

    It opens the connection (`new`) unless it is a reply or said to be a later one. `client_port` is the client's
    choice, and may be one that policy names.
    """

    flow: Flow
    reply: bool = False
    tracked: bool = True
    later: bool = False
    client_port: int = 50000
    from_node: bool = False
    related_error: bool = False
    scratch: int = 0

    @property
    def new(self) -> bool:
        """Tells whether conntrack has seen nothing of the connection but packets like this one."""
        return self.tracked and not self.reply and not self.later


class UnsetScratch(AssertionError):
    """A packet left the table with our scratch value still in its priority."""


def passes(table: Table, packet: Packet, *, chain: str = "postrouting") -> bool:
    """Tells whether the packet gets through the base chain. Raises UnsetScratch if it leaves with a mark of ours."""
    before = packet.scratch
    allowed = _run(table, packet, chain, MAX_JUMPS) is not _Verdict.DROP
    if allowed and packet.scratch not in (before, 0):
        raise UnsetScratch(hex(packet.scratch))
    return allowed


class _Verdict(Enum):
    DROP = "drop"
    RETURN = "return"
    BREAK = "break"


def _run(table: Table, packet: Packet, chain: str, depth: int) -> _Verdict | None:
    if depth < 0:
        raise RecursionError(f"more than {MAX_JUMPS} jumps at {chain}")
    for rule in table.chains[chain].rules:
        verdict = _run_rule(table, packet, rule, depth)
        if verdict is _Verdict.DROP:
            return verdict
        if verdict is _Verdict.RETURN:
            return None
    return None


def _run_rule(table: Table, packet: Packet, rule: Rule, depth: int) -> _Verdict | None:
    for statement in rule.statements:
        match statement:
            case Return():
                return _Verdict.RETURN
            case Drop():
                return _Verdict.DROP
            case JumpTo(chain):
                return _run(table, packet, chain, depth - 1)
            case GoBy(field, name):
                target = _mapped(table, packet, field, name)
                return _run(table, packet, target.chain, depth - 1) if isinstance(target, Jump) else _Verdict.BREAK
            case GoTo(chain):
                return _run(table, packet, chain, depth - 1) or _Verdict.RETURN
            case ByState(unjudgeable, new):
                state = unjudgeable if not packet.tracked else new if packet.new else ""
                return _run(table, packet, state, depth - 1) if state else _Verdict.BREAK
            case Keep(number):
                packet.scratch = number
            case KeepFrom(field, name):
                identity = _mapped(table, packet, field, name)
                if not isinstance(identity, int):
                    return _Verdict.BREAK
                packet.scratch = identity
            case _:
                if not _holds(table, packet, statement):
                    return _Verdict.BREAK
    return None


def _mapped(table: Table, packet: Packet, field: Expr, name: str) -> Value:
    key = _value(packet, field)
    return table.elements[name].get((key,)) if key is not None else None


def _holds(table: Table, packet: Packet, statement: Statement) -> bool:
    match statement:
        case InDirection(reply):
            return packet.tracked and packet.reply is reply
        case HasProtocol(protocol):
            return _value(packet, Expr.PROTOCOL) == protocol
        case PortIn(port, ranges):
            number = _value(packet, port)
            return isinstance(number, int) and any(first <= number <= last for first, last in ranges)
        case AddressIn(field, networks):
            text = _value(packet, field)
            return isinstance(text, str) and any(ip_address(text) in network for network in networks)
        case Family(version):
            return ip_address(packet.flow.source).version == version
        case Lookup(fields, name, negated):
            key = tuple(_value(packet, field) for field in fields)
            return None not in key and (key in table.elements[name]) is not negated
        case FromThisNode():
            return packet.from_node
        case RelatedError():
            return packet.related_error
        case NeighbourDiscovery():
            return packet.flow.protocol == 58 and not packet.tracked and 133 <= packet.flow.port <= 137
    raise TypeError(f"not a condition: {statement}")


def _value(packet: Packet, field: Expr) -> str | int | None:
    flow = packet.flow
    head, tail = (flow.destination, flow.source) if packet.reply else (flow.source, flow.destination)
    match field:
        case Expr.SOURCE4 | Expr.SOURCE6:
            return _of_family(flow.source, field) if packet.tracked else None
        case Expr.TARGET4 | Expr.TARGET6:
            return _of_family(flow.destination, field) if packet.tracked else None
        case Expr.HEADER_SOURCE4 | Expr.HEADER_SOURCE6:
            return _of_family(head, field)
        case Expr.HEADER_TARGET4 | Expr.HEADER_TARGET6:
            return _of_family(tail, field)
        case Expr.SCRATCH:
            return packet.scratch
        case Expr.PROTOCOL:
            if packet.related_error:
                return 1 if ip_address(flow.source).version == 4 else 58
            return flow.protocol
        case Expr.DESTINATION_PORT:
            return packet.client_port if packet.reply else flow.port
        case Expr.SOURCE_PORT:
            return flow.port if packet.reply else packet.client_port


def _of_family(text: str, field: Expr) -> str | None:
    address: Address = ip_address(text)
    return text if f"{address.version}" == field.name[-1] else None
