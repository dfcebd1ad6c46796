"""The versions of a definition: names, storage, schemas, subresources, columns, selectable fields.

The real server holds what all versions have in common once, and names it so in its errors (`spec.validation`,
`spec.subresources`, ...); so do these.
"""

from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.extensions import jsonpath
from isthmus.lab.apiserver.extensions.structural import Structural
from isthmus.lab.apiserver.strategies import rules

MAX_SELECTABLE = 8  # fields of one version
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")


def check_versions(versions: list[Json]) -> list[FieldError]:
    """Returns what is wrong with `spec.versions`."""
    found: list[FieldError] = []
    for at, version in enumerate(versions):
        found += rules.dns_1035_label(version.get("name", ""), f"spec.versions[{at}].name")
    names = [version.get("name") for version in versions]
    if len(set(names)) < len(names):
        found.append(_listed(names, "must contain unique version names"))
    if sum(bool(version.get("storage")) for version in versions) != 1:
        found.append(_listed(names, "must have exactly one version marked as storage version"))
    for at, version in enumerate(versions):
        if "openAPIV3Schema" not in (version.get("schema") or {}):
            path = f"spec.versions[{at}].schema.openAPIV3Schema"
            found.append(errors.required(path, "schemas are required"))
    for field, name, check in (
        ("schema", "validation", _schema),
        ("subresources", "subresources", _subresources),
        ("additionalPrinterColumns", "additionalPrinterColumns", _columns),
        ("selectableFields", "selectableFields", _selectable),
    ):
        held = [version.get(field) for version in versions]
        if held and all(one == held[0] for one in held):
            found += check(held[0], f"spec.{name}", versions[0])
        else:
            for at, one in enumerate(held):
                found += check(one, f"spec.versions[{at}].{field}", versions[at])
    return found


def _listed(names: list[Any], detail: str) -> FieldError:
    shown = msgspec.json.encode(names).decode()
    return FieldError("FieldValueInvalid", "spec.versions", f"Invalid value: {shown}: {detail}")


def _schema(value: Any, path: str, _: Json) -> list[FieldError]:
    schema = (value or {}).get("openAPIV3Schema")
    if schema is None:
        return []
    return Structural(f"{path}.openAPIV3Schema").review(schema)


def _subresources(value: Any, path: str, _: Json) -> list[FieldError]:
    scale = (value or {}).get("scale")
    if scale is None:
        return []
    found: list[FieldError] = []
    wanted = (("specReplicasPath", ("spec",)), ("statusReplicasPath", ("status",)))
    for name, roots in (*wanted, ("labelSelectorPath", ("spec", "status"))):
        where, text = f"{path}.scale.{name}", scale.get(name)
        if not text:
            if name != "labelSelectorPath":
                found.append(errors.required(where))
            continue
        try:
            steps = jsonpath.parse(text)
        except jsonpath.PathError:
            steps = ()
        if not steps or not jsonpath.is_simple(steps):
            found.append(errors.invalid(where, text, "must be a simple json path starting with ."))
        elif steps[0].name not in roots:
            places = " or ".join(f".{root}" for root in roots)
            found.append(errors.invalid(where, text, f"should be a json path under {places}"))
    return found


def _columns(value: Any, path: str, _: Json) -> list[FieldError]:
    found: list[FieldError] = []
    for at, column in enumerate(value or ()):
        where = f"{path}[{at}]"
        if not column.get("name"):
            found.append(errors.required(f"{where}.name"))
        kind, form, text = column.get("type", ""), column.get("format", ""), column.get("jsonPath", "")
        if not kind:
            found.append(errors.required(f"{where}.type", f"must be one of {','.join(_COLUMN_TYPES)}"))
        elif kind not in _COLUMN_TYPES:
            found.append(errors.invalid(f"{where}.type", kind, f"must be one of {','.join(_COLUMN_TYPES)}"))
        if form and form not in _COLUMN_FORMATS:
            found.append(errors.invalid(f"{where}.format", form, f"must be one of {','.join(_COLUMN_FORMATS)}"))
        if not text:
            found.append(errors.required(f"{where}.JSONPath"))
            continue
        try:
            jsonpath.parse(text if text.startswith(".") else "")
        except jsonpath.PathError as failure:
            found.append(errors.invalid(f"{where}.JSONPath", text, str(failure)))
    return found


def _selectable(value: Any, path: str, version: Json) -> list[FieldError]:
    found: list[FieldError] = []
    if len(value or ()) > MAX_SELECTABLE:
        text = f"Too many: {len(value)}: must have at most {MAX_SELECTABLE} items"
        found.append(FieldError("FieldValueTooMany", path, text))
    seen: set[str] = set()
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    for at, field in enumerate(value or ()):
        where, text = f"{path}[{at}].jsonPath", field.get("jsonPath", "")
        if not text:
            found.append(errors.required(where))
        elif not text.startswith("."):
            detail = f"is an invalid path: expected [ or . but got: {text}"
            found.append(errors.invalid(where, text, detail))
        elif text in seen:
            found.append(errors.duplicate(where, text))
        else:
            found += _selectable_type(_at(schema, text), where, text)
        seen.add(text)
    return found


def _selectable_type(schema: Any, where: str, text: str) -> list[FieldError]:
    if not isinstance(schema, dict):
        return [errors.invalid(where, text, "is an invalid path: does not refer to a valid field")]
    if schema.get("type") not in ("string", "integer", "boolean"):
        return [errors.invalid(where, text, "must point to a field of type string, boolean or integer")]
    return []


def _at(schema: Json, path: str) -> Any:
    held: Any = schema
    for name in path[1:].split("."):
        held = (held.get("properties") or {}).get(name) if isinstance(held, dict) else None
    return None if path.startswith(".metadata") else held
