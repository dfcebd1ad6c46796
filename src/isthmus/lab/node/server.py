"""The node's HTTP server, which the API server asks for logs, exec and attach: a kubelet's port 10250.

Invariants: only a client certificate of the cluster's authority opens it; what is asked for is looked up among the pods
of this node, so a path can name nothing else; a request for something that is not there is answered with a reason that
kubectl shows. Answers to questions about pods that ended come from their files.
"""

import datetime
import ssl

from aiohttp import WSCloseCode, web

from isthmus.lab.images.catalog import UnknownImage
from isthmus.lab.node.containers.logs import OptionError, parse_options, read_log
from isthmus.lab.node.environment.variables import ConfigError
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.sessions.channels import PROTOCOLS, STDERR, STDOUT, encode, exited, success
from isthmus.lab.node.sessions.transfer import ExecError, Streams, attach, execute
from isthmus.lab.node.worker.launch import command_spec
from isthmus.lab.node.worker.pod import Finder
from isthmus.lab.node.worker.state import PodState

PORT = 10250

_MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of a WebSocket message; clients send 32 KiB."""


class NodeServer:
    """Serves the pods that `find` knows on `addresses`, TLS both ways."""

    def __init__(self, find: Finder, *, addresses: tuple[str, ...], tls: ssl.SSLContext, port: int = PORT) -> None:
        self._find = find
        self._addresses = addresses
        self._port = port
        self._tls = tls
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "NodeServer":
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for verb, handler in (("exec", self._exec), ("attach", self._attach)):
            app.router.add_get(f"/{verb}/{{namespace}}/{{pod}}/{{container}}", handler)
        # A session that nobody ends must not hold up the end of this process.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        for address in self._addresses:
            await web.TCPSite(self._runner, address, self._port, ssl_context=self._tls).start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        worker, container = self._target(request)
        try:
            options = parse_options(request.query, now=datetime.datetime.now(datetime.UTC))
        except OptionError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        record = worker.records.get(container.name)
        name = worker.pod.metadata.name
        attempt = (record.attempt if record else 0) - (1 if options.previous else 0)
        if options.previous and attempt < 1:
            raise web.HTTPBadRequest(text=f'previous terminated container "{container.name}" in pod "{name}" not found')
        if record is None or attempt < 1:
            raise web.HTTPBadRequest(text=_not_started(worker, container))
        log = worker.place.container(container.name, attempt).log
        output = None if options.previous else worker.outputs.get(container.name)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for piece in read_log(log, options, output=output):
            await response.write(piece)
        await response.write_eof()
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        worker, container = self._target(request)
        command = request.query.getall("command", [])
        if not command:
            raise web.HTTPBadRequest(text="you must specify at least one command for the container")
        run = worker.runs.get(container.name)
        if run is None or run.pid is None:
            raise web.HTTPNotFound(text=f'container not found ("{container.name}")')
        streams = _streams(request)
        try:
            spec = await command_spec(worker, container, tuple(command), tty=streams.tty)
        except (UnknownImage, ConfigError) as error:
            raise web.HTTPInternalServerError(text=str(error)) from error
        socket = await _open(request, streams)
        try:
            await execute(socket, keeper=worker.context.keeper, target=run.process, spec=spec, streams=streams)
        except ExecError as error:
            said = f"OCI runtime exec failed: exec failed: unable to start container process: {error}\r\n"
            await socket.send_bytes(encode(STDERR if streams.stderr else STDOUT, said.encode()))
            await socket.send_bytes(exited(error.exit_code))
        await socket.close(code=WSCloseCode.OK)
        return socket

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        worker, container = self._target(request)
        output = worker.outputs.get(container.name)
        run = worker.runs.get(container.name)
        # A run that is over may still be attached to once: somebody asked for its output before it began.
        if output is None or (run is None and output.seen):
            raise web.HTTPNotFound(text=f"container {container.name} not found in pod {worker.pod.where}: not running")
        streams = _streams(request)
        socket = await _open(request, streams)
        await attach(socket, output=output, run=run, streams=streams, once=container.stdinOnce)
        if not socket.closed:
            # Attaching succeeded; how the container ended is in the pod's status, where kubectl looks for it.
            await socket.send_bytes(success())
        await socket.close(code=WSCloseCode.OK)
        return socket

    def _target(self, request: web.Request) -> tuple[PodState, Container]:
        match = request.match_info
        worker = self._find(match["namespace"], match["pod"])
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{match["pod"]}" not found on this node')
        container = worker.state.pod.container(match["container"])
        if container is None:
            raise web.HTTPNotFound(text=f"container {match['container']} is not valid for pod {match['pod']}")
        return worker.state, container


def server_tls(*, certificate: str, key: str, ca: str) -> ssl.SSLContext:
    """Returns a context that asks clients for a certificate of `ca`; raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _open(request: web.Request, streams: Streams) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=_MAX_MESSAGE)
    await socket.prepare(request)
    # Tells the client that the streams are there, before there is anything to say (as kubelets do).
    await socket.send_bytes(encode(STDOUT if streams.stdout else STDERR, b""))
    return socket


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


def _not_started(worker: PodState, container: Container) -> str:
    record = worker.records.get(container.name)
    reason = record.waiting.value if record is not None else "ContainerCreating"
    name = worker.pod.metadata.name
    return f'container "{container.name}" in pod "{name}" is waiting to start: {_spoken(reason)}'


def _spoken(reason: str) -> str:
    return {
        "ImagePullBackOff": "trying and failing to pull image",
        "ErrImagePull": "image can't be pulled",
    }.get(reason, reason)
