from ipaddress import ip_address, ip_network
from itertools import product
from random import Random

import pytest

from isthmus.model.identity import THE_WORLD, Identity
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.names import NamePattern
from isthmus.policy.precedence import Meaning, Step, overlap, steps
from isthmus.policy.rules import (
    Action,
    CidrPeer,
    EndpointPeer,
    IcmpType,
    NamePeer,
    NodePeer,
    PodPeer,
    PortName,
    PortRange,
)

ALLOW, DENY, PASS = Action.ALLOW, Action.DENY, Action.PASS


def app(name: str, **more: str) -> PodPeer:
    return PodPeer(Selector.equals({"app": name}), **more)


def tcp(first: int, last: int | None = None) -> tuple[PortRange]:
    return (PortRange(6, first, last or first),)


def rule(action: Action, peer=None, ports=(None,), names=()) -> tuple[Action, Meaning]:
    return action, (peer, ports, names)


def shape(found: list[Step]) -> list[tuple[Action, int]]:
    return [(step.action, len(step.meanings)) for step in found]


def test_a_hundred_policies_about_different_ports_are_two_steps():
    rules = [one for n in range(100) for one in (rule(DENY, app("x"), tcp(n + 1)), rule(ALLOW, None, tcp(n + 1000)))]

    assert shape(steps(rules)) == [(DENY, 100), (ALLOW, 100)]


def test_an_exception_stays_before_the_rule_that_it_is_an_exception_to():
    rules = [rule(ALLOW, app("a"), tcp(80)), rule(DENY), rule(ALLOW, app("b"), tcp(80)), rule(DENY, app("c"))]

    assert shape(steps(rules)) == [(ALLOW, 1), (DENY, 2), (ALLOW, 1)]


def test_rules_about_pods_that_differ_in_a_label_change_places():
    rules = [one for n in range(9) for one in (rule(DENY, app(f"bad-{n}")), rule(ALLOW, app(f"good-{n}")))]

    assert shape(steps(rules)) == [(DENY, 9), (ALLOW, 9)]


def test_beyond_the_bound_of_work_rules_stay_where_they_are():
    rules = [one for n in range(50) for one in (rule(DENY, app("x"), tcp(n, n + 60)), rule(ALLOW, app("y"), tcp(n)))]

    assert len(steps(rules)) == 2
    few = steps(rules, most_looks=20)
    assert 2 < len(few)
    assert sum(len(step.meanings) for step in few) == len(rules)


NET, INSIDE, OTHER = (CidrPeer(ip_network(text)) for text in ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"))
OUTSIDE = CidrPeer(ip_network("0.0.0.0/0"), outside=True)
NODES = NodePeer(Selector.equals({"zone": "a"}))
NAMES = NamePeer((NamePattern("example.com."),))


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (app("a"), app("a"), True),
        (app("a"), app("b"), False),
        (app("a"), PodPeer(Selector.equals({"tier": "b"})), True),
        (app("a"), PodPeer(Selector.of(Term("app", Operator.NOT_IN, ("a",)))), False),
        (app("a"), PodPeer(Selector.of(Term("app", Operator.NOT_IN, ("b",)))), True),
        (app("a"), PodPeer(Selector.of(Term("app", Operator.DOES_NOT_EXIST))), False),
        (app("a"), PodPeer(Selector.of(Term("app", Operator.EXISTS))), True),
        (app("a", namespace="x"), app("a", namespace="y"), False),
        (app("a", namespace="x"), app("a"), True),
        (app("a", cluster="x"), app("a", cluster="y"), False),
        (PodPeer(namespaces=Selector.equals({"t": "1"})), PodPeer(namespaces=Selector.equals({"t": "2"})), False),
        (app("a"), NODES, False),
        (NODES, NodePeer(Selector.equals({"zone": "b"})), False),
        (NODES, NodePeer(), True),
        (EndpointPeer(Selector.equals({"a": "1"})), EndpointPeer(Selector.equals({"a": "2"})), False),
        (EndpointPeer(Selector.equals({"a": "1"})), app("a"), True),
        (NET, INSIDE, True),
        (NET, OTHER, False),
        (NET, CidrPeer(ip_network("::/0")), False),
        (NET, app("a"), True),
        (OUTSIDE, app("a"), False),
        (OUTSIDE, NODES, False),
        (NAMES, OUTSIDE, True),
        (NAMES, app("a"), False),
        (None, app("a"), True),
    ],
)
def test_peers_overlap_unless_the_rules_alone_say_that_they_cannot(one, other, together):
    assert overlap((one, (None,), ()), (other, (None,), ())) is together
    assert overlap((other, (None,), ()), (one, (None,), ())) is together


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ((None,), tcp(80), True),
        (tcp(80), tcp(80), True),
        (tcp(80), tcp(81), False),
        (tcp(80), (PortRange(17, 80, 80),), False),
        (tcp(80, 90), tcp(90, 99), True),
        (tcp(80, 90), tcp(91, 99), False),
        ((PortRange(1),), (IcmpType(1, 8),), True),
        ((IcmpType(1, 8),), (IcmpType(1, 8),), True),
        ((IcmpType(1, 8),), (IcmpType(1, 13),), False),
        ((IcmpType(1, 8),), (IcmpType(58, 8),), False),
    ],
)
def test_ports_overlap_where_a_flow_could_have_both(one, other, together):
    assert overlap((None, one, ()), (None, other, ())) is together
    assert overlap((None, other, ()), (None, one, ())) is together


def test_a_port_by_name_may_be_any_number():
    assert overlap((app("a"), (), (PortName(6, "web"),)), (app("a"), tcp(80), ()))
    assert not overlap((app("a"), (), (PortName(6, "web"),)), (app("b"), tcp(80), ()))
    assert overlap((app("a"), (), (PortName(0, "web"),)), (app("a"), (PortRange(17, 53, 53),), ()))


def test_a_port_by_name_is_of_its_protocol_alone():
    assert not overlap((app("a"), (), (PortName(6, "web"),)), (app("a"), (PortRange(17, 80, 80),), ()))
    assert not overlap((app("a"), (), (PortName(6, "web"),)), (app("a"), (), (PortName(17, "web"),)))


@pytest.mark.parametrize("seed", range(200))
def test_the_first_match_is_the_same_as_before_for_every_flow(seed: int):
    rng = Random(seed)
    peers = [None, app("a"), app("b"), app("a", namespace="x"), app("b", namespace="y"), PodPeer(namespace="x")]
    peers += [NET, INSIDE, OTHER, OUTSIDE, NODES, PodPeer(Selector.of(Term("app", Operator.NOT_IN, ("a",))))]
    peers += [PodPeer(Selector.of(Term("app", operator))) for operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST)]
    spans = [(None,), tcp(80), tcp(81), tcp(80, 90), tcp(85, 99), (PortRange(17),), (*tcp(80), PortRange(17, 53, 53))]
    rules = [rule(rng.choice(list(Action)), rng.choice(peers), rng.choice(spans)) for _ in range(rng.randint(2, 25))]
    found = steps(rules, most_looks=rng.choice([0, 5, 1000]))

    identities = [THE_WORLD, Identity(9, "c", "", {"zone": "a"}, {}, reserved=("remote-node",))]
    identities += [Identity(1, "c", space, {"app": name}, {}) for space in "xy" for name in "ab"]
    identities += [Identity(1, "c", "x", {}, {})]
    addresses = [ip_address(ip) for ip in ("10.1.0.1", "10.2.0.1", "192.0.2.1", "198.51.100.1")]
    ports = [(6, 80), (6, 81), (6, 88), (6, 95), (6, 1), (17, 53), (17, 80)]
    for identity, address, port in product(identities, addresses, ports):
        expected = next((action for action, meaning in rules if matches(meaning, identity, address, port)), None)
        actual = next(
            (step.action for step in found if any(matches(one, identity, address, port) for one in step.meanings)), None
        )
        assert actual is expected, (rules, identity, address, port)


def matches(meaning: Meaning, identity: Identity, address, port: tuple[int, int]) -> bool:
    peer, ports, _ = meaning
    meant = peer is None or (peer.matches(address, identity) if isinstance(peer, CidrPeer) else peer.matches(identity))
    return meant and any(one is None or one.matches(*port) for one in ports)
