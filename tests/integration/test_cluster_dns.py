"""Cluster DNS as a process, against the lab's API server, over real sockets."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest
import yaml

import isthmus
from isthmus.lab import addons
from tests.support.apiserver import TOKEN, ApiServer, running_apiserver
from tests.support.etcd import free_port

LIMIT = 15.0
COREFILE = """.:53 {{
    health :{health}
    ready :{ready}
    kubernetes cluster.local clusterset.local in-addr.arpa {{
       multicluster clusterset.local
       pods insecure
    }}
    prometheus :{metrics}
}}
"""
# As in a pod: without site-packages.
START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from isthmus.lab.dns.__main__ import main; "
    "sys.exit(main(sys.argv[2:]))"
)


@dataclass
class Dns:
    """The server, and the API server that it follows."""

    api: ApiServer
    process: subprocess.Popen[bytes]
    port: int
    ready: int
    metrics: int
    token: Path

    def ask(self, name: str, kind: str = "A", *, tcp: bool = False, payload: int = 0) -> dns.message.Message:
        query = dns.message.make_query(name, kind, use_edns=0 if payload else -1, payload=payload or None)
        send = dns.query.tcp if tcp else dns.query.udp
        return send(query, "127.0.0.1", port=self.port, timeout=LIMIT)

    def texts(self, name: str, kind: str = "A") -> list[str]:
        return sorted(rdata.to_text() for rrset in self.ask(name, kind).answer for rdata in rrset)

    def until(self, name: str, expected: list[str], kind: str = "A") -> None:
        """Waits until a question has this answer."""
        deadline = time.monotonic() + LIMIT
        while (found := self.texts(name, kind)) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def page(self, port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as failure:
            with failure:
                return failure.code, failure.read().decode()


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def endpoints(name: str, addresses: list[str]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


SERVICES = "/api/v1/namespaces/default/services"
IMPORTS = "/apis/multicluster.x-k8s.io/v1beta1/namespaces/default/serviceimports"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def create(api: ApiServer, path: str, item: dict[str, Any]) -> None:
    status, body = api.request("POST", path, item)
    assert status == 201, body


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Dns]:
    with running_apiserver(tmp_path) as api:
        create(api, SERVICES, service("web", clusterIP="10.96.0.77", ports=[{"name": "http", "port": 80}]))
        token = tmp_path / "token"
        token.write_text(TOKEN)
        ports = {name: free_port() for name in ("dns", "health", "ready", "metrics")}
        corefile = tmp_path / "Corefile"
        corefile.write_text(COREFILE.format(**ports))
        words = ["-conf", str(corefile), "-dns.port", str(ports["dns"]), "-server", f"127.0.0.1:{api.port}"]
        words += ["-token-file", str(token), "-ca-file", str(tmp_path / "ca.crt")]
        source = str(Path(isthmus.__file__).parents[1])
        process = subprocess.Popen([os.path.realpath(sys.executable), "-ISc", START, source, *words])
        found = Dns(api, process, ports["dns"], ports["ready"], ports["metrics"], token)
        try:
            wait_until_ready(found)
            yield found
        finally:
            process.kill()
            process.wait()


def wait_until_ready(found: Dns) -> None:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and found.process.poll() is None:
        with contextlib.suppress(OSError):
            if found.page(found.ready, "/ready")[0] == 200:
                return
        time.sleep(0.02)
    pytest.fail("cluster DNS does not become ready")


def test_names_follow_the_api(cluster: Dns) -> None:
    assert cluster.texts("web.default.svc.cluster.local") == ["10.96.0.77"]
    assert cluster.texts("77.0.96.10.in-addr.arpa", "PTR") == ["web.default.svc.cluster.local."]
    assert cluster.texts("_https._tcp.kubernetes.default.svc.cluster.local", "SRV") == [
        "0 100 443 kubernetes.default.svc.cluster.local."
    ]
    assert cluster.ask("example.com").rcode() == dns.rcode.REFUSED
    create(cluster.api, SERVICES, service("db", clusterIP="None", ports=[{"name": "http", "port": 80}]))
    create(cluster.api, SLICES, endpoints("db", ["10.10.0.1", "10.10.0.2"]))
    cluster.until("db.default.svc.cluster.local", ["10.10.0.1", "10.10.0.2"])
    assert cluster.api.request("DELETE", f"{SERVICES}/db")[0] == 200
    cluster.until("db.default.svc.cluster.local", [])
    assert cluster.ask("db.default.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN


def test_names_of_the_clusterset_follow_imports_once_they_are_defined(cluster: Dns) -> None:
    name = "shop.default.svc.clusterset.local"
    assert cluster.ask(name).rcode() == dns.rcode.NXDOMAIN
    definition = yaml.safe_load((Path(addons.__file__).parent / "crds" / "serviceimports.yaml").read_text())
    create(cluster.api, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    item: dict[str, Any] = {
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceImport",
        "metadata": {"name": "shop"},
        "spec": {"type": "ClusterSetIP", "ips": ["10.96.0.99"], "ports": [{"name": "http", "port": 80}]},
    }
    create(cluster.api, IMPORTS, item)
    cluster.until(name, ["10.96.0.99"])
    assert cluster.texts(f"_http._tcp.{name}", "SRV") == [f"0 100 80 {name}."]
    item["metadata"]["name"], item["spec"] = "db", {"type": "Headless", "ports": []}
    create(cluster.api, IMPORTS, item)
    found = endpoints("derived-x", ["10.10.0.1"])
    found["endpoints"][0]["hostname"] = "db-0"
    found["metadata"]["labels"]["multicluster.kubernetes.io/service-name"] = "db"
    found["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"] = "tion"
    create(cluster.api, SLICES, found)
    cluster.until("db-0.tion.db.default.svc.clusterset.local", ["10.10.0.1"])
    assert cluster.texts("db.default.svc.clusterset.local") == ["10.10.0.1"]
    assert cluster.api.request("DELETE", f"{IMPORTS}/shop")[0] == 200
    cluster.until(name, [])


def test_what_is_too_long_for_udp_comes_over_tcp(cluster: Dns) -> None:
    create(cluster.api, SERVICES, service("big", clusterIP="None", ports=[{"name": "http", "port": 80}]))
    addresses = [f"10.10.{n // 200}.{n % 200 + 1}" for n in range(90)]
    create(cluster.api, SLICES, endpoints("big", addresses))
    name = "big.default.svc.cluster.local"
    deadline = time.monotonic() + LIMIT
    while not (short := cluster.ask(name)).answer:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert short.flags & dns.flags.TC
    assert len(cluster.ask(name, tcp=True).answer[0]) == 90
    assert cluster.ask(name, payload=1232).flags & dns.flags.TC


def test_an_api_server_that_is_away_takes_no_names_with_it(cluster: Dns) -> None:
    cluster.api.kill()
    assert cluster.texts("web.default.svc.cluster.local") == ["10.96.0.77"]
    assert cluster.page(cluster.ready, "/ready")[0] == 200
    # A token that was replaced meanwhile is the one that is used.
    tokens = cluster.api.directory / "tokens.csv"
    tokens.write_text('another-token,tester,1,"testers"\n' + tokens.read_text())
    cluster.token.write_text("another-token")
    cluster.api.start()
    create(cluster.api, SERVICES, service("late", clusterIP="10.96.0.78", ports=[{"port": 80}]))
    cluster.until("late.default.svc.cluster.local", ["10.96.0.78"])


def test_rubbish_and_silent_clients_harm_nobody(cluster: Dns) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", cluster.port), timeout=LIMIT))
            silent.sendall(b"\xff")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for size in range(0, 600, 7):
                client.sendto(os.urandom(size), ("127.0.0.1", cluster.port))
        assert cluster.texts("web.default.svc.cluster.local") == ["10.96.0.77"]
        assert cluster.ask("web.default.svc.cluster.local", tcp=True).answer
    text = cluster.page(cluster.metrics, "/metrics")[1]
    assert 'coredns_dns_requests_total{proto="tcp",server="dns://:53",type="A",zone="."} 1' in text
    assert 'rcode="NOERROR"' in text
    assert cluster.page(cluster.metrics, "/other")[0] == 404


def test_a_signal_ends_it(cluster: Dns) -> None:
    cluster.process.terminate()
    assert cluster.process.wait(LIMIT) == 0


async def test_many_questions_at_once(cluster: Dns) -> None:
    """All of a burst that fits into the socket is answered."""
    query = dns.message.make_query("web.default.svc.cluster.local", "A")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", cluster.port))
        for number in range(200):
            query.id = number
            await loop.sock_sendall(client, query.to_wire())
        seen = set()
        async with asyncio.timeout(LIMIT):
            while len(seen) < 200:
                answer = await loop.sock_recv(client, 4096)
                seen.add(int.from_bytes(answer[:2], "big"))
    assert seen == set(range(200))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 1, "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined"),
        (("-conf", "/no/such/file"), 1, "cannot read /no/such/file"),
        (("-nonsense",), 2, "unknown argument -nonsense"),
        (("-server", "x"), 2, "-server needs HOST:PORT"),
        (("-dns.port", "x"), 2, "x is not a port"),
    ],
)
def test_bad_arguments_are_told(words: tuple[str, ...], code: int, message: str) -> None:
    source = str(Path(isthmus.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-ISc", START, source, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={},
        check=False,
    )
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
