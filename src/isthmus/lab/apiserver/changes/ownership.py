"""Who set which field: sets of field paths, and the `managedFields` entries that hold them.

A path is a tuple of the words that FieldsV1 uses: `f:name` for a field or map key, `k:{...}` for an item of a map
list, `v:...` for a member of a set (reference: KEP-555, structured-merge-diff). Leaves carry their values, so that
two objects are compared by comparing two dictionaries. The lists and maps that are atomic come from the type table.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.schema.typetable import FieldType, ObjectType

Path = tuple[str, ...]
Leaves = dict[Path, Any]

ITEM = object()
"""The value of the path of an item itself, of a map list or a map of objects: its presence, whatever it holds."""

_UNOWNED = frozenset(
    ("f:metadata", f"f:{name}")
    for name in (
        "name namespace uid selfLink resourceVersion generation creationTimestamp deletionTimestamp "
        "deletionGracePeriodSeconds generateName managedFields"
    ).split()
)


class Manager(msgspec.Struct, frozen=True):
    """One entry: a writer and the paths it owns. `operation` is Apply or Update; `time` is RFC 3339 text."""

    name: str
    operation: str
    api_version: str
    subresource: str
    time: str
    paths: frozenset[Path]

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Returns what makes two entries the same writer."""
        return (self.name, self.operation, self.api_version, self.subresource)

    def with_paths(self, paths: frozenset[Path]) -> "Manager":
        """Returns the entry with other paths."""
        return msgspec.structs.replace(self, paths=paths)


def item_key(item: Json, field: FieldType) -> str | None:
    """Returns the path word of an item of a map list, None if a key is missing."""
    keys = {}
    if not isinstance(item, dict):
        return None
    for key in field.map_keys or ():
        value = item.get(key, field.key_default(key))
        if value is None:
            return None
        keys[key] = value
    return "k:" + msgspec.json.encode(keys, order="sorted").decode()


def leaves(value: Json, shape: ObjectType) -> Leaves:
    """Returns every owned path of an object with its value; names, versions and times of the server are left out."""
    found: Leaves = {}
    for name, item in value.items():
        if name in ("kind", "apiVersion"):
            continue
        field = shape.fields.get(name)
        if field is not None:
            _visit(item, field, (f"f:{name}",), found)
    for path in [path for path in found if path[:2] in _UNOWNED]:
        del found[path]
    found.pop(("f:metadata",), None)
    return found


def _visit(value: Any, field: FieldType, path: Path, found: Leaves) -> None:
    if not value or field.whole(value):
        found[path] = value
    elif field.wrap == "{}":
        element = field.element()
        for key, item in value.items():
            below = (*path, f"f:{key}")
            if item and not element.scalar and not element.whole(item):
                found[below] = ITEM
            _visit(item, element, below, found)
    elif field.wrap == "[]":
        _visit_list(value, field, path, found)
    elif field.scalar or field.target().atomic:
        found[path] = value
    else:
        _visit_object(value, field.target(), path, found)


def _visit_object(value: Json, shape: ObjectType, path: Path, found: Leaves) -> None:
    for name, item in value.items():
        field = shape.fields.get(name)
        if field is not None:
            below = (*path, f"f:{name}")
            if item and not field.name and isinstance(item, dict):  # a field that the type leaves open, as in a map
                found[below] = ITEM
            _visit(item, field, below, found)


def _visit_list(value: list[Any], field: FieldType, path: Path, found: Leaves) -> None:
    if field.map_keys is None:
        found[path] = value
        return
    for item in value:
        if not field.map_keys:
            found[*path, "v:" + msgspec.json.encode(item).decode()] = ITEM
            continue
        word = item_key(item, field)
        if word is not None:
            found[*path, word] = ITEM
            _visit_object(item, field.target(), (*path, word), found)


def encode_paths(paths: Iterable[Path]) -> Json:
    """Returns the FieldsV1 tree of a set of paths."""
    tree: Json = {}
    for path in sorted(paths):
        place = tree
        for word in path:
            place = place.setdefault(word, {})
        place["."] = {}
    return _prune(tree)


def _prune(tree: Json) -> Json:
    """A node with nothing below it is written as {}, without the dot."""
    if tree.keys() == {"."}:
        return {}
    return {word: {} if word == "." else _prune(below) for word, below in tree.items()}


def decode_paths(tree: Any, path: Path = ()) -> set[Path]:
    """Returns the paths of a FieldsV1 tree; what is malformed is left out."""
    if not isinstance(tree, dict) or len(path) > 64:
        return set()
    if not tree:
        return {path} if path else set()
    found: set[Path] = set()
    for word, below in tree.items():
        if word == ".":
            found.add(path)
        else:
            found |= decode_paths(below, (*path, word))
    return found


def read_managers(metadata: Json) -> list[Manager]:
    """Returns the entries of `metadata.managedFields`."""
    return [
        Manager(
            name=entry.get("manager", ""),
            operation=entry.get("operation", ""),
            api_version=entry.get("apiVersion", ""),
            subresource=entry.get("subresource", ""),
            time=entry.get("time", ""),
            paths=frozenset(decode_paths(entry.get("fieldsV1"))),
        )
        for entry in metadata.get("managedFields", ())
        if entry.get("operation") in ("Apply", "Update")
    ]


def write_managers(metadata: Json, managers: Iterable[Manager]) -> None:
    """Stores the entries that own anything in `metadata`, Apply first, then by time, as the real server does."""
    entries = []
    kept = [manager for manager in managers if manager.paths]
    for manager in sorted(kept, key=lambda manager: (manager.operation, manager.time, manager.name)):
        entry: Json = {"manager": manager.name, "operation": manager.operation, "apiVersion": manager.api_version}
        if manager.time:
            entry["time"] = manager.time
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": encode_paths(manager.paths)}
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    if entries:
        metadata["managedFields"] = entries
    else:
        metadata.pop("managedFields", None)


def shown(path: Path) -> str:
    """Returns a path as errors show it, e.g. `.spec.containers[name="web"].image`."""
    text = ""
    for word in path:
        if word.startswith("f:"):
            text += f".{word[2:]}"
        elif word.startswith("k:"):
            keys = msgspec.json.decode(word[2:])
            text += "[" + ",".join(f"{key}={msgspec.json.encode(value).decode()}" for key, value in keys.items()) + "]"
        else:
            text += f"[={word[2:]}]"
    return text


def after_update(managers: list[Manager], *, old: Leaves, new: Leaves, writer: Manager) -> list[Manager]:
    """Returns the entries after a plain write: what changed is the writer's alone, what went is nobody's."""
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    removed = old.keys() - new.keys()
    if not changed and not removed:
        return managers
    result = []
    own = frozenset(changed)
    for manager in managers:
        if manager.identity == writer.identity:
            own |= manager.paths - removed
        else:
            result.append(manager.with_paths(manager.paths - removed - changed))
    result.append(writer.with_paths(own))
    return [manager for manager in result if manager.paths]
