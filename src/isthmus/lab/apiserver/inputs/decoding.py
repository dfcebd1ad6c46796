"""From any value to an object of known shape: type checks, unknown fields, and what Go's encoder leaves out.

Invariant: what comes out has only fields of the type table, of the right type, in the form in which the real server
would write them back: no nulls, no empty optional lists, no zero values of plain (non-pointer) fields. So an
unchanged apply is seen to be unchanged, and `ingress: []` means the same here as there. Storing objects as they came
was rejected for this reason.
"""

import base64
import binascii
import re
from typing import Any, NoReturn

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.schema.typetable import FieldType, ObjectType

MAX_BODY = 3 * 1024 * 1024  # bytes; the real server's limit on a request
MAX_DEPTH = 64  # no built-in type nests deeper than 20

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")
_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_LIMITS = {"int": 2**31, "long": 2**63}
_GO_NAMES = {
    "str": "string",
    "int": "int32",
    "long": "int64",
    "bool": "bool",
    "num": "float64",
    "time": "v1.Time",
    "mtime": "v1.MicroTime",
    "bytes": "[]uint8",
    "intstr": "intstr.IntOrString",
    "qty": "resource.Quantity",
}


class _Walk:
    """One conversion: gathers unknown fields, raises at the first wrong type."""

    def __init__(self, kind: str, version: str) -> None:
        self.kind = kind
        self.version = version
        self.unknown: list[str] = []

    def fail(self, detail: str) -> NoReturn:
        raise errors.bad_request(
            f'{self.kind} in version "{self.version}" cannot be handled as a {self.kind}: {detail}'
        )

    def mismatch(self, value: object, where: str, go_type: str) -> NoReturn:
        shown = {str: "string", bool: "bool", dict: "object", list: "array"}.get(type(value), "number")
        if shown == "number":
            shown = f"number {value}"
        self.fail(f"json: cannot unmarshal {shown} into Go struct field {where} of type {go_type}")

    def read(self, value: object, shape: ObjectType, path: str, depth: int) -> Json:
        if not isinstance(value, dict):
            self.mismatch(value, f"{shape.name}.{path}" if path else shape.name, shape.name)
        if depth > MAX_DEPTH:
            self.fail(f"exceeded max depth at {path}")
        kept: Json = {}
        fields = shape.fields
        for name, item in value.items():
            field = fields.get(name)
            where = f"{path}.{name}" if path else name
            if field is None:
                self.unknown.append(where)
                continue
            if item is None:
                continue
            item = self.field(item, field, f"{shape.name}.{where}", where, depth)
            if item or field.pointer or field.required or (isinstance(item, dict) and not field.wrap):
                kept[name] = item
            elif field.type == "intstr" and not field.wrap and item == "":
                kept[name] = item
        return kept

    def field(self, value: object, field: FieldType, label: str, path: str, depth: int) -> Any:
        if field.wrap == "[]":
            if not isinstance(value, list):
                self.mismatch(value, label, f"[]{_GO_NAMES.get(field.type, field.type)}")
            return [self.item(item, field, label, f"{path}[{index}]", depth) for index, item in enumerate(value)]
        if field.wrap == "{}":
            if not isinstance(value, dict):
                self.mismatch(value, label, f"map[string]{_GO_NAMES.get(field.type, field.type)}")
            return {
                key: self.item(item, field, label, f"{path}.{key}", depth)
                for key, item in value.items()
                if item is not None or field.type == "str"
            }
        return self.item(value, field, label, path, depth)

    def item(self, value: object, field: FieldType, label: str, path: str, depth: int) -> Any:
        if not field.scalar:
            return self.read({} if value is None else value, field.target(), path, depth + 1)
        return self.scalar(value, field.type, label)

    def scalar(self, value: object, kind: str, label: str) -> Any:
        go_type = _GO_NAMES.get(kind, kind)
        if kind == "any":
            return value
        if kind == "str":
            if value is None:
                return ""
            if isinstance(value, str):
                return value
        elif kind in ("int", "long"):
            if isinstance(value, int) and not isinstance(value, bool) and -_LIMITS[kind] <= value < _LIMITS[kind]:
                return value
        elif kind == "bool":
            if isinstance(value, bool):
                return value
        elif kind == "num":
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return value
        elif kind == "intstr":
            if isinstance(value, str):
                return value
            if isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31:
                return value
        elif kind == "qty":
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                value = str(value)
            if isinstance(value, str) and _QUANTITY.fullmatch(value.strip()):
                return value.strip()
            self.fail("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
        elif kind in ("time", "mtime"):
            if isinstance(value, str):
                if _TIME.fullmatch(value):
                    return value
                self.fail(f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}"')
        elif kind == "bytes" and isinstance(value, str):
            try:
                base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                self.fail(f"{label}: illegal base64 data")
            return value
        self.mismatch(value, label, go_type)


def conform(value: Json, shape: ObjectType, *, kind: str, version: str) -> tuple[Json, list[str]]:
    """Returns `value` in the stored form, and the paths of the fields that it had too much.

    Raises a 400 ApiError where a value is of the wrong type.
    """
    walk = _Walk(kind, version)
    return walk.read(value, shape, "", 0), walk.unknown


def check_kind(value: Json, *, kind: str, api_version: str) -> None:
    """Raises a 400 ApiError if the object says that it is of another kind or version; fills in what it leaves out."""
    said = value.get("apiVersion") or api_version
    if said != api_version:
        raise errors.bad_request(
            f"the API version in the data ({said}) does not match the expected API version ({api_version})"
        )
    said = value.get("kind") or kind
    if said != kind:
        raise errors.bad_request(f'{said} in version "{api_version}" cannot be handled as a {kind}')
    value["kind"], value["apiVersion"] = kind, api_version
