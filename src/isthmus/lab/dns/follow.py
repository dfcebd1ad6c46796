"""A resource of the API as a list and a watch, kept in the directory.

`Progress` is the state machine: which request is next, what a page or an event means. Invariants: nothing is forgotten
before a new list is complete; a watch goes on from the last revision that was seen; 410 means a new list. A resource
that may be missing (ServiceImports are of a definition) is empty while it is, and looked for again. Rejected:
`sendInitialEvents`, which older API servers do not have.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from isthmus.lab.dns import data
from isthmus.lab.dns.data import Key
from isthmus.lab.dns.directory import Directory

PAGE = 250
"""Objects of one page: what is decoded at a time."""
WATCH_SECONDS = 300
_GONE = 410
_NOT_FOUND = 404


class Resource(NamedTuple):
    """Where objects come from and where they go."""

    name: str
    path: str
    put: Callable[[dict[str, Any]], object]
    drop: Callable[[Key], None]
    keep: Callable[[set[Key]], None]
    others: tuple[str, ...] | None = None
    """Paths of other versions; not None for a resource that may be missing."""


def imports(directory: Directory) -> Resource:
    """Returns what else is followed for a directory of ServiceImports."""

    def put(item: dict[str, Any]) -> None:
        found = data.service_import(item)
        if found is not None:
            directory.put_service(found)
        elif (key := data.key_of(item)) is not None:
            directory.drop_service(key)

    first, *others = (f"/apis/multicluster.x-k8s.io/{version}/serviceimports" for version in ("v1beta1", "v1alpha1"))
    return Resource("serviceimports", first, put, directory.drop_service, directory.keep_services, others=tuple(others))


def resources(directory: Directory, imported: Directory | None = None) -> tuple[Resource, ...]:
    """Returns what is followed for a directory, and for one of ServiceImports if there is one."""

    def put_service(item: dict[str, Any]) -> None:
        found = data.service(item)
        if found is not None:
            directory.put_service(found)
        elif (key := data.key_of(item)) is not None:
            directory.drop_service(key)

    def put_slice(item: dict[str, Any]) -> None:
        found = data.endpoint_slice(item)
        if found is not None:
            directory.put_slice(found)
        elif (key := data.key_of(item)) is not None:
            directory.drop_slice(key)
        if imported is None:
            return
        found = data.imported_slice(item)
        if found is not None:
            imported.put_slice(found)
        elif (key := data.key_of(item)) is not None:
            imported.drop_slice(key)

    def drop_slice(key: Key) -> None:
        directory.drop_slice(key)
        if imported is not None:
            imported.drop_slice(key)

    def keep_slices(keys: set[Key]) -> None:
        directory.keep_slices(keys)
        if imported is not None:
            imported.keep_slices(keys)

    def put_namespace(item: dict[str, Any]) -> None:
        key = data.key_of(item)
        if key is not None:
            directory.put_namespace(key[1])

    found = (
        Resource("services", "/api/v1/services", put_service, directory.drop_service, directory.keep_services),
        Resource(
            "endpointslices", "/apis/discovery.k8s.io/v1/endpointslices", put_slice, drop_slice, keep_slices,
        ),
        Resource(
            "namespaces", "/api/v1/namespaces", put_namespace, lambda key: directory.drop_namespace(key[1]),
            lambda keys: directory.keep_namespaces({key[1] for key in keys}),
        ),
    )  # fmt: skip
    return found if imported is None else (*found, imports(imported))


class Progress:
    """How far the following of one resource has come."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.synced = False
        """Whether a whole list was read once."""
        self._version = ""
        self._token = ""
        self._seen: set[Key] = set()
        self._paths = (resource.path, *(resource.others or ()))
        self._at = 0
        self._absent = 0
        """How many of the paths in a row are not there."""

    @property
    def missing(self) -> bool:
        """Whether the server does not have the resource, which it need not."""
        return self._absent >= len(self._paths)

    @property
    def watching(self) -> bool:
        """Whether the next request is a watch."""
        return bool(self._version)

    @property
    def listing(self) -> bool:
        """Whether the next request is for another page."""
        return bool(self._token)

    def request(self) -> str:
        """Returns the path of the next request."""
        path = self._paths[self._at]
        if self.watching:
            options = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}"
            return f"{path}?{options}&resourceVersion={self._version}"
        more = f"&continue={_quoted(self._token)}" if self._token else ""
        return f"{path}?limit={PAGE}{more}"

    def page(self, body: Any) -> None:
        """Takes a page of a list."""
        if not isinstance(body, dict):
            self.restart()
            return
        meta = body.get("metadata")
        meta = meta if isinstance(meta, dict) else {}
        items = body.get("items")
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and (key := data.key_of(item)) is not None:
                self._seen.add(key)
                self.resource.put(item)
        token, version = meta.get("continue"), meta.get("resourceVersion")
        self._token = token if isinstance(token, str) else ""
        if self._token:
            return
        self.resource.keep(self._seen)
        self._seen = set()
        self._absent = 0
        self._version = version if isinstance(version, str) and version.isalnum() else ""
        self.synced = self.synced or bool(self._version)

    def event(self, body: Any) -> None:
        """Takes an event of a watch."""
        kind, item = (body.get("type"), body.get("object")) if isinstance(body, dict) else (None, None)
        if not isinstance(item, dict) or kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"):
            return
        if kind == "ERROR":
            self.failed(item["code"] if type(item.get("code")) is int else 0)
            return
        meta = item.get("metadata")
        version = meta.get("resourceVersion") if isinstance(meta, dict) else None
        if isinstance(version, str) and version.isalnum():
            self._version = version
        if kind in ("ADDED", "MODIFIED"):
            self.resource.put(item)
        elif kind == "DELETED" and (key := data.key_of(item)) is not None:
            self.resource.drop(key)

    def failed(self, status: int) -> None:
        """Takes the failure of a request: with 410 the revision or the page is gone, so the list begins anew."""
        if status == _GONE or (self._token and 400 <= status < 500):
            self.restart()
        elif status == _NOT_FOUND and self.resource.others is not None:
            self.restart()
            self._at = (self._at + 1) % len(self._paths)
            self._absent += 1
            if self.missing:
                self.resource.keep(set())
                self.synced = True

    def restart(self) -> None:
        """Begins with a new list; what is known stays until it is complete."""
        self._version = self._token = ""
        self._seen = set()


def _quoted(text: str) -> str:
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b"-_.~" else f"%{byte:02X}"
        for byte in text.encode(errors="replace")
    )
