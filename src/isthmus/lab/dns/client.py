"""GET requests to the API server from within a pod: lists and watches over HTTPS, with the pod's service account.

Invariants: token and authority are read anew for every request, because both are replaced while a pod lives; every
read has a bound in bytes and in time; a connection that has gone dead in silence is noticed within a minute (TCP
keep-alive). Blocking, for a thread to each resource: asyncio alone would be half of this process's memory. Rejected:
one connection for everything, which needs HTTP/2 or pools; these are three requests.
"""

import io
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
"""Bytes of a page of a list."""
MAX_EVENT = 8 * 1024 * 1024
"""Bytes of an event; an object in etcd has at most 1.5 MiB."""
_PIECE = 64 * 1024
_HEX = frozenset(b"0123456789abcdefABCDEF")
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

    def __init__(self, status: int, headers: dict[str, str], stream: io.BufferedIOBase) -> None:
        self.status = status
        self._headers = headers
        self._stream = stream

    def pieces(self) -> Iterator[bytes]:
        """Yields the body as it comes; raises ApiError, OSError."""
        if self._headers.get("transfer-encoding", "").lower() != "chunked":
            text = self._headers.get("content-length", "")
            left = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else MAX_BODY + 1
            while left > 0 and (piece := self._stream.read1(min(left, _PIECE))):
                left -= len(piece)
                yield piece
            return
        while True:
            line = self._stream.readline(MAX_HEAD).partition(b";")[0].strip()
            if not line or len(line) > 8 or not set(line) <= _HEX:
                raise ApiError("the API server ended the connection")
            size = int(line, 16)
            if size > MAX_BODY:
                raise ApiError("a chunk is too large")
            if size == 0:
                return
            data = self._stream.read(size + 2)
            if len(data) < size + 2:
                raise ApiError("the API server ended the connection")
            yield data[:-2]

    def json(self, *, limit: float) -> Any:
        """Returns the body of a whole response that comes within `limit` seconds; raises ApiError, OSError."""
        deadline = time.monotonic() + limit
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > MAX_BODY:
                raise ApiError(f"the answer is longer than {MAX_BODY} bytes")
            if time.monotonic() > deadline:
                raise ApiError("the API server does not answer in time")
        return decode(bytes(body))


class Request:
    """One GET; use it as a context, and read the response within. `patience` is for silence, in seconds."""

    def __init__(self, target: Target, path: str, *, patience: float) -> None:
        self._target = target
        self._path = path
        self._patience = patience
        self._socket: ssl.SSLSocket | None = None

    def __enter__(self) -> Response:
        target = self._target
        try:
            plain = socket.create_connection((target.host, target.port), timeout=_CONNECT_LIMIT)
            with plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE:
                    plain.setsockopt(socket.IPPROTO_TCP, option, value)
                self._socket = target.tls().wrap_socket(plain, server_hostname=target.host)
            host = f"[{target.host}]" if ":" in target.host else target.host
            self._socket.sendall(
                f"GET {self._path} HTTP/1.1\r\nHost: {host}:{target.port}\r\nAuthorization: Bearer {target.token()}\r\n"
                f"Accept: application/json\r\nUser-Agent: coredns-lab\r\nConnection: close\r\n\r\n".encode()
            )
            stream = io.BufferedReader(self._socket.makefile("rb", buffering=0), _PIECE)
            lines = _head(stream)
            self._socket.settimeout(self._patience)
            return _response(lines, stream)
        except BaseException:
            self._close()
            raise

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def get(target: Target, path: str) -> Any:
    """Returns the JSON at a path; raises ApiError."""
    try:
        with Request(target, path, patience=_LIST_LIMIT) as response:
            body = response.json(limit=_LIST_LIMIT)
    except (OSError, ValueError) as error:
        raise ApiError(f"{type(error).__name__}: {error}") from error
    if response.status != 200:
        message = body.get("message", "") if isinstance(body, dict) else ""
        raise ApiError(f"the API server answers {response.status} {message}"[:500], response.status)
    return body


def watch(target: Target, path: str, *, limit: float) -> Iterator[Any]:
    """Yields events until the server ends the watch; raises ApiError. Gives up after `limit` seconds of silence."""
    try:
        with Request(target, path, patience=limit) as response:
            if response.status != 200:
                raise ApiError(f"the API server answers {response.status} to a watch", response.status)
            pending = bytearray()
            for piece in response.pieces():
                pending += piece
                while (end := pending.find(b"\n")) >= 0:
                    line = bytes(pending[:end])
                    del pending[: end + 1]
                    if line.strip():
                        yield decode(line)
                if len(pending) > MAX_EVENT:
                    raise ApiError(f"an event is longer than {MAX_EVENT} bytes")
    except (OSError, ValueError) as error:
        raise ApiError(f"{type(error).__name__}: {error}") from error


def decode(data: bytes) -> Any:
    """Returns JSON; raises ApiError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the API server sends what is not JSON: {error}") from error


def _head(stream: io.BufferedIOBase) -> list[str]:
    lines: list[str] = []
    size = 0
    while True:
        line = stream.readline(MAX_HEAD)
        size += len(line)
        if not line.endswith(b"\n") or size > MAX_HEAD:
            raise ApiError("the API server does not speak HTTP")
        text = line.decode("latin-1").rstrip("\r\n")
        if not text:
            return lines
        lines.append(text)


def _response(lines: list[str], stream: io.BufferedIOBase) -> Response:
    words = lines[0].split(" ", 2) if lines else []
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not (words[1].isascii() and words[1].isdigit()):
        raise ApiError("the API server does not speak HTTP")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Response(int(words[1]), headers, stream)
