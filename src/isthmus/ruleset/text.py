"""nft script text for a Delta: the only documented language of nftables rules.

The text of one Delta is one transaction for `nft -f` or libnftables. Names and comments come from objects that anyone
may write, so they are reduced to characters that cannot end a string or a line. Protocols are numbers: nft knows
their names only where /etc/protocols is installed.
"""

import re
from collections.abc import Iterable, Iterator

from isthmus.model.service import Target
from isthmus.policy.rules import Network
from isthmus.ruleset.rules import (
    MAX_COMMENT,
    AddressIn,
    AddressPortIn,
    Box,
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
from isthmus.ruleset.sets import ElementChange, Field, Jump, Key, Memory, SetSpec, Value
from isthmus.ruleset.table import NAME, Delta, chains_first

_TABLE = f"inet {NAME}"
_UNSAFE = re.compile(r"[^A-Za-z0-9 _.,:/()*=+-]")


def script(delta: Delta) -> str:
    """Returns the transaction for a table that exists."""
    return "".join(f"{line}\n" for line in _lines(delta))


def replacement(whole: Delta, memories: Iterable[Memory] = ()) -> str:
    """Returns the transaction that puts `whole` in the place of whatever the table holds now, without a gap.

    `memories` are what dynamic maps held: those that are still there hold it again.
    """
    restored = [
        f"add element {_TABLE} {memory.spec.name} {{ {', '.join(_remembered(memory))} }}\n"
        for memory in memories
        if memory.elements and memory.spec in whole.new_sets
    ]
    return f"{removal()}add table {_TABLE}\n{script(whole)}{''.join(restored)}"


def _remembered(memory: Memory) -> Iterator[str]:
    for key, value, timeout, expires in memory.elements:
        yield f"{_key(memory.spec, key)} timeout {timeout}ms expires {expires}ms : {_value(value)}"


def removal() -> str:
    """Returns the transaction that removes the table, whether it is there or not."""
    return f"add table {_TABLE}\ndelete table {_TABLE}\n"


def _lines(delta: Delta) -> Iterator[str]:
    for spec in delta.new_sets:
        yield _declaration(spec)
    for chain in delta.new_chains:
        if not chain.hook:
            yield f"add chain {_TABLE} {chain.name} {{ {_comment(chain.comment, end=';')} }}"
    for change in delta.changes:
        if change.remove:
            keys = ", ".join(_key(change.spec, key) for key in change.remove)
            yield f"delete element {_TABLE} {change.spec.name} {{ {keys} }}"
    for name in (*delta.dead_chains, *(chain.name for chain in delta.changed_chains)):
        yield f"flush chain {_TABLE} {name}"
    for chain in chains_first((*delta.new_chains, *delta.changed_chains)):
        if chain.hook and chain in delta.new_chains:
            yield f"add chain {_TABLE} {chain.name} {{ {chain.hook} }}"
        for rule in chain.rules:
            yield f"add rule {_TABLE} {chain.name} {rule_text(rule)}"
    for change in delta.changes:
        if change.add:
            yield f"add element {_TABLE} {change.spec.name} {{ {_elements(change)} }}"
    for name in delta.dead_chains:
        yield f"delete chain {_TABLE} {name}"
    for name in delta.dead_sets:
        yield f"delete set {_TABLE} {name}"


def _declaration(spec: SetSpec) -> str:
    key = " . ".join(field.value for field in spec.key)
    if spec.holds is None:
        return f"add set {_TABLE} {spec.name} {{ type {key}; }}"
    memory = f" size {spec.room}; flags dynamic,timeout;" if spec.room else ""
    return f"add map {_TABLE} {spec.name} {{ type {key} : {spec.holds.value};{memory} }}"


def _elements(change: ElementChange) -> str:
    spec = change.spec
    if spec.holds is None:
        return ", ".join(_key(spec, key) for key, _ in change.add)
    return ", ".join(f"{_key(spec, key)} : {_value(value)}" for key, value in change.add)


def _key(spec: SetSpec, key: Key) -> str:
    return " . ".join(
        identity_text(part) if field is Field.IDENTITY and isinstance(part, int) else str(part)
        for field, part in zip(spec.key, key, strict=True)
    )


def _value(value: Value) -> str:
    match value:
        case Jump(chain):
            return f"jump {chain}"
        case Target(address, port):
            return f"{address} . {port}"
        case _:
            return identity_text(value or 0)


def identity_text(number: int) -> str:
    """Returns an identity as nft prints it: cluster and local part, in hexadecimal; `none` for 0."""
    return f"{number >> 16:x}:{number & 0xFFFF:x}" if number else "none"


def _comment(comment: str, *, end: str = "") -> str:
    if not comment:
        return ""
    clean = _UNSAFE.sub("?", comment)
    return f'comment "{clean if len(clean) <= MAX_COMMENT else clean[: MAX_COMMENT - 3] + "..."}"{end}'


def rule_text(rule: Rule) -> str:
    """Returns a rule without the `add rule` that puts it into a chain."""
    return " ".join(filter(None, [*map(_statement, rule.statements), _comment(rule.comment)]))


def _statement(statement: Statement) -> str:
    match statement:
        case InDirection(reply):
            return f"ct direction {'reply' if reply else 'original'}"
        case HasProtocol(protocol):
            return f"meta l4proto {protocol}"
        case PortIn(port, ranges):
            return f"{port.value} {_braces([str(a) if a == b else f'{a}-{b}' for a, b in ranges])}"
        case AddressIn(address, networks):
            return f"{address.value} {_braces([_network(network) for network in networks])}"
        case AddressPortIn(address, port, boxes):
            return f"{address.value} . meta l4proto . {port.value} {{ {', '.join(map(_box, boxes))} }}"
        case IcmpIs(protocol, kind):
            # The original tuple has type and code in the place of a port, for echo replies too.
            return f"meta l4proto {protocol} ct original proto-dst {kind << 8}-{kind << 8 | 255}"
        case PeerIs(numbers):
            return f"meta priority {_braces([identity_text(number) for number in numbers])}"
        case Established():
            return "ct state established"
        case Unjudgeable():
            return "ct state invalid,untracked"
        case Family(version):
            return f"meta nfproto ipv{version}"
        case Lookup(fields, name, negated, ignored):
            mask = f" & {0xFFFF >> ignored << ignored}" if ignored else ""
            return f"{_concatenated(fields)}{mask} {'!= ' if negated else ''}@{name}"
        case FromThisNode():
            # `iif 0` is "not forwarded": else a pod could claim an IPv6 address of the node (IPv4 the kernel checks).
            return "iif 0 fib saddr type local"
        case RelatedError():
            return "ct state related meta l4proto { 1, 58 }"
        case ByState(unjudgeable, new):
            first = f"new : jump {new}, " if new else ""
            return f"ct state vmap {{ {first}invalid : jump {unjudgeable}, untracked : jump {unjudgeable} }}"
        case NeighbourDiscovery():
            return "meta l4proto 58 icmpv6 type 133-137"
        case Keep(number):
            return f"meta priority set {identity_text(number)}"
        case KeepFrom(fields, name):
            return f"meta priority set {_concatenated(fields)} map @{name}"
        case KeepHash(field):
            return f"meta priority set {field.value}"
        case KeepRandom(modulus):
            return f"meta priority set numgen random mod {modulus}"
        case GoBy(fields, name):
            return f"{_concatenated(fields)} vmap @{name}"
        case JumpTo(chain):
            return f"jump {chain}"
        case GoTo(chain):
            return f"goto {chain}"
        case Return():
            return "return"
        case Drop():
            return "counter drop"
        case _:
            return _translation(statement)


def _translation(statement: Statement) -> str:
    match statement:
        case Translated(negated):
            return f"ct status {'! ' if negated else ''}dnat"
        case Translate(version, fields, name):
            return f"dnat {'ip6' if version == 6 else 'ip'} to {_concatenated(fields)} map @{name}"
        case Masquerade():
            return "masquerade"
        case Refuse(reset):
            return "meta l4proto 6 reject with tcp reset" if reset else "reject with icmpx type port-unreachable"
        case Remember(fields, name, seconds):
            return f"update @{name} {{ {_concatenated(fields)} timeout {seconds}s : meta priority }}"
        case Forget(fields, name):
            return f"delete @{name} {{ {_concatenated(fields)} : meta priority }}"
    raise TypeError(f"not a statement: {statement}")


def _concatenated(fields: tuple[Expr, ...]) -> str:
    return " . ".join(field.value for field in fields)


def _box(box: Box) -> str:
    first, last, protocol, low, high = box
    addresses = f"{first}" if first == last else f"{first}-{last}"
    return f"{addresses} . {protocol} . {low if low == high else f'{low}-{high}'}"


def _braces(items: list[str]) -> str:
    return items[0] if len(items) == 1 else "{ " + ", ".join(items) + " }"


def _network(network: Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
