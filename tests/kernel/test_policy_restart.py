"""An agent that is killed while it keeps a version of a policy, and the one after it: real processes and packets."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from isthmus.agent.policies.book import PolicyBook
from isthmus.agent.policies.storing import NAME, UNWRITABLE, WRITABLE, KeptStore
from isthmus.kube.reflector import Put
from isthmus.kube.resources import NETWORK_POLICIES
from isthmus.policy.context import Context
from tests.support.apiserver import ApiServer
from tests.support.netns import World
from tests.support.probes import Attempt
from tests.unit.agent.policies.test_book import BAD_PEER, policy

PATIENCE = 30.0
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
FROM_B = [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]
B_TO_A, C_TO_A = Attempt("b", "a", "tcp", 80), Attempt("c", "a", "tcp", 80)


def eventually(check: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Node:
    """A node with an API server and an agent of its own; `state` is where the agent keeps what outlives it."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world, self.state = world, directory / "state"
        self.server = ApiServer(directory, ("--skip-validation-for", "networkpolicies"))
        self._agent: subprocess.Popen[bytes] | None = None
        self._log = directory / "agent.log"

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        code, answer = self.world.router.run(lambda: self.server.request(method, path, body, headers=headers))
        assert code < 300, answer
        return answer

    def start(self, meanwhile: Callable[[], None] = lambda: time.sleep(0.02)) -> None:
        """Starts the agent, and does `meanwhile` until it says that its ruleset is in the kernel, and once more."""
        begun = self.said.count("ruleset replaced")
        words = [sys.executable, "-m", "isthmus", "agent", "--standalone", "--cluster-name=east", "--cluster-id=1"]
        words += ["--node-name=n1", f"--kubeconfig={self.server.directory / 'kubeconfig'}", "--context=admin"]
        words += ["--global-services=off", "--metrics-bind-address=127.0.0.1:0", f"--state-dir={self.state}"]
        with self._log.open("ab") as log:
            self._agent = self.world.router.run(lambda: subprocess.Popen(words, stdout=log, stderr=log))
        deadline = time.monotonic() + PATIENCE
        while self.said.count("ruleset replaced") == begun:
            assert time.monotonic() < deadline, self.said
            meanwhile()
        meanwhile()

    def kill(self) -> None:
        assert self._agent is not None
        self._agent.send_signal(signal.SIGKILL)
        self._agent.wait()

    def connect(self) -> None:
        """Opens a connection that is allowed; one packet that is dropped delays it by a second (RFC 6298)."""
        assert self.world.reach([B_TO_A], timeout=0.9) == [True]

    @property
    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def update(self, ingress: object) -> None:
        merge = {"Content-Type": "application/merge-patch+json"}
        self.request("PATCH", f"{POLICIES}/p", {"spec": {"ingress": ingress}}, **merge)

    def events(self, reason: str) -> list[str]:
        found = json.loads(self.request("GET", "/api/v1/namespaces/default/events"))["items"]
        return [event["message"] for event in found if event["reason"] == reason]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with World("abc") as world:
        node = Node(world, tmp_path)
        node.server.prepare()
        world.router.run(node.server.start)
        try:
            node.request("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.0.0/24"}})
            addresses = {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}
            merge = {"Content-Type": "application/merge-patch+json"}
            node.request("PATCH", "/api/v1/nodes/n1/status", addresses, **merge)
            for name, pod in world.pods.items():
                body = {
                    "metadata": {"name": name, "labels": {"app": name}},
                    "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]},
                }
                node.request("POST", "/api/v1/namespaces/default/pods", body)
                ips = {"podIP": pod.ips[0], "podIPs": [{"ip": ip} for ip in pod.ips]}
                path = f"/api/v1/namespaces/default/pods/{name}/status"
                node.request("PATCH", path, {"status": {"phase": "Running", **ips}}, **merge)
            spec = {"podSelector": {"matchLabels": {"app": "a"}}, "ingress": FROM_B}
            node.request("POST", POLICIES, {"metadata": {"name": "p"}, "spec": spec})
            node.start()
            yield node
        finally:
            node.kill()
            node.server.kill()


def test_a_killed_agent_leaves_the_last_valid_version_to_the_next_one(node: Node) -> None:
    node.world.expect({B_TO_A: True, C_TO_A: False})
    file = node.state / NAME
    node.update(BAD_PEER)
    eventually(file.exists, "what is kept is stored")
    node.world.expect({B_TO_A: True, C_TO_A: False})

    for _ in range(2):
        node.kill()
        node.start(meanwhile=node.connect)
        node.world.expect({B_TO_A: True, C_TO_A: False})
    eventually(lambda: node.events("PolicyKept"), "an Event says so")
    assert "Generation 2 is not valid, and generation 1 stays in force" in node.events("PolicyKept")[-1]
    assert node.events("PolicyInvalid") == []

    node.kill()
    file.write_bytes(file.read_bytes()[:-20])
    node.start()
    node.world.expect({B_TO_A: False, C_TO_A: False})
    assert f"file={file}" in node.said and "it cannot be read" in node.said

    node.update(FROM_B)
    eventually(lambda: node.world.reach([B_TO_A]) == [True], "a valid version is enforced")
    node.kill()
    node.start(meanwhile=node.connect)


def test_a_full_disk_delays_the_file_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "state"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    try:
        store = KeptStore(place, cluster="east", node="n1")
        with capture_logs() as logs:
            book = PolicyBook(Context("east"), store.load())
            store.follow(book)
            assert logs == []
            ballast = place / "ballast"
            with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            book.take(NETWORK_POLICIES, Put(policy(ingress=FROM_B)))
            book.take(NETWORK_POLICIES, Put(policy(generation=2, version="11", ingress=BAD_PEER)))

            async def full_and_freed() -> None:
                serving = asyncio.create_task(store.serve())
                store.look()
                async with asyncio.timeout(PATIENCE):
                    while not store.failures:
                        await asyncio.sleep(0.01)
                    assert os.listdir(place) == ["ballast"], "a draft takes no room"
                    ballast.unlink()
                    while len(logs) < 2:
                        await asyncio.sleep(0.01)
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

            asyncio.run(full_and_freed())
        assert [log["event"] for log in logs] == [UNWRITABLE, WRITABLE]
        assert logs[0]["error"] == "No space left on device"
        assert store.load().keys() == book.kept_versions().keys()
    finally:
        subprocess.run(["umount", str(place)], check=True)
