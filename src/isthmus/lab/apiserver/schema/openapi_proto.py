"""The version 2 document as protobuf, which is the only form in which client-go asks for it.

The message is gnostic's `openapi.v2.Document`. It is written field by field from the JSON document: a generated
module would be the largest file of this package, for a document that kubectl reads only where it finds no version 3.
"""

from collections.abc import Iterable

import msgspec

from isthmus.lab.apiserver.errors import Json

MEDIA_TYPE = (
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"  # what is asked for has an @, which is no MIME type
)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, body: bytes) -> bytes:
    """Returns a length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _text(number: int, value: str | None) -> bytes:
    return _message(number, value.encode()) if value else b""


def _flag(number: int, value: object) -> bytes:
    return _varint(number << 3) + b"\x01" if value else b""


def _named(number: int, name: str, body: bytes) -> bytes:
    """Returns a NamedX entry: its name, and the message."""
    return _message(number, _text(1, name) + _message(2, body))


def _extensions(number: int, value: Json) -> bytes:
    """Returns the x- members as NamedAny, whose value is YAML; JSON is YAML."""
    out = b""
    for name, item in value.items():
        if name.startswith("x-"):
            out += _named(number, name, _text(2, msgspec.json.encode(item).decode()))
    return out


def _type(number: int, value: Json) -> bytes:
    return _message(number, _text(1, value["type"])) if "type" in value else b""


def _schema(value: Json) -> bytes:
    out = _text(1, value.get("$ref")) + _text(2, value.get("format")) + _text(4, value.get("description"))
    out += b"".join(_text(19, name) for name in value.get("required", ()))
    if isinstance(value.get("additionalProperties"), dict):
        out += _message(21, _message(1, _schema(value["additionalProperties"])))
    out += _type(22, value)
    if "items" in value:
        out += _message(23, _message(1, _schema(value["items"])))
    if "properties" in value:
        held = (_named(1, name, _schema(item)) for name, item in value["properties"].items())
        out += _message(25, b"".join(held))
    return out + _extensions(31, value)


def _parameter(value: Json) -> bytes:
    """Returns a ParametersItem: a body parameter, or one of path or query."""
    if value["in"] == "body":
        body = _text(2, value["name"]) + _text(3, "body") + _flag(4, value.get("required"))
        return _message(1, _message(1, body + _message(5, _schema(value["schema"]))))
    common = _flag(1, value.get("required")) + _text(2, value["in"])
    if value["in"] == "path":
        return _message(1, _message(2, _message(4, common + _text(4, value["name"]) + _text(5, "string"))))
    return _message(1, _message(2, _message(3, common + _text(4, value["name"]) + _text(6, "string"))))


def _parameters(number: int, values: Iterable[Json]) -> bytes:
    return b"".join(_message(number, _parameter(value)) for value in values)


def _operation(value: Json) -> bytes:
    out = _text(5, value.get("operationId")) + b"".join(_text(7, media) for media in value.get("consumes", ()))
    out += _parameters(8, value.get("parameters", ()))
    responses = b""
    for code, response in value["responses"].items():
        responses += _named(1, code, _message(1, _text(1, response["description"])))
    return out + _message(9, responses) + _extensions(13, value)


def _path(value: Json) -> bytes:
    numbers = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}
    out = b"".join(_message(number, _operation(value[name])) for name, number in numbers.items() if name in value)
    return out + _parameters(9, value.get("parameters", ()))


def encode(document: Json) -> bytes:
    """Returns a version 2 document as protobuf."""
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    paths = b"".join(_named(2, name, _path(value)) for name, value in document["paths"].items())
    definitions = b"".join(_named(1, name, _schema(value)) for name, value in document["definitions"].items())
    return _text(1, document["swagger"]) + _message(2, info) + _message(8, paths) + _message(9, definitions)
