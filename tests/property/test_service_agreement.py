"""Table, its interpreter and the plain rule must agree about services; so must incremental and full computation."""

from collections import Counter
from hashlib import blake2b
from random import Random

import msgspec
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from isthmus.model.flow import Flow
from isthmus.model.service import Target
from isthmus.policy.world import LocalPod
from isthmus.policy.world import World as PolicyWorld
from isthmus.ruleset import service_layout as layout
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, masquerades, translate
from isthmus.ruleset.services import ServiceCompiler
from isthmus.ruleset.slots import TOKEN, Slots
from isthmus.ruleset.table import Table
from isthmus.ruleset.text import script
from isthmus.services.frontends import Frontend
from tests.support import service_worlds as s
from tests.support.fake_table import apply
from tests.support.service_tables import in_use
from tests.support.worlds import seeded

POD4, OUTSIDER4 = s.PODS[0], s.OUTSIDERS[0]


def _compiler() -> ServiceCompiler:
    policies = PolicyWorld("east")
    policies.pods["x/pod"] = LocalPod("x", "pod", "", {}, s.PODS)
    services = ServiceCompiler(Compiler(policies).table, node=s.NODE)
    services.set_node(s.NODE_ADDRESSES)
    return services


_steps = st.one_of(
    seeded(s.service).map(lambda one: ("put_service", one)),
    seeded(s.slice_).map(lambda one: ("put_slice", one)),
    seeded(s.slice_).map(lambda one: ("put_slice", one)),
    st.sampled_from(s.NAMES).map(lambda name: ("drop_service", ("x", name))),
    st.sampled_from(s.SLICES).map(lambda key: ("drop_slice", key)),
    seeded(s.choice).map(lambda pair: ("set_choice", pair)),
    st.sampled_from([(), s.NODE_ADDRESSES, s.NODE_ADDRESSES[:1]]).map(lambda ips: ("set_node", ips)),
)


def _tell(services: ServiceCompiler, name: str, argument) -> None:
    if name == "set_choice":
        services.set_choice(*argument)
    else:
        getattr(services, name)(argument)


def _resolved(table: Table) -> dict[str, object]:
    """Returns what the service part says, without saying which slots a target has, or by what token it is known.

    Of targets with several seats: how many have how many; who has the odd one is a matter of history.
    """
    content: dict[str, object] = {}
    for version in (4, 6):
        reached = set()
        for maps, tokens in ((layout.BACKENDS, layout.TOKENS), (layout.NEAR, layout.NEAR_TOKENS)):
            found: dict[tuple, list[Target]] = {}
            used = set()
            for key, value in table.elements[maps[version].name].items():
                if key[-1] < TOKEN:
                    found.setdefault(key[:-1], []).append((key[-1], value))
            for key, token in table.elements[tokens[version].name].items():
                target = table.elements[maps[version].name][*key[:-1], token]
                used.add((*key[:-1], token))
                found.setdefault(key[:-1], []).append((key[-1], target))
            for slots in found.values():
                assert sorted(slot for slot, _ in slots) == list(range(len(slots))), "no holes"
            assert used == {key for key in table.elements[maps[version].name] if key[-1] >= TOKEN}, "nothing left over"
            reached |= {(to.address, key[1], to.port) for key, to in table.elements[maps[version].name].items()}
            seats = {key: Counter(target for _, target in slots) for key, slots in found.items()}
            content[maps[version].name] = {key: (set(n), sorted(n.values())) for key, n in seats.items()}
        assert set(table.elements[layout.TARGETS[version].name]) == reached, "who may be masqueraded"
        for pair in (
            layout.SERVICES,
            layout.OUTSIDE,
            layout.STICKY,
            layout.KEPT,
            layout.GUARDED,
            layout.VIRTUAL,
            layout.TARGETS,
        ):
            content[pair[version].name] = table.elements[pair[version].name]
    content["chains"] = table.chains
    return content


@settings(max_examples=100, deadline=None)
@given(st.lists(_steps, min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_incremental_result_equals_full_recompute_and_deltas_lead_from_one_to_the_next(steps, rng):
    _assert_history_does_not_matter(steps, rng)


@pytest.mark.parametrize("seed", range(25))
def test_a_long_history_does_not_matter_either(seed):
    rng = Random(seed)
    steps = [("put_service", s.service(rng)) for _ in range(3)]
    for _ in range(60):
        chance = rng.random()
        if chance < 0.6:
            steps.append(("put_slice", s.slice_(rng)))
        elif chance < 0.75:
            steps.append(("set_choice", s.choice(rng)))
        elif chance < 0.85:
            steps.append(("put_service", s.service(rng)))
        elif chance < 0.9:
            steps.append(("drop_service", ("x", rng.choice(s.NAMES))))
        elif chance < 0.95:
            steps.append(("drop_slice", rng.choice(s.SLICES)))
        else:
            steps.append(("set_node", rng.choice([(), s.NODE_ADDRESSES, s.NODE_ADDRESSES[:1]])))
    _assert_history_does_not_matter(steps, rng)


def _assert_history_does_not_matter(steps, rng):
    services = _compiler()
    kernel = Table()
    apply(kernel, services.table.take_delta())
    node, choices = s.NODE_ADDRESSES, {}
    for name, argument in steps:
        node = argument if name == "set_node" else node
        choices |= dict([argument]) if name == "set_choice" else {}
        _tell(services, name, argument)
        if rng.random() < 0.6:
            delta = services.table.take_delta()
            script(delta)
            apply(kernel, delta)
            assert kernel == services.table
            _resolved(services.table)
    apply(kernel, services.table.take_delta())
    assert kernel == services.table

    anew = _compiler()
    anew.set_node(node)
    for key, choice in choices.items():
        anew.set_choice(key, choice)
    for slice_ in sorted(services.slices.values(), key=lambda one: rng.random()):
        anew.put_slice(slice_)
    for service in services.services.values():
        anew.put_service(service)
    assert _resolved(anew.table) == _resolved(services.table)


@settings(max_examples=100, deadline=None)
@given(st.lists(_steps, min_size=4, max_size=25), st.randoms(use_true_random=False))
def test_every_connection_goes_where_the_rule_says_and_every_backend_gets_its_share(steps, rng):
    services = _compiler()
    choices = {}
    for name, argument in steps:
        choices |= dict([argument]) if name == "set_choice" else {}
        _tell(services, name, argument)
    services.set_node(s.NODE_ADDRESSES)
    for key, frontend in s.holders(services.services.values()).items():
        for outside in (False, True):
            client = (s.OUTSIDERS if outside else s.PODS)[frontend.version == 6]
            flow = Flow(client, key[0], key[1], key[2])
            choice = choices.get(frontend.service)
            wanted = s.expected(frontend, services.slices.values(), client, choice)
            note(f"{flow} {frontend} {choice} {wanted}")
            assert services.frontends[key] == frontend
            if isinstance(wanted, str):
                packet = Packet(flow)
                assert translate(services.table, packet) is None
                assert (packet.refused, packet.dropped) == (wanted == "refused", wanted == "dropped")
                continue
            slots = _slots(services.table, frontend, near=outside and frontend.outside is not None)
            sent = Counter(translate(services.table, Packet(flow, chance=_first(n))) for n in range(slots))
            _assert_shares(sent, wanted)
            assert wanted.keys() <= in_use(services, key)
            assert wanted.keys() <= services.rightful(key), "whoever gets connections may keep them"
            assert translate(services.table, Packet(flow, chance=rng.randrange)) in wanted
            if not outside:
                assert translate(services.table, Packet(flow, chance=rng.randrange), local=True) in wanted
            if frontend.affinity:
                _assert_kept(services.table, flow, rng, wanted)


def _slots(table: Table, frontend: Frontend, *, near: bool) -> int:
    maps = (layout.NEAR, layout.NEAR_TOKENS) if near else (layout.BACKENDS, layout.TOKENS)
    contents = (table.elements[pair[frontend.version].name] for pair in maps)
    return sum(place[:3] == frontend.key and place[3] < TOKEN for content in contents for place in content)


def _assert_shares(sent: Counter[Target | None], wanted: dict[Target, int]) -> None:
    assert sent.keys() == wanted.keys()
    least = min(n / wanted[target] for target, n in sent.items())
    assert all(n / wanted[target] == least for target, n in sent.items()), "each has slots as it counts"


def test_every_outcome_is_met_in_the_random_worlds():
    met: Counter[str] = Counter()
    for seed in range(400):
        rng = Random(seed)
        services = [s.service(rng) for _ in range(3)]
        slices = {one.key: one for one in (s.slice_(rng) for _ in range(8))}.values()
        choices = dict(s.choice(rng) for _ in range(3))
        for frontend in s.holders(services).values():
            for outside in (False, True):
                client = (s.OUTSIDERS if outside else s.PODS)[frontend.version == 6]
                wanted = s.expected(frontend, slices, client, choices.get(frontend.service))
                met["weighted"] += not isinstance(wanted, str) and len(set(wanted.values())) > 1
                met[wanted if isinstance(wanted, str) else "served"] += 1
                met["guarded"] += frontend.sources is not None
                met["affinity"] += bool(frontend.affinity and not isinstance(wanted, str))
                met["near"] += bool(frontend.outside and outside and not isinstance(wanted, str))
    outcomes = ("refused", "dropped", "served", "affinity", "near", "guarded", "weighted")
    assert min(met[name] for name in outcomes) > 50, met


def _first(number):
    """Returns a chance that gives `number` for a choice among enough, and then whatever."""
    return lambda modulus: number % modulus


def _assert_kept(table, flow, rng, wanted):
    memory = {}
    first = translate(table, Packet(flow, chance=rng.randrange, memory=memory))
    for _ in range(5):
        assert translate(table, Packet(flow, chance=rng.randrange, memory=memory)) == first
    stale = {name: dict.fromkeys(content, TOKEN | 12345) for name, content in memory.items()}
    again = translate(table, Packet(flow, chance=rng.randrange, memory=stale))
    assert again in wanted, "what is remembered of a backend that is gone leads to another"
    assert translate(table, Packet(flow, chance=rng.randrange, memory=stale)) == again


@pytest.mark.parametrize("affinity", [0, 10])
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("count", [2, 16, 17, 40, 100])
def test_a_packet_that_meets_one_look_up_before_a_change_and_the_next_after_it_is_served(count, outside, affinity):
    services = _compiler()
    port = s.PORTS[0]
    service = s.Service("x", "a", ports=(port,), cluster_ips=s.VIPS["a"], local_external=True, affinity=affinity)
    services.put_service(service)
    far = Target("10.1.0.0", 80)

    def put(first: int, last: int) -> None:
        targets = [Target(f"10.2.0.{n}", 80) for n in range(first, last)]
        told = [*(s.Backend("east", target, node=s.NODE) for target in targets), s.Backend("east", far, node="n2")]
        services.put_slice(s.Slice(("x", "s"), ("x", "a"), frozenset((port.key, backend) for backend in told)))

    flow = Flow(s.OUTSIDERS[0], s.NODE_ADDRESSES[0], 6, 30080) if outside else Flow(POD4, s.VIPS["a"][0], 6, 80)
    names = [pair[4].name for pair in (layout.SERVICES, layout.OUTSIDE, layout.TOKENS, layout.NEAR_TOKENS)]
    put(0, count)
    before = {name: dict(services.table.elements[name]) for name in names}
    for first, last in ((0, 1), (count - 1, count), (0, count - 1)):
        put(first, last)
        left = {Target(f"10.2.0.{n}", 80) for n in range(first, last)} | ({far} if not outside else set())
        for stale in (names[:2], names[2:]):
            after = {name: dict(services.table.elements[name]) for name in stale}
            for name in stale:
                services.table.elements[name] |= before[name]
            for chance in (0, 1, count - 1):
                packet = Packet(flow, chance=_first(chance))
                served = translate(services.table, packet)
                # The kernel looks up anew what slot 0 leads to; here that token is old too, and leads to nobody gone.
                assert served in left or (affinity and stale == names[2:] and served in (far, None))
            for name in stale:
                services.table.elements[name].clear()
                services.table.elements[name] |= after[name]


def test_a_packet_that_is_in_the_table_while_that_is_replaced_is_dropped_so_that_its_client_tries_again():
    services = _compiler()
    services.put_service(s.Service("x", "a", ports=s.PORTS[:1], cluster_ips=s.VIPS["a"]))
    flow = Flow(POD4, s.VIPS["a"][0], 6, 80)
    packet = Packet(flow)
    translate(services.table, packet)
    assert packet.refused

    for spec in services.table.sets.values():
        if spec.holds is not None:  # the kernel takes the elements of maps away first, those of sets last
            services.table.elements[spec.name].clear()
    packet = Packet(flow)
    translate(services.table, packet)
    assert packet.dropped and not packet.refused


@pytest.mark.parametrize("count", [1, 16, 17, 31, 100, 1000])
def test_the_spread_is_even_whatever_the_number_of_backends(count):
    services = _compiler()
    port = s.PORTS[0]
    services.put_service(s.Service("x", "a", ports=(port,), cluster_ips=s.VIPS["a"]))
    targets = [Target(f"10.2.{n >> 8}.{n & 255}", 80) for n in range(count)]
    members = frozenset((port.key, s.Backend("east", target)) for target in targets)
    services.put_slice(s.Slice(("x", "s"), ("x", "a"), members))
    rng = Random(7)
    flow = Flow(POD4, s.VIPS["a"][0], 6, 80)

    found = Counter(translate(services.table, Packet(flow, chance=rng.randrange)) for _ in range(20 * count))

    assert None not in found
    distance = sum((found[target] - 20) ** 2 / 20 for target in targets)
    assert distance < count + 5 * (2 * count) ** 0.5 + 8  # chi-square: mean `count`, and five deviations from it


@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9))), max_size=12), st.integers(1, 8))
def test_slots_have_no_holes_and_a_change_of_one_moves_at_most_one_other(changes, room):
    slots, mirror, there = Slots(), {}, set()
    for gone, come in changes:
        gone, come = ({Target("10.0.0.1", n) for n in side} for side in (gone & there, come - there))
        there = there - {t.port for t in gone} | {t.port for t in come}
        before = len(slots)
        moves = slots.change(gone=gone, come=come, room=room)
        for target in gone:
            slots.forget(target)
        for move in moves:
            assert mirror.get(move.slot) == move.before
            mirror[move.slot] = move.after
        assert [mirror.get(slot) for slot in range(len(slots))] == list(slots.items)
        assert not any(mirror.get(slot) for slot in range(len(slots), before))
        assert len(moves) <= 2 * (len(gone) + len(come))
        assert {t.port for t in (*slots.items, *slots.waiting)} == there
        assert len(slots) == min(room, len(there))
        assert len({slots.token(target) for target in slots.items}) == len(slots)


def test_two_targets_whose_tokens_would_be_the_same_get_different_ones(monkeypatch):
    monkeypatch.setattr("isthmus.ruleset.slots.blake2b", lambda data, digest_size: blake2b(b"", digest_size=4))
    slots, targets = Slots(), [Target("10.0.0.1", n) for n in range(4)]
    slots.change(gone=(), come=targets, room=4)
    tokens = [slots.token(target) for target in targets]
    assert len(set(tokens)) == 4 and min(tokens) >= TOKEN

    slots.change(gone=targets[:1], come=(), room=4)
    slots.forget(targets[0])
    slots.change(gone=(), come=[Target("10.0.0.2", 1)], room=4)
    assert slots.token(Target("10.0.0.2", 1)) == tokens[0], "a number that is free again is used again"


def test_udp_frontends_of_which_connections_may_lead_astray_are_named():
    services = _compiler()
    port = next(one for one in s.PORTS if one.protocol == 17 and not one.node_port)
    key = (s.VIPS["a"][0], port.protocol, port.port)
    service = s.Service("x", "a", ports=(port,), cluster_ips=s.VIPS["a"][:1])

    def put(*backends) -> set:
        services.put_slice(s.Slice(("x", "s"), ("x", "a"), frozenset((port.key, backend) for backend in backends)))
        return services.take_stale()

    first, second = (s.Backend("east", Target(f"10.2.0.{n}", 53)) for n in (1, 2))
    services.put_service(service)
    assert services.take_stale() == {key}, "it may have been somebody else's, or nobody's"
    assert put(first) == {key}, "there was nobody: connections that were not translated must be forgotten"
    assert put(first, second) == set()
    assert put(second) == {key}
    services.put_service(msgspec.structs.replace(service, affinity=10))
    services.take_stale()
    services.drop_service(service.key)
    assert services.take_stale() == {key}
    assert services.rightful(key) == frozenset()


def test_a_node_port_is_open_in_the_families_of_its_service_alone():
    services = _compiler()
    for family, ip in enumerate(s.VIPS["a"]):
        services.put_service(s.Service("x", "a", ports=s.PORTS[:1], cluster_ips=(ip,)))
        assert {key[0] for key in services.frontends} == {ip, s.NODE_ADDRESSES[family]}


def test_only_who_must_be_answered_by_way_of_the_node_is_masqueraded():
    services = _compiler()
    port = s.PORTS[0]
    far, near = "10.9.0.1", POD4
    services.put_service(s.Service("x", "a", ports=(port,), cluster_ips=s.VIPS["a"]))
    members = frozenset((port.key, s.Backend("east", Target(ip, 8080))) for ip in (far, near))
    services.put_slice(s.Slice(("x", "s"), ("x", "a"), members))

    def leaves(source: str, target: str, number: int = 8080) -> bool:
        packet = Packet(Flow(source, target, 6, number), scratch=5)
        hidden = masquerades(services.table, packet)
        assert packet.scratch == 0
        return hidden

    assert leaves(POD4, POD4)
    assert leaves(OUTSIDER4, far)
    assert not leaves(OUTSIDER4, near)
    assert not leaves(POD4, far)
    assert not leaves(OUTSIDER4, far, 9999), "somebody else's translation"
