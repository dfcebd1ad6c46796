"""Probes against servers of this process: what counts as an answer, and how failures are worded."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from aiohttp import web

from isthmus.lab.node.pods.container import Container, ContainerPort, GrpcAction, HttpGet, HttpHeader, Probe, TcpSocket
from isthmus.lab.node.probes.perform import Answer, Asker, CommandFailed

HOST = "127.0.0.1"


async def no_command(_words: tuple[str, ...], _limit: float | None) -> tuple[int, str]:
    raise CommandFailed("no container")


@pytest.fixture
async def asker() -> AsyncIterator[Asker]:
    made = Asker()
    yield made
    await made.close()


@pytest.fixture
async def server() -> AsyncIterator[int]:
    """An HTTP server's port."""

    async def answer(request: web.Request) -> web.Response:
        match request.path:
            case "/moved":
                raise web.HTTPFound("/healthy")
            case "/elsewhere":
                raise web.HTTPFound("http://elsewhere.invalid/")
            case "/loop":
                raise web.HTTPFound("/loop")
            case "/slow":
                await asyncio.sleep(30)
            case "/sick":
                return web.Response(status=503)
            case "/agent":
                good = request.headers["User-Agent"].startswith("kube-probe/") and request.headers["X-Own"] == "1"
                return web.Response(status=200 if good else 400)
        return web.Response()

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def ask(asker: Asker, port: int, probe: Probe) -> "asyncio.Future[Answer]":
    container = Container(name="c", ports=(ContainerPort(port, "http"),))
    return asyncio.ensure_future(asker.ask(probe, container, pod_ip=HOST, run=no_command))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/healthy", ""),
        ("healthy", ""),
        ("/moved", ""),
        ("/elsewhere", ""),
        ("/sick", "HTTP probe failed with statuscode: 503"),
        ("/loop", "stopped after 10 redirects"),
        ("/slow", "context deadline exceeded"),
    ],
)
async def test_http(asker: Asker, server: int, path: str, text: str) -> None:
    answer = await ask(asker, server, Probe(httpGet=HttpGet(port="http", path=path)))
    assert answer.ok == (not text)
    assert text in answer.text


async def test_http_sends_the_headers_it_was_given(asker: Asker, server: int) -> None:
    action = HttpGet(port=server, path="/agent", httpHeaders=(HttpHeader("X-Own", "1"),))
    assert (await ask(asker, server, Probe(httpGet=action))).ok


async def test_a_port_name_that_there_is_not_is_an_error(asker: Asker, server: int) -> None:
    answer = await ask(asker, server, Probe(tcpSocket=TcpSocket(port="metrics")))
    assert (answer.ok, answer.error, answer.text) == (False, True, "couldn't find port: metrics")


async def test_tcp(asker: Asker, server: int, unused_tcp_port: int) -> None:
    assert (await ask(asker, server, Probe(tcpSocket=TcpSocket(port="http")))).ok
    answer = await ask(asker, server, Probe(tcpSocket=TcpSocket(port=unused_tcp_port)))
    assert answer.text == f"dial tcp {HOST}:{unused_tcp_port}: connect: connection refused"


class Health(grpc.GenericRpcHandler):
    """grpc.health.v1.Health without generated code."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        async def check(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            match request:
                case b"":
                    return b"\x08\x01"
                case b"\x0a\x04sick":
                    return b"\x08\x02"
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
            raise AssertionError

        if details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(check)


async def test_grpc(asker: Asker, server: int, unused_tcp_port: int) -> None:
    health = grpc.aio.server()
    health.add_generic_rpc_handlers((Health(),))
    port = health.add_insecure_port(f"{HOST}:0")
    await health.start()
    try:
        assert (await ask(asker, port, Probe(grpc=GrpcAction(port=port)))).ok
        sick = await ask(asker, port, Probe(grpc=GrpcAction(port=port, service="sick")))
        assert sick.text == 'service unhealthy (responded with "NOT_SERVING")'
        unknown = await ask(asker, port, Probe(grpc=GrpcAction(port=port, service="none")))
        assert "the server gave no health status" in unknown.text
        # An HTTP/1.1 server is no gRPC server, and nobody at all is refused.
        assert not (await ask(asker, server, Probe(grpc=GrpcAction(port=server)))).ok
        nobody = await ask(asker, server, Probe(grpc=GrpcAction(port=unused_tcp_port)))
        assert "connection refused" in nobody.text
    finally:
        await health.stop(0)
