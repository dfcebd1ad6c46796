"""Kubernetes label selectors: parsed once, hashable, matched by plain dictionary look-ups.

A selector is a conjunction. `Selector()` (no terms) selects everything; "no selector" is None and means
whatever its place says, so the two are never mixed up here (reference: Kubernetes API conventions, LabelSelector).
Parsing from untrusted objects is the business of `isthmus.policy`; this module holds only valid selectors.
"""

from collections.abc import Callable
from enum import Enum

import msgspec

from isthmus.model.labels import Labels, names_clusters


class Operator(Enum):
    """The four set-based operators of metav1.LabelSelectorRequirement."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Term(msgspec.Struct, frozen=True, gc=False, order=False):
    """One requirement on one key; `values` is sorted and empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, value: str | None) -> bool:
        """Tells whether `value` (None = the key is missing, which NotIn accepts) meets the requirement."""
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None

    def __str__(self) -> str:
        match self.operator:
            case Operator.IN if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case Operator.IN:
                return f"{self.key} in ({','.join(self.values)})"
            case Operator.NOT_IN:
                return f"{self.key} notin ({','.join(self.values)})"
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"


class Selector(msgspec.Struct, frozen=True, gc=False):
    """A conjunction of terms, kept in a canonical order so that equal selectors are equal values."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def of(cls, *terms: Term) -> "Selector":
        """Returns the canonical selector with `terms`, each once."""
        unique = {(t.key, t.operator.value, t.values): t for t in terms}
        return cls(tuple(unique[k] for k in sorted(unique)))

    @classmethod
    def equals(cls, labels: Labels) -> "Selector":
        """Returns the selector that wants every pair in `labels` (matchLabels)."""
        return cls.of(*(Term(key, Operator.IN, (value,)) for key, value in labels.items()))

    def matches(self, labels: Labels) -> bool:
        """Tells whether every term is met by `labels`."""
        return self.accepts(labels.get)

    def accepts(self, value_of: Callable[[str], str | None]) -> bool:
        """Tells whether every term is met by what `value_of` says for its key (None = the key is missing)."""
        return all(term.holds(value_of(term.key)) for term in self.terms)

    def names(self, *keys: str) -> bool:
        """Tells whether some term is about one of `keys`."""
        return any(term.key in keys for term in self.terms)

    @property
    def names_clusters(self) -> bool:
        """Tells whether some term says which clusters are meant."""
        return any(names_clusters(term.key) for term in self.terms)

    def __str__(self) -> str:
        return ",".join(map(str, self.terms)) or "(all)"
