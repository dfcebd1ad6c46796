"""gRPC to one etcd endpoint: the calls, their time-outs, and their errors in our words.

The only place that knows status codes. Method callables are registered here by path; a generated stub would add
names and nothing else. Keep-alive pings find a dead connection in about 15 s; etcd allows one every 5 s, and only
while a call is open. Rejected: gRPC's own retry, which would hide from the caller that a write may have been done
twice and that another server answered.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import msgspec

from isthmus.store.errors import Compacted, Denied, LeaseGone, NoSpace, Refused, StoreError, TooLarge, Unavailable
from isthmus.wire.etcd import rpc_pb2 as rpc

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of one answer; a page of the largest values that etcd takes is split by asking for less (`client`)."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A proxy from the environment is for the web, not for the control plane.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)

# etcd answers "no leader" at once instead of waiting for one.
_METADATA = (("hasleader", "true"),)

_T = TypeVar("_T")


class Tls(msgspec.Struct, frozen=True):
    """Files for mutual TLS (PEM): without `ca` the system's roots are trusted.

    Where `server_name` is set, the server's certificate must name it instead of the endpoint's host.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises Refused naming the one that cannot be read or the half that is missing."""
        if (self.cert is None) != (self.key is None):
            raise Refused("a client certificate needs both its certificate and its key file")
        parts: list[bytes | None] = []
        for path in (self.ca, self.key, self.cert):
            try:
                parts.append(path.read_bytes() if path is not None else None)
            except OSError as error:
                raise Refused(f"cannot read {path}: {error.strerror}") from error
        return grpc.ssl_channel_credentials(*parts)


class Link:
    """One channel to one endpoint (`host:port`)."""

    def __init__(self, endpoint: str, *, tls: Tls | None) -> None:
        self.endpoint = endpoint
        options = list(_OPTIONS)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(endpoint, options=options)
        else:
            if tls.server_name:
                options.append(("grpc.ssl_target_name_override", tls.server_name))
            self._channel = grpc.aio.secure_channel(endpoint, tls.credentials(), options=options)
        unary = self._channel.unary_unary
        stream = self._channel.stream_stream
        self.range = _call(unary, "KV/Range", rpc.RangeRequest, rpc.RangeResponse)
        self.txn = _call(unary, "KV/Txn", rpc.TxnRequest, rpc.TxnResponse)
        self.compact = _call(unary, "KV/Compact", rpc.CompactionRequest, rpc.CompactionResponse)
        self.grant = _call(unary, "Lease/LeaseGrant", rpc.LeaseGrantRequest, rpc.LeaseGrantResponse)
        self.revoke = _call(unary, "Lease/LeaseRevoke", rpc.LeaseRevokeRequest, rpc.LeaseRevokeResponse)
        self.status = _call(unary, "Maintenance/Status", rpc.StatusRequest, rpc.StatusResponse)
        self.members = _call(unary, "Cluster/MemberList", rpc.MemberListRequest, rpc.MemberListResponse)
        self.keep_alive = _call(stream, "Lease/LeaseKeepAlive", rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse)
        self.watch = _call(stream, "Watch/Watch", rpc.WatchRequest, rpc.WatchResponse)

    def auth(self, name: str, request: type[Any], response: type[Any]) -> Any:
        """Returns the callable of an Auth method."""
        return _call(self._channel.unary_unary, f"Auth/{name}", request, response)

    async def ask(self, call: Any, request: Any, *, timeout: float) -> Any:  # noqa: ASYNC109 - it is gRPC's deadline
        """Makes a unary call within `timeout` seconds."""
        return await translated(call(request, timeout=timeout, metadata=_METADATA), self.endpoint)

    def open(self, call: Any) -> Any:
        """Opens a stream; reading and writing it goes through `translated`."""
        return call(metadata=_METADATA)

    async def close(self) -> None:
        """Closes the channel; open calls end."""
        await self._channel.close()


async def translated(awaitable: Awaitable[_T], endpoint: str) -> _T:
    """Awaits something of gRPC's and raises our errors for its errors."""
    try:
        return await awaitable
    except grpc.aio.AioRpcError as error:
        raise store_error(error.code(), error.details() or "", endpoint) from None
    except grpc.aio.UsageError as error:
        raise Unavailable(f"{endpoint}: the connection is closed") from error
    except asyncio.InvalidStateError as error:
        raise Unavailable(f"{endpoint}: the stream has ended") from error
    except asyncio.CancelledError:
        # gRPC raises this for a call that somebody else cancelled (a closed channel) as well; only the latter is ours.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable(f"{endpoint}: the connection was closed") from None


def store_error(code: grpc.StatusCode, details: str, endpoint: str) -> StoreError:
    """Returns the error for a status; etcd's texts decide where its codes are too coarse."""
    message = f"{endpoint}: {details or code.name}"
    if "database space exceeded" in details:
        return NoSpace(message)
    if "compacted" in details:
        return Compacted(message)
    if "lease not found" in details:
        return LeaseGone(message)
    match code:
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return Denied(message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            # "too many requests" is the server's back-pressure; the rest is about sizes.
            return Unavailable(message) if "too many requests" in details else TooLarge(message)
        case grpc.StatusCode.INVALID_ARGUMENT if "too large" in details:
            return TooLarge(message)
        case grpc.StatusCode.INVALID_ARGUMENT if "user name is empty" in details:
            return Denied(f"{message} (the server wants a client certificate)")
        case (
            grpc.StatusCode.INVALID_ARGUMENT
            | grpc.StatusCode.FAILED_PRECONDITION
            | grpc.StatusCode.NOT_FOUND
            | grpc.StatusCode.OUT_OF_RANGE
            | grpc.StatusCode.UNIMPLEMENTED
        ):
            return Refused(message)
    return Unavailable(message)


def _call(factory: Any, path: str, request: Any, response: Any) -> Any:
    return factory(
        f"/etcdserverpb.{path}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
    )


def endpoints_of(urls: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Takes `http://` or `https://` URLs (or bare `host:port`) apart into targets and whether TLS is asked for.

    Raises Refused naming the URL that is wrong; all must agree on the scheme.
    """
    targets: list[str] = []
    schemes: set[str] = set()
    for url in urls:
        scheme, separator, rest = url.strip().partition("://")
        if not separator:
            scheme, rest = "http", url.strip()
        rest = rest.removesuffix("/")
        host, _, port = rest.rpartition(":")
        if scheme not in ("http", "https") or not host or not port.isascii() or not port.isdigit() or "/" in rest:
            raise Refused(f"{url!r} is not an etcd endpoint: expected http(s)://HOST:PORT")
        if int(port) > 65535 or (":" in host and not host.startswith("[")):
            raise Refused(f"{url!r} is not an etcd endpoint: expected http(s)://HOST:PORT")
        schemes.add(scheme)
        targets.append(rest)
    if not targets:
        raise Refused("no etcd endpoints are given")
    if len(schemes) > 1:
        raise Refused("etcd endpoints mix http and https")
    return tuple(targets), schemes == {"https"}
