import pytest

from isthmus.mesh.source.identities import SPACE, Allocator, Exhausted, LabelFilter, Looks
from isthmus.model.endpoint import Cluster
from isthmus.model.identity import Identity, cluster_of

C3 = Cluster("cluster-3", 3)


def looks(**labels: str) -> Looks:
    return Looks("demo", labels, {"team": "a"}, "default")


def test_the_same_looks_share_a_number_of_the_cluster() -> None:
    allocator = Allocator(C3)

    first, is_new = allocator.acquire(looks(app="web", tier="x"))
    second, is_new_again = allocator.acquire(looks(tier="x", app="web"))

    assert first == second
    assert (is_new, is_new_again) == (True, False)
    assert cluster_of(first.number) == 3
    assert first.number & 0xFFFF >= 256
    assert (first.cluster, first.namespace, first.service_account) == ("cluster-3", "demo", "default")


@pytest.mark.parametrize(
    "other",
    [
        Looks("demo2", {"app": "web"}, {"team": "a"}, "default"),
        Looks("demo", {"app": "web2"}, {"team": "a"}, "default"),
        Looks("demo", {"app": "web"}, {"team": "b"}, "default"),
        Looks("demo", {"app": "web"}, {"team": "a"}, "other"),
        Looks("demo", {}, {"app": "web", "team": "a"}, "default"),
    ],
)
def test_whatever_policy_may_see_makes_another_identity(other: Looks) -> None:
    allocator = Allocator(C3)

    assert allocator.acquire(looks(app="web"))[0].number != allocator.acquire(other)[0].number


def test_replicas_that_never_speak_agree_whatever_the_order() -> None:
    many = [looks(app=f"app-{i}") for i in range(200)]
    one, two = Allocator(C3), Allocator(C3)
    first = {item.text: one.acquire(item)[0].number for item in many}
    second = {item.text: two.acquire(item)[0].number for item in reversed(many)}

    assert len(set(first.values())) == 200
    assert sum(first[text] != second[text] for text in first) <= 4  # collisions only


def test_the_number_is_the_same_in_every_version_of_this_program() -> None:
    """Replicas of different versions run side by side during an upgrade."""
    assert Allocator(C3).acquire(looks(app="web"))[0].number == 235044


def test_the_last_release_frees_and_the_same_looks_get_the_number_back() -> None:
    allocator = Allocator(C3)
    number = allocator.acquire(looks(app="web"))[0].number
    allocator.acquire(looks(app="web"))

    assert allocator.release(number) is False
    assert allocator.release(number) is True
    assert len(allocator) == 0
    assert allocator.acquire(looks(app="web")) == (allocator.acquire(looks(app="web"))[0], True)
    with pytest.raises(KeyError):
        allocator.release(number + 1)


def test_a_freed_number_is_not_given_to_others_before_the_grace_list_is_past() -> None:
    allocator = Allocator(C3, grace=3)
    taken = {i: allocator.acquire(looks(app=f"a{i}"))[0].number for i in range(SPACE)}
    for i in range(3):
        allocator.release(taken[i])
    with pytest.raises(Exhausted, match="cluster-3 has no identity number left"):
        allocator.acquire(looks(app="new"))

    assert not allocator.has_room
    allocator.release(taken[3])
    assert allocator.has_room
    assert allocator.acquire(looks(app="new"))[0].number == taken[0]
    assert allocator.acquire(looks(app="a1"))[0].number == taken[1]


def test_adopted_numbers_win_over_the_hash() -> None:
    base = 3 << 16
    kept = Identity(base + 300, "cluster-3", "demo", {"app": "web"}, {"team": "a"}, "default")
    allocator = Allocator(C3)

    assert allocator.adopt({kept.number: kept}) == []
    assert allocator.acquire(looks(app="web")) == (kept, True)


def test_adopted_numbers_are_not_given_to_others_even_if_their_labels_never_come() -> None:
    hashed = Allocator(C3).acquire(looks(app="web"))[0].number
    stale = Identity(hashed, "cluster-3", "demo", {"app": "gone"}, {}, "")
    allocator = Allocator(C3)
    allocator.adopt({hashed: stale})

    assert allocator.acquire(looks(app="web"))[0].number == hashed + 1
    allocator.settle()
    assert allocator.acquire(Looks("demo", {"app": "gone"}, {}, ""))[0].number == hashed


def test_identities_that_cannot_be_ours_are_not_adopted() -> None:
    base = 3 << 16
    one = Identity(base + 300, "cluster-3", "demo", {"app": "web"}, {}, "")
    allocator = Allocator(C3)

    refused = allocator.adopt(
        {
            base + 300: one,
            base + 301: one,
            base + 255: one,
            (4 << 16) + 300: one,
            base + 302: Identity(base + 302, "cluster-4", "demo", {}, {}, ""),
        }
    )

    assert len(refused) == 4
    assert any("same labels as 196908" in reason for reason in refused)


def test_labels_that_make_every_pod_unique_are_left_out() -> None:
    labels = {"app": "web", "pod-template-hash": "x", "batch.kubernetes.io/job-name": "j"}

    assert LabelFilter().keep(labels) == {"app": "web"}


def test_a_key_that_policies_select_on_is_kept() -> None:
    labels = {"app": "web", "job-name": "j", "pod-template-hash": "x"}
    chosen = LabelFilter().selecting({"job-name", "app", "unheard"})

    assert chosen.keep(labels) == {"app": "web", "job-name": "j"}
    assert chosen.selected == {"job-name"}
    assert LabelFilter(excluded=frozenset()).keep(labels) == labels


def test_an_exclusion_may_be_a_prefix() -> None:
    labels = {"argo.io/a": "1", "argo.io/b": "2", "app": "x"}
    chosen = LabelFilter(excluded=frozenset({"argo.io/*"})).selecting({"argo.io/b"})

    assert chosen.keep(labels) == {"argo.io/b": "2", "app": "x"}
