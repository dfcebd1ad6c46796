"""Quantities of resources: `100m`, `1Gi`, `0.5`, `1e3` (apimachinery's resource.Quantity)."""

from decimal import Decimal, InvalidOperation

_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_LONGEST = 64
"""Characters: longer ones are no quantities but attacks on arithmetic."""


def amount(value: str | int | float) -> Decimal:
    """Returns a quantity as a number; 0 for what is none (the API server refuses those)."""
    text = str(value).strip()[:_LONGEST]
    stem = text.rstrip("numkKMGTPEi")
    # "1E" is exa, "1E3" is a power of ten: only what follows the last digit is a suffix.
    factor = _SUFFIXES.get(text[len(stem) :])
    try:
        number = Decimal(stem)
    except InvalidOperation:
        return Decimal(0)
    if factor is None or not number.is_finite() or abs(number.adjusted()) > 40:
        return Decimal(0)
    return number * factor
