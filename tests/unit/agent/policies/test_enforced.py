"""What a node says of the policies in its kernel: only what is true, in bounded lists."""

import pytest

from isthmus.agent.policies.book import PolicyBook
from isthmus.agent.policies.enforced import MOST, MOST_TEXT, Enforced
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import CILIUM_NETWORK_POLICIES, NETWORK_POLICIES
from isthmus.policy.context import Context
from isthmus.policy.rules import ObjectRef
from tests.unit.agent.policies.test_book import BAD_PEER, from_group, policy

START, LATER = 1_800_000_000.0, 1_800_000_001.5


@pytest.fixture
def book() -> PolicyBook:
    return PolicyBook(Context("east"))


@pytest.fixture
def enforced(book: PolicyBook) -> Enforced:
    return Enforced(book)


def write(enforced: Enforced, now: float = LATER) -> None:
    enforced.taken()
    enforced.written(now)


def test_nothing_is_told_before_the_first_ruleset_and_then_what_it_holds_is_in_force_since_then(book, enforced):
    book.take(NETWORK_POLICIES, Snapshot((policy("p", version="7"), policy("q", version="5"))))
    enforced.taken()
    assert enforced.status({}) is None

    enforced.written(START)
    status = enforced.status({})
    assert (status.total, status.watermarks, status.recent) == (2, {"NetworkPolicy": "7"}, ())
    assert status.since == "2027-01-15T08:00:00.000Z"


def test_a_change_is_told_when_it_is_committed_and_not_before(book, enforced):
    write(enforced, START)
    book.take(NETWORK_POLICIES, Put(policy(generation=3, version="12")))
    assert enforced.status({}).recent == ()
    enforced.taken()  # and the kernel refuses
    assert (enforced.status({}).recent, enforced.status({}).watermarks) == ((), {})

    write(enforced, LATER)
    (recent,) = enforced.status({}).recent
    assert (recent.kind, recent.namespace, recent.name, recent.generation) == ("NetworkPolicy", "x", "p", 3)
    assert recent.since == "2027-01-15T08:00:01.500Z"
    assert enforced.status({}).watermarks == {"NetworkPolicy": "12"}


def test_what_changes_while_a_transaction_is_under_way_is_not_in_it(book, enforced):
    write(enforced, START)
    enforced.taken()
    book.take(NETWORK_POLICIES, Put(policy(version="12")))
    enforced.written(LATER)

    assert (enforced.status({}).recent, enforced.status({}).watermarks) == ((), {})


def test_deleted_objects_appear_nowhere(book, enforced):
    write(enforced, START)
    book.take(NETWORK_POLICIES, Put(policy(ingress=BAD_PEER)))
    write(enforced)
    assert enforced.status({}).exceptions
    book.take(NETWORK_POLICIES, Gone(policy(version="13")))

    status = enforced.status({ObjectRef("NetworkPolicy", "x", "p", "1"): "too long"})
    assert (status.total, status.recent, status.exceptions) == (0, (), ())


def test_the_latest_changes_are_told_the_newest_last(book, enforced):
    write(enforced, START)
    for number in range(MOST + 10):
        book.take(NETWORK_POLICIES, Put(policy(f"p{number}")))
        write(enforced)
    book.take(NETWORK_POLICIES, Put(policy("p20", generation=2)))
    write(enforced)

    recent = enforced.status({}).recent
    assert len(recent) == MOST
    assert (recent[-1].name, recent[-1].generation) == ("p20", 2)
    assert recent[0].name == "p10"


def test_what_is_not_told_any_more_is_in_force_since_its_change_also_if_others_were_deleted(book, enforced):
    write(enforced, START)
    for number in range(MOST + 2):
        book.take(NETWORK_POLICIES, Put(policy(f"p{number}", uid=str(number))))
        write(enforced, START + 60 * (number + 1))
    for number in range(10, 20):
        book.take(NETWORK_POLICIES, Gone(policy(f"p{number}", uid=str(number))))
    write(enforced, START + 7200)

    status = enforced.status({})
    assert (len(status.recent), status.recent[0].name) == (MOST - 10, "p2")
    assert status.since == "2027-01-15T08:02:00.000Z"  # p1
    book.take(NETWORK_POLICIES, Put(policy("new", uid="new")))
    write(enforced, START + 9000)
    assert (len(enforced.status({}).recent), enforced.status({}).since) == (MOST - 9, status.since)


def test_exceptions_say_what_became_of_each_object(book, enforced):
    book.take(NETWORK_POLICIES, Put(policy("invalid", ingress=BAD_PEER)))
    book.take(NETWORK_POLICIES, Put(policy("kept", generation=4)))
    book.take(NETWORK_POLICIES, Put(policy("kept", generation=5, ingress=BAD_PEER)))
    book.take(NETWORK_POLICIES, Put(policy("refused")))
    partial = from_group("partial")
    partial["spec"]["ingress"] = [{"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}],
                                                                       "rules": {"http": [{}]}}]}]  # fmt: skip
    book.take(CILIUM_NETWORK_POLICIES, Put(partial))
    write(enforced, START)

    status = enforced.status({ObjectRef("NetworkPolicy", "x", "refused", "1", part=0): "the kernel refuses the rules"})
    told = {one.name: (one.state, one.generation, one.message) for one in status.exceptions}
    assert {name: state for name, (state, _, _) in told.items()} == {
        "invalid": "Invalid",
        "kept": "Kept",
        "refused": "Refused",
        "partial": "PartiallyEnforced",
    }
    assert told["kept"][1:] == (5, told["kept"][2])
    assert told["kept"][2].startswith("generation 4 stays in force: spec.ingress[0].from[0].ipBlock.cidr")
    assert told["refused"][2] == "the kernel refuses the rules"
    both = enforced.status({ObjectRef("CiliumNetworkPolicy", "x", "partial", "1", part=3): "the kernel refuses it"})
    assert sorted(one.name for one in both.exceptions) == ["invalid", "kept", "partial"]
    assert [one.state for one in both.exceptions if one.name == "partial"] == ["Refused"]


def test_many_exceptions_are_some_and_a_number_and_long_messages_are_cut(book, enforced):
    for number in range(MOST + 6):
        book.take(NETWORK_POLICIES, Put(policy(f"p{number}", ingress=[{"ports": [{"port": -1}] * 50}])))
    write(enforced, START)

    status = enforced.status({})
    assert (len(status.exceptions), status.moreExceptions) == (MOST, 6)
    assert max(len(one.message) for one in status.exceptions) == MOST_TEXT


def test_an_object_that_waits_for_what_it_refers_to_is_not_told_and_holds_the_watermark(book, enforced):
    write(enforced, START)
    book.take(CILIUM_NETWORK_POLICIES, Put(from_group(version="20")))
    write(enforced)

    assert (enforced.status({}).recent, enforced.status({}).watermarks) == ((), {})
