"""GET requests to the API server from within a pod: lists and watches over HTTPS, with the pod's service account.

Invariants: token and authority are read anew for every request, because both are replaced while a pod lives; every
read has a bound in bytes and in time; a connection that has gone dead in silence is noticed within a minute (TCP
keep-alive). Rejected: one connection for everything, which needs HTTP/2 or pools; these are three requests.
"""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
"""Bytes of a page of a list."""
MAX_EVENT = 8 * 1024 * 1024
"""Bytes of an event; an object in etcd has at most 1.5 MiB."""
_CONNECT_LIMIT = 10.0
_LIST_LIMIT = 60.0
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""Seconds, seconds, probes."""


class ApiError(Exception):
    """The API server cannot be reached or does not answer as it should; `status` is 0 unless it gave one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Target:
    """Where the API server is, and the files with the credentials for it."""

    def __init__(self, host: str, port: int, *, token_file: str, ca_file: str) -> None:
        self.host = host
        self.port = port
        self._token_file = token_file
        self._ca_file = ca_file

    @classmethod
    def from_environment(cls, environment: dict[str, str] | None = None) -> "Target":
        """Returns what a pod is told; raises ApiError."""
        values = os.environ if environment is None else environment
        host, port = values.get("KUBERNETES_SERVICE_HOST", ""), values.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not (port.isascii() and port.isdigit()):
            raise ApiError(
                "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be "
                "defined"
            )
        return cls(host.strip("[]"), int(port), token_file=f"{ACCOUNT}/token", ca_file=f"{ACCOUNT}/ca.crt")

    def token(self) -> str:
        """Returns the token as it is now; raises ApiError."""
        try:
            with open(self._token_file) as file:
                token = file.read(MAX_HEAD).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ApiError(f"cannot read the token {self._token_file}: {error}") from error
        if not token.isascii() or not token.isprintable():
            raise ApiError(f"{self._token_file} is not a token")
        return token

    def tls(self) -> ssl.SSLContext:
        """Returns a context that trusts the cluster's authority as it is now; raises ApiError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(self._ca_file)
        except OSError as error:
            raise ApiError(f"cannot read the authority {self._ca_file}: {error}") from error
        return context


class Response:
    """A response whose body is still to be read."""

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self._headers = headers
        self._reader = reader

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the body; raises ApiError."""
        if self._headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                line = (await self._reader.readline()).partition(b";")[0].strip()
                try:
                    size = int(line, 16)
                except ValueError as error:
                    raise ApiError("the API server ended the connection") from error
                if not 0 <= size <= MAX_BODY:
                    raise ApiError("a chunk is too large")
                if size == 0:
                    return
                yield await self._reader.readexactly(size)
                await self._reader.readexactly(2)
        else:
            text = self._headers.get("content-length", "")
            left = int(text) if text.isascii() and text.isdigit() else MAX_BODY + 1
            while left > 0 and (piece := await self._reader.read(min(left, 65536))):
                left -= len(piece)
                yield piece

    async def json(self) -> Any:
        """Returns the body of a whole response; raises ApiError."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > MAX_BODY:
                raise ApiError(f"the answer is longer than {MAX_BODY} bytes")
        return decode(bytes(body))


class Request:
    """One GET; use it as a context, and read the response within."""

    def __init__(self, target: Target, path: str) -> None:
        self._target = target
        self._path = path
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Response:
        target = self._target
        try:
            async with asyncio.timeout(_CONNECT_LIMIT):
                reader, self._writer = await asyncio.open_connection(
                    target.host, target.port, ssl=target.tls(), limit=MAX_HEAD
                )
                connection = self._writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE:
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)
                host = f"[{target.host}]" if ":" in target.host else target.host
                self._writer.write(
                    f"GET {self._path} HTTP/1.1\r\nHost: {host}:{target.port}\r\nAuthorization: Bearer "
                    f"{target.token()}\r\nAccept: application/json\r\nUser-Agent: coredns-lab\r\n"
                    f"Connection: close\r\n\r\n".encode()
                )
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError as error:
            await self._close()
            raise ApiError("the API server does not answer") from error
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            await self._close()
            raise ApiError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            await self._close()
            raise
        return _response(head, reader)

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._writer is not None:
            # Not awaited: a server that does not answer the goodbye must not hold us.
            self._writer.transport.abort()
            self._writer = None


async def get(target: Target, path: str) -> Any:
    """Returns the JSON at a path; raises ApiError."""
    try:
        async with asyncio.timeout(_LIST_LIMIT), Request(target, path) as response:
            body = await response.json()
    except TimeoutError as error:
        raise ApiError("the API server does not answer") from error
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise ApiError(f"{type(error).__name__}: {error}") from error
    if response.status != 200:
        message = body.get("message", "") if isinstance(body, dict) else ""
        raise ApiError(f"the API server answers {response.status} {message}"[:500], response.status)
    return body


async def watch(target: Target, path: str, *, limit: float) -> AsyncIterator[Any]:
    """Yields events until the server ends the watch; raises ApiError. Gives up after `limit` seconds."""
    try:
        async with asyncio.timeout(limit), Request(target, path) as response:
            if response.status != 200:
                raise ApiError(f"the API server answers {response.status} to a watch", response.status)
            pending = bytearray()
            async for piece in response.pieces():
                pending += piece
                while (end := pending.find(b"\n")) >= 0:
                    line = bytes(pending[:end])
                    del pending[: end + 1]
                    if line.strip():
                        yield decode(line)
                if len(pending) > MAX_EVENT:
                    raise ApiError(f"an event is longer than {MAX_EVENT} bytes")
    except TimeoutError:
        return
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise ApiError(f"{type(error).__name__}: {error}") from error


def decode(data: bytes) -> Any:
    """Returns JSON; raises ApiError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the API server sends what is not JSON: {error}") from error


def _response(head: bytes, reader: asyncio.StreamReader) -> Response:
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not (words[1].isascii() and words[1].isdigit()):
        raise ApiError("the API server does not speak HTTP")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Response(int(words[1]), headers, reader)
