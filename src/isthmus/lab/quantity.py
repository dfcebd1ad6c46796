"""Quantities of resources as numbers: `100m`, `1Gi`, `0.5`, `1e3` (apimachinery's resource.Quantity).

The node, the controllers and the rules of custom resources must read the same text as the same number, and refuse the
same: Python's own numbers, for one, allow underscores, infinity and exponents that take megabytes to write out.
"""

import re
from decimal import Decimal

_FORM = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([numkMGTPE]|[KMGTPE]i)?|[eE]([+-]?[0-9]{1,4}))")
_LONGEST = 40  # characters
_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10**3),
    "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip


class QuantityError(ValueError):
    """Not a quantity; the message quotes it."""


def parse(quantity: str | int | float) -> Decimal:
    """Returns the number that a quantity such as 250m, 1Gi or 1e3 stands for; raises QuantityError."""
    text = str(quantity)
    match = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise QuantityError(f"{text[: _LONGEST + 1]!r} is not a quantity")
    number, suffix, exponent = match.groups()
    return Decimal(f"{number}e{exponent}") if exponent else Decimal(number) * _SUFFIXES[suffix or ""]
