"""The lab's API server on a disk that fills up: writes are refused, reads go on, and it recovers by itself."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer, running_apiserver

pytestmark = pytest.mark.kernel

PATH = "/api/v1/namespaces/default/configmaps"
SIZE = "3m"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    """A server whose data directory is a file system of three megabytes."""
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(data)], check=True)
    try:
        with running_apiserver(tmp_path) as running:
            yield running
    finally:
        subprocess.run(["umount", str(data)], check=True)


def config_map(name: str, size: int) -> dict[str, object]:
    return {"metadata": {"name": name}, "data": {"k": "x" * size}}


def names(server: ApiServer) -> set[str]:
    code, body = server.request("GET", PATH)
    assert code == 200, body
    return {item["metadata"]["name"] for item in json.loads(body)["items"]}


def test_a_full_disk_refuses_writes_serves_reads_and_recovers(server: ApiServer, tmp_path: Path) -> None:
    kept = set()
    for number in range(100):
        name = f"m{number}"
        code, body = server.request("POST", PATH, config_map(name, 100_000))
        if code != 201:
            break
        kept.add(name)
    status = json.loads(body)
    assert (code, status["kind"], status["reason"]) == (507, "Status", "InternalError")
    assert "no room" in status["message"]
    assert names(server) == kept and len(kept) > 5
    assert server.request("GET", f"{PATH}/m0")[0] == 200
    # Refused once more: nothing half-written stands in the way.
    assert server.request("POST", PATH, config_map("again", 100_000))[0] == 507
    data = str(tmp_path / "data")
    subprocess.run(["mount", "-o", "remount,size=16m", data], check=True)
    assert server.request("POST", PATH, config_map("after", 100_000))[0] == 201
    server.kill()
    server.start()
    assert names(server) == kept | {"after"}
