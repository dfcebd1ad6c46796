"""The reference: what policy says of one connection, and why. Plain, slow, obviously right.

It judges on the original direction and the tuple after DNAT; replies are never judged. It speaks for one node: the half
of a connection whose subject lives elsewhere is that node's business, and the connection needs both halves.
The compiler and the kernel must agree with it (tests/property); where they differ, this module is right.

A half is asked tier by tier (reference: policy-apis §1.4, cilium-policy §3):
1. Admin: policies by priority, rules in their order; the first that matches decides, or passes on.
2. Normal: any DENY that matches; else, if something isolates the pod in this direction, any ALLOW that matches; else
   what is never blocked (the own node, the pod itself); else it is denied. If nothing isolates it, the next tier.
3. Baseline: as Admin. 4. Allowed.
"""

from enum import Enum
from ipaddress import ip_address

import msgspec

from isthmus.model.endpoint import NamedPort
from isthmus.model.flow import PORT_PROTOCOLS, Flow
from isthmus.policy.rules import (
    Action,
    Direction,
    ObjectRef,
    Policy,
    PortName,
    PortRange,
    Rule,
    Scope,
    Tier,
    means,
)
from isthmus.policy.world import LocalPod, World


class Reason(Enum):
    """Why a half is as it is; the values are for people."""

    RULE = "allowed by a rule"
    DENIED = "denied by a rule"
    DEFAULT_DENY = "isolated, and no rule allows it"
    OPEN = "no policy isolates the pod in this direction"
    OWN_NODE = "a pod and its own node may always talk"
    ITSELF = "a pod may always reach itself"
    UNKNOWN = "a pod of this node that is not known yet"


class Half(msgspec.Struct, frozen=True):
    """One direction's answer: `policy` and `rule` (and its `action`, `tier` and `scope`) decided, or nothing did.

    `passed` are the rules that handed over to the next tier on the way, `isolating` the policies of the normal tier
    that isolate the pod, if it came to them. `policy` is the first of these for DEFAULT_DENY, and `rule` then None.
    """

    direction: Direction
    subject: str
    allowed: bool
    reason: Reason
    policy: ObjectRef | None = None
    rule: Rule | None = None
    tier: Tier | None = None
    scope: Scope | None = None
    passed: tuple[tuple[ObjectRef, Rule], ...] = ()
    isolating: tuple[ObjectRef, ...] = ()


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
            halves.append(_Judge(world, pod, direction, other, flow).judge())
        elif unknown_pod(world, mine, direction) and other not in world.node_addresses:
            halves.append(Half(direction, mine, False, Reason.UNKNOWN))
    return Verdict(tuple(halves))


def unknown_pod(world: World, ip: str, direction: Direction) -> bool:
    """Tells whether `ip` is from this node's pod network, nobody's that we know, and some policy could forbid it."""
    address = ip_address(ip)
    return (
        ip not in world.node_addresses
        and any(address in cidr for cidr in world.pod_cidrs)
        and any(restricts(policy, direction) for policy in world.policies.values())
    )


def restricts(policy: Policy, direction: Direction) -> bool:
    """Tells whether a policy could forbid anything in `direction`."""
    return direction in policy.isolates or any(
        rule.direction is direction and rule.action is Action.DENY for rule in policy.rules
    )


class _Judge:
    """One half of one connection."""

    def __init__(self, world: World, pod: LocalPod, direction: Direction, other: str, flow: Flow) -> None:
        self.world, self.pod, self.direction, self.flow = world, pod, direction, flow
        self.other, self.identity = ip_address(other), world.identity_at(other)
        self.itself = other in pod.ips
        self.names = world.names.get(other, frozenset())
        self.passed: list[tuple[ObjectRef, Rule]] = []

    def judge(self) -> Half:
        """Asks the tiers one after the other."""
        own_node_calls = self.direction is Direction.INGRESS and "host" in self.identity.reserved
        if self.itself and not self.flow.translated:
            return self._half(True, Reason.ITSELF)
        half = None if own_node_calls else self._ordered(Tier.ADMIN)
        half = half or self._normal()
        if half is None and not own_node_calls:
            half = self._ordered(Tier.BASELINE)
        return half or self._half(True, Reason.OPEN)

    def _half(self, allowed: bool, reason: Reason, policy: Policy | None = None, rule: Rule | None = None) -> Half:
        return Half(
            self.direction,
            self.pod.key,
            allowed,
            reason,
            policy.ref if policy else None,
            rule,
            policy.tier if policy else None,
            policy.scope if policy else None,
            tuple(self.passed),
        )

    def _ordered(self, tier: Tier) -> Half | None:
        for policy in self.world.concerning(self.pod, self.direction, tier):
            for rule in policy.rules:
                if not self._matches(rule):
                    continue
                if rule.action is Action.PASS:
                    self.passed.append((policy.ref, rule))
                    return None
                allowed = rule.action is Action.ALLOW
                return self._half(allowed, Reason.RULE if allowed else Reason.DENIED, policy, rule)
        return None

    def _normal(self) -> Half | None:
        policies = self.world.concerning(self.pod, self.direction, Tier.NORMAL)
        isolating = [policy for policy in policies if self.direction in policy.isolates]
        half = self._unordered(policies, isolating)
        return half and msgspec.structs.replace(half, isolating=tuple(policy.ref for policy in isolating))

    def _unordered(self, policies: list[Policy], isolating: list[Policy]) -> Half | None:
        if self.itself:
            return self._half(True, Reason.ITSELF) if isolating else None
        for action in (Action.DENY, Action.ALLOW) if isolating else (Action.DENY,):
            for policy in policies:
                for rule in policy.rules:
                    if rule.action is action and self._matches(rule):
                        allowed = action is Action.ALLOW
                        return self._half(allowed, Reason.RULE if allowed else Reason.DENIED, policy, rule)
        if not isolating:
            return None
        if "host" in self.identity.reserved and (
            self.direction is Direction.INGRESS or any(policy.spares_own_node for policy in isolating)
        ):
            return self._half(True, Reason.OWN_NODE)
        return self._half(False, Reason.DEFAULT_DENY, isolating[0])

    def _matches(self, rule: Rule) -> bool:
        return rule.direction is self.direction and self._peer_matches(rule) and self._port_matches(rule)

    def _peer_matches(self, rule: Rule) -> bool:
        return rule.peers is None or any(means(peer, self.other, self.identity, self.names) for peer in rule.peers)

    def _port_matches(self, rule: Rule) -> bool:
        if self.direction is Direction.INGRESS:
            named = self.pod.named_ports
        else:
            endpoint = self.world.endpoints.get(self.flow.destination)
            named = endpoint.named_ports if endpoint is not None else ()
        return reaches(rule, self.flow, named)


def reaches(rule: Rule, flow: Flow, named: tuple[NamedPort, ...]) -> bool:
    """Tells whether the ports of `rule` are those of `flow`, to a pod that declares `named`."""
    return rule.ports is None or any(
        any(number.matches(flow.protocol, flow.port) for number in resolve(one, named))
        if isinstance(one, PortName)
        else one.matches(flow.protocol, flow.port)
        for one in rule.ports
    )


def resolve(name: PortName, named: tuple[NamedPort, ...]) -> list[PortRange]:
    """Returns what a port name means on a pod that declares `named`: no number, one, or several."""
    return [
        PortRange(protocol, port.port, port.port)
        for port in named
        if port.name == name.name
        and (protocol := PORT_PROTOCOLS.get(port.protocol, 0))
        and name.protocol in (0, protocol)
    ]
