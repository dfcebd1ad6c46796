"""Requests for exec, attach and port-forward: from HTTP to sessions."""

import asyncio

from aiohttp import web

from isthmus.lab.images.catalog import UnknownImage
from isthmus.lab.node.environment.variables import ConfigError
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.sessions.channels import ERROR, STDERR, STDOUT, exited, success
from isthmus.lab.node.sessions.clients import STREAM_VERSION, Opened, ProtocolError, open_session
from isthmus.lab.node.sessions.portforward import ForwardError, StreamPairs, forward
from isthmus.lab.node.sessions.transfer import ExecError, Streams, attach, execute
from isthmus.lab.node.worker.launch import command_spec
from isthmus.lab.node.worker.state import PodState
from isthmus.lab.spdy import PROTOCOL, Session, Stream
from isthmus.lab.upgrade import accept

_FORWARD = "portforward.k8s.io"


async def serve_exec(request: web.Request, state: PodState, container: Container) -> web.StreamResponse:
    """Runs a command in a container for a client."""
    command = request.query.getall("command", [])
    if not command:
        raise web.HTTPBadRequest(text="you must specify at least one command for the container")
    run = state.runs.get(container.name)
    if run is None or run.pid is None:
        raise web.HTTPNotFound(text=f'container not found ("{container.name}")')
    streams = _streams(request)
    try:
        spec = await command_spec(state, container, tuple(command), tty=streams.tty)
    except (UnknownImage, ConfigError) as error:
        raise web.HTTPInternalServerError(text=str(error)) from error
    opened = await _open(request, streams)
    try:
        await execute(opened.client, keeper=state.context.keeper, target=run.process, spec=spec, streams=streams)
    except ExecError as error:
        said = f"OCI runtime exec failed: exec failed: unable to start container process: {error}\r\n"
        await opened.client.send(STDERR if streams.stderr else STDOUT, said.encode())
        await opened.client.send(ERROR, exited(error.exit_code))
    return await opened.close()


async def serve_attach(request: web.Request, state: PodState, container: Container) -> web.StreamResponse:
    """Joins a client to a running container."""
    output = state.outputs.get(container.name)
    run = state.runs.get(container.name)
    # A run that is over may still be attached to once: somebody asked for its output before it began.
    if output is None or (run is None and output.seen):
        raise web.HTTPNotFound(text=f"container {container.name} not found in pod {state.pod.where}: not running")
    streams = _streams(request)
    opened = await _open(request, streams)
    await attach(opened.client, output=output, run=run, streams=streams, once=container.stdinOnce)
    try:
        # Attaching succeeded; how the container ended is in the pod's status, where kubectl looks for it.
        await opened.client.send(ERROR, success())
    except ConnectionError:
        pass  # it was the client who ended it
    return await opened.close()


async def serve_forward(request: web.Request, state: PodState) -> web.StreamResponse:
    """Connects a client with ports of a pod, a pair of streams for each connection."""
    if request.headers.get("Upgrade", "").lower() != PROTOCOL.lower():
        raise web.HTTPBadRequest(text=f"unable to upgrade: {PROTOCOL} is needed")
    if _FORWARD not in ",".join(request.headers.getall(STREAM_VERSION, [_FORWARD])):
        raise web.HTTPForbidden(text=f"unable to upgrade: unsupported protocol, {_FORWARD} is needed")
    if not state.runs:
        raise web.HTTPInternalServerError(text=f"unable to forward port because pod is not running: {state.pod.where}")
    namespace = state.place.namespace("net")
    accepted = await accept(request, PROTOCOL, {STREAM_VERSION: _FORWARD})
    pairs = StreamPairs()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(error: Stream, data: Stream, port: int) -> None:
        try:
            try:
                await forward("/proc/self/ns/net" if state.pod.spec.hostNetwork else namespace, port, data)
            except (ForwardError, OSError) as failure:
                text = f"error forwarding port {port} to pod {state.pod.metadata.uid}, uid : {failure}"
                await error.write(text.encode())
            await data.end()
            await error.end()
        except ConnectionError:
            return  # the client has gone

    def opened(stream: Stream) -> None:
        pair = pairs.add(stream)
        if pair is not None:
            task = asyncio.create_task(serve(*pair))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    try:
        await Session(accepted, opened).run()
    finally:
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return accepted.response


async def _open(request: web.Request, streams: Streams) -> Opened:
    wanted = {name for name in ("stdin", "stdout", "stderr") if getattr(streams, name)}
    try:
        return await open_session(request, wanted | ({"resize"} if streams.tty else set()))
    except ProtocolError as error:
        raise web.HTTPBadRequest(text=str(error)) from error


def _streams(request: web.Request) -> Streams:
    """Reads both spellings: the API server's own and the one that it uses towards kubelets."""

    def asked(*names: str) -> bool:
        return any(request.query.get(name) in ("true", "1") for name in names)

    tty = asked("tty")
    return Streams(
        stdin=asked("stdin", "input"),
        stdout=asked("stdout", "output"),
        stderr=asked("stderr", "error") and not tty,
        tty=tty,
    )
