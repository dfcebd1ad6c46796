"""`follow` against a scripted server: what is on the wire, and what the consumer and the operator get to see."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from isthmus.aio.backoff import Backoff
from isthmus.kube.client import Client
from isthmus.kube.reflector import Change, Degraded, Dropped, Gone, Healthy, Put, Snapshot, State, Timing, follow
from isthmus.kube.resources import PODS
from isthmus.kube.schema import Pod
from tests.support.kubeserver import ScriptedServer, answer, bookmark, event, pod, pod_list, status

pytestmark = pytest.mark.looptime


class Consumer:
    """Follows the pods of a scripted server and keeps what it was told."""

    def __init__(self, server: ScriptedServer, client: Client, **options: Any) -> None:
        self.server = server
        self.states: list[State] = []
        self.held: dict[str, str] = {}
        options.setdefault("backoff", Backoff(base=1, factor=2, cap=8, jitter=0))
        self._changes = follow(client, PODS, Pod, on_state=self.states.append, **options)

    async def next(self) -> str:
        change: Change[Pod] = await anext(self._changes)
        match change:
            case Snapshot(objects):
                return f"snapshot {' '.join(o.metadata.name for o in objects)}".strip()
            case Put(found):
                return f"put {found.metadata.name}"
            case Gone(found):
                return f"gone {found.metadata.name}"

    async def close(self) -> None:
        await self._changes.aclose()

    @property
    def reasons(self) -> list[str]:
        return [state.reason if isinstance(state, Degraded) else type(state).__name__ for state in self.states]


@contextlib.asynccontextmanager
async def following(*script: Any, **options: Any) -> AsyncIterator[Consumer]:
    """`script` holds answers, or functions that make one from the server."""
    async with ScriptedServer() as server, Client(server.access) as client:
        server.script.extend(step(server) if getattr(step, "late", False) else step for step in script)
        consumer = Consumer(server, client, **options)
        try:
            yield consumer
        finally:
            await consumer.close()
            server.release.set()


def streams(*lines: Any, **options: Any) -> Any:
    def make(server: ScriptedServer) -> Any:
        return server.stream(*lines, **options)

    make.late = True
    return make


REFUSED = answer(status(422, "Invalid", "sendInitialEvents is forbidden"), status=422)


async def test_a_watch_list_needs_one_request() -> None:
    lines = [
        event("ADDED", pod("a", 3)),
        bookmark(9, end=True),
        event("ADDED", pod("b", 10)),
        event("DELETED", pod("a", 11)),
    ]
    async with following(
        streams(*lines, then="hang"), field_selector="spec.nodeName=n1", label_selector="x=y"
    ) as consumer:
        assert [await consumer.next() for _ in range(3)] == ["snapshot a", "put b", "gone a"]

    (query,) = consumer.server.queries()
    lifetime = int(query.pop("timeoutSeconds"))
    assert 300 <= lifetime <= 600
    assert query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "fieldSelector": "spec.nodeName=n1",
        "labelSelector": "x=y",
    }
    assert consumer.states == [Healthy()]


async def test_a_server_without_watch_list_is_listed_in_pages_and_watched() -> None:
    async with following(
        REFUSED,
        answer(pod_list(pod("a"), version="7", more="t")),
        answer(pod_list(pod("b"), version="7")),
        streams(event("MODIFIED", pod("b", 8)), then="hang"),
    ) as consumer:
        assert [await consumer.next() for _ in range(2)] == ["snapshot a b", "put b"]

    assert [q.get("resourceVersion") for q in consumer.server.queries()] == [None, None, None, "7"]
    assert consumer.states == [Healthy()]


async def test_a_server_that_ignores_watch_list_is_noticed_by_the_missing_bookmark(looptime: Any) -> None:
    async with following(
        streams(event("ADDED", pod("a", 3)), then="hang"),
        answer(pod_list(pod("a"), version="7")),
        streams(then="hang"),
    ) as consumer:
        assert await consumer.next() == "snapshot a"
        assert 10 <= looptime <= 11
        assert consumer.states == [Healthy()]


async def test_a_watch_that_ends_is_resumed_from_the_last_bookmark() -> None:
    async with following(
        streams(bookmark(9, end=True), event("ADDED", pod("a", 10)), bookmark(20)),
        streams(event("ADDED", pod("b", 21)), then="hang"),
    ) as consumer:
        assert [await consumer.next() for _ in range(3)] == ["snapshot", "put a", "put b"]
        assert consumer.server.queries()[1]["resourceVersion"] == "20"


async def test_an_expired_version_in_the_middle_of_a_watch_gives_a_new_snapshot() -> None:
    async with following(
        streams(bookmark(9, end=True), event("ERROR", status(410, "Expired", "too old")), then="hang"),
        streams(event("ADDED", pod("z", 30)), bookmark(31, end=True), then="hang"),
    ) as consumer:
        assert [await consumer.next() for _ in range(2)] == ["snapshot", "snapshot z"]
        assert consumer.states == [Healthy()]


async def test_a_connection_cut_in_the_middle_of_an_event_is_resumed_and_nothing_is_lost() -> None:
    async with following(
        streams(
            bookmark(9, end=True), event("ADDED", pod("a", 10)), raw=b'{"type":"ADDED","object":{"kind":"Po', then="cut"
        ),
        streams(event("ADDED", pod("b", 11)), then="hang"),
    ) as consumer:
        assert [await consumer.next() for _ in range(3)] == ["snapshot", "put a", "put b"]
        assert consumer.server.queries()[1]["resourceVersion"] == "10"
        assert [type(s) for s in consumer.states] == [Healthy, Degraded, Healthy]


async def test_a_silent_connection_is_given_up_and_resumed(looptime: Any) -> None:
    async with following(
        streams(bookmark(9, end=True), then="hang"),
        streams(event("ADDED", pod("a", 10)), then="hang"),
        timing=Timing(silence=90),
    ) as consumer:
        assert await consumer.next() == "snapshot"
        assert await consumer.next() == "put a"
        assert 90 <= looptime <= 91
        assert consumer.server.queries()[1]["resourceVersion"] == "9"
        assert consumer.states == [Healthy()]


async def test_a_slow_consumer_is_not_taken_for_a_silent_server(looptime: Any) -> None:
    async with following(
        streams(bookmark(9, end=True), event("ADDED", pod("a", 10)), then="hang"), timing=Timing(silence=90)
    ) as consumer:
        assert await consumer.next() == "snapshot"
        await asyncio.sleep(1000)
        assert await consumer.next() == "put a"
        assert len(consumer.server.requests) == 1


async def test_a_very_long_event_is_read_and_one_without_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    big = event("ADDED", pod("big", 10, annotations={"x": "y" * 5_000_000}))
    async with following(streams(bookmark(9, end=True), big, then="hang")) as consumer:
        assert [await consumer.next() for _ in range(2)] == ["snapshot", "put big"]

    monkeypatch.setattr("isthmus.kube.stream.MAX_LINE", 1_000_000)
    async with following(
        streams(bookmark(9, end=True), big, then="hang"), streams(bookmark(11, end=True), then="hang")
    ) as consumer:
        assert [await consumer.next() for _ in range(2)] == ["snapshot", "snapshot"]
        assert "longer than 1000000 bytes" in consumer.reasons[1]


async def test_a_compressed_stream() -> None:
    async with following(
        streams(event("ADDED", pod("a")), bookmark(9, end=True), compress=True, then="hang")
    ) as consumer:
        assert await consumer.next() == "snapshot a"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\xff\n",
        b"<html>\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":7}}}\n',
    ],
)
async def test_garbage_in_the_stream_costs_a_pause_and_a_new_snapshot(garbage: bytes, looptime: Any) -> None:
    async with following(
        streams(bookmark(9, end=True), raw=garbage, then="hang"),
        streams(event("ADDED", pod("a")), bookmark(12, end=True), then="hang"),
    ) as consumer:
        assert [await consumer.next() for _ in range(2)] == ["snapshot", "snapshot a"]
        assert looptime >= 1
        assert [type(s) for s in consumer.states] == [Healthy, Degraded, Healthy]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"kind":"NodeList","metadata":{"resourceVersion":"1"},"items":[]}', b"\xff"]
)
async def test_garbage_instead_of_a_list_is_tried_again(body: bytes) -> None:
    async with following(REFUSED, answer(body), answer(pod_list(pod("a"))), streams(then="hang")) as consumer:
        assert await consumer.next() == "snapshot a"
        assert [type(s) for s in consumer.states] == [Degraded, Healthy]


async def test_one_bad_object_in_a_list_is_left_out_and_named() -> None:
    bad = {"kind": "Pod", "metadata": {"name": "bad", "namespace": "demo"}, "spec": {"hostNetwork": "yes"}}
    async with following(REFUSED, answer(pod_list(pod("a"), bad)), streams(then="hang")) as consumer:
        assert await consumer.next() == "snapshot a"
        assert consumer.reasons == ["Dropped", "Healthy"]
        assert isinstance(consumer.states[0], Dropped)
        assert consumer.states[0].name == "Pod demo/bad"


async def test_an_expired_continue_token_lists_all_at_once() -> None:
    async with following(
        REFUSED,
        answer(pod_list(pod("a"), more="t")),
        answer(status(410, "Expired"), status=410),
        answer(pod_list(pod("b"))),
        streams(then="hang"),
    ) as consumer:
        assert await consumer.next() == "snapshot b"
        assert [q.get("limit") for q in consumer.server.queries()[1:4]] == ["500", "500", None]


async def test_a_server_that_fails_is_asked_again_with_growing_pauses(looptime: Any) -> None:
    down = answer(status(503, "ServiceUnavailable", "starting"), status=503)
    async with following(down, down, down, down, streams(bookmark(9, end=True), then="hang")) as consumer:
        assert await consumer.next() == "snapshot"
        assert 15 <= looptime <= 16
        assert consumer.reasons == ["starting", "Healthy"]


async def test_objects_can_be_had_as_bytes() -> None:
    async with ScriptedServer() as server, Client(server.access) as client:
        wild = {**pod("wild", 10), "spec": {"anything": [1, "x", None]}}
        server.script.append(server.stream(bookmark(9, end=True), event("ADDED", wild), then="hang"))
        async with contextlib.aclosing(follow(client, PODS, msgspec.Raw)) as changes:
            await anext(changes)
            change = await anext(changes)
        server.release.set()

    assert isinstance(change, Put)
    assert msgspec.json.decode(change.object) == wild
