"""Ends of a connection: parties that look the same, under one name.

Invariant: an end is named in full, with its cluster. Rejected: one end for each pod, which says the same thing as often
as a workload has replicas.
"""

from collections.abc import Iterable, Sequence

import msgspec

from isthmus.policy.explaining.facts import PodSeen
from isthmus.policy.explaining.groups import Grouping
from isthmus.policy.explaining.halves import Party, PartyKind
from isthmus.policy.explaining.scene import Scene

MOST_LISTED = 8


class TargetError(Exception):
    """What was written names nothing, or nothing that can be told; the message says what to write."""


class End(msgspec.Struct, frozen=True, kw_only=True):
    """An end: parties that look the same, one or more for each node. `port` is where a Service leads to there.

    `name` is for people; `members` are the names of all pods; `domain` is a name that stands for its address.
    """

    name: str
    kind: PartyKind
    parties: tuple[Party, ...]
    cluster: str = ""
    members: tuple[str, ...] = ()
    port: tuple[int, int] | None = None
    domain: str = ""
    service: str = ""

    @property
    def imaginary(self) -> bool:
        """Tells whether its pods do not exist yet."""
        return any(party.pod is not None and party.pod.imaginary for party in self.parties)


def of_party(party: Party, name: str) -> End:
    """Returns one party as an end; `name` is for what has none."""
    if party.pod is not None:
        full = f"{party.cluster}:{party.pod.namespace}/{party.pod.name} ({party.ip})"
        return End(name=full, kind=party.kind, parties=(party,), cluster=party.cluster, members=(party.pod.name,))
    if party.kind is PartyKind.NODE:
        full = f"{party.cluster}:node/{party.node} ({party.ip})"
        return End(name=full, kind=party.kind, parties=(party,), cluster=party.cluster)
    if party.kind is PartyKind.UNKNOWN_POD:
        full = f"{party.ip} (no known pod of {party.cluster}:node/{party.node})"
        return End(name=full, kind=party.kind, parties=(party,), cluster=party.cluster)
    return End(name=name, kind=party.kind, parties=(party,))


def of_pods(scene: Scene, pods: Sequence[tuple[str, PodSeen]], *, service: str = "") -> list[End]:
    """Returns pods, given with their clusters, as ends; one of the host's network is an end of its own."""
    ends = []
    for cluster, pod in pods:
        if pod.host_network:
            parties = tuple(
                Party(kind=PartyKind.NODE, ip=ip, cluster=cluster, node=pod.node, name=pod.node) for ip in pod.ips
            )
            name = f"{cluster}:{pod.namespace}/{pod.name} (network of node {pod.node})"
            ends.append(
                End(
                    name=name,
                    kind=PartyKind.NODE,
                    parties=parties,
                    cluster=cluster,
                    members=(pod.name,),
                    service=service,
                )
            )
    for group in Grouping(scene).pods(pods):
        parties = tuple(
            Party(kind=PartyKind.POD, ip=ip, cluster=group.cluster, node=pod.node, pod=pod, name=pod.name)
            for pod in group.pods
            for ip in pod.ips
        )
        members = tuple(pod.name for pod in group.pods)
        ends.append(
            End(
                name=group.name,
                kind=PartyKind.POD,
                parties=parties,
                cluster=group.cluster,
                members=members,
                service=service,
            )
        )
    return ends


def listed(names: Iterable[str]) -> str:
    """Returns what there is, for an error that says so."""
    there = sorted(set(names))
    return ", ".join(there[:MOST_LISTED]) + (", ..." if len(there) > MOST_LISTED else "")
