"""StatefulSet: names and order. DaemonSet: one on every node that wants it. Both: revisions."""

from typing import Any

from msgspec.structs import replace

from isthmus.kube.resources import DAEMON_SETS
from isthmus.lab.controllers.effects import Change, Create, Delete, Effect
from isthmus.lab.controllers.objects.meta import Meta
from isthmus.lab.controllers.objects.nodes import Taint
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.workloads import (
    ControllerRevision,
    DaemonSet,
    DaemonSetSpec,
    Ordinals,
    RollingUpdate,
    StatefulSet,
    StatefulSetSpec,
    Strategy,
)
from isthmus.lab.controllers.workloads import daemonset, revisions, statefulset
from isthmus.lab.controllers.workloads.templates import REVISION_HASH
from tests.support.clusterobjects import NOW, SELECTOR, TEMPLATE, names, node, pod, template


def stateful(**spec: Any) -> StatefulSet:
    spec = {"replicas": 3, "serviceName": "web", **spec}
    return StatefulSet(
        metadata=Meta(name="web", namespace="n", uid="uid-web", generation=1),
        spec=StatefulSetSpec(selector=SELECTOR, template=TEMPLATE, **spec),
    )


def member(number: int, revision: str = "r1", **how: Any) -> Pod:
    name = f"web-{number}"
    labels = {REVISION_HASH: revision, statefulset.POD_NAME: name, statefulset.POD_INDEX: str(number)}
    return pod(name, labels=labels, **how)


def picture(item: StatefulSet, *pods: Pod, current: str = "r1", update: str = "r1") -> statefulset.Picture:
    numbered = {int(one.metadata.name.rpartition("-")[2]): one for one in pods}
    return statefulset.Picture(item, numbered, {"r1": TEMPLATE, "r2": template("two")}, current, update)


def acts(effects: list[Effect]) -> list[tuple[str, str]]:
    found = []
    for effect in effects:
        if isinstance(effect, Create):
            found.append(("create", effect.body["metadata"]["name"]))
        elif isinstance(effect, Delete):
            found.append(("delete", effect.name))
        elif isinstance(effect, Change):
            found.append(("change", effect.name))
    return found


def next_of(item: StatefulSet, *pods: Pod, **how: Any) -> list[tuple[str, str]]:
    return acts(statefulset.plan(picture(item, *pods, **how), now=NOW))


def test_one_after_the_other_when_ordered() -> None:
    item = stateful()
    assert next_of(item) == [("create", "web-0")]
    assert next_of(item, member(0, ready=False)) == []
    assert next_of(item, member(0)) == [("create", "web-1")]
    assert next_of(item, member(0, leaving=True), member(1)) == []
    assert next_of(stateful(minReadySeconds=60), member(0, since=NOW - 5)) == []


def test_all_at_once_when_parallel() -> None:
    item = stateful(podManagementPolicy="Parallel")
    assert next_of(item) == [("create", "web-0"), ("create", "web-1"), ("create", "web-2")]
    fewer = replace(item, spec=replace(item.spec, replicas=0))
    assert next_of(fewer, member(0), member(1)) == [("delete", "web-1"), ("delete", "web-0")]


def test_identity_of_a_new_pod() -> None:
    (created,) = statefulset.plan(picture(stateful(ordinals=Ordinals(5))), now=NOW)
    assert isinstance(created, Create)
    meta, spec = created.body["metadata"], created.body["spec"]
    assert meta["labels"] == {
        "app": "a",
        "statefulset.kubernetes.io/pod-name": "web-5",
        "apps.kubernetes.io/pod-index": "5",
        "controller-revision-hash": "r1",
    }
    assert (spec["hostname"], spec["subdomain"]) == ("web-5", "web")
    assert created.words == ("SuccessfulCreate", "create Pod web-5 in StatefulSet web successful")


def test_the_highest_goes_first() -> None:
    item = stateful(replicas=1)
    pods = [member(0), member(1), member(2)]
    assert next_of(item, *pods) == [("delete", "web-2")]
    assert next_of(item, *pods[:2], member(2, leaving=True)) == []
    assert next_of(item, *pods[:2]) == [("delete", "web-1")]


def test_a_failed_pod_is_made_anew() -> None:
    assert next_of(stateful(), member(0, phase="Failed"), member(1)) == [("delete", "web-0")]


def test_updates_come_down_from_the_top_and_wait() -> None:
    item = stateful()
    pods = [member(0), member(1), member(2)]
    assert next_of(item, *pods, update="r2") == [("delete", "web-2")]
    assert next_of(item, *pods[:2], update="r2") == [("create", "web-2")]
    assert next_of(item, *pods[:2], member(2, "r2", ready=False), update="r2") == []
    assert next_of(item, *pods[:2], member(2, "r2"), update="r2") == [("delete", "web-1")]
    (created,) = statefulset.plan(picture(item, *pods[:2], update="r2"), now=NOW)
    assert isinstance(created, Create)
    assert created.body["spec"]["containers"][0]["image"] == "two"


def test_the_partition_keeps_the_old_revision() -> None:
    item = stateful(updateStrategy=Strategy(rollingUpdate=RollingUpdate(partition=2)))
    assert next_of(item, member(0), member(1), member(2, "r2"), update="r2") == []
    (created,) = statefulset.plan(picture(item, member(0), member(2, "r2"), update="r2"), now=NOW)
    assert isinstance(created, Create)
    assert created.body["metadata"]["labels"][REVISION_HASH] == "r1"


def test_on_delete_waits_for_the_user() -> None:
    item = stateful(updateStrategy=Strategy("OnDelete"))
    assert next_of(item, member(0), member(1), member(2), update="r2") == []
    (created,) = statefulset.plan(picture(item, member(0), member(1), update="r2"), now=NOW)
    assert isinstance(created, Create)
    assert created.body["metadata"]["labels"][REVISION_HASH] == "r2"


def test_a_lost_label_is_given_back() -> None:
    bare = pod("web-0", labels={REVISION_HASH: "r1"})
    assert ("change", "web-0") in next_of(stateful(replicas=1), bare)


def test_status_of_an_update_that_is_done() -> None:
    pods = [member(n, "r2") for n in range(3)]
    found = statefulset.status(picture(stateful(), *pods, update="r2"), now=NOW)
    assert found is not None
    assert (found["currentRevision"], found["currentReplicas"], found["updatedReplicas"]) == ("r2", 3, 3)
    half = statefulset.status(picture(stateful(), member(0), member(1), member(2, "r2"), update="r2"), now=NOW)
    assert half is not None
    assert (half["currentRevision"], half["currentReplicas"], half["updatedReplicas"]) == ("r1", 2, 1)


def daemon(**spec: Any) -> DaemonSet:
    return DaemonSet(
        metadata=Meta(name="ds", namespace="n", uid="uid-ds", generation=1),
        spec=DaemonSetSpec(selector=SELECTOR, template=spec.pop("template", TEMPLATE), **spec),
    )


def on(name: str, hash_: str = "h", **how: Any) -> Pod:
    return pod(f"ds-{name}", on=name, labels={REVISION_HASH: hash_}, **how)


def look(item: DaemonSet, nodes: list[Any], *pods: Pod, hash_: str = "h") -> daemonset.Picture:
    return daemonset.look(item, nodes, pods, hash_=hash_)


CONTROL = Taint(key="node-role.kubernetes.io/control-plane", effect="NoSchedule")


def test_one_on_every_node_that_will_have_it() -> None:
    nodes = [node("a"), node("b", cordoned=True), node("cp", taints=(CONTROL,)), node("c")]
    effects = daemonset.plan(look(daemon(), nodes, on("c")), fresh=names(), now=NOW)
    made = [effect.body["spec"] for effect in effects if isinstance(effect, Create)]
    pins = [
        spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        for spec in made
    ]
    assert [pin[0]["matchFields"][0]["values"] for pin in pins] == [["a"], ["b"]]
    tolerated = {(one["key"], one["effect"]) for one in made[0]["tolerations"]}
    assert ("node.kubernetes.io/unschedulable", "NoSchedule") in tolerated
    assert ("node.kubernetes.io/unreachable", "NoExecute") in tolerated


def test_a_daemon_that_is_pinned_but_not_bound_counts() -> None:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}
    pinned = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    waiting = pod("ds-x", on="", phase="Pending", affinity=pinned, labels={REVISION_HASH: "h"})
    assert daemonset.plan(look(daemon(), [node("a")], waiting), fresh=names(), now=NOW) == []
    gone = daemonset.plan(look(daemon(), [node("b")], on("b"), waiting), fresh=names(), now=NOW)
    assert acts(gone) == [("delete", "ds-x")]


def test_a_selector_moves_daemons_away() -> None:
    choosy = daemon(template={**TEMPLATE, "spec": {**TEMPLATE["spec"], "nodeSelector": {"disk": "ssd"}}})
    nodes = [node("a"), node("b", labels={"disk": "ssd"})]
    effects = daemonset.plan(look(choosy, nodes, on("a")), fresh=names(), now=NOW)
    assert [what for what, _ in acts(effects)] == ["delete", "create"]
    found = daemonset.status(look(choosy, nodes, on("a")), now=NOW)
    assert found is not None
    assert (found["desiredNumberScheduled"], found["numberMisscheduled"]) == (1, 1)


def test_a_node_that_was_cordoned_or_tainted_keeps_its_daemon() -> None:
    nodes = [node("a", taints=(CONTROL,))]
    assert daemonset.plan(look(daemon(), nodes, on("a")), fresh=names(), now=NOW) == []


def test_failed_daemons_are_replaced_and_twins_ended() -> None:
    twin = pod("ds-twin", on="b", labels={REVISION_HASH: "h"}, created=NOW)
    effects = daemonset.plan(
        look(daemon(), [node("a"), node("b")], on("a", phase="Failed"), on("b"), twin), fresh=names(), now=NOW
    )
    assert acts(effects) == [("delete", "ds-a"), ("delete", "ds-twin")]


def test_an_update_takes_the_broken_first_and_few_at_a_time() -> None:
    nodes = [node(name) for name in "abcd"]
    pods = [on("a"), on("b", ready=False), on("c"), on("d")]
    one = daemonset.plan(look(daemon(), nodes, *pods, hash_="new"), fresh=names(), now=NOW)
    assert acts(one) == [("delete", "ds-b")]
    half = daemon(updateStrategy=Strategy(rollingUpdate=RollingUpdate(maxUnavailable="50%")))
    assert len(daemonset.plan(look(half, nodes, *pods, hash_="new"), fresh=names(), now=NOW)) == 2
    wait = daemon(updateStrategy=Strategy("OnDelete"))
    assert daemonset.plan(look(wait, nodes, *pods, hash_="new"), fresh=names(), now=NOW) == []


def revision(name: str, number: int, image: str) -> ControllerRevision:
    data = {"spec": {"template": {**template(image), "$patch": "replace"}}}
    meta = Meta(name=name, namespace="n", uid=name, labels={REVISION_HASH: name.removeprefix("ds-")})
    return ControllerRevision(metadata=meta, data=data, revision=number)


def test_revisions_are_made_found_and_brought_to_the_front() -> None:
    item = daemon()

    def current(image: str, *known: ControllerRevision) -> revisions.Revision:
        return revisions.current(item, DAEMON_SETS, template(image), known, collisions=0, label=REVISION_HASH)

    first = current("one")
    (created,) = first.effects
    assert isinstance(created, Create)
    assert created.body["data"]["spec"]["template"]["$patch"] == "replace"
    known = (revision("ds-1", 1, "one"), revision("ds-2", 2, "two"))
    assert (current("two", *known).name, current("two", *known).effects) == ("ds-2", ())
    back = current("one", *known)
    assert (back.name, back.hash, back.number) == ("ds-1", "1", 3)
    assert isinstance(back.effects[0], Change)
    assert (
        current("one").hash
        != revisions.current(item, DAEMON_SETS, template("one"), (), collisions=1, label=REVISION_HASH).hash
    )


def test_only_old_revisions_that_nobody_uses_are_forgotten() -> None:
    known = [revision(f"ds-{n}", n, f"v{n}") for n in range(1, 6)]
    gone = revisions.surplus(known, live={"ds-1", "ds-5"}, limit=1)
    assert acts(gone) == [("delete", "ds-2"), ("delete", "ds-3")]
