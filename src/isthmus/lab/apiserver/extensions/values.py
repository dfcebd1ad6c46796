"""Whether an object is what its schema asks for, told in the words of the real server.

The order of the checks and the texts are those of k8s.io/kube-openapi `pkg/validation` as the API server turns them
into field errors. On an update, what did not change is not checked again ("ratcheting", KEP-4008), so that a
definition can become stricter while objects exist.
"""

from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.extensions.formats import has_format, matches
from isthmus.lab.apiserver.extensions.pruning import EMBEDDED
from isthmus.lab.apiserver.strategies import rules

INT_OR_STRING = "x-kubernetes-int-or-string"
ABSENT: Any = object()
"""The old value of what is new."""
MAX_ERRORS = 200  # of one object; a hostile list of a million wrong items needs no million messages
BLOCKING = frozenset(
    ("FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid")
)
"""Reasons after which rules in CEL are not asked: they may rely on what is missing."""


def type_name(value: Any) -> str:
    """Returns the JSON type of a value as errors name it."""
    if isinstance(value, bool):
        return "boolean"
    names = {int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def go_syntax(value: Any) -> str:
    """Returns a value as Go prints it with %#v."""
    if isinstance(value, dict):
        held = ", ".join(f"{go_syntax(key)}:{go_syntax(item)}" for key, item in sorted(value.items()))
        return f"map[string]interface {{}}{{{held}}}"
    if isinstance(value, list):
        return f"[]interface {{}}{{{', '.join(go_syntax(item) for item in value)}}}"
    if value is None:
        return "interface {}(nil)"
    return msgspec.json.encode(value).decode()


def type_invalid(path: str, value: Any, wanted: str) -> FieldError:
    """Says that a value is of another type or format; `path` is shown even where it is empty."""
    shown = msgspec.json.encode(value).decode()
    return FieldError(
        "FieldValueTypeInvalid", path, f"Invalid value: {shown}: {path} in body must be of type {wanted}: {shown}"
    )


def unsupported(path: str, value: Any, supported: list[Any]) -> FieldError:
    """Says that a value is none of the `supported` ones, in their order."""
    words = ", ".join(f'"{word}"' if not isinstance(word, str) else _json(word) for word in supported)
    return FieldError("FieldValueNotSupported", path, f"Unsupported value: {_json(value)}: supported values: {words}")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _is(value: Any, kind: str) -> bool:
    found = type_name(value)
    if kind == "number":
        return found in ("integer", "number")
    if kind == "integer":
        return found == "integer" or (found == "number" and value.is_integer())
    return found == kind


class _Check:
    """One walk over a value and its schema."""

    def __init__(self) -> None:
        self.found: list[FieldError] = []

    def bad(self, error: FieldError) -> None:
        if len(self.found) < MAX_ERRORS:
            self.found.append(error)

    def body(self, path: str, value: Any, text: str) -> None:
        self.bad(errors.invalid(path, value, f"{path} in body {text}"))

    def value(self, value: Any, schema: Json, path: str, old: Any = ABSENT) -> None:
        if len(self.found) >= MAX_ERRORS or (old is not ABSENT and old == value and type(old) is type(value)):
            return
        if value is None and schema.get("nullable"):
            return
        if not self.type(value, schema, path):
            return
        self.combined(value, schema, path)
        if isinstance(value, str):
            self.text(value, schema, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self.number(value, schema, path)
        elif isinstance(value, list):
            self.items(value, schema, path, old)
        if "enum" in schema and not any(
            word == value and type_name(word) == type_name(value) for word in schema["enum"]
        ):
            self.bad(unsupported(path, value, schema["enum"]))
        if isinstance(value, dict):
            self.object(value, schema, path, old)

    def type(self, value: Any, schema: Json, path: str) -> bool:
        kind = schema.get("type")
        if schema.get(INT_OR_STRING):
            if type_name(value) in ("integer", "string") or _is(value, "integer"):
                return True
            self.bad(_wrong_type(path, value, "integer,string"))
            return False
        if kind and not _is(value, kind):
            self.bad(_wrong_type(path, value, kind))
            return False
        return True

    def combined(self, value: Any, schema: Json, path: str) -> None:
        def fails(below: Json) -> list[FieldError]:
            check = _Check()
            check.value(value, below, path)
            return check.found

        def say(text: str) -> None:
            self.bad(FieldError("FieldValueInvalid", "<nil>", f'Invalid value: "": "{path}" must {text}'))

        if schema.get("anyOf"):
            best = [fails(below) for below in schema["anyOf"]]
            if all(best):
                say("validate at least one schema (anyOf)")
                self.found += best[0]
        if schema.get("oneOf"):
            best = [fails(below) for below in schema["oneOf"]]
            good = sum(not one for one in best)
            if not good:
                say("validate one and only one schema (oneOf). Found none valid")
                self.found += best[0]
            elif good > 1:
                say(f"validate one and only one schema (oneOf). Found {good} valid alternatives")
        if schema.get("allOf"):
            broken = [one for below in schema["allOf"] if (one := fails(below))]
            for one in broken:
                self.found += one
            if broken:
                none = ". None validated" if len(broken) == len(schema["allOf"]) > 1 else ""
                say(f"validate all the schemas (allOf){none}")
        if schema.get("not") is not None and not fails(schema["not"]):
            say("not validate the schema (not)")

    def text(self, value: str, schema: Json, path: str) -> None:
        longest, shortest = schema.get("maxLength"), schema.get("minLength")
        if longest is not None and len(value) > longest:
            self.bad(errors.too_long(path, longest))
        if shortest is not None and len(value) < shortest:
            self.body(path, value, f"should be at least {shortest} chars long")
        pattern = schema.get("pattern")
        if pattern and not matches(value, pattern):
            self.body(path, value, f"should match '{pattern}'")
        if schema.get("format") and not has_format(value, schema["format"]):
            self.bad(type_invalid(path, value, schema["format"]))

    def number(self, value: float, schema: Json, path: str) -> None:
        factor = schema.get("multipleOf")
        if factor and not _is_multiple(value, factor):
            self.body(path, value, f"should be a multiple of {factor}")
        top, bottom = schema.get("maximum"), schema.get("minimum")
        if top is not None:
            if schema.get("exclusiveMaximum"):
                if value >= top:
                    self.body(path, value, f"should be less than {top}")
            elif value > top:
                self.body(path, value, f"should be less than or equal to {top}")
        if bottom is not None:
            if schema.get("exclusiveMinimum"):
                if value <= bottom:
                    self.body(path, value, f"should be greater than {bottom}")
            elif value < bottom:
                self.body(path, value, f"should be greater than or equal to {bottom}")

    def items(self, value: list[Any], schema: Json, path: str, old: Any) -> None:
        below = schema.get("items")
        before = by_key(old, schema)
        if isinstance(below, dict):
            for at, item in enumerate(value):
                self.value(item, below, f"{path}[{at}]", before.get(item_key(item, schema), ABSENT))
        least, most = schema.get("minItems"), schema.get("maxItems")
        if least is not None and len(value) < least:
            self.body(path, len(value), f"should have at least {least} items")
        if most is not None and len(value) > most:
            self.too_many(path, len(value), most)
        if schema.get("uniqueItems") and len({_json(item) for item in value}) < len(value):
            self.body(path, value, "shouldn't contain duplicates")

    def too_many(self, path: str, count: int, most: int) -> None:
        self.bad(FieldError("FieldValueTooMany", path, f"Too many: {count}: must have at most {most} items"))

    def object(self, value: Json, schema: Json, path: str, old: Any) -> None:
        least, most = schema.get("minProperties"), schema.get("maxProperties")
        if least is not None and len(value) < least:
            self.body(path, len(value), f"should have at least {least} properties")
        if most is not None and len(value) > most:
            self.too_many(path, len(value), most)
        before = old if isinstance(old, dict) else {}
        for name in sorted(value):
            where = f"{path}.{name}" if path else name
            below = member(schema, name)
            if below:
                self.value(value[name], below, where, before.get(name, ABSENT))
        for name in schema.get("required", ()):
            if name not in value:
                self.bad(errors.required(f"{path}.{name}" if path else name))


def _is_multiple(value: float, factor: float) -> bool:
    if isinstance(value, int) and isinstance(factor, int):
        return value % factor == 0
    try:
        return abs(value / factor - round(value / factor)) <= 1e-9
    except (OverflowError, ValueError):
        return False


def _wrong_type(path: str, value: Any, wanted: str) -> FieldError:
    return type_invalid(path, type_name(value), wanted)


def member(schema: Json, name: str) -> Any:
    """Returns the schema of a member of an object, None if the object's schema does not tell."""
    other = schema.get("additionalProperties")
    return schema.get("properties", {}).get(name, other if isinstance(other, dict) else None)


def item_key(item: Any, schema: Json) -> str:
    """Returns what makes an item of a map list the same as an old one; "" for the items of other lists."""
    if schema.get("x-kubernetes-list-type") == "map" and isinstance(item, dict):
        return _json([item.get(key) for key in schema.get("x-kubernetes-list-map-keys", ())])
    return ""


def by_key(old: Any, schema: Json) -> dict[str, Any]:
    """Returns the items of the old state of a map list by their keys; {} for other lists."""
    if schema.get("x-kubernetes-list-type") != "map" or not isinstance(old, list):
        return {}
    return {item_key(item, schema): item for item in old}


def check(value: Any, schema: Json, path: str = "", *, old: Any = ABSENT) -> list[FieldError]:
    """Returns what is wrong with `value`; `old` is its former state, ABSENT for a new one."""
    walk = _Check()
    walk.value(value, schema, path, old)
    return walk.found


def check_lists(value: Any, schema: Json, path: str = "") -> list[FieldError]:
    """Returns the members that sets and map lists hold twice."""
    found: list[FieldError] = []
    if isinstance(value, dict):
        for name, item in value.items():
            below = member(schema, name)
            if below:
                found += check_lists(item, below, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        kind = schema.get("x-kubernetes-list-type")
        seen: set[str] = set()
        told: set[str] = set()
        for at, item in enumerate(value):
            where = f"{path}[{at}]"
            if kind in ("set", "map"):
                keys = (
                    {name: item[name] for name in schema.get("x-kubernetes-list-map-keys", ()) if name in item}
                    if (kind == "map" and isinstance(item, dict))
                    else item
                )
                word = msgspec.json.encode(keys, order="sorted").decode()
                if word in seen and word not in told:
                    told.add(word)
                    shown = go_syntax(keys) if isinstance(keys, (dict, list)) else _json(keys)
                    found.append(FieldError("FieldValueDuplicate", where, f"Duplicate value: {shown}"))
                seen.add(word)
            if isinstance(schema.get("items"), dict):
                found += check_lists(item, schema["items"], where)
    return found


def check_embedded(value: Any, schema: Json, path: str = "") -> list[FieldError]:
    """Returns what is wrong with the apiVersion, kind and metadata of objects within an object."""
    found: list[FieldError] = []
    if isinstance(value, dict):
        if schema.get(EMBEDDED) and path:
            for name in ("apiVersion", "kind"):
                where = f"{path}.{name}"
                if name not in value:
                    found.append(errors.required(where, "must not be empty"))
                elif not isinstance(value[name], str):
                    found.append(_wrong_type(where, value[name], "string"))
                elif not value[name]:
                    found.append(errors.invalid(where, "", "must not be empty"))
            metadata = value.get("metadata")
            if isinstance(metadata, dict):
                told = rules.metadata(metadata)
                found += [FieldError(bad.reason, f"{path}.{bad.path}", bad.message) for bad in told]
        for name, item in value.items():
            below = member(schema, name)
            if below:
                found += check_embedded(item, below, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for at, item in enumerate(value):
            found += check_embedded(item, schema["items"], f"{path}[{at}]")
    return found
