"""kubectl's exec and port-forward over SPDY, as old kubectl upgrades and as new kubectl tunnels it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.test_apiserver_kubectl import set_running, with_node
from tests.support.apiserver import KUBECTL, ApiServer, FakeNode, needs_kubectl, running_apiserver

pytestmark = [pytest.mark.kubectl, needs_kubectl]

OLD = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"}
"""Makes kubectl since 1.31 do as kubectl did before."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("spdy")) as running:
        yield running


@pytest.fixture
async def pod(server: ApiServer, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A pod that a fake node runs; its name is the node's too."""
    name = f"p{abs(hash(request.node.name)) % 10**8}"
    async with FakeNode().running() as node:
        await with_node(server, node, name=name)
        await server.ok("run", name, "--image=busybox")
        await set_running(server, "default", name, ip="10.10.0.9", node=name)
        yield name


@contextlib.asynccontextmanager
async def forwarding(server: ApiServer, pod: str, ports: str, **environment: str) -> AsyncIterator[int]:
    """Runs port-forward; yields the local port."""
    process = await asyncio.create_subprocess_exec(
        KUBECTL or "kubectl", "port-forward", f"pod/{pod}", ports,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=server.environment(**environment),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("Forwarding from 127.0.0.1:"), line
        yield int(line.split(":")[1].split(" ")[0])
    finally:
        process.terminate()
        await process.communicate()


async def said(port: int, *words: bytes) -> bytes:
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for word in words:
            writer.write(word)
            await writer.drain()
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer


@pytest.mark.parametrize("environment", [{}, OLD], ids=["tunnelled", "upgraded"])
async def test_a_port_is_forwarded_to_many_at_once(server: ApiServer, pod: str, environment: dict[str, str]) -> None:
    async with forwarding(server, pod, ":80", **environment) as port:
        assert await said(port, b"hello") == b"HELLO"
        big = b"abcdefgh" * 50_000
        assert await asyncio.gather(said(port, b"a"), said(port, big), said(port, b"b", b"c")) == [
            b"A",
            big.upper(),
            b"BC",
        ]


async def test_a_port_where_nobody_listens_says_so(server: ApiServer, pod: str) -> None:
    async with forwarding(server, pod, ":9") as port:
        assert await said(port, b"hello") == b""


async def test_exec_over_spdy(server: ApiServer, pod: str) -> None:
    status, output, complaints = await server.run("exec", pod, "--", "echo", "a b", **OLD)
    assert (status, output) == (0, "ran echo a b\n"), complaints
    status, _, complaints = await server.run("exec", pod, "--", "false", **OLD)
    assert status == 3 and "exit code 3" in complaints
    status, output, complaints = await server.run("exec", "-i", pod, "--", "cat", stdin="typed\n", **OLD)
    assert (status, output) == (0, "ran cat\ntyped\n"), complaints


async def test_a_pod_that_no_node_runs_cannot_be_forwarded_to(server: ApiServer, tmp_path: Path) -> None:
    await server.ok("run", "waiting", "--image=busybox")
    assert "status=Pending" in await server.fails("port-forward", "pod/waiting", ":80", "--pod-running-timeout=1s")
