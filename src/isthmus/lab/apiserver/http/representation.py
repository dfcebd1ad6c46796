"""In which form an answer is wanted, and objects in that form: plain JSON, Table, metadata only, or YAML.

Plain answers are put together from stored bytes without decoding anything. Tables and metadata are made per request.
Protobuf is not spoken: a client that accepts nothing else gets 406, as the real server answers for custom resources.
"""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.columns import columns_for
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.schema.kinds import Resource
from isthmus.lab.apiserver.storage.state import decode
from isthmus.lab.apiserver.storage.watchcache import Stored

META_GROUP = "meta.k8s.io"
_JSON = ("application/json", "application/*", "*/*")


class Form(msgspec.Struct, frozen=True):
    """The wanted form: `shape` is "", "Table" or "PartialObjectMetadata"; `media` is JSON's or YAML's type."""

    shape: str = ""
    media: str = "application/json"


def negotiate(accept: str) -> Form:
    """Returns the first form of an Accept header that can be made; raises 406 if there is none."""
    if not accept.strip():
        return Form()
    for clause in accept.split(","):
        media, *rest = [part.strip() for part in clause.split(";")]
        options = dict(part.partition("=")[::2] for part in rest)
        if media == "application/yaml" and "as" not in options:
            return Form(media=media)
        if media not in _JSON:
            continue
        shape = options.get("as", "")
        if not shape:
            return Form()
        known = shape in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")
        if known and options.get("g") == META_GROUP and options.get("v") == "v1":
            return Form(shape=shape.removesuffix("List"))
    raise errors.not_acceptable()


class Renderer:
    """Makes answers about one resource in one form."""

    def __init__(self, resource: Resource, form: Form, *, include: str, now: datetime.datetime) -> None:
        """`include` is the Table's includeObject: None, Metadata (also for ""), or Object."""
        self.resource = resource
        self.form = form
        self._include = include or "Metadata"
        self._now = now
        self._columns = columns_for(resource) if form.shape == "Table" else None
        self._headed = False
        if self._include not in ("None", "Metadata", "Object"):
            raise errors.bad_request(f'unrecognized includeObject value: "{include}"')

    def one(self, stored: Stored) -> bytes:
        """Returns a single object."""
        if not self.form.shape:
            return self.resource.prefix + self.resource.tail(stored)
        if self._columns is not None:
            return msgspec.json.encode(self._table([stored], {"resourceVersion": str(stored.version)}))
        return msgspec.json.encode(_partial(decode(self.resource, stored)))

    def many(self, objects: Sequence[Stored], metadata: Json) -> bytes:
        """Returns a list; `metadata` holds its resourceVersion, continue and remainingItemCount.

        Rows and items are encoded one by one, so that only one object at a time is held decoded.
        """
        if self._columns is not None:
            head = self._table([], metadata)
            rows = (msgspec.json.encode(self._row(stored)) for stored in objects)
            return _joined(head, "rows", rows)
        if self.form.shape:
            head = {"kind": "PartialObjectMetadataList", "apiVersion": f"{META_GROUP}/v1", "metadata": metadata}
            items = (msgspec.json.encode(_partial(decode(self.resource, stored))) for stored in objects)
            return _joined(head, "items", items)
        head = {"kind": self.resource.list_kind, "apiVersion": self.resource.api_version, "metadata": metadata}
        return _joined(head, "items", (b"{" + self.resource.tail(stored) for stored in objects))

    def event(self, kind: str, stored: Stored) -> bytes:
        """Returns a line of a watch."""
        if not self.form.shape:
            tail = self.resource.tail(stored)
            return b'{"type":"%s","object":%s%s}\n' % (kind.encode(), self.resource.prefix, tail)
        if self._columns is not None:
            self._now = datetime.datetime.now(datetime.UTC)
            table = self._table([stored], {"resourceVersion": str(stored.version)})
            if self._headed:
                table["columnDefinitions"] = None
            self._headed = True
            return msgspec.json.encode({"type": kind, "object": table}) + b"\n"
        return msgspec.json.encode({"type": kind, "object": _partial(decode(self.resource, stored))}) + b"\n"

    def bookmark(self, version: int, *, initial_end: bool = False) -> bytes:
        """Returns the line that says how far a watch has come."""
        metadata: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        value: Json = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata}
        if self._columns is not None:
            row = {"cells": [None for _ in self._columns.definitions], "object": _partial(value)}
            value = self._table([], {"resourceVersion": str(version)})
            value["rows"] = [row] if initial_end else []
        elif self.form.shape:
            value = _partial(value)
        return msgspec.json.encode({"type": "BOOKMARK", "object": value}) + b"\n"

    def _table(self, objects: Sequence[Stored], metadata: Json) -> Json:
        return {
            "kind": "Table",
            "apiVersion": f"{META_GROUP}/v1",
            "metadata": metadata,
            "columnDefinitions": self._columns.definitions if self._columns is not None else (),
            "rows": [self._row(stored) for stored in objects],
        }

    def _row(self, stored: Stored) -> Json:
        value = decode(self.resource, stored)
        row: Json = {"cells": self._columns.row(value, self._now) if self._columns is not None else []}
        if self._include == "Object":
            row["object"] = value
        elif self._include == "Metadata":
            row["object"] = _partial(value)
        return row


def _joined(head: Json, name: str, items: Iterable[bytes]) -> bytes:
    """Returns `head` as JSON with the encoded `items` as its last member."""
    rest = {key: item for key, item in head.items() if key != name}
    return b'%s,"%s":[%s]}' % (msgspec.json.encode(rest)[:-1], name.encode(), b",".join(items))


def _partial(value: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": f"{META_GROUP}/v1", "metadata": value["metadata"]}


def as_yaml(body: bytes) -> bytes:
    """Returns JSON as YAML."""
    import yaml  # late: few ask for it

    text: Any = yaml.safe_dump(msgspec.json.decode(body), sort_keys=False, allow_unicode=True)
    return str(text).encode()
