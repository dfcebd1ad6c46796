"""What is written into the status of policies, by what they are, what nodes say and what others write."""

from typing import Any

import msgspec
import pytest

from isthmus.kube.meshobjects import MeshNode, MeshNodeStatus, PoliciesOnNode, PolicyException, RecentPolicy
from isthmus.kube.reflector import Gone, Put
from isthmus.kube.resources import (
    CILIUM_NETWORK_POLICIES,
    CLUSTER_NETWORK_POLICIES,
    NETWORK_POLICIES,
    POLICY_KINDS,
    Resource,
)
from isthmus.kube.schema import ObjectMeta
from isthmus.mesh.control.clusters import stamp
from isthmus.mesh.control.policies.book import DOUBT, YIELD, Book
from isthmus.mesh.control.policies.conditions import ENFORCED, LONGEST
from isthmus.mesh.control.policies.follower import KINDS
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterLeft, ClusterSynced, IdentityGone, IdentityTold
from tests.support.control import merged

CNP, TIERED = CILIUM_NETWORK_POLICIES, CLUSTER_NETWORK_POLICIES
START = 1_800_000_000.0
SPECS: dict[str, Any] = {
    CNP.kind: {"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]},
    TIERED.kind: {
        "tier": "Admin",
        "priority": 10,
        "subject": {"namespaces": {}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    },
}


class Place:
    """A cluster with one node, whose API server stores what is planned."""

    def __init__(self) -> None:
        self.book = Book("here")
        self.now = START
        self.version = 100
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.book.rollout.put_node("n1", now=self.now)
        self.says(0)

    def put(
        self, resource: Resource = CNP, name: str = "p", *, loaded: bool = True, conditions: Any = None, **spec: Any
    ) -> None:
        """Stores an object, or another content of it."""
        key = (resource.kind, name)
        meta = self.objects.get(key, {"metadata": {"generation": 0}})["metadata"]
        where = {"namespace": "demo"} if resource.namespaced else {}
        self.objects[key] = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "uid": f"uid-{name}", **where, "generation": meta["generation"] + 1},
            "spec": spec or SPECS[resource.kind],
            **({"status": {"conditions": conditions}} if conditions is not None else {}),
        }
        self.show(resource, name, loaded=loaded)

    def show(self, resource: Resource, name: str, *, loaded: bool = True) -> None:
        """The watch tells of an object."""
        self.version += 1
        obj = self.objects[resource.kind, name]
        obj["metadata"]["resourceVersion"] = str(self.version)
        copy = msgspec.json.decode(msgspec.json.encode(obj))
        self.book.put(resource, copy, now=self.now, loaded=loaded)

    def lists(self, resource: Resource, *objects: dict[str, Any]) -> None:
        """A list tells which objects of a kind there are."""
        self.book.retain(resource, objects)
        self.book.put_listed(resource, objects, now=self.now, loaded=True)

    def says(
        self, mark: int, *recent: RecentPolicy, reports: bool = True, exceptions: tuple[PolicyException, ...] = ()
    ) -> None:
        marks = {kind.kind: str(mark) for kind in POLICY_KINDS}
        told = PoliciesOnNode(watermarks=marks, recent=recent, exceptions=exceptions) if reports else None
        status = MeshNodeStatus(heartbeat=stamp(self.now), policies=told)
        self.book.rollout.put_mesh_node(MeshNode(metadata=ObjectMeta("n1"), status=status), now=self.now)

    def plan(self, resource: Resource = CNP, name: str = "p") -> tuple[bool, float | None]:
        """Does what is planned; returns whether there was anything, and when to look again."""
        place = (resource.kind, "demo" if resource.namespaced else "", name)
        change, again = self.book.plan(place, now=self.now)
        if change is None:
            return False, again
        obj = self.objects[resource.kind, name]
        assert change.version == obj["metadata"]["resourceVersion"]
        assert change.status
        self.book.sending(place, change)
        self.objects[resource.kind, name] = merged(obj, change.patch)
        self.show(resource, name)
        return True, again

    def settle(self, resource: Resource = CNP, name: str = "p") -> dict[str, Any]:
        """Plans until nothing is left to do; returns the conditions by type."""
        for _ in range(3):
            if not self.plan(resource, name)[0]:
                break
        assert not self.plan(resource, name)[0]
        return {one["type"]: one for one in self.objects[resource.kind, name]["status"]["conditions"]}

    def overwrite(self, type: str, *, resource: Resource = CNP, name: str = "p", **fields: Any) -> None:
        """Somebody else changes a condition."""
        for one in self.objects[resource.kind, name]["status"]["conditions"]:
            if one["type"] == type:
                one.update(fields)
        self.show(resource, name)


@pytest.fixture
def here() -> Place:
    return Place()


def test_what_is_as_it_should_be_makes_no_write(here: Place) -> None:
    here.put()
    here.says(1000)
    found = here.settle()
    assert found["Valid"] == {
        "type": "Valid",
        "status": "True",
        "message": "Policy validation succeeded",
        "lastTransitionTime": stamp(START),
    }
    assert found[ENFORCED]["reason"] == "Enforced"
    here.now += 30
    here.says(2000)
    assert here.book.take()[1] == set()
    assert here.settle() == found


def test_times_change_only_with_the_status(here: Place) -> None:
    here.put(TIERED)
    first = here.settle(TIERED)
    assert (first[ENFORCED]["status"], first[ENFORCED]["observedGeneration"]) == ("False", 1)
    here.now += 10
    here.says(1000)
    second = here.settle(TIERED)
    assert second[ENFORCED]["lastTransitionTime"] == stamp(START + 10)
    assert second["Accepted"] == first["Accepted"]
    here.now += 10
    here.put(TIERED, conditions=list(second.values()), **{**SPECS[TIERED.kind], "priority": 11})
    here.says(2000)
    third = here.settle(TIERED)
    assert third["Accepted"]["observedGeneration"] == 2
    assert third["Accepted"]["lastTransitionTime"] == stamp(START)
    assert third[ENFORCED]["lastTransitionTime"] == stamp(START + 10)


def test_a_condition_that_is_written_does_not_make_its_policy_pending(here: Place) -> None:
    here.put()
    here.says(here.version)
    assert here.settle()[ENFORCED]["status"] == "True"
    assert int(here.objects[CNP.kind, "p"]["metadata"]["resourceVersion"]) > 101


def test_an_earlier_life_is_believed_until_agents_had_time(here: Place) -> None:
    enforced = {"type": ENFORCED, "status": "True", "reason": "Enforced", "message": "Every node enforces it"}
    enforced["lastTransitionTime"] = stamp(START - 900)
    here.put(loaded=False, conditions=[enforced])
    here.plan()
    wrote, again = here.plan()
    assert (wrote, again) == (False, DOUBT)
    here.now += DOUBT
    assert here.settle()[ENFORCED]["reason"] == "Pending"


def test_what_changes_while_we_look_is_pending_at_once(here: Place) -> None:
    here.put()
    here.says(1000)
    here.settle()
    here.version = 2000
    here.put(egress=[{}], endpointSelector={})
    assert here.settle()[ENFORCED]["reason"] == "Pending"


def test_nodes_that_do_not_report_make_it_unknown(here: Place) -> None:
    here.says(0, reports=False)
    here.put()
    assert here.settle()[ENFORCED]["status"] == "Unknown"


def test_others_that_agree_keep_their_words(here: Place) -> None:
    here.put()
    here.says(1000)
    here.settle()
    here.overwrite("Valid", message="all good", reason="Fine")
    found = here.settle()
    assert found["Valid"]["message"] == "all good"
    here.now += 10 * YIELD
    assert here.settle()["Valid"]["message"] == "all good"


def test_others_that_disagree_are_overruled_ever_more_rarely(here: Place) -> None:
    here.put()
    here.says(1000)
    here.settle()
    pauses = []
    for _ in range(4):
        here.overwrite("Valid", status="False", message="no")
        wrote, again = here.plan()
        assert not wrote
        assert again is not None
        pauses.append(again)
        here.now += again
        here.says(1000)
        assert here.settle()["Valid"]["status"] == "True"
    assert pauses == [YIELD, 2 * YIELD, 4 * YIELD, 8 * YIELD]
    assert here.book.contests == 4


def test_a_condition_that_is_taken_away_is_put_back(here: Place) -> None:
    here.put()
    here.says(1000)
    here.settle()
    del here.objects[CNP.kind, "p"]["status"]
    here.show(CNP, "p")
    assert set(here.settle()) == {"Valid", ENFORCED}
    assert here.book.contests == 0


def test_a_watch_that_is_late_says_nothing_new(here: Place) -> None:
    here.put()
    late = msgspec.json.decode(msgspec.json.encode(here.objects[CNP.kind, "p"]))
    here.says(1000)
    found = here.settle()
    here.book.put(CNP, late, now=here.now)
    assert here.settle() == found
    here.lists(CNP, late)
    assert here.book.contests == 0


def test_a_list_from_before_our_last_write_is_not_somebody_elses_word(here: Place) -> None:
    here.put()
    assert here.settle()[ENFORCED]["reason"] == "Pending"
    before = msgspec.json.decode(msgspec.json.encode(here.objects[CNP.kind, "p"]))
    here.says(1000)
    assert here.settle()[ENFORCED]["reason"] == "Enforced"
    here.lists(CNP, before)
    assert here.book.contests == 0
    here.show(CNP, "p")
    assert here.settle()[ENFORCED]["reason"] == "Enforced"


def test_what_is_listed_counts_also_if_it_is_older_than_what_is_known(here: Place) -> None:
    here.put()
    before = msgspec.json.decode(msgspec.json.encode(here.objects[CNP.kind, "p"]))
    here.put(endpointSelector=7)
    assert here.settle()["Valid"]["status"] == "False"
    here.objects[CNP.kind, "p"] = before  # the server is one of a copy that was made earlier
    here.lists(CNP, before)
    assert here.settle()["Valid"]["status"] == "True"
    assert here.book.contests == 0


def test_conditions_of_kinds_whose_schema_has_no_generation_have_none(here: Place) -> None:
    here.put()
    here.put(TIERED)
    assert not any("observedGeneration" in one for one in here.settle().values())
    assert all(one["observedGeneration"] == 1 for one in here.settle(TIERED).values())


def test_an_object_that_is_made_again_starts_anew(here: Place) -> None:
    here.put()
    here.says(1000)
    here.settle()
    here.version = 2000
    here.objects.clear()
    here.put()
    here.objects[CNP.kind, "p"]["metadata"]["uid"] = "another"
    here.show(CNP, "p")
    assert here.settle()[ENFORCED]["reason"] == "Pending"


def test_an_answer_that_comes_after_the_end_of_its_object_brings_nothing_back(here: Place) -> None:
    here.put(TIERED)
    old = msgspec.json.decode(msgspec.json.encode(here.objects[TIERED.kind, "p"]))
    here.book.drop(TIERED, old)
    here.book.answered(TIERED, old, now=here.now)
    assert len(here.book) == 0

    old["metadata"]["uid"] = "another"
    here.objects.clear()
    here.put(TIERED)
    here.book.answered(TIERED, old, now=here.now)
    assert here.settle(TIERED)["Accepted"]["status"] == "True"  # written against the version that is there
    here.book.answered(TIERED, here.objects[TIERED.kind, "p"], now=here.now)
    assert here.plan(TIERED) == (False, None)


def test_objects_that_go_or_are_not_listed_any_more_are_forgotten(here: Place) -> None:
    here.put(name="a")
    here.put(name="b")
    here.book.drop(CNP, here.objects[CNP.kind, "a"])
    assert here.book.plan((CNP.kind, "demo", "a"), now=here.now) == (None, None)
    here.book.subjects.apply([ClusterSynced("here")])
    assert [here.book.subjects.lacking((CNP.kind, "demo", name)) for name in "ab"] == [False, True]
    here.lists(CNP)
    assert len(here.book) == 0
    assert here.book.rollout.places(CNP.kind) == set()
    here.put(TIERED)
    here.lists(CNP)
    assert len(here.book) == 1


def test_what_is_being_deleted_is_left_alone(here: Place) -> None:
    here.put()
    here.objects[CNP.kind, "p"]["metadata"]["deletionTimestamp"] = stamp(START)
    here.show(CNP, "p")
    assert here.plan() == (False, None)


def test_groups_are_read_again_by_those_who_name_them(here: Place) -> None:
    here.put(endpointSelector={}, egress=[{"toCIDRSet": [{"cidrGroupRef": "partners"}]}])
    here.says(1000)
    assert "partners" in here.settle()[ENFORCED]["message"]
    group = {"metadata": {"name": "partners"}, "spec": {"externalCIDRs": ["192.0.2.0/24"]}}
    here.book.take()
    here.book.on_groups(Put(group))
    assert here.book.take()[0] == {(CNP.kind, "demo", "p")}
    assert "partners" not in here.settle()[ENFORCED]["message"]
    here.book.on_groups(Gone(group))
    assert "partners" in here.settle()[ENFORCED]["message"]


def test_the_scope_annotation_is_part_of_what_is_read(here: Place) -> None:
    here.put()
    here.says(1000)
    here.settle()
    here.objects[CNP.kind, "p"]["metadata"]["annotations"] = {"isthmus.dev/policy-scope": "planet"}
    here.show(CNP, "p")
    here.says(2000)
    assert "planet" in here.settle()[ENFORCED]["message"]


def test_ties_are_said_of_both_and_go_with_either(here: Place) -> None:
    here.says(10_000)
    here.put(TIERED, "a")
    rule = {"action": "Accept", "from": [{"namespaces": {}}]}
    here.put(TIERED, "b", **{**SPECS[TIERED.kind], "ingress": [rule]})
    for name in ("a", "b"):
        assert "priority 10" in here.settle(TIERED, name)[ENFORCED]["message"]
    here.book.take()
    here.book.drop(TIERED, here.objects[TIERED.kind, "b"])
    assert here.book.take()[1] == {(TIERED.kind, "", "a")}
    assert "priority" not in here.settle(TIERED, "a")[ENFORCED]["message"]


def test_a_policy_that_selects_no_pod_says_so_once_the_cluster_is_known(here: Place) -> None:
    web = Identity(1 << 16 | 300, "here", "demo", {"app": "web"}, {})
    book = here.book
    here.put()
    here.says(1000)
    assert "no pod" not in here.settle()[ENFORCED]["message"]
    place = (CNP.kind, "demo", "p")
    assert book.subjects.apply([ClusterSynced("here")]) == {place}
    assert "no pod" in here.settle()[ENFORCED]["message"]
    assert book.subjects.apply([IdentityTold(msgspec.structs.replace(web, cluster="there"))]) == set()
    assert book.subjects.apply([IdentityTold(web)]) == {place}
    assert "no pod" not in here.settle()[ENFORCED]["message"]
    assert book.subjects.apply([IdentityTold(msgspec.structs.replace(web, labels={"app": "db"}))]) == {place}
    assert book.subjects.apply([IdentityTold(web), IdentityGone("here", web.number)]) == {place}
    assert "no pod" in here.settle()[ENFORCED]["message"]
    book.subjects.apply([ClusterLeft("here")])
    assert "no pod" not in here.settle()[ENFORCED]["message"]


def test_whether_a_policy_selects_anybody_is_looked_at_in_time_when_that_changes(here: Place) -> None:
    here.put()
    here.book.take()
    changed = here.book.subjects.apply([ClusterSynced("here")])
    here.book.lacking({*changed, (CNP.kind, "demo", "gone")})
    assert here.book.take() == (set(), {(CNP.kind, "demo", "p")})


def test_which_services_there_are_is_not_known_and_nothing_is_said_of_them(here: Place) -> None:
    to = {"toServices": [{"k8sService": {"serviceName": "db", "namespace": "demo"}}]}
    here.put(endpointSelector={}, egress=[to])
    here.says(1000)
    assert "Warning" not in here.settle()[ENFORCED]["message"]


@pytest.mark.parametrize(
    ("state", "spec", "reason", "said"),
    [
        ("Kept", {"endpointSelector": 7}, "Refused", "an earlier version stays in force on 1 of 1 nodes (because)"),
        ("Invalid", {"endpointSelector": 7}, "Refused", "what it selects is isolated on 1 of 1 nodes"),
        ("", {"endpointSelector": 7}, "Refused", "no node has said yet what it does instead"),
        ("Refused", SPECS[CNP.kind], "Refused", "The rules are refused on 1 of 1 nodes: because"),
        ("PartiallyEnforced", SPECS[CNP.kind], "PartiallyEnforced", "Every node has it, but not: because"),
    ],
)
def test_what_nodes_do_instead_is_said(here: Place, state: str, spec: Any, reason: str, said: str) -> None:
    here.put(**spec)
    exception = PolicyException(CNP.kind, "demo", "p", 1, state, "because")
    here.says(1000, exceptions=(exception,) if state else ())
    found = here.settle()[ENFORCED]
    assert (found["status"], found["reason"]) == ("False", reason)
    assert said in found["message"]


def test_an_invalid_policy_of_an_ordered_tier_is_not_said_to_isolate(here: Place) -> None:
    here.put(TIERED, **{**SPECS[TIERED.kind], "ingress": [{"action": "Accept", "from": []}]})
    here.says(1000, exceptions=(PolicyException(TIERED.kind, "", "p", 1, "Invalid", "because"),))
    said = here.settle(TIERED)[ENFORCED]["message"]
    assert (
        "accepting rules that are wrong match nothing, others that are wrong deny everything, on 1 of 1 nodes" in said
    )
    assert "isolated" not in said


def test_of_labels_that_identities_lack_nothing_is_said(here: Place) -> None:
    here.book.subjects.apply([ClusterSynced("here")])
    here.put(endpointSelector={"matchLabels": {"statefulset.kubernetes.io/pod-name": "db-0"}}, ingress=[{}])
    here.says(1000)
    assert "no pod" not in here.settle()[ENFORCED]["message"]


@pytest.mark.parametrize("spec", [7, None, [], {"ingress": 7}, {"endpointSelector": [], "egress": {"a": 1}}])
def test_spoiled_objects_are_not_valid_and_say_so_in_bounds(here: Place, spec: Any) -> None:
    here.put()
    here.objects[CNP.kind, "p"]["spec"] = spec
    here.objects[CNP.kind, "p"]["metadata"]["generation"] += 1
    here.show(CNP, "p")
    found = here.settle()
    assert found["Valid"]["status"] == "False"
    assert found[ENFORCED]["reason"] == "Refused"
    assert 0 < len(found["Valid"]["message"]) <= LONGEST


def test_many_faults_are_counted(here: Place) -> None:
    here.put(endpointSelector={}, ingress=[{"fromCIDR": [f"bad-{i}" for i in range(200)]}])
    message = here.settle()["Valid"]["message"]
    assert "and " in message
    assert " more" in message
    assert len(message) <= LONGEST


@pytest.mark.parametrize("status", [7, {"conditions": 7}, {"conditions": [7, {}, {"type": 7}, {"type": "Valid"}]}])
def test_a_spoiled_status_is_mended_as_far_as_it_is_ours(here: Place, status: Any) -> None:
    here.put()
    here.objects[CNP.kind, "p"]["status"] = status
    here.show(CNP, "p")
    here.plan()
    found = here.objects[CNP.kind, "p"]["status"]["conditions"]
    assert [one["status"] for one in found if isinstance(one, dict) and one.get("type") == "Valid"] == ["True"]


def test_kinds_without_a_status_are_not_followed() -> None:
    assert NETWORK_POLICIES not in KINDS
    assert len(KINDS) == len(POLICY_KINDS) - 1
