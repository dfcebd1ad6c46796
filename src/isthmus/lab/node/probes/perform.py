"""Asking a container how it is: one question, one answer, in the words of kubelets' events.

httpGet, tcpSocket and grpc come from the node's network namespace, where this process is. Invariants: no answer takes
longer than the probe's time-out; of a body at most BODY_LIMIT bytes are read; certificates are not verified, because
nobody could tell whose they should be (the API says so). A redirect to another host counts as success, as upstream.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec
from yarl import URL

from isthmus.lab.node.pods.container import Container, ExecAction, GrpcAction, Handler, HttpGet, Probe, TcpSocket

BODY_LIMIT = 10 * 1024
MAX_REDIRECTS = 10
_AGENT = "kube-probe/1.33"

RunCommand = Callable[[tuple[str, ...], float | None], Awaitable[tuple[int, str]]]
"""Runs a command in the container within so many seconds; returns (exit code, output), raises CommandFailed."""


class CommandFailed(Exception):
    """A command could not be run to its end; the message says why."""


class Answer(msgspec.Struct, frozen=True):
    """`ok`, and what an event says about it; `error` marks a probe that could not even be made."""

    ok: bool
    text: str = ""
    error: bool = False


class Asker:
    """Makes probes; one for all pods of a node. Use it in `async with`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Closes connections under way."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, probe: Probe, container: Container, *, pod_ip: str, run: RunCommand) -> Answer:
        """Makes one probe. Never raises but for cancellation."""
        limit = float(max(probe.timeoutSeconds, 1))
        if probe.command is not None:
            return await ask_command(probe.command, limit, run)
        if probe.httpGet is not None:
            return await self.ask_http(probe.httpGet, container, pod_ip=pod_ip, limit=limit)
        if probe.tcpSocket is not None:
            return await ask_tcp(probe.tcpSocket, container, pod_ip=pod_ip, limit=limit)
        if probe.grpc is not None:
            return await ask_grpc(probe.grpc, pod_ip=pod_ip, limit=limit)
        return Answer(ok=False, text=f"missing probe handler for {container.name}", error=True)

    async def ask_http(self, action: HttpGet, container: Container, *, pod_ip: str, limit: float) -> Answer:
        """GETs the address; anything from 200 to 399 is good."""
        port = container.port(action.port)
        if port is None:
            return Answer(ok=False, text=f"couldn't find port: {action.port}", error=True)
        host = action.host or pod_ip
        path = action.path if action.path.startswith("/") else f"/{action.path}"
        url = f"{action.scheme.lower() or 'http'}://{_bracketed(host)}:{port}{path}"
        headers = {"User-Agent": _AGENT, "Accept": "*/*", "Connection": "close"}
        for header in action.httpHeaders:
            headers = {name: value for name, value in headers.items() if name.lower() != header.name.lower()}
            if header.value:
                headers[header.name] = header.value
        try:
            async with asyncio.timeout(limit):
                status = await self._get(url, headers)
        except TimeoutError:
            said = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            return Answer(ok=False, text=f'Get "{url}": {said}')
        except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
            return Answer(ok=False, text=f'Get "{url}": {_spoken(error, _address(host, port))}')
        if 200 <= status < 400:
            return Answer(ok=True)
        return Answer(ok=False, text=f"HTTP probe failed with statuscode: {status}")

    async def _get(self, url: str, headers: dict[str, str]) -> int:
        session = self._open()
        status = 0
        for _hop in range(MAX_REDIRECTS + 1):
            target = URL(url, encoded=True)
            async with session.get(target, headers=headers, allow_redirects=False, ssl=self._context()) as response:
                status = response.status
                await response.content.read(BODY_LIMIT)
                location = response.headers.get("Location", "")
            if status not in (301, 302, 303, 307, 308) or not location:
                return status
            following = urljoin(url, location)
            if urlsplit(following).hostname != urlsplit(url).hostname:
                return status
            url = following
        raise ValueError(f"stopped after {MAX_REDIRECTS} redirects")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        return self._tls


async def ask_command(action: ExecAction, limit: float | None, run: RunCommand) -> Answer:
    """Runs the command; exit code 0 is good."""
    try:
        code, output = await run(action.command, limit)
    except CommandFailed as error:
        return Answer(ok=False, text=str(error), error="timed out" not in str(error))
    return Answer(ok=code == 0, text=output)


async def ask_tcp(action: TcpSocket, container: Container, *, pod_ip: str, limit: float) -> Answer:
    """Opens a connection and closes it."""
    port = container.port(action.port)
    if port is None:
        return Answer(ok=False, text=f"couldn't find port: {action.port}", error=True)
    host = action.host or pod_ip
    try:
        async with asyncio.timeout(limit):
            _reader, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Answer(ok=False, text=f"dial tcp {_address(host, port)}: i/o timeout")
    except (OSError, UnicodeError) as error:
        return Answer(ok=False, text=_spoken(error, _address(host, port)))
    writer.close()
    return Answer(ok=True)


async def ask_grpc(action: GrpcAction, *, pod_ip: str, limit: float) -> Answer:
    """Asks grpc.health.v1.Health."""
    # Few pods have such a probe.
    from isthmus.lab.node.probes.grpc import SERVING, HealthError, check

    address = _address(pod_ip, action.port)
    try:
        async with asyncio.timeout(limit):
            status = await check(pod_ip, action.port, service=action.service)
    except TimeoutError:
        text = f'timeout: failed to connect service "{address}" within {limit:g}s: context deadline exceeded'
        return Answer(ok=False, text=text)
    except OSError as error:
        return Answer(ok=False, text=f'error: failed to connect service at "{address}": {_spoken(error, address)}')
    except HealthError as error:
        return Answer(ok=False, text=str(error))
    if status == SERVING:
        return Answer(ok=True)
    return Answer(ok=False, text=f'service unhealthy (responded with "{status}")')


def handler_probe(handler: Handler) -> Probe:
    """Returns a hook's handler as a probe, which is asked the same way."""
    return Probe(command=handler.command, httpGet=handler.httpGet, tcpSocket=handler.tcpSocket)


def _address(host: str, port: int) -> str:
    return f"{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _spoken(error: BaseException, address: str) -> str:
    """Words a failed connection as Go does, which is what people search for."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        return "EOF"
    if isinstance(cause, ConnectionRefusedError):
        return f"dial tcp {address}: connect: connection refused"
    if isinstance(cause, ConnectionResetError):
        return f"read tcp {address}: read: connection reset by peer"
    if isinstance(cause, OSError) and cause.strerror:
        return f"dial tcp {address}: connect: {cause.strerror.lower()}"
    return str(cause) or type(cause).__name__
