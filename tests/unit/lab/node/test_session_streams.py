"""Which streams of a SPDY session an exec waits for: as many as a kubelet does, of whatever kinds."""

import asyncio

import pytest
from aiohttp import web

from isthmus.lab import upgrade
from isthmus.lab.node.sessions.channels import ERROR, STDERR, STDOUT, success
from isthmus.lab.node.sessions.clients import STREAM_VERSION, open_session
from isthmus.lab.spdy import PROTOCOL
from isthmus.wire import spdy

VERSION = ((STREAM_VERSION, "v4.channel.k8s.io"),)


async def converse(wanted: set[str], opened: list[str], *, then_leave: bool = False) -> dict[str, bytes]:
    """Opens streams of these types; returns what a session that wants `wanted` says on each."""

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            session = await open_session(request, wanted)
        except ConnectionError:
            ended.set()
            raise
        await session.client.send(STDOUT, b"out")
        await session.client.send(STDERR, b"err")
        await session.client.send(ERROR, success())
        return await session.close()

    ended = asyncio.Event()
    app = web.Application()
    app.router.add_post("/exec", serve)
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    said = dict.fromkeys(opened, b"")
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with asyncio.timeout(10):
            ask = upgrade.Ask(method="POST", path="/exec", protocol=PROTOCOL, headers=VERSION)
            connection = await upgrade.dial(host, port, ask, tls=None)
            codec = spdy.Codec(server=False)
            names = {}
            for kind in opened:
                number, frame = codec.open({"streamtype": kind})
                names[number] = kind
                await connection.write(frame)
            if then_leave:
                await connection.close()
                await ended.wait()
            while data := await connection.read():
                for event in codec.receive(data):
                    if isinstance(event, spdy.Data):
                        said[names[event.stream]] += event.data
            await connection.close()
    finally:
        await runner.cleanup()
    return said


@pytest.mark.parametrize(
    ("wanted", "opened"),
    [
        ({"stdout", "stderr"}, ["error", "stdout", "stderr"]),
        ({"stdin", "stdout", "resize"}, ["error", "stdin", "stdout", "resize"]),
        # A client that asks for a terminal, and opens standard error in the place of the stream for its size.
        ({"stdout", "resize"}, ["error", "stdout", "stderr"]),
    ],
)
async def test_a_session_begins_with_as_many_streams_as_it_wants(wanted: set[str], opened: list[str]) -> None:
    said = await converse(wanted, opened)
    assert said["stdout"] == b"out"
    assert said.get("stderr", b"err") == b"err"
    assert b"Success" in said["error"]


@pytest.mark.parametrize("opened", [["error"], ["error", "stdout"], ["error", "stdout", "stdout"], ["error", "a", "b"]])
async def test_a_client_that_leaves_before_it_has_opened_enough_is_not_served(opened: list[str]) -> None:
    assert not any((await converse({"stdout", "stderr"}, opened, then_leave=True)).values())
