"""A scripted API server: each test says what it answers, byte by byte where it matters.

It knows nothing of Kubernetes on purpose; for an honest server there is the lab's. Every request is recorded; answers
are given in order from `script`, each a function of the request, and running out of them is an error of the test.
"""

import asyncio
import gzip
import json
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from isthmus.kube.access import Access

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScriptedServer:
    """Listens on a free loopback port while used as an async context manager."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.script: deque[Answer] = deque()
        self.scripts: dict[str, deque[Answer]] = {}
        """Scripts of their own for the paths of single collections, where several are asked at once."""
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.release = asyncio.Event()
        self._context = context
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._context).start()
        scheme = "https" if self._context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def access(self) -> Access:
        return Access(server=self.url, origin="test")

    def queries(self) -> list[dict[str, str]]:
        return [dict(request.query) for request in self.requests]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        script = self.scripts.get(request.path, self.script)
        if not script:
            return web.Response(status=599, text="the script has ended")
        return await script.popleft()(request)

    def stream(self, *lines: Any, raw: bytes = b"", then: str = "end", compress: bool = False) -> Answer:
        """Streams `lines` (JSON values) and `raw` bytes, then ends, cuts the connection, or hangs."""
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines) + raw

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            body = data
            if compress:
                response.headers["Content-Encoding"] = "gzip"
                body = gzip.compress(data)
            await response.prepare(request)
            if body:
                await response.write(body)
            if then == "cut":
                assert request.transport is not None
                request.transport.abort()
            elif then == "hang":
                await self.release.wait()
            return response

        return answer


def answer(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Answers with `value` as JSON, or as it is if it is bytes."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()

    async def respond(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers={"Content-Type": "application/json", **(headers or {})})

    return respond


def status(code: int, reason: str = "", message: str = "", **more: Any) -> dict[str, Any]:
    """Returns a Status object."""
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message, **more}


def pod(name: str, version: int | str = 1, **meta: Any) -> dict[str, Any]:
    """Returns a small Pod."""
    metadata = {"name": name, "namespace": "demo", "uid": f"uid-{name}", "resourceVersion": str(version), **meta}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata}


def pod_list(*items: Any, version: str = "10", more: str = "") -> dict[str, Any]:
    """Returns a page of a PodList; `more` is its continue token."""
    return {
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": version, "continue": more},
        "items": [*items],
    }


def event(type: str, item: Any) -> dict[str, Any]:
    """Returns a watch event."""
    return {"type": type, "object": item}


def bookmark(version: int | str, *, end: bool = False) -> dict[str, Any]:
    """Returns a bookmark event; `end` marks the end of the initial events."""
    annotations = {"k8s.io/initial-events-end": "true"} if end else {}
    meta = {"resourceVersion": str(version), "annotations": annotations}
    return event("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": meta})
