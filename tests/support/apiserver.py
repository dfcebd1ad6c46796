"""The lab's API server as a real process, kubectl against it, and a node that answers exec, attach and logs."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import spdynode
from tests.support.etcd import free_port

KUBECTL = shutil.which("kubectl")
START_TIME = 20.0  # seconds
KUBECTL_TIME = 30.0  # seconds
TOKEN = "token-of-the-tests"
NODE_TOKEN = "token-for-nodes"

needs_kubectl = pytest.mark.skipif(
    KUBECTL is None and not os.environ.get("CI"), reason="the program kubectl is not installed"
)


def _certificate(
    directory: Path, file: str, *, name: str, groups: tuple[str, ...] = (), issuer: Any = None, hosts: bool = False
) -> Any:
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    attributes += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject = x509.Name(attributes)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if hosts:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (directory / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / f"{file}.key").write_bytes(private)
    return certificate, key


@dataclass
class ApiServer:
    """One server on a directory of its own; `kubectl` is run with its kubeconfig and a home of its own."""

    directory: Path
    extra: tuple[str, ...] = ()
    pass_fds: tuple[int, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Writes certificates, tokens and kubeconfig."""
        authority = _certificate(self.directory, "ca", name="ca")
        _certificate(self.directory, "server", name="apiserver", issuer=authority, hosts=True)
        _certificate(self.directory, "admin", name="admin", groups=("system:masters",), issuer=authority)
        (self.directory / "tokens.csv").write_text(f'{TOKEN},tester,1,"testers,others"\n')
        (self.directory / "node-token").write_text(NODE_TOKEN)
        cluster = {"server": self.url, "certificate-authority": str(self.directory / "ca.crt")}
        admin = {
            "client-certificate": str(self.directory / "admin.crt"),
            "client-key": str(self.directory / "admin.key"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "admin",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [
                {"name": "admin", "user": admin},
                {"name": "token", "user": {"token": TOKEN}},
                {"name": "nobody", "user": {}},
            ],
            "contexts": [
                {"name": name, "context": {"cluster": "lab", "user": name}} for name in ("admin", "token", "nobody")
            ],
        }
        (self.directory / "kubeconfig").write_text(json.dumps(config))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the process and waits until it is ready."""
        at = self.directory
        command = [sys.executable, "-m", "isthmus.lab.apiserver", f"--data-dir={at / 'data'}", "--cluster-name=test"]
        command += ["--service-cidr=10.96.0.0/16", "--pod-cidr=10.10.0.0/16", f"--token-file={at / 'tokens.csv'}"]
        command += [f"--tls-cert={at / 'server.crt'}", f"--tls-key={at / 'server.key'}", f"--client-ca={at / 'ca.crt'}"]
        command += [
            f"--kubelet-token-file={at / 'node-token'}",
            "--disable-admission-plugins=ServiceAccount",
            f"--listen=127.0.0.1:{self.port}",
            *self.extra,
        ]
        with (at / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=self.pass_fds)
        deadline = time.monotonic() + START_TIME
        while True:
            with contextlib.suppress(OSError):
                status, _ = self.get("/readyz")
                if status == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the API server did not start: {self.log()}")
            time.sleep(0.02)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def kill(self) -> None:
        """Ends the process without any warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ends the process by SIGTERM; returns its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(START_TIME)

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.directory / "ca.crt"))

    def get(self, path: str, *, token: str = "", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Returns status and body of a plain request."""
        return self.request("GET", path, token=token, headers=headers)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str = TOKEN,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers or {})
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        if data is not None and not request.has_header("Content-type"):
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, context=self.tls(), timeout=START_TIME) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as failure:
            with failure:
                return failure.code, failure.read()

    def environment(self, **more: str) -> dict[str, str]:
        places = {"HOME": str(self.directory), "KUBECONFIG": str(self.directory / "kubeconfig")}
        return {**os.environ, **places, **more}

    async def run(self, *words: str, stdin: str | None = None, **environment: str) -> tuple[int, str, str]:
        """Runs kubectl; returns exit status, output and errors."""
        process = await asyncio.create_subprocess_exec(
            KUBECTL or "kubectl",
            *words,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(**environment),
        )
        try:
            async with asyncio.timeout(KUBECTL_TIME):
                output, complaints = await process.communicate(stdin.encode() if stdin is not None else None)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        return process.returncode or 0, output.decode(), complaints.decode()

    async def ok(self, *words: str, stdin: str | None = None) -> str:
        """Runs kubectl, which must succeed; returns its output."""
        status, output, complaints = await self.run(*words, stdin=stdin)
        assert status == 0, f"kubectl {' '.join(words)}: {complaints}{output}\n{self.log()[-2000:]}"
        return output

    async def fails(self, *words: str, stdin: str | None = None) -> str:
        """Runs kubectl, which must fail; returns what it says."""
        status, output, complaints = await self.run(*words, stdin=stdin)
        assert status != 0, f"kubectl {' '.join(words)} succeeded: {output}"
        return complaints

    async def json(self, *words: str) -> Any:
        """Runs kubectl with -o json; returns what it prints."""
        return json.loads(await self.ok(*words, "-o", "json"))


@contextlib.contextmanager
def running_apiserver(directory: Path, *extra: str) -> Iterator[ApiServer]:
    """Runs a server on a fresh directory."""
    server = ApiServer(directory, extra)
    server.prepare()
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


class FakeNode:
    """A node that remembers its requests, echoes standard input, and ends with exit status 0 or 3 (`false`)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        self.port = 0

    async def _logs(self, request: web.Request) -> web.Response:
        self._note(request)
        if request.query.get("previous"):
            return web.Response(status=404, text="previous terminated container not found")
        return web.Response(text="first line\nsecond line\n")

    def _note(self, request: web.Request) -> None:
        assert request.headers["Authorization"] == f"Bearer {NODE_TOKEN}"
        self.requests.append((request.path, list(request.query.items())))

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        self._note(request)
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        command = request.query.getall("command", [])
        if command == ["die"]:
            assert request.transport is not None
            request.transport.abort()
            return socket
        await socket.send_bytes(b"\x01" + " ".join(["ran", *command]).encode() + b"\n")
        await socket.send_bytes(b"\x02a complaint\n")
        if request.query.get("input"):
            async for message in socket:
                if message.type is not WSMsgType.BINARY:
                    break
                if message.data[:1] == b"\x00":
                    await socket.send_bytes(b"\x01" + message.data[1:])
                elif message.data == b"\xff\x00":
                    break
        status: dict[str, Any] = {"metadata": {}, "status": "Success"}
        if command[:1] == ["false"]:
            causes = [{"reason": "ExitCode", "message": "3"}]
            message = "command terminated with non-zero exit code"
            status = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode"}
            status |= {"message": message, "details": {"causes": causes}}
        await socket.send_bytes(b"\x03" + json.dumps(status).encode())
        await socket.close()
        return socket

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeNode"]:
        """Serves on a port of the loopback."""
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        app.router.add_get("/exec/{namespace}/{pod}/{container}", self._stream)
        app.router.add_get("/attach/{namespace}/{pod}/{container}", self._stream)
        app.router.add_post("/exec/{namespace}/{pod}/{container}", spdynode.execute)
        app.router.add_post("/portForward/{namespace}/{pod}", spdynode.port_forward)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()
