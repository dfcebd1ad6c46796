"""Keeps a Table as a World says, one change at a time.

Every method changes the world and what follows from it in the table, and nothing else; `Table.take_delta` then holds
the transaction. Invariant (tests/property): after any sequence of calls the table equals that of a new Compiler that
is given the final world. Cost: an endpoint is one element; an identity is matched once against each distinct peer
selector that shares a label with it; a policy costs the pods that share a label with its subject and, for selectors
not seen before, a look at the identities that share a label with them.
"""

from collections import Counter
from collections.abc import Iterable, KeysView

import msgspec

from isthmus.model.endpoint import Endpoint, family_of
from isthmus.model.identity import WORLD, Identity
from isthmus.policy.gate import Gate
from isthmus.policy.rules import Direction, Network, ObjectRef, Policy
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.gates import MOST_ELEMENTS, Gates
from isthmus.ruleset.layout import (
    EGRESS,
    FIXED,
    INGRESS,
    INPUT,
    PEERS,
    PODS,
    SELF,
    TO_NODE,
    base_chains,
    input_chains,
)
from isthmus.ruleset.matches import Matches
from isthmus.ruleset.sets import Jump, SetSpec
from isthmus.ruleset.stages import node_entry
from isthmus.ruleset.subjects import Built, Subjects
from isthmus.ruleset.table import Table

_MAPS = {Direction.EGRESS: EGRESS, Direction.INGRESS: INGRESS}


class Oversize(msgspec.Struct, frozen=True):
    """How many elements a gate calls for and may hold, and how many each of its policies would alone: most first."""

    needed: int
    most: int
    shares: tuple[tuple[ObjectRef, int], ...]

    def __str__(self) -> str:
        largest = ", ".join(f"{ref}: {share}" for ref, share in self.shares[:3])
        return (
            f"needs {self.needed} set elements with the other policies of its pods; "
            f"a node holds at most {self.most} of a set of policies ({largest})"
        )


class Compiler:
    """The incremental compiler of one node. Not safe for use from several threads.

    With `keep_live`, packets of established connections are not judged: a policy decides about new ones only.
    A gate that would hold more than `most_elements` is shut until it would not, see `too_large`.
    """

    def __init__(self, world: World, keep_live: bool = False, *, most_elements: int = MOST_ELEMENTS) -> None:
        self.world = World(world.cluster, node_addresses=world.node_addresses, pod_cidrs=world.pod_cidrs)
        self.table = Table()
        self._keep_live = keep_live
        self._matches = Matches(world.cluster)
        self._gates = Gates(self.world, self.table, self._matches, most=most_elements)
        self._subjects = Subjects(self.world)
        self._gate_of: dict[tuple[str, Direction], str] = {}
        self._told: dict[str, LocalPod] = {}
        self._claims: dict[str, set[str]] = {}  # address -> keys of the pods that say they have it
        self._holders: Counter[int] = Counter()  # identity -> how many addresses say they have it
        self._orphans: dict[int, set[str]] = {}  # identity that is not known -> addresses that have it
        for pair in FIXED:
            for spec in pair.values():
                self.table.add_set(spec)
        self._put_base()
        for identity in world.identities.values():
            self.put_identity(identity)
        for ip, number in world.nodes.items():
            self.put_node_address(ip, number)
        for endpoint in world.endpoints.values():
            self.put_endpoint(endpoint)
        for ip, names in world.names.items():
            self.learn(ip, names)
        for pod in world.pods.values():
            self.put_pod(pod)
        self.change_policies(put=world.policies.values())

    # -- gates -------------------------------------------------------------------------------------------------

    @property
    def gates(self) -> KeysView[str]:
        """Returns the names of the gates in use, one for each distinct set of policies and direction."""
        return self._gates.names

    @property
    def shut(self) -> dict[str, Gate]:
        """Returns the gates that were shut by `shut_gate`, by name."""
        return self._gates.shut

    @property
    def too_large(self) -> dict[str, int]:
        """Returns the gates that are shut because they would hold too many elements, by name, with how many.

        They open by themselves when they fit. One that the kernel had refused before it grew is in `shut` as well.
        """
        return self._gates.too_large

    def oversize(self, name: str) -> Oversize:
        """Returns what is too large about a gate in use; lays out each of its policies once more."""
        gate = self._gates.gate(name)
        shares = [
            (ref, self._gates.share(policy, gate.direction))
            for ref in gate.policies
            if (policy := self.world.policies.get(ref)) is not None
        ]
        shares.sort(key=lambda one: -one[1])
        return Oversize(self._gates.held(name), self._gates.most, tuple(shares))

    def shut_gate(self, name: str) -> None:
        """Lets nobody through a gate in use, whatever its policies allow: its rules cannot be enforced."""
        self._gates.set_shut(name, shut=True)

    def open_gate(self, name: str) -> None:
        """Takes back `shut_gate`; one that is too large stays shut."""
        self._gates.set_shut(name, shut=False)

    # -- the node ----------------------------------------------------------------------------------------------

    def set_node(self, *, addresses: Iterable[str], pod_cidrs: Iterable[Network]) -> None:
        """Says which addresses the node has (for port names and the evaluator) and which pod networks are its own."""
        new = frozenset(addresses)
        changed = self.world.node_addresses ^ new
        before = self._gates.named(changed)
        self.world.node_addresses = new
        self.world.pod_cidrs = tuple(pod_cidrs)
        self._gates.rename(changed, before)
        self._put_base()

    def _put_base(self) -> None:
        self._guarded = self._subjects.restricted
        for chain in base_chains(pod_cidrs=self.world.pod_cidrs, guarded=self._guarded, keep_live=self._keep_live):
            self.table.put_chain(chain)

    def _settle_base(self) -> None:
        """Makes the chains of all pods fit the gates that are in use now."""
        if self._guarded != self._subjects.restricted:
            self._put_base()
        if bool(self._gates.judging_node) is not (INPUT in self.table.chains):
            for chain in input_chains(keep_live=self._keep_live):
                if self._gates.judging_node:
                    self.table.put_chain(chain)
                else:
                    self.table.drop_chain(chain.name)

    # -- policies and local pods -------------------------------------------------------------------------------

    def put_policy(self, policy: Policy) -> None:
        """Adds an object of one policy, or replaces the one of the same name (whatever its UID)."""
        self.change_policies(put=(policy,))

    def drop_policy(self, ref: ObjectRef) -> None:
        """Removes an object by kind, namespace and name, with all its policies."""
        self.change_policies(drop=(ref,))

    def change_policies(self, *, put: Iterable[Policy] = (), drop: Iterable[ObjectRef] = ()) -> None:
        """Removes and then adds objects, and looks at each pod once: a cluster may have thousands of both.

        The policies in `put` that are of one object replace all that were of it.
        """
        built: Built = {}
        for key in self._subjects.change(put=put, drop=drop):
            self._route(self.world.pods[key], built)
        self._settle_base()

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
        self._settle_base()

    def drop_pod(self, key: str) -> None:
        """Removes a pod of this node by `namespace/name`; an address that others claimed too goes to one of them."""
        pod = self._told.pop(key, None)
        if pod is None:
            return
        for ip in pod.ips:
            self._claims[ip].discard(key)
        self._forget_pod(key)
        self._settle(key, set(pod.ips))
        for direction in Direction:
            gate = self._gate_of.pop((key, direction), None)
            if gate is not None:
                self._gates.leave(gate)
        self._settle_base()

    def _settle(self, key: str, ips: set[str]) -> None:
        """Gives each of `ips` to its holder, after the claims of pod `key` changed."""
        concerned = {key}
        for ip in ips:
            concerned |= self._claims[ip]
            if not self._claims[ip]:
                del self._claims[ip]
                self._forget_address(ip)
        changed: list[LocalPod] = []
        for told in [self._told[one] for one in concerned if one in self._told]:
            held = tuple(ip for ip in told.ips if self._holder(ip) == told.key)
            pod = told if held == told.ips else msgspec.structs.replace(told, ips=held)
            if self.world.pods.get(pod.key) != pod:
                self._forget_pod(pod.key)
                changed.append(pod)
        for pod in changed:
            self.world.pods[pod.key] = pod
            self._subjects.put_pod(pod)
            for ip in pod.ips:
                self.table.put(PODS[family_of(ip)].name, (ip,))
            for pair in _pairs(pod.ips):
                self.table.put(SELF[family_of(pair[0])].name, pair)
            self._route(pod, {})

    def _forget_pod(self, key: str) -> None:
        pod = self.world.pods.pop(key, None)
        if pod is not None:
            self._subjects.drop_pod(key)
            for pair in _pairs(pod.ips):
                self.table.discard(SELF[family_of(pair[0])].name, pair)

    def _holder(self, ip: str) -> str:
        return max(self._claims[ip], key=lambda key: self._told[key].claim)

    def _forget_address(self, ip: str) -> None:
        version = family_of(ip)
        self.table.discard(PODS[version].name, (ip,))
        for maps in (EGRESS, INGRESS, TO_NODE):
            self.table.discard(maps[version].name, (ip,))

    def _route(self, pod: LocalPod, built: Built) -> None:
        """Points the pod's addresses to the gates of the policies that concern it."""
        for direction, gate in self._subjects.gates(pod, built).items():
            old = self._gate_of.pop((pod.key, direction), None)
            if gate is not None:
                self._gates.enter(gate)
                self._gate_of[pod.key, direction] = gate.name
            self._lead(pod, _MAPS[direction], gate.name if gate is not None else "")
            if direction is Direction.EGRESS:
                self._lead(pod, TO_NODE, node_entry(gate) if gate is not None and gate.judges_node else "")
            if old is not None:
                self._gates.leave(old)

    def _lead(self, pod: LocalPod, maps: dict[int, SetSpec], chain: str) -> None:
        for ip in pod.ips:
            name = maps[family_of(ip)].name
            if chain:
                self.table.put(name, (ip,), Jump(chain))
            else:
                self.table.discard(name, (ip,))

    # -- the mesh ----------------------------------------------------------------------------------------------

    def put_identity(self, identity: Identity) -> None:
        """Adds an identity, of pods, of nodes or of this node (HOST), or replaces its labels."""
        if self.world.identities.get(identity.number) != identity:
            self._change_identity(identity.number, identity)

    def drop_identity(self, number: int) -> None:
        """Removes an identity; endpoints that still refer to it count as `world`."""
        if number in self.world.identities:
            self._change_identity(number, None)

    def _change_identity(self, number: int, identity: Identity | None) -> None:
        concerned = self._addresses_of(number) if self._gates.resolve_ports else ()
        before = self._gates.named(concerned)
        known = number in self.world.identities
        if identity is not None:
            self.world.identities[number] = identity
        else:
            del self.world.identities[number]
        self._gates.rematch(number, self._matches.change(number, identity))
        self._gates.rename(concerned, before)
        if identity is None and self._holders[number]:
            for ip in self._addresses_of(number):
                self._tell(ip)
        elif not known:
            for ip in list(self._orphans.get(number, ())):
                self._tell(ip)

    def _addresses_of(self, number: int) -> list[str]:
        """Returns who says to have an identity; linear in all addresses."""
        if not self._holders[number]:
            return []
        found = [ip for ip, endpoint in self.world.endpoints.items() if endpoint.identity == number]
        return found + [ip for ip, one in self.world.nodes.items() if one == number and ip not in self.world.endpoints]

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Says who holds an address; replaces what was said before."""
        self._change_address(endpoint.ip, endpoint, self.world.nodes.get(endpoint.ip))

    def drop_endpoint(self, ip: str) -> None:
        """Says that no pod we know holds an address."""
        if ip in self.world.endpoints:
            self._change_address(ip, None, self.world.nodes.get(ip))

    def put_node_address(self, ip: str, number: int) -> None:
        """Says that a node, or the API server, has an address: `number` is its identity. Pods go first."""
        self._change_address(ip, self.world.endpoints.get(ip), number)

    def drop_node_address(self, ip: str) -> None:
        """Takes `put_node_address` back."""
        if ip in self.world.nodes:
            self._change_address(ip, self.world.endpoints.get(ip), None)

    def learn(self, ip: str, names: Iterable[str]) -> None:
        """Says which names lead to an address, as far as is known; none forgets it."""
        old, new = self.world.names.get(ip, frozenset()), frozenset(names)
        if old == new:
            return
        before = self._gates.named((ip,))
        if new:
            self.world.names[ip] = new
        else:
            del self.world.names[ip]
        self._gates.learn(ip, old, new)
        self._gates.rename((ip,), before)

    def _change_address(self, ip: str, endpoint: Endpoint | None, node: int | None) -> None:
        world = self.world
        old, before = self._said(ip), self._gates.named((ip,))
        if endpoint is not None:
            world.endpoints[ip] = endpoint
        else:
            world.endpoints.pop(ip, None)
        if node is not None:
            world.nodes[ip] = node
        else:
            world.nodes.pop(ip, None)
        new = self._said(ip)
        if old != new:
            if old is not None:
                self._holders[old] -= 1
                if not self._holders[old]:
                    del self._holders[old]
                self._adopt(ip, old)
            if new is not None:
                self._holders[new] += 1
            self._tell(ip)
        self._gates.rename((ip,), before)

    def _said(self, ip: str) -> int | None:
        """Returns the identity that an address is said to have, known or not."""
        endpoint = self.world.endpoints.get(ip)
        return endpoint.identity if endpoint is not None else self.world.nodes.get(ip)

    def _adopt(self, ip: str, number: int) -> None:
        orphans = self._orphans.get(number)
        if orphans is not None:
            orphans.discard(ip)
            if not orphans:
                del self._orphans[number]

    def _tell(self, ip: str) -> None:
        """Puts an address with its identity into the map of peers; one of the world is not in it."""
        name = PEERS[family_of(ip)].name
        number = self._said(ip)
        if number is None:
            self.table.discard(name, (ip,))
            return
        if number in self.world.identities:
            self._adopt(ip, number)
        else:
            self._orphans.setdefault(number, set()).add(ip)
        known = self.world.identity(number).number
        if known == WORLD:
            self.table.discard(name, (ip,))
        else:
            self.table.put(name, (ip,), known)


def _pairs(ips: tuple[str, ...]) -> set[tuple[str, str]]:
    """Returns all pairs of addresses of one family: whatever a pod calls itself by."""
    return {(one, other) for one in ips for other in ips if family_of(one) == family_of(other)}
