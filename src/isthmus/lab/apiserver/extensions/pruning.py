"""What becomes of an object before it is checked: unknown fields go, nulls go, defaults come.

Pure functions over a structural schema (reference: apiextensions `pkg/apiserver/schema/{pruning,defaulting}`). None
changes its arguments, but `fill`, which says so. Pruning and defaulting are each idempotent.
"""

import copy
from typing import Any

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.inputs import decoding
from isthmus.lab.apiserver.schema.typetable import META, find

PRESERVE = "x-kubernetes-preserve-unknown-fields"
EMBEDDED = "x-kubernetes-embedded-resource"
MAX_DEPTH = 64  # of objects and lists in each other, where the schema sets no end to it


class _Pruning:
    """One walk; `unknown` gathers the paths of what was left out."""

    def __init__(self, kind: str, version: str) -> None:
        self.kind = kind
        self.version = version
        self.unknown: list[str] = []

    def value(self, value: Any, schema: Json, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise errors.bad_request(f"{self.kind}: exceeded max depth at {path}")
        if isinstance(value, dict):
            return self.object(value, schema, path, depth)
        if isinstance(value, list):
            below = schema.get("items")
            if below is None and not schema.get(PRESERVE):
                return value
            return [
                self.value(item, below or {PRESERVE: True}, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)
            ]
        if isinstance(value, float) and schema.get("type") == "integer" and value.is_integer() and abs(value) < 2**53:
            return int(value)
        return value

    def object(self, value: Json, schema: Json, path: str, depth: int, *, top: bool = False) -> Json:
        kept: Json = {}
        open_ = bool(schema.get(PRESERVE))
        properties, other = schema.get("properties", {}), schema.get("additionalProperties")
        resource = top or bool(schema.get(EMBEDDED))
        for name, item in value.items():
            where = f"{path}.{name}" if path else name
            if resource and name in ("apiVersion", "kind"):
                kept[name] = item
            elif resource and name == "metadata":
                kept[name] = self.metadata(item, where)
            elif name in properties:
                if item is None and not properties[name].get("nullable"):
                    continue
                kept[name] = self.value(item, properties[name], where, depth + 1)
            elif isinstance(other, dict) and other:
                if item is None and not other.get("nullable") and "default" not in other:
                    continue
                kept[name] = self.value(item, other, where, depth + 1)
            elif open_ or other:
                kept[name] = self.value(item, {PRESERVE: True}, where, depth + 1)
            else:
                self.unknown.append(where)
        return kept

    def metadata(self, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            if value is None:
                return {}
            raise errors.bad_request(f"{self.kind}: {path} must be an object")
        shape = find("ObjectMeta", package=META)
        kept, unknown = decoding.conform(value, shape, kind=self.kind, version=self.version)
        self.unknown += [f"{path}.{name}" for name in unknown]
        return kept


def prune(value: Json, schema: Json, *, kind: str, version: str) -> tuple[Json, list[str]]:
    """Returns `value` with what `schema` knows of it, and the paths of the rest; raises a 400 ApiError.

    Nulls that the schema does not allow count as left out.
    """
    walk = _Pruning(kind, version)
    return walk.object(value, schema, "", 0, top=True), walk.unknown


def unknown_in(value: Any, schema: Json) -> list[str]:
    """Returns the paths of what `schema` does not know in a bare value, such as a default."""
    walk = _Pruning("", "")
    walk.value(value, schema, "", 0)
    return walk.unknown


def fill(value: Any, schema: Json) -> None:
    """Puts defaults into `value` where something is left out; changes it in place."""
    if isinstance(value, dict):
        for name, below in schema.get("properties", {}).items():
            if "default" in below and below["default"] is not None:
                if name not in value or (value[name] is None and not below.get("nullable")):
                    value[name] = copy.deepcopy(below["default"])
            if name in value:
                fill(value[name], below)
        other = schema.get("additionalProperties")
        if isinstance(other, dict):
            known = schema.get("properties", {})
            for name in [name for name in value if name not in known]:
                if value[name] is None and not other.get("nullable") and "default" in other:
                    value[name] = copy.deepcopy(other["default"])
                fill(value[name], other)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        below = schema["items"]
        for at, item in enumerate(value):
            if item is None and not below.get("nullable") and "default" in below:
                value[at] = copy.deepcopy(below["default"])
            fill(value[at], below)
