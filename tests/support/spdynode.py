"""What a node does with connections that are upgraded to SPDY: echoes, for exec and port-forward."""

import asyncio
import json
from typing import Any

from aiohttp import web

from isthmus.lab.spdy import PROTOCOL, Session, Stream
from isthmus.lab.upgrade import accept

VERSION = "X-Stream-Protocol-Version"
REFUSED_PORT = "9"


async def port_forward(request: web.Request) -> web.StreamResponse:
    """Echoes in capitals whatever is sent to any port; nobody listens on REFUSED_PORT."""
    assert request.headers["Upgrade"] == PROTOCOL
    accepted = await accept(request, PROTOCOL, {VERSION: "portforward.k8s.io"})
    errors: dict[str, Stream] = {}

    async def echo(stream: Stream) -> None:
        error = errors.pop(stream.headers["requestid"])
        if stream.headers["port"] == REFUSED_PORT:
            await error.write(b"connection refused in the pod")
        else:
            while data := await stream.read():
                await stream.write(data.upper())
        await stream.end()
        await error.end()

    async with asyncio.TaskGroup() as group:

        def opened(stream: Stream) -> None:
            if stream.headers["streamtype"] == "error":
                errors[stream.headers["requestid"]] = stream
            else:
                group.create_task(echo(stream))

        await Session(accepted, opened).run()
    return accepted.response


async def execute(request: web.Request) -> web.StreamResponse:
    """Says what it was asked to run, echoes standard input, and ends with status 3 for `false`, else 0."""
    versions = request.headers.getall(VERSION)
    assert "v4.channel.k8s.io" in versions
    accepted = await accept(request, PROTOCOL, {VERSION: "v4.channel.k8s.io"})
    command = request.query.getall("command", [])
    wanted = {"error", *(name for name, word in _STREAMS.items() if request.query.get(word))}
    streams: dict[str, Stream] = {}
    complete = asyncio.Event()

    def opened(stream: Stream) -> None:
        streams[stream.headers["streamtype"]] = stream
        if wanted <= streams.keys():
            complete.set()

    async def work() -> None:
        await complete.wait()
        await streams["stdout"].write(" ".join(["ran", *command]).encode() + b"\n")
        if "stdin" in streams:
            while data := await streams["stdin"].read():
                await streams["stdout"].write(data)
        status: dict[str, Any] = {"metadata": {}, "status": "Success"}
        if command[:1] == ["false"]:
            details = {"causes": [{"reason": "ExitCode", "message": "3"}]}
            status = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "details": details}
        await streams["error"].write(json.dumps(status).encode())
        for stream in streams.values():
            await stream.end()

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        await Session(accepted, opened).run()
    return accepted.response


_STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error"}
