"""An etcd v3 client for asyncio: endpoints in turn, mutual TLS, bounded calls.

Invariants: every unary call has a deadline; a call that fails because its endpoint does not answer makes the *next*
call go to the next endpoint, and is itself not repeated, since only the caller knows whether that is safe; the pages
of a listing and the parts of a fragmented watch answer are put together here, so callers see whole commits. One event
loop per process may use this module (a rule of grpc.aio). Rejected: existing clients, which lack either TLS or
asyncio, or hide the header that resuming a watch depends on.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc.aio

from isthmus.store.contract import (
    PAGE,
    Arrived,
    Committed,
    Event,
    Header,
    KeyValue,
    Op,
    Opened,
    Page,
    Put,
    Removed,
    Status,
    prefix_end,
)
from isthmus.store.errors import Compacted, Denied, LeaseGone, TooLarge, Unavailable
from isthmus.store.transport import Link, Tls, endpoints_of, translated
from isthmus.wire.etcd import kv_pb2 as kv
from isthmus.wire.etcd import rpc_pb2 as rpc

TIMEOUT = 5.0
"""Seconds for a call on little data; etcd's own limit for a request on a loaded member is some 7 s."""

PROBE = 15.0
"""Seconds of silence after which a watch asks whether the server is still there."""

MAX_FRAGMENTS = 256 * 1024 * 1024
"""Bytes of one commit's events kept until its last part came."""


class Client:
    """A `Store` over the network. `urls` are tried in turn; `timeout` is in seconds."""

    def __init__(
        self, urls: Sequence[str], *, tls: Tls | None = None, timeout: float = TIMEOUT, probe: float = PROBE
    ) -> None:
        self._targets, secure = endpoints_of(urls)
        self._tls = (tls or Tls()) if secure else None
        self._timeout = timeout
        self._probe = probe
        self._links: dict[int, Link] = {}
        self._current = 0
        self._closed = False

    @property
    def endpoint(self) -> str:
        """The endpoint that the next call will use."""
        return self._targets[self._current % len(self._targets)]

    def pinned(self) -> "Client":
        """See `Store.pinned`."""
        return _Pinned(self, self.link())

    def link(self) -> Link:
        """The channel that the next call uses."""
        if self._closed:
            raise Unavailable(f"{self.endpoint}: the client is closed")
        index = self._current % len(self._targets)
        if index not in self._links:
            self._links[index] = Link(self._targets[index], tls=self._tls)
        return self._links[index]

    def failed(self, link: Link) -> None:
        """Makes later calls use the next endpoint, unless somebody else did that already."""
        if self._links.get(self._current % len(self._targets)) is link:
            self._current += 1

    async def ask(self, method: str, request: Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - a deadline
        """Makes the unary call `method` of `Link`."""
        link = self.link()
        try:
            return await link.ask(getattr(link, method), request, timeout=timeout or self._timeout)
        except Unavailable:
            self.failed(link)
            raise

    async def ask_auth(self, name: str, request: Any, response: type[Any]) -> Any:
        """Makes the Auth call `name`."""
        link = self.link()
        return await link.ask(link.auth(name, type(request), response), request, timeout=self._timeout)

    async def get(self, key: bytes) -> tuple[Header, KeyValue | None]:
        """See `Store.get`."""
        answer = await self.ask("range", rpc.RangeRequest(key=key))
        return _header(answer), _pair(answer.kvs[0]) if answer.kvs else None

    async def pages(self, prefix: bytes, *, until: bytes = b"", limit: int = PAGE) -> AsyncGenerator[Page, None]:
        """See `Store.pages`. A page that is too large is asked for again by halves."""
        key, end, revision = prefix or b"\0", until or prefix_end(prefix), 0
        while True:
            request = rpc.RangeRequest(key=key, range_end=end, limit=limit, revision=revision)
            try:
                answer = await self.ask("range", request, timeout=self._timeout * 2)
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // 2)
                continue
            header = _header(answer)
            revision = revision or header.revision
            header = Header(header.cluster_id, header.member_id, revision)
            yield Page(header, tuple(_pair(pair) for pair in answer.kvs))
            if not answer.more or not answer.kvs:
                return
            key = answer.kvs[-1].key + b"\0"

    async def commit(
        self, ops: Sequence[Op], *, absent: bytes | None = None, equal: tuple[bytes, bytes] | None = None
    ) -> Committed:
        """See `Store.commit`."""
        request = rpc.TxnRequest(success=[_op(op) for op in ops])
        if absent is not None:
            request.compare.add(result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=absent, create_revision=0)
        if equal is not None:
            key, value = equal
            request.compare.add(result=rpc.Compare.EQUAL, target=rpc.Compare.VALUE, key=key, value=value)
        answer = await self.ask("txn", request)
        return Committed(_header(answer), answer.succeeded)

    async def grant(self, ttl: int) -> int:
        """See `Store.grant`."""
        return int((await self.ask("grant", rpc.LeaseGrantRequest(TTL=ttl))).ID)

    async def keep_alive(self, lease: int) -> int:
        """See `Store.keep_alive`. A stream for each renewal: leases are few and renewed every few minutes."""
        link = self.link()
        call = link.open(link.keep_alive)
        try:
            async with asyncio.timeout(self._timeout):
                await translated(call.write(rpc.LeaseKeepAliveRequest(ID=lease)), link.endpoint)
                answer = await translated(call.read(), link.endpoint)
        except TimeoutError:
            self.failed(link)
            raise Unavailable(f"{link.endpoint}: no answer to a lease renewal in {self._timeout:g} s") from None
        except Unavailable:
            self.failed(link)
            raise
        finally:
            call.cancel()
        if answer is grpc.aio.EOF:
            raise Unavailable(f"{link.endpoint}: the stream of lease renewals ended")
        if answer.TTL <= 0:
            raise LeaseGone(f"{link.endpoint}: lease {lease:x} is no more")
        return int(answer.TTL)

    async def revoke(self, lease: int) -> None:
        """See `Store.revoke`."""
        await self.ask("revoke", rpc.LeaseRevokeRequest(ID=lease))

    async def status(self) -> Status:
        """See `Store.status`."""
        answer = await self.ask("status", rpc.StatusRequest())
        return Status(_header(answer), answer.version, answer.dbSize, tuple(answer.errors))

    async def members(self) -> tuple[str, ...]:
        """Returns the names of the etcd members."""
        return tuple(member.name for member in (await self.ask("members", rpc.MemberListRequest())).members)

    async def compact(self, revision: int) -> None:
        """Forgets history before `revision`."""
        await self.ask("compact", rpc.CompactionRequest(revision=revision, physical=True))

    async def watch(
        self, prefix: bytes, *, until: bytes = b"", start_revision: int
    ) -> AsyncGenerator[Opened | Arrived, None]:
        """See `Store.watch`."""
        link = self.link()
        call = link.open(link.watch)
        try:
            create = rpc.WatchCreateRequest(
                key=prefix or b"\0",
                range_end=until or prefix_end(prefix),
                start_revision=start_revision,
                progress_notify=True,
                fragment=True,
            )
            await self._bounded(call.write(rpc.WatchRequest(create_request=create)), link)
            parts: list[Event] = []
            size = 0
            while True:
                answer = await self._read(call, link)
                if answer.canceled:
                    raise _cancelled(answer, link.endpoint)
                header = _header(answer)
                if answer.created:
                    yield Opened(header)
                    continue
                parts.extend(_event(event) for event in answer.events)
                if answer.fragment:
                    size += answer.ByteSize()
                    if size > MAX_FRAGMENTS:
                        raise TooLarge(f"{link.endpoint}: one commit has more than {MAX_FRAGMENTS} bytes of events")
                    continue
                yield Arrived(header, tuple(parts))
                parts, size = [], 0
        except Unavailable:
            self.failed(link)
            raise
        finally:
            call.cancel()

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close()

    async def _bounded(self, awaitable: Any, link: Link) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await translated(awaitable, link.endpoint)
        except TimeoutError:
            raise Unavailable(f"{link.endpoint}: no answer in {self._timeout:g} s") from None

    async def _read(self, call: Any, link: Link) -> Any:
        """Reads one answer; after `probe` seconds of silence the server is asked for a sign of life."""
        # A cancelled read would end the whole call (grpc.aio), so it is awaited from outside.
        read = asyncio.ensure_future(translated(call.read(), link.endpoint))
        try:
            done, _ = await asyncio.wait({read}, timeout=self._probe)
            if not done:
                await self._bounded(call.write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())), link)
                done, _ = await asyncio.wait({read}, timeout=self._probe)
                if not done:
                    raise Unavailable(f"{link.endpoint}: a watch was silent for {2 * self._probe:g} s")
            answer = read.result()
        finally:
            if not read.done():
                read.cancel()
                await asyncio.gather(read, return_exceptions=True)
        if answer is grpc.aio.EOF:
            raise Unavailable(f"{link.endpoint}: the server ended the watch")
        return answer


class _Pinned(Client):
    """A view of a client that stays on one link; its failures still move the client on."""

    def __init__(self, client: Client, link: Link) -> None:
        self._client = client
        self._link = link
        self._timeout = client._timeout
        self._probe = client._probe

    @property
    def endpoint(self) -> str:
        return self._link.endpoint

    def pinned(self) -> Client:
        return self

    def link(self) -> Link:
        return self._link

    def failed(self, link: Link) -> None:
        self._client.failed(link)

    async def close(self) -> None:
        """Closes nothing: the connections belong to the client."""


def _header(answer: Any) -> Header:
    return Header(answer.header.cluster_id, answer.header.member_id, answer.header.revision)


def _pair(pair: Any) -> KeyValue:
    return KeyValue(pair.key, pair.value, pair.mod_revision, pair.lease)


def _event(event: Any) -> Event:
    if event.type == kv.Event.DELETE:
        return Removed(event.kv.key, event.kv.mod_revision)
    return _pair(event.kv)


def _op(op: Op) -> Any:
    if isinstance(op, Put):
        return rpc.RequestOp(request_put=rpc.PutRequest(key=op.key, value=op.value, lease=op.lease))
    return rpc.RequestOp(
        request_delete_range=rpc.DeleteRangeRequest(key=op.key, range_end=prefix_end(op.key) if op.prefix else b"")
    )


def _cancelled(answer: Any, endpoint: str) -> Exception:
    if answer.compact_revision:
        return Compacted(f"{endpoint}: history was compacted", revision=answer.compact_revision)
    if "permission denied" in answer.cancel_reason:
        return Denied(f"{endpoint}: {answer.cancel_reason}")
    return Unavailable(f"{endpoint}: the server cancelled the watch: {answer.cancel_reason or 'no reason given'}")
