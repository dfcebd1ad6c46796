"""Quantities, and what only looks like one."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.quantity import QuantityError, parse


@pytest.mark.parametrize(
    ("text", "number"),
    [("100m", "0.1"), ("1Gi", 2**30), ("1e3", 1000), ("1E3", 1000), ("1E", 10**18), ("+.5k", 500), ("5.", 5), (2, 2)],
)
def test_suffixes_and_exponents_are_read(text: str | int, number: str | int) -> None:
    assert parse(text) == Decimal(number)


@pytest.mark.parametrize(
    "text", ["", "x", "5e", "1em", "1e3k", "Infinity", "NaN", "1_000", " 1", "٣", "Ki", "1Kii", "1e99999", "1" * 41]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse(text)


@given(st.text(alphabet="0123456789.+-eEkKmMGi_ ", max_size=45))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    try:
        assert parse(text).is_finite()
    except QuantityError:
        return
