"""Definitions that tests of custom resources share."""

import copy
from typing import Any

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/example.com/v1/namespaces/default/widgets"

SPEC: dict[str, Any] = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "minimum": 0, "maximum": 100},
        "color": {"type": "string", "default": "red"},
        "replicas": {"type": "integer"},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}, "note": {"type": "string"}},
            },
        },
        "limits": {
            "type": "object",
            "additionalProperties": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}


def version(name: str = "v1", *, storage: bool = True, **fields: Any) -> dict[str, Any]:
    """Returns a version of a definition; `fields` replace its parts."""
    status = {"type": "object", "properties": {"phase": {"type": "string"}, "replicas": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"spec": copy.deepcopy(SPEC), "status": status}}
    made: dict[str, Any] = {"name": name, "served": True, "storage": storage, "schema": {"openAPIV3Schema": schema}}
    return {**made, "subresources": {"status": {}}, **fields}


def definition(
    *versions: dict[str, Any], plural: str = "widgets", kind: str = "Widget", **names: Any
) -> dict[str, Any]:
    """Returns a definition in the group example.com."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, **names},
            "versions": list(versions) or [version()],
        },
    }


def widget(name: str, *, api_version: str = "example.com/v1", **spec: Any) -> dict[str, Any]:
    """Returns an object of the kind."""
    return {"apiVersion": api_version, "kind": "Widget", "metadata": {"name": name}, "spec": spec}
