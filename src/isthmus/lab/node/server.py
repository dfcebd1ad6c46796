"""The node's HTTP server, which the API server asks for logs, exec, attach and port-forward: a kubelet's port 10250.

Invariants: only a client certificate of the cluster's authority opens it; what is asked for is looked up among the pods
of this node, so a path can name nothing else; a request for something that is not there is answered with a reason that
kubectl shows. Answers to questions about pods that ended come from their files.
"""

import datetime
import ssl

from aiohttp import web

from isthmus.lab.node.containers.logs import OptionError, parse_options, read_log
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.streaming import serve_attach, serve_exec, serve_forward
from isthmus.lab.node.worker.pod import Finder
from isthmus.lab.node.worker.state import PodState

PORT = 10250


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
        for path, handler in (
            ("/exec/{namespace}/{pod}/{container}", self._exec),
            ("/attach/{namespace}/{pod}/{container}", self._attach),
            ("/portForward/{namespace}/{pod}", self._forward),
        ):
            # GET for WebSocket, POST for SPDY.
            app.router.add_route("GET", path, handler)
            app.router.add_route("POST", path, handler)
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
        return await serve_exec(request, worker, container)

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        worker, container = self._target(request)
        return await serve_attach(request, worker, container)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        return await serve_forward(request, self._pod(request))

    def _pod(self, request: web.Request) -> PodState:
        match = request.match_info
        worker = self._find(match["namespace"], match["pod"])
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{match["pod"]}" not found on this node')
        return worker.state

    def _target(self, request: web.Request) -> tuple[PodState, Container]:
        state = self._pod(request)
        match = request.match_info
        container = state.pod.container(match["container"])
        if container is None:
            raise web.HTTPNotFound(text=f"container {match['container']} is not valid for pod {match['pod']}")
        return state, container


def server_tls(*, certificate: str, key: str, ca: str) -> ssl.SSLContext:
    """Returns a context that asks clients for a certificate of `ca`; raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


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
