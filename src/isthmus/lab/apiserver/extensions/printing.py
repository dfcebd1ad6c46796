"""The columns that a definition asks for (`additionalPrinterColumns`); Name comes first, and Age if nothing is asked.

Of several values that a path finds the first is shown, and one of another type than the column's as nothing.
"""

import datetime
from typing import Any

import msgspec

from isthmus.lab.apiserver.columns import Columns
from isthmus.lab.apiserver.columns.text import UNKNOWN, age
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.extensions import jsonpath
from isthmus.lab.apiserver.extensions.jsonpath import Step

_NAME: Json = {
    "name": "Name",
    "type": "string",
    "format": "name",
    "description": "Name of the object; unique where it stands, and cannot be changed.",
    "priority": 0,
}
_AGE: Json = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def columns(asked: list[Json] | None) -> Columns:
    """Returns definitions and row function of the columns that a version asks for."""
    wanted = asked or [_AGE]
    definitions = [_NAME]
    for column in wanted:
        words: Json = {name: column.get(name, "") for name in ("name", "type", "format", "description")}
        words["description"] = words["description"] or f"Column in JSONPath format: {column['jsonPath']}"
        definitions.append({**words, "priority": column.get("priority", 0)})
    readers = [(jsonpath.parse(column["jsonPath"]), str(column["type"])) for column in wanted]

    def row(value: Json, now: datetime.datetime) -> list[Any]:
        return [value["metadata"]["name"], *(_cell(value, steps, kind, now) for steps, kind in readers)]

    return Columns(tuple(definitions), row)


def _cell(value: Json, steps: tuple[Step, ...], kind: str, now: datetime.datetime) -> Any:
    found = jsonpath.find(value, steps)
    if not found or found[0] is None:
        return None
    first = found[0]
    if kind == "string":
        return _text(first)
    if kind == "date":
        shown = age(first, now) if isinstance(first, str) else UNKNOWN
        return "<invalid>" if shown == UNKNOWN else shown
    if kind == "integer":
        return int(first) if isinstance(first, (int, float)) and not isinstance(first, bool) else None
    if kind == "number":
        return float(first) if isinstance(first, (int, float)) and not isinstance(first, bool) else None
    return first if isinstance(first, bool) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
