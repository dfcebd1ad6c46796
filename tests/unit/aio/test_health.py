import socket

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from isthmus.aio.health import BindError, HealthServer, parse_bind


async def get(server: HealthServer, path: str) -> tuple[int, str]:
    assert server.address is not None
    host, port = server.address
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as response:
        return response.status, await response.text()


async def test_readiness_lists_each_check_and_says_why_it_failed() -> None:
    reason: str | None = "no list yet"
    server = HealthServer("127.0.0.1:0", registry=CollectorRegistry())
    server.add_ready("cluster-1", lambda: reason)
    server.add_ready("etcd", lambda: None)
    async with server:
        assert await get(server, "/readyz") == (
            503,
            "[-]cluster-1 failed: no list yet\n[+]etcd ok\nreadyz check failed\n",
        )
        reason = None
        assert (await get(server, "/readyz"))[0] == 200
        assert await get(server, "/healthz") == (200, "healthz check passed\n")


async def test_without_checks_it_is_not_ready() -> None:
    async with HealthServer("127.0.0.1:0", registry=CollectorRegistry()) as server:
        status, text = await get(server, "/readyz")

    assert status == 503
    assert "no check" in text


async def test_a_check_that_raises_counts_as_failed() -> None:
    server = HealthServer("127.0.0.1:0", registry=CollectorRegistry())
    server.add_live("loop", lambda: str(1 // 0))
    async with server:
        status, text = await get(server, "/healthz")

    assert status == 503
    assert "[-]loop failed: ZeroDivisionError" in text


async def test_metrics_are_served_from_the_given_registry() -> None:
    registry = CollectorRegistry()
    Counter("isthmus_things", "Things.", registry=registry).inc(3)
    async with HealthServer("127.0.0.1:0", registry=registry) as server:
        status, text = await get(server, "/metrics")

    assert status == 200
    assert "isthmus_things_total 3.0" in text


async def test_an_address_in_use_is_an_error_that_names_the_flag() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=rf"--metrics-bind: cannot listen on 127\.0\.0\.1:{port}"):
            async with HealthServer(f"127.0.0.1:{port}", flag="--metrics-bind"):
                pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:8080", ("::1", 8080)),
        (":0", ("", 0)),
        ("host:65535", ("host", 65535)),
    ],
)
def test_bind_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_bind(text, flag="--health-bind") == expected


@pytest.mark.parametrize("text", ["", "80", "host:", "host:x", "host:65536", "::1:80", "host:-1", "host:²"])
def test_bad_bind_addresses_name_the_flag(text: str) -> None:
    with pytest.raises(BindError, match="--health-bind"):
        parse_bind(text, flag="--health-bind")
