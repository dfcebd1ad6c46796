"""A real kube-apiserver with etcd, to compare answers with; only where the programs are there."""

import contextlib
import json
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.etcd import free_port

START_TIME = 60.0  # seconds
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
VECTORS = Path(__file__).parents[1] / "vectors" / "custom-resources.json"


class RealServer:
    """Speaks to it with a token of the administrators."""

    def __init__(self, port: int) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Returns status and decoded body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=30) as answer:
                code, text = answer.status, answer.read()
        except urllib.error.HTTPError as failure:
            with failure:
                code, text = failure.code, failure.read()
        return code, json.loads(text) if text.startswith(b"{") else text.decode()


@contextlib.contextmanager
def running(assets: Path) -> Iterator[RealServer]:
    """Runs both programs on loopback, on a directory that goes with them."""
    directory = Path(tempfile.mkdtemp(prefix="isthmus-real-"))
    store, peer, port = free_port(), free_port(), free_port()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "sa.key").write_bytes(private)
    (directory / "tokens.csv").write_text('secret,admin,1,"system:masters"\n')
    urls = f"http://127.0.0.1:{store}"
    etcd = [str(assets / "etcd"), f"--data-dir={directory / 'etcd'}", "--unsafe-no-fsync"]
    etcd += [f"--listen-client-urls={urls}", f"--advertise-client-urls={urls}"]
    etcd += [f"--listen-peer-urls=http://127.0.0.1:{peer}"]
    server = [str(assets / "kube-apiserver"), f"--etcd-servers={urls}", f"--secure-port={port}"]
    server += ["--bind-address=127.0.0.1", f"--cert-dir={directory / 'certs'}", "--authorization-mode=AlwaysAllow"]
    server += [f"--token-auth-file={directory / 'tokens.csv'}", "--service-account-issuer=https://lab"]
    server += [f"--service-account-key-file={directory / 'sa.key'}", "--service-cluster-ip-range=10.96.0.0/16"]
    server += [f"--service-account-signing-key-file={directory / 'sa.key'}"]
    processes = []
    try:
        with (directory / "log").open("wb") as log:
            processes = [subprocess.Popen(command, stdout=log, stderr=log) for command in (etcd, server)]
        found = RealServer(port)
        deadline = time.monotonic() + START_TIME
        while True:
            with contextlib.suppress(OSError):
                if found.send("GET", "/readyz")[0] == 200:
                    break
            if time.monotonic() > deadline:
                raise RuntimeError(f"kube-apiserver did not start: {(directory / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield found
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def real_answers(assets: Path, definitions: Path) -> list[Any]:
    """Returns the recorded cases that the real server answers otherwise, and definitions that it refuses."""
    vectors = json.loads(VECTORS.read_text())
    wrong: list[Any] = []
    with running(assets) as server:
        values = [yaml.safe_load(path.read_text()) for path in sorted(definitions.glob("*.yaml"))]
        for value in [*values, vectors["probe"]]:
            code, body = server.send("POST", f"{DEFINITIONS}?fieldValidation=Strict", value)
            if code != 201:
                wrong.append((value["metadata"]["name"], body))
        _wait_for(server, [value["metadata"]["name"] for value in [*values, vectors["probe"]]])
        for case in vectors["cases"]:
            path = f"{case['path']}?dryRun=All&fieldValidation={case['validation']}"
            code, body = server.send("POST", path, case["object"])
            found = body.get("details", {}).get("causes", []) if code >= 300 else []
            causes = sorted([cause.get("reason", ""), cause.get("field", ""), cause["message"]] for cause in found)
            if code != case["code"] or causes != case.get("causes", []):
                wrong.append((case["id"], code, causes))
    return wrong


def _wait_for(server: RealServer, names: list[str]) -> None:
    deadline = time.monotonic() + START_TIME
    while time.monotonic() < deadline:
        items = server.send("GET", DEFINITIONS)[1]["items"]
        good = {item["metadata"]["name"] for item in items if _established(item)}
        if good >= set(names) and all(server.send("GET", _list_of(item))[0] == 200 for item in items):
            return
        time.sleep(0.1)
    raise RuntimeError("the definitions were not established")


def _established(item: Any) -> bool:
    conditions = item.get("status", {}).get("conditions") or ()
    return any(held["type"] == "Established" and held["status"] == "True" for held in conditions)


def _list_of(item: Any) -> str:
    spec = item["spec"]
    return f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
