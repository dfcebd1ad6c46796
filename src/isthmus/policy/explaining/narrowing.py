"""A policy object without the part of one rule that means a certain peer.

`field` is the rule's path, as `spec.ingressDeny[0]` or `specs[1].egressDeny[2]`. What is proposed goes from the
smallest change to the widest: the peer excepted from a network, the peer's entry taken out of a list, the rule taken
out, the object deleted. Invariant: nothing is added but exceptions. Rejected: negated selectors, which exclude by one
label what was meant by several.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from ipaddress import ip_address, ip_network
from typing import Any

from isthmus.model.identity import Identity
from isthmus.policy.explaining.facts import Object

_STEP = re.compile(r"([A-Za-z]+)(?:\[(\d+)\])?")
_SECTIONS = ("ingress", "egress", "ingressDeny", "egressDeny")


def narrowed(obj: Object, field: str, *, address: str, identity: Identity) -> Iterator[tuple[Object | None, str]]:
    """Yields new objects (None: none is left), each with what was done in words."""
    kind, name = obj.get("kind"), (obj.get("metadata") or {}).get("name")
    what = f"{kind} {name}"
    path = _path(field)
    if _rule(obj, field) is None or not isinstance(path[-1], int):
        return
    for network, spot in _networks(obj, field, address):
        new = deepcopy(dict(obj))
        if _except(new, spot, address):
            yield new, f"except {address} from {network} in {field} of {what}"
    for list_path, index, count in _entries(obj, field, address):
        if count > 1:
            new = deepcopy(dict(obj))
            del _at(new, list_path)[index]
            yield new, f"take {_text(list_path)}[{index}] out of {what}"
    new = deepcopy(dict(obj))
    rules = _at(new, path[:-1])
    del rules[path[-1]]
    spec = _at(new, path[:-2])
    if not rules:
        del spec[path[-2]]
    if any(spec.get(section) for section in _SECTIONS):
        yield new, f"take {field} out of {what}"
    else:
        yield None, f"delete {what}, of which nothing is left without {field},"


def preceded(obj: Object, field: str, rule: dict[str, Any]) -> Object | None:
    """Returns an object with `rule` just before the one at `field`; None if there is none."""
    path = _path(field)
    if _rule(obj, field) is None or not isinstance(path[-1], int):
        return None
    new = deepcopy(dict(obj))
    _at(new, path[:-1]).insert(path[-1], rule)
    return new


def _path(field: str) -> list[str | int]:
    path: list[str | int] = []
    for part in field.split("."):
        match = _STEP.fullmatch(part)
        if match is None:
            return []
        path.append(match[1])
        if match[2] is not None:
            path.append(int(match[2]))
    return path


def _text(path: list[str | int]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _at(obj: Any, path: list[str | int]) -> Any:
    for step in path:
        obj = obj[step]
    return obj


def _rule(obj: Object, field: str) -> tuple[list[str | int], dict[str, Any]] | None:
    path = _path(field)
    try:
        found = _at(obj, path) if path else None
    except (KeyError, IndexError, TypeError):
        return None
    return (path, found) if isinstance(found, dict) else None


def _networks(obj: Object, field: str, address: str) -> Iterator[tuple[str, list[str | int]]]:
    """Yields each network of Cilium's CIDR lists that holds the address, with its place."""
    found = _rule(obj, field)
    if found is None:
        return
    path, rule = found
    for side in ("from", "to"):
        for index, text in enumerate(_list(rule.get(f"{side}CIDR"))):
            if _holds(text, address):
                yield str(text), [*path, f"{side}CIDR", index]
        for index, entry in enumerate(_list(rule.get(f"{side}CIDRSet"))):
            if isinstance(entry, dict) and _holds(entry.get("cidr"), address):
                yield str(entry["cidr"]), [*path, f"{side}CIDRSet", index]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _holds(text: object, address: str) -> bool:
    try:
        return isinstance(text, str) and ip_address(address) in ip_network(text, strict=False)
    except ValueError:
        return False


def _except(new: Any, spot: list[str | int], address: str) -> bool:
    *rule_path, word, index = spot
    rule = _at(new, rule_path)
    hole = ip_network(address)
    entry = rule[word][index]
    network = entry["cidr"] if isinstance(entry, dict) else entry
    if ip_network(network, strict=False) == hole:
        return False
    if isinstance(entry, dict):
        entry["except"] = [*_list(entry.get("except")), str(hole)]
        return True
    if len(rule[word]) > 1:
        return False  # lists of both forms cannot stand in one rule
    del rule[word]
    rule[f"{word}Set"] = [{"cidr": network, "except": [str(hole)]}]
    return True


def _entries(obj: Object, field: str, address: str) -> Iterator[tuple[list[str | int], int, int]]:
    """Yields the entries of lists of peers, with how many there are in the list: one of them means the peer."""
    found = _rule(obj, field)
    if found is None:
        return
    path, rule = found
    for key, value in rule.items():
        if (key.startswith(("from", "to")) and key != "toPorts") and isinstance(value, list):
            for index, entry in enumerate(value):
                if key.endswith("CIDR") and not _holds(entry, address):
                    continue
                yield [*path, key], index, len(value)
