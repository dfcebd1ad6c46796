"""Explanations hold: every port at once as one by one, groups as their members, suggestions as they are judged."""

from random import Random

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.cli.policy.sources import as_yaml
from isthmus.model.endpoint import family_of
from isthmus.model.flow import Flow, Protocol
from isthmus.policy.context import Context
from isthmus.policy.evaluate import Reason, evaluate
from isthmus.policy.explaining.effects import effects
from isthmus.policy.explaining.facts import Change, Object, Picture, PodSeen, changed, place
from isthmus.policy.explaining.groups import Group, Grouping
from isthmus.policy.explaining.halves import halves, party_at
from isthmus.policy.explaining.judging import Judge, cells_of
from isthmus.policy.explaining.matrix import matrix
from isthmus.policy.explaining.remedies import Remedy, RemedyKind, remedies
from isthmus.policy.explaining.scene import Scene
from isthmus.policy.parsing import read
from tests.support.pictures import PROBES, picture, policies
from tests.support.worlds import seeded

pictures = seeded(picture)


def _flow(source: str, destination: str, protocol: int, port: int) -> Flow:
    if protocol == Protocol.ICMP and family_of(source) == 6:
        return Flow(source, destination, Protocol.ICMPV6, {8: 128, 13: 139}[port])
    return Flow(source, destination, protocol, port)


def _allowed(scene: Scene, flow: Flow) -> bool:
    """Asks both nodes, and nobody else."""
    for ip in (flow.source, flow.destination):
        party = party_at(scene, ip)
        if party.judged and not evaluate(scene.world(party.cluster, party.node), flow).allowed:
            return False
    return True


def _pods(scene: Scene) -> list[tuple[str, PodSeen]]:
    return [(cluster.name, pod) for cluster in scene.picture.clusters for pod in cluster.pods]


def _ip(ips: tuple[str, ...], family: int) -> str:
    return next(ip for ip in ips if family_of(ip) == family)


@settings(max_examples=50, deadline=None)
@given(pictures)
def test_a_group_may_on_every_port_what_each_member_may(drawn: Picture) -> None:
    scene = Scene(drawn)
    grouping = Grouping(scene)
    groups = [*grouping.pods(_pods(scene)), *grouping.outside(), *grouping.nodes()]
    cells = cells_of(scene, ports=PROBES)
    judge = Judge(scene, cells)
    for source in groups:
        for destination in groups:
            if not source.families & destination.families or not (source.pods or destination.pods):
                continue
            for family in source.families & destination.families:
                mask = judge.within(family, source, destination)
                assert mask & ~judge.pair(source, destination) == 0
                for mine in source.pods or (None,):
                    for other in destination.pods or (None,):
                        start = _ip(mine.ips if mine else source.ips, family)
                        end = _ip(other.ips if other else destination.ips, family)
                        if start == end or _own_node(scene, start, end):
                            continue
                        for protocol, port in PROBES:
                            flow = _flow(start, end, protocol, port)
                            expected = _allowed(scene, flow)
                            found = bool(mask & cells.at(flow.protocol, flow.port))
                            assert found == expected, (source.name, destination.name, flow)


def _own_node(scene: Scene, one: str, two: str) -> bool:
    """A pod and its own node: other rules hold for them, and a group of nodes means those of others."""
    parties = party_at(scene, one), party_at(scene, two)
    return (
        {party.node for party in parties} == {parties[0].node}
        and parties[0].cluster == parties[1].cluster
        and (any(party.pod is None for party in parties))
    )


@settings(max_examples=50, deadline=None)
@given(pictures, seeded(lambda rng: (rng, policies(rng, 2))), st.booleans())
def test_what_changes_is_what_the_evaluator_says_before_and_after(
    drawn: Picture, wanted: tuple[Random, tuple[Object, ...]], delete: bool
) -> None:
    rng, objects = wanted
    cluster = rng.choice(drawn.clusters)
    objects = (rng.choice(cluster.policies),) if delete else objects
    before = Scene(drawn)
    after = Scene(
        changed(drawn, *(Change(cluster=cluster.name, object=obj, delete=delete) for obj in objects)), reuse=before
    )
    found = effects(before, after)
    told = {(e.source.name, e.destination.name): e for e in found.effects}
    groups = Grouping(before, after).pods(_pods(before))
    name = {pod.ips[0]: group.name for group in groups for pod in group.pods}
    for _, mine in _pods(before):
        for _, other in _pods(before):
            if mine.ips[0] == other.ips[0]:
                continue
            effect = told.get((name[mine.ips[0]], name[other.ips[0]]))
            ends = [(a, b) for a in mine.ips for b in other.ips if family_of(a) == family_of(b)]
            for protocol, port in PROBES[:4]:
                flows = [_flow(*pair, protocol, port) for pair in ends]
                changes = {(_allowed(before, flow), _allowed(after, flow)) for flow in flows}
                cell = found.cells.at(protocol, port)
                assert bool(effect and effect.opened & cell) == ((False, True) in changes)
                assert bool(effect and effect.shut & cell) == ((True, False) in changes)


def _reloaded(step: Remedy) -> Change:
    """What a user applies is text."""
    return Change(
        cluster=step.cluster, object=yaml.safe_load(as_yaml(step.object)), delete=step.kind is RemedyKind.DELETE
    )


@settings(max_examples=50, deadline=None)
@given(seeded(lambda rng: (picture(rng), rng)))
def test_what_is_suggested_allows_what_was_asked_and_tells_what_else_it_opens(drawn: tuple[Picture, Random]) -> None:
    clusters, rng = drawn
    scene = Scene(clusters)
    pods = _pods(scene)
    for _ in range(12):
        source, destination = (rng.choice(pods)[1].ips[0] for _ in range(2))
        if rng.random() < 0.2:
            source, destination = rng.sample([source, "198.51.100.7"], 2)
        flow = _flow(source, destination, *rng.choice(PROBES[:8]))
        ends = party_at(scene, source), party_at(scene, destination)
        if all(half.allowed for half in halves(scene, flow, *ends)):
            continue
        found = remedies(scene, flow, *ends)
        assert found.steps or found.missing
        changes = [_reloaded(step) for step in found.steps]
        for step in found.steps:
            if step.kind is not RemedyKind.DELETE:
                assert read(step.object, Context(step.cluster)).valid, step.object
        after = Scene(changed(clusters, *changes))
        now = halves(after, flow, *ends)
        assert all(half.allowed for half in now) == found.sufficient, (flow, found)
        _check_besides(scene, found.steps, ends[0], ends[1])


def _check_besides(scene: Scene, steps: tuple[Remedy, ...], source: object, destination: object) -> None:
    """A new policy opens nothing for other subjects, and nothing for other peers that is not told."""
    for step in steps:
        after = Scene(
            changed(
                scene.picture, Change(cluster=step.cluster, object=step.object, delete=step.kind is RemedyKind.DELETE)
            ),
            reuse=scene,
        )
        count = sum(
            1
            for effect in effects(scene, after).effects
            if effect.opened and not (_holds(effect.source, source) and _holds(effect.destination, destination))
        )
        assert count == len(step.also) + step.more
        scene = after


def _holds(group: Group, party: object) -> bool:
    pod = getattr(party, "pod", None)
    return pod in group.pods if pod is not None else not group.pods


@settings(max_examples=40, deadline=None)
@given(seeded(lambda rng: (picture(rng), rng)))
def test_a_new_policy_opens_nothing_for_other_subjects(drawn: tuple[Picture, Random]) -> None:
    clusters, rng = drawn
    scene = Scene(clusters)
    pods = _pods(scene)
    for _ in range(12):
        source, destination = (rng.choice(pods)[1].ips[0] for _ in range(2))
        flow = _flow(source, destination, 6, 80)
        ends = party_at(scene, source), party_at(scene, destination)
        reports = halves(scene, flow, *ends)
        if [half.reason for half in reports if not half.allowed] != [Reason.DEFAULT_DENY]:
            continue
        found = remedies(scene, flow, *ends)
        if [step.kind for step in found.steps] != [RemedyKind.NEW]:
            continue
        (step,) = found.steps
        mine = ends[0] if reports[0].allowed is False else ends[1]
        after = Scene(changed(clusters, _reloaded(step)))
        assert mine.pod is not None
        look = _look(scene, mine.cluster, mine.pod)
        for cluster, pod in pods:
            if _look(scene, cluster, pod) == look:
                continue
            for _, other in pods:
                for start, end in ((pod.ips[0], other.ips[0]), (other.ips[0], pod.ips[0])):
                    if _look(scene, *_at(pods, end if start == pod.ips[0] else start)) == look:
                        continue
                    probe = _flow(start, end, 6, 80)
                    assert _allowed(after, probe) <= _allowed(scene, probe), (step.object, probe)


def _at(pods: list[tuple[str, PodSeen]], ip: str) -> tuple[str, PodSeen]:
    return next(entry for entry in pods if ip in entry[1].ips)


def _look(scene: Scene, cluster: str, pod: PodSeen) -> object:
    """What a policy of the normal tier can tell a subject by: a NetworkPolicy does not see service accounts."""
    return cluster, pod.namespace, tuple(sorted(scene.identities[scene.number_of(cluster, pod)].labels.items()))


@settings(max_examples=30, deadline=None)
@given(pictures)
def test_a_matrix_has_every_pair_that_policies_judge(drawn: Picture) -> None:
    scene = Scene(drawn)
    found = matrix(scene, nodes=True)
    assert any(not group.pods and group.cluster for group in found.groups)
    judge = Judge(scene, found.cells)
    for i, source in enumerate(found.groups):
        for j, destination in enumerate(found.groups):
            judged = bool(source.pods or destination.pods)
            assert found.allowed[i][j] == (judge.pair(source, destination) if judged else 0)
            assert found.allowed[i][j] & ~found.possible[i][j] == 0
    names = [group.name for group in found.groups]
    assert len(set(names)) == len(names)
    assert {place(obj) for cluster in drawn.clusters for obj in cluster.policies}
