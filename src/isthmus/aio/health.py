"""The small HTTP server that every daemon has: /healthz, /readyz and /metrics.

Invariants: a check is a plain function that returns None when all is well or a reason as text, never blocks, and a
check that raises counts as failed with its exception as the reason; the page lists every check by name, so that
"not ready" always says why. Metrics are rendered in a thread (10k samples take tens of milliseconds), so custom
collectors must be safe to read from one. Rejected: answering ready before any check was registered would be easier
to use, but a daemon that is still starting would look finished; a server without ready checks says so.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], str | None]
"""Returns None when all is well, otherwise the reason."""


class BindError(Exception):
    """The server could not listen; the message names the flag that chose the address."""


def parse_bind(text: str, *, flag: str) -> tuple[str, int]:
    """Splits `host:port` ("[::1]:8080", ":8080" and "0" as port are fine). Raises BindError naming `flag`."""
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BindError(f"{flag}: {text!r}: put an IPv6 address in brackets, as in [::1]:8080")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BindError(f"{flag}: {text!r} is not host:port")
    return host, int(port)


class HealthServer:
    """Serves health on `bind` ("host:port") while used as an async context manager.

    `flag` is the option that the user would change; `registry` is what /metrics shows.
    """

    def __init__(self, bind: str, *, flag: str = "--health-bind", registry: CollectorRegistry = REGISTRY) -> None:
        self._host, self._port = parse_bind(bind, flag=flag)
        self._bind = bind
        self._flag = flag
        self._registry = registry
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}
        self._runner: web.AppRunner | None = None
        self.address: tuple[str, int] | None = None
        """Where the server listens, once it does: useful when port 0 was asked for."""

    def add_live(self, name: str, check: Check) -> None:
        """Adds a check to /healthz: for what only a restart can mend."""
        self._live[name] = check

    def add_ready(self, name: str, check: Check) -> None:
        """Adds a check to /readyz."""
        self._ready[name] = check

    async def __aenter__(self) -> "HealthServer":
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/livez", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        # A scraper that never reads must not hold up the end of the process.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, self._host or None, self._port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise BindError(f"{self._flag}: cannot listen on {self._bind}: {error.strerror or error}") from error
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self.address = (str(host), int(port))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _page("healthz", self._live)

    async def _readyz(self, _request: web.Request) -> web.Response:
        if not self._ready:
            return web.Response(status=503, text="[-]startup failed: no check is registered yet\nreadyz check failed\n")
        return _page("readyz", self._ready)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = await asyncio.to_thread(generate_latest, self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _page(name: str, checks: dict[str, Check]) -> web.Response:
    """Renders checks as kube-apiserver does: one line each, then the sum."""
    lines = []
    failed = False
    for check_name in sorted(checks):
        try:
            reason = checks[check_name]()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        failed = failed or reason is not None
        lines.append(f"[+]{check_name} ok" if reason is None else f"[-]{check_name} failed: {reason}")
    lines.append(f"{name} check {'failed' if failed else 'passed'}")
    return web.Response(status=503 if failed else 200, text="\n".join(lines) + "\n")
