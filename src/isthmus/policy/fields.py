"""Reading hostile objects: every value is looked at as what it is, and every complaint names its field.

A policy comes from an API server we do not control, or from a file; "it was validated there" does not hold for old
servers, other CRD versions or a forged answer. A reader never raises on a value: it notes a Problem and returns None,
and the caller decides what None means (for policies: it allows nothing).
"""

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

import msgspec

from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.rules import Grade, Network, Problem

MAX_ITEMS = 10_000  # of one list; etcd refuses objects over 1.5 MiB, which is about as many small items
MAX_FIELD = 256  # characters of a path that a problem names
MAX_SHOWN = 64  # characters of a value that a problem quotes
MAX_DEPTH = 4  # of a value that a problem quotes
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")


def show(value: object) -> str:
    """Returns `value` as an error message may quote it: short, printable, on one line, and made in no time."""
    text = ""
    for piece in _pieces(value, MAX_DEPTH):
        text += piece
        if len(text) > MAX_SHOWN:
            break
    return _printable(text, MAX_SHOWN)


def _pieces(value: object, depth: int) -> Iterator[str]:
    """Yields the text of `value` in pieces: whoever wants only the first need not wait for megabytes of it."""
    if isinstance(value, str):
        yield f'"{value[:MAX_SHOWN]}"'
    elif isinstance(value, Mapping | list):
        first, last = "{}" if isinstance(value, Mapping) else "[]"
        yield first if depth or not value else f"{first}..."
        for index, item in enumerate(value if depth else ()):
            yield ", " if index else ""
            yield from _pieces(item, depth - 1)
            if isinstance(value, Mapping):
                yield ": "
                yield from _pieces(value[item], depth - 1)
        yield last
    elif value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, int) and value.bit_length() > 64:  # Python refuses to write down a very long one
        yield "a number of more than 64 bits"
    else:
        yield repr(value)


def _printable(text: str, limit: int) -> str:
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return text if text.isprintable() else "".join(ch if ch.isprintable() else "?" for ch in text)


def as_network(text: str) -> Network | None:
    """Returns a network, or an address as one; None for anything else. Host bits are dropped."""
    address, _, length = text.partition("/")
    try:
        if "%" not in text and ip_address(address) and (not length or length.isdigit()):
            return ip_network(text, strict=False)
    except ValueError:
        pass
    return None


class Reader(msgspec.Struct):
    """A place in an object, with the problems found so far in all of it."""

    problems: list[Problem]

    def complain(self, field: str, message: str, grade: Grade = Grade.INVALID) -> None:
        """Notes a problem; `field` may have keys of the object in it, and is cut as what is quoted is."""
        self.problems.append(Problem(_printable(field, MAX_FIELD), message, grade))

    def mapping(self, value: object, field: str) -> Mapping[str, object] | None:
        """Returns a JSON object, or None (with a problem) for anything else."""
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return value
        self.complain(field, f"must be an object, is {show(value)}")
        return None

    def items(self, value: object, field: str) -> Iterator[tuple[object, str]]:
        """Yields each item of a JSON list with its path; nothing (with a problem) for anything else."""
        if not isinstance(value, list):
            self.complain(field, f"must be a list, is {show(value)}")
            return
        if len(value) > MAX_ITEMS:
            self.complain(field, f"has {len(value)} items; at most {MAX_ITEMS} are read")
            return
        for index, item in enumerate(value):
            yield item, f"{field}[{index}]"

    def label_key(self, value: object, field: str) -> str | None:
        """Returns a valid label key: `[prefix/]name`."""
        if isinstance(value, str):
            prefix, slash, name = value.rpartition("/")
            if _NAME.fullmatch(name) and (not slash or _PREFIX.fullmatch(prefix)):
                return value
        self.complain(field, f"{show(value)} is not a valid label key")
        return None

    def label_value(self, value: object, field: str) -> str | None:
        """Returns a valid label value: empty, or up to 63 characters that begin and end alphanumeric."""
        if isinstance(value, str) and (value == "" or _NAME.fullmatch(value)):
            return value
        self.complain(field, f"{show(value)} is not a valid label value")
        return None

    def selector(self, value: object, field: str) -> Selector | None:
        """Returns a metav1.LabelSelector; None (with a problem) if any part of it is bad."""
        selector = self.mapping(value, field)
        if selector is None:
            return None
        before = len(self.problems)
        terms: list[Term] = []
        for unknown in sorted(selector.keys() - {"matchLabels", "matchExpressions"}):
            self.complain(f"{field}.{unknown}", "is not a field of a label selector")
        wanted = selector.get("matchLabels")
        if wanted is not None:
            for key, val in (self.mapping(wanted, f"{field}.matchLabels") or {}).items():
                k = self.label_key(key, f"{field}.matchLabels")
                v = self.label_value(val, f"{field}.matchLabels[{show(key)}]")
                if k is not None and v is not None:
                    terms.append(Term(k, Operator.IN, (v,)))
        expressions = selector.get("matchExpressions")
        if expressions is not None:
            for item, path in self.items(expressions, f"{field}.matchExpressions"):
                term = self._term(item, path)
                if term is not None:
                    terms.append(term)
        return Selector.of(*terms) if len(self.problems) == before else None

    def _term(self, value: object, field: str) -> Term | None:
        expression = self.mapping(value, field)
        if expression is None:
            return None
        before = len(self.problems)
        for unknown in sorted(expression.keys() - {"key", "operator", "values"}):
            self.complain(f"{field}.{unknown}", "is not a field of a label selector's expression")
        key = self.label_key(expression.get("key"), f"{field}.key")
        try:
            operator = Operator(expression.get("operator"))
        except ValueError:
            self.complain(
                f"{field}.operator", f"{show(expression.get('operator'))} is not In, NotIn, Exists or DoesNotExist"
            )
            return None
        values: list[str] = []
        if expression.get("values") is not None:
            for item, path in self.items(expression["values"], f"{field}.values"):
                read = self.label_value(item, path)
                if read is not None:
                    values.append(read)
        if operator in (Operator.IN, Operator.NOT_IN) and not values and len(self.problems) == before:
            self.complain(f"{field}.values", f"must not be empty for operator {operator.value}")
        if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and values:
            self.complain(f"{field}.values", f"must be empty for operator {operator.value}")
        if key is None or len(self.problems) > before:
            return None
        return Term(key, operator, tuple(sorted(set(values))))

    def network(self, value: object, field: str) -> Network | None:
        """Returns a CIDR; host bits are accepted and dropped, as Kubernetes does (its e2e tests rely on it)."""
        if isinstance(value, str) and "/" in value and (found := as_network(value)) is not None:
            return found
        self.complain(field, f"{show(value)} is not a CIDR, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        return None

    def protocol(self, value: object, field: str) -> int | None:
        """Returns the IP protocol of a port by its word; TCP for nothing."""
        word = "TCP" if value is None else value
        found = PORT_PROTOCOLS.get(word) if isinstance(word, str) else None
        if found is None:
            self.complain(field, f"{show(value)} is not TCP, UDP or SCTP")
        return found

    def number(self, value: object, field: str, *, low: int, high: int) -> int | None:
        """Returns an integer in `low`-`high`."""
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.complain(field, f"must be a number in {low}-{high}, is {show(value)}")
        return None

    def port_name(self, value: object, field: str) -> str | None:
        """Returns an IANA service name: up to 15 lower-case letters, digits and single dashes, with a letter."""
        if isinstance(value, str) and _PORT_NAME.fullmatch(value) and "--" not in value:
            return value
        self.complain(field, f"{show(value)} is neither a port number nor a port name")
        return None
