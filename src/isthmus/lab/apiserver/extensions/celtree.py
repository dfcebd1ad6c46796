"""The syntax tree of a CEL expression, read from the protobuf form in which the engine gives it out.

It is needed for what the engine cannot know without our schemas: fields that do not exist, whether `oldSelf` is used,
and what an expression may cost. Reading the dozen message fields by hand was preferred to loading the protobuf
runtime, which would cost an API server more memory than everything else about rules (reference: cel-spec
`proto/cel/expr/{checked,syntax}.proto`).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

Fields = dict[int, list[Any]]


class Node(msgspec.Struct, frozen=True):
    """One expression. `kind` is const, ident, select, call, list, struct or comprehension.

    `name` is that of an identifier, field, function or variable; `value` a constant; `place` the offset in code
    points. Children: a select's operand; a call's target (`member`) and arguments; a list's or struct's members; of a
    comprehension range, start, condition, step and result, with `accumulator` as the second variable.
    """

    kind: str
    place: int
    name: str = ""
    value: Any = None
    children: tuple["Node", ...] = ()
    member: bool = False
    test: bool = False  # of a select: only whether the field is there
    accumulator: str = ""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Fields:
    found: Fields = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        value: Any
        if key & 7 == 0:
            value, at = _varint(data, at)
        elif key & 7 == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = 8 if key & 7 == 1 else 4
            value, at = data[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    return found


def _one(fields: Fields, number: int, default: Any = b"") -> Any:
    return fields.get(number, (default,))[-1]


def _text(fields: Fields, number: int) -> str:
    found: bytes = _one(fields, number)
    return found.decode()


def _constant(data: bytes) -> Any:
    fields = _fields(data)
    if 2 in fields:
        return bool(_one(fields, 2))
    if 3 in fields or 4 in fields:
        number: int = _one(fields, 3 if 3 in fields else 4)
        return number - (1 << 64) if 3 in fields and number >> 63 else number
    if 5 in fields:
        return 0.5  # only that it is a double matters
    if 6 in fields:
        return _text(fields, 6)
    return _one(fields, 7) if 7 in fields else None


class _Reader:
    def __init__(self, places: dict[int, int]) -> None:
        self.places = places

    def node(self, data: bytes) -> Node:
        fields = _fields(data)
        place = self.places.get(_one(fields, 2, 0), 0)
        for number, kind in ((3, "const"), (4, "ident"), (5, "select"), (6, "call"), (7, "list"), (8, "struct")):
            if number in fields:
                return self.simple(kind, _one(fields, number), place)
        if 9 in fields:
            inner = _fields(_one(fields, 9))
            parts = tuple(self.node(_one(inner, number)) for number in (2, 4, 5, 6, 7))
            return Node("comprehension", place, _text(inner, 1), None, parts, accumulator=_text(inner, 3))
        return Node("const", place)

    def simple(self, kind: str, data: bytes, place: int) -> Node:
        if kind == "const":
            return Node(kind, place, value=_constant(data))
        inner = _fields(data)
        if kind == "ident":
            return Node(kind, place, _text(inner, 1))
        if kind == "select":
            operand = (self.node(_one(inner, 1)),)
            return Node(kind, place, _text(inner, 2), None, operand, test=bool(_one(inner, 3, 0)))
        if kind == "call":
            held = [*inner.get(1, ()), *inner.get(3, ())]
            return Node(kind, place, _text(inner, 2), None, tuple(map(self.node, held)), member=1 in inner)
        if kind == "list":
            return Node(kind, place, children=tuple(map(self.node, inner.get(1, ()))))
        entries = [_fields(entry) for entry in inner.get(2, ())]
        held = [_one(entry, number) for entry in entries for number in (3, 4) if number in entry]
        return Node(kind, place, _text(inner, 1), None, tuple(map(self.node, held)))


def read(data: bytes) -> Node:
    """Returns the tree of a serialized, checked expression."""
    checked = _fields(_one(_fields(data), 2))
    places = {}
    for entry in _fields(_one(checked, 5)).get(4, ()):
        held = _fields(entry)
        places[_one(held, 1, 0)] = _one(held, 2, 0)
    return _Reader(places).node(_one(checked, 4))


def walk(node: Node) -> Iterator[Node]:
    """Yields a node and everything below it."""
    yield node
    for child in node.children:
        yield from walk(child)
