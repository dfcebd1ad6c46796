"""The smallest change that allows what is denied, verified by judging again with it.

One step for each reason in the way, until the connection passes: where nothing allows it, the policy of another cluster
that is missing here (if it opens nothing else), or a new one for exactly these pods; where a rule of a tier denies it,
a rule before it for exactly these pods; where a rule of the normal tier denies it, that rule without this peer.

Invariants: a step is told only if judging with it shows that it removes its reason; what else it would open is told
with it. Rejected: suggesting to delete the policy that isolates, the change that people make without being told.
"""

from collections.abc import Iterator
from enum import Enum

import msgspec

from isthmus.model.flow import Flow
from isthmus.policy import parsing
from isthmus.policy.evaluate import Reason
from isthmus.policy.explaining.effects import Effects, effects
from isthmus.policy.explaining.facts import Change, Object, changed, place
from isthmus.policy.explaining.groups import Group
from isthmus.policy.explaining.halves import Decider, HalfReport, Party, PartyKind, halves
from isthmus.policy.explaining.manifests import (
    CILIUM_KINDS,
    Draft,
    applicable,
    cilium_policy,
    cluster_policy,
    name_for,
    network_policy,
    ordered_rule,
    selected,
)
from isthmus.policy.explaining.narrowing import narrowed, preceded
from isthmus.policy.explaining.scene import Scene, context_of
from isthmus.policy.rules import Action, Direction, Grade, ObjectRef, Tier

MOST_STEPS = 6
MOST_COPIES = 8


class RemedyKind(Enum):
    """What is to be done."""

    COPY = "apply the policy of another cluster here too"
    NEW = "apply a new policy"
    CHANGE = "change a policy"
    DELETE = "delete a policy"


class Opened(msgspec.Struct, frozen=True):
    """What a change opens besides: from and to by name, and the ports for people."""

    source: str
    destination: str
    ports: str


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one object of `cluster`. `model` is the cluster that a copy comes from; `text` says what it does."""

    kind: RemedyKind
    direction: Direction
    cluster: str
    object: Object
    policy: ObjectRef
    text: str
    model: str = ""
    also: tuple[Opened, ...] = ()
    more: int = 0
    """How many more pairs it opens than `also` names."""

    @property
    def change(self) -> Change:
        """Returns it as a change of the picture."""
        return Change(cluster=self.cluster, object=self.object, delete=self.kind is RemedyKind.DELETE)


class Remedies(msgspec.Struct, frozen=True):
    """Steps in their order. If they do not suffice, `missing` says what is left."""

    steps: tuple[Remedy, ...]
    missing: str = ""

    @property
    def sufficient(self) -> bool:
        """Tells whether the connection passes after all steps: it was judged."""
        return not self.missing


def remedies(scene: Scene, flow: Flow, source: Party, destination: Party) -> Remedies:
    """Returns what makes `flow` pass."""
    steps: list[Remedy] = []
    if source.domain or destination.domain:
        return Remedies((), "names are not learned (no DNS proxy), so only addresses can be allowed; ask for one")
    for _ in range(MOST_STEPS):
        denied = _denied(halves(scene, flow, source, destination))
        if denied is None:
            return Remedies(tuple(steps))
        mine, other = (source, destination) if denied.direction is Direction.EGRESS else (destination, source)
        found = _step(scene, flow, denied, mine, other)
        if found is None:
            return Remedies(tuple(steps), _hopeless(scene, denied))
        remedy, scene = found
        steps.append(remedy)
    left = _denied(halves(scene, flow, source, destination))
    return Remedies(tuple(steps), "" if left is None else f"more than {MOST_STEPS} changes are needed")


def _denied(found: tuple[HalfReport, HalfReport]) -> HalfReport | None:
    return next((half for half in found if not half.allowed), None)


def _hopeless(scene: Scene, half: HalfReport) -> str:
    if half.reason is Reason.UNKNOWN:
        return "no pod is known to have this address; it is let through once its pod is"
    decider = half.decider
    faults = scene.problems_of(decider.cluster, decider.policy) if decider is not None else ()
    fault = next((problem for problem in faults if problem.grade is Grade.INVALID), None)
    if decider is not None and fault is not None:
        return f"{decider.policy} is invalid, and has to be mended first ({fault})"
    return f"no single policy allows this peer at {half.direction.value}"


def _step(scene: Scene, flow: Flow, half: HalfReport, mine: Party, other: Party) -> tuple[Remedy, Scene] | None:
    for remedy in _candidates(scene, flow, half, mine, other):
        after = Scene(changed(scene.picture, remedy.change), reuse=scene)
        ends = (mine, other) if half.direction is Direction.EGRESS else (other, mine)
        now = next(report for report in halves(after, flow, *ends) if report.direction is half.direction)
        if not now.allowed and (now.reason, now.decider) == (half.reason, half.decider):
            continue
        found = effects(scene, after)
        if remedy.kind is RemedyKind.COPY and not _exact(found, scene, half, mine, other):
            continue
        also = _besides(found, mine, other, half.direction)
        return msgspec.structs.replace(remedy, also=tuple(also[:5]), more=max(0, len(also) - 5)), after
    return None


def _candidates(scene: Scene, flow: Flow, half: HalfReport, mine: Party, other: Party) -> Iterator[Remedy]:
    if mine.pod is None:
        return
    decider = half.decider
    if half.reason is Reason.DEFAULT_DENY:
        yield from _copies(scene, half, mine)
        yield from _new(scene, flow, half, mine, other)
    elif half.reason is Reason.DENIED and decider is not None:
        obj = scene.object_of(decider.cluster, decider.policy)
        if decider.tier is not Tier.NORMAL:
            yield from _before(scene, flow, decider, half, mine, other)
            if obj is not None:
                yield from _within(scene, flow, obj, decider, half, mine, other)
        if obj is not None:
            yield from _narrower(scene, obj, decider, half, mine, other)


def _copies(scene: Scene, half: HalfReport, mine: Party) -> Iterator[Remedy]:
    """Yields policies of other clusters that speak for this subject and are missing here, as they are there."""
    here = scene.clusters[mine.cluster]
    there = {place(obj) for obj in here.policies}
    assert mine.pod is not None  # noqa: S101 - only pods are judged
    subject = scene.world(mine.cluster, mine.node).pods[mine.pod.key].subject
    context = context_of(here)
    tried: set[tuple[str, str, str]] = set()
    for cluster in scene.picture.clusters:
        for obj in cluster.policies:
            where = place(obj)
            if cluster.name == mine.cluster or where in there or where in tried:
                continue
            if where[0] not in ("NetworkPolicy", *CILIUM_KINDS):
                continue
            try:
                parsed = parsing.read(obj, context)
            except ValueError:
                continue
            fits = parsed.valid and any(
                policy.selects(subject)
                and any(r.direction is half.direction and r.action is Action.ALLOW for r in policy.rules)
                for policy in parsed.policies
            )
            if not fits:
                continue
            tried.add(where)
            if len(tried) > MOST_COPIES:
                return
            yield Remedy(
                kind=RemedyKind.COPY,
                direction=half.direction,
                cluster=mine.cluster,
                object=applicable(obj),
                policy=ObjectRef(*where),
                model=cluster.name,
                text=f"apply {parsed.ref} in {mine.cluster} too, as it is in {cluster.name}",
            )


def _new(scene: Scene, flow: Flow, half: HalfReport, mine: Party, other: Party) -> Iterator[Remedy]:
    cilium = any(decider.policy.kind in CILIUM_KINDS for decider in half.isolating)
    for build in (cilium_policy, network_policy) if cilium else (network_policy, cilium_policy):
        kind = "CiliumNetworkPolicy" if build is cilium_policy else "NetworkPolicy"
        if kind == "NetworkPolicy" and flow.protocol not in (6, 17, 132):
            continue  # it has no word for ICMP, and would open every port
        draft = _draft(scene, flow, half, mine, other, kind)
        obj = build(draft)
        yield Remedy(
            kind=RemedyKind.NEW,
            direction=half.direction,
            cluster=mine.cluster,
            object=obj,
            policy=ObjectRef(kind, draft.subject.namespace, draft.name),
            text=f"apply this {kind} in {mine.cluster}",
        )


def _before(
    scene: Scene, flow: Flow, decider: Decider, half: HalfReport, mine: Party, other: Party
) -> Iterator[Remedy]:
    """Yields a rule of the same tier that comes before the one that denies, for these pods alone."""
    policy = scene.policies[decider.cluster][decider.policy]
    action = "Pass" if policy.tier is Tier.ADMIN else "Accept"
    draft = _draft(scene, flow, half, mine, other, "ClusterNetworkPolicy")
    for priority in dict.fromkeys((max(0, min(policy.priority, 1001) - 1), 0)):
        obj = cluster_policy(draft, tier=policy.tier, priority=priority, action=action)
        if obj is not None:
            hands = "lets the policies of the namespace decide" if action == "Pass" else "accepts it before"
            yield Remedy(
                kind=RemedyKind.NEW,
                direction=half.direction,
                cluster=mine.cluster,
                object=obj,
                policy=ObjectRef("ClusterNetworkPolicy", "", draft.name),
                text=f"apply this ClusterNetworkPolicy in {mine.cluster}; it {hands}",
            )


def _within(
    scene: Scene, flow: Flow, obj: Object, decider: Decider, half: HalfReport, mine: Party, other: Party
) -> Iterator[Remedy]:
    """Yields the policy of a tier that denies with a rule before the one that does, for this peer alone."""
    kind = decider.policy.kind
    older = kind != "ClusterNetworkPolicy"
    action = "Pass" if decider.tier is Tier.ADMIN else "Allow" if older else "Accept"
    rule = ordered_rule(_draft(scene, flow, half, mine, other, kind), action=action, older=older)
    new = preceded(obj, decider.field, rule) if rule is not None else None
    if new is not None and parsing.read(new, context_of(scene.clusters[decider.cluster])).valid:
        yield Remedy(
            kind=RemedyKind.CHANGE,
            direction=half.direction,
            cluster=decider.cluster,
            object=applicable(new),
            policy=decider.policy,
            text=f"put a rule for this peer before {decider.field} of {decider.policy} in {decider.cluster}",
        )


def _narrower(
    scene: Scene, obj: Object, decider: Decider, half: HalfReport, mine: Party, other: Party
) -> Iterator[Remedy]:
    identity = scene.world(mine.cluster, mine.node).identity_at(other.ip)
    context = context_of(scene.clusters[decider.cluster])
    for new, text in narrowed(obj, decider.field, address=other.ip, identity=identity):
        if new is not None and not parsing.read(new, context).valid:
            continue  # no server would take it
        yield Remedy(
            kind=RemedyKind.DELETE if new is None else RemedyKind.CHANGE,
            direction=half.direction,
            cluster=decider.cluster,
            object=obj if new is None else applicable(new),
            policy=decider.policy,
            text=f"{text} in {decider.cluster}",
        )


def _draft(scene: Scene, flow: Flow, half: HalfReport, mine: Party, other: Party, kind: str) -> Draft:
    assert mine.pod is not None  # noqa: S101 - only pods are judged
    identities = list(scene.identities.values())
    subject = scene.identities[scene.number_of(mine.cluster, mine.pod)]
    peer = None
    identity = scene.world(mine.cluster, mine.node).identity_at(other.ip)
    if other.kind is PartyKind.POD and identity.is_pod:
        peer = selected(identity, identities)
    if other.pod is not None:
        called = other.pod.owner
    else:
        called = other.name or other.ip
    # A name that another cluster has for something else would be taken for the same by whoever deploys to all of them.
    taken = [place(obj)[2] for cluster in scene.picture.clusters for obj in cluster.policies if place(obj)[0] == kind]
    return Draft(
        direction=half.direction,
        subject=selected(subject, identities),
        peer=peer,
        address="" if other.anyone else other.ip,
        identity=identity,
        protocol=flow.protocol,
        port=flow.port,
        named=len(scene.picture.clusters) > 1,
        name=name_for(mine.pod.owner, called, half.direction, taken),
    )


def _exact(found: Effects, scene: Scene, half: HalfReport, mine: Party, other: Party) -> bool:
    """Tells whether a change opens nothing but between these two ends, and shuts nothing."""
    return all(not effect.shut for effect in found.effects) and not _besides(found, mine, other, half.direction)


def _besides(found: Effects, mine: Party, other: Party, direction: Direction) -> list[Opened]:
    source, destination = (mine, other) if direction is Direction.EGRESS else (other, mine)
    return [
        Opened(effect.source.name, effect.destination.name, found.cells.spoken(effect.opened, within=effect.within))
        for effect in found.effects
        if effect.opened and not (_is_of(source, effect.source) and _is_of(destination, effect.destination))
    ]


def _is_of(party: Party, group: Group) -> bool:
    if party.pod is not None:
        return party.cluster == group.cluster and party.pod in group.pods
    return party.ip in group.ips or not group.pods
