"""The reference: what policy says of one connection, and why. Plain, slow, obviously right.

It judges on the original direction and the tuple after DNAT; replies are never judged. It speaks for one node: the half
of a connection whose subject lives elsewhere is that node's business, and the connection needs both halves.
The compiler and the kernel must agree with it (tests/property); where they differ, this module is right.
"""

from ipaddress import ip_address

import msgspec

from isthmus.model.endpoint import NamedPort
from isthmus.model.flow import PORT_PROTOCOLS, Flow
from isthmus.policy.rules import Direction, ObjectRef, PodPeer, PortRange, Rule
from isthmus.policy.world import LocalPod, World


class Half(msgspec.Struct, frozen=True):
    """One direction's answer: `policy` and `rule` decided, or nothing did and `reason` says what that means."""

    direction: Direction
    subject: str
    allowed: bool
    reason: str
    policy: ObjectRef | None = None
    rule: int | None = None


class Verdict(msgspec.Struct, frozen=True):
    """A connection is allowed if no half of it that this node judges is denied."""

    halves: tuple[Half, ...]

    @property
    def allowed(self) -> bool:
        """Tells whether the connection may be."""
        return all(half.allowed for half in self.halves)


def evaluate(world: World, flow: Flow) -> Verdict:
    """Judges `flow` on the node whose world is given: its egress half, its ingress half, both or none."""
    halves: list[Half] = []
    for direction, mine, other in (
        (Direction.EGRESS, flow.source, flow.destination),
        (Direction.INGRESS, flow.destination, flow.source),
    ):
        pod = world.pod_at(mine)
        if pod is not None:
            halves.append(_judge(world, pod, direction, mine, other, flow))
        elif unknown_pod(world, mine, direction) and other not in world.node_addresses:
            halves.append(Half(direction, mine, False, "a pod of this node that is not known yet"))
    return Verdict(tuple(halves))


def unknown_pod(world: World, ip: str, direction: Direction) -> bool:
    """Tells whether `ip` is from this node's pod network, nobody's that we know, and some policy could forbid it."""
    address = ip_address(ip)
    return (
        ip not in world.node_addresses
        and any(address in cidr for cidr in world.pod_cidrs)
        and any(direction in policy.isolates for policy in world.policies.values())
    )


def _judge(world: World, pod: LocalPod, direction: Direction, mine: str, other: str, flow: Flow) -> Half:
    policies = world.isolating(pod, direction)
    if not policies:
        return Half(direction, pod.key, True, "no policy isolates the pod in this direction")
    if mine == other:
        return Half(direction, pod.key, True, "a pod may always reach itself")
    if other in world.node_addresses:
        return Half(direction, pod.key, True, "a pod and its own node may always talk")
    for policy in policies:
        for rule in policy.rules:
            if (
                rule.direction is direction
                and _peer_matches(world, rule, other)
                and _port_matches(world, rule, pod, flow)
            ):
                return Half(direction, pod.key, True, "allowed by a rule", policy.ref, rule.index)
    return Half(direction, pod.key, False, "isolated, and no rule allows it", policies[0].ref)


def _peer_matches(world: World, rule: Rule, other: str) -> bool:
    if rule.peers is None:
        return True
    identity = world.identity_at(other)
    address = ip_address(other)
    return any(
        (identity is not None and peer.matches(identity)) if isinstance(peer, PodPeer) else peer.matches(address)
        for peer in rule.peers
    )


def _port_matches(world: World, rule: Rule, pod: LocalPod, flow: Flow) -> bool:
    if rule.ports is None:
        return True
    if rule.direction is Direction.INGRESS:
        named = pod.named_ports
    else:
        endpoint = world.endpoints.get(flow.destination)
        named = endpoint.named_ports if endpoint is not None else ()
    return any(
        port.matches(flow.protocol, flow.port)
        if isinstance(port, PortRange)
        else any(number.matches(flow.protocol, flow.port) for number in resolve(port.protocol, port.name, named))
        for port in rule.ports
    )


def resolve(protocol: int, name: str, named: tuple[NamedPort, ...]) -> list[PortRange]:
    """Returns what a port name means on a pod that declares `named`: no number, one, or several."""
    return [
        PortRange(protocol, port.port, port.port)
        for port in named
        if port.name == name and PORT_PROTOCOLS.get(port.protocol) == protocol
    ]
