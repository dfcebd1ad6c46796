"""The shapes of API objects: one table of types from which decoding, patching, field ownership and OpenAPI all
follow.

The table is text (`types/*.txt`), because three hundred Python classes would cost megabytes in every idle lab server.
Lines are parsed when a type is first asked for. A type is a line `Name [#] [| description]` and indented fields
`name:type`, under a section `= package`:

    str int long bool num intstr qty time mtime bytes any     scalars
    Type   []T   {}T                                          object, list, map from string
    !  required, always written     *  pointer: its zero value is kept
    @a+b  list merged by key a in strategic merge, a map list with keys a and b in server-side apply
    @  (no keys) merged set of scalars      %a+b  map list in server-side apply only      %  set there only
    =2/1  field number in protobuf; with a slash, inside embedded messages that JSON does not show
    ~  strategic merge keeps only the keys that are sent ("retainKeys")      #  atomic

Field facts are those of the Kubernetes API, version 1.33. Loading the published OpenAPI document instead was
rejected: it is 4 MB of JSON, and lacks which fields are pointers.
"""

import functools
import re
from importlib import resources
from typing import Any

import msgspec

SCALARS = frozenset({"str", "int", "long", "bool", "num", "intstr", "qty", "time", "mtime", "bytes", "any"})
FILES = (
    "meta.txt",
    "core.txt",
    "pod.txt",
    "volume.txt",
    "groups.txt",
    "workloads.txt",
    "ingress.txt",
    "access.txt",
    "extensions.txt",
)
META = "io.k8s.apimachinery.pkg.apis.meta.v1"

_FIELD = re.compile(
    r"(?P<name>[A-Za-z0-9]+):(?P<wrap>\[\]|\{\})?(?P<type>[A-Za-z0-9]+)"
    r"(?P<required>!)?(?P<pointer>\*)?(?P<keyed>[@%][\w+]*)?(?P<required2>!)?(?P<retain>~)?(?P<atomic>#)?"
    r"(=(?P<numbers>\d+(/\d+)*))?"
)


class FieldType(msgspec.Struct, frozen=True):
    """One field: `wrap` is "", "[]" or "{}"; `type` a scalar or a type name as it is seen from `package`."""

    name: str
    type: str
    package: str
    wrap: str = ""
    required: bool = False
    pointer: bool = False
    atomic: bool = False
    retain_keys: bool = False
    merge_key: str | None = None  # strategic merge; "" for a merged list of scalars
    map_keys: tuple[str, ...] | None = None  # server-side apply; () for a set of scalars
    numbers: tuple[int, ...] = ()  # in protobuf, outermost first; none for what only JSON has

    @property
    def scalar(self) -> bool:
        """Tells whether the type (of the elements, if wrapped) is a scalar."""
        return self.type in SCALARS

    def target(self) -> "ObjectType":
        """Returns the object type that the field (or its elements) holds; KeyError for a scalar."""
        return find(self.type, package=self.package)

    def element(self) -> "FieldType":
        """Returns the field that an entry of this map is."""
        return _element(self)

    def key_default(self, key: str) -> Any:
        """Returns the value of a key of a map list where an item leaves it out, None if it has none."""
        return "TCP" if key == "protocol" else None

    def whole(self, value: Any) -> bool:
        """Tells whether `value` is owned and replaced as one, because of the field or because of its own type."""
        if self.atomic:
            return True
        if self.wrap == "[]":
            return not isinstance(value, list)
        return (self.wrap == "{}" or not self.scalar) and not isinstance(value, dict)


class ObjectType(msgspec.Struct, frozen=True):
    """An object with named fields."""

    name: str
    package: str
    fields: dict[str, FieldType]
    atomic: bool = False
    description: str = ""

    @property
    def full_name(self) -> str:
        """Returns the name that OpenAPI uses, e.g. `io.k8s.api.core.v1.Pod`."""
        return f"{self.package}.{self.name}"


@functools.cache
def _element(field: FieldType) -> FieldType:
    return msgspec.structs.replace(field, wrap="")


class _Source(msgspec.Struct, frozen=True):
    header: str
    body: str


@functools.cache
def _sources() -> dict[str, dict[str, _Source]]:
    """Returns package -> type name -> unparsed text."""
    found: dict[str, dict[str, _Source]] = {}
    package = ""
    for file in FILES:
        header, body = "", ""
        text = (resources.files(__package__) / "types" / file).read_text(encoding="ascii")
        for line in [*text.splitlines(), "="]:
            if line.startswith("#"):
                continue
            if line.startswith("  "):
                body += line
                continue
            if header:
                found.setdefault(package, {})[header.split()[0]] = _Source(header, body)
            header, body = "", ""
            if line.startswith("="):
                package = line[1:].strip()
            else:
                header = line
    return found


def _parse_field(text: str, package: str) -> FieldType:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f"type table: {text!r} is not a field")
    keyed = match["keyed"]
    keys = tuple(key for key in keyed[1:].split("+") if key) if keyed else None
    return FieldType(
        name=match["name"],
        type=match["type"],
        package=package,
        wrap=match["wrap"] or "",
        required=bool(match["required"] or match["required2"]),
        pointer=bool(match["pointer"]),
        atomic=bool(match["atomic"]),
        retain_keys=bool(match["retain"]),
        merge_key=(keys[0] if keys else "") if keyed and keyed[0] == "@" and keys is not None else None,
        map_keys=keys,
        numbers=tuple(int(number) for number in (match["numbers"] or "").split("/") if number),
    )


@functools.cache
def _load(package: str, name: str) -> ObjectType:
    source = _sources()[package][name]
    head, _, description = source.header.partition("|")
    fields = [_parse_field(text, package) for text in source.body.split()]
    return ObjectType(
        name=name,
        package=package,
        fields={field.name: field for field in fields},
        atomic="#" in head.split(),
        description=description.strip(),
    )


def find(name: str, *, package: str) -> ObjectType:
    """Returns the type called `name` as seen from `package`: its own first, then core, then meta.

    Raises KeyError if there is none.
    """
    for place in (package, "io.k8s.api.core.v1", META):
        if name in _sources().get(place, {}):
            return _load(place, name)
    raise KeyError(f"type table: no type {name!r} seen from {package!r}")


def names(package: str) -> list[str]:
    """Returns the names of all types of `package`."""
    return list(_sources().get(package, {}))
