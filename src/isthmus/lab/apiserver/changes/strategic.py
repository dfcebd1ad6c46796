"""Strategic merge patch: a merge that knows which lists are sets of named things.

What a list is merged by comes from the type table. Directives: `$patch` (replace, delete, merge), `$retainKeys`,
`$deleteFromPrimitiveList/F`, `$setElementOrder/F` (reference: Kubernetes community, "strategic merge patch"). Where
the type is not known (custom resources) the real server refuses this patch type, and so do the callers.
"""

import copy
from typing import Any

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.schema.typetable import FieldType, ObjectType

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def strategic_merge(target: Json, patch: Json, shape: ObjectType) -> Json:
    """Returns `target` with `patch` applied; changes neither. Raises a 400 ApiError for a directive that is none."""
    return _merge_object(target, patch, shape)


def _merge_object(target: Json, patch: Json, shape: ObjectType | None) -> Json:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise errors.bad_request(f"unknown patch type found in object: {directive}")
    merged = dict(target)
    retained = patch.get(_RETAIN)
    if retained is not None:
        if not isinstance(retained, list):
            raise errors.bad_request(f"{_RETAIN} is not a list")
        merged = {key: value for key, value in merged.items() if key in retained}
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN):
            continue
        if key.startswith(_DELETE_PRIMITIVES):
            _delete_primitives(merged, key.removeprefix(_DELETE_PRIMITIVES), value)
        elif key.startswith(_ORDER):
            continue
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_value(merged.get(key), value, shape.fields.get(key) if shape else None)
    for key, order in patch.items():
        if key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            field = shape.fields.get(name) if shape else None
            if field is not None and field.merge_key is not None and isinstance(merged.get(name), list):
                merged[name] = _reorder(merged[name], order, target.get(name) or [], field.merge_key)
    return merged


def _merge_value(current: Any, value: Any, field: FieldType | None) -> Any:
    if isinstance(value, dict):
        held = current if isinstance(current, dict) else {}
        shape = field.target() if field is not None and not field.wrap and not field.scalar else None
        return _merge_object(held, value, shape)
    if isinstance(value, list) and field is not None and field.merge_key is not None:
        base = current if isinstance(current, list) else []
        if field.scalar:
            return base + [item for item in value if item not in base]
        return _merge_list(base, value, field)
    return copy.deepcopy(value)


def _merge_list(current: list[Any], patch: list[Any], field: FieldType) -> list[Any]:
    key = field.merge_key or ""
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if not (isinstance(item, dict) and _DIRECTIVE in item)]
    merged = list(current)
    for item in patch:
        if not isinstance(item, dict):
            raise errors.bad_request(f"expected an object in {field.name}, got {item!r}")
        if key not in item:
            raise errors.bad_request(f"map: {item} does not contain declared merge key: {key}")
        places = [at for at, held in enumerate(merged) if isinstance(held, dict) and held.get(key) == item[key]]
        if item.get(_DIRECTIVE) == "delete":
            merged = [held for at, held in enumerate(merged) if at not in places]
        elif places:
            merged[places[0]] = _merge_object(merged[places[0]], item, field.target())
        else:
            merged.append(_merge_object({}, item, field.target()))
    return merged


def _delete_primitives(merged: Json, name: str, doomed: Any) -> None:
    if not isinstance(doomed, list):
        raise errors.bad_request(f"{_DELETE_PRIMITIVES}{name} is not a list")
    if isinstance(merged.get(name), list):
        merged[name] = [item for item in merged[name] if item not in doomed]


def _reorder(items: list[Any], order: Any, before: list[Any], key: str) -> list[Any]:
    """Returns `items` in the patch's `order`; others stay among their old neighbours."""
    if not isinstance(order, list):
        raise errors.bad_request("$setElementOrder is not a list")

    def name(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted = [name(item) for item in order]
    old_names = [name(item) for item in before]
    ordered = sorted((item for item in items if name(item) in wanted), key=lambda item: wanted.index(name(item)))
    others = [item for item in items if name(item) not in wanted]

    def old_place(item: Any) -> int:
        return old_names.index(name(item)) if name(item) in old_names else len(old_names)

    result: list[Any] = []
    for item in ordered:
        while others and old_place(others[0]) < old_place(item):
            result.append(others.pop(0))
        result.append(item)
    return result + others
