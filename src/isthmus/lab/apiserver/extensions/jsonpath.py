"""The simple paths of definitions: `.spec.a[0].b['x.y']`, with `[*]` and filters `[?(@.type=="Ready")]` in columns.

Reference: k8s.io/client-go `util/jsonpath`, of which columns use this much. A step that finds nothing gives nothing.
"""

import re
from typing import Any

import msgspec

_STEP = re.compile(
    r"\.(?P<name>(?:\\.|[\w/-])+|\*)"
    r"|\[\s*(?:'(?P<quoted>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<index>-?\d+)|(?P<all>\*)"
    r"|\?\(\s*@(?P<where>[\w.\\/-]+)\s*(?P<sign>==|!=|<=|>=|<|>)\s*(?P<value>'[^']*'|\"[^\"]*\"|[\w.-]+)\s*\))\s*\]"
)
MAX_FOUND = 1000  # values that one path may find


class PathError(Exception):
    """A text is no path of the kind that is understood here."""


class Step(msgspec.Struct, frozen=True):
    """One step: a field (`name`), an item (`index`), all of them (`every`), or those whose `where` compares so."""

    name: str = ""
    index: int | None = None
    every: bool = False
    where: tuple[str, ...] = ()
    sign: str = ""
    value: Any = None


def parse(text: str) -> tuple[Step, ...]:
    """Returns the steps of a path that begins with a dot; raises PathError."""
    if not text.startswith(".") and not text.startswith("["):
        raise PathError("must be a simple json path starting with .")
    steps: list[Step] = []
    place = 0
    while place < len(text):
        found = _STEP.match(text, place)
        if found is None:
            raise PathError(f"is not a path at {text[place:]!r}")
        place = found.end()
        if found["name"] == "*" or found["all"]:
            steps.append(Step(every=True))
        elif found["index"] is not None:
            steps.append(Step(index=int(found["index"])))
        elif found["where"] is not None:
            names = tuple(name for name in found["where"].split(".") if name)
            steps.append(Step(where=names, sign=found["sign"], value=_literal(found["value"])))
        else:
            name = found["name"] or found["quoted"] or found["double"] or ""
            steps.append(Step(name=re.sub(r"\\(.)", r"\1", name)))
    return tuple(steps)


def _literal(text: str) -> Any:
    if text[0] in "'\"":
        return text[1:-1]
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return text


def is_simple(steps: tuple[Step, ...]) -> bool:
    """Tells whether the path can only lead to one place."""
    return all(step.name for step in steps)


def find(value: Any, steps: tuple[Step, ...]) -> list[Any]:
    """Returns what a path finds, in order; at most MAX_FOUND values."""
    held = [value]
    for step in steps:
        held = [found for one in held for found in _take(one, step)][:MAX_FOUND]
    return held


def _take(value: Any, step: Step) -> list[Any]:
    if step.name:
        return [value[step.name]] if isinstance(value, dict) and step.name in value else []
    if step.every:
        return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    if not isinstance(value, list):
        return []
    if step.index is not None:
        return value[step.index : step.index + 1 or None] if -len(value) <= step.index < len(value) else []
    return [item for item in value if any(_holds(found, step) for found in find(item, _names(step.where)))]


def _names(names: tuple[str, ...]) -> tuple[Step, ...]:
    return tuple(Step(name=name) for name in names)


def _holds(value: Any, step: Step) -> bool:
    if step.sign == "==":
        return bool(value == step.value)
    if step.sign == "!=":
        return bool(value != step.value)
    numbers = isinstance(value, (int, float)) and isinstance(step.value, (int, float))
    if not numbers and not (isinstance(value, str) and isinstance(step.value, str)):
        return False
    less, same = value < step.value, value == step.value
    return bool({"<": less, "<=": less or same, ">": not less and not same, ">=": not less}[step.sign])
