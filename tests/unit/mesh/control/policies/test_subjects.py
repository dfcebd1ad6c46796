"""Which policies select nobody, as the pods that there are come and go."""

from isthmus.mesh.control.policies.subjects import Subjects
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterSynced, IdentityGone, IdentityTold
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.rules import ObjectRef, PodPeer, Policy

PLACE = ("NetworkPolicy", "demo", "p")
WEB = PodPeer(Selector((Term("app", Operator.IN, ("web",)),)))


def told(number: int, app: str = "web", namespace: str = "demo") -> IdentityTold:
    return IdentityTold(Identity(number, "here", namespace, {"app": app}, {}))


def test_a_policy_lacks_subjects_only_once_the_last_of_them_is_gone() -> None:
    subjects = Subjects("here")
    subjects.put(PLACE, (Policy(ObjectRef(*PLACE), "demo", WEB, frozenset()),))
    subjects.apply([ClusterSynced("here"), told(1), told(2), told(3, app="db"), told(4, namespace="other")])
    assert not subjects.lacking(PLACE)
    assert subjects.apply([IdentityGone("here", 1)]) == set()
    assert not subjects.lacking(PLACE)

    assert subjects.apply([told(2, app="db")]) == {PLACE}
    assert subjects.lacking(PLACE)
    assert subjects.apply([told(5)]) == {PLACE}
    assert not subjects.lacking(PLACE)
