"""A server in this process, over plain HTTP, on a store of the test's own."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from isthmus.lab.apiserver import upkeep
from isthmus.lab.apiserver.access.auth import Authenticator, read_token_file
from isthmus.lab.apiserver.changes.calls import Source
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.http.proxy import NodeAccess, NodeProxy
from isthmus.lab.apiserver.http.server import Server
from isthmus.lab.apiserver.schema.kinds import Registry
from isthmus.lab.apiserver.storage.disk import Storage
from isthmus.lab.apiserver.storage.state import State
from isthmus.lab.apiserver.strategies.base import Settings
from tests.support.apihttp import Api


@contextlib.asynccontextmanager
async def running(directory: Path, settings: Settings) -> AsyncIterator[Api]:
    registry = Registry()
    state = State(Storage(directory / "state.sqlite3"), registry)
    life = Lifecycle(registry=registry, settings=settings, source=Source())
    (directory / "tokens").write_text('secret,tester,1,"g"\n')
    authenticator = Authenticator(tokens=read_token_file(directory / "tokens"), key=b"k" * 32, uid_of=state.uid_of)
    proxy = NodeProxy(state=state, registry=registry, access=NodeAccess())
    server = Server(state=state, life=life, authenticator=authenticator, proxy=proxy)
    writer = asyncio.create_task(state.run())
    await upkeep.bootstrap(state, life, advertised=None)
    server.ready = True
    async with TestClient(TestServer(server.application(), handler_cancellation=True)) as client:
        yield Api(client, state, life)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    state.close()


V4, V6 = ipaddress.ip_network("10.96.0.0/24"), ipaddress.ip_network("fd00:96::/112")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server of one family that wants no service accounts."""
    async with running(tmp_path, Settings(service_networks=(V4,))) as found:
        yield found


@pytest.fixture
async def dual(tmp_path: Path) -> AsyncIterator[Api]:
    """A server of both families that wants service accounts."""
    async with running(tmp_path, Settings(service_networks=(V4, V6), service_accounts=True)) as found:
        yield found
