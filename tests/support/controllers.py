"""The controllers as a process, on the embedded API server or on the real one where its programs are."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.apiserver import START_TIME, ApiServer, running_apiserver
from tests.support.etcd import free_port

ASSETS = Path(os.environ.get("KUBEBUILDER_ASSETS", ""))
SERVERS = ["embedded", *(["real"] if os.environ.get("KUBEBUILDER_ASSETS") else [])]


@dataclass
class Controllers:
    """Starts, kills and starts again."""

    server: ApiServer
    grace: float = 4.0
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "isthmus.lab.controllers",
            f"--kubeconfig={self.server.directory / 'kubeconfig'}",
        ]
        command.append(f"--node-monitor-grace-period={self.grace}")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def log(self) -> Path:
        return self.server.directory / "controllers.log"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(START_TIME)


@contextlib.contextmanager
def running_controllers(server: ApiServer) -> Iterator[Controllers]:
    controllers = Controllers(server)
    controllers.start()
    try:
        yield controllers
    finally:
        assert controllers.process is not None
        if controllers.process.poll() is None:
            assert controllers.stop() == 0, controllers.log.read_text()[-2000:]


@contextlib.contextmanager
def running_server(kind: str, directory: Path) -> Iterator[ApiServer]:
    """Runs an API server of a kind of SERVERS."""
    if kind == "embedded":
        with running_apiserver(directory) as server:
            yield server
    else:
        with _real(directory) as server:
            yield server


@contextlib.contextmanager
def _real(directory: Path) -> Iterator[ApiServer]:
    server = ApiServer(directory)
    server.prepare()
    at = str(directory)
    port, peer = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    etcd = [str(ASSETS / "etcd"), "--data-dir", f"{at}/etcd", "--unsafe-no-fsync", "--log-level=error"]
    etcd += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    etcd += [f"--listen-peer-urls=http://127.0.0.1:{peer}"]
    api = [str(ASSETS / "kube-apiserver"), f"--etcd-servers={url}", "--bind-address=127.0.0.1"]
    api += ["--advertise-address=127.0.0.1", f"--secure-port={server.port}", "--service-cluster-ip-range=10.96.0.0/16"]
    api += [f"--tls-cert-file={at}/server.crt", f"--tls-private-key-file={at}/server.key"]
    api += [f"--client-ca-file={at}/ca.crt", f"--service-account-key-file={at}/server.crt"]
    api += [f"--service-account-signing-key-file={at}/server.key", "--service-account-issuer=https://test"]
    api += ["--authorization-mode=RBAC"]
    with (directory / "log").open("ab") as log, contextlib.ExitStack() as stack:
        for command in (etcd, api):
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if server.get("/readyz")[0] == 200:
                    break
            assert time.monotonic() < deadline, server.log()[-2000:]
            time.sleep(0.2)
        yield server
