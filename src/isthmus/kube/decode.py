"""Bytes of an API object -> our narrow type and the few metadata that a watch needs.

Invariants: an object counts only if it is of the expected kind and has a name (and a namespace, if its resource has
one); everything else raises `Undecodable`, which names the object as well as it can be known. The quick way is one
typed decode; only an object that fails it is looked at again without its nulls, because an API server may print null
for what is absent. Rejected: `T | None` on every field, which moves the test for null into every reader.
"""

import inspect
from typing import Any, Generic, TypeVar, cast

import msgspec

from isthmus.kube.errors import DECODE_ERRORS, BadAnswer, clip
from isthmus.kube.resources import Resource
from isthmus.kube.schema import KubeObject

T = TypeVar("T")

Key = tuple[str, str]
"""(namespace, name)."""


class Undecodable(BadAnswer):
    """One object cannot be understood; `name` is "Kind namespace/name" as far as known."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class Item(msgspec.Struct, Generic[T], frozen=True):
    """A decoded object and what the watch must know of it."""

    object: T
    key: Key
    resource_version: str


class ListHead(msgspec.Struct, frozen=True):
    """metav1.ListMeta."""

    resourceVersion: str | None = ""
    continue_token: str | None = msgspec.field(name="continue", default="")


class RawList(msgspec.Struct, frozen=True):
    """A list whose items are still bytes."""

    kind: str = ""
    metadata: ListHead = ListHead()
    items: list[msgspec.Raw] | None = None


class _TypedList(msgspec.Struct, Generic[T], frozen=True):
    kind: str = ""
    metadata: ListHead = ListHead()
    items: tuple[T, ...] | None = None


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """A page: its good items, and why each of the others was dropped."""

    items: tuple[Item[T], ...]
    resource_version: str
    continue_token: str
    dropped: tuple[Undecodable, ...] = ()


class _HeadMeta(msgspec.Struct, frozen=True, gc=False):
    name: str | None = ""
    namespace: str | None = ""
    resourceVersion: str | None = ""


class _Head(msgspec.Struct, frozen=True, gc=False):
    metadata: _HeadMeta
    kind: str | None = ""


_HEADS = msgspec.json.Decoder(_Head)


class Decoder(Generic[T]):
    """Decodes objects of one resource into `type`: a KubeObject, `dict`, or `msgspec.Raw` for the bytes.

    With `metadata_only` the server was asked for metadata alone, so any kind goes; one that cannot answers in full.
    """

    def __init__(self, resource: Resource, type: type[T], *, metadata_only: bool = False) -> None:
        self.resource = resource
        self.type = type
        self.metadata_only = metadata_only
        self._is_narrow = inspect.isclass(type) and issubclass(type, KubeObject)
        self._object = msgspec.json.Decoder(type)
        typed: Any = _TypedList
        self._page = msgspec.json.Decoder(typed[type]) if self._is_narrow else None

    def object(self, raw: bytes | msgspec.Raw) -> Item[T]:
        """Returns the object in `raw`. Raises Undecodable."""
        try:
            found = self._object.decode(raw)
        except DECODE_ERRORS as error:
            found = self._without_nulls(raw, error)
        if self._is_narrow:
            return self._checked(found)
        try:
            head = _HEADS.decode(raw)
        except DECODE_ERRORS as error:
            raise Undecodable(self.resource.kind, clip(str(error))) from error
        if self.type is cast("type[Any]", msgspec.Raw):
            found = cast(T, msgspec.Raw(bytes(raw)))  # a copy: the decoder's own keeps the whole page alive
        return self._item(found, head.kind, head.metadata)

    def page(self, body: bytes) -> Listing[T]:
        """Returns a page of a list; items that cannot be understood are dropped and reported.

        Raises BadAnswer if the page itself cannot be.
        """
        kind = f"{self.resource.kind}List"
        if self._page is not None:
            try:
                typed = self._page.decode(body)
                items = tuple([self._checked(found) for found in typed.items or ()])
            except (*DECODE_ERRORS, Undecodable):
                pass  # some item is bad: look at them one by one
            else:
                return self._listing(kind, typed.kind, typed.metadata, items, ())
        try:
            listed = msgspec.json.decode(body, type=RawList)
        except DECODE_ERRORS as error:
            raise BadAnswer(f"list of {self.resource}: {clip(str(error))}") from error
        good: list[Item[T]] = []
        dropped: list[Undecodable] = []
        for raw in listed.items or ():
            try:
                good.append(self.object(raw))
            except Undecodable as error:
                dropped.append(error)
        return self._listing(kind, listed.kind, listed.metadata, tuple(good), tuple(dropped))

    def _listing(
        self, expected: str, kind: str, head: ListHead, items: tuple[Item[T], ...], dropped: tuple[Undecodable, ...]
    ) -> Listing[T]:
        if kind != expected and not self.metadata_only:
            raise BadAnswer(f"list of {self.resource}: expected kind {expected}, got {clip(kind)!r}")
        return Listing(items, head.resourceVersion or "", head.continue_token or "", dropped)

    def _checked(self, found: Any) -> Item[T]:
        return self._item(found, found.kind, found.metadata)

    def _item(self, found: T, kind: str | None, meta: Any) -> Item[T]:
        name, namespace = meta.name or "", meta.namespace or ""
        if kind and kind != self.resource.kind and not self.metadata_only:
            problem = f"kind: expected {self.resource.kind}, got {clip(kind)!r}"
            raise Undecodable(self._spoken(namespace, name), problem)
        if not name:
            raise Undecodable(self.resource.kind, "metadata.name is missing")
        if bool(namespace) != self.resource.namespaced:
            problem = "is missing" if self.resource.namespaced else "is set, but the kind has no namespaces"
            raise Undecodable(self._spoken(namespace, name), f"metadata.namespace {problem}")
        return Item(found, (namespace, name), meta.resourceVersion or "")

    def _without_nulls(self, raw: bytes | msgspec.Raw, first: Exception) -> T:
        """Tries `raw` again with nulls taken out; if that fails too, the first error is the one to tell."""
        try:
            return msgspec.convert(_strip_nulls(msgspec.json.decode(raw)), self.type)
        except DECODE_ERRORS:
            raise Undecodable(self._name_of(raw), clip(str(first))) from first

    def _name_of(self, raw: bytes | msgspec.Raw) -> str:
        try:
            meta = _HEADS.decode(raw).metadata
        except DECODE_ERRORS:
            return self.resource.kind
        if not meta.name:
            return f"{self.resource.kind} in namespace {clip(meta.namespace)}" if meta.namespace else self.resource.kind
        return self._spoken(meta.namespace or "", meta.name)

    def _spoken(self, namespace: str, name: str) -> str:
        return f"{self.resource.kind} {clip(f'{namespace}/{name}' if namespace else name)}"


def _strip_nulls(value: Any) -> Any:
    """Returns `value` without dictionary entries that are null; nulls in lists stay, there they are wrong."""
    if isinstance(value, dict):
        return {key: _strip_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_strip_nulls(inner) for inner in value]
    return value
