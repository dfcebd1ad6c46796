"""Gates of the largest policies that are allowed: work in proportion to their size."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.identity import THE_WORLD
from isthmus.policy.gate import build, piece
from isthmus.policy.networkpolicy import parse
from isthmus.policy.rules import CidrPeer, Direction, PortRange
from isthmus.ruleset.rules import AddressIn, Expr, PortIn
from isthmus.ruleset.stages import lay_out


def _layout(rule):
    spec = {"podSelector": {}, "ingress": [rule]}
    policy = parse({"metadata": {"namespace": "x", "name": "p"}, "spec": spec}, cluster="east")
    assert policy.problems == ()
    return lay_out(_gate(policy))


def _gate(*policies, direction=Direction.INGRESS):
    return build(direction, [piece(policy, direction) for policy in policies])


def _networks(layout):
    return [
        network
        for chain in layout.chains
        for rule in chain.rules
        for statement in rule.statements
        if isinstance(statement, AddressIn)
        for network in statement.networks
    ]


def test_thousands_of_exceptions_are_cut_out_in_one_pass():
    holes = [f"10.{n % 250}.{n // 250}.7/32" for n in range(8000)]
    networks = _networks(_layout({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": holes}}]}))

    assert sum(network.num_addresses for network in networks) == (1 << 24) - len(holes)


def test_thousands_of_ports_are_one_look_up_in_each_direction():
    ports = [{"port": 1 + 2 * n} for n in range(10_000)]
    rules = _layout({"ports": ports}).chains[0].rules
    found = [s for rule in rules for s in rule.statements if isinstance(s, PortIn)]

    assert [statement.port for statement in found] == [Expr.DESTINATION_PORT, Expr.SOURCE_PORT]
    assert all(len(statement.ranges) == len(ports) for statement in found)


_holes = st.builds(
    lambda address, length: ip_network((address, length), strict=False),
    st.integers(0, 255).map(lambda n: f"10.0.0.{n}"),
    st.integers(25, 32),
)


@given(st.lists(_holes, max_size=8), st.integers(0, 255))
def test_what_is_left_of_a_network_is_what_is_in_no_hole(holes, host):
    blocks = {"cidr": "10.0.0.0/24", "except": [str(hole) for hole in holes]}
    networks = _networks(_layout({"from": [{"ipBlock": blocks}]}))
    address = ip_address(f"10.0.0.{host}")

    assert any(address in n for n in networks) is CidrPeer(ip_network("10.0.0.0/24"), tuple(holes)).matches(
        address, THE_WORLD
    )
    assert len(networks) == len(set(networks))


_ranges = st.builds(
    lambda protocol, first, more: PortRange(protocol, first, first + more),
    st.sampled_from([6, 17]), st.integers(1, 20), st.integers(0, 9),
)  # fmt: skip


@given(st.lists(_ranges, min_size=1, max_size=8), st.sampled_from([6, 17]), st.integers(1, 30))
def test_ranges_left_out_are_covered_by_others(ranges, protocol, port):
    names = {6: "TCP", 17: "UDP"}
    ports = [{"protocol": names[r.protocol], "port": r.first, "endPort": r.last} for r in ranges]
    spec = {"podSelector": {}, "ingress": [{"ports": ports}]}
    policy = parse({"metadata": {"namespace": "x", "name": "p"}, "spec": spec}, cluster="east")
    ((opening,),) = [segment.openings for segment in _gate(policy).normal]

    assert any(one is None or one.matches(protocol, port) for one in opening.ports) is any(
        one.matches(protocol, port) for one in ranges
    )
