"""The functions that Kubernetes adds to CEL: strings, lists, addresses, networks,
URLs, quantities, sets.

Values that CEL has no type for (an address, a network, a quantity) are maps with one key that no field can have, so
two of them are equal when they mean the same. A ValueError becomes an error of the rule. (Reference: k8s.io/apiserver
`pkg/cel/library`.)
"""

import decimal
import ipaddress
import itertools
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from cel_expr_python import cel

from isthmus.lab import quantity

_T = cel.Type
_STRING, _BOOL, _INT, _DYN = _T.STRING, _T.BOOL, _T.INT, _T.DYN
_LIST, _VALUE = _T.List(_T.DYN), _T.Map(_T.STRING, _T.STRING)
_ITEMS = (_STRING, _INT, _T.DOUBLE, _BOOL, _VALUE)  # arguments are told apart by type, and DYN is none


def _network(text: str) -> Any:
    address, slash, length = text.partition("/")
    if not slash or not length.isdecimal() or "%" in text or (len(length) > 1 and length.startswith("0")):
        raise ValueError(f"network address parse error during conversion from string: {text!r}")
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"network address parse error during conversion from string: {address!r}") from None


def _address(text: str) -> Any:
    found = ipaddress.ip_address(text)
    mapped = getattr(found, "ipv4_mapped", None)
    if "%" in text or mapped is not None:
        raise ValueError(f"IP Address {text!r} parse error during conversion from string")
    return found


def _tells(check: Callable[[str], Any]) -> Callable[[str], bool]:
    def tell(text: str) -> bool:
        try:
            check(text)
        except (ValueError, ArithmeticError):
            return False
        return True

    return tell


def _ip(value: dict[str, str]) -> Any:
    return _address(value["@ip"])


def _cidr(value: dict[str, str]) -> Any:
    return _network(value["@cidr"])


def _contains(network: dict[str, str], other: Any) -> bool:
    within = _cidr(network).network
    text = other if isinstance(other, str) else other.get("@ip") or other["@cidr"]
    if "/" in text:
        inner = _network(text).network
        return inner.version == within.version and bool(inner.subnet_of(within))
    return _address(text) in within


def _quantity(text: str) -> decimal.Decimal:
    try:
        return quantity.parse(text)
    except quantity.QuantityError:
        raise ValueError(f"quantities must match the regular expression: {text!r}") from None


def _amount(value: Any) -> decimal.Decimal:
    return decimal.Decimal(value["@quantity"] if isinstance(value, dict) else value)


def _made(value: decimal.Decimal) -> dict[str, str]:
    return {"@quantity": format(value.normalize(), "f")}


def _plus(one: Any, two: Any) -> dict[str, str]:
    return _made(_amount(one) + _amount(two))


def _minus(one: Any, two: Any) -> dict[str, str]:
    return _made(_amount(one) - _amount(two))


def _url(text: str) -> Any:
    found = urlsplit(text)
    if not (found.scheme or text.startswith("/")) or any(letter.isspace() for letter in text):
        raise ValueError(f"URL parse error during conversion from string: {text!r}")
    return found


def _sorted(items: list[Any]) -> bool:
    return all(first <= second for first, second in itertools.pairwise(items))


def _least(choose: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def least(items: list[Any]) -> Any:
        if not items:
            raise ValueError("min/max called on empty list")
        return choose(items)

    return least


def _last(items: list[Any], item: Any) -> int:
    return max((at for at, held in enumerate(items) if held == item), default=-1)


def _first(items: list[Any], item: Any) -> int:
    return items.index(item) if item in items else -1


def _network_functions() -> list[tuple[str, bool, list[Any], Any, Any]]:
    return [
        ("isIP", False, [_STRING], _BOOL, _tells(_address)),
        ("ip", False, [_STRING], _VALUE, lambda text: {"@ip": str(_address(text))}),
        ("ip.isCanonical", False, [_STRING], _BOOL, lambda text: str(_address(text)) == text),
        ("family", True, [_VALUE], _INT, lambda value: _ip(value).version),
        ("isLoopback", True, [_VALUE], _BOOL, lambda value: _ip(value).is_loopback),
        ("isUnspecified", True, [_VALUE], _BOOL, lambda value: _ip(value).is_unspecified),
        ("isLinkLocalUnicast", True, [_VALUE], _BOOL, lambda value: _ip(value).is_link_local),
        ("isLinkLocalMulticast", True, [_VALUE], _BOOL, lambda value: _ip(value).is_multicast),
        (
            "isGlobalUnicast",
            True,
            [_VALUE],
            _BOOL,
            lambda value: not (_ip(value).is_loopback or _ip(value).is_multicast or _ip(value).is_unspecified),
        ),
        ("isCIDR", False, [_STRING], _BOOL, _tells(_network)),
        ("cidr", False, [_STRING], _VALUE, lambda text: {"@cidr": str(_network(text))}),
        *(("containsIP", True, [_VALUE, kind], _BOOL, _contains) for kind in (_STRING, _VALUE)),
        *(("containsCIDR", True, [_VALUE, kind], _BOOL, _contains) for kind in (_STRING, _VALUE)),
        ("ip", True, [_VALUE], _VALUE, lambda value: {"@ip": str(_cidr(value).ip)}),
        ("masked", True, [_VALUE], _VALUE, lambda value: {"@cidr": str(_cidr(value).network)}),
        ("prefixLength", True, [_VALUE], _INT, lambda value: _cidr(value).network.prefixlen),
    ]


def _other_functions() -> list[tuple[str, bool, list[Any], Any, Any]]:
    return [
        ("isSorted", True, [_LIST], _BOOL, _sorted),
        ("sum", True, [_LIST], _DYN, sum),
        ("min", True, [_LIST], _DYN, _least(min)),
        ("max", True, [_LIST], _DYN, _least(max)),
        *(("indexOf", True, [_LIST, kind], _INT, _first) for kind in _ITEMS),
        *(("lastIndexOf", True, [_LIST, kind], _INT, _last) for kind in _ITEMS),
        ("sets.contains", False, [_LIST, _LIST], _BOOL, lambda all_, some: all(item in all_ for item in some)),
        ("sets.intersects", False, [_LIST, _LIST], _BOOL, lambda all_, some: any(item in all_ for item in some)),
        (
            "sets.equivalent",
            False,
            [_LIST, _LIST],
            _BOOL,
            lambda all_, some: all(item in all_ for item in some) and all(item in some for item in all_),
        ),
        ("isURL", False, [_STRING], _BOOL, _tells(_url)),
        ("url", False, [_STRING], _VALUE, lambda text: {"@url": _url(text).geturl()}),
        ("getScheme", True, [_VALUE], _STRING, lambda value: _url(value["@url"]).scheme),
        ("getHost", True, [_VALUE], _STRING, lambda value: _url(value["@url"]).netloc.rpartition("@")[2]),
        ("getHostname", True, [_VALUE], _STRING, lambda value: _url(value["@url"]).hostname or ""),
        ("getPort", True, [_VALUE], _STRING, lambda value: str(_url(value["@url"]).port or "")),
        ("getEscapedPath", True, [_VALUE], _STRING, lambda value: _url(value["@url"]).path),
        ("getQuery", True, [_VALUE], _DYN, lambda value: parse_qs(_url(value["@url"]).query, keep_blank_values=True)),
        ("isQuantity", False, [_STRING], _BOOL, _tells(_quantity)),
        ("quantity", False, [_STRING], _VALUE, lambda text: _made(_quantity(text))),
        ("compareTo", True, [_VALUE, _VALUE], _INT, lambda one, two: int(_amount(one).compare(_amount(two)))),
        ("isGreaterThan", True, [_VALUE, _VALUE], _BOOL, lambda one, two: _amount(one) > _amount(two)),
        ("isLessThan", True, [_VALUE, _VALUE], _BOOL, lambda one, two: _amount(one) < _amount(two)),
        ("isInteger", True, [_VALUE], _BOOL, lambda value: _amount(value) == int(_amount(value))),
        ("asInteger", True, [_VALUE], _INT, lambda value: int(_amount(value))),
        ("asApproximateFloat", True, [_VALUE], _T.DOUBLE, lambda value: float(_amount(value))),
        ("sign", True, [_VALUE], _INT, lambda value: (_amount(value) > 0) - (_amount(value) < 0)),
        *(("add", True, [_VALUE, kind], _VALUE, _plus) for kind in (_INT, _VALUE)),
        *(("sub", True, [_VALUE, kind], _VALUE, _minus) for kind in (_INT, _VALUE)),
    ]


def _format(text: str, values: list[Any]) -> str:
    """Returns `text` with its %s, %d, %f, %e, %b, %o, %x and %X filled, in the manner of Go."""
    parts, left = [], list(values)
    place = 0
    while place < len(text):
        if text[place] != "%":
            parts.append(text[place])
            place += 1
            continue
        end = place + 1
        while end < len(text) and text[end] in ".0123456789":
            end += 1
        verb = text[end : end + 1]
        if verb == "%":
            parts.append("%")
        elif verb and verb in "sdfebBoxX" and left:
            value = left.pop(0)
            digits = text[place + 1 : end] or (".6" if verb in "fe" else "")
            if len(digits) > 4:
                raise ValueError("precision is too large in a format")
            parts.append(_shown(value) if verb in "sd" else format(value, digits + verb))
        else:
            raise ValueError(f"could not parse formatting clause at {place}")
        place = end + 1
    return "".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_shown(key)}: {_shown(item)}' for key, item in sorted(value.items()))}}}"
    return "null" if value is None else str(value)


def _part(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError(f"invalid substring range. start: {start}, end: {stop}")
    return text[start:stop]


def _letter(text: str, at: int) -> str:
    if not 0 <= at <= len(text):
        raise ValueError(f"index out of range: {at}")
    return text[at : at + 1]


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if not separator:
        return list(text) if limit < 0 else [*text[: limit - 1], text[limit - 1 :]]
    return text.split(separator, limit - 1 if limit > 0 else -1)


def _lower(text: str) -> str:
    return text.encode().lower().decode()


def _upper(text: str) -> str:
    return text.encode().upper().decode()


def _string_functions() -> list[tuple[str, bool, list[Any], Any, Any]]:
    return [
        ("charAt", True, [_STRING, _INT], _STRING, _letter),
        ("indexOf", True, [_STRING, _STRING], _INT, lambda text, word: text.find(word)),
        ("indexOf", True, [_STRING, _STRING, _INT], _INT, lambda text, word, start: text.find(word, start)),
        ("lastIndexOf", True, [_STRING, _STRING], _INT, lambda text, word: text.rfind(word)),
        ("lastIndexOf", True, [_STRING, _STRING, _INT], _INT, lambda text, word, end: text.rfind(word, 0, end + 1)),
        ("join", True, [_T.List(_STRING)], _STRING, "".join),
        ("join", True, [_T.List(_STRING), _STRING], _STRING, lambda items, word: word.join(items)),
        ("lowerAscii", True, [_STRING], _STRING, _lower),
        ("upperAscii", True, [_STRING], _STRING, _upper),
        ("replace", True, [_STRING, _STRING, _STRING], _STRING, str.replace),
        ("replace", True, [_STRING, _STRING, _STRING, _INT], _STRING, str.replace),
        ("split", True, [_STRING, _STRING], _T.List(_STRING), _split),
        ("split", True, [_STRING, _STRING, _INT], _T.List(_STRING), _split),
        ("substring", True, [_STRING, _INT], _STRING, _part),
        ("substring", True, [_STRING, _INT, _INT], _STRING, _part),
        ("trim", True, [_STRING], _STRING, str.strip),
        ("format", True, [_STRING, _LIST], _STRING, _format),
        ("strings.quote", False, [_STRING], _STRING, lambda text: msgspec.json.encode(text).decode()),
    ]


def functions() -> list[cel.FunctionDecl]:
    """Returns the declarations of all functions, to make environments with."""
    overloads: dict[str, list[cel.Overload]] = {}
    for name, member, parameters, result, act in (*_string_functions(), *_network_functions(), *_other_functions()):
        held = overloads.setdefault(name, [])
        label = f"isthmus_{name.replace('.', '_')}_{len(held)}"
        held.append(cel.Overload(label, result, parameters, member, act))
    return [cel.FunctionDecl(name, held) for name, held in overloads.items()]
