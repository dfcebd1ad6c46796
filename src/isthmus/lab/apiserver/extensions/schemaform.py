"""JSONSchemaProps: from hostile JSON to a schema with known fields of the right types, as the real server stores it.

The type table cannot hold it (schemas nest in themselves and in maps, and two fields have alternatives), and its
memory would not be worth it. Fields without a value are left out, as Go leaves them out.
"""

from typing import Any, NoReturn

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import Json

MAX_DEPTH = 100  # of schemas in each other

_GROUPS = {
    "str": "id $schema $ref description type format title pattern x-kubernetes-map-type x-kubernetes-list-type",
    "bool": "exclusiveMaximum exclusiveMinimum uniqueItems nullable x-kubernetes-embedded-resource "
    "x-kubernetes-int-or-string",
    "pointer": "x-kubernetes-preserve-unknown-fields",
    "number": "maximum minimum multipleOf",
    "int": "maxLength minLength maxItems minItems maxProperties minProperties",
    "words": "required x-kubernetes-list-map-keys",
    "any": "default example",
    "list": "enum",
    "schemas": "allOf oneOf anyOf",
    "schema": "not",
    "map": "properties patternProperties definitions dependencies",
    "items": "items",
    "open": "additionalProperties additionalItems",
    "docs": "externalDocs",
    "rules": "x-kubernetes-validations",
}
_FIELDS = {name: kind for kind, names in _GROUPS.items() for name in names.split()}
_RULE_FIELDS = {
    "rule": str,
    "message": str,
    "messageExpression": str,
    "reason": str,
    "fieldPath": str,
    "optionalOldSelf": bool,
}
_GO = {"str": "string", "bool": "bool", "pointer": "bool", "number": "float64", "int": "int64", "words": "[]string"}


class SchemaForm:
    """One conversion; `unknown` gathers the paths of fields that schemas do not have."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def read(self, value: Any, path: str, depth: int = 0) -> Json:
        """Returns the schema; raises a 400 ApiError for a value of the wrong type."""
        if not isinstance(value, dict):
            self._fail(path, value, "v1.JSONSchemaProps")
        if depth > MAX_DEPTH:
            raise errors.bad_request(f"CustomResourceDefinition: exceeded max depth at {path}")
        kept: Json = {}
        for name, item in value.items():
            kind = _FIELDS.get(name)
            where = f"{path}.{name}"
            if kind is None:
                self.unknown.append(where)
            elif item is not None:
                read = self._field(item, kind, where, depth)
                if read or kind in ("pointer", "number", "int", "any", "open", "schema", "items"):
                    kept[name] = read
        return kept

    def _field(self, value: Any, kind: str, path: str, depth: int) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = {
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "pointer": isinstance(value, bool),
            "number": number,
            "int": number and float(value).is_integer(),
            "words": isinstance(value, list) and all(isinstance(word, str) for word in value),
            "any": True,
            "docs": isinstance(value, dict),
        }
        if kind in good:
            if not good[kind]:
                self._fail(path, value, _GO.get(kind, "v1.JSON"))
            return int(value) if kind == "int" else value
        if kind == "map":
            return self._map(value, path, depth)
        if kind == "schema" or (kind == "items" and isinstance(value, dict)):
            return self.read(value, path, depth + 1)
        if kind == "open":
            return value if isinstance(value, bool) else self.read(value, path, depth + 1)
        if not isinstance(value, list):
            self._fail(path, value, "[]v1.JSONSchemaProps")
        if kind == "rules":
            return [self._rule(item, f"{path}[{at}]") for at, item in enumerate(value)]
        return (
            value if kind == "list" else [self.read(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]
        )

    def _map(self, value: Any, path: str, depth: int) -> Json:
        if not isinstance(value, dict):
            self._fail(path, value, "map[string]v1.JSONSchemaProps")
        if path.endswith(".dependencies"):
            return value
        return {name: self.read(item, f"{path}.{name}", depth + 1) for name, item in value.items()}

    def _rule(self, value: Any, path: str) -> Json:
        if not isinstance(value, dict):
            self._fail(path, value, "v1.ValidationRule")
        kept: Json = {}
        for name, item in value.items():
            kind = _RULE_FIELDS.get(name)
            if kind is None:
                self.unknown.append(f"{path}.{name}")
            elif item is not None:
                if not isinstance(item, kind):
                    self._fail(f"{path}.{name}", item, "string" if kind is str else "bool")
                if item or name in ("rule", "optionalOldSelf", "reason"):
                    kept[name] = item
        return kept

    @staticmethod
    def _fail(path: str, value: object, go_type: str) -> NoReturn:
        shown = {str: "string", bool: "bool", dict: "object", list: "array"}.get(type(value), f"number {value}")
        kind = "CustomResourceDefinition"
        raise errors.bad_request(
            f'{kind} in version "v1" cannot be handled as a {kind}: json: cannot unmarshal {shown} into Go struct '
            f"field JSONSchemaProps.{path} of type {go_type}"
        )
