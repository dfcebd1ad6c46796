"""Runs the table on a packet as the kernel would, so that what we send can be tested without a kernel.

Only what the statements of `isthmus.ruleset.rules` need of a packet is modelled. A look-up of something the packet does
not have (an IPv4 address of an IPv6 packet, the connection of an untracked packet) ends the rule, as in nftables.
"""

from collections.abc import Callable
from enum import Enum
from ipaddress import ip_address
from zlib import crc32

import msgspec

from isthmus.model.flow import Flow, Protocol
from isthmus.model.service import Target
from isthmus.policy.rules import Address
from isthmus.ruleset.rules import (
    AddressIn,
    AddressPortIn,
    ByState,
    Drop,
    Established,
    Expr,
    Family,
    Forget,
    FromThisNode,
    GoBy,
    GoTo,
    HasProtocol,
    IcmpIs,
    InDirection,
    JumpTo,
    Keep,
    KeepFrom,
    KeepHash,
    KeepRandom,
    Lookup,
    Masquerade,
    NeighbourDiscovery,
    PeerIs,
    PortIn,
    Refuse,
    RelatedError,
    Remember,
    Return,
    Rule,
    Statement,
    Translate,
    Translated,
    Unjudgeable,
)
from isthmus.ruleset.sets import Jump, Key, Value
from isthmus.ruleset.table import Table

MAX_JUMPS = 16  # NFT_JUMP_STACK_SIZE


class Packet(msgspec.Struct):
    """A packet of the connection `flow` (original tuple, after DNAT) as it passes the node's postrouting hook.

    Or, with `to_node`, its input hook: then it is delivered to the node itself.

    It opens the connection (`new`) unless it is a reply or said to be a later one. `client_port` is the client's
    choice, and may be one that policy names.

    For `translate` it is the packet as it arrives: `flow` leads to a frontend. `chance` is asked for numbers below a
    modulus, `memory` is what dynamic maps hold; the last four fields say what became of it.
    """

    flow: Flow
    reply: bool = False
    tracked: bool = True
    later: bool = False
    client_port: int = 50000
    from_node: bool = False
    to_node: bool = False
    related_error: bool = False
    scratch: int = 0
    translated: bool = False
    chance: Callable[[int], int] = lambda modulus: modulus - 1
    memory: dict[str, dict[Key, int]] = {}
    sent_to: Target | None = None
    refused: bool = False
    dropped: bool = False
    masqueraded: bool = False

    @property
    def new(self) -> bool:
        """Tells whether conntrack has seen nothing of the connection but packets like this one."""
        return self.tracked and not self.reply and not self.later


def translate(table: Table, packet: Packet, *, local: bool = False) -> Target | None:
    """Returns where services send the connection that the packet opens, from outside the node or (`local`) from it.

    None if nothing is translated: the packet is for no service, or `packet.refused`, or silently dropped. Raises
    UnsetScratch if it goes on as it came with a mark of ours.
    """
    before = packet.scratch
    verdict = _run(table, packet, "services_output" if local else "services_prerouting", MAX_JUMPS)
    packet.dropped = verdict is _Verdict.DROP and not packet.refused
    if verdict is None and packet.scratch not in (before, 0):
        raise UnsetScratch(hex(packet.scratch))
    return packet.sent_to


def masquerades(table: Table, packet: Packet) -> bool:
    """Tells whether a connection that was translated (`flow` leads to the backend) leaves in the node's name."""
    packet.translated = True
    _run(table, packet, "services_postrouting", MAX_JUMPS)
    return packet.masqueraded


class UnsetScratch(AssertionError):
    """A packet left the table with our scratch value still in its priority."""


def passes(table: Table, packet: Packet) -> bool:
    """Tells whether the packet gets through the base chain. Raises UnsetScratch if it leaves with a mark of ours."""
    chain = "input" if packet.to_node else "postrouting"
    if chain not in table.chains:
        return True
    before = packet.scratch
    allowed = _run(table, packet, chain, MAX_JUMPS) is not _Verdict.DROP
    if allowed and packet.scratch not in (before, 0):
        raise UnsetScratch(hex(packet.scratch))
    return allowed


class _Verdict(Enum):
    DROP = "drop"
    RETURN = "return"
    BREAK = "break"
    ACCEPT = "accept"


def _run(table: Table, packet: Packet, chain: str, depth: int) -> _Verdict | None:
    if depth < 0:
        raise RecursionError(f"more than {MAX_JUMPS} jumps at {chain}")
    for rule in table.chains[chain].rules:
        verdict = _run_rule(table, packet, rule, depth)
        if verdict is _Verdict.DROP or verdict is _Verdict.ACCEPT:
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
            case GoBy(fields, name):
                target = _mapped(table, packet, fields, name)
                return _run(table, packet, target.chain, depth - 1) if isinstance(target, Jump) else _Verdict.BREAK
            case GoTo(chain):
                return _run(table, packet, chain, depth - 1) or _Verdict.RETURN
            case ByState(unjudgeable, new):
                state = unjudgeable if not packet.tracked else new if packet.new else ""
                return _run(table, packet, state, depth - 1) if state else _Verdict.BREAK
            case Keep(number):
                packet.scratch = number
            case KeepFrom(fields, name):
                identity = _mapped(table, packet, fields, name)
                if not isinstance(identity, int):
                    return _Verdict.BREAK
                packet.scratch = identity
            case KeepHash(field):
                hashed = _value(packet, field)
                if not isinstance(hashed, int):
                    return _Verdict.BREAK
                packet.scratch = hashed
            case KeepRandom(modulus):
                packet.scratch = packet.chance(modulus)
            case Translate(_, fields, name):
                packet.sent_to = _target(table, packet, fields, name)
                return _Verdict.ACCEPT if packet.sent_to else _Verdict.BREAK
            case Masquerade():
                packet.masqueraded = True
                return _Verdict.ACCEPT
            case Refuse(reset):
                if reset and packet.flow.protocol != Protocol.TCP:
                    return _Verdict.BREAK
                packet.refused = True
                return _Verdict.DROP
            case Remember(fields, name, _):
                packet.memory.setdefault(name, {}).setdefault(_key(packet, fields), packet.scratch)
            case Forget(fields, name):
                packet.memory.get(name, {}).pop(_key(packet, fields), None)
            case _:
                if not _holds(table, packet, statement):
                    return _Verdict.BREAK
    return None


def _mapped(table: Table, packet: Packet, fields: tuple[Expr, ...], name: str) -> Value:
    key = _key(packet, fields)
    content = packet.memory.get(name, {}) if table.sets[name].room else table.elements[name]
    return content.get(key)


def _target(table: Table, packet: Packet, fields: tuple[Expr, ...], name: str) -> Target | None:
    found = _mapped(table, packet, fields, name)
    return found if isinstance(found, Target) else None


def _key(packet: Packet, fields: tuple[Expr, ...]) -> Key:
    """Returns the concatenation of `fields`; () if the packet lacks one of them, which is no key of any set."""
    key = tuple(value for value in (_value(packet, field) for field in fields) if value is not None)
    return key if len(key) == len(fields) else ()


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
        case AddressPortIn(field, side, boxes):
            text, number = _value(packet, field), _value(packet, side)
            return (
                isinstance(text, str)
                and isinstance(number, int)
                and any(
                    int(first) <= int(ip_address(text)) <= int(last)
                    and _value(packet, Expr.PROTOCOL) == protocol
                    and low <= number <= high
                    for first, last, protocol, low, high in boxes
                )
            )
        case IcmpIs(protocol, kind):
            return packet.tracked and (packet.flow.protocol, packet.flow.port) == (protocol, kind)
        case PeerIs(numbers):
            return packet.scratch in numbers
        case Established():
            return packet.tracked and not packet.new
        case Unjudgeable():
            return not packet.tracked
        case Family(version):
            return ip_address(packet.flow.source).version == version
        case Lookup(fields, name, negated, ignored):
            key = tuple(_value(packet, field) for field in fields)
            if ignored and isinstance(last := key[-1], int):
                key = (*key[:-1], last >> ignored << ignored)
            return None not in key and (key in table.elements[name]) is not negated
        case FromThisNode():
            return packet.from_node
        case RelatedError():
            return packet.related_error
        case Translated(negated):
            return (packet.translated or packet.flow.translated) is not negated
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
        case Expr.CLIENT6:
            if ip_address(flow.source).version == 4:
                return None
            return crc32(f"{head} {tail} {flow.protocol} {flow.port}".encode())  # only that it is a hash matters


def _of_family(text: str, field: Expr) -> str | None:
    address: Address = ip_address(text)
    return text if f"{address.version}" == field.name[-1] else None
