"""Pod addresses of a node."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.node.network.addresses import AddressPool, ExhaustedError


def test_the_networks_own_addresses_are_not_for_pods() -> None:
    pool = AddressPool("10.1.0.0/29")
    assert [pool.take() for _ in range(5)] == [f"10.1.0.{n}" for n in range(2, 7)]
    with pytest.raises(ExhaustedError, match=r"10\.1\.0\.0/29"):
        pool.take()


def test_an_address_is_used_again_as_late_as_possible() -> None:
    pool = AddressPool("10.1.0.0/29")
    first = pool.take()
    pool.give_back(first)
    assert [pool.take() for _ in range(5)] == ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", first]


def test_a_restart_knows_what_is_in_use() -> None:
    pool = AddressPool("10.1.0.0/29", taken={"10.1.0.2", "10.1.0.4"})
    assert [pool.take() for _ in range(3)] == ["10.1.0.5", "10.1.0.6", "10.1.0.3"]


@given(st.lists(st.booleans(), max_size=60))
def test_no_address_is_ever_held_twice(steps: list[bool]) -> None:
    pool, held = AddressPool("10.1.0.0/28"), []
    for take in steps:
        if take and len(held) < 13:
            ip = pool.take()
            assert ip not in held
            held.append(ip)
        elif held:
            pool.give_back(held.pop(0))


def test_a_large_network_is_no_long_search() -> None:
    pool = AddressPool("fd00:10:1::/64", taken={"fd00:10:1::2"})
    assert [pool.take(), pool.take()] == ["fd00:10:1::3", "fd00:10:1::4"]
