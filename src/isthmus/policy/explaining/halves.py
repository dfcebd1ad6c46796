"""One half of a connection in words: who decided it, on what ground, and what came close.

Everything here is read off what the evaluator said; this module decides nothing. Invariant: a half that nobody judges
(the other end is a node, or outside) is said to be that, never allowed. Rejected: an evaluator that explains as it
goes, which would have to be as simple as the one that is believed.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from ipaddress import ip_address, ip_network
from itertools import islice

import msgspec

from isthmus.model.flow import Flow
from isthmus.model.identity import THE_WORLD, Identity
from isthmus.model.labels import POD_NAMESPACE, names_clusters
from isthmus.model.selector import Selector
from isthmus.policy.evaluate import Half, Reason, evaluate, reaches
from isthmus.policy.explaining.facts import PodSeen
from isthmus.policy.explaining.scene import Scene, context_of
from isthmus.policy.ordered.ties import tie_between
from isthmus.policy.rules import (
    Action,
    Direction,
    EndpointPeer,
    Grade,
    NamePeer,
    ObjectRef,
    Peer,
    PodPeer,
    Policy,
    Problem,
    Rule,
    Scope,
    Tier,
    means,
)
from isthmus.policy.scoping import under_scopes

MOST_CLOSE = 5
"""Rules that came close, and problems, that one half names."""


class PartyKind(Enum):
    """What an end of a connection is."""

    POD = "pod"
    UNKNOWN_POD = "unknown pod"
    """An address of a node's pod network that nobody has."""
    NODE = "node"
    OUTSIDE = "outside"


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """One end: `node` is where it lives, "" if nobody knows.

    With `domain` (a domain name) or `anyone` the address only stands for what was asked for: nobody has it.
    """

    kind: PartyKind
    ip: str
    cluster: str = ""
    node: str = ""
    pod: PodSeen | None = None
    name: str = ""
    domain: str = ""
    anyone: bool = False

    @property
    def judged(self) -> bool:
        """Tells whether somebody judges its half."""
        return self.kind in (PartyKind.POD, PartyKind.UNKNOWN_POD)


class Decider(msgspec.Struct, frozen=True, kw_only=True):
    """A rule, or a policy as a whole (`field` is ""), that had a say."""

    cluster: str
    policy: ObjectRef
    tier: Tier
    scope: Scope
    field: str = ""
    name: str = ""
    action: Action | None = None


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that would have allowed it, but for `why`."""

    policy: ObjectRef
    field: str
    name: str
    why: str
    scope: Scope


class Trouble(msgspec.Struct, frozen=True):
    """Something wrong with a policy that has a say; nodes in `kept_on` therefore go on with an earlier version."""

    policy: ObjectRef
    problem: Problem
    kept_on: tuple[str, ...] = ()


class HalfReport(msgspec.Struct, frozen=True, kw_only=True):
    """A half. `reason` is None where nobody judges it, and `note` then says why.

    `cluster` is whose policies judge it; `decider` is None where no policy decided.
    """

    direction: Direction
    allowed: bool
    reason: Reason | None = None
    cluster: str = ""
    node: str = ""
    decider: Decider | None = None
    passed: tuple[Decider, ...] = ()
    isolating: tuple[Decider, ...] = ()
    close: tuple[Close, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    note: str = ""


def party_at(scene: Scene, ip: str) -> Party:
    """Returns who has an address."""
    held = scene.nodes_by_ip.get(ip)
    if held is not None:
        cluster, node = held
        return Party(kind=PartyKind.NODE, ip=ip, cluster=cluster, node=node.name, name=node.name)
    found = scene.pods_by_ip.get(ip)
    if found is not None:
        cluster, pod = found
        return Party(kind=PartyKind.POD, ip=ip, cluster=cluster, node=pod.node, pod=pod, name=pod.name)
    address = ip_address(ip)
    for seen in scene.picture.clusters:
        for node in seen.nodes:
            if any(address in ip_network(text) for text in node.pod_cidrs):
                return Party(kind=PartyKind.UNKNOWN_POD, ip=ip, cluster=seen.name, node=node.name)
    return Party(kind=PartyKind.OUTSIDE, ip=ip)


def halves(scene: Scene, flow: Flow, source: Party, destination: Party) -> tuple[HalfReport, HalfReport]:
    """Returns egress at the source and ingress at the destination."""
    return (
        _report(scene, flow, Direction.EGRESS, source, destination),
        _report(scene, flow, Direction.INGRESS, destination, source),
    )


def _report(scene: Scene, flow: Flow, direction: Direction, mine: Party, other: Party) -> HalfReport:
    if not mine.judged:
        if mine.kind is PartyKind.NODE:
            note = "nodes, and pods of their network, are no subjects of policies"
        else:
            note = "outside of the ClusterSet: no policy of its clusters speaks for it"
        return HalfReport(direction=direction, allowed=True, cluster=mine.cluster, note=note)
    half = next(
        (h for h in evaluate(scene.world(mine.cluster, mine.node), flow).halves if h.direction is direction), None
    )
    if half is None:
        return HalfReport(
            direction=direction,
            allowed=True,
            cluster=mine.cluster,
            node=mine.node,
            reason=Reason.OPEN,
            note="no policy of this cluster could forbid it",
        )
    concerned = _concerned(scene, mine, direction)
    close: tuple[Close, ...] = ()
    if half.reason is Reason.DEFAULT_DENY and mine.pod is not None:
        close = tuple(_close(scene, flow, direction, mine, other, concerned))[:MOST_CLOSE]
    said = {(one.policy, one.field) for one in close}
    having_a_say = dict.fromkeys([*(policy.ref for policy in concerned), *_kept(scene, mine, concerned)])
    faults = _troubles(scene, mine.cluster, direction, half, having_a_say)
    troubles = tuple(
        trouble
        for trouble in (*_ties(half, concerned), *faults)
        if trouble.kept_on
        or not any(trouble.policy == ref and trouble.problem.field.startswith(field) for ref, field in said)
    )
    return HalfReport(
        direction=direction,
        allowed=half.allowed,
        reason=half.reason,
        cluster=mine.cluster,
        node=mine.node,
        decider=None if half.policy is None else _decider(scene, mine.cluster, half.policy, half.rule),
        passed=tuple(_decider(scene, mine.cluster, ref, rule) for ref, rule in half.passed),
        isolating=tuple(_decider(scene, mine.cluster, ref, None) for ref in half.isolating),
        close=close,
        troubles=troubles,
    )


def _decider(scene: Scene, cluster: str, ref: ObjectRef, rule: Rule | None) -> Decider:
    policy = scene.policies[cluster][ref]
    return Decider(
        cluster=cluster,
        policy=ref,
        tier=policy.tier,
        scope=policy.scope,
        field=rule.field if rule else "",
        name=rule.name if rule else "",
        action=rule.action if rule else None,
    )


def _concerned(scene: Scene, mine: Party, direction: Direction) -> list[Policy]:
    world = scene.world(mine.cluster, mine.node)
    pod = world.pods.get(mine.pod.key) if mine.pod is not None else None
    if pod is None:
        return []
    return [policy for tier in Tier for policy in world.concerning(pod, direction, tier)]


def _kept(scene: Scene, mine: Party, concerned: list[Policy]) -> Iterator[ObjectRef]:
    """Yields policies that do not concern this end as they are, and may in the earlier version that nodes keep."""
    known = {policy.ref.place for policy in concerned}
    kept = scene.clusters[mine.cluster].kept
    namespace = mine.pod.namespace if mine.pod is not None else ""
    for parsed in scene.parsed[mine.cluster]:
        if parsed.ref.place in kept and parsed.ref.place not in known and parsed.ref.namespace in ("", namespace):
            yield parsed.ref


def _troubles(
    scene: Scene, cluster: str, direction: Direction, half: Half, refs: Iterable[ObjectRef]
) -> Iterator[Trouble]:
    """Yields what is wrong with policies that had a say, as far as it can have made this half what it is."""
    told: set[tuple[ObjectRef, Problem]] = set()
    kept = scene.clusters[cluster].kept
    for ref in refs:
        for problem in scene.problems_of(cluster, ref):
            elsewhere = problem.field.startswith(_other(direction)) and problem.grade is not Grade.INVALID
            warning = problem.grade is Grade.WARNING and half.allowed
            if elsewhere or warning or (ref, problem) in told:
                continue
            told.add((ref, problem))
            if len(told) <= MOST_CLOSE:
                nodes = kept.get(ref.place, ())
                yield Trouble(ref, problem, nodes if problem.grade is Grade.INVALID else ())


def _ties(half: Half, concerned: list[Policy]) -> Iterator[Trouble]:
    """Yields a warning if the policy that decided was only asked before another because of its name."""
    decided = next((policy for policy in concerned if policy.ref == half.policy), None)
    if decided is None or decided.tier is Tier.NORMAL:
        return
    equals = [p for p in concerned if (p.tier, p.priority) == (decided.tier, decided.priority)]
    concerning = (tie_between(decided, other) for other in equals if other is not decided)
    for tie in islice(filter(None, concerning), MOST_CLOSE):
        message = f"{tie.first} and {tie.second} have the same priority, {decided.priority}, and may disagree; "
        message += f"{tie.first} is asked first, by its name"
        yield Trouble(decided.ref, Problem("spec.priority", message, Grade.WARNING))


def _other(direction: Direction) -> tuple[str, ...]:
    word = Direction.EGRESS.value if direction is Direction.INGRESS else Direction.INGRESS.value
    return f"spec.{word}", f"spec.{word}Deny"


def _close(
    scene: Scene, flow: Flow, direction: Direction, mine: Party, other: Party, concerned: list[Policy]
) -> Iterator[Close]:
    identity = scene.world(mine.cluster, mine.node).identity_at(other.ip)
    called = mine.pod if direction is Direction.INGRESS else other.pod
    named = called.named_ports if called is not None else ()
    for policy in concerned:
        if policy.tier is not Tier.NORMAL:
            continue
        scoped_fields = _scoped_fields(scene, mine.cluster, policy)
        for rule in policy.rules:
            if rule.direction is not direction or rule.action is not Action.ALLOW:
                continue
            scoped = rule.field in scoped_fields
            why = _missed(rule, other, identity, port=reaches(rule, flow, named), own=mine.cluster if scoped else "")
            if why:
                yield Close(policy=policy.ref, field=rule.field, name=rule.name, why=why, scope=policy.scope)


def _scoped_fields(scene: Scene, cluster: str, policy: Policy) -> set[str]:
    """Returns the rules of a policy that see the own cluster alone because of its scope."""
    obj = scene.object_of(cluster, policy.ref) if policy.scope is Scope.LOCAL else None
    found = under_scopes(obj, context_of(scene.clusters[cluster])) if obj is not None else None
    return {rule.field for rule in found.rules} if found is not None else set()


def _missed(rule: Rule, other: Party, identity: Identity, *, port: bool, own: str) -> str:
    """Returns why a rule does not allow it, if it nearly does; `own` is all it sees because of its scope, if so."""
    address = ip_address(other.ip)
    if rule.peers is None or any(means(peer, address, identity) for peer in rule.peers):
        ports = ", ".join(map(str, rule.ports or ()))
        return "" if port else f"allows this peer, but only {_short(ports)}"
    tail = "" if port else ", and another port"
    for peer in rule.peers:
        if isinstance(peer, NamePeer) and identity == THE_WORLD:
            return f"allows {_short(str(peer))}, but names are not learned (no DNS proxy)"
        wider = _any_cluster(peer)
        if wider != peer and means(wider, address, identity):
            if own:
                return f"selects the peer, but names no cluster: with scope local it sees {own} alone{tail}"
            said = _clusters_of(peer)
            return f"selects the peer, but not in cluster {identity.cluster}{said}{tail}"
        if port and _any_namespace(wider) != wider and means(_any_namespace(wider), address, identity):
            return f"selects the peer, but not in namespace {identity.namespace}"
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _without(selector: Selector, *, clusters: bool) -> Selector:
    if clusters:
        return Selector(tuple(term for term in selector.terms if not names_clusters(term.key)))
    return Selector(tuple(term for term in selector.terms if term.key != POD_NAMESPACE))


def _any_cluster(peer: Peer) -> Peer:
    match peer:
        case PodPeer():
            return PodPeer(
                _without(peer.pods, clusters=True), _without(peer.namespaces, clusters=True), peer.namespace, ""
            )
        case EndpointPeer():
            return EndpointPeer(_without(peer.selector, clusters=True), peer.entity)
        case _:
            return peer


def _any_namespace(peer: Peer) -> Peer:
    match peer:
        case PodPeer():
            return PodPeer(peer.pods, peer.namespaces, "", peer.cluster)
        case EndpointPeer(entity=""):
            return EndpointPeer(_without(peer.selector, clusters=False))
        case _:
            return peer


def _clusters_of(peer: Peer) -> str:
    selectors = (
        (peer.pods, peer.namespaces)
        if isinstance(peer, PodPeer)
        else (peer.selector,)
        if isinstance(peer, EndpointPeer)
        else ()
    )
    terms = [str(term) for selector in selectors for term in selector.terms if names_clusters(term.key)]
    return f" ({_short(','.join(terms))})" if terms else ""
