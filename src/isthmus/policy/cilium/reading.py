"""What the readers of one Cilium policy object share: where it lives, what it refers to, what is wrong with it.

Invariant: reading ends soon, whatever the object says. What can multiply (groups by exceptions, selectors by Services)
is paid for out of `left`; when that is used up, the rest fails closed. Bounding each list alone was rejected: two lists
of permitted length can still multiply to minutes of work.
"""

from collections.abc import Mapping

import msgspec

from isthmus.model.selector import Selector, Term
from isthmus.policy.context import Context, Use
from isthmus.policy.fields import Reader, show
from isthmus.policy.rules import Grade, Network, Peer, Scope

MAX_STEPS = 400_000
"""Comparisons that one object may ask for, about half a second."""


MAX_PROBLEMS = 256
"""Of one grade that are told; the largest object could have a hundred thousand."""


class Reading(Reader):
    """An object that is being read: `namespace` is empty for the cluster-wide kind."""

    context: Context
    namespace: str = ""
    scope: Scope = Scope.CLUSTERSET
    uses: set[Use] = msgspec.field(default_factory=set)
    left: int = MAX_STEPS
    faults: int = 0
    networks: dict[str, tuple[Network, ...] | None] = msgspec.field(default_factory=dict)
    """What the CIDR groups come to that were asked for."""
    backends: dict[tuple[str, str], tuple[Peer, ...]] = msgspec.field(default_factory=dict)
    """Likewise for Services."""
    told: dict[Grade, int] = msgspec.field(default_factory=dict)

    def complain(self, field: str, message: str, grade: Grade = Grade.INVALID) -> None:
        """Notes a problem; `faults` counts those that leave something unread or undone."""
        self.faults += grade is not Grade.WARNING
        self.told[grade] = self.told.get(grade, 0) + 1
        if self.told[grade] <= MAX_PROBLEMS:
            super().complain(field, message, grade)

    def warn(self, field: str, message: str) -> None:
        """Notes something that is enforced as written, and perhaps not as meant."""
        self.complain(field, message, Grade.WARNING)

    def unenforced(self, field: str, message: str) -> None:
        """Notes something that is valid, and that we cannot do."""
        self.complain(field, message, Grade.UNENFORCED)

    def spend(self, steps: int, field: str) -> bool:
        """Tells whether `steps` more may be taken; if not, that is a problem of the object."""
        if steps <= self.left:
            self.left -= steps
            return True
        if self.left >= 0:
            self.complain(field, f"refers to too much: more than {MAX_STEPS} comparisons for one policy")
        else:
            self.faults += 1  # said once
        self.left = -1
        return False

    def known(self, entry: Mapping[str, object], fields: frozenset[str], field: str, what: str) -> bool:
        """Tells whether `entry` has no field but `fields`; one that we do not know may be a restriction."""
        unknown = sorted(entry.keys() - fields)
        for name in unknown[:8]:
            self.complain(f"{field}.{show(name).strip(chr(34))}", f"is not a field of {what}")
        return not unknown

    def flag(self, value: object, field: str) -> bool | None:
        """Returns a boolean; None for nothing, and (with a problem) for anything else."""
        if value is None or isinstance(value, bool):
            return value
        self.complain(field, f"must be true or false, is {show(value)}")
        return None

    def text(self, value: object, field: str) -> str | None:
        """Returns a string; None for nothing, and (with a problem) for anything else."""
        if value is None or isinstance(value, str):
            return value
        self.complain(field, f"must be a string, is {show(value)}")
        return None

    def label_key(self, value: object, field: str) -> str | None:
        """Returns `key`, or `source:key` where the source is neither `k8s` nor `any`: all labels of pods are of k8s."""
        if not isinstance(value, str) or ":" not in value:
            return super().label_key(value, field)
        source, _, name = value.partition(":")
        if not (source.isascii() and source.isalnum()):
            self.complain(field, f"{show(value)} is not a valid label key")
            return None
        key = super().label_key(name, field)
        return key if key is None or source in ("k8s", "any") else f"{source}:{key}"

    def sourced(self, selector: Selector, source: str, field: str) -> Selector | None:
        """Returns `selector` over labels that are all of `source`, which its keys may name; None (and a problem) for
        keys of another source: these are valid, but nothing that we know has such labels.
        """
        terms: list[Term] = []
        for term in selector.terms:
            prefix, colon, key = term.key.rpartition(":")
            if colon and prefix != source:
                self.unenforced(field, f"selects by labels of source {prefix}, which nothing has here")
                return None
            terms.append(Term(key, term.operator, term.values))
        return Selector.of(*terms)
