"""What a port rule asks for above ports: DNS names, HTTP and other protocols, TLS, a listener.

DNS rules are read in full, for a DNS proxy (reference: cilium-policy §4). Everything else is looked at only as far as
its owner would refuse it: we do not look into connections, and taking such a rule as its ports alone would allow more
than was written. Reading HTTP rules in depth was rejected: nothing would ever use it.
"""

import re
from collections.abc import Mapping

from isthmus.policy.cilium.ports import EXTENDED, word
from isthmus.policy.cilium.reading import Reading
from isthmus.policy.fields import show
from isthmus.policy.names import MAX_NAME, NamePattern

_NAME = re.compile(r"[-a-zA-Z0-9_.]*")
_PATTERN = re.compile(r"[-a-zA-Z0-9_.*]*")
PORT_RULE_FIELDS = frozenset(
    {"ports", "rules", "terminatingTLS", "originatingTLS", "serverNames", "listener"},
)
_PROXIED = ("terminatingTLS", "originatingTLS", "serverNames", "listener")
RULES_FIELDS = frozenset({"http", "kafka", "dns", "l7", "l7proto"})
_TYPES = ("http", "kafka", "dns", "l7proto")
_NAMED = frozenset({"matchName", "matchPattern"})
_HTTP = frozenset({"path", "method", "host", "headers", "headerMatches"})


Names = tuple[NamePattern, ...]
"""The questions that a port rule's `dns` lets through; the empty one lets nothing through."""


def everything(names: Names) -> bool:
    """Tells whether every question is let through."""
    return any(pattern.everything for pattern in names)


def above_ports(entry: Mapping[str, object], field: str, reading: Reading, *, egress: bool) -> Names | None:
    """Reads all of a toPorts item but its ports: returns the names of its `dns`, or None if it has none.

    What is refused or cannot be done is a problem (`Reading.faults`); then the item must not be taken as its ports.
    """
    if not reading.known(entry, PORT_RULE_FIELDS, field, "a port rule"):
        return None
    given = entry.get("rules")
    rules: Mapping[str, object] = {}
    if given is not None:
        path = f"{field}.rules"
        read = reading.mapping(given, path)
        if read is None or not reading.known(read, RULES_FIELDS, path, "L7 rules"):
            return None
        rules = {name: value for name, value in read.items() if value not in (None, "")}
    _proxied(entry, rules, field, reading, egress=egress)
    names = _l7(entry, rules, field, reading, egress=egress) if rules else None
    for name in _PROXIED:
        if entry.get(name) not in (None, [], ""):
            reading.unenforced(f"{field}.{name}", "is not enforced: there is no proxy to look into connections")
    return names


def _proxied(
    entry: Mapping[str, object], rules: Mapping[str, object], field: str, reading: Reading, *, egress: bool
) -> None:
    servers = entry.get("serverNames")
    if servers is not None:
        path = f"{field}.serverNames"
        for item, where in reading.items(servers, path):
            if not isinstance(item, str) or not item:
                reading.complain(where, "empty server name is not allowed")
        if servers and rules and entry.get("terminatingTLS") is None:
            reading.complain(path, "are not allowed with L7 rules without TLS termination")
    if entry.get("listener") is not None:
        if not egress:
            reading.complain(f"{field}.listener", "is not allowed on ingress")
        if rules:
            reading.complain(f"{field}.listener", "is not allowed with L7 rules")


def _l7(
    entry: Mapping[str, object], rules: Mapping[str, object], field: str, reading: Reading, *, egress: bool
) -> Names | None:
    path = f"{field}.rules"
    types = [name for name in _TYPES if name in rules]
    if "l7" in rules and "l7proto" not in rules:
        reading.complain(f"{path}.l7", "may only be specified when l7proto is also specified")
    if len(types) > 1:
        reading.complain(path, f"multiple L7 protocol rule types specified in single rule: {', '.join(types)}")
        return None
    dns = "dns" in types
    if dns and not egress:
        reading.complain(f"{path}.dns", "L7 protocol DNS is not supported on ingress yet")
        return None
    before = reading.faults
    _ports(entry.get("ports"), f"{field}.ports", reading, dns=dns)
    if dns:
        names = names_of(rules["dns"], f"{path}.dns", reading, exclusive=False)
        return tuple(names) if reading.faults == before else None
    for name in types:
        if name == "http":
            for item, where in reading.items(rules[name], f"{path}.{name}"):
                http = reading.mapping(item, where)
                if http is not None:
                    reading.known(http, _HTTP, where, "an HTTP rule")
                    for word_of in ("host", "method", "path"):
                        reading.text(http.get(word_of), f"{where}.{word_of}")
        reading.unenforced(f"{path}.{name}", "is not enforced: there is no proxy to look into connections")
    return None


def _ports(value: object, field: str, reading: Reading, *, dns: bool) -> None:
    if not isinstance(value, list) or not value:
        if dns:
            reading.complain(field, "port 53 must be specified for DNS rules")
        return
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            continue  # said where the port is read
        path = f"{field}[{index}]"
        port, end = item.get("port"), item.get("endPort")
        if port == "0":
            reading.complain(f"{path}.port", "L7 rules can not be used when a port is 0")
        elif dns:
            number = isinstance(port, str) and port.isascii() and port.isdigit()
            if number and isinstance(end, int) and end > int(str(port)[:6]):
                reading.complain(f"{path}.endPort", "DNS rules do not support port ranges")
        protocol = item.get("protocol")
        said = protocol.upper() if isinstance(protocol, str) and protocol else "ANY"
        if said in EXTENDED or (not dns and said != "TCP" and word(item, path, reading)):
            reading.complain(f"{path}.protocol", f"L7 rules can only apply to TCP (not {said}) except for DNS rules")


def names_of(value: object, field: str, reading: Reading, *, exclusive: bool) -> list[NamePattern]:
    """Returns the names in `dns` or toFQDNs; in the latter (`exclusive`) an item has a name or a pattern, not both."""
    found: list[NamePattern] = []
    for item, path in reading.items(value, field):
        entry = reading.mapping(item, path)
        if entry is None or not reading.known(entry, _NAMED, path, "a name"):
            continue
        name, pattern = entry.get("matchName"), entry.get("matchPattern")
        if exclusive and name not in (None, "") and pattern not in (None, ""):
            reading.complain(path, "only one of matchName or matchPattern is allowed")
            continue
        for text, grammar, what in ((name, _NAME, "matchName"), (pattern, _PATTERN, "matchPattern")):
            if text is None or text == "":
                continue
            if isinstance(text, str) and len(text) <= MAX_NAME and grammar.fullmatch(text):
                found.append(NamePattern(text))
            elif isinstance(text, str) and len(text) > MAX_NAME:
                reading.complain(f"{path}.{what}", f"is {len(text)} characters long, the max is {MAX_NAME}")
            else:
                reading.complain(f"{path}.{what}", f"invalid characters in {what}: {show(text)}")
    return list(dict.fromkeys(found))
