"""Keeps a Table as a World says, one change at a time.

Every method changes the world and what follows from it in the table, and nothing else; `Table.take_delta` then holds
the transaction. Invariant (tests/property): after any sequence of calls the table equals that of a new Compiler that
is given the final world. Cost: an endpoint is one element; an identity is matched once against each distinct peer
selector that shares a label with it; a policy costs the pods it selects and, for selectors not seen before, a look at
the identities that share a label with them.
"""

from collections import Counter
from collections.abc import Iterable, KeysView
from ipaddress import ip_address

import msgspec

from isthmus.model.endpoint import Endpoint, NamedPort, family_of
from isthmus.model.identity import THE_WORLD, Identity
from isthmus.policy.evaluate import resolve
from isthmus.policy.gate import Gate, Opening, build
from isthmus.policy.rules import CidrPeer, Direction, Network, ObjectRef, Peer, PodPeer, Policy
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.handles import Files, of_identity, of_peer
from isthmus.ruleset.layout import (
    EGRESS,
    FIXED,
    INGRESS,
    PEERS,
    PODS,
    SELF,
    Layout,
    base_chains,
    lay_out,
)
from isthmus.ruleset.sets import Jump, Key
from isthmus.ruleset.table import Table

_Element = tuple[str, Key]  # name of the set, key

_Gates = dict[tuple[Direction, tuple[ObjectRef, ...], tuple[NamedPort, ...]], Gate]

_MAPS = {Direction.EGRESS: EGRESS, Direction.INGRESS: INGRESS}


class _Matches(msgspec.Struct):
    """Which identities a selector matches, and which gates want to know."""

    numbers: set[int]
    gates: set[str]


class _InUse(msgspec.Struct):
    """A gate in the table, and how many (pod, direction) go through it."""

    gate: Gate
    layout: Layout
    pods: int = 0
    shut: bool = False


class Compiler:
    """The incremental compiler of one node. Not safe for use from several threads."""

    def __init__(self, world: World) -> None:
        self.world = World(world.cluster, node_addresses=world.node_addresses, pod_cidrs=world.pod_cidrs)
        self.table = Table()
        self._by_namespace: dict[str, dict[ObjectRef, Policy]] = {}
        self._isolating: Counter[Direction] = Counter()
        self._gates: dict[str, _InUse] = {}
        self._gate_of: dict[tuple[str, Direction], str] = {}
        self._told: dict[str, LocalPod] = {}
        self._claims: dict[str, set[str]] = {}  # address -> keys of the pods that say they have it
        self._matches: dict[PodPeer, _Matches] = {}
        self._peers: Files[PodPeer] = Files()
        self._identities: Files[int] = Files()
        for pair in FIXED:
            for spec in pair.values():
                self.table.add_set(spec)
        self._put_base()
        for identity in world.identities.values():
            self.put_identity(identity)
        for endpoint in world.endpoints.values():
            self.put_endpoint(endpoint)
        for pod in world.pods.values():
            self.put_pod(pod)
        self.change_policies(put=world.policies.values())

    @property
    def shut(self) -> dict[str, Gate]:
        """Returns the gates that are shut, by name."""
        return {name: used.gate for name, used in self._gates.items() if used.shut}

    def shut_gate(self, name: str) -> None:
        """Lets nobody through a gate in use, whatever its policies allow: its rules cannot be enforced."""
        self._rebuild(name, shut=True)

    def open_gate(self, name: str) -> None:
        """Takes back `shut_gate`."""
        self._rebuild(name, shut=False)

    def _rebuild(self, name: str, *, shut: bool) -> None:
        used = self._gates.get(name)
        if used is not None and used.shut is not shut:
            self._take_down(name, used.layout)
            used.shut = shut
            used.layout = lay_out(msgspec.structs.replace(used.gate, openings=()) if shut else used.gate)
            self._put_up(name, used.layout)

    @property
    def gates(self) -> KeysView[str]:
        """Returns the names of the gates in use, one for each distinct set of policies and direction."""
        return self._gates.keys()

    # -- the node ----------------------------------------------------------------------------------------------

    def set_node(self, *, addresses: Iterable[str], pod_cidrs: Iterable[Network]) -> None:
        """Says which addresses the node has (for the evaluator) and which pod networks are its own."""
        self.world.node_addresses = frozenset(addresses)
        self.world.pod_cidrs = tuple(pod_cidrs)
        self._put_base()

    def _put_base(self) -> None:
        guarded = frozenset(direction for direction, count in self._isolating.items() if count)
        for chain in base_chains(pod_cidrs=self.world.pod_cidrs, guarded=guarded):
            self.table.put_chain(chain)

    # -- policies and local pods -------------------------------------------------------------------------------

    def put_policy(self, policy: Policy) -> None:
        """Adds a policy, or replaces the one of the same name (whatever its UID)."""
        self.change_policies(put=(policy,))

    def drop_policy(self, ref: ObjectRef) -> None:
        """Removes a policy by kind, namespace and name."""
        self.change_policies(drop=(ref,))

    def change_policies(self, *, put: Iterable[Policy] = (), drop: Iterable[ObjectRef] = ()) -> None:
        """Removes and then adds policies, and looks at each pod once: a namespace may have thousands of both."""
        changed = [policy for ref in drop for policy in self._take_policy(ref)]
        for policy in put:
            changed += [policy, *self._take_policy(policy.ref)]
            self.world.policies[policy.ref] = policy
            self._by_namespace.setdefault(policy.namespace, {})[policy.ref] = policy
            self._isolating.update(policy.isolates)
        gates: _Gates = {}
        for pod in list(self.world.pods.values()):
            if any(policy.selects(pod.subject) for policy in changed):
                self._route(pod, gates)
        self._put_base()

    def _take_policy(self, ref: ObjectRef) -> list[Policy]:
        neighbours = self._by_namespace.get(ref.namespace, {})
        taken = [policy for r, policy in neighbours.items() if _same_object(r, ref)]
        for policy in taken:
            del neighbours[policy.ref], self.world.policies[policy.ref]
            self._isolating.subtract(policy.isolates)
        if not neighbours:
            self._by_namespace.pop(ref.namespace, None)
        return taken

    def put_pod(self, pod: LocalPod) -> None:
        """Adds a pod of this node, or replaces what is known of it.

        An address has one holder, the greatest `claim`; the world shows pods with the addresses that they hold.
        """
        old = self._told.get(pod.key)
        if old == pod:
            return
        for ip in set(old.ips) - set(pod.ips) if old else ():
            self._claims[ip].discard(pod.key)
        for ip in pod.ips:
            self._claims.setdefault(ip, set()).add(pod.key)
        self._told[pod.key] = pod
        self._settle(pod.key, {*pod.ips, *(old.ips if old else ())})

    def drop_pod(self, key: str) -> None:
        """Removes a pod of this node by `namespace/name`; an address that others claimed too goes to one of them."""
        pod = self._told.pop(key, None)
        if pod is None:
            return
        for ip in pod.ips:
            self._claims[ip].discard(key)
        del self.world.pods[key]
        self._settle(key, set(pod.ips))
        for direction in Direction:
            self._leave(self._gate_of.pop((key, direction), None))

    def _settle(self, key: str, ips: set[str]) -> None:
        """Gives each of `ips` to its holder, after the claims of pod `key` changed."""
        concerned = {key}
        for ip in ips:
            concerned |= self._claims[ip]
            if not self._claims[ip]:
                del self._claims[ip]
                self._forget_address(ip)
        for told in [self._told[one] for one in concerned if one in self._told]:
            held = tuple(ip for ip in told.ips if self._holder(ip) == told.key)
            pod = told if held == told.ips else msgspec.structs.replace(told, ips=held)
            if self.world.pods.get(pod.key) == pod:
                continue
            self.world.pods[pod.key] = pod
            for ip in pod.ips:
                self.table.put(PODS[family_of(ip)].name, (ip,))
                self.table.put(SELF[family_of(ip)].name, (ip, ip))
            self._route(pod)

    def _holder(self, ip: str) -> str:
        return max(self._claims[ip], key=lambda key: self._told[key].claim)

    def _forget_address(self, ip: str) -> None:
        version = family_of(ip)
        self.table.discard(PODS[version].name, (ip,))
        self.table.discard(SELF[version].name, (ip, ip))
        for maps in _MAPS.values():
            self.table.discard(maps[version].name, (ip,))

    def _route(self, pod: LocalPod, gates: _Gates | None = None) -> None:
        """Points the pod's addresses to the gates of the policies that isolate it.

        `gates` keeps what was built for other pods under the same policies.
        """
        gates = {} if gates is None else gates
        neighbours = self._by_namespace.get(pod.namespace, {}).values()
        selecting = sorted((p for p in neighbours if p.selects(pod.subject)), key=lambda p: p.ref)
        for direction in Direction:
            policies = [policy for policy in selecting if direction in policy.isolates]
            old = self._gate_of.pop((pod.key, direction), None)
            content = (direction, tuple(policy.ref for policy in policies), pod.named_ports)
            gate = gates.get(content)
            if gate is None and policies:
                gate = gates[content] = build(direction, policies, named_ports=pod.named_ports)
            if gate is not None and not gate.open:
                self._enter(gate)
                self._gate_of[pod.key, direction] = gate.name
                for ip in pod.ips:
                    self.table.put(_MAPS[direction][family_of(ip)].name, (ip,), Jump(gate.name))
            else:
                for ip in pod.ips:
                    self.table.discard(_MAPS[direction][family_of(ip)].name, (ip,))
            self._leave(old)

    # -- gates -------------------------------------------------------------------------------------------------

    def _enter(self, gate: Gate) -> None:
        used = self._gates.get(gate.name)
        if used is not None:
            used.pods += 1
            return
        layout = lay_out(gate)
        self._gates[gate.name] = _InUse(gate, layout, 1)
        self._put_up(gate.name, layout)

    def _put_up(self, name: str, layout: Layout) -> None:
        for spec in layout.sets:
            self.table.add_set(spec)
        for chain in layout.chains:
            self.table.put_chain(chain)
        numbers: set[int] = set()
        for peer in _pod_peers(layout):
            numbers |= self._want(peer, name)
        for number in numbers:
            self._fill_row(layout, number, set())
        self._fill_named(layout)

    def _leave(self, name: str | None) -> None:
        if name is None:
            return
        used = self._gates[name]
        used.pods -= 1
        if used.pods:
            return
        del self._gates[name]
        self._take_down(name, used.layout)

    def _take_down(self, name: str, layout: Layout) -> None:
        for peer in _pod_peers(layout):
            matches = self._matches[peer]
            matches.gates.discard(name)
            if not matches.gates:
                del self._matches[peer]
                self._peers.discard(peer, of_peer(peer))
        for chain in layout.chains:
            self.table.drop_chain(chain.name)
        for spec in layout.sets:
            self.table.drop_set(spec.name)

    def _want(self, peer: PodPeer, gate: str) -> set[int]:
        matches = self._matches.get(peer)
        if matches is None:
            handles = of_peer(peer)
            candidates = self._identities.under(handles)
            numbers = {number for number in candidates if peer.matches(self.world.identities[number])}
            matches = self._matches[peer] = _Matches(numbers, set())
            self._peers.add(peer, handles)
        matches.gates.add(gate)
        return matches.numbers

    def _row(self, layout: Layout, number: int) -> set[_Element]:
        """Returns the gate's elements of one identity: what the peers that match it allow."""
        matching = [i for i, (peer, _) in enumerate(layout.rows) if number in self._matches[peer].numbers]
        return layout.elements(number, matching)

    def _fill_row(self, layout: Layout, number: int, old: set[_Element]) -> None:
        self._exchange(old, self._row(layout, number))

    def _exchange(self, old: set[_Element], new: set[_Element]) -> None:
        for name, key in old - new:
            self.table.discard(name, key)
        for name, key in new - old:
            self.table.put(name, key)

    def _fill_named(self, layout: Layout) -> None:
        if not _uses_names(layout):
            return
        openings = [opening for opening in layout.gate.openings if opening.names]
        others = [opening for opening in openings if not isinstance(opening.peer, PodPeer)]
        by_identity: dict[int, list[Opening]] = {}
        for opening in openings:
            if isinstance(opening.peer, PodPeer):
                for number in self._identities.under(of_peer(opening.peer)):
                    by_identity.setdefault(number, []).append(opening)
        for endpoint in self.world.endpoints.values():
            identity = self.world.identities.get(endpoint.identity)
            mine = [*others, *by_identity.get(endpoint.identity, ())]
            self._exchange(set(), _named_elements(layout, endpoint, identity, mine))

    def _gates_with_names(self) -> list[Layout]:
        return [used.layout for used in self._gates.values() if _uses_names(used.layout)]

    # -- the mesh ----------------------------------------------------------------------------------------------

    def put_identity(self, identity: Identity) -> None:
        """Adds an identity, or replaces its labels."""
        old = self.world.identities.get(identity.number)
        if old != identity:
            self.world.identities[identity.number] = identity
            self._rematch(identity.number, old, identity)

    def drop_identity(self, number: int) -> None:
        """Removes an identity; endpoints that still refer to it count as `world`."""
        old = self.world.identities.pop(number, None)
        if old is not None:
            self._rematch(number, old, None)

    def _rematch(self, number: int, old: Identity | None, new: Identity | None) -> None:
        for files, identity in ((self._identities.discard, old), (self._identities.add, new)):
            if identity is not None:
                files(number, of_identity(identity))
        candidates = self._peers.under(h for identity in (old, new) if identity for h in of_identity(identity))
        now = {peer: new is not None and peer.matches(new) for peer in candidates}
        changed = [peer for peer in candidates if (number in self._matches[peer].numbers) is not now[peer]]
        gates = {name for peer in changed for name in self._matches[peer].gates}
        rows = {name: self._row(self._gates[name].layout, number) for name in gates}
        for peer in changed:
            numbers = self._matches[peer].numbers
            (numbers.add if now[peer] else numbers.discard)(number)
        for name, row in rows.items():
            self._fill_row(self._gates[name].layout, number, row)
        for layout in self._gates_with_names():
            for endpoint in self.world.endpoints.values():
                if endpoint.identity == number:
                    self._exchange(_named_elements(layout, endpoint, old), _named_elements(layout, endpoint, new))

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Says who holds an address; replaces what was said before."""
        old = self.world.endpoints.get(endpoint.ip)
        self.world.endpoints[endpoint.ip] = endpoint
        self.table.put(PEERS[family_of(endpoint.ip)].name, (endpoint.ip,), endpoint.identity)
        self._rename(old, endpoint)

    def drop_endpoint(self, ip: str) -> None:
        """Says that nobody we know holds an address."""
        old = self.world.endpoints.pop(ip, None)
        if old is not None:
            self.table.discard(PEERS[family_of(ip)].name, (ip,))
            self._rename(old, None)

    def _rename(self, old: Endpoint | None, new: Endpoint | None) -> None:
        for layout in self._gates_with_names():
            before, after = (
                _named_elements(layout, one, self.world.identities.get(one.identity)) if one else set()
                for one in (old, new)
            )
            self._exchange(before, after)


def _same_object(one: ObjectRef, other: ObjectRef) -> bool:
    return (one.kind, one.namespace, one.name) == (other.kind, other.namespace, other.name)


def _uses_names(layout: Layout) -> bool:
    return any(opening.names for opening in layout.gate.openings)


def _named_elements(
    layout: Layout, endpoint: Endpoint, identity: Identity | None, openings: Iterable[Opening] | None = None
) -> set[_Element]:
    """Returns the elements of one address; `openings` are those that may concern it, all of the gate if None."""
    if not endpoint.named_ports:  # most have none, and there may be a hundred thousand
        return set()
    name = layout.named_set(family_of(endpoint.ip))
    return {
        (name, (endpoint.ip, number.protocol, number.first))
        for opening in (layout.gate.openings if openings is None else openings)
        if opening.names and _means(opening.peer, identity, endpoint.ip)
        for port in opening.names
        for number in resolve(port, endpoint.named_ports)
    }


def _pod_peers(layout: Layout) -> list[PodPeer]:
    return list(dict.fromkeys(peer for peer, _ in layout.rows))


def _means(peer: Peer | None, identity: Identity | None, ip: str) -> bool:
    match peer:
        case None:
            return True
        case CidrPeer():
            return peer.matches(ip_address(ip), identity or THE_WORLD)
        case PodPeer():
            return identity is not None and peer.matches(identity)
        case _:
            return False
