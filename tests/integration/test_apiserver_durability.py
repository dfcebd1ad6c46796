"""What was acknowledged survives the end of the process, however it ends."""

import asyncio
import json
import resource
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.support.apiserver import TOKEN, ApiServer, running_apiserver

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def config_map(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": name}}


def listed(server: ApiServer, path: str) -> dict[str, str]:
    """Name -> resourceVersion of what a path lists."""
    code, body = server.request("GET", path)
    assert code == 200, body
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in json.loads(body)["items"]}


async def test_no_acknowledged_write_is_lost_by_kill_9(tmp_path: Path) -> None:
    with running_apiserver(tmp_path) as server:
        acknowledged: dict[str, str] = {}
        path = f"{server.url}/api/v1/namespaces/default/configmaps"
        enough = asyncio.Event()

        async def write(session: aiohttp.ClientSession, worker: int) -> None:
            for number in range(10_000):
                name = f"w{worker}-{number}"
                async with session.post(path, json=config_map(name), headers=HEADERS) as answer:
                    if answer.status != 201:
                        return
                    acknowledged[name] = (await answer.json())["metadata"]["resourceVersion"]
                if len(acknowledged) > 200:
                    enough.set()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=server.tls())) as session:
            writers = [asyncio.create_task(write(session, worker)) for worker in range(8)]
            async with asyncio.timeout(30):
                await enough.wait()
            server.kill()
            done = await asyncio.gather(*writers, return_exceptions=True)
            assert all(isinstance(found, aiohttp.ClientError) for found in done)
        server.start()
        kept = listed(server, "/api/v1/namespaces/default/configmaps")
        assert acknowledged.items() <= kept.items()
        # Whatever else is there was written and not acknowledged in time; versions go on from the highest.
        code, body = server.request("POST", "/api/v1/namespaces/default/configmaps", config_map("after"))
        assert code == 201
        assert int(json.loads(body)["metadata"]["resourceVersion"]) > max(int(version) for version in kept.values())


def test_a_restart_keeps_addresses_and_frees_those_of_deleted_services(tmp_path: Path) -> None:
    def service(name: str) -> dict[str, object]:
        return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}

    path = "/api/v1/namespaces/default/services"
    with running_apiserver(tmp_path) as server:
        given = []
        for name in ("a", "b"):
            code, body = server.request("POST", path, service(name))
            assert code == 201
            given.append(json.loads(body)["spec"]["clusterIP"])
        assert server.stop() == 0
        server.start()
        code, body = server.request("POST", path, service("c"))
        assert json.loads(body)["spec"]["clusterIP"] not in given
        assert server.request("DELETE", f"{path}/a")[0] == 200
        code, body = server.request("POST", path, service("d"))
        assert json.loads(body)["spec"]["clusterIP"] == given[0]


def test_a_watch_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    with running_apiserver(tmp_path) as server:
        code, body = server.request("POST", path, config_map("a"))
        version = int(json.loads(body)["metadata"]["resourceVersion"])
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "other"}})
        assert server.stop() == 0
        server.start()
        # Nothing of this kind has changed since, so nothing is missing.
        code, body = server.request("GET", f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=1")
        assert (code, body) == (200, b"")
        code, body = server.request("GET", f"{path}?watch=1&resourceVersion={version - 1}&timeoutSeconds=1")
        event = json.loads(body)
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with running_apiserver(tmp_path) as server:
        second = ApiServer(tmp_path)
        with pytest.raises(RuntimeError, match="database is locked"):
            second.start()
        assert server.get("/readyz")[0] == 200


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "state.sqlite3").write_bytes(b"this is no database" * 100)
    server = ApiServer(tmp_path)
    server.prepare()
    with pytest.raises(RuntimeError, match=r"state\.sqlite3: file is not a database"):
        server.start()


def test_bad_arguments_end_with_status_2(tmp_path: Path) -> None:
    server = ApiServer(tmp_path, ("--pod-cidr=10.0.0.0/99",))
    server.prepare()
    with pytest.raises(RuntimeError, match="--pod-cidr"):
        server.start()
    assert server.process is not None
    assert server.process.wait() == 2


def test_a_store_that_cannot_grow_refuses_writes_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    with running_apiserver(tmp_path) as server:
        assert server.request("POST", path, config_map("before"))[0] == 201
        assert server.process is not None
        soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        log = tmp_path / "data" / "state.sqlite3-wal"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
        big = config_map("big") | {"data": {"k": "x" * 500_000}}
        code, body = server.request("POST", path, big)
        assert code in (500, 507), body
        assert json.loads(body)["kind"] == "Status"
        assert list(listed(server, path)) == ["before"]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        assert server.request("POST", path, big)[0] == 201
        server.kill()
        server.start()
        assert list(listed(server, path)) == ["before", "big"]


def test_an_inherited_socket_is_served(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ApiServer(tmp_path, (f"--listen-fd={listener.fileno()}",), pass_fds=(listener.fileno(),))
        server.prepare()
        try:
            server.start()
            raw = socket.create_connection(listener.getsockname(), timeout=10)
            with raw, server.tls().wrap_socket(raw, server_hostname="127.0.0.1") as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
        finally:
            server.kill()


def test_an_empty_server_is_small(tmp_path: Path) -> None:
    with running_apiserver(tmp_path) as server:
        assert server.process is not None
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident < 64 * 1024  # KiB
