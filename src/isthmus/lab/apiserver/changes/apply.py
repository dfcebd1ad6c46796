"""Server-side apply: merges a configuration into an object, minds who owns what, and drops what its writer dropped.

Rules (KEP-555): a field that another manager owns with another value is a conflict, unless forced; a field that this
manager owned, sends no more and shares with nobody is removed; every field that is sent is owned afterwards. Values
and lists merge as the type table says. Pure: takes and returns objects, stores nothing.
"""

import copy
from typing import Any

import msgspec

from isthmus.lab.apiserver.changes.ownership import Leaves, Manager, Path, item_key, leaves, shown
from isthmus.lab.apiserver.errors import ApiError, Json
from isthmus.lab.apiserver.schema.typetable import FieldType, ObjectType


def server_side_apply(
    live: Json, config: Json, *, shape: ObjectType, managers: list[Manager], writer: Manager, force: bool
) -> tuple[Json, list[Manager]]:
    """Returns the merged object and the entries after it; raises the 409 ApiError that lists all conflicts.

    `writer.paths` is not read. `live` is {} for an object that does not exist.
    """
    sent = leaves(config, shape)
    held = leaves(live, shape)
    own = next((manager for manager in managers if manager.identity == writer.identity), None)
    others = [manager for manager in managers if manager.identity != writer.identity]
    clashes = {path for path, value in sent.items() if _differs(path, value, held)}
    conflicts = [(manager, sorted(manager.paths & clashes)) for manager in others if manager.paths & clashes]
    if conflicts and not force:
        raise _refusal(conflicts)
    others = [manager.with_paths(manager.paths - clashes) for manager in others]
    merged = _merge_object(copy.deepcopy(live), config, shape)
    if own is not None:
        kept = frozenset(sent).union(*(manager.paths for manager in others))
        for path in sorted(own.paths - kept, key=len):  # an item before its key, by which it is found
            if not any(other[: len(path)] == path for other in kept):
                _remove(merged, path, shape, kept)
    time = own.time if own is not None and own.paths == frozenset(sent) and not clashes else writer.time
    entry = msgspec.structs.replace(writer, paths=frozenset(sent), time=time)
    return merged, [*(manager for manager in others if manager.paths), entry]


def _differs(path: Path, value: Any, held: Leaves) -> bool:
    """Tells whether a sent field changes the object; nothing is changed by an empty container where a full one is."""
    if path in held:
        return bool(held[path] != value)
    return value not in ({}, []) or not any(other[: len(path)] == path for other in held)


def _refusal(conflicts: list[tuple[Manager, list[Path]]]) -> ApiError:
    causes, lines = [], []
    for manager, paths in conflicts:
        using = f' with subresource "{manager.subresource}"' if manager.subresource else ""
        who = f'"{manager.name}"{using}'
        if manager.operation == "Update":
            who += f" using {manager.api_version}"
        causes += [
            {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": shown(path)}
            for path in paths
        ]
        if len(paths) == 1:
            lines.append(f"conflict with {who}: {shown(paths[0])}")
        else:
            lines.append(f"conflicts with {who}:\n" + "\n".join(f"- {shown(path)}" for path in paths))
    count = len(causes)
    message = f"Apply failed with {count} conflict{'s' if count > 1 else ''}: " + "\n".join(lines)
    return ApiError(409, "Conflict", message, details={"causes": causes})


def _merge_object(live: Json, config: Json, shape: ObjectType) -> Json:
    merged = dict(live)
    for name, value in config.items():
        field = shape.fields.get(name)
        merged[name] = copy.deepcopy(value) if field is None else _merge_value(merged.get(name), value, field)
    return merged


def _merge_value(live: Any, value: Any, field: FieldType) -> Any:
    if live is None or type(live) is not type(value) or field.whole(value):
        return copy.deepcopy(value)
    if field.wrap == "{}":
        element = field.element()
        return {**live, **{key: _merge_value(live.get(key), item, element) for key, item in value.items()}}
    if field.wrap == "[]":
        return _merge_list(live, value, field)
    if field.scalar or field.target().atomic:
        return copy.deepcopy(value)
    return _merge_object(live, value, field.target())


def _merge_list(live: list[Any], value: list[Any], field: FieldType) -> list[Any]:
    if field.map_keys is None:
        return copy.deepcopy(value)
    held = {_word(item, field): item for item in live}
    sent = {_word(item, field): item for item in value}
    merged: dict[str, Any] = {}
    left = list(held)
    for word, item in sent.items():
        while left and left[0] not in sent:  # what is not sent stays where it stood
            other = left.pop(0)
            merged[other] = held[other]
        merged[word] = _merged_item(held[word], item, field) if word in held else copy.deepcopy(item)
        if word in left:
            left.remove(word)
    merged.update((word, held[word]) for word in left)
    return list(merged.values())


def _word(item: Any, field: FieldType) -> str:
    """Returns what makes an item the same as another: its keys, or all of it."""
    word = item_key(item, field) if field.map_keys else None
    return word if word is not None else "v:" + msgspec.json.encode(item).decode()


def _merged_item(live: Any, sent: Any, field: FieldType) -> Any:
    if not field.map_keys or not isinstance(live, dict) or not isinstance(sent, dict):
        return copy.deepcopy(sent)
    return _merge_object(live, sent, field.target())


def _remove(value: Any, path: Path, shape: ObjectType, kept: frozenset[Path]) -> None:
    """Removes what is at `path`, and nothing if it is not there; and the container that this leaves empty.

    The containers further up stay, and those that an owner of `kept` sent.
    """
    holder: Any = value
    above: Any = None
    within: ObjectType | None = shape
    field: FieldType | None = None
    for depth, word in enumerate(path):
        last = depth == len(path) - 1
        if word.startswith("f:"):
            if not isinstance(holder, dict) or word[2:] not in holder:
                return
            if within is not None:
                field = within.fields.get(word[2:])
            else:
                field = field.element() if field is not None and field.wrap == "{}" else None
            if last:
                del holder[word[2:]]
                break
            above, holder = holder, holder[word[2:]]
            within = field.target() if field is not None and field.wrap != "{}" and not field.scalar else None
        else:
            if not isinstance(holder, list) or field is None:
                return
            place = next((at for at, item in enumerate(holder) if _is_item(item, word, field)), None)
            if place is None:
                return
            if last:
                del holder[place]
                break
            above, holder = holder, holder[place]
    within_kept = any(other[: len(path) - 1] == path[:-1] for other in kept)
    if not holder and isinstance(above, dict) and len(path) > 2 and path[-2].startswith("f:") and not within_kept:
        del above[path[-2][2:]]


def _is_item(item: Any, word: str, field: FieldType) -> bool:
    if word.startswith("v:"):
        return "v:" + msgspec.json.encode(item).decode() == word
    return isinstance(item, dict) and item_key(item, field) == word
