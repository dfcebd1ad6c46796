"""The shape that server-side apply sees of a schema: which lists are maps or sets, and what is owned as one.

Invariant: an object of the schema and one of the type table are owned and merged by the same code; only where fields
come from differs. What a schema leaves open is owned field by field, its lists as one (reference:
structured-merge-diff, "deduced" types).
"""

from typing import Any

from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.extensions.pruning import EMBEDDED, PRESERVE
from isthmus.lab.apiserver.schema.typetable import META, FieldType, ObjectType

_SCALAR = "any"


class Deduced(FieldType, frozen=True):
    """A field of which the schema says nothing: an object is owned by its fields, everything else as one."""

    def element(self) -> FieldType:
        """Returns the same field: what is below is open too."""
        return self

    def target(self) -> ObjectType:
        """Returns an object of open fields."""
        return ObjectType(name="", package="", fields=_Open({}))


DEDUCED = Deduced(name="", type="object", package="", wrap="{}")


class _Open(dict[str, FieldType]):
    """Fields of which more may come than are known."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, DEDUCED)


class SchemaField(FieldType, frozen=True, eq=False):
    """A field of a schema; `below` is the schema of what `element` or `target` give, `cache` holds those made."""

    below: Json | None = None
    cache: dict[str, Any] | None = None

    def element(self) -> FieldType:
        """Returns the field that an entry of this map is."""
        found: FieldType = self._made("element", lambda: field("", self.below or {}))
        return found

    def target(self) -> ObjectType:
        """Returns the object that the field, or an item of it, holds."""
        found: ObjectType = self._made("target", lambda: shape(self.below or {}))
        return found

    def key_default(self, key: str) -> Any:
        """Returns the default of a key in the schema of the items."""
        return (self.below or {}).get("properties", {}).get(key, {}).get("default")

    def _made(self, name: str, make: Any) -> Any:
        if self.cache is None:
            return make()
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]


def field(name: str, schema: Json) -> FieldType:
    """Returns the field that a schema describes."""

    def made(**settings: Any) -> SchemaField:
        return SchemaField(name=name, package="", cache={}, **settings)

    kind = schema.get("type")
    if kind == "array":
        listed, items = schema.get("x-kubernetes-list-type"), schema.get("items") or {}
        if listed == "map":
            keys = tuple(schema.get("x-kubernetes-list-map-keys", ()))
            return made(type="object", wrap="[]", map_keys=keys, below=items)
        return made(type=_SCALAR, wrap="[]", map_keys=() if listed == "set" else None, atomic=listed != "set")
    if kind == "object" or schema.get(EMBEDDED):
        atomic = schema.get("x-kubernetes-map-type") == "atomic"
        other = schema.get("additionalProperties")
        if schema.get("properties") or schema.get(EMBEDDED):
            return made(type="object", below=schema, atomic=atomic)
        if isinstance(other, dict) and other:
            return made(type="object", wrap="{}", below=other, atomic=atomic)
        return Deduced(name=name, type="object", package="", wrap="{}", atomic=atomic)
    if schema.get(PRESERVE):
        return Deduced(name=name, type="object", package="", wrap="{}")
    return made(type=_SCALAR)


def shape(schema: Json, *, name: str = "", top: bool = False) -> ObjectType:
    """Returns the object type that a schema with properties describes; `top` for a whole object of the API."""
    fields = {key: field(key, below) for key, below in schema.get("properties", {}).items()}
    if top or schema.get(EMBEDDED):
        for key in ("apiVersion", "kind"):
            fields[key] = FieldType(name=key, type="str", package=META)
        fields["metadata"] = FieldType(name="metadata", type="ObjectMeta", package=META)
    held = _Open(fields) if schema.get(PRESERVE) else fields
    return ObjectType(name=name, package="", fields=held)
