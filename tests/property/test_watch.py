"""Whatever a server sends, the watch machine neither raises nor spins, and a consumer ends with the server's state."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isthmus.aio.backoff import Backoff
from isthmus.kube.decode import Decoder
from isthmus.kube.errors import error_from_body
from isthmus.kube.resources import PODS
from isthmus.kube.schema import Pod
from isthmus.kube.stream import LineSplitter
from isthmus.kube.watch import Gone, List, Open, Output, Pause, Put, Snapshot, WatchMachine
from tests.support.kubeserver import bookmark, event, pod, status

DECODER = Decoder(PODS, Pod)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
metas = st.fixed_dictionaries(
    {},
    optional={
        key: json_values | st.text(max_size=5)
        for key in ("name", "namespace", "uid", "resourceVersion", "labels", "annotations", "generation")
    },
)
objects = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["Pod", "Status", "Node", "", 7]),
        "metadata": metas | json_values,
        "spec": json_values,
        "status": json_values,
        "code": st.integers(0, 700),
    },
)
types = st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "", "NEW"])
lines = (
    st.binary(max_size=40)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.builds(lambda kind, item: json.dumps({"type": kind, "object": item}).encode(), types, objects | json_values)
)


@given(
    moves=st.lists(st.tuples(st.sampled_from("line ended silent failed unmarked".split()), lines, st.floats(0, 100))),
    watch_list=st.booleans(),
)
def test_nothing_that_a_server_does_raises_or_makes_the_loop_hot(
    moves: list[tuple[str, bytes, float]], watch_list: bool
) -> None:
    m = WatchMachine(DECODER, backoff=Backoff(base=1, factor=2, cap=8, jitter=0), watch_list=watch_list)
    now, free = 0.0, 0
    for move, line, passed in moves:
        if isinstance(m.step, Pause):
            assert m.step.seconds >= 1
            free = 0
            m.paused()
        if isinstance(m.step, List):
            m.listed(
                DECODER.page(json.dumps({"kind": "PodList", "metadata": {"resourceVersion": "7"}}).encode()).items,
                resource_version="7",
            )
        assert isinstance(m.step, Open | Pause)
        if isinstance(m.step, Pause):
            continue
        if not m.reading:
            m.opened(now)
            opened = now
        now += passed
        match move:
            case "line":
                m.line(line, now=now)
            case "ended":
                m.ended(now)
            case "silent":
                m.silent(now)
            case "unmarked":
                m.unmarked(now)
            case "failed":
                m.failed(error_from_body(len(line) * 10 + 300, line), now=now)
        # Steps without a pause are allowed only as often as streams lived, and for the two free retries of the
        # protocol: a first 410, and the way from watch-list to list.
        if not m.reading and not isinstance(m.step, Pause) and now - opened < 1:
            free += 1
        assert free <= 8


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    return draw(st.lists(st.tuples(st.sampled_from(["put", "delete"]), st.integers(0, 4)), max_size=30))


@given(
    history=histories(),
    cuts=st.sets(st.integers(0, 30)),
    expiries=st.sets(st.integers(0, 30)),
    watch_list=st.booleans(),
)
def test_a_consumer_ends_with_what_the_server_holds(
    history: list[tuple[str, int]], cuts: set[int], expiries: set[int], watch_list: bool
) -> None:
    """A model server with a log of events; streams are cut and versions expire at any moment."""
    state: dict[str, dict[str, Any]] = {}
    log: list[tuple[int, dict[str, Any]]] = []
    held: dict[str, str] = {}
    version = 1
    m = WatchMachine(DECODER, backoff=Backoff(base=1, factor=1, cap=1, jitter=0), watch_list=watch_list)

    def take(outputs: list[Output[Pod]]) -> None:
        for output in outputs:
            match output:
                case Snapshot(found):
                    held.clear()
                    held.update({o.metadata.name: o.metadata.resourceVersion for o in found})
                case Put(o):
                    held[o.metadata.name] = o.metadata.resourceVersion
                case Gone(o):
                    assert held.pop(o.metadata.name, None) is not None

    def send(value: Any) -> None:
        take(m.line(json.dumps(value).encode(), now=0.0))

    def run() -> None:
        """Lets the machine act until its stream has told everything."""
        for _ in range(10):
            match m.step:
                case Pause():
                    m.paused()
                case List():
                    page = {
                        "kind": "PodList",
                        "metadata": {"resourceVersion": str(version)},
                        "items": [*state.values()],
                    }
                    found = DECODER.page(json.dumps(page).encode())
                    take(m.listed(found.items, resource_version=found.resource_version))
                case Open(resource_version, initial_events):
                    if not m.reading:
                        take(m.opened(0.0))
                        if initial_events:
                            for item in state.values():
                                send(event("ADDED", item))
                            send(bookmark(version, end=True))
                            return
                        since = int(resource_version)
                        for at, happened in log:
                            if at > since:
                                send(happened)
                    return

    run()
    for i, (action, number) in enumerate(history):
        name = f"p{number}"
        version += 1
        if action == "put":
            happened = event("MODIFIED" if name in state else "ADDED", pod(name, version))
            state[name] = pod(name, version)
        elif name in state:
            del state[name]
            happened = event("DELETED", pod(name, version))
        else:
            continue
        log.append((version, happened))
        if i in cuts and m.reading:
            take(m.ended(0.0))
        elif i in expiries and m.reading:
            send(event("ERROR", status(410)))
        elif m.reading:
            send(happened)
        run()
    run()

    assert held == {name: item["metadata"]["resourceVersion"] for name, item in state.items()}


@given(texts=st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=20), data=st.data())
def test_lines_are_the_same_however_the_stream_is_cut_into_chunks(texts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(text + b"\n" for text in texts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    splitter = LineSplitter()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])

    assert found == [text for text in texts if text and not text.isspace()]
