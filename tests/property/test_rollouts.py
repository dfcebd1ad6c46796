"""Rollouts under random failures: never fewer available pods than promised by our own doing, never more than allowed,
and in the end everything is new. The same for StatefulSets, DaemonSets and Jobs as far as they promise something."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import convert, to_builtins
from msgspec.structs import replace

from isthmus.kube.resources import REPLICA_SETS
from isthmus.lab.controllers.effects import Change, Create, Delete
from isthmus.lab.controllers.endpoints.packing import Group, identity, pack
from isthmus.lab.controllers.objects.meta import Meta
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.services import EndpointSlice
from isthmus.lab.controllers.objects.workloads import Deployment, ReplicaSet
from isthmus.lab.controllers.workloads import replicaset
from isthmus.lab.controllers.workloads.deployment import plan
from isthmus.lab.controllers.workloads.indexes import parse, spell
from isthmus.lab.controllers.workloads.rollout import max_surge, max_unavailable
from tests.support.clusterobjects import NOW, deployment, merge, names, owner, pod, replica_set, template


class Cluster:
    """One Deployment with its ReplicaSets and pods; the controllers act when they are told to."""

    def __init__(self, item: Deployment) -> None:
        self.item = item
        self.sets: dict[str, ReplicaSet] = {}
        self.pods: dict[str, Pod] = {}
        self.fresh = names()
        self.now = NOW

    @property
    def available(self) -> int:
        return sum(one.ready and one.active for one in self.pods.values())

    def of(self, one: ReplicaSet) -> list[Pod]:
        return [found for found in self.pods.values() if found.controller == owner(one.metadata.uid)]

    def deploy(self) -> bool:
        """One round of the Deployment; returns whether it did anything."""
        found = plan(self.item, list(self.sets.values()), pods={}, now=self.now)
        for effect in found.effects:
            match effect:
                case Create(resource, body) if resource == REPLICA_SETS:
                    self.now += 1
                    made = convert(to_builtins(body), ReplicaSet, strict=False)
                    name = made.metadata.name
                    shape = replica_set(name, replicas=made.spec.replicas, created=self.now)
                    self.sets[name] = replace(
                        shape,
                        metadata=replace(shape.metadata, annotations=made.metadata.annotations),
                        spec=made.spec,
                    )
                case Change(name=name, patch=patch):
                    raw = to_builtins(self.sets[name])
                    merge(raw, patch)
                    self.sets[name] = convert(raw, ReplicaSet, strict=False)
                case Delete(name=name):
                    del self.sets[name]
        if found.status is not None:
            raw = to_builtins(self.item)
            merge(raw, to_builtins(found.status.patch))
            self.item = convert(raw, Deployment, strict=False)
        return bool(found.effects) or found.status is not None

    def replicate(self) -> bool:
        """One round of every ReplicaSet; returns whether anything changed."""
        changed = False
        for name, one in list(self.sets.items()):
            for effect in replicaset.plan(one, self.of(one), crowd={}, fresh=self.fresh):
                changed = True
                if isinstance(effect, Create):
                    made = effect.body["metadata"]["name"]
                    self.pods[made] = pod(made, phase="Pending", ready=False, by=owner(one.metadata.uid))
                elif isinstance(effect, Delete):
                    del self.pods[effect.name]
            found = replicaset.status(one, self.of(one), failure="", now=self.now)
            if found is not None:
                changed = True
                raw = to_builtins(one)
                merge(raw, {"status": found})
                self.sets[name] = convert(raw, ReplicaSet, strict=False)
        return changed

    def run(self, name: str) -> None:
        self.pods[name] = pod(name, by=self.pods[name].controller)

    def fail(self, name: str, *, gone: bool) -> None:
        if gone:
            del self.pods[name]
        else:
            self.pods[name] = pod(name, ready=False, by=self.pods[name].controller)

    def act(self) -> None:
        """Both controllers once, with the promises checked."""
        least = self.item.spec.replicas - max_unavailable(self.item)
        most = self.item.spec.replicas + max_surge(self.item)
        before, total = self.available, len(self.pods)
        self.deploy()
        self.replicate()
        assert self.available >= min(before, least), "took available pods that were needed"
        assert len(self.pods) <= max(total, most), "made more pods than allowed"

    def settle(self) -> None:
        for _ in range(200):
            moved = self.deploy()
            moved |= self.replicate()
            for name, one in list(self.pods.items()):
                if not one.ready:
                    self.run(name)
                    moved = True
            if not moved:
                return
        raise AssertionError("it never comes to rest")


@settings(max_examples=60, deadline=None)
@given(
    replicas=st.integers(1, 8),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 3),
    events=st.lists(st.tuples(st.sampled_from("rrrfgi"), st.integers(0, 99)), max_size=40),
)
def test_a_rolling_update_keeps_its_promises_and_comes_to_rest(
    replicas: int, surge: int, unavailable: int, events: list[tuple[str, int]]
) -> None:
    cluster = Cluster(deployment(replicas=replicas, surge=surge, unavailable=unavailable))
    cluster.settle()
    image = 0
    for what, which in [("i", 0), *events]:
        pods = sorted(cluster.pods)
        if what == "i":
            image += 1
            spec = replace(cluster.item.spec, template=template(f"v{image}"))
            cluster.item = replace(
                cluster.item,
                spec=spec,
                metadata=replace(cluster.item.metadata, generation=cluster.item.metadata.generation + 1),
            )
        elif pods:
            name = pods[which % len(pods)]
            if what == "r":
                cluster.run(name)
            else:
                cluster.fail(name, gone=what == "g")
        cluster.replicate()  # what ReplicaSets report is true when the Deployment decides
        cluster.act()
    cluster.settle()
    assert cluster.available == len(cluster.pods) == replicas
    (last,) = [one for one in cluster.sets.values() if one.spec.replicas]
    assert last.spec.template["spec"]["containers"][0]["image"] == f"v{image}"
    reasons = {one.type: one.reason for one in cluster.item.status.conditions}
    assert reasons["Progressing"] == "NewReplicaSetAvailable"


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), steps=st.integers(0, 6))
def test_scaling_in_the_middle_of_a_rollout_comes_to_rest_at_the_last_size(sizes: list[int], steps: int) -> None:
    cluster = Cluster(deployment(replicas=4))
    cluster.settle()
    cluster.item = replace(cluster.item, spec=replace(cluster.item.spec, template=template("new")))
    for size in sizes:
        cluster.item = replace(cluster.item, spec=replace(cluster.item.spec, replicas=size))
        for _ in range(steps):
            cluster.deploy()
            cluster.replicate()
    cluster.settle()
    assert cluster.available == len(cluster.pods) == sizes[-1]


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 3), max_size=12))
def test_a_process_that_dies_between_any_two_writes_leaves_nothing_half_done(cuts: list[int]) -> None:
    cluster = Cluster(deployment(replicas=3, surge=1, unavailable=0))
    cluster.settle()
    cluster.item = replace(cluster.item, spec=replace(cluster.item.spec, template=template("new")))
    for cut in cuts:
        # Only a part of what was planned gets written, then a new process starts from what there is.
        before = (cluster.item, dict(cluster.sets))
        cluster.deploy()
        if cut % 2:
            cluster.item = before[0]  # the status was not written
        if cut > 1:
            cluster.replicate()
    cluster.settle()
    assert cluster.available == len(cluster.pods) == 3


def slices_of(existing: list[EndpointSlice], groups: list[Group], limit: int) -> list[EndpointSlice]:
    packed = pack(groups, existing, limit=limit)
    gone = {item.metadata.name for item in packed.surplus}
    changed = {item.metadata.name: group for item, group in packed.changed}
    result = []
    for item in existing:
        if item.metadata.name not in gone:
            group = changed.get(item.metadata.name)
            result.append(
                item if group is None else replace(item, endpoints=tuple(group.endpoints), ports=tuple(group.ports))
            )
    for number, group in enumerate(packed.new):
        name = f"s{len(existing)}-{number}-{sum(len(one.endpoints) for one in existing)}"
        result.append(
            EndpointSlice(metadata=Meta(name=name), endpoints=tuple(group.endpoints), ports=tuple(group.ports))
        )
    return result


def group_of(port: int, numbers: set[int]) -> Group:
    return Group(
        [{"name": "", "protocol": "TCP", "port": port}],
        [{"addresses": [f"10.{port}.0.{n}"], "targetRef": {"uid": f"{port}-{n}"}} for n in sorted(numbers)],
    )


@settings(max_examples=80, deadline=None)
@given(rounds=st.lists(st.tuples(st.sets(st.integers(0, 12)), st.sets(st.integers(0, 6))), min_size=1, max_size=6))
def test_slices_hold_exactly_what_is_wanted_and_a_second_look_writes_nothing(
    rounds: list[tuple[set[int], set[int]]],
) -> None:
    limit = 4
    slices: list[EndpointSlice] = []
    for first, second in rounds:
        groups = [group_of(port, numbers) for port, numbers in ((80, first), (81, second)) if numbers]
        slices = slices_of(slices, groups, limit)
        held = sorted(identity(one) for item in slices for one in item.endpoints)
        assert held == sorted(identity(one) for group in groups for one in group.endpoints)
        assert all(len(item.endpoints) <= limit for item in slices)
        assert slices
        for item in slices:
            for one in item.endpoints:
                assert one["addresses"][0].startswith(f"10.{item.ports[0]['port']}.")
        again: Any = pack(groups, slices, limit=limit)
        assert (again.new, again.changed, again.surplus) == ((), (), ())


@given(st.sets(st.integers(0, 300)))
def test_indexes_come_back_as_they_were(indexes: set[int]) -> None:
    assert parse(spell(indexes)) == indexes
