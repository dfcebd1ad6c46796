"""When a broken watch may go on, and when it must list again."""

import pytest

from isthmus.store.contract import Header, KeyValue
from isthmus.store.watch import Doubt, WatchState


def header(revision: int, *, cluster: int = 1, member: int = 1) -> Header:
    return Header(cluster, member, revision)


def listed(revision: int = 10) -> WatchState:
    state = WatchState()
    state.listed(header(revision), epoch=b"e")
    return state


def test_it_starts_with_a_listing():
    assert WatchState().doubt is Doubt.START


def test_it_watches_from_the_revision_of_the_listing_and_drops_what_comes_again():
    """Starting one later would lose deletions of that revision to a compaction at it (etcd issue 19179)."""
    state = listed(10)

    assert state.doubt is None
    assert state.start_revision == 10
    assert state.arrived(header(10), (KeyValue(b"a", b"", 10),)) == ()


def test_it_resumes_after_the_last_delivered_event_not_after_a_sign_of_life():
    state = listed(10)
    state.arrived(header(30), (KeyValue(b"a", b"", 12),))
    state.arrived(header(40), ())

    assert state.start_revision == 12
    assert state.opened(header(40), epoch=b"e") is None


def test_events_already_delivered_are_not_delivered_again():
    state = listed(10)

    assert state.arrived(header(12), (KeyValue(b"a", b"", 9), KeyValue(b"a", b"", 12))) == (KeyValue(b"a", b"", 12),)


@pytest.mark.parametrize(
    ("answer", "epoch", "doubt"),
    [
        (header(10, cluster=2), b"e", Doubt.CLUSTER),
        (header(9), b"e", Doubt.REVISION),
        (header(10), b"f", Doubt.EPOCH),
        (header(10), None, Doubt.EPOCH),
        (header(10, member=2), b"e", None),
    ],
)
def test_another_history_is_noticed_when_a_watch_opens(answer, epoch, doubt):
    state = listed(10)

    assert state.opened(answer, epoch=epoch) is doubt
    assert state.doubt is doubt


def test_another_history_is_noticed_in_the_middle_of_a_watch_and_nothing_of_it_is_delivered():
    state = listed(10)

    assert state.arrived(header(20, cluster=2), (KeyValue(b"a", b"", 20),)) == ()
    assert state.doubt is Doubt.CLUSTER


def test_a_compaction_asks_for_a_listing_and_the_listing_ends_the_doubt():
    state = listed(10)
    state.compacted()

    assert state.doubt is Doubt.COMPACTED
    state.listed(header(50), epoch=b"e")
    assert state.doubt is None
    assert state.start_revision == 50
