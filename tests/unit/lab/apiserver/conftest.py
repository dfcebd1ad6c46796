"""A server in this process, over plain HTTP, on a store of the test's own."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from isthmus.lab.apiserver import upkeep
from isthmus.lab.apiserver.auth import Authenticator, read_token_file
from isthmus.lab.apiserver.calls import Source
from isthmus.lab.apiserver.kinds import Registry
from isthmus.lab.apiserver.lifecycle import Lifecycle
from isthmus.lab.apiserver.proxy import NodeAccess, NodeProxy
from isthmus.lab.apiserver.server import Server
from isthmus.lab.apiserver.state import State
from isthmus.lab.apiserver.storage import Storage
from isthmus.lab.apiserver.strategies.base import Settings
from tests.support.apihttp import Api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    registry = Registry()
    state = State(Storage(tmp_path / "state.sqlite3"), registry)
    networks = (ipaddress.ip_network("10.96.0.0/24"),)
    life = Lifecycle(registry=registry, settings=Settings(service_networks=networks), source=Source())
    (tmp_path / "tokens").write_text('secret,tester,1,"g"\n')
    authenticator = Authenticator(
        tokens=read_token_file(tmp_path / "tokens"), key=b"k" * 32, uid_of=lambda plural, namespace, name: None
    )
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
