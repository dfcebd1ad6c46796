"""Fixtures for tests on the real kernel; scripts/run-tests makes a sandbox for them where that is needed."""

from collections.abc import Iterator

import pytest

from tests.support.fabric import Fabric
from tests.support.netns import World
from tests.support.town import Town


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/tests/kernel/" in item.path.as_posix():
            item.add_marker(pytest.mark.kernel)


@pytest.fixture
def node() -> Iterator[World]:
    """A world of one router and no pods, for tests that need an empty nftables of their own."""
    with World([]) as world:
        yield world


@pytest.fixture
def world() -> Iterator[World]:
    """A router and the pods a, b, c and d (10.244.0.10 to .13, fd00:10:244::a to ::d)."""
    with World("abcd") as world:
        yield world


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    """Nodes and pods as the tests of a module ask for them; they stay from one test to the next."""
    with Fabric() as fabric:
        yield fabric


@pytest.fixture
def town(fabric: Fabric) -> Town:
    """A small ClusterSet in the module's fabric, without policies."""
    return Town(fabric)
