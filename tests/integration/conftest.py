"""One etcd for all tests that need no etcd of their own; each test has its own prefix in it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.etcd import running_etcd


@pytest.fixture(scope="session")
def etcd_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as url:
        yield url


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Lets pass that a TLS connection, given up in its handshake, is closed by the collector.

    Servers are killed here at any moment, and asyncio says goodbye to a peer that is gone for longer than a test's loop
    lasts. Which test runs when the collector finds it is chance. Unit tests, where nothing is killed, stay strict.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for what in ("transport <_SelectorSocketTransport", "<socket.socket"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:unclosed {what}:ResourceWarning"))
