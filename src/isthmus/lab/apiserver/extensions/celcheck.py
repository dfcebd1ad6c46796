"""What is wrong with a rule before it is ever run: fields that do not exist, types that never agree, and cost.

The engine sees objects as maps, so it cannot know their fields; the schema does. What an expression gives is followed
as far as a schema can tell; where it cannot, nothing is said. Fields of the formats date-time and duration are strings
here, because the engine takes no times from outside: a rule says `timestamp(self.t)`, and one that compares the bare
field with a time is refused. Cost is counted as the real server counts it, roughly: a step for every node, times the
largest size of every list that is walked; without such a bound an expression of two nested loops could keep the server
busy (reference: k8s.io/apiserver `pkg/cel`, cost estimation).
"""

from typing import Any

import msgspec

from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.extensions.celtree import Node
from isthmus.lab.apiserver.extensions.pruning import EMBEDDED, PRESERVE
from isthmus.lab.apiserver.extensions.values import INT_OR_STRING

MAX_COST = 10_000_000  # of one rule
MAX_TOTAL_COST = 100_000_000  # of all rules of one schema
MAX_REQUEST = 3 * 1024 * 1024  # bytes; bounds what no schema bounds
MAX_BYTES = 64 * 1024 * 1024  # of any value that a rule may make on its way
SCALAR = 16  # bytes; also of the list or map around others

_CAP = 1 << 60  # bytes; keeps estimates from growing without end
_UNKNOWN: Json = {PRESERVE: True}
_BOOL: Json = {"type": "boolean"}
_METADATA: Json = {
    "type": "object",
    "properties": {name: {"type": "string", "maxLength": 253} for name in ("name", "generateName")},
}
_TIMES = ("timestamp", "duration")
_WORDS = {
    "timestamp": "timestamp",
    "duration": "duration",
    "boolean": "bool",
    "integer": "int",
    "number": "double",
    "string": "string",
    "null": "null",
}
_COMPARISONS = ("_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_")
_LOGIC = ("_&&_", "_||_", "!_", "@in", "@not_strictly_false", "matches", "startsWith", "endsWith", "contains")
_TEXT = ("matches", "startsWith", "endsWith", "contains", "_+_", "replace", "split", "lowerAscii", "upperAscii", "join")


class Finding(msgspec.Struct, frozen=True):
    """Something wrong at `place`, an offset into the expression."""

    place: int
    text: str


def engine_type(schema: Json) -> str:
    """Returns the type under which the engine sees a value of a schema; see `Engine.compile`."""
    kind = schema.get("type", "")
    if schema.get(INT_OR_STRING) or not kind:
        return "dyn"
    if kind == "array":
        return f"list({engine_type(schema.get('items') or {})})"
    if kind == "object":
        other = schema.get("additionalProperties")
        inner = engine_type(other) if isinstance(other, dict) and not schema.get("properties") else "dyn"
        return f"map({inner})"
    return _WORDS[kind]


def children(schema: Json, *, top: bool) -> dict[str, Json] | None:
    """Returns the fields that a rule can reach in an object, None where any may be there."""
    if schema.get(PRESERVE) or schema.get("additionalProperties"):
        return None
    found = dict(schema.get("properties", {}))
    if top or schema.get(EMBEDDED):
        metadata = found.get("metadata", {}).get("properties", {})
        found["metadata"] = {**_METADATA, "properties": {**_METADATA["properties"], **metadata}}
        found |= {name: {"type": "string", "maxLength": 253} for name in ("apiVersion", "kind")}
    return found


def size(schema: Json) -> int:
    """Returns how many members a value of a schema has at most, or a tenth of its characters."""
    kind = schema.get("type")
    if kind == "string":
        longest = schema.get("maxLength")
        if longest is None and schema.get("enum"):
            longest = max(len(str(word)) for word in schema["enum"])
        return int(longest if longest is not None else MAX_REQUEST) // 10 + 1
    if kind == "array":
        return int(schema.get("maxItems", MAX_REQUEST // (least_bytes(schema.get("items") or {}) + 1)))
    return int(schema.get("maxProperties", MAX_REQUEST // 6)) if kind == "object" else 1


def most_bytes(schema: Json) -> int:
    """Returns how many bytes a value of a schema takes at most; of what a rule has made, nothing is known."""
    if schema is _UNKNOWN:
        return _CAP
    kind = schema.get("type")
    if kind == "string" and schema.get("enum"):
        return max(len(str(word).encode()) for word in schema["enum"]) + SCALAR
    if kind == "string":
        return min(int(schema.get("maxLength", MAX_REQUEST)) * 4 + SCALAR, MAX_REQUEST)
    return SCALAR if kind in ("integer", "number", "boolean") or schema.get(INT_OR_STRING) else MAX_REQUEST


def least_bytes(schema: Json) -> int:
    """Returns how many bytes the smallest value of a schema takes."""
    kind = schema.get("type")
    if kind == "object":
        return 2 + sum(len(name) + 4 for name in schema.get("required", ()))
    return 2 if kind in ("string", "array") else 1


class Seen(msgspec.Struct, frozen=True):
    """What is known of a node: the schema of what it gives, its cost in steps, and how many bytes it may give.

    `count` is how many members a list has at most, None where only its bytes tell.
    """

    schema: Json
    cost: int
    bytes: int
    count: int | None = None


class Review:
    """One walk over an expression; `findings` are what is wrong, `cost` what it may cost."""

    def __init__(self, node: Node, schema: Json, *, top: bool) -> None:
        self.findings: list[Finding] = []
        self.uses_old = 0  # how often oldSelf is named
        self._top = top
        self._root = schema
        self._largest = 0
        whole = Seen(schema, 1, most_bytes(schema))
        seen = self._visit(node, {"self": whole, "oldSelf": whole})
        self.gives = seen.schema
        self.cost = seen.cost if self._largest <= MAX_BYTES else max(seen.cost, MAX_TOTAL_COST * 1000)

    def _visit(self, node: Node, scope: dict[str, Seen]) -> Seen:
        seen = self._node(node, scope)
        self._largest = max(self._largest, seen.bytes)
        return seen

    def _node(self, node: Node, scope: dict[str, Seen]) -> Seen:
        if node.kind == "const":
            names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
            kind = names.get(type(node.value))
            size = len(str(node.value).encode()) if isinstance(node.value, (str, bytes)) else SCALAR
            return Seen({"type": kind, "maxLength": len(str(node.value))} if kind else _UNKNOWN, 0, size)
        if node.kind == "ident":
            self.uses_old += node.name == "oldSelf"
            return scope.get(node.name, Seen(_UNKNOWN, 1, SCALAR))
        if node.kind == "comprehension":
            return self._loop(node, scope)
        visited = [self._visit(child, scope) for child in node.children]
        cost, size = 1 + sum(held.cost for held in visited), SCALAR + sum(held.bytes for held in visited)
        if node.kind == "select":
            return self._select(node, visited[0], cost)
        if node.kind == "call":
            return self._call(node, visited, cost, size)
        return Seen(_UNKNOWN, cost, size, len(visited) if node.kind == "list" else None)

    def _select(self, node: Node, operand: Seen, cost: int) -> Seen:
        found = self._field(node, operand.schema)
        if node.test:
            return Seen(_BOOL, cost, SCALAR)
        return Seen(found, cost, min(operand.bytes, most_bytes(found)))

    def _field(self, node: Node, operand: Json) -> Json:
        kind = operand.get("type", "")
        if kind in _WORDS and not operand.get(INT_OR_STRING):
            self.findings.append(Finding(node.place, f"type '{_WORDS[kind]}' does not support field selection"))
        if kind != "object":
            return _UNKNOWN
        held = children(operand, top=self._top and operand is self._root)
        if held is None:
            other = operand.get("properties", {}).get(node.name) or operand.get("additionalProperties")
            return other if isinstance(other, dict) else _UNKNOWN
        name = unescaped(node.name)
        if name not in held:
            self.findings.append(Finding(node.place, f"undefined field '{node.name}'"))
            return _UNKNOWN
        return held[name]

    def _call(self, node: Node, given: list[Seen], cost: int, size: int) -> Seen:
        schemas = [one.schema for one in given]
        if node.name in _COMPARISONS:
            self._agree(node, schemas)
            return Seen(_BOOL, cost + min(one.bytes for one in given) // 40, SCALAR)
        lists = any(one.count is not None or one.schema.get("type") == "array" for one in given)
        if node.name in _TEXT and not lists:
            cost += size // 40
        if node.name in _LOGIC:
            return Seen(_BOOL, cost, SCALAR)
        if node.name == "_[_]":
            other = schemas[0].get("items") or schemas[0].get("additionalProperties")
            return Seen(other if isinstance(other, dict) else _UNKNOWN, cost, given[0].bytes)
        if node.name == "size":
            return Seen({"type": "integer"}, cost, SCALAR)
        if node.name in _TIMES:
            return Seen({"type": node.name}, cost, SCALAR)
        if node.name == "replace" and len(given) > 2:
            size = (given[0].bytes + SCALAR) * (given[2].bytes + 1)
        elif node.name == "join" and len(given) > 1:
            size = (given[0].bytes + SCALAR) * (given[1].bytes + 1)
        elif node.name == "_?_:_":
            size = max(one.bytes for one in given)
            if _word(schemas[0]) not in ("", "bool"):
                words = ", ".join(_word(one) or "dyn" for one in schemas)
                text = f"found no matching overload for '_?_:_' applied to '({words})'"
                self.findings.append(Finding(node.place, text))
            counts = [one.count for one in given[1:] if one.count is not None]
            if schemas[1] == schemas[2]:
                return Seen(schemas[1], cost, size, max(counts) if len(counts) == 2 else None)
        counts = [one.count for one in given if one.count is not None]
        count = sum(counts) if node.name == "_+_" and len(counts) == len(given) else None
        if node.name == "split":
            count = given[0].bytes + 1
        return Seen(_UNKNOWN, cost, min(size, _CAP), count)

    def _agree(self, node: Node, schemas: list[Json]) -> None:
        """Notes two sides of a comparison that can never be compared."""
        if any(one.get("nullable") for one in schemas):
            return
        words = [_word(one) for one in schemas]
        ordered = node.name not in ("_==_", "_!=_") and set(words) <= {"int", "double"}
        if all(words) and words[0] != words[1] and not ordered:
            text = f"found no matching overload for '{node.name}' applied to '({', '.join(words)})'"
            self.findings.append(Finding(node.place, text))

    def _loop(self, node: Node, scope: dict[str, Seen]) -> Seen:
        over = node.children[0]
        ranged, start = self._visit(over, scope), self._visit(node.children[1], scope)
        kind = ranged.schema.get("type")
        item: Json = _UNKNOWN
        if kind == "array":
            item, times = ranged.schema.get("items") or _UNKNOWN, size(ranged.schema)
        elif kind == "object":
            item, times = {"type": "string"}, size(ranged.schema)
        else:
            times = ranged.count if ranged.count is not None else min(ranged.bytes // SCALAR, 1000)
        inner = {
            **scope,
            node.name: Seen(item, 1, min(ranged.bytes, most_bytes(item))),
            node.accumulator: Seen(start.schema, 1, 0, start.count if start.count is None else 0),
        }
        condition, step = self._visit(node.children[2], inner), self._visit(node.children[3], inner)
        held = min(start.bytes + times * step.bytes, _CAP)
        count = None if start.count is None or step.count is None else start.count + times * step.count
        ended = Seen(start.schema, 1, held, count)
        result = self._visit(node.children[4], {**scope, node.accumulator: ended})
        cost = ranged.cost + start.cost + result.cost + times * (condition.cost + step.cost + 1)
        return Seen(result.schema, cost, result.bytes, result.count)


def _word(schema: Json) -> str:
    """Returns the name of a scalar type, "" where the type is not known or none."""
    return "" if schema.get(INT_OR_STRING) else _WORDS.get(schema.get("type", ""), "")


_ESCAPES = {"__underscores__": "__", "__dot__": ".", "__dash__": "-", "__slash__": "/"}
RESERVED = frozenset(
    "true false null in as break const continue else for function if import let loop package namespace return var void "
    "while".split()
)


def unescaped(name: str) -> str:
    """Returns the property that a rule means by an identifier."""
    if name.startswith("__") and name.endswith("__") and name[2:-2] in RESERVED:
        return name[2:-2]
    for word, sign in _ESCAPES.items():
        name = name.replace(word, sign)
    return name


def escaped(name: str) -> str:
    """Returns the identifier by which a rule reaches a property."""
    if name in RESERVED:
        return f"__{name}__"
    for word, sign in _ESCAPES.items():
        name = name.replace(sign, word)
    return name


def shown(text: str, finding: Finding, *, shift: int = 0) -> str:
    """Returns a finding as the engine shows its own; `shift` is where `text` begins in what was compiled."""
    place = max(finding.place - shift, 0)
    before = text[:place]
    line = before.count("\n")
    column = place - (before.rfind("\n") + 1)
    source = text.split("\n")[line]
    return f"ERROR: <input>:{line + 1}:{column + 1}: {finding.text}\n | {source}\n | {'.' * column}^"


def plain(value: Any, schema: Json) -> Any:
    """Returns a value as rules see it: property names that are no identifiers are escaped."""
    if isinstance(value, dict):
        if schema.get("additionalProperties"):
            other = schema["additionalProperties"]
            return {key: plain(item, other if isinstance(other, dict) else _UNKNOWN) for key, item in value.items()}
        properties = schema.get("properties", {})
        return {escaped(key): plain(item, properties.get(key, _UNKNOWN)) for key, item in value.items()}
    if isinstance(value, list):
        below = schema.get("items") or _UNKNOWN
        return [plain(item, below) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and schema.get("type") == "number":
        return float(value)
    return value
