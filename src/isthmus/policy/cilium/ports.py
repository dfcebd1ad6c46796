"""toPorts and icmps: what may be reached, by protocol, number, range, name or type (reference: cilium-policy §1.5).

Ports are always those of the destination. No protocol means TCP, UDP and SCTP, and never ICMP, not even with port "0",
which is every port of them. A range that ends before it begins, after a name, or with port "0" is no range.
"""

import re
from collections.abc import Mapping

from isthmus.model.flow import PORT_PROTOCOLS, Protocol
from isthmus.policy.cilium.icmp import TYPES
from isthmus.policy.cilium.reading import Reading
from isthmus.policy.fields import show
from isthmus.policy.rules import LAST_PORT, IcmpType, Port, PortName, PortRange

MAX_PORTS = 40
EXTENDED = {"IGMP": 2, "IPIP": 4, "IPV6": 41, "GRE": 47, "ESP": 50, "AH": 51, "VRRP": 112}
"""IP protocols without ports, which Cilium knows on request (IANA protocol numbers)."""
_WORDS = (*PORT_PROTOCOLS, "ANY")
PORT_FIELDS = frozenset({"port", "endPort", "protocol"})
_FAMILIES = {"IPv4": Protocol.ICMP, "IPv6": Protocol.ICMPV6}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")


def ports(value: object, field: str, reading: Reading) -> list[Port]:
    """Returns the `ports` of a toPorts item: none for an empty list, and (with problems) for what cannot be read."""
    if value is None:
        return []
    if isinstance(value, list) and len(value) > MAX_PORTS:
        reading.complain(field, f"too many ports, the max is {MAX_PORTS}")
        return []
    return [port for item, path in reading.items(value, field) for port in _port(item, path, reading)]


def _port(value: object, field: str, reading: Reading) -> list[Port]:
    entry = reading.mapping(value, field)
    if entry is None or not reading.known(entry, PORT_FIELDS, field, "a port"):
        return []
    protocol = word(entry, field, reading)
    end = entry.get("endPort")
    last = 0 if end is None else reading.number(end, f"{field}.endPort", low=0, high=LAST_PORT)
    if protocol is None or last is None:
        return []
    if protocol in EXTENDED:
        return _portless(entry, protocol, field, reading)
    found = _first(entry.get("port"), f"{field}.port", reading)
    if found is None:
        return []
    numbers = [PORT_PROTOCOLS[protocol]] if protocol != "ANY" else list(PORT_PROTOCOLS.values())
    if isinstance(found, str):
        return [PortName(numbers[0] if len(numbers) == 1 else 0, found)]
    if found == 0:
        return [PortRange(number) for number in numbers]
    return [PortRange(number, found, max(found, last)) for number in numbers]


def word(entry: Mapping[str, object], field: str, reading: Reading) -> str | None:
    """Returns the protocol of a port in upper case, `ANY` for none; None (with a problem) for no protocol."""
    value = entry.get("protocol")
    if value is None or value == "":
        return "ANY"
    if isinstance(value, str) and value.upper() in {*_WORDS, *EXTENDED}:
        return value.upper()
    reading.complain(f"{field}.protocol", f"invalid protocol {show(value)}, must be one of {', '.join(_WORDS)}")
    return None


def _portless(entry: Mapping[str, object], protocol: str, field: str, reading: Reading) -> list[Port]:
    if entry.get("port") not in (None, "", "0"):
        reading.complain(f"{field}.port", f"port must be empty or 0 for protocol {protocol}")
        return []
    return [PortRange(EXTENDED[protocol])]


def _first(value: object, field: str, reading: Reading) -> int | str | None:
    if value is None or value == "":
        reading.complain(field, "port must be specified")
        return None
    if not isinstance(value, str):
        reading.complain(field, f'must be a string such as "80", is {show(value)}')
        return None
    if not any("a" <= char <= "z" for char in value.lower()):
        if _NUMBER.fullmatch(value) and int(value) <= LAST_PORT:
            return int(value)
        reading.complain(field, f"unable to parse port: {show(value)} is not a number in 0-{LAST_PORT}")
        return None
    return reading.port_name(value.lower(), field)


def icmp_types(value: object, field: str, reading: Reading) -> list[Port]:
    """Returns the types in `icmps`; none (with problems) for what cannot be read."""
    return [port for item, path in reading.items(value, field) for port in _fields(item, path, reading)]


def _fields(value: object, field: str, reading: Reading) -> list[Port]:
    entry = reading.mapping(value, field)
    if entry is None or not reading.known(entry, frozenset({"fields"}), field, "an ICMP rule"):
        return []
    fields, path = entry.get("fields"), f"{field}.fields"
    if fields is None:
        return []
    if isinstance(fields, list) and len(fields) > MAX_PORTS:
        reading.complain(path, f"too many types, the max is {MAX_PORTS}")
        return []
    found = (_type(item, where, reading) for item, where in reading.items(fields, path))
    return [one for one in found if one is not None]


def _type(value: object, field: str, reading: Reading) -> IcmpType | None:
    entry = reading.mapping(value, field)
    if entry is None or not reading.known(entry, frozenset({"family", "type"}), field, "an ICMP field"):
        return None
    family = entry.get("family")
    if family is None or family == "":
        family = "IPv4"
    if not isinstance(family, str) or family not in _FAMILIES:
        reading.complain(f"{field}.family", f"wrong family: {show(family)} is neither IPv4 nor IPv6")
        return None
    kind = entry.get("type")
    if isinstance(kind, str):
        if _NUMBER.fullmatch(kind) and int(kind) <= 255:
            return IcmpType(_FAMILIES[family], int(kind))
        number = TYPES[_FAMILIES[family]].get(kind)
        if number is None:
            reading.complain(f"{field}.type", f"ICMP type {show(kind)} not found for {family}")
            return None
    else:
        number = reading.number(kind, f"{field}.type", low=0, high=255)
    return None if number is None else IcmpType(_FAMILIES[family], number)
