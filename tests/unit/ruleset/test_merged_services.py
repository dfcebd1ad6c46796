"""Backends of several clusters in one table: ports, families, who is sent where, and what a change costs."""

from collections import Counter
from random import Random

import msgspec
import pytest

from isthmus.model.flow import Flow, Protocol
from isthmus.model.service import Backend, Port, PortKey, Service, Slice, Target
from isthmus.policy.world import World as PolicyWorld
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, translate
from isthmus.ruleset.lines import Line
from isthmus.ruleset.services import ServiceCompiler
from isthmus.ruleset.slots import TOKEN
from isthmus.services.choice import REST, Choice
from tests.support.service_tables import in_use

OWN, OTHER = "tion", "koornacht"
KEY = ("shop", "web")
VIP4, VIP6, CLIENT4, CLIENT6 = "172.20.0.1", "fd00:20::1", "192.0.2.7", "2001:db8::7"
HTTP: PortKey = ("http", Protocol.TCP)
LOCAL_FIRST = Choice(OWN, (frozenset({OWN}), REST))
REMOTE_FIRST = Choice(OWN, (REST, frozenset({OWN})))
ALIKE = Choice(OWN)


def _web(*ports: Port, **fields: object) -> Service:
    given = {"cluster_ips": (VIP4, VIP6), **fields}
    return Service(*KEY, ports=ports or (Port(*HTTP, 80),), **given)


def _slice(cluster: str, *addresses: str, port: PortKey = HTTP, number: int = 8080, **flags: object) -> Slice:
    told = frozenset((port, Backend(cluster, Target(ip, number), "n", **flags)) for ip in addresses)
    return Slice((cluster, "shop", f"web-{port}-{':' in ''.join(addresses)}"), KEY, told)


def _addresses(cluster: str, count: int) -> list[str]:
    return [f"10.{1 if cluster == OWN else 2}.{n >> 8}.{n & 255}" for n in range(count)]


@pytest.fixture
def services() -> ServiceCompiler:
    services = ServiceCompiler(Compiler(PolicyWorld(OWN)).table, node="n1")
    services.put_service(_web())
    services.set_choice(KEY, ALIKE)
    return services


def _ask(services: ServiceCompiler, vip: str = VIP4, port: int = 80, protocol: int = Protocol.TCP) -> Target | None:
    flow = Flow(CLIENT6 if ":" in vip else CLIENT4, vip, protocol, port)
    return translate(services.table, Packet(flow, chance=Random(1).randrange))


def _elements(services: ServiceCompiler) -> int:
    return sum(len(change.remove) + len(change.add) for change in services.table.take_delta().changes)


def test_remote_backends_join_the_port_of_the_same_name_and_protocol_at_their_own_number(services: ServiceCompiler):
    metrics, dns = ("metrics", Protocol.TCP), ("http", Protocol.UDP)
    services.put_service(_web(Port(*HTTP, 80), Port(*metrics, 90), Port(*dns, 80)))
    services.put_slice(_slice(OWN, "10.1.0.1"))
    services.put_slice(_slice(OTHER, "10.2.0.1", number=9999))
    services.put_slice(_slice(OTHER, "10.2.0.2", port=metrics, number=8080))
    services.put_slice(_slice(OTHER, "10.2.0.3", port=dns, number=53))
    services.put_slice(_slice(OTHER, "10.2.0.4", port=("web", Protocol.TCP)))

    assert in_use(services, (VIP4, 6, 80)) == {Target("10.1.0.1", 8080), Target("10.2.0.1", 9999)}
    assert in_use(services, (VIP4, 6, 90)) == {Target("10.2.0.2", 8080)}
    assert in_use(services, (VIP4, 17, 80)) == {Target("10.2.0.3", 53)}


def test_a_cluster_whose_ports_have_other_names_gives_nothing(services: ServiceCompiler):
    services.put_slice(_slice(OTHER, "10.2.0.1", port=("web", Protocol.TCP)))
    packet = Packet(Flow(CLIENT4, VIP4, 6, 80))
    assert translate(services.table, packet) is None and packet.refused


def test_each_family_is_merged_by_itself(services: ServiceCompiler):
    services.set_choice(KEY, LOCAL_FIRST)
    services.put_slice(_slice(OWN, "10.1.0.1"))
    services.put_slice(_slice(OTHER, "10.2.0.1"))
    services.put_slice(_slice(OTHER, "fd00:2::1"))

    assert in_use(services, (VIP4, 6, 80)) == {Target("10.1.0.1", 8080)}
    assert in_use(services, (VIP6, 6, 80)) == {Target("fd00:2::1", 8080)}, "there is nobody nearer in this family"


def test_slices_of_the_same_name_in_two_clusters_are_two(services: ServiceCompiler):
    services.put_slice(_slice(OWN, "10.1.0.1"))
    services.put_slice(_slice(OTHER, "10.2.0.1"))
    services.drop_slice(_slice(OTHER, "10.2.0.1").key)
    assert in_use(services, (VIP4, 6, 80)) == {Target("10.1.0.1", 8080)}


@pytest.mark.parametrize("order", ["choice first", "service first", "slices first"])
def test_a_choice_may_come_before_or_after_what_it_is_about(order):
    services = ServiceCompiler(Compiler(PolicyWorld(OWN)).table, node="n1")
    steps = {
        "choice": lambda: services.set_choice(KEY, LOCAL_FIRST),
        "service": lambda: services.put_service(_web()),
        "slices": lambda: [services.put_slice(_slice(OWN, "10.1.0.1")), services.put_slice(_slice(OTHER, "10.2.0.1"))],
    }
    first = order.split()[0]
    for name in (first, *(name for name in steps if name != first)):
        steps[name]()
    assert in_use(services, (VIP4, 6, 80)) == {Target("10.1.0.1", 8080)}

    services.set_choice(KEY, None)
    assert len(in_use(services, (VIP4, 6, 80))) == 2, "an ordinary service has all that it is told of"
    services.set_choice(KEY, Choice(OWN, (frozenset({OWN}),)))
    services.put_slice(_slice(OWN))
    assert _ask(services) is None, "of a service that is not global, nothing remote is used"


def test_this_nodes_backends_are_those_of_its_own_cluster(services: ServiceCompiler):
    services.put_service(_web(local_internal=True))
    far = _slice(OTHER, "10.2.0.1")
    services.put_slice(msgspec.structs.replace(
        far, backends=frozenset((port, msgspec.structs.replace(b, node="n1")) for port, b in far.backends)
    ))  # fmt: skip
    packet = Packet(Flow(CLIENT4, VIP4, 6, 80))
    assert translate(services.table, packet) is None and packet.dropped


@pytest.mark.parametrize("affinity", [0, 10])
@pytest.mark.parametrize(("weight", "mine", "theirs"), [(100, 6, 3), (25, 4, 4), (25, 3, 17), (90, 5, 2), (1, 2, 1)])
def test_the_spread_follows_the_weights(services: ServiceCompiler, weight, mine, theirs, affinity):
    services.put_service(_web(affinity=affinity))
    services.set_choice(KEY, Choice(OWN, (REST,), {OTHER: weight}))
    services.put_slice(_slice(OWN, *_addresses(OWN, mine)))
    services.put_slice(_slice(OTHER, *_addresses(OTHER, theirs)))
    rng = Random(5)
    flow = Flow(CLIENT4, VIP4, 6, 80)

    found = Counter(translate(services.table, Packet(flow, chance=rng.randrange, memory={})) for _ in range(6000))

    ideal = weight * theirs / (weight * theirs + 100 * mine)
    share = sum(n for target, n in found.items() if target.address.startswith("10.2.")) / 6000
    assert share == pytest.approx(ideal, abs=0.025)
    tokens = [key for key in services.table.elements["backends4"] if key[-1] >= TOKEN]
    assert len(tokens) == (mine + theirs if affinity else 0), "one token for each, however many seats it has"


def test_a_client_keeps_its_backend_of_the_merged_pool_until_that_goes_out_of_use(services: ServiceCompiler):
    services.put_service(_web(affinity=10))
    services.put_slice(_slice(OWN, *_addresses(OWN, 3)))
    services.put_slice(_slice(OTHER, *_addresses(OTHER, 3)))
    memory: dict = {}
    rng = Random(11)

    def ask() -> Target | None:
        return translate(services.table, Packet(Flow(CLIENT4, VIP4, 6, 80), chance=rng.randrange, memory=memory))

    first = ask()
    for weight in (90, 50, 25, 400):
        services.set_choice(KEY, Choice(OWN, (REST,), {OTHER: weight}))
        assert {ask() for _ in range(10)} == {first}, "another number of seats is no reason to move"
    mine = first.address.startswith("10.1.")
    services.set_choice(KEY, REMOTE_FIRST if mine else LOCAL_FIRST)
    second = ask()
    assert second.address.startswith("10.2." if mine else "10.1.")
    services.set_choice(KEY, ALIKE)
    assert {ask() for _ in range(10)} == {second}


@pytest.mark.parametrize("weight", [100, 50, 90])
@pytest.mark.parametrize("count", [10, 100, 1000])
def test_a_change_of_one_backend_is_a_few_elements_at_every_size(services: ServiceCompiler, count, weight):
    services.set_choice(KEY, Choice(OWN, (REST,), {OTHER: weight}))
    services.put_slice(_slice(OWN, *_addresses(OWN, count)))
    services.put_slice(_slice(OTHER, *_addresses(OTHER, count)))
    services.table.take_delta()
    seats = 1 if weight == 100 else 11
    for cluster in (OWN, OTHER):
        for left in (_addresses(cluster, count)[1:], _addresses(cluster, count)):
            services.put_slice(_slice(cluster, *left))
            assert 0 < _elements(services) <= 3 * (seats + 2)


def test_while_the_tier_in_use_stays_backends_of_the_others_cost_nothing(services: ServiceCompiler):
    services.set_choice(KEY, LOCAL_FIRST)
    services.put_slice(_slice(OWN, *_addresses(OWN, 2)))
    services.table.take_delta()
    for count in (500, 499, 500):
        services.put_slice(_slice(OTHER, *_addresses(OTHER, count)))
        assert not services.table.take_delta()

    services.put_slice(_slice(OWN, *_addresses(OWN, 2), ready=False, terminating=True))
    assert not services.table.take_delta().structural
    assert len(in_use(services, (VIP4, 6, 80))) == 500


def test_unanswered_tcp_connections_may_lead_astray_when_a_backend_goes_and_after_a_start(services: ServiceCompiler):
    frontend = (VIP4, Protocol.TCP, 80)
    services.put_slice(_slice("west", "10.1.0.1", "10.1.0.2"))
    services.put_service(_web())
    assert frontend in services.take_stale(), "an agent that was here before may have led them elsewhere"

    services.put_slice(_slice("west", "10.1.0.1", "10.1.0.2", "10.1.0.3"))
    assert services.take_stale() == set()
    services.put_slice(_slice("west", "10.1.0.1", "10.1.0.3"))
    assert services.take_stale() == {frontend}
    assert services.rightful(frontend) == {Target("10.1.0.1", 8080), Target("10.1.0.3", 8080)}


def test_unanswered_tcp_connections_may_lead_astray_when_others_are_chosen(services: ServiceCompiler):
    frontend = (VIP4, Protocol.TCP, 80)
    services.put_service(_web())
    services.put_slice(_slice(OWN, "10.1.0.1"))
    services.put_slice(_slice(OTHER, "10.2.0.1"))
    mine, theirs = Target("10.1.0.1", 8080), Target("10.2.0.1", 8080)
    assert services.chosen(frontend) == {mine, theirs}
    services.take_stale()

    services.set_choice(KEY, LOCAL_FIRST)
    assert services.take_stale() == {frontend}
    assert services.rightful(frontend) == {mine, theirs}, "who is answered stays"
    assert services.chosen(frontend) == {mine}
    services.put_slice(_slice(OWN))
    services.take_stale()
    assert services.chosen(frontend) == {theirs}
    services.put_slice(_slice(OWN, "10.1.0.1"))
    assert services.take_stale() == {frontend}, "somebody came, and so another is not used any more"
    assert services.chosen(frontend) == {mine}
    services.drop_service(KEY)
    assert services.chosen(frontend) == frozenset()


def test_udp_connections_that_may_lead_astray_are_named_when_choices_and_nodes_change(services: ServiceCompiler):
    port = ("dns", Protocol.UDP)
    frontend = (VIP4, Protocol.UDP, 53)
    services.put_service(_web(Port(*port, 53), cluster_ips=(VIP4,)))
    mine, theirs = Target("10.1.0.1", 53), Target("10.2.0.1", 53)

    def put(cluster: str, *addresses: str, **flags: object) -> set:
        services.put_slice(_slice(cluster, *addresses, port=port, number=53, **flags))
        return services.take_stale()

    def choose(choice: Choice) -> set:
        services.set_choice(KEY, choice)
        return services.take_stale()

    put(OWN, mine.address), put(OTHER, theirs.address)
    assert choose(LOCAL_FIRST) == set(), "whoever has a backend keeps it"
    assert services.rightful(frontend) == {mine, theirs}
    assert choose(Choice(OWN, (frozenset({OWN}),))) == {frontend}
    assert services.rightful(frontend) == {mine}
    choose(ALIKE)

    assert put(OTHER, theirs.address, reachable=False) == {frontend}
    assert services.rightful(frontend) == {mine}, "nobody waits for an answer that will not come"
    put(OWN)
    assert services.rightful(frontend) == {theirs}, "the last resort"
    assert put(OWN, mine.address) == {frontend}, "there is somebody to turn to again"
    assert services.rightful(frontend) == {mine}


def test_targets_that_go_are_named_so_that_their_tokens_are_forgotten():
    backends = [Backend(name, Target("10.9.0.1", port)) for port, name in enumerate(("east", "west"), 1)]
    for choice in (None, Choice("east", (REST,), {"west": 20})):
        line = Line("n1", choice)
        line.refill(gone=[], come=backends)
        assert [shift.gone for shift in line.refill(gone=backends[:1], come=[])] == [[backends[0].target]]
