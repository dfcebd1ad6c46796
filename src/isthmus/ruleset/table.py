"""The desired content of table `inet isthmus`, with a journal of what changed since the kernel was last told.

Invariant: for every sequence of changes, what `take_delta` returns turns the content at the last take into the content
now, in one transaction or two (`steps`). The journal keeps the first old value of everything touched, so a change that
is undone before the next take costs nothing. Comparing two whole tables at every change was rejected: it costs 100k
comparisons for one pod.
"""

from collections.abc import Iterable

import msgspec

from isthmus.ruleset.rules import Chain
from isthmus.ruleset.sets import ElementChange, Key, SetSpec, Value

NAME = "isthmus"


class Absent(msgspec.Struct, frozen=True):
    """Stands for "was not there"; None is a value of sets."""


ABSENT = Absent()


class Delta(msgspec.Struct, frozen=True):
    """A change of the table. Without `structural` it is element changes only, and one transaction."""

    new_sets: tuple[SetSpec, ...] = ()
    new_chains: tuple[Chain, ...] = ()
    changed_chains: tuple[Chain, ...] = ()
    changes: tuple[ElementChange, ...] = ()
    dead_chains: tuple[str, ...] = ()
    dead_sets: tuple[str, ...] = ()

    @property
    def structural(self) -> bool:
        """Tells whether sets, chains or rules change, and not just elements."""
        return bool(self.new_sets or self.new_chains or self.changed_chains or self.dead_chains or self.dead_sets)

    def __bool__(self) -> bool:
        return self.structural or bool(self.changes)

    @property
    def steps(self) -> tuple["Delta", ...]:
        """Returns the transactions to make one after the other: what is new, while nothing leads there, then the rest.

        A packet that is under way when a transaction is committed still runs the rules from before it, but its
        look-ups are answered from after it. Led to a chain of the same transaction it would find that empty: a gate
        that lets everything through. Sets that are new for a chain that was there can be filled at leisure as well.
        """
        plain = tuple(chain for chain in self.new_chains if not chain.hook)
        fresh = {spec.name for spec in self.new_sets}  # there may be thousands of them, and as many changes
        rest = Delta(
            new_chains=tuple(chain for chain in self.new_chains if chain.hook),
            changed_chains=self.changed_chains,
            changes=tuple(change for change in self.changes if change.spec.name not in fresh),
            dead_chains=self.dead_chains,
            dead_sets=self.dead_sets,
        )
        if not rest or not (plain or self.new_sets):
            return (self,)
        filled = tuple(change for change in self.changes if change.spec.name in fresh)
        return Delta(new_sets=self.new_sets, new_chains=plain, changes=filled), rest


class Table:
    """Sets with their elements, and chains. Changed only through its methods."""

    def __init__(self) -> None:
        self.sets: dict[str, SetSpec] = {}
        self.elements: dict[str, dict[Key, Value]] = {}
        self.chains: dict[str, Chain] = {}
        self._old_sets: dict[str, SetSpec | Absent] = {}
        self._old_elements: dict[str, dict[Key, Value | Absent]] = {}
        self._old_chains: dict[str, Chain | Absent] = {}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Table)
            and self.sets == other.sets
            and self.elements == other.elements
            and self.chains == other.chains
        )

    def add_set(self, spec: SetSpec) -> None:
        """Adds an empty set. Raises KeyError if the name is taken."""
        if spec.name in self.sets:
            raise KeyError(spec.name)
        self._old_sets.setdefault(spec.name, ABSENT)
        self.sets[spec.name] = spec
        self.elements[spec.name] = {}

    def drop_set(self, name: str) -> None:
        """Removes a set with its elements."""
        content = self.elements.pop(name)
        if self._old_sets.setdefault(name, self.sets.pop(name)) is ABSENT:
            return
        old = self._old_elements.setdefault(name, {})
        for key, value in content.items():
            old.setdefault(key, value)

    def put_chain(self, chain: Chain) -> None:
        """Adds or replaces a chain."""
        before = self.chains.get(chain.name, ABSENT)
        if before != chain:
            self._old_chains.setdefault(chain.name, before)
            self.chains[chain.name] = chain

    def drop_chain(self, name: str) -> None:
        """Removes a chain."""
        self._old_chains.setdefault(name, self.chains.pop(name))

    def put(self, name: str, key: Key, value: Value = None) -> None:
        """Adds an element, or changes what it leads to."""
        content = self.elements[name]
        before = content.get(key, ABSENT)
        if before != value:
            self._note(name, key, before)
            content[key] = value

    def fill(self, name: str, keys: Iterable[Key]) -> None:
        """Adds many elements to a set (not a map)."""
        content = self.elements[name]
        if self._old_sets.get(name) is not ABSENT:
            old = self._old_elements.setdefault(name, {})
            for key in keys:
                if key not in content:
                    old.setdefault(key, ABSENT)
                    content[key] = None
            return
        content.update(dict.fromkeys(keys))

    def discard(self, name: str, key: Key) -> None:
        """Removes an element if it is there."""
        content = self.elements[name]
        before = content.pop(key, ABSENT)
        if before is not ABSENT:
            self._note(name, key, before)

    def _note(self, name: str, key: Key, before: Value | Absent) -> None:
        if self._old_sets.get(name) is not ABSENT:  # of a set that is new, all is
            self._old_elements.setdefault(name, {}).setdefault(key, before)

    def take_delta(self) -> Delta:
        """Returns what changed since the last take, and starts a new journal."""
        new_sets, dead_sets, remade = [], [], set()
        for name, old in self._old_sets.items():
            now = self.sets.get(name, ABSENT)
            if now == old:
                continue
            if isinstance(now, SetSpec):
                new_sets.append(now)
            if isinstance(old, SetSpec):
                dead_sets.append(name)
            if isinstance(now, SetSpec) and isinstance(old, SetSpec):
                remade.add(name)
        if remade:  # names are hashes of the content, so this is a fault of the caller
            raise ValueError(f"set changed its shape under one name: {sorted(remade)}")
        filled = [(spec, tuple(self.elements[spec.name].items())) for spec in new_sets]
        changes = [ElementChange(spec, add=elements) for spec, elements in filled if elements]
        for name, touched in self._old_elements.items():
            if name in self.sets:
                change = _net_change(self.sets[name], touched, self.elements[name])
                if change is not None:
                    changes.append(change)
        new_chains, changed_chains, dead_chains = [], [], []
        for name, before in self._old_chains.items():
            chain = self.chains.get(name)
            if chain is None:
                if isinstance(before, Chain):
                    dead_chains.append(name)
            elif not isinstance(before, Chain):
                new_chains.append(chain)
            elif before != chain:
                changed_chains.append(chain)
        self.forget_journal()
        return Delta(
            new_sets=tuple(new_sets),
            new_chains=tuple(new_chains),
            changed_chains=tuple(changed_chains),
            changes=tuple(changes),
            dead_chains=tuple(dead_chains),
            dead_sets=tuple(dead_sets),
        )

    def forget_journal(self) -> None:
        """Takes the content as it is for told: after the whole table was written."""
        self._old_sets, self._old_elements, self._old_chains = {}, {}, {}

    def whole(self) -> Delta:
        """Returns the transaction that makes an empty table into this one."""
        return Delta(
            new_sets=tuple(self.sets.values()),
            new_chains=tuple(self.chains.values()),
            changes=tuple(
                ElementChange(self.sets[name], add=tuple(content.items()))
                for name, content in self.elements.items()
                if content
            ),
        )


def _net_change(spec: SetSpec, touched: dict[Key, Value | Absent], content: dict[Key, Value]) -> ElementChange | None:
    remove: list[Key] = []
    add: list[tuple[Key, Value]] = []
    for key, old in touched.items():
        now = content.get(key, ABSENT)
        if now == old:
            continue
        if not isinstance(old, Absent):
            remove.append(key)
        if not isinstance(now, Absent):
            add.append((key, now))
    return ElementChange(spec, tuple(remove), tuple(add)) if remove or add else None


def chains_first(chains: Iterable[Chain]) -> list[Chain]:
    """Returns base chains last, so that nothing is hooked before what it jumps to is there."""
    return sorted(chains, key=lambda chain: bool(chain.hook))
