"""Kept versions and a book that starts anew: what is in force, from the first moment on, and what is to be stored."""

from functools import partial

import pytest

from isthmus.agent.policies.book import Unseen
from isthmus.agent.policies.enforced import KEPT, Enforced
from isthmus.agent.policies.kept import decode, encode, pack, unpack
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import CILIUM_NETWORK_POLICIES, NETWORK_POLICIES
from isthmus.policy.context import CidrGroup, Use
from isthmus.policy.cost import bounded
from isthmus.policy.parsing import identify
from isthmus.policy.rules import Direction, Grade
from tests.unit.agent.policies.test_book import BAD_PEER, Followed, from_group, policy

GOOD = [{"ports": [{"port": 80}]}]
BAD = policy(generation=2, version="11", ingress=BAD_PEER)


@pytest.fixture
def before() -> Followed:
    """A book of an agent that stores versions; it keeps generation 1 of one policy."""
    followed = Followed({})
    followed.take(Put(policy(ingress=GOOD)))
    followed.take(Put(BAD))
    return followed


def restarted(followed: Followed) -> Followed:
    """Returns the book of the next run, by way of the bytes that are stored."""
    file = encode(followed.book.kept_versions(), cluster="east", node="n1")
    assert file.left_out == ()
    return Followed(decode(file.content, cluster="east", node="n1"))


def kept(followed: Followed) -> list[tuple[str, int]]:
    packs = followed.book.kept_versions().values()
    return [(obj["metadata"]["name"], obj["metadata"]["generation"]) for obj in map(unpack, packs)]


def test_what_is_kept_is_in_force_from_the_first_list_on_and_said_as_before(before: Followed):
    after = restarted(before)
    outcome = after.take(Snapshot((BAD,)))

    assert after.policies == before.policies
    assert (outcome.drop, list(outcome.put.values())) == ({}, list(before.policies.values()))
    (report,) = outcome.reports
    assert (report.kept, report.generation, report.grade) == (1, 2, Grade.INVALID)
    assert report.problems == before.book.faulty[report.ref].problems

    enforced = Enforced(after.book)
    enforced.taken()
    enforced.written(0.0)
    (exception,) = enforced.status({}).exceptions
    assert (exception.state, exception.generation) == (KEPT, 2)
    assert exception.message.startswith("generation 1 stays in force: ")


def test_it_outlives_any_number_of_restarts_and_later_invalid_versions(before: Followed):
    after = before
    for number in range(3, 6):
        after = restarted(after)
        after.take(Snapshot((policy(generation=number, version=str(10 + number), egress=BAD_PEER),)))
        assert after.policies == before.policies
        assert kept(after) == [("p", 1)]


def test_a_restart_before_anything_is_listed_loses_nothing(before: Followed):
    assert kept(restarted(restarted(before))) == [("p", 1)]


@pytest.mark.parametrize(
    ("there", "rules"),
    [
        ((policy(generation=3, version="12"),), {"p": 0}),
        ((policy(uid="2", generation=3, version="12", ingress=BAD_PEER),), {"p": 0}),
        ((), {}),
        ((policy("other"),), {"other": 0}),
    ],
    ids=["mended", "made anew", "gone", "another one"],
)
def test_it_is_dropped_where_its_object_is(before: Followed, there, rules):
    after = restarted(before)
    stored = after.book.keeping
    outcome = after.take(Snapshot(there))

    assert after.rules == rules
    assert [report.kept for report in outcome.reports] in ([], [None])
    assert after.book.kept_versions() == {}
    assert after.book.keeping != stored


def test_a_kind_that_the_server_does_not_show_is_no_reason_to_drop_it(before: Followed):
    after = restarted(before)
    after.take(Unseen(()))
    assert kept(after) == [("p", 1)]

    after.take(Snapshot((BAD,)))
    assert after.policies == before.policies


def test_lists_of_other_kinds_say_nothing_about_it(before: Followed):
    after = restarted(before)
    after.take(Snapshot(()), CILIUM_NETWORK_POLICIES)
    after.take(Snapshot((BAD,)))
    assert after.policies == before.policies


@pytest.mark.parametrize(("generation", "version"), [(1, "10"), (0, "9")], ids=["the same", "an older one"])
def test_what_is_no_earlier_version_is_not_believed(before: Followed, generation, version):
    after = restarted(before)
    (report,) = after.take(Snapshot((policy(generation=generation, version=version, ingress=BAD_PEER),))).reports

    (found,) = after.policies.values()
    assert (found.isolates, found.rules, report.kept) == ({Direction.INGRESS}, (), None)
    assert "is no earlier one" in report.problems[-1].message
    assert after.book.kept_versions() == {}


def test_objects_without_generations_are_told_apart_by_their_resource_versions():
    before = Followed({})
    before.take(Put(policy(generation=0, ingress=GOOD)))
    bad = policy(generation=0, version="11", ingress=BAD_PEER)
    before.take(Put(bad))
    after = restarted(before)
    after.take(Snapshot((bad,)))
    assert after.policies == before.policies


def test_it_is_read_anew_and_not_in_force_if_today_it_is_invalid():
    before = policy(ingress=GOOD, egress=BAD_PEER)  # as if an earlier reader had found it valid
    ref = identify(before, "NetworkPolicy")
    assert ref is not None
    after = Followed({ref: pack(before, api_version="networking.k8s.io/v1", kind="NetworkPolicy")})
    (report,) = after.take(Snapshot((BAD,))).reports

    (found,) = after.policies.values()
    assert (found.isolates, found.rules, report.kept) == ({Direction.INGRESS}, (), None)
    assert "generation 1, which was in force before the agent was started anew" in report.problems[-1].message
    assert "is not valid now: spec.egress[0]" in report.problems[-1].message
    assert after.book.kept_versions() == {}


def test_what_it_refers_to_is_waited_for_and_the_invalid_version_is_not_in_force_meanwhile():
    before = Followed({})
    before.groups["g"] = CidrGroup("g", {}, ("10.0.0.0/8",))
    before.refer(Use.CIDR_GROUPS)
    bad = from_group(generation=2, version="11")
    bad["spec"]["ingress"] = "all"  # refers to nothing
    before.take(Put(from_group()), CILIUM_NETWORK_POLICIES)
    before.take(Put(bad), CILIUM_NETWORK_POLICIES)

    after = restarted(before)
    after.groups |= before.groups
    assert after.take(Snapshot((bad,)), CILIUM_NETWORK_POLICIES).put == {}
    assert after.book.waiting == after.book.uses == {Use.CIDR_GROUPS}
    assert after.book.versions == {}
    assert kept(after) == kept(restarted(after)) == [("p", 1)]

    (report,) = after.refer(Use.CIDR_GROUPS).reports
    assert after.policies == before.policies
    assert (report.kept, list(after.book.changed.values())) == (1, [2])
    assert kept(after) == [("p", 1)]

    after.groups["g"] = CidrGroup("g", {}, ("10.0.0.0/8", "11.0.0.0/8"))
    after.refer(Use.CIDR_GROUPS, "g")
    assert after.policies != before.policies, "what is kept follows what it refers to"


def test_a_version_that_turns_out_to_be_invalid_once_all_is_known_has_the_earlier_one_to_go_back_to(monkeypatch):
    monkeypatch.setattr("isthmus.policy.parsing.bounded", partial(bounded, limit=20))
    group = CidrGroup("g", {}, tuple(f"10.{number}.0.0/16" for number in range(30)))
    before = Followed({})
    before.groups["g"] = group
    before.refer(Use.CIDR_GROUPS)
    good, large = from_group(), from_group(generation=2, version="11")
    good["spec"]["ingress"] = [{"fromEntities": ["all"]}]
    for version in (good, large):
        before.take(Put(version), CILIUM_NETWORK_POLICIES)
    assert kept(before) == [("p", 1)]

    after = restarted(before)
    assert after.take(Snapshot((large,)), CILIUM_NETWORK_POLICIES).put == {}
    after.groups["g"] = group
    after.refer(Use.CIDR_GROUPS)
    assert after.policies == before.policies
    assert kept(after) == [("p", 1)]


def test_a_version_that_is_mended_while_it_waits_needs_no_earlier_one():
    before = Followed({})
    before.refer(Use.CIDR_GROUPS)
    bad = from_group(generation=2, version="11")
    bad["spec"]["ingress"] = "all"
    before.take(Put(from_group()), CILIUM_NETWORK_POLICIES)
    before.take(Put(bad), CILIUM_NETWORK_POLICIES)

    after = restarted(before)
    after.take(Snapshot((bad,)), CILIUM_NETWORK_POLICIES)
    mended = from_group(generation=3, version="12")
    mended["spec"]["ingress"] = [{"fromEntities": ["all"]}]
    after.take(Put(mended), CILIUM_NETWORK_POLICIES)
    assert after.book.waiting == frozenset()
    assert after.book.kept_versions() == {}
    assert after.rules == {"p": 1}


def test_what_is_to_be_stored_changes_only_with_what_is_kept():
    followed = Followed({})
    stored = followed.book.keeping
    followed.take(Snapshot((policy(), policy("q", ingress=GOOD))))
    followed.take(Put(policy(generation=2, version="11", ingress=GOOD)))
    assert (followed.book.keeping, followed.book.kept_versions()) == (stored, {})

    steps = [
        (Put(policy(generation=3, version="12", ingress=BAD_PEER)), [("p", 2)], True),
        (Put(policy(generation=4, version="13", egress=BAD_PEER)), [("p", 2)], False),
        (Put(policy("q", generation=2, version="14", ingress=BAD_PEER)), [("p", 2), ("q", 1)], True),
        (Put(policy(generation=5, version="15")), [("q", 1)], True),
        (Gone(policy("q", generation=2, version="14", ingress=BAD_PEER)), [], True),
        (Put(policy("new", ingress=BAD_PEER)), [], False),
    ]
    for change, expected, changes in steps:
        stored = followed.book.keeping
        followed.take(change)
        assert kept(followed) == expected
        assert (followed.book.keeping != stored) is changes


def test_a_book_that_nobody_stores_holds_no_versions():
    followed = Followed()
    followed.take(Put(policy(ingress=GOOD)), NETWORK_POLICIES)
    followed.take(Put(BAD))
    assert followed.book.kept_versions() == {}
    assert followed.rules == {"p": 1}
    assert all(entry.pack == b"" for entry in followed.book.faulty.values())
