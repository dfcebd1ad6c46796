"""A client for API servers in tests that knows nothing but HTTP and JSON."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient

from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.storage.state import State


class Api:
    """Speaks to a server in this process; `state` and `life` are its insides."""

    def __init__(self, client: TestClient[Any, Any], state: State, life: Lifecycle) -> None:
        self.client = client
        self.state = state
        self.life = life

    async def send(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **headers: str
    ) -> tuple[int, Any]:
        """Returns status and decoded body."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        held = {"Authorization": "Bearer secret", "User-Agent": "tests/1", **headers}
        if data is not None:
            held["Content-Type"] = kind
        stream = None if data is None else io.BytesIO(data)
        async with self.client.request(method, path, data=stream, headers=held) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else text.decode()

    async def get(self, path: str, **headers: str) -> Any:
        code, body = await self.send("GET", path, **headers)
        assert code == 200, body
        return body

    async def create(self, path: str, body: Any) -> Any:
        code, found = await self.send("POST", path, body)
        assert code == 201, found
        return found

    async def patch(self, path: str, patch: Any, kind: str = "merge-patch+json") -> tuple[int, Any]:
        return await self.send("PATCH", path, patch, kind=f"application/{kind}")

    @contextlib.asynccontextmanager
    async def watch(self, path: str) -> AsyncIterator["Events"]:
        async with self.client.get(path, headers={"Authorization": "Bearer secret"}) as answer:
            assert answer.status == 200
            yield Events(answer)


class Events:
    """The lines of a watch."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> tuple[str, Any]:
        async with asyncio.timeout(10):
            event = json.loads(await self._answer.content.readline())
        return event["type"], event["object"]

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            return await self._answer.content.readline() == b""
