"""The gates in use and what their sets hold, kept as identities, addresses and names come and go.

Invariant: for every gate in use the table has its sets, with exactly the elements that the identities, endpoints and
names of now call for, and its chains. A gate that is shut has those of one that lets nothing through, under the same
name, so that nothing that leads to it has to change. That is one that the kernel refuses, or one that would hold more
than the bound: what a gate calls for is counted, before it is filled and while it is shut, from how many identities
each peer matches; so whether it is shut follows from the world alone, and a gate that is too large costs its counting.
Counting what several peers mean once was rejected: it takes as long as filling the sets.
"""

from collections.abc import Iterable, Iterator, KeysView
from ipaddress import ip_address

import msgspec

from isthmus.model.endpoint import Endpoint, family_of
from isthmus.model.identity import THE_WORLD, Identity
from isthmus.policy.evaluate import resolve
from isthmus.policy.gate import Gate, Opening, build, closed, piece
from isthmus.policy.rules import CidrPeer, Direction, IdentityPeer, NamePeer, Peer, Policy
from isthmus.policy.world import World
from isthmus.ruleset.matches import Matches, Turn
from isthmus.ruleset.segments import Element, Rows
from isthmus.ruleset.stages import Layout, lay_out
from isthmus.ruleset.table import Table

MOST_ELEMENTS = 500_000
"""Elements that one gate may hold, as they are counted: every identity of every peer with each of its ports.

So many are half a second of compiling, 90 MB in the agent while they are written, and 140 MB in the kernel.
"""


class _InUse(msgspec.Struct):
    """A gate in use: what it calls for, what the table has of it, and how many (pod, direction) go through it.

    `held` counts the elements of `layout`; `shown` is that or the layout of a closed gate, None before it is in the
    table.
    """

    gate: Gate
    layout: Layout
    shown: Layout | None = None
    held: int = 0
    pods: int = 0
    barred: bool = False

    @property
    def open(self) -> bool:
        return self.shown is self.layout


class Gates:
    """All gates in use. `world` is read, `table` written; a gate of more than `most` elements is shut."""

    def __init__(self, world: World, table: Table, matches: Matches, *, most: int = MOST_ELEMENTS) -> None:
        self._world = world
        self._table = table
        self._matches = matches
        self.most = most
        self._used: dict[str, _InUse] = {}
        self._with_ports: set[str] = set()
        self._with_domains: set[str] = set()
        self.judging_node = 0
        """How many gates may deny a pod to call its own node."""

    @property
    def names(self) -> KeysView[str]:
        """Returns the names of the gates in use."""
        return self._used.keys()

    @property
    def shut(self) -> dict[str, Gate]:
        """Returns the gates that were shut by `set_shut`, by name."""
        return {name: used.gate for name, used in self._used.items() if used.barred}

    @property
    def too_large(self) -> dict[str, int]:
        """Returns the gates that are shut because of their size, by name, with the elements that they call for."""
        return {name: used.held for name, used in self._used.items() if used.held > self.most}

    def gate(self, name: str) -> Gate:
        """Returns a gate in use."""
        return self._used[name].gate

    def held(self, name: str) -> int:
        """Returns how many elements a gate in use calls for."""
        return self._used[name].held

    def share(self, policy: Policy, direction: Direction) -> int:
        """Returns how many elements a policy alone calls for, by peers that gates in use know."""
        layout = lay_out(build(direction, (piece(policy, direction),)))
        return sum(layout.weigh((peer,)) * self._matches.count(peer) for peer in layout.peers)

    def set_shut(self, name: str, shut: bool) -> None:
        """Shuts or opens a gate, if it is in use; one that is too large stays shut."""
        used = self._used.get(name)
        if used is not None:
            used.barred = shut
            self._settle(used)

    def enter(self, gate: Gate) -> None:
        """Counts one more that goes through `gate`, which is put up if it is the first."""
        used = self._used.get(gate.name)
        if used is None:
            used = self._used[gate.name] = _InUse(gate, lay_out(gate))
            self.judging_node += gate.judges_node
            self._put_up(used)
        used.pods += 1

    def leave(self, name: str) -> None:
        """Counts one less; the last one takes the gate down."""
        used = self._used[name]
        used.pods -= 1
        if not used.pods:
            del self._used[name]
            self.judging_node -= used.gate.judges_node
            self._matches.release(used.layout.peers, name)
            self._with_ports.discard(name)
            self._with_domains.discard(name)
            self._hide(used)

    def _put_up(self, used: _InUse) -> None:
        name, layout = used.gate.name, used.layout
        if layout.uses_names:
            self._with_ports.add(name)
        if layout.uses_domains:
            self._with_domains.add(name)
        used.held = sum(layout.weigh((peer,)) * len(self._matches.want(peer, name)) for peer in layout.peers)
        of_addresses = list(self._of_addresses(layout))
        used.held += len(of_addresses)
        self._show(used, of_addresses)

    def _settle(self, used: _InUse) -> None:
        """Opens or shuts a gate if what has changed calls for that."""
        if self._may_open(used) is not used.open:
            self._hide(used)
            self._show(used, self._of_addresses(used.layout))

    def _may_open(self, used: _InUse) -> bool:
        return not used.barred and used.held <= self.most

    def _show(self, used: _InUse, of_addresses: Iterable[Element]) -> None:
        used.shown = used.layout if self._may_open(used) else lay_out(closed(used.gate))
        for spec in used.shown.sets:
            self._table.add_set(spec)
        for chain in used.shown.chains:
            self._table.put_chain(chain)
        if used.open:
            for rows in used.layout.rows:
                self._fill(rows)
            for name, key in of_addresses:
                self._table.put(name, key)

    def _hide(self, used: _InUse) -> None:
        if used.shown is not None:
            for chain in used.shown.chains:
                self._table.drop_chain(chain.name)
            for spec in used.shown.sets:
                self._table.drop_set(spec.name)
        used.shown = None

    def _fill(self, rows: Rows) -> None:
        """Fills the sets of identities, peer by peer: there may be thousands of both, and few match."""
        everywhere: set[int] = set()
        for peer, elements in rows.by_identity.items():
            if (rows.anywhere, ()) in elements:
                everywhere |= self._matches.numbers(peer)
        if everywhere:
            self._table.fill(rows.anywhere, [(number,) for number in everywhere])
        for peer, elements in rows.by_identity.items():
            numbers = self._matches.numbers(peer) - everywhere
            if numbers:
                for name, rest in elements:
                    self._table.fill(name, [(number, *rest) for number in numbers])

    def _of_addresses(self, layout: Layout) -> Iterator[Element]:
        """Yields the elements that follow from addresses: from what they call their ports, and are called."""
        if layout.uses_names:
            yield from self._of_ports(layout)
        if layout.uses_domains:
            for ip, names in self._world.names.items():
                yield from _learned(layout, ip, names)

    def _exchange(self, used: _InUse, old: set[Element], new: set[Element]) -> None:
        if used.open and self._may_open(used):  # else all of it comes or goes, or nothing
            for name, key in old - new:
                self._table.discard(name, key)
            for name, key in new - old:
                self._table.put(name, key)
        self._settle(used)

    # -- what changes ------------------------------------------------------------------------------------------

    def rematch(self, number: int, turn: Turn) -> None:
        """Takes in that other peers match an identity than did."""
        for name in turn.gates:
            used = self._used[name]
            used.held += used.layout.weigh(turn.after) - used.layout.weigh(turn.before)
            if used.open and self._may_open(used):
                layout = used.layout
                self._exchange(used, layout.elements(number, turn.before), layout.elements(number, turn.after))
            else:
                self._settle(used)

    def named(self, ips: Iterable[str]) -> dict[str, set[Element]]:
        """Returns the elements that addresses have because of port names, by gate: to be asked before a change."""
        found: dict[str, set[Element]] = {}
        if self._with_ports:
            holders = [endpoint for ip in ips if (endpoint := self._world.endpoints.get(ip)) and endpoint.named_ports]
            for name in self._with_ports:
                rows = self._used[name].layout.rows
                found[name] = {
                    element
                    for endpoint in holders
                    for one in rows
                    for element in self._resolved(one, endpoint, one.named)
                }
        return found

    def rename(self, ips: Iterable[str], before: dict[str, set[Element]]) -> None:
        """Takes in that something changed about addresses that had the elements `before`."""
        if self._with_ports:
            for name, elements in self.named(ips).items():
                self._recount(self._used[name], before.get(name, set()), elements)

    def _recount(self, used: _InUse, old: set[Element], new: set[Element]) -> None:
        used.held += len(new) - len(old)
        self._exchange(used, old, new)

    @property
    def resolve_ports(self) -> bool:
        """Tells whether some gate cares for the names that addresses have for ports."""
        return bool(self._with_ports)

    def learn(self, ip: str, before: frozenset[str], after: frozenset[str]) -> None:
        """Takes in that other names lead to an address."""
        for name in self._with_domains:
            used = self._used[name]
            self._recount(used, _learned(used.layout, ip, before), _learned(used.layout, ip, after))

    def _of_ports(self, layout: Layout) -> Iterator[Element]:
        for rows in layout.rows:
            by_number: dict[int, list[Opening]] = {}
            others: list[Opening] = []
            for opening in rows.named:
                if isinstance(opening.peer, IdentityPeer):
                    for number in self._matches.candidates(opening.peer):
                        by_number.setdefault(number, []).append(opening)
                else:
                    others.append(opening)
            for endpoint in self._world.endpoints.values() if rows.named else ():
                if endpoint.named_ports:  # most have none, and there may be a hundred thousand
                    number = self._world.identity_at(endpoint.ip).number
                    mine = [*others, *by_number.get(number, ())]
                    yield from self._resolved(rows, endpoint, mine)

    def _resolved(self, rows: Rows, endpoint: Endpoint, openings: Iterable[Opening]) -> set[Element]:
        """Returns the elements of one address; `openings` are those that may concern it."""
        name = rows.named_set(family_of(endpoint.ip))
        identity = self._world.identity_at(endpoint.ip)
        return {
            (name, (endpoint.ip, number.protocol, number.first))
            for opening in openings
            if self._means(opening.peer, identity, endpoint.ip)
            for port in opening.names
            for number in resolve(port, endpoint.named_ports)
        }

    def _means(self, peer: Peer | None, identity: Identity, ip: str) -> bool:
        match peer:
            case None:
                return True
            case CidrPeer():
                return peer.matches(ip_address(ip), identity)
            case NamePeer():
                return peer.matches(self._world.names.get(ip, frozenset()), identity)
            case _:
                return peer.matches(identity)


def _learned(layout: Layout, ip: str, names: frozenset[str]) -> set[Element]:
    """Returns the elements of an address that `names` lead to; whether it is of the world, the rules ask."""
    return {
        (f"{name}{family_of(ip)}", (ip,))
        for rows in layout.rows
        for peer, name in rows.by_name
        if peer.matches(names, THE_WORLD)
    }
