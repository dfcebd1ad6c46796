"""The schema of a custom resource as OpenAPI documents show it.

Version 3 shows it nearly as it came, with kind, apiVersion and metadata filled in. Version 2 has no words for
alternatives and nullable values, and no types where anything may stand, so these are left out, as in the real server;
clients check their objects against it. (Reference: apiextensions `pkg/controller/openapi/builder`.)
"""

from typing import Any

from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.extensions.pruning import EMBEDDED, PRESERVE
from isthmus.lab.apiserver.extensions.values import INT_OR_STRING

_NOT_IN_2 = ("allOf", "anyOf", "oneOf", "not", "nullable", "default", "x-kubernetes-validations")
_TEXT: Json = {"type": "string"}


def name(group: str, version: str, kind: str) -> str:
    """Returns the name of a schema: `io.cilium.v2.CiliumNetworkPolicy`."""
    return ".".join([*reversed(group.split(".")), version, kind])


def schema(value: Json, *, metadata: Json, version: int) -> Json:
    """Returns the schema of a whole object; `metadata` is the reference to put for its metadata."""
    shown = dict(value) if version == 3 else _plain(value)
    properties = {key: item for key, item in shown.get("properties", {}).items() if key != "metadata"}
    return {
        **shown,
        "properties": {
            "apiVersion": {**_TEXT, "description": "The API group and version that the object is written in"},
            "kind": {**_TEXT, "description": "The kind of the object"},
            "metadata": {"description": "Name, labels and life cycle of the object", "allOf": [metadata]},
            **{key: item for key, item in properties.items() if key not in ("apiVersion", "kind")},
        },
    }


def _plain(value: Any) -> Any:
    """Returns a schema in the words of version 2."""
    if not isinstance(value, dict):
        return value
    open_ = bool(value.get(PRESERVE) or value.get(INT_OR_STRING) or value.get("nullable"))
    shown: Json = {}
    for key, item in value.items():
        if key in _NOT_IN_2 or (open_ and key in ("type", "properties", "items", "additionalProperties")):
            continue
        if key == "properties":
            shown[key] = {below: _plain(part) for below, part in item.items()}
        elif key in ("items", "additionalProperties"):
            shown[key] = _plain(item)
        else:
            shown[key] = item
    if value.get(EMBEDDED):
        shown.pop("properties", None)
    return shown
