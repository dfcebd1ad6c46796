"""What is refused, and what is only warned of, before clusters are joined."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.kube.access import Access
from isthmus.kube.schema import Node, NodeAddress, NodeSpec, NodeStatus, ObjectMeta
from isthmus.mesh.joining.checks import MAX_TOLD, overlaps, unfit_newcomer, unfit_pair
from isthmus.mesh.membership import Configuration, Membership, Peer
from isthmus.model.endpoint import Cluster


def configuration(name: str, number: int, limit: int = 255) -> Configuration:
    return Configuration(Cluster(name, number), limit)


def node(name: str, *networks: str, address: str = "") -> Node:
    return Node(
        metadata=ObjectMeta(name=name),
        spec=NodeSpec(podCIDRs=networks),
        status=NodeStatus(addresses=(NodeAddress("InternalIP", address),) if address else ()),
    )


def test_names_and_numbers_must_differ() -> None:
    one = configuration("one", 1)
    assert "called one" in unfit_pair(one, configuration("one", 2))
    assert "same ID 1" in unfit_pair(one, configuration("two", 1))
    assert unfit_pair(one, configuration("two", 2)) == ""


def test_limits_must_agree_and_hold_the_numbers() -> None:
    assert "max-connected-clusters: 255 and 511" in unfit_pair(configuration("a", 1), configuration("b", 2, 511))
    assert "ID 200" in unfit_pair(configuration("a", 1, 100), configuration("b", 200, 100))


def test_a_number_of_another_peer_is_refused_but_not_one_s_own() -> None:
    known = Membership((Peer(Cluster("tion", 2), Access("https://x")),))
    reader = configuration("koornacht", 1)
    assert "connected to tion, which has ID 2" in unfit_newcomer(reader, known, configuration("alderaan", 2))
    assert unfit_newcomer(reader, known, configuration("tion", 2)) == ""


def test_networks_and_addresses_that_both_have_are_told() -> None:
    one = [node("a", "10.1.0.0/24", "fd00:1::/64", address="192.168.0.1"), node("b", "10.1.1.0/24")]
    other = [node("c", "10.1.1.128/25", "fd00:2::/64", address="192.168.0.1"), node("d", "nonsense")]
    assert overlaps(one, other) == [
        "pod networks 10.1.1.0/24 and 10.1.1.128/25 overlap",
        "node address 192.168.0.1 is in both",
    ]


def test_many_overlaps_are_told_as_a_number() -> None:
    nodes = [node(f"n{i}", f"10.1.{i}.0/24") for i in range(10)]
    told = overlaps(nodes, nodes)
    assert len(told) == MAX_TOLD + 1
    assert told[-1] == "and 7 more"


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_disjoint_networks_overlap_exactly_where_they_are_the_same(one: set[int], other: set[int]) -> None:
    def nodes(numbers: set[int]) -> list[Node]:
        return [node(f"n{i}", f"10.1.{i}.0/24") for i in numbers]

    told = overlaps(nodes(one), nodes(other))
    assert bool(told) == bool(one & other)
