"""metav1.LabelSelector as the API gives it -> `model.selector.Selector`."""

from typing import Any

from isthmus.model.selector import Operator, Selector, Term

NOTHING = None
"""A selector that is absent or makes no sense selects nothing."""


def selector_of(value: dict[str, Any]) -> Selector | None:
    """Returns the selector; None selects nothing (absent, or an operator that does not exist)."""
    if not value:
        return NOTHING
    terms = [Term(key, Operator.IN, (text,)) for key, text in (value.get("matchLabels") or {}).items()]
    try:
        for item in value.get("matchExpressions") or ():
            operator = Operator(item["operator"])
            terms.append(Term(item["key"], operator, tuple(sorted(item.get("values") or ()))))
    except (KeyError, TypeError, ValueError):
        return NOTHING
    return Selector.of(*terms)


def selects(value: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a LabelSelector matches labels."""
    found = selector_of(value)
    return found is not None and found.matches(labels)
