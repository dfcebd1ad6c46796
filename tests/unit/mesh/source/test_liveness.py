"""Whether an API server answers at all, in virtual time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest

from isthmus.kube.client import Client
from isthmus.kube.errors import ConnectionFailed, CredentialError, Forbidden, KubeError, ServerFailure, TooManyRequests
from isthmus.kube.reflector import Degraded, Healthy, State
from isthmus.mesh.source.liveness import LATE, LIMIT, PERIOD, SOON, follow_liveness

pytestmark = pytest.mark.looptime


class Server:
    """Stands for a client of a server that answers, refuses, or is silent, as told."""

    def __init__(self) -> None:
        self.error: KubeError | None = None
        self.takes = 0.0
        self.asked: list[float] = []

    async def raw(self, method: str, path: str, *, time_limit: float) -> bytes:
        assert (method, path, time_limit) == ("GET", "/version", LIMIT)
        self.asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return b"{}"

    def fall_silent(self) -> None:
        self.error, self.takes = ConnectionFailed("GET /version: no answer in 3 s"), LIMIT


@contextlib.asynccontextmanager
async def following(server: Server, tell: Callable[[State], None], rng: float = 0.0) -> AsyncIterator[None]:
    work: Awaitable[Any] = follow_liveness(cast(Client, server), tell, rng=lambda: rng)
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_server_that_falls_silent_is_known_within_ten_seconds_and_said_to_answer_again() -> None:
    server, told = Server(), list[State]()
    async with following(server, told.append):
        await asyncio.sleep(PERIOD + 0.1)
        server.fall_silent()
        await asyncio.sleep(PERIOD + LIMIT + SOON + LIMIT - 0.2)
        assert told == []
        await asyncio.sleep(0.4)
        assert told == [Degraded("the API server does not answer: GET /version: no answer in 3 s")]
        server.error, server.takes = None, 0.0
        await asyncio.sleep(LIMIT + PERIOD)
        assert told[-1] == Healthy() and told.count(Healthy()) == 1
    assert PERIOD + LIMIT + SOON + LIMIT <= 10


async def test_one_answer_that_is_lost_is_no_silence() -> None:
    server, told = Server(), list[State]()
    async with following(server, told.append):
        for _ in range(5):
            server.fall_silent()
            asked = len(server.asked)
            while len(server.asked) == asked:
                await asyncio.sleep(0.1)
            await asyncio.sleep(LIMIT + 0.1)
            server.error, server.takes = None, 0.0
            await asyncio.sleep(PERIOD)
    assert told == []


@pytest.mark.parametrize(
    "error",
    [
        Forbidden(message="may not", status=403, reason="Forbidden"),
        TooManyRequests(message="later", status=429, reason="TooManyRequests"),
        ServerFailure(message="broken", status=500, reason="InternalError"),
        CredentialError("the plugin failed"),
    ],
)
async def test_a_refusal_is_an_answer(error: KubeError) -> None:
    server, told = Server(), list[State]()
    server.error = error
    async with following(server, told.append):
        await asyncio.sleep(60)
    assert told == []


async def test_a_refusal_ends_a_silence() -> None:
    server, told = Server(), list[State]()
    server.fall_silent()
    async with following(server, told.append):
        await asyncio.sleep(12)
        server.error, server.takes = Forbidden(message="may not", status=403, reason="Forbidden"), 0.0
        await asyncio.sleep(LIMIT + PERIOD)
    assert [type(state) for state in told][-1] is Healthy


async def test_misses_while_we_did_not_listen_do_not_count() -> None:
    server, told = Server(), list[State]()
    server.fall_silent()
    server.takes = LIMIT + LATE + 0.1
    async with following(server, told.append):
        await asyncio.sleep(60)
    assert told == []


async def test_questions_of_many_trackers_do_not_keep_step() -> None:
    late, early = Server(), Server()
    async with following(late, lambda _: None), following(early, lambda _: None, rng=1.0):
        await asyncio.sleep(29)
    assert len(late.asked) == 9
    assert len(early.asked) == 12
