"""The watch machine by tables: what a server does, and what must come of it."""

import json
from typing import Any

import pytest

from isthmus.aio.backoff import Backoff
from isthmus.kube.decode import Decoder
from isthmus.kube.errors import ApiError, BadAnswer, ConnectionFailed, Expired, Forbidden, error_from_body
from isthmus.kube.resources import PODS
from isthmus.kube.schema import Pod
from isthmus.kube.watch import (
    MAX_RESUMES,
    MAX_SILENCES,
    MAX_TOLD,
    Degraded,
    Dropped,
    Gone,
    Healthy,
    List,
    Open,
    Output,
    Pause,
    Put,
    Snapshot,
    WatchMachine,
)
from tests.support.kubeserver import bookmark, event, pod, pod_list, status

DECODER = Decoder(PODS, Pod)
BROKEN = {"kind": "Pod", "metadata": {"name": "bad", "namespace": "demo", "labels": {"a": 1}}}


def machine(*, watch_list: bool = False) -> WatchMachine[Pod]:
    return WatchMachine(DECODER, backoff=Backoff(base=1, factor=2, cap=16, jitter=0), watch_list=watch_list)


def listed(m: WatchMachine[Pod], *items: dict[str, Any], version: str = "10") -> list[Output[Pod]]:
    page = DECODER.page(json.dumps(pod_list(*items, version=version)).encode())
    return m.listed(page.items, resource_version=page.resource_version, dropped=page.dropped)


def watching(*, at: float = 0.0) -> WatchMachine[Pod]:
    """Returns a machine that has listed at version 10 and whose watch is open."""
    m = machine()
    listed(m)
    m.opened(at)
    return m


def tell(m: WatchMachine[Pod], value: Any, *, at: float = 0.0) -> list[str]:
    return spoken(m.line(value if isinstance(value, bytes) else json.dumps(value).encode(), now=at))


def spoken(outputs: list[Output[Pod]]) -> list[str]:
    words = []
    for output in outputs:
        match output:
            case Snapshot(objects):
                words.append(f"snapshot {' '.join(sorted(o.metadata.name for o in objects))}".strip())
            case Put(found):
                words.append(f"put {found.metadata.name}")
            case Gone(found):
                words.append(f"gone {found.metadata.name}")
            case Healthy():
                words.append("healthy")
            case Degraded(reason):
                words.append(f"degraded {reason}")
            case Dropped(name, reason):
                words.append(f"dropped {name}: {reason}")
    return words


def test_a_list_gives_a_snapshot_and_the_watch_starts_at_its_version() -> None:
    m = machine()

    assert m.step == List(paged=True)
    assert spoken(listed(m, pod("a"), pod("b"), version="17")) == ["snapshot a b", "healthy"]
    assert m.step == Open("17")


def test_events_become_changes_and_the_watch_resumes_from_the_last_version_heard() -> None:
    m = watching()

    assert tell(m, event("ADDED", pod("a", 11))) == ["put a"]
    assert tell(m, event("MODIFIED", pod("a", 12))) == ["put a"]
    assert tell(m, event("DELETED", pod("a", 13))) == ["gone a"]
    assert m.reading
    assert m.ended(100.0) == []
    assert m.step == Open("13")


def test_a_bookmark_moves_the_resumption_point_and_says_nothing() -> None:
    m = watching()

    assert tell(m, bookmark(99)) == []
    m.ended(100.0)
    assert m.step == Open("99")


def test_a_resumption_never_starts_from_an_old_objects_version() -> None:
    m = machine()
    listed(m, pod("a", 3), version="10")

    assert m.step == Open("10")


def test_a_watch_list_is_a_snapshot_at_its_marked_bookmark() -> None:
    m = machine(watch_list=True)

    assert m.step == Open(initial_events=True)
    assert m.opened(0) == []
    assert tell(m, event("ADDED", pod("a", 3))) == []
    assert tell(m, event("ADDED", pod("b", 4))) == []
    assert tell(m, event("MODIFIED", pod("b", 11))) == []
    assert tell(m, event("DELETED", pod("a", 12))) == []
    assert tell(m, bookmark(11)) == []
    assert m.loading
    assert tell(m, bookmark(12, end=True)) == ["snapshot b", "healthy"]
    assert not m.loading
    assert tell(m, event("ADDED", pod("c", 13))) == ["put c"]
    m.ended(100.0)
    assert m.step == Open("13")


@pytest.mark.parametrize("code", [400, 405, 415, 422])
def test_a_server_that_refuses_a_watch_list_is_listed_instead(code: int) -> None:
    m = machine(watch_list=True)

    assert m.failed(error_from_body(code, json.dumps(status(code)).encode())) == []
    assert m.step == List()


def test_a_server_that_ignores_the_watch_list_is_listed_instead() -> None:
    """Older servers send the objects and never the bookmark."""
    m = machine(watch_list=True)
    m.opened(0)
    tell(m, event("ADDED", pod("a", 3)))

    assert m.silent(10) == []
    assert m.step == List()


def test_initial_events_without_end_are_given_up_for_a_list() -> None:
    m = machine(watch_list=True)
    m.opened(0)
    tell(m, event("ADDED", pod("a", 3)))

    assert m.unmarked(120) == []
    assert m.step == List()
    assert not m.reading


def test_a_permission_error_is_not_taken_for_a_missing_watch_list() -> None:
    m = machine(watch_list=True)

    assert spoken(m.failed(Forbidden(status=403, message="no"))) == ["degraded no"]
    assert m.step == Pause(1)
    m.paused()
    assert m.step == Open(initial_events=True)


def test_watch_lists_that_break_again_and_again_are_given_up_for_a_list() -> None:
    m = machine(watch_list=True)
    for _ in range(3):
        m.opened(0)
        m.failed(ConnectionFailed("cut"), now=1)
        m.paused()

    assert m.step == List()


@pytest.mark.parametrize("how", ["event", "answer"])
def test_an_expired_version_is_listed_again_at_once_and_is_no_fault(how: str) -> None:
    m = watching()
    if how == "event":
        assert tell(m, event("ERROR", status(410, "Expired", "too old resource version")), at=100) == []
    else:
        m.ended(100)
        assert m.failed(Expired(status=410, message="too old")) == []

    assert m.step == List()


def test_a_version_that_keeps_expiring_costs_growing_pauses() -> None:
    m = watching()
    tell(m, event("ERROR", status(410)), at=100)
    pauses = []
    for _ in range(3):
        listed(m)
        m.opened(100)
        tell(m, event("ERROR", status(410)), at=101)
        assert isinstance(m.step, Pause)
        pauses.append(m.step.seconds)
        m.paused()
        assert m.step == List()

    assert pauses == [2, 4, 8]


def test_an_expired_continue_token_lists_everything_at_once() -> None:
    m = machine()
    m.failed(Expired(status=410))

    assert m.step == List(paged=False)
    listed(m)
    m.opened(0)
    tell(m, event("ERROR", status(410)), at=100)
    assert m.step == List(paged=True)


def test_a_cut_connection_resumes_after_a_pause_without_listing() -> None:
    m = watching()
    tell(m, event("ADDED", pod("a", 11)))

    assert spoken(m.failed(ConnectionFailed("reset by peer"), now=5)) == ["degraded reset by peer"]
    assert m.step == Pause(1)
    m.paused()
    assert m.step == Open("11")


def test_delays_start_small_again_after_a_stream_that_lasted() -> None:
    m = watching()
    for _ in range(5):
        m.failed(ConnectionFailed("down"), now=1)
    assert m.step == Pause(16)
    m.paused()
    listed(m)
    m.opened(1000)
    m.failed(ConnectionFailed("cut"), now=2000)

    assert m.step == Pause(1)


def test_a_stream_that_ends_at_once_is_a_failure_and_no_hot_loop() -> None:
    m = watching(at=10)

    assert spoken(m.ended(10.1)) == ["degraded the server closed the watch at once"]
    assert m.step == Pause(1)
    m.paused()
    assert m.step == Open("10")


def test_a_silent_stream_is_opened_again_from_the_last_version_and_is_no_fault() -> None:
    m = watching()
    tell(m, bookmark(20))

    assert m.silent(90) == []
    assert m.step == Open("20")


def test_streams_that_stay_silent_are_not_believed_for_ever() -> None:
    m = watching()
    for round in range(MAX_SILENCES):
        assert m.step == Open("10")
        m.opened(round * 90)
        m.silent(round * 90 + 90)

    assert m.step == List()


def test_the_server_can_ask_for_a_longer_pause() -> None:
    m = watching()
    m.failed(ApiError(status=429, retry_after=40.0), now=1)

    assert m.step == Pause(40)


def test_a_version_that_never_works_again_is_given_up() -> None:
    """An etcd restored from a backup never reaches the old version: every watch fails with 504."""
    m = watching()
    for _ in range(MAX_RESUMES):
        assert m.step == Open("10")
        m.opened(0)
        tell(m, event("ERROR", status(504, "Timeout", "Too large resource version")))
        m.paused()

    assert m.step == List()


@pytest.mark.parametrize("code", [401, 403, 429, 500, 503])
def test_refusals_that_may_pass_do_not_cause_a_list(code: int) -> None:
    m = watching()
    m.failed(error_from_body(code, b""), now=1)
    m.paused()

    assert m.step == Open("10")


@pytest.mark.parametrize("code", [400, 404, 422])
def test_refusals_of_the_watch_itself_cause_a_list(code: int) -> None:
    m = watching()
    m.failed(error_from_body(code, b""), now=1)
    m.paused()

    assert m.step == List()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\x00\xff garbage", "an event that cannot be read"),
        (b'{"type":"ADDED","object":{"kind":"Pod"', "an event that cannot be read"),
        (b"[1,2]", "an event that cannot be read"),
        (b"[" * 100_000, "an event that cannot be read"),
        (b'{"type":"ADDED"}', "an event that cannot be read"),
        (b'{"type":"EXPLODED","object":{}}', "an event of unknown type 'EXPLODED'"),
        (event("ADDED", {**pod("a"), "kind": "Node"}), "Pod demo/a: kind: expected Pod, got 'Node'"),
        (event("ADDED", status(200)), "Pod: Object missing required field `metadata`"),
        (
            event("ADDED", {"kind": "Pod", "metadata": {"namespace": "demo"}}),
            "Pod in namespace demo: Object missing required field `name`",
        ),
        (event("ADDED", {"kind": "Pod", "metadata": {"name": "a"}}), "Pod a: metadata.namespace is missing"),
        (event("MODIFIED", BROKEN), "Pod demo/bad: Expected `str`, got `int` - at `$.metadata.labels[...]`"),
        (event("BOOKMARK", {"kind": "Pod"}), "a bookmark that cannot be read"),
    ],
)
def test_what_cannot_be_trusted_is_named_and_the_state_is_fetched_anew(line: Any, reason: str) -> None:
    m = watching()
    (words,) = tell(m, line)

    assert words.startswith("degraded watch of pods: ")
    assert reason in words
    assert not m.reading
    assert m.step == Pause(1)
    m.paused()
    assert m.step == List()
    assert spoken(listed(m, pod("a"))) == ["snapshot a", "healthy"]


def test_one_bad_object_in_a_list_is_dropped_and_named_and_the_rest_stand() -> None:
    assert spoken(listed(machine(), pod("a"), BROKEN, pod("b"))) == [
        "snapshot a b",
        "dropped Pod demo/bad: Expected `str`, got `int` - at `$.metadata.labels[...]`",
        "healthy",
    ]


def test_one_bad_object_in_a_watch_list_is_dropped_and_named_and_the_rest_stand() -> None:
    m = machine(watch_list=True)
    m.opened(0)
    for item in (pod("a"), BROKEN, pod("b")):
        assert tell(m, event("ADDED", item)) == []

    words = tell(m, bookmark(9, end=True))

    assert words[0] == "snapshot a b"
    assert words[1].startswith("dropped Pod demo/bad")
    assert words[2] == "healthy"


def test_many_bad_objects_are_not_told_one_by_one() -> None:
    words = spoken(listed(machine(), *[BROKEN] * 100))

    assert len(words) == MAX_TOLD + 3
    assert "84 more" in words[-2]


def test_a_list_without_a_version_is_not_believed() -> None:
    m = machine()

    assert spoken(m.listed((), resource_version="")) == ["degraded list of pods: metadata.resourceVersion is missing"]
    m.paused()
    assert m.step == List()


def test_a_state_is_told_when_it_changes_and_not_each_time() -> None:
    m = machine()
    down = ConnectionFailed("refused")

    assert spoken(m.failed(down)) == ["degraded refused"]
    assert m.failed(down) == []
    assert spoken(m.failed(ConnectionFailed("no route"))) == ["degraded no route"]
    assert spoken(listed(m)) == ["snapshot", "healthy"]
    assert listed(m) == [Snapshot(())]


def test_after_a_broken_stream_health_needs_an_event_as_proof() -> None:
    m = watching()
    m.failed(ConnectionFailed("cut"), now=5)
    m.paused()

    assert m.opened(6) == []
    assert tell(m, bookmark(20)) == ["healthy"]


def test_after_a_failed_attempt_an_accepted_watch_is_health() -> None:
    m = watching()
    m.ended(100)
    m.failed(ConnectionFailed("refused"))
    m.paused()

    assert spoken(m.opened(101)) == ["healthy"]


def test_a_bad_answer_to_the_opening_causes_a_list() -> None:
    m = watching()
    m.ended(100)
    m.failed(BadAnswer("redirect"))
    m.paused()

    assert m.step == List()
