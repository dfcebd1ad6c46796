"""The hands: pace, refusals, insistence."""

import asyncio
import itertools
from typing import Any

import msgspec
import pytest

from isthmus.aio.pace import Pace
from isthmus.kube.errors import Conflict, ConnectionFailed, Forbidden, Invalid, KubeError, NotFound
from isthmus.kube.meshobjects import MeshCluster
from isthmus.kube.resources import MESH_CLUSTERS
from isthmus.kube.schema import ObjectMeta, ObjectReference
from isthmus.mesh.control.effects import Change, Create, Delete, Tell
from isthmus.mesh.control.insistence import Insistence
from isthmus.mesh.control.performing import Hands

pytestmark = pytest.mark.looptime

ABOUT = ObjectReference("Service", "demo", "web")


def create(name: str = "a", *, namespace: str = "") -> Create:
    return Create(MESH_CLUSTERS, namespace, name, {"metadata": {"name": name}})


def change(state: str = "Synced", name: str = "a") -> Change:
    return Change(MESH_CLUSTERS, "", name, {"status": {"state": state}}, status=True)


class Server:
    """Answers with what it was told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float]] = []
        self.answer: KubeError | None = None

    def _take(self, verb: str, name: str) -> MeshCluster:
        self.asked.append((verb, name, asyncio.get_running_loop().time()))
        if self.answer is not None:
            raise self.answer
        return MeshCluster(metadata=ObjectMeta(name))

    async def create(self, _resource: Any, body: Any, **_: Any) -> MeshCluster:
        return self._take("create", body["metadata"]["name"])

    async def patch(self, _resource: Any, name: str, _body: Any, **_: Any) -> MeshCluster:
        return self._take("patch", name)

    async def delete(self, _resource: Any, name: str, **_: Any) -> bytes:
        self._take("delete", name)
        return b""

    def emit(self, _about: Any, *, reason: str, **_: Any) -> None:
        self.asked.append(("emit", reason, asyncio.get_running_loop().time()))

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _, _ in self.asked]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def hands(server: Server) -> Hands:
    return made(server)


def made(server: Server, *, rate: float = 1000.0, burst: int = 1000) -> Hands:
    return Hands(
        server,
        server,
        show=lambda _resource, _stored: None,
        types={MESH_CLUSTERS: MeshCluster},
        pace=Pace(rate=rate, burst=burst),
        rng=lambda: 0.0,
    )


async def test_writes_keep_to_a_pace_after_a_burst(server: Server) -> None:
    hands = made(server, rate=10, burst=5)
    await asyncio.gather(*(hands.do([create(f"n{n}")]) for n in range(25)))
    times = [moment for _, _, moment in server.asked]
    assert times[4] == times[0]
    assert times[-1] - times[0] == pytest.approx(2.0)


async def test_a_kind_that_is_refused_is_tried_by_one_object_for_all(server: Server, hands: Hands) -> None:
    server.answer = Forbidden(status=403, message="no")
    delays = [await hands.do([create(name)]) for name in "abc"]
    assert len(server.asked) == 1
    assert all(delay is not None and delay > 10 for delay in delays)
    await asyncio.sleep(16)
    assert await hands.do([create("b")]) == pytest.approx(27, abs=3)
    assert len(server.asked) == 2
    server.answer = None
    await asyncio.sleep(31)
    assert await hands.do([create("a"), change()]) is None
    assert await hands.do([create("c")]) is None


@pytest.mark.parametrize(
    ("answer", "write"),
    [
        (NotFound(status=404, message='namespaces "demo" not found'), create(namespace="demo")),
        (NotFound(status=404, message="not found"), Delete(MESH_CLUSTERS, "", "a", "uid")),
        (Forbidden(status=403, message="because it is being terminated"), create()),
    ],
)  # fmt: skip
async def test_what_goes_with_its_namespace_or_is_gone_is_done(
    server: Server, hands: Hands, answer: KubeError, write: Any
) -> None:
    server.answer = answer
    assert await hands.do([write]) is None


async def test_an_object_that_changed_meanwhile_is_looked_at_again_soon(server: Server, hands: Hands) -> None:
    server.answer = Conflict(status=409, message="changed")
    assert await hands.do([change()]) == 1.0


async def test_a_status_that_cannot_be_found_is_not_asked_for_every_second(server: Server, hands: Hands) -> None:
    server.answer = NotFound(status=404, message="the server could not find the requested resource")
    again = await hands.do([msgspec.structs.replace(change(), status=True)])
    assert again is not None
    assert again > 10


@pytest.mark.parametrize("answer", [ConnectionFailed("away"), Invalid(status=422, message="bad")])
async def test_what_a_pause_may_mend_is_passed_on(server: Server, hands: Hands, answer: KubeError) -> None:
    server.answer = answer
    with pytest.raises(type(answer)):
        await hands.do([change()])


async def test_words_follow_only_what_was_done(server: Server, hands: Hands) -> None:
    tell = Tell(ABOUT, "Said", "text")
    server.answer = Conflict(status=409, message="changed")
    await hands.do([change(), tell])
    assert server.verbs == ["patch"]
    server.answer = None
    await hands.do([change(), tell])
    assert server.verbs == ["patch", "patch", "emit"]


async def test_what_follows_a_creation_that_failed_waits_and_others_do_not(server: Server, hands: Hands) -> None:
    server.answer = NotFound(status=404, message="the server could not find the requested resource")
    await hands.do([create("a"), change(name="a")])
    assert server.verbs == ["create"]


async def test_who_keeps_changing_what_we_write_is_overruled_ever_more_rarely(server: Server, hands: Hands) -> None:
    loop = asyncio.get_running_loop()
    began, moments = loop.time(), []
    while loop.time() - began < 3600:
        delay = await hands.do([change()])
        if delay is None:
            moments.append(loop.time() - began)
            delay = 0.01
        await asyncio.sleep(delay)
    assert moments[1] < 0.1
    gaps = [later - sooner for sooner, later in itertools.pairwise(moments[1:])]
    assert gaps[0] == pytest.approx(2, abs=0.1)
    assert max(gaps) <= 300.1
    assert 12 < len(moments) < 25


async def test_a_world_that_changes_is_no_fight(server: Server, hands: Hands) -> None:
    for n in range(50):
        assert await hands.do([change(("Synced", "Degraded")[n % 2])]) is None


def test_who_leaves_it_alone_is_forgiven() -> None:
    insistence = Insistence(rng=lambda: 0.0)
    for _ in range(4):
        insistence.wrote(change(), now=0.0)
    assert insistence.delay(change(), now=1.0)[0] > 1
    assert insistence.delay(change(), now=901.0) == (0.0, 0)


def test_an_object_that_we_deleted_is_made_again_at_once() -> None:
    insistence = Insistence(rng=lambda: 0.0)
    for _ in range(4):
        insistence.wrote(create(), now=0.0)
    insistence.wrote(Delete(MESH_CLUSTERS, "", "a", "uid"), now=0.0)
    assert insistence.delay(create(), now=0.0) == (0.0, 0)


async def test_what_was_not_created_is_not_written_to(server: Server, hands: Hands) -> None:
    server.answer = Conflict(status=409, message="later")
    assert await hands.do([create("a"), change(name="a"), change(name="b")]) == 1.0
    assert [(verb, name) for verb, name, _ in server.asked] == [("create", "a"), ("patch", "b")]
