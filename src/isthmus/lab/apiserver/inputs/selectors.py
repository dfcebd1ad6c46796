"""Label and field selectors as they stand in query strings, parsed once per request and matched per object.

Grammar of labels: k8s.io/apimachinery `pkg/labels` (equality- and set-based). Field selectors know only the paths
that the resource's row names, as in the real server: any other is a 400, so that a typing error never selects
everything.
"""

import re
from collections.abc import Callable, Mapping

import msgspec

from isthmus.lab.apiserver import errors

MAX_SELECTOR = 16 * 1024  # characters

_TOKEN = re.compile(r"\s*(?:(?P<op>==|!=|=|<|>|!|,|\(|\))|(?P<word>[^\s=!<>,()]+))")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def valid_key(key: str) -> bool:
    """Tells whether `key` may be the key of a label or annotation."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _PREFIX.fullmatch(prefix)):
        return False
    return _NAME.fullmatch(name) is not None


def valid_value(value: str) -> bool:
    """Tells whether `value` may be the value of a label."""
    return value == "" or _NAME.fullmatch(value) is not None


class Requirement(msgspec.Struct, frozen=True):
    """One term; `operator` is one of in, notin, exists, !, >, <."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tells whether `labels` meets the requirement."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        try:
            bound = int(next(iter(self.values)))
            return value is not None and (int(value) > bound if self.operator == ">" else int(value) < bound)
        except ValueError:
            return False


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []
        place = 0
        stripped = text.rstrip()
        while place < len(stripped):
            found = _TOKEN.match(stripped, place)
            if found is None:
                raise self.bad(f"found {stripped[place]!r}")
            self.tokens.append(("op", found["op"]) if found["op"] else ("word", found["word"]))
            place = found.end()

    def bad(self, detail: str) -> errors.ApiError:
        return errors.bad_request(f"unable to parse requirement: {detail} in {self.text!r}")

    def peek(self) -> tuple[str, str]:
        return self.tokens[0] if self.tokens else ("end", "")

    def take(self) -> tuple[str, str]:
        return self.tokens.pop(0) if self.tokens else ("end", "")

    def word(self) -> str:
        kind, word = self.take()
        if kind != "word":
            raise self.bad(f"found {word!r}, expected: identifier")
        return word


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """Returns the requirements of a labelSelector; none for an empty text. Raises a 400 ApiError."""
    if len(text) > MAX_SELECTOR:
        raise errors.bad_request("unable to parse requirement: the selector is too long")
    reader = _Reader(text)
    found: list[Requirement] = []
    while reader.tokens:
        found.append(_requirement(reader))
        if reader.tokens:
            kind, word = reader.take()
            if (kind, word) != ("op", ",") or not reader.tokens:
                raise reader.bad(f"found {word!r}, expected: ',' or end of string")
    return tuple(found)


def _requirement(reader: _Reader) -> Requirement:
    negated = reader.peek() == ("op", "!")
    if negated:
        reader.take()
    key = reader.word()
    if not valid_key(key):
        raise errors.bad_request(f"unable to parse requirement: invalid label key {key!r}")
    if negated:
        return Requirement(key, "!")
    kind, word = reader.peek()
    if kind == "end" or (kind, word) == ("op", ","):
        return Requirement(key, "exists")
    reader.take()
    if kind == "word" and word in ("in", "notin"):
        return Requirement(key, word, _values(reader))
    if kind == "op" and word in ("=", "==", "!=", "<", ">"):
        value = reader.take()[1] if reader.peek()[0] == "word" else ""
        if word in "<>" and not value.lstrip("-").isdigit():
            raise reader.bad(f"for 'Gt', 'Lt' operators, the value must be an integer, not {value!r}")
        if not valid_value(value):
            raise errors.bad_request(f"unable to parse requirement: invalid label value {value!r}")
        return Requirement(key, {"!=": "notin", "<": "<", ">": ">"}.get(word, "in"), frozenset((value,)))
    raise reader.bad(f"found {word!r}, expected: in, notin, =, ==, !=, <, >")


def _values(reader: _Reader) -> frozenset[str]:
    if reader.take() != ("op", "("):
        raise reader.bad("expected: '('")
    values: set[str] = set()
    while True:
        value = reader.take()[1] if reader.peek()[0] == "word" else ""
        if not valid_value(value):
            raise errors.bad_request(f"unable to parse requirement: invalid label value {value!r}")
        values.add(value)
        closing = reader.take()
        if closing == ("op", ")"):
            return frozenset(values)
        if closing != ("op", ","):
            raise reader.bad(f"found {closing[1]!r}, expected: ',' or ')'")


def parse_fields(text: str, *, known: tuple[str, ...]) -> tuple[tuple[str, str, bool], ...]:
    """Returns (path, value, equal) for each term of a fieldSelector. Raises a 400 ApiError for an unknown path."""
    found: list[tuple[str, str, bool]] = []
    if len(text) > MAX_SELECTOR:
        raise errors.bad_request("invalid field selector: too long")
    for term in _split_terms(text):
        for sign in ("!=", "==", "="):
            path, sign_found, value = term.partition(sign)
            if sign_found:
                break
        else:
            raise errors.bad_request(f"invalid selector: {text!r}; can't understand {term!r}")
        path = path.strip()
        if path not in ("metadata.name", "metadata.namespace", *known):
            if known:
                raise errors.bad_request(f"field label not supported: {path}")
            text = 'is not a known field selector: only "metadata.name", "metadata.namespace"'
            raise errors.bad_request(f'"{path}" {text}')
        found.append((path, _unescape(value), sign != "!="))
    return tuple(found)


def _split_terms(text: str) -> list[str]:
    """Splits at commas that no backslash precedes."""
    return [term for term in re.split(r"(?<!\\),", text) if term]


def _unescape(value: str) -> str:
    return re.sub(r"\\([\\,=])", r"\1", value)


class Selection(msgspec.Struct, frozen=True):
    """What a request selects: labels, and the values of some fields."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[tuple[str, str, bool], ...] = ()

    @property
    def everything(self) -> bool:
        """Tells whether nothing is asked for."""
        return not self.labels and not self.fields

    def matches(self, labels: Mapping[str, str], field: Callable[[str], str]) -> bool:
        """Tells whether an object is selected; `field` gives the value of a path, "" if there is none."""
        return all((field(path) == value) is equal for path, value, equal in self.fields) and all(
            requirement.matches(labels) for requirement in self.labels
        )

    def name(self) -> str | None:
        """Returns the one name that can match, or None if there may be many."""
        return next((value for path, value, equal in self.fields if equal and path == "metadata.name"), None)
