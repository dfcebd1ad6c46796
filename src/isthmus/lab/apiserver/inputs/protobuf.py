"""Request bodies in Kubernetes' protobuf, which kubectl's typed commands (`create namespace`, `create secret`) send.

Decoded by the field numbers of the type table into the same JSON shape as any other body, so that nothing behind
knows the difference. Only reading: every client that sends protobuf also accepts JSON. Generated modules were
rejected: they would be a second copy of the type table, and cost more memory than all the rest.
"""

import datetime
import functools
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.schema.typetable import FieldType, ObjectType, find

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"
_CORE = "io.k8s.api.core.v1"
_ZERO_TIME = -62135596800  # seconds of Go's zero time, which means "not set"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Tree = dict[int, "FieldType | Tree"]


class _MalformedError(ValueError):
    pass


def decode(body: bytes) -> Json:
    """Returns the object of a runtime.Unknown envelope, with kind and apiVersion; raises a 400 ApiError."""
    try:
        if not body.startswith(_MAGIC):
            raise _MalformedError("the prefix is missing")
        envelope = dict(_fields(memoryview(body)[len(_MAGIC) :]))
        meta = dict(_fields(_view(envelope.get(1, b""))))
        api_version, kind = _text(meta.get(1, b"")), _text(meta.get(2, b""))
        raw = _view(envelope.get(2, b""))
        if envelope.get(3):
            raise _MalformedError("the content is encoded")
        shape = find(kind, package=_package(api_version))
        value = _message(raw, shape)
    except (_MalformedError, UnicodeDecodeError, OverflowError, msgspec.DecodeError) as failure:
        raise errors.bad_request(f"error decoding protobuf body: {failure}") from failure
    except KeyError as failure:
        raise errors.bad_request(f"no kind {kind!r} is registered for version {api_version!r}") from failure
    return {**value, "kind": kind, "apiVersion": api_version}


def _package(api_version: str) -> str:
    group, slash, version = api_version.rpartition("/")
    return f"io.k8s.api.{group.split('.')[0]}.{version}" if slash else _CORE


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise _MalformedError("a number is cut short")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields (field number, value) in order of appearance."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise _MalformedError("a field is cut short")
        yield number, data[at : at + size]
        at += size


def _view(value: int | bytes | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _MalformedError("a number stands where bytes should be")
    return memoryview(value)


def _text(value: int | bytes | memoryview) -> str:
    return bytes(_view(value)).decode()


@functools.cache
def _tree(package: str, name: str) -> Tree:
    """Returns field number -> field, or the same of an embedded message."""
    tree: Tree = {}
    for field in find(name, package=package).fields.values():
        place = tree
        for number in field.numbers[:-1]:
            below = place.setdefault(number, {})
            if isinstance(below, dict):
                place = below
        if field.numbers:
            place[field.numbers[-1]] = field
    return tree


def _message(data: memoryview, shape: ObjectType) -> Json:
    value: Json = {}
    _read(data, _tree(shape.package, shape.name), value)
    return value


def _read(data: memoryview, tree: Tree, into: Json) -> None:
    for number, raw in _fields(data):
        field = tree.get(number)
        if field is None:
            continue  # a later version's field; the real server keeps none either
        if isinstance(field, dict):
            _read(_view(raw), field, into)
        elif field.wrap == "{}":
            entry = dict(_fields(_view(raw)))
            into.setdefault(field.name, {})[_text(entry.get(1, b""))] = _item(entry.get(2, b""), field)
        elif field.wrap == "[]":
            held = into.setdefault(field.name, [])
            if field.type in ("int", "long") and not isinstance(raw, int):
                held.extend(_packed(raw, field))
            else:
                held.append(_item(raw, field))
        else:
            item = _item(raw, field)
            if item is not None:
                into[field.name] = item


def _packed(data: memoryview, field: FieldType) -> Iterator[Any]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield _item(value, field)


def _item(raw: int | bytes | memoryview, field: FieldType) -> Any:
    match field.type:
        case "str":
            return _text(raw)
        case "bool":
            return bool(raw)
        case "int" | "long":
            number = raw if isinstance(raw, int) else 0
            return number - 2**64 if number >= 2**63 else number
        case "num":
            return struct.unpack("<d", _view(raw))[0] if len(_view(raw)) == 8 else None
        case "bytes":
            import base64  # late: only secrets and binary data

            return base64.b64encode(_view(raw)).decode()
        case "time" | "mtime":
            return _time(_view(raw), micro=field.type == "mtime")
        case "qty":
            return _text(dict(_fields(_view(raw))).get(1, b"0"))
        case "intstr":
            parts = dict(_fields(_view(raw)))
            return _text(parts.get(3, b"")) if parts.get(1) else _signed(parts.get(2, 0))
        case "any":
            content = dict(_fields(_view(raw))).get(1, b"")
            return msgspec.json.decode(_view(content)) if len(_view(content)) else None
    return _message(_view(raw), field.target())


def _signed(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _MalformedError("bytes stand where a number should be")
    return value - 2**64 if value >= 2**63 else value


def _time(data: memoryview, *, micro: bool) -> str | None:
    parts = dict(_fields(data))
    seconds, nanoseconds = _signed(parts.get(1, 0)), _signed(parts.get(2, 0))
    if seconds == _ZERO_TIME or not parts:
        return None
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{nanoseconds // 1000:06d}Z" if micro else f"{text}Z"
