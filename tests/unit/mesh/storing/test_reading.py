"""How far a reader believes a store."""

import pytest

from isthmus.mesh.storing.member import REQUIRED, Member
from isthmus.mesh.storing.reading import GRACE, HEARTBEAT_LIMIT, Reading
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterJoined, ClusterLeft, ClusterSynced, EndpointGone, IdentityGone
from isthmus.store.contract import Event, KeyValue, Removed
from isthmus.wire import kvstore
from isthmus.wire.kvstore import Kind, Membership
from tests.support.mesh import C1, C2, Consumer, endpoint, identity, node


class Bench:
    """A reading with its consumer, a clock and the reports."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, str]] = []
        self.reading = Reading(on_report=lambda key, reason: self.reports.append((key, reason)))
        self.consumer = Consumer()
        self.now = 1000.0
        self.told = []

    def list(self, *groups: list[KeyValue]) -> None:
        self.told = self.reading.snapshot([pair for group in groups for pair in group], now=self.now)
        self.consumer.take(self.told)

    def change(self, *events: Event) -> None:
        self.told = self.reading.changes(events, now=self.now)
        self.consumer.take(self.told)

    def beat(self) -> None:
        self.change(KeyValue(kvstore.HEARTBEAT, b"now"))


def config(cluster: Cluster, *, cached: bool, canaries: bool = True) -> KeyValue:
    return KeyValue(
        kvstore.config_key(cluster.name),
        kvstore.encode_membership(Membership(cluster, cached=cached, canaries=canaries)),
    )


def marks(cluster: Cluster, *, cached: bool, kinds=(*REQUIRED, Kind.SERVICES)) -> list[KeyValue]:
    return [KeyValue(kvstore.synced_key(cluster.name, kind, cached=cached), b"t") for kind in kinds]


def ip_pair(cluster: Cluster, last: int, number: int = 1, *, cached: bool) -> KeyValue:
    fact = endpoint(cluster, last, number)
    return KeyValue(kvstore.endpoint_key(cluster.name, fact.ip, cached=cached), kvstore.encode_endpoint(fact))


def id_pair(cluster: Cluster, number: int = 1, *, cached: bool, **labels: str) -> KeyValue:
    fact = identity(cluster, number, **labels)
    return KeyValue(kvstore.identity_key(cluster.name, fact.number, cached=cached), kvstore.encode_identity(b"", fact))


def node_pair(cluster: Cluster, *, cached: bool) -> KeyValue:
    fact = node(cluster)
    return KeyValue(
        kvstore.node_key(cluster.name, fact.name, cached=cached),
        kvstore.encode_node(b"", fact, cluster_id=cluster.id),
    )


def whole(cluster: Cluster, *, cached: bool, pods: int = 2) -> list[KeyValue]:
    return [
        config(cluster, cached=cached),
        node_pair(cluster, cached=cached),
        id_pair(cluster, cached=cached),
        *(ip_pair(cluster, last, cached=cached) for last in range(1, pods + 1)),
        *marks(cluster, cached=cached),
    ]


def gone(pair: KeyValue) -> Removed:
    return Removed(pair.key)


def with_properties(**properties: str) -> KeyValue:
    return config(Cluster("c1", 1, properties), cached=False)


def test_properties_of_a_cluster_come_change_and_go_without_the_rest(bench: Bench) -> None:
    bench.list(whole(C1, cached=False)[1:], [with_properties(region="north")])
    assert bench.consumer.properties == {"c1": {"region": "north"}}
    bench.change(with_properties(region="south"))
    assert bench.told == [ClusterJoined(Cluster("c1", 1, {"region": "south"}))]
    bench.change(with_properties(region="south"))
    assert bench.told == []
    bench.change(with_properties())
    assert bench.told == [ClusterJoined(C1)]
    assert bench.consumer.synced == {"c1"}


@pytest.mark.parametrize("name", ["cluster.clusterset.k8s.io", "not/a/name"])
def test_properties_that_cannot_be_are_reported_and_the_last_good_ones_stay(bench: Bench, name: str) -> None:
    bench.list(whole(C1, cached=False)[1:], [with_properties(region="north")])
    bad = with_properties(xx="c2")
    bench.change(KeyValue(bad.key, bad.value.replace(b'"xx"', f'"{name}"'.encode())))

    assert bench.told == []
    assert bench.consumer.properties == {"c1": {"region": "north"}}
    assert [key for key, _ in bench.reports] == ["cilium/cluster-config/c1"]


def test_a_store_that_fills_up_again_does_not_take_properties_back(bench: Bench) -> None:
    bench.list(whole(C1, cached=False)[1:], [with_properties(region="north")])
    bench.list([with_properties()])
    assert bench.told == []
    bench.list(whole(C1, cached=False)[1:], [with_properties(region="north")])
    assert bench.told == [ClusterSynced("c1")]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_listing_tells_every_cluster_own_and_cached(bench):
    bench.list(whole(C1, cached=False), whole(C2, cached=True))

    assert bench.consumer.synced == {"c1", "c2"}
    assert bench.consumer.addresses == {"10.1.0.1", "10.1.0.2", "10.2.0.1", "10.2.0.2"}
    assert bench.consumer.nodes[("c2", "node-1")].pod_cidrs == ("10.2.0.0/24",)
    assert bench.reports == []


def test_nothing_is_told_of_a_cluster_before_all_its_marks(bench):
    data = whole(C1, cached=False)[:-4]
    bench.list(data)
    assert bench.told == [ClusterJoined(C1)]
    for mark in marks(C1, cached=False, kinds=[Kind.NODES, Kind.ENDPOINTS, Kind.SERVICES]):
        bench.change(mark)
        assert bench.told == []

    bench.change(*marks(C1, cached=False, kinds=[Kind.IDENTITIES]))

    assert bench.told[-1] == ClusterSynced("c1")
    assert bench.consumer.addresses == {"10.1.0.1", "10.1.0.2"}


def test_marks_of_the_wrong_place_do_not_count(bench):
    bench.list(whole(C1, cached=False)[:-3], marks(C1, cached=True))

    assert bench.consumer.synced == set()


def test_a_cluster_without_marks_by_its_own_word_counts_at_once(bench):
    bench.list([config(C1, cached=False, canaries=False), id_pair(C1, cached=False), ip_pair(C1, 1, cached=False)])

    assert bench.consumer.addresses == {"10.1.0.1"}


def test_a_relisting_tells_only_what_differs(bench):
    bench.list(whole(C1, cached=False))
    pairs = [pair for pair in whole(C1, cached=False) if not pair.key.endswith(b"10.1.0.1")]

    bench.list([*pairs, ip_pair(C1, 3, cached=False)])

    assert len(bench.told) == 3
    assert bench.told[0] == EndpointGone("c1", "10.1.0.1")
    assert bench.told[-1] == ClusterSynced("c1")
    assert bench.consumer.addresses == {"10.1.0.2", "10.1.0.3"}


def test_a_replaced_store_that_fills_up_changes_nothing_until_it_is_whole(bench):
    bench.list(whole(C1, cached=False), whole(C2, cached=True))
    before = bench.consumer.addresses
    bench.list([])
    assert bench.told == []
    for pair in whole(C1, cached=False)[:-3]:
        bench.change(pair)
        assert bench.told == []
    bench.change(*marks(C1, cached=False))

    assert bench.told == [ClusterSynced("c1")]
    assert bench.consumer.addresses == before


def test_numbers_given_anew_in_a_replaced_store_are_told_in_one_batch(bench):
    """Between two batches an old address must never be read with the new meaning of its number."""
    bench.list(whole(C1, cached=False))
    other = [
        config(C1, cached=False),
        id_pair(C1, 1, cached=False, app="other"),
        id_pair(C1, 2, cached=False, app="web"),
        ip_pair(C1, 1, 2, cached=False),
    ]
    bench.list(other)
    assert bench.told == []

    bench.change(*marks(C1, cached=False))

    kinds = [type(event).__name__ for event in bench.told]
    assert kinds.index("EndpointGone") < kinds.index("IdentityTold") < kinds.index("EndpointTold")
    assert bench.consumer.endpoints[("c1", "10.1.0.1")].identity == C1.id << 16 | 2


def test_an_address_without_its_identity_is_told_when_that_comes(bench):
    bench.list(whole(C1, cached=False))
    bench.change(ip_pair(C1, 9, 5, cached=False))
    assert bench.told == []

    bench.change(id_pair(C1, 5, cached=False, app="late"))

    assert [type(event).__name__ for event in bench.told] == ["IdentityTold", "EndpointTold"]


def test_an_identity_that_goes_takes_its_addresses_with_it(bench):
    bench.list(whole(C1, cached=False))

    bench.change(gone(id_pair(C1, cached=False)))

    assert bench.told[-1] == IdentityGone("c1", C1.id << 16 | 1)
    assert bench.consumer.addresses == set()


@pytest.mark.parametrize("value", [b"", b"{", b'{"IP":"10.1.0.1"}', b"\xff" * 100])
def test_an_address_that_cannot_be_read_is_absent_and_reported(bench, value):
    bench.list(whole(C1, cached=False))
    key = kvstore.endpoint_key("c1", "10.1.0.1", cached=False)

    bench.change(KeyValue(key, value))

    assert bench.told == [EndpointGone("c1", "10.1.0.1")]
    assert [report[0] for report in bench.reports] == [key.decode()]
    bench.change(ip_pair(C1, 1, cached=False))
    assert bench.consumer.addresses == {"10.1.0.1", "10.1.0.2"}
    assert bench.reading.bad == 0


def test_an_identity_that_cannot_be_read_is_absent_and_reported(bench):
    bench.list(whole(C1, cached=False))
    pair = id_pair(C1, cached=False)

    bench.change(KeyValue(pair.key, pair.value[:-20]))

    assert bench.consumer.addresses == set()
    assert len(bench.reports) == 1


def test_what_stays_unreadable_is_reported_once_over_listings(bench):
    bad = KeyValue(kvstore.endpoint_key("c1", "10.1.0.7", cached=False), b"half")
    for _ in range(3):
        bench.list(whole(C1, cached=False), [bad])

    assert len(bench.reports) == 1
    assert bench.reading.bad == 1


def test_facts_of_another_clusters_range_or_roof_are_refused(bench):
    forged = [
        KeyValue(kvstore.endpoint_key("c2", "10.2.0.66", cached=True), ip_pair(C1, 1, cached=False).value),
        KeyValue(kvstore.endpoint_key("c1", "10.1.0.66", cached=True), ip_pair(C1, 1, cached=False).value),
        KeyValue(kvstore.identity_key("c2", C1.id << 16 | 9, cached=True), id_pair(C1, cached=True).value),
    ]

    bench.list(whole(C1, cached=False), whole(C2, cached=True), forged)

    assert len(bench.consumer.addresses) == 4
    assert len(bench.consumer.identities) == 2


def test_a_membership_deleted_by_a_living_writer_ends_the_cluster_at_once(bench):
    bench.list(whole(C1, cached=False), whole(C2, cached=True))
    bench.beat()

    bench.change(gone(config(C2, cached=True)))
    assert bench.told == [ClusterLeft("c2")]
    bench.change(*(gone(pair) for pair in whole(C2, cached=True)[1:]))

    assert bench.told == []
    assert set(bench.consumer.ids) == {"c1"}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("heard", [False, True])
def test_keys_that_run_out_with_a_dead_writers_leases_change_nothing(bench, backwards, heard):
    pairs = whole(C1, cached=False)
    bench.list(pairs, [KeyValue(kvstore.HEARTBEAT, b"old")])
    if heard:
        bench.beat()
    bench.now += HEARTBEAT_LIMIT + 1
    for pair in reversed(pairs) if backwards else pairs:
        bench.change(gone(pair))
        assert bench.told == []
    bench.now += 10 * GRACE
    bench.change()

    assert bench.consumer.synced == {"c1"}
    assert bench.consumer.addresses == {"10.1.0.1", "10.1.0.2"}


def test_a_writer_that_comes_back_after_its_leases_ran_out_is_a_difference_only(bench):
    pairs = whole(C1, cached=False)
    bench.list(pairs, [KeyValue(kvstore.HEARTBEAT, b"old")])
    bench.now += 1000
    # All of it in one answer, as a reader sees it that was away too.
    beat = KeyValue(kvstore.HEARTBEAT, b"new")

    bench.change(*(gone(pair) for pair in pairs), beat, *pairs[:3])
    assert bench.told == []
    bench.change(*pairs[3:], ip_pair(C1, 5, cached=False))

    assert bench.consumer.addresses == {"10.1.0.1", "10.1.0.2", "10.1.0.5"}
    assert "c1" in bench.consumer.synced


def test_a_cluster_missing_from_a_listing_is_kept_for_a_while_of_living_heartbeat(bench):
    bench.list(whole(C1, cached=False), whole(C2, cached=True))
    bench.list(whole(C1, cached=False))
    bench.now += 10 * GRACE
    bench.change()
    assert "c2" in bench.consumer.ids

    for _ in range(4):
        bench.beat()
        bench.now += 60
    bench.beat()

    assert set(bench.consumer.ids) == {"c1"}


def test_an_unreadable_membership_keeps_the_last_good_one(bench):
    bench.list(whole(C1, cached=False))

    bench.change(KeyValue(kvstore.config_key("c1"), b"garbage"))

    assert bench.told == []
    assert bench.reports
    bench.change(ip_pair(C1, 4, cached=False))
    assert "10.1.0.4" in bench.consumer.addresses


def test_a_cluster_with_a_taken_id_is_refused_and_named(bench):
    bench.list(whole(C1, cached=False), [config(Cluster("c3", 1), cached=True)])

    assert set(bench.consumer.ids) == {"c1"}
    assert bench.reports == [("cilium/cluster-config/c3", "id: 1 is already the ID of cluster c1")]


def test_a_cluster_whose_id_changed_starts_anew_and_asks_for_a_listing(bench):
    bench.list(whole(C1, cached=False), whole(C2, cached=True))
    moved = Cluster("c2", 9)

    bench.change(config(moved, cached=True))

    assert bench.told == [ClusterLeft("c2"), ClusterJoined(moved)]
    assert bench.reading.relist


def test_facts_that_came_before_their_membership_are_asked_for_again(bench):
    bench.list([])
    bench.change(*whole(C1, cached=False)[1:])
    assert not bench.reading.relist

    bench.change(config(C1, cached=False))

    assert bench.reading.relist
    bench.list(whole(C1, cached=False))
    assert not bench.reading.relist
    assert bench.consumer.addresses == {"10.1.0.1", "10.1.0.2"}


def test_a_membership_that_is_asserted_again_asks_for_nothing(bench):
    bench.list(whole(C1, cached=False))
    bench.change(ip_pair(C2, 1, cached=True))

    bench.change(config(C1, cached=False))

    assert bench.told == []
    assert not bench.reading.relist


def test_an_old_heartbeat_in_a_listing_is_no_sign_of_life(bench):
    old = KeyValue(kvstore.HEARTBEAT, b"2020-01-01T00:00:00Z")
    bench.list(whole(C2, cached=True), [old])
    bench.now += 100
    bench.list(whole(C2, cached=True), [old])
    assert bench.reading.heartbeat_age(bench.now) == 100
    bench.change(gone(config(C2, cached=True)))
    assert bench.told == []

    bench.list(whole(C2, cached=True), [KeyValue(kvstore.HEARTBEAT, b"2020-01-01T00:01:00Z")])

    assert bench.reading.heartbeat_age(bench.now) == 0
    bench.change(gone(config(C2, cached=True)))
    assert bench.told == [ClusterLeft("c2")]


def test_health_says_what_a_cluster_waits_for(bench):
    bench.list(whole(C1, cached=False), [config(C2, cached=True)])
    waiting = {health.cluster.name: health.waiting for health in bench.reading.clusters()}

    assert waiting["c1"] == ""
    assert "identities/v1" in waiting["c2"]


def test_a_mark_of_before_a_listing_does_not_count_in_it():
    member = Member(Membership(C2, cached=True, slices=True, whole=True))
    member.whole = True
    assert member.complete
    member.clear()
    member.present = True
    assert not member.complete


def test_a_member_that_begins_to_write_slices_is_read_anew(bench):
    key = kvstore.config_key(C2.name)
    before = Membership(C2, cached=True, canaries=False)
    bench.reading.snapshot([KeyValue(key, kvstore.encode_membership(before))], now=0.0)
    bench.reading.changes([KeyValue(key, kvstore.encode_membership(before))], now=1.0)
    assert not bench.reading.relist
    after = Membership(C2, cached=True, canaries=False, slices=True)
    bench.reading.changes([KeyValue(key, kvstore.encode_membership(after))], now=2.0)
    assert bench.reading.relist


def test_marks_of_single_kinds_do_not_make_a_member_complete_that_has_one_for_all():
    """They are written after records that our readers never look at, but an earlier life may have left them."""
    member = Member(Membership(C2, cached=True, slices=True, whole=True))
    member.marks |= set(Kind)
    assert not member.complete
    member.whole = True
    assert member.complete
