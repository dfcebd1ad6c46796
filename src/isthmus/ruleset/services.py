"""Keeps the service part of a Table as the services and their backends say, one change at a time.

Invariants: after any sequence of calls the table holds what a new ServiceCompiler would that is given the same
services, slices and choices, up to which slots a target has, and which of a cluster's have one more (tests/property); a
change of one backend is a few elements for each frontend of its port, however many there are, unless it brings another
tier of clusters into use. Nothing of it is in the table unless a ServiceCompiler is made.

Rejected: working out a service's whole list at each change and comparing: 5,000 backends would cost 5,000 at each.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from isthmus.model.endpoint import family_of
from isthmus.model.flow import Protocol
from isthmus.model.service import Backend, PortKey, Service, ServiceKey, Slice, SliceKey, Target
from isthmus.ruleset.lines import Line, Shift
from isthmus.ruleset.rules import Chain
from isthmus.ruleset.seats import target_of
from isthmus.ruleset.service_layout import (
    BACKENDS,
    DISCARDED,
    FATES,
    GUARDED,
    KEPT,
    NEAR,
    NEAR_PICK,
    NEAR_TOKENS,
    OUTSIDE,
    REFUSED,
    SERVICES,
    SETS,
    STICKY,
    TARGETS,
    TOKENS,
    VIRTUAL,
    entry_chains,
    fates,
    guarding,
    remembering,
    service_chains,
    size_for,
)
from isthmus.ruleset.sets import Jump, Key
from isthmus.ruleset.slots import Move, Slots
from isthmus.ruleset.table import Table
from isthmus.services.choice import Choice
from isthmus.services.frontends import Frontend, FrontendKey, Kind, frontends
from isthmus.services.pool import Reach

_PoolKey = tuple[PortKey, int]  # port, family


class ServiceCompiler:
    """The service part of the table of one node. Not safe for use from several threads."""

    def __init__(self, table: Table, *, node: str) -> None:
        self.table = table
        self.services: dict[ServiceKey, Service] = {}
        self.slices: dict[SliceKey, Slice] = {}
        self._choices: dict[ServiceKey, Choice] = {}
        self._node = node
        self._node_addresses: tuple[str, ...] = ()
        self._lines: dict[ServiceKey, dict[_PoolKey, Line]] = {}
        self._wanted: dict[ServiceKey, tuple[Frontend, ...]] = {}
        self._claims: dict[FrontendKey, list[Frontend]] = {}  # by rank: thousands may want the same one
        self._held: dict[FrontendKey, Frontend] = {}
        self._more_uses: Counter[tuple[str, Key]] = Counter()  # of elements, beyond the first
        self._jumps: Counter[str] = Counter()  # elements that lead to chains made for a setting, not for a service
        self._special: Counter[tuple[str, int]] = Counter()  # frontends with settings, by family
        self._stale: set[FrontendKey] = set()
        self._resettled: set[ServiceKey] = set()
        for pair in SETS:
            for spec in pair.values():
                table.add_set(spec)
        table.add_set(FATES)
        for chain in service_chains():
            table.put_chain(chain)
        for number, jump in fates():
            table.put(FATES.name, (number,), jump)

    # -- what is told ------------------------------------------------------------------------------------------

    def set_node(self, addresses: Iterable[str]) -> None:
        """Says at which addresses the node has its node ports."""
        now = tuple(dict.fromkeys(addresses))
        if now != self._node_addresses:
            self._node_addresses = now
            for service in self.services.values():
                if any(port.node_port for port in service.ports):
                    self._claim(service)

    def put_service(self, service: Service) -> None:
        """Adds a service, or replaces the one of the same name."""
        if self.services.get(service.key) != service:
            self.services[service.key] = service
            self._claim(service)

    def drop_service(self, key: ServiceKey) -> None:
        """Removes a service, if it is there."""
        if self.services.pop(key, None) is not None:
            self._let_go(key, ())
            del self._wanted[key]

    def put_slice(self, slice_: Slice) -> None:
        """Adds a slice of a service's backends, or replaces the one with its key; the service need not be there."""
        old = self.slices.get(slice_.key)
        if old == slice_:
            return
        if old is not None and old.service != slice_.service:
            self.drop_slice(slice_.key)
            old = None
        self.slices[slice_.key] = slice_
        before = old.backends if old else frozenset()
        self._refill(slice_.service, gone=before - slice_.backends, come=slice_.backends - before)

    def drop_slice(self, key: SliceKey) -> None:
        """Removes a slice, if it is there."""
        old = self.slices.pop(key, None)
        if old is not None:
            self._refill(old.service, gone=old.backends, come=frozenset())

    def set_choice(self, key: ServiceKey, choice: Choice | None) -> None:
        """Says whose backends a service uses, before or after it comes; None for all that there are, alike."""
        if self._choices.get(key) == choice:
            return
        if choice is None:
            del self._choices[key]
        else:
            self._choices[key] = choice
        for (port, _), line in self._lines.get(key, {}).items():
            certain = line.pool.certain
            shifts, astray = line.follow(choice)
            self._shift(line, shifts)
            if astray or (port[1] == Protocol.UDP and not certain):
                self._stale |= line.frontends.keys()

    # -- what follows ------------------------------------------------------------------------------------------

    @property
    def frontends(self) -> dict[FrontendKey, Frontend]:
        """Returns who holds each frontend; not to be changed."""
        return self._held

    @property
    def backends(self) -> int:
        """Returns how many distinct targets are in use."""
        return sum(len(self.table.elements[spec.name]) for spec in TARGETS.values())

    def refused(self, key: ServiceKey) -> tuple[tuple[Frontend, ServiceKey], ...]:
        """Returns the frontends that a service claims and another one holds, with the holder."""
        wanted = self._wanted.get(key, ())
        return tuple((f, self._held[f.key].service) for f in wanted if self._held[f.key].service != key)

    def take_resettled(self) -> set[ServiceKey]:
        """Returns the services that, since the last time, lost or won a frontend."""
        resettled, self._resettled = self._resettled, set()
        return resettled

    def waiting(self, key: ServiceKey) -> int:
        """Returns how many backends of a service get nothing because there are too many of them."""
        lines = self._lines.get(key, {}).values()
        return sum(line.waiting for line in lines if line.frontends)

    def rightful(self, key: FrontendKey) -> frozenset[Target]:
        """Returns all targets that a connection to a frontend may have been sent to, and may stay with.

        More than those in use: a backend that is terminating and still serves keeps who it has, and so does one of a
        cluster that others are preferred to.
        """
        frontend = self._held.get(key)
        return self._line(frontend).pool.serving if frontend is not None else frozenset()

    def chosen(self, key: FrontendKey) -> frozenset[Target]:
        """Returns the targets that new connections to a frontend are sent to now."""
        frontend = self._held.get(key)
        if frontend is None:
            return frozenset()
        pool = self._line(frontend).pool
        reaches = (frontend.inside, frontend.outside)
        return frozenset().union(*(pool.usable(reach) for reach in reaches if reach is not None))

    def take_stale(self) -> set[FrontendKey]:
        """Returns the frontends, since the last time, of which connections may lead astray.

        Of UDP those that may not stay where they are (see `rightful`), of others also those that would not be sent
        there again (see `chosen`).
        """
        stale, self._stale = self._stale, set()
        return stale

    # -- frontends ---------------------------------------------------------------------------------------------

    def _claim(self, service: Service) -> None:
        wanted = tuple(frontends(service, node_addresses=self._node_addresses))
        self._let_go(service.key, wanted)
        for frontend in wanted:
            claims = self._claims.setdefault(frontend.key, [])
            at = _place(claims, frontend)
            if frontend not in claims[at : at + 1]:
                claims.insert(at, frontend)
                self._settle(frontend.key)
        self._wanted[service.key] = wanted

    def _let_go(self, service: ServiceKey, wanted: tuple[Frontend, ...]) -> None:
        """Takes back what a service claims, but for `wanted`."""
        keep = set(wanted)
        for old in self._wanted.get(service, ()):
            claims = self._claims.get(old.key, [])
            at = _place(claims, old)
            if old not in keep and old in claims[at : at + 1]:
                del claims[at]
                self._settle(old.key)

    def _settle(self, key: FrontendKey) -> None:
        """Gives a frontend to the least of its claims."""
        claims = self._claims[key]
        if not claims:
            del self._claims[key]
        holder = claims[0] if claims else None
        old = self._held.get(key)
        if old == holder:
            return
        if old is not None:
            self._resettled.add(old.service)
            self._take_down(old)
        if holder is not None:
            self._resettled.add(holder.service)
            self._put_up(holder)

    def _put_up(self, frontend: Frontend) -> None:
        self._held[frontend.key] = frontend
        line = self._line(frontend)
        line.frontends[frontend.key] = frontend
        if frontend.kind is Kind.CLUSTER_IP:
            self._use(VIRTUAL[frontend.version].name, (frontend.address,))
        if frontend.affinity:
            self.table.put(KEPT[frontend.version].name, frontend.key)
            self._jump(STICKY[frontend.version].name, frontend.key, remembering(frontend.affinity))
        if frontend.sources is not None:
            self._jump(GUARDED[frontend.version].name, frontend.key, guarding(frontend.sources))
        self._count(frontend, 1)
        for reach, slots in line.slots.items():
            moves = [Move(slot, None, target) for slot, target in enumerate(slots.items)]
            self._write(frontend, reach, moves, slots)
        self._decide(frontend, line)
        self._stale.add(frontend.key)  # it may have been led elsewhere before, by an agent that was here before us

    def _take_down(self, frontend: Frontend) -> None:
        del self._held[frontend.key]
        line = self._line(frontend)
        del line.frontends[frontend.key]
        for reach, slots in line.slots.items():
            moves = [Move(slot, target, None) for slot, target in enumerate(slots.items)]
            self._write(frontend, reach, moves, slots)
        self.table.discard(SERVICES[frontend.version].name, frontend.key)
        self.table.discard(OUTSIDE[frontend.version].name, frontend.key)
        if frontend.kind is Kind.CLUSTER_IP:
            self._unuse(VIRTUAL[frontend.version].name, (frontend.address,))
        if frontend.affinity:
            self.table.discard(KEPT[frontend.version].name, frontend.key)
            self._unjump(STICKY[frontend.version].name, frontend.key)
        if frontend.sources is not None:
            self._unjump(GUARDED[frontend.version].name, frontend.key)
        self._count(frontend, -1)
        if frontend.port.protocol == Protocol.UDP:
            self._stale.add(frontend.key)
        self._tidy(frontend.service)

    def _count(self, frontend: Frontend, step: int) -> None:
        """Counts the frontends that need rules of their own where packets arrive, and puts those there or away."""
        before = {place for place, count in self._special.items() if count}
        self._special["kept", frontend.version] += step * bool(frontend.affinity)
        self._special["outside", frontend.version] += step * (frontend.outside is not None)
        self._special["guarded", frontend.version] += step * (frontend.sources is not None)
        after = {place for place, count in self._special.items() if count}
        if after != before:
            kinds = ("kept", "outside", "guarded")
            kept, outside, guarded = ({v for kind, v in after if kind == name} for name in kinds)
            for chain in entry_chains(kept=kept, outside=outside, guarded=guarded):
                self.table.put_chain(chain)

    def _decide(self, frontend: Frontend, line: Line) -> None:
        """Writes what becomes of new connections to a frontend."""
        inside, outside = (
            None if reach is None else _fate(line, reach) for reach in (frontend.inside, frontend.outside)
        )
        for maps, fate, near in ((SERVICES, inside, 0), (OUTSIDE, outside, NEAR_PICK)):
            if fate is not None:
                fate = fate if fate in (REFUSED, DISCARDED) else fate | near
                self.table.put(maps[frontend.version].name, frontend.key, fate)

    # -- backends ----------------------------------------------------------------------------------------------

    def _refill(
        self,
        service: ServiceKey,
        *,
        gone: frozenset[tuple[PortKey, Backend]],
        come: frozenset[tuple[PortKey, Backend]],
    ) -> None:
        changes: dict[_PoolKey, tuple[list[Backend], list[Backend]]] = {}
        for side, told in enumerate((gone, come)):
            for port, backend in told:
                place = port, family_of(backend.target.address)
                changes.setdefault(place, ([], []))[side].append(backend)
        for place, (out, into) in changes.items():
            line = self._line_at(service, place)
            certain = line.pool.certain
            self._shift(line, line.refill(gone=out, come=into))
            if out or (place[0][1] == Protocol.UDP and not certain):
                self._stale |= line.frontends.keys()
        self._tidy(service)

    def _shift(self, line: Line, shifts: list[Shift]) -> None:
        """Makes the elements of a line's frontends follow what moved in its slots."""
        for shift in shifts:
            slots = line.slots[shift.reach]
            for frontend in line.frontends.values():
                self._write(frontend, shift.reach, shift.moves, slots)
            for target in shift.gone:
                slots.forget(target)
            if shift.gone:
                self._stale |= {key for key in line.frontends if key[1] != Protocol.UDP}
        if shifts:
            for frontend in line.frontends.values():
                self._decide(frontend, line)

    def _write(self, frontend: Frontend, reach: Reach, moves: list[Move], slots: Slots) -> None:
        """Makes the elements of a frontend follow what moved in one of its lists."""
        if frontend.inside is reach:
            self._write_into(BACKENDS[frontend.version].name, TOKENS[frontend.version].name, frontend, moves, slots)
        if frontend.outside is reach:
            self._write_into(NEAR[frontend.version].name, NEAR_TOKENS[frontend.version].name, frontend, moves, slots)

    def _write_into(self, backends: str, tokens: str, frontend: Frontend, moves: list[Move], slots: Slots) -> None:
        table, key = self.table, frontend.key
        targets, protocol = TARGETS[frontend.version].name, frontend.port.protocol
        moved = {move.after for move in moves}
        fresh = {move.before for move in moves}
        for move in moves:
            if isinstance(move.before, Target) and move.before not in moved:
                self._unuse(targets, (move.before.address, protocol, move.before.port))
                if frontend.affinity:
                    table.discard(backends, (*key, slots.token(move.before)))
        for move in moves:
            if isinstance(move.after, Target) and move.after not in fresh:
                self._use(targets, (move.after.address, protocol, move.after.port))
                if frontend.affinity:
                    table.put(backends, (*key, slots.token(move.after)), move.after)
            if move.after is None:
                table.discard(tokens if frontend.affinity else backends, (*key, move.slot))
            elif frontend.affinity:
                table.put(tokens, (*key, move.slot), slots.token(target_of(move.after)))
            else:
                table.put(backends, (*key, move.slot), target_of(move.after))

    # -- lines and uses ----------------------------------------------------------------------------------------

    def _line(self, frontend: Frontend) -> Line:
        return self._line_at(frontend.service, (frontend.port.key, frontend.version))

    def _line_at(self, service: ServiceKey, place: _PoolKey) -> Line:
        lines = self._lines.setdefault(service, {})
        line = lines.get(place)
        if line is None:
            line = lines[place] = Line(self._node, self._choices.get(service))
        return line

    def _tidy(self, service: ServiceKey) -> None:
        lines = self._lines.get(service, {})
        for place in [place for place, line in lines.items() if not line]:
            del lines[place]
        if not lines:
            self._lines.pop(service, None)

    def _use(self, name: str, key: Key) -> None:
        if key in self.table.elements[name]:
            self._more_uses[name, key] += 1
        else:
            self.table.put(name, key)

    def _jump(self, name: str, key: Key, chain: Chain) -> None:
        if not self._jumps[chain.name]:
            self.table.put_chain(chain)
        self._jumps[chain.name] += 1
        self.table.put(name, key, Jump(chain.name))

    def _unjump(self, name: str, key: Key) -> None:
        value = self.table.elements[name][key]
        self.table.discard(name, key)
        if isinstance(value, Jump):
            self._jumps[value.chain] -= 1
            if not self._jumps[value.chain]:
                del self._jumps[value.chain]
                self.table.drop_chain(value.chain)

    def _unuse(self, name: str, key: Key) -> None:
        more = self._more_uses.get((name, key), 0)
        if not more:
            self.table.discard(name, key)
        elif more > 1:
            self._more_uses[name, key] = more - 1
        else:
            del self._more_uses[name, key]


def _fate(line: Line, reach: Reach) -> int:
    if line.slots[reach]:
        return size_for(len(line.slots[reach]))
    return DISCARDED if line.slots[Reach.ALL] else REFUSED


def _place(claims: list[Frontend], claim: Frontend) -> int:
    return bisect_left(claims, claim.rank, key=lambda other: other.rank)
