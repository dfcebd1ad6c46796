"""One etcd for all tests that need no etcd of their own; each test has its own prefix in it."""

from collections.abc import Iterator

import pytest

from tests.support.etcd import running_etcd


@pytest.fixture(scope="session")
def etcd_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as url:
        yield url
