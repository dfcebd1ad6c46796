"""The gates in use and what their sets hold, kept as identities, addresses and names come and go.

Invariant: for every gate in use the table has its sets, with exactly the elements that the identities, endpoints and
names of now call for, and its chains. A gate that is shut has those of one that lets nothing through, under the same
name, so that nothing that leads to it has to change.
"""

from collections.abc import Iterable, KeysView
from ipaddress import ip_address

import msgspec

from isthmus.model.endpoint import Endpoint, family_of
from isthmus.model.identity import THE_WORLD, Identity
from isthmus.policy.evaluate import resolve
from isthmus.policy.gate import Gate, Opening, closed
from isthmus.policy.rules import CidrPeer, IdentityPeer, NamePeer, Peer
from isthmus.policy.world import World
from isthmus.ruleset.matches import Matches, Turn
from isthmus.ruleset.segments import Element, Rows
from isthmus.ruleset.stages import Layout, lay_out
from isthmus.ruleset.table import Table


class _InUse(msgspec.Struct):
    """A gate in the table, and how many (pod, direction) go through it."""

    gate: Gate
    layout: Layout
    pods: int = 0
    shut: bool = False


class Gates:
    """All gates in use. `world` is read, `table` written."""

    def __init__(self, world: World, table: Table, matches: Matches) -> None:
        self._world = world
        self._table = table
        self._matches = matches
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
        """Returns the gates that are shut, by name."""
        return {name: used.gate for name, used in self._used.items() if used.shut}

    def set_shut(self, name: str, shut: bool) -> None:
        """Shuts or opens a gate, if it is in use."""
        used = self._used.get(name)
        if used is not None and used.shut is not shut:
            self._take_down(name, used.layout)
            used.shut = shut
            used.layout = lay_out(closed(used.gate) if shut else used.gate)
            self._put_up(name, used.layout)

    def enter(self, gate: Gate) -> None:
        """Counts one more that goes through `gate`, which is put up if it is the first."""
        used = self._used.get(gate.name)
        if used is None:
            used = self._used[gate.name] = _InUse(gate, lay_out(gate))
            self.judging_node += gate.judges_node
            self._put_up(gate.name, used.layout)
        used.pods += 1

    def leave(self, name: str) -> None:
        """Counts one less; the last one takes the gate down."""
        used = self._used[name]
        used.pods -= 1
        if not used.pods:
            del self._used[name]
            self.judging_node -= used.gate.judges_node
            self._take_down(name, used.layout)

    def _put_up(self, name: str, layout: Layout) -> None:
        for spec in layout.sets:
            self._table.add_set(spec)
        for chain in layout.chains:
            self._table.put_chain(chain)
        for peer in layout.peers:
            self._matches.want(peer, name)
        for rows in layout.rows:
            self._fill(rows)
        if layout.uses_names:
            self._with_ports.add(name)
            self._fill_ports(layout)
        if layout.uses_domains:
            self._with_domains.add(name)
            for ip, names in self._world.names.items():
                self._exchange(set(), _learned(layout, ip, names))

    def _take_down(self, name: str, layout: Layout) -> None:
        self._matches.release(layout.peers, name)
        self._with_ports.discard(name)
        self._with_domains.discard(name)
        for chain in layout.chains:
            self._table.drop_chain(chain.name)
        for spec in layout.sets:
            self._table.drop_set(spec.name)

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

    def _exchange(self, old: set[Element], new: set[Element]) -> None:
        for name, key in old - new:
            self._table.discard(name, key)
        for name, key in new - old:
            self._table.put(name, key)

    # -- what changes ------------------------------------------------------------------------------------------

    def rematch(self, number: int, turn: Turn) -> None:
        """Takes in that other peers match an identity than did."""
        for name in turn.gates:
            layout = self._used[name].layout
            self._exchange(layout.elements(number, turn.before), layout.elements(number, turn.after))

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
                self._exchange(before.get(name, set()), elements)

    @property
    def resolve_ports(self) -> bool:
        """Tells whether some gate cares for the names that addresses have for ports."""
        return bool(self._with_ports)

    def learn(self, ip: str, before: frozenset[str], after: frozenset[str]) -> None:
        """Takes in that other names lead to an address."""
        for name in self._with_domains:
            layout = self._used[name].layout
            self._exchange(_learned(layout, ip, before), _learned(layout, ip, after))

    def _fill_ports(self, layout: Layout) -> None:
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
                    self._exchange(set(), self._resolved(rows, endpoint, mine))

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
