"""A resource of the API as a list and a watch, kept in the directory.

`Progress` is the state machine: which request is next, what a page or an event means. Invariants: nothing is forgotten
before a new list is complete; a watch goes on from the last revision that was seen; 410 means a new list. Rejected:
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


class Resource(NamedTuple):
    """Where objects come from and where they go."""

    name: str
    path: str
    put: Callable[[dict[str, Any]], object]
    drop: Callable[[Key], None]
    keep: Callable[[set[Key]], None]


def resources(directory: Directory) -> tuple[Resource, ...]:
    """Returns what is followed for a directory."""

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

    def put_namespace(item: dict[str, Any]) -> None:
        key = data.key_of(item)
        if key is not None:
            directory.put_namespace(key[1])

    return (
        Resource("services", "/api/v1/services", put_service, directory.drop_service, directory.keep_services),
        Resource(
            "endpointslices", "/apis/discovery.k8s.io/v1/endpointslices", put_slice, directory.drop_slice,
            directory.keep_slices,
        ),
        Resource(
            "namespaces", "/api/v1/namespaces", put_namespace, lambda key: directory.drop_namespace(key[1]),
            lambda keys: directory.keep_namespaces({key[1] for key in keys}),
        ),
    )  # fmt: skip


class Progress:
    """How far the following of one resource has come."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.synced = False
        """Whether a whole list was read once."""
        self._version = ""
        self._token = ""
        self._seen: set[Key] = set()

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
        if self.watching:
            options = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}"
            return f"{self.resource.path}?{options}&resourceVersion={self._version}"
        more = f"&continue={_quoted(self._token)}" if self._token else ""
        return f"{self.resource.path}?limit={PAGE}{more}"

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

    def restart(self) -> None:
        """Begins with a new list; what is known stays until it is complete."""
        self._version = self._token = ""
        self._seen = set()


def _quoted(text: str) -> str:
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b"-_.~" else f"%{byte:02X}"
        for byte in text.encode(errors="replace")
    )
