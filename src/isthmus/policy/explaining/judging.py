"""What policy says of every port at once, for groups of pods and outside addresses.

The same rule as `policy.evaluate`, worked on sets of ports instead of one: the two agree on every flow
(tests/property). Policies are found by subject once, peers are matched once a rule and group, and an answer is
remembered for the set of rules that match; so 400 groups ask 160,000 questions and get a few hundred answers.
Rejected: asking the evaluator for each pair and port, minutes for the same result.
"""

from collections.abc import Iterable
from ipaddress import ip_address

import msgspec

from isthmus.model.endpoint import NamedPort, family_of
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.identity import Identity
from isthmus.policy.evaluate import resolve
from isthmus.policy.explaining.cells import Cells
from isthmus.policy.explaining.groups import Group
from isthmus.policy.explaining.scene import Scene, local_pod
from isthmus.policy.rules import (
    Action,
    Address,
    Direction,
    IcmpType,
    Peer,
    Policy,
    PortName,
    PortRange,
    Rule,
    Tier,
    means,
)

_Ports = tuple[PortRange | IcmpType | PortName, ...] | None


class Program(msgspec.Struct, frozen=True):
    """What is asked for one subject and direction: rules of the three tiers in their order, and whether it isolates."""

    admin: tuple[Rule, ...]
    denials: tuple[Rule, ...]
    allowances: tuple[Rule, ...]
    baseline: tuple[Rule, ...]
    isolated: bool
    open: bool
    """Whether it cannot forbid anything."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Returns all of them; their places here are the bits of a match."""
        return (*self.admin, *self.denials, *self.allowances, *self.baseline)


class Judge:
    """Judges groups in one scene, on the ports of `cells`."""

    def __init__(self, scene: Scene, cells: Cells) -> None:
        self.scene, self.cells = scene, cells
        self._programs: dict[tuple[int, Direction], tuple[int, Program]] = {}
        self._known: dict[tuple[object, ...], tuple[int, Program]] = {}
        self._matches: dict[tuple[int, int, int], int] = {}
        self._peers: dict[tuple[int, int, int, int], bool] = {}
        self._answers: dict[tuple[int, int, tuple[NamedPort, ...]], int] = {}
        self._ips: dict[int, dict[int, Address]] = {}
        self._keep: list[Group] = []
        """Groups are known by their ids here, so they must live as long."""
        self._of = {family: cells.family(family) for family in (4, 6)}

    def program(self, group: Group, direction: Direction) -> Program | None:
        """Returns what concerns a group of pods in a direction; None for what is outside."""
        return self._program(group, direction)[1] if group.pods else None

    def pair(self, source: Group, destination: Group) -> int:
        """Returns the cells in which `source` may open connections to `destination`, in any family."""
        found = 0
        for family in self.families(source, destination):
            found |= self.within(family, source, destination)
        return found

    def within(self, family: int, source: Group, destination: Group) -> int:
        """Returns the same for one of the families that both have."""
        found = self._of[family]
        if source.pods:
            found &= self._half(source, Direction.EGRESS, destination, family)
        if destination.pods and found:
            found &= self._half(destination, Direction.INGRESS, source, family)
        return found

    def possible(self, source: Group, destination: Group) -> int:
        """Returns the cells that traffic between two groups can have; 0 if no family is common."""
        found = 0
        for family in self.families(source, destination):
            found |= self._of[family]
        return found

    def families(self, source: Group, destination: Group) -> list[int]:
        """Returns the families that two groups have in common."""
        mine, other = self._addresses(source), self._addresses(destination)
        return [family for family in self._of if family in mine and family in other]

    def _addresses(self, group: Group) -> dict[int, Address]:
        """Returns an address of each family."""
        found = self._ips.get(id(group))
        if found is None:
            self._keep.append(group)
            found = self._ips[id(group)] = {family_of(ip): ip_address(ip) for ip in reversed(group.ips)}
        return found

    def _half(self, subject: Group, direction: Direction, other: Group, family: int) -> int:
        """Returns the cells that one half leaves open in a family that both have."""
        number, program = self._program(subject, direction)
        if program.open:
            return self.cells.everything
        key = (number, id(other), family)
        match = self._matches.get(key)
        if match is None:
            match, ip = 0, self._addresses(other)[family]
            near = other.to_own_cluster if subject.cluster == other.cluster else None
            for place, rule in enumerate(program.rules):
                if rule.peers is None or self._means(rule.peers, ip, other, near or other.identity):
                    match |= 1 << place
            self._matches[key] = match
        named = subject.named_ports if direction is Direction.INGRESS else other.named_ports
        answer = (number, match, named)
        if answer not in self._answers:
            self._answers[answer] = self._answer(program, match, named)
        return self._answers[answer]

    def _program(self, group: Group, direction: Direction) -> tuple[int, Program]:
        key = (id(group), direction)
        found = self._programs.get(key)
        if found is None:
            self._keep.append(group)
            cluster = self.scene.clusters[group.cluster]
            subject = local_pod(cluster, group.pods[0]).subject
            mine = tuple(
                policy
                for policy in self.scene.policies[group.cluster].values()
                if direction in policy.directions and policy.selects(subject)
            )
            refs = (direction, group.cluster, *(policy.ref for policy in mine))
            if refs not in self._known:
                self._known[refs] = (len(self._known), _program(mine, direction))
            found = self._programs[key] = self._known[refs]
        return found

    def _means(self, peers: tuple[Peer, ...], ip: Address, other: Group, identity: Identity) -> bool:
        # Peers live as long as the scene, groups as long as this.
        key = (id(peers), id(identity), ip.version, id(other))
        found = self._peers.get(key)
        if found is None:
            found = self._peers[key] = any(means(peer, ip, identity) for peer in peers)
        return found

    def _answer(self, program: Program, match: int, named: tuple[NamedPort, ...]) -> int:
        everything = self.cells.everything
        rules = iter(enumerate(program.rules))
        allowed, left, passed = 0, everything, 0
        for rule in program.admin:
            place, _ = next(rules)
            if match >> place & 1:
                ports = self._ports(rule.ports, named) & left
                left &= ~ports
                if rule.action is Action.ALLOW:
                    allowed |= ports
                elif rule.action is Action.PASS:
                    passed |= ports
        left |= passed
        for rule in program.denials:
            place, _ = next(rules)
            if match >> place & 1:
                left &= ~self._ports(rule.ports, named)
        union = 0
        for rule in program.allowances:
            place, _ = next(rules)
            if match >> place & 1:
                union |= self._ports(rule.ports, named)
        if program.isolated:
            return allowed | (left & union)
        for rule in program.baseline:
            place, _ = next(rules)
            if match >> place & 1:
                ports = self._ports(rule.ports, named) & left
                left &= ~ports
                if rule.action is not Action.DENY:
                    allowed |= ports
        return allowed | left

    def _ports(self, ports: _Ports, named: tuple[NamedPort, ...]) -> int:
        if ports is None:
            return self.cells.everything
        found = 0
        for one in ports:
            if isinstance(one, PortName):
                for number in resolve(one, named):
                    found |= self.cells.mask(number)
            else:
                found |= self.cells.mask(one)
        return found


def _program(policies: tuple[Policy, ...], direction: Direction) -> Program:
    def rules(tier: Tier, *actions: Action) -> tuple[Rule, ...]:
        ordered = sorted(policies, key=lambda policy: policy.rank)
        return tuple(
            rule
            for policy in ordered
            if policy.tier is tier
            for rule in policy.rules
            if rule.direction is direction and rule.action in actions
        )

    every = tuple(Action)
    admin, denials, baseline = rules(Tier.ADMIN, *every), rules(Tier.NORMAL, Action.DENY), rules(Tier.BASELINE, *every)
    isolated = any(policy.tier is Tier.NORMAL and direction in policy.isolates for policy in policies)
    forbids = isolated or any(rule.action is Action.DENY for rule in (*admin, *denials, *baseline))
    return Program(admin, denials, rules(Tier.NORMAL, Action.ALLOW), baseline, isolated, not forbids)


def cells_of(*scenes: Scene, ports: Iterable[tuple[int, int]] = ()) -> Cells:
    """Returns the partition that the policies and the container ports of all scenes make, and `ports` besides."""
    named: set[PortRange | IcmpType] = set()
    ports = set(ports)
    for scene in scenes:
        for policies in scene.policies.values():
            for policy in policies.values():
                for rule in policy.rules:
                    named.update(one for one in rule.ports or () if not isinstance(one, PortName))
        for cluster in scene.clusters.values():
            for pod in cluster.pods:
                ports.update(pod.ports)
                ports.update((PORT_PROTOCOLS[port.protocol], port.port) for port in pod.named_ports)
    return Cells(named, ports)
