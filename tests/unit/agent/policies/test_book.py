"""The book of policy objects: which version of each is in force, and what is said of it."""

from collections.abc import Mapping
from functools import partial

import pytest

from isthmus.agent.policies.book import Outcome, PolicyBook
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import CILIUM_NETWORK_POLICIES, CLUSTER_NETWORK_POLICIES, NETWORK_POLICIES
from isthmus.policy.context import CidrGroup, Context, ServiceFacts, Use
from isthmus.policy.cost import bounded
from isthmus.policy.rules import Direction, Grade, ObjectRef, Policy

BAD_PEER = [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]


def policy(name="p", *, uid="1", generation=1, version="10", namespace="x", **spec):
    metadata = {"namespace": namespace, "name": name, "uid": uid, "generation": generation, "resourceVersion": version}
    return {"metadata": metadata, "spec": {"podSelector": {}, **spec}}


def from_group(name="p", group="g", *, generation=1, version="10", action="ingress"):
    metadata = {"namespace": "x", "name": name, "uid": "1", "generation": generation, "resourceVersion": version}
    rule = {"fromCIDRSet": [{"cidrGroupRef": group}]}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": metadata,
        "spec": {"endpointSelector": {}, action: [rule]},
    }


class Followed:
    """A book, and what a compiler holds that does as it is told."""

    def __init__(self, earlier: Mapping[ObjectRef, bytes] | None = None) -> None:
        self.groups: dict[str, CidrGroup] = {}
        self.services: dict[tuple[str, str], ServiceFacts] = {}
        self.book = PolicyBook(Context("east", cidr_groups=self.groups, services=self.services), earlier)
        self.policies: dict[ObjectRef, Policy] = {}

    def take(self, change, resource=NETWORK_POLICIES) -> Outcome:
        return self._obey(self.book.take(resource, change))

    def refer(self, use: Use, *names: str) -> Outcome:
        return self._obey(self.book.refer(use, names))

    def _obey(self, outcome: Outcome) -> Outcome:
        for ref in outcome.drop:
            assert self.policies.pop(ref, None) is not None, "only what is there is dropped"
        self.policies |= outcome.put
        return outcome

    @property
    def rules(self) -> dict[str, int]:
        return {one.ref.name: len(one.rules) for one in self.policies.values()}


@pytest.fixture
def followed() -> Followed:
    return Followed()


def test_an_invalid_update_leaves_the_last_valid_version_in_force_and_says_so(followed: Followed):
    followed.take(Put(policy(ingress=[{"ports": [{"port": 80}]}])))
    before = dict(followed.policies)
    (report,) = followed.take(Put(policy(generation=2, version="11", ingress=BAD_PEER))).reports

    assert followed.policies == before
    assert (report.kept, report.generation, report.grade) == (1, 2, Grade.INVALID)

    (mended,) = followed.take(Put(policy(generation=3, version="12"))).reports
    assert mended.problems == ()
    assert followed.rules == {"p": 0}


def test_one_invalid_version_after_another_keeps_the_last_valid_one(followed: Followed):
    followed.take(Put(policy(ingress=[{}])))
    followed.take(Put(policy(generation=2, ingress=BAD_PEER)))
    (report,) = followed.take(Put(policy(generation=3, ingress=[{"ports": [{"port": -1}]}]))).reports

    assert report.kept == 1
    assert followed.rules == {"p": 1}


def test_without_a_valid_version_an_invalid_object_isolates(followed: Followed):
    (report,) = followed.take(Put(policy(ingress=BAD_PEER))).reports

    (found,) = followed.policies.values()
    assert report.kept is None
    assert (found.isolates, found.rules) == ({Direction.INGRESS}, ())


def test_of_two_invalid_versions_and_no_valid_one_the_later_is_what_fails_closed(followed: Followed):
    followed.take(Put(policy(ingress=BAD_PEER)))
    followed.take(Put(policy(generation=2, egress=[{"ports": [{"port": -1}]}], policyTypes=["Egress"])))

    (found,) = followed.policies.values()
    assert found.isolates == {Direction.EGRESS}
    (entry,) = followed.book.faulty.values()
    assert not entry.kept


def test_an_object_made_anew_under_an_old_name_inherits_nothing(followed: Followed):
    followed.take(Put(policy(ingress=[{}])))
    (report,) = followed.take(Put(policy(uid="2", ingress=BAD_PEER))).reports

    assert report.kept is None
    assert [(ref.uid, one.rules) for ref, one in followed.policies.items()] == [("2", ())]


def test_the_late_end_of_an_object_does_not_remove_its_successor(followed: Followed):
    followed.take(Put(policy(uid="2")))
    followed.take(Gone(policy(uid="1")))
    assert followed.rules == {"p": 0}

    followed.take(Gone(policy(uid="2")))
    assert followed.policies == {}
    assert followed.book.total == 0


def test_a_snapshot_is_a_difference(followed: Followed):
    followed.take(Snapshot((policy("p"), policy("q", ingress=BAD_PEER))))
    outcome = followed.take(Snapshot((policy("p"), policy("r", version="11"))))

    assert [ref.name for ref in outcome.put] == ["r"]
    assert [ref.name for ref in outcome.drop] == ["q"]
    assert followed.book.grades[Grade.INVALID] == 0


def test_a_snapshot_of_one_kind_says_nothing_of_another(followed: Followed):
    followed.take(Snapshot((policy("p"),)))
    followed.take(Snapshot(()), CLUSTER_NETWORK_POLICIES)

    assert followed.rules == {"p": 0}


def test_what_is_there_twice_counts_as_its_last_version(followed: Followed):
    followed.take(Snapshot((policy(ingress=[{}, {}]), policy(generation=2, ingress=[{}]))))

    assert followed.rules == {"p": 1}


def test_after_a_snapshot_nothing_is_said_of_versions_before_it(followed: Followed):
    followed.take(Snapshot((from_group(version="50") | {"spec": {"endpointSelector": {}}},)), CILIUM_NETWORK_POLICIES)
    assert followed.book.versions == {"CiliumNetworkPolicy": "50"}
    followed.take(Snapshot((from_group(version="20"),)), CILIUM_NETWORK_POLICIES)  # the server is one of a copy

    assert followed.book.versions == {}
    followed.refer(Use.CIDR_GROUPS)
    assert followed.book.versions == {"CiliumNetworkPolicy": "20"}


def test_a_write_that_changes_no_policy_is_not_read_but_counts_for_the_watermark(followed: Followed, monkeypatch):
    followed.take(Put(policy()))
    monkeypatch.setattr("isthmus.agent.policies.book.read", lambda *_, **__: pytest.fail("read again"))
    touched = policy(version="12") | {"status": {"conditions": [{"type": "Valid"}]}}
    outcome = followed.take(Put(touched))

    assert (outcome.put, outcome.drop, outcome.reports) == ({}, {}, [])
    assert followed.book.versions == {"NetworkPolicy": "12"}


def test_an_annotation_is_a_change_without_a_new_generation(followed: Followed):
    followed.take(Put(policy()))
    local = policy(version="11")
    local["metadata"]["annotations"] = {"isthmus.dev/policy-scope": "local"}
    followed.take(Put(local))

    (found,) = followed.policies.values()
    assert found.scope.value == "local"


def test_what_json_cannot_say_is_read_each_time_and_does_no_harm(followed: Followed):
    for _ in range(2):
        followed.take(Put(policy(strange=2**70)))

    assert len(followed.policies) == 1


def test_an_object_without_a_name_is_reported_and_nothing_else_happens(followed: Followed):
    (report,) = followed.take(Snapshot(({"metadata": {}, "spec": {}},))).reports

    assert "without metadata.namespace" in report.problems[0].message
    assert followed.policies == {}


def test_a_policy_is_in_force_once_what_it_refers_to_is_known(followed: Followed):
    followed.take(Put(from_group(version="10")), CILIUM_NETWORK_POLICIES)
    followed.take(Put(from_group("other", version="11")), CILIUM_NETWORK_POLICIES)
    assert followed.policies == {}
    assert followed.book.waiting == {Use.CIDR_GROUPS}
    assert followed.book.versions == {}

    followed.groups["g"] = CidrGroup("g", {}, ("192.0.2.0/24",))
    assert followed.book.changed == {}
    followed.refer(Use.CIDR_GROUPS)

    assert [ref.name for ref in followed.book.changed] == ["p", "other"]
    assert followed.book.waiting == frozenset()
    assert followed.rules == {"p": 1, "other": 1}
    assert followed.book.versions == {"CiliumNetworkPolicy": "11"}


def test_while_an_update_waits_the_version_before_it_stays(followed: Followed):
    plain = from_group()
    plain["spec"] = {"endpointSelector": {}, "ingress": [{"fromCIDR": ["10.0.0.0/8"]}]}
    followed.take(Put(plain), CILIUM_NETWORK_POLICIES)
    before = dict(followed.policies)
    followed.take(Put(from_group(generation=2)), CILIUM_NETWORK_POLICIES)

    assert followed.policies == before


def test_only_policies_that_use_groups_are_read_again_when_these_change(followed: Followed):
    followed.refer(Use.CIDR_GROUPS)
    followed.take(Put(policy("plain")))
    followed.take(Put(from_group()), CILIUM_NETWORK_POLICIES)
    followed.take(Put(from_group("other", "h")), CILIUM_NETWORK_POLICIES)
    assert not _networks(followed)
    followed.book.changed.clear()

    followed.groups["g"] = CidrGroup("g", {}, ("192.0.2.0/24",))
    followed.groups["h"] = CidrGroup("h", {}, ("198.51.100.0/24",))
    outcome = followed.refer(Use.CIDR_GROUPS, "g")

    assert [ref.name for ref in outcome.put] == ["p"], "of the other group nothing was told"
    assert _networks(followed) == {"192.0.2.0/24"}
    assert followed.book.changed == {}, "the object is what it was"
    assert not followed.refer(Use.CIDR_GROUPS, "g").put


def test_a_policy_that_selects_groups_by_labels_is_read_again_whichever_changes(followed: Followed):
    followed.refer(Use.CIDR_GROUPS)
    chosen = from_group()
    chosen["spec"]["ingress"] = [{"fromCIDRSet": [{"cidrGroupSelector": {"matchLabels": {"kind": "partner"}}}]}]
    followed.take(Put(chosen), CILIUM_NETWORK_POLICIES)

    followed.groups["new"] = CidrGroup("new", {"kind": "partner"}, ("192.0.2.0/24",))
    followed.refer(Use.CIDR_GROUPS, "new")

    assert _networks(followed) == {"192.0.2.0/24"}


@pytest.mark.parametrize("refers_still", [True, False])
def test_the_version_that_is_kept_follows_its_groups_too(followed: Followed, refers_still):
    followed.refer(Use.CIDR_GROUPS)
    followed.groups["g"] = CidrGroup("g", {}, ("192.0.2.0/24",))
    followed.take(Put(from_group()), CILIUM_NETWORK_POLICIES)
    bad = from_group(generation=2)
    bad["spec"]["ingress"][0]["fromCIDR"] = ["nonsense"]
    if not refers_still:
        del bad["spec"]["ingress"][0]["fromCIDRSet"]
    (report,) = followed.take(Put(bad), CILIUM_NETWORK_POLICIES).reports
    assert report.kept == 1

    followed.groups["g"] = CidrGroup("g", {}, ("198.51.100.0/24",))
    followed.refer(Use.CIDR_GROUPS, "g")

    assert _networks(followed) == {"198.51.100.0/24"}
    (entry,) = followed.book.faulty.values()
    assert entry.kept
    assert followed.book.uses == {Use.CIDR_GROUPS}


@pytest.mark.parametrize("spoiled", [True, False])
def test_what_is_in_force_stays_while_its_group_is_too_large(followed: Followed, monkeypatch, spoiled):
    monkeypatch.setattr("isthmus.policy.parsing.bounded", partial(bounded, limit=10))
    followed.refer(Use.CIDR_GROUPS)
    followed.groups["g"] = CidrGroup("g", {}, ("192.0.2.0/24",))
    followed.take(Put(from_group()), CILIUM_NETWORK_POLICIES)
    if spoiled:
        bad = from_group(generation=2)
        bad["spec"]["ingress"][0]["fromCIDR"] = ["nonsense"]
        followed.take(Put(bad), CILIUM_NETWORK_POLICIES)

    followed.groups["g"] = CidrGroup("g", {}, tuple(f"10.0.{number}.0/24" for number in range(20)))
    followed.refer(Use.CIDR_GROUPS, "g")
    assert _networks(followed) == {"192.0.2.0/24"}
    (entry,) = followed.book.faulty.values()
    assert entry.kept

    followed.groups["g"] = CidrGroup("g", {}, ("198.51.100.0/24",))
    followed.refer(Use.CIDR_GROUPS, "g")
    assert _networks(followed) == {"198.51.100.0/24"}
    assert [one.kept for one in followed.book.faulty.values()] == [True] * spoiled


def test_labels_of_nodes_matter_while_a_policy_asks_for_them(followed: Followed):
    obj = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"namespace": "x", "name": "p", "uid": "1"},
        "spec": {"endpointSelector": {}, "ingress": [{"fromNodes": [{"matchLabels": {"rack": "r1"}}]}]},
    }
    followed.take(Put(obj), CILIUM_NETWORK_POLICIES)
    assert set(followed.book.node_keys) == {"rack"}

    followed.take(Gone(obj), CILIUM_NETWORK_POLICIES)
    assert set(followed.book.node_keys) == set()


def _networks(followed: Followed) -> set[str]:
    peers = (peer for one in followed.policies.values() for rule in one.rules for peer in rule.peers or ())
    return {str(peer.network) for peer in peers}
