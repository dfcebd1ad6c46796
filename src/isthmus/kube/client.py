"""The verbs of the Kubernetes API over one HTTP session.

Invariants: a request ends in a decoded answer or in one of our errors (`isthmus.kube.errors`); one refused credential
(401) is renewed once, and the request sent again; redirects are not followed, because they would carry credentials
away; answers are bounded; every request but a watch has a time limit. Nothing is retried here: whether it may be is
the caller's to know. Rejected: methods per kind; a `Resource` and a type say the same, and also for CRDs.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from isthmus import __version__
from isthmus.kube.access import Access
from isthmus.kube.auth import Authenticator, Credential, authenticator
from isthmus.kube.decode import Decoder, Listing
from isthmus.kube.errors import BadAnswer, ConnectionFailed, KubeError, clip, error_from_body
from isthmus.kube.resources import Resource
from isthmus.kube.tls import client_context

T = TypeVar("T")
Params = Mapping[str, str]

MAX_BODY = 256 << 20
"""Bytes of one answer, inflated: a page of 500 objects of half a MiB."""

MAX_ERROR_BODY = 1 << 20
PAGE_SIZE = 500
"""Objects a page: some 4 ms of decoding in the loop at a time."""

CONNECT_LIMIT = 10.0
JSON = "application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
"""How metadata alone is asked for; a server that does not know how gives the whole objects."""

REQUEST_LIMIT = 60.0
"""Seconds; the API server ends ordinary requests after 60 s itself."""


class Patch(Enum):
    """Patch types by their media type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"  # JSON is YAML


class Client:
    """One API server; use as an async context manager.

    `compress` asks for gzip: right across a WAN, a waste of CPU on a LAN.
    """

    def __init__(
        self,
        access: Access,
        *,
        compress: bool = False,
        user_agent: str = f"isthmus/{__version__}",
        auth: Authenticator | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.access = access
        self._auth = auth or authenticator(access, clock=clock)
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "gzip" if compress else "identity"}
        self._impersonation = _impersonation_headers(access)
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None
        self._context_of: Credential | None = None

    async def __aenter__(self) -> "Client":
        # Each watch holds a connection, so the connector's own limit of 100 would be a deadlock waiting to happen.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=1 << 20,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get(
        self,
        resource: Resource,
        name: str,
        *,
        type: type[T],
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> T:
        """Returns one object. Raises NotFound."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self._object("GET", path, resource, type)

    async def list_pages(
        self,
        resource: Resource,
        *,
        type: type[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = PAGE_SIZE,
        metadata_only: bool = False,
    ) -> AsyncGenerator[Listing[T], None]:
        """Yields the collection in pages of `limit` objects (0: all at once), as one consistent snapshot.

        `metadata_only` asks for nothing else. Raises Expired when the snapshot was compacted away between two pages.
        """
        decoder = Decoder(resource, type, metadata_only=metadata_only)
        params = _selectors(label_selector, field_selector)
        if limit:
            params["limit"] = str(limit)
        path = resource.path(namespace=namespace)
        seen: set[str] = set()
        while True:
            body = await self.raw("GET", path, params=params, accept=PARTIAL_LIST if metadata_only else JSON)
            page = _located(partial(decoder.page, body), "GET", path)
            yield page
            token = page.continue_token
            if not token:
                return
            if token in seen:
                raise BadAnswer(f"GET {path}: the server gave the same continue token twice")
            seen.add(token)
            params["continue"] = token

    async def list_all(
        self,
        resource: Resource,
        *,
        type: type[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> list[T]:
        """Returns every object of the collection that can be understood."""
        pages = self.list_pages(
            resource, type=type, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )
        return [item.object async for page in pages for item in page.items]

    async def create(
        self,
        resource: Resource,
        body: Any,
        *,
        type: type[T],
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
    ) -> T:
        """Creates `body` (a struct, a dict or bytes) and returns what was stored.

        `name` is only for subresources, such as the `binding` of a pod. Raises AlreadyExists.
        """
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self._object("POST", path, resource, type, body=_encoded(body), checked=subresource is None)

    async def replace(
        self,
        resource: Resource,
        name: str,
        body: Any,
        *,
        type: type[T],
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> T:
        """Replaces an object and returns what was stored. Raises Conflict if its resourceVersion is not current."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self._object("PUT", path, resource, type, body=_encoded(body), checked=subresource is None)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Any,
        *,
        type: type[T],
        kind: Patch = Patch.MERGE,
        namespace: str | None = None,
        subresource: str | None = None,
        field_manager: str | None = None,
        force: bool = False,
    ) -> T:
        """Patches an object and returns it; `field_manager` (needed) and `force` are for Patch.APPLY."""
        params = {"fieldManager": field_manager} if field_manager else {}
        if force:
            params["force"] = "true"
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self._object(
            "PATCH",
            path,
            resource,
            type,
            body=_encoded(body),
            media=kind.value,
            params=params,
            checked=subresource is None,
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        grace_period: int | None = None,
        propagation: str | None = None,
    ) -> bytes:
        """Deletes an object. `uid` deletes only that very object (Conflict otherwise); `grace_period` is in seconds.

        `propagation` is Foreground, Background or Orphan. Returns what the server says: the object if something still
        holds it, else a Status or its last state. Raises NotFound.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_period is not None:
            options["gracePeriodSeconds"] = grace_period
        if propagation is not None:
            options["propagationPolicy"] = propagation
        path = resource.path(namespace=namespace, name=name)
        return await self.raw("DELETE", path, body=msgspec.json.encode(options))

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        media: str = "application/json",
        accept: str = "application/json",
        time_limit: float = REQUEST_LIMIT,
    ) -> bytes:
        """Sends one request and returns the body of a 2xx answer. Raises ApiError, ConnectionFailed, BadAnswer."""
        try:
            async with (
                asyncio.timeout(time_limit),
                self._request(method, path, params=params, body=body, media=media, accept=accept) as response,
            ):
                return await _read_bounded(response, MAX_BODY, f"{method} {path}")
        except TimeoutError as error:
            raise ConnectionFailed(f"{method} {path}: no answer in {time_limit:g} s") from error

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, params: Params | None = None, accept: str = JSON, time_limit: float = REQUEST_LIMIT
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Opens a GET whose body is read as it comes; `time_limit` (seconds) is for the opening alone."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(time_limit):
                    response = await stack.enter_async_context(self._request("GET", path, params=params, accept=accept))
            except TimeoutError as error:
                raise ConnectionFailed(f"GET {path}: no answer in {time_limit:g} s") from error
            try:
                yield response.content
            finally:
                # A stream is never read to its end, so its connection is of no further use.
                response.close()

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        media: str = "application/json",
        accept: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is not open: use it in `async with`")
        url = URL(self.access.server + path + (f"?{urlencode(params)}" if params else ""), encoded=True)
        credential = await self._auth.credential()
        for renewed in (False, True):
            headers = self._impersonation.copy()
            headers["Accept"] = accept
            if credential.authorization:
                headers["Authorization"] = credential.authorization
            if body is not None:
                headers["Content-Type"] = media
            context = await self._ssl(credential)
            try:
                response = await self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    ssl=True if context is None else context,
                    server_hostname=self.access.tls.server_name if context is not None else None,
                    proxy=self.access.proxy,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT),
                )
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise ConnectionFailed(f"{method} {self.access.server}{path}: {_spoken(error)}") from error
            if response.status == 401 and not renewed:
                fresh = await self._renewed(credential, response)
                if fresh is not None:
                    credential = fresh
                    continue
            break
        async with response:
            if not 200 <= response.status < 300:
                await _raise_for(response, f"{method} {path}")
            yield response

    async def _renewed(self, credential: Credential, response: aiohttp.ClientResponse) -> Credential | None:
        """Returns a better credential than the one refused, or None; releases `response` if there is one."""
        try:
            fresh = await self._auth.credential(rejected=credential)
        except BaseException:
            response.close()
            raise
        if fresh == credential:
            return None
        response.close()
        return fresh

    async def _ssl(self, credential: Credential) -> ssl.SSLContext | None:
        """Returns the context for `credential`, made again only when its certificate changed."""
        made_for = self._context_of
        if made_for is None or (made_for.certificate, made_for.key) != (credential.certificate, credential.key):
            if self.access.server.startswith("https:"):
                # In a thread: reading the system's roots takes tens of milliseconds.
                self._context = await asyncio.to_thread(
                    client_context, self.access, certificate=credential.certificate, key=credential.key
                )
            self._context_of = credential
        return self._context

    async def _object(
        self,
        method: str,
        path: str,
        resource: Resource,
        type: type[T],
        *,
        body: bytes | None = None,
        media: str = "application/json",
        params: Params | None = None,
        checked: bool = True,
    ) -> T:
        answer = await self.raw(method, path, params=params, body=body, media=media)
        if not checked and type is not msgspec.Raw:
            # A subresource may answer with another kind (Scale, Status, Binding).
            return _located(lambda: msgspec.json.decode(answer, type=type), method, path)
        return _located(lambda: Decoder(resource, type).object(answer).object, method, path)


def _located(decode: Callable[[], T], method: str, path: str) -> T:
    try:
        return decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError, BadAnswer) as error:
        raise BadAnswer(f"{method} {path}: {clip(str(error))}") from error


async def _raise_for(response: aiohttp.ClientResponse, where: str) -> None:
    try:
        body = await _read_bounded(response, MAX_ERROR_BODY, where)
    except KubeError:
        body = b""
    if 300 <= response.status < 400:
        raise BadAnswer(f"{where}: the server redirects (HTTP {response.status}), which is not followed")
    after = response.headers.get("Retry-After", "")
    raise error_from_body(response.status, body, retry_after=float(after) if after.isdecimal() else None)


async def _read_bounded(response: aiohttp.ClientResponse, limit: int, where: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > limit:
                response.close()
                raise BadAnswer(f"{where}: the answer is longer than {limit} bytes")
            pieces.append(piece)
    except (aiohttp.ClientError, OSError) as error:
        raise ConnectionFailed(f"{where}: {_spoken(error)}") from error
    return b"".join(pieces)


def _spoken(error: Exception) -> str:
    """Returns what an error says, or its name: some of aiohttp's and asyncio's say nothing."""
    if type(error) is aiohttp.ClientConnectorError:
        # Around what the system says it tells of objects of this process.
        return clip(error.os_error.strerror or str(error.os_error))
    return clip(str(error)) or type(error).__name__


def _encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else msgspec.json.encode(body)


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    params = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params


def _impersonation_headers(access: Access) -> CIMultiDict[str]:
    """Returns the headers that ask to act as somebody else; groups and extra values repeat their header."""
    who = access.impersonation
    headers: CIMultiDict[str] = CIMultiDict()
    if who.user:
        headers.add("Impersonate-User", who.user)
    if who.uid:
        headers.add("Impersonate-Uid", who.uid)
    for group in who.groups:
        headers.add("Impersonate-Group", group)
    for key, values in who.extra:
        for value in values:
            headers.add(f"Impersonate-Extra-{quote(key, safe='')}", value)
    return headers
