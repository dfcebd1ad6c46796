"""The answer to "why": both halves of a connection between two ends, and what would allow it.

Every pair of members is judged by the evaluator in the worlds of their own nodes; pairs with the same answer are one.
Invariant: an answer is what the nodes would do with these policies, whatever was suggested before. Rejected: answering
for one pod of a workload, which hides the one that is different.
"""

from collections.abc import Iterable, Sequence

import msgspec

from isthmus.model.endpoint import family_of
from isthmus.model.flow import Flow
from isthmus.policy.explaining.cells import in_family
from isthmus.policy.explaining.ends import End, TargetError
from isthmus.policy.explaining.facts import changed
from isthmus.policy.explaining.halves import HalfReport, Party, PartyKind, halves
from isthmus.policy.explaining.remedies import Remedies, Remedy, remedies
from isthmus.policy.explaining.scene import Scene

MOST_PAIRS = 64
"""Pairs of ends that one question may mean."""

MOST_MEMBERS = 24
"""Pods of one end that are judged one by one where their nodes make a difference."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """From one end to another, on one port. `families` are 4, 6 or both; `remedies` is None where it is allowed."""

    source: End
    destination: End
    protocol: int
    port: int
    families: tuple[int, ...]
    egress: HalfReport
    ingress: HalfReport
    remedies: Remedies | None = None

    @property
    def allowed(self) -> bool:
        """Tells whether the connection may be."""
        return self.egress.allowed and self.ingress.allowed


def explain(
    scene: Scene,
    sources: Sequence[End],
    destinations: Sequence[End],
    port: tuple[int, int] | None,
    *,
    suggest: bool = True,
) -> list[Answer]:
    """Answers for every pair of ends; `port` is (protocol, number or type of ICMP), unless the destination has one.

    Raises TargetError if no port can be told, if no address family is common, or if there are too many pairs.
    """
    if len(sources) * len(destinations) > MOST_PAIRS:
        raise TargetError(
            f"this means {len(sources)} sources and {len(destinations)} destinations that differ; ask for fewer"
        )
    found = []
    for source in sources:
        for destination in destinations:
            for protocol, number in _ports(destination, port):
                found += _answers(scene, source, destination, (protocol, number), suggest=suggest)
    return found


def _ports(destination: End, port: tuple[int, int] | None) -> list[tuple[int, int]]:
    if destination.port is not None:
        return [destination.port]
    if port is not None:
        return [port]
    pod = destination.parties[0].pod
    if pod is not None and pod.ports:
        return sorted(set(pod.ports))[:8]
    raise TargetError(f"{destination.name} declares no ports; say which with --port, as 80/TCP, or --icmp")


def _answers(scene: Scene, source: End, destination: End, port: tuple[int, int], *, suggest: bool) -> list[Answer]:
    merged: dict[object, list[_Judged]] = {}
    for flow, mine, other in _flows(source, destination, port):
        egress, ingress = halves(scene, flow, mine, other)
        # What a pod's own node needs is not what others do, also where the answer is the same.
        own = PartyKind.NODE in (mine.kind, other.kind) and (mine.cluster, mine.node) == (other.cluster, other.node)
        key = (own, *(msgspec.structs.replace(half, node="") for half in (egress, ingress)))
        merged.setdefault(key, []).append(_Judged(flow, mine, other, egress, ingress))
    if not merged:
        raise TargetError(f"{source.name} and {destination.name} have no address family in common")
    apart = len(merged) > 1 and PartyKind.NODE in (source.kind, destination.kind)
    found = []
    for flows in merged.values():
        first = flows[0]
        answer = Answer(
            source=_on_nodes(source, {one.mine.node for one in flows}) if apart else source,
            destination=_on_nodes(destination, {one.other.node for one in flows}) if apart else destination,
            protocol=first.flow.protocol,
            port=first.flow.port,
            families=tuple(sorted({family_of(one.flow.source) for one in flows})),
            egress=first.egress,
            ingress=first.ingress,
        )
        if suggest and not answer.allowed:
            answer = msgspec.structs.replace(answer, remedies=_remedies(scene, flows))
        found.append(answer)
    return found


class _Judged(msgspec.Struct, frozen=True):
    """One flow between members of the ends, and what became of it."""

    flow: Flow
    mine: Party
    other: Party
    egress: HalfReport
    ingress: HalfReport


def _remedies(scene: Scene, flows: Sequence[_Judged]) -> Remedies:
    """Returns what allows all of `flows`: what allows one of them mostly does."""
    steps: list[Remedy] = []
    for one in flows:
        found = remedies(scene, one.flow, one.mine, one.other)
        steps += found.steps
        if not found.sufficient:
            return Remedies(tuple(steps), found.missing)
        if found.steps:
            scene = Scene(changed(scene.picture, *(step.change for step in found.steps)), reuse=scene)
    return Remedies(tuple(steps))


def _on_nodes(end: End, nodes: set[str]) -> End:
    """Returns an end with those pods alone that are on `nodes`."""
    parties = tuple(party for party in end.parties if party.node in nodes)
    members = tuple(dict.fromkeys(party.name for party in parties)) if end.members else ()
    return msgspec.structs.replace(end, parties=parties, members=members)


def _flows(source: End, destination: End, port: tuple[int, int]) -> Iterable[tuple[Flow, Party, Party]]:
    """Yields what is to be judged: a pair of members for each combination that can make a difference."""
    near = PartyKind.NODE in (source.kind, destination.kind)
    for mine in _members(source, near=near):
        for other in _members(destination, near=near):
            if family_of(mine.ip) != family_of(other.ip):
                continue
            theirs = other
            if mine.ip == other.ip and len(destination.parties) > 1:
                # The pods of one workload among themselves: another one is meant.
                same = [p for p in destination.parties if p.ip != mine.ip and family_of(p.ip) == family_of(mine.ip)]
                theirs = same[0] if same else other
            to_itself = bool(destination.service) and mine.ip == theirs.ip
            yield Flow(mine.ip, theirs.ip, *in_family(port, family_of(mine.ip)), to_itself), mine, theirs


def _members(end: End, *, near: bool) -> list[Party]:
    """Returns one member of each family, or (where nodes matter) of each family and node."""
    found: dict[tuple[int, str], Party] = {}
    for party in end.parties:
        found.setdefault((family_of(party.ip), party.node if near else ""), party)
    return list(found.values())[:MOST_MEMBERS]
