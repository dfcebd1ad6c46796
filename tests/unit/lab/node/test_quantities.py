"""Resource quantities and quality of service."""

from decimal import Decimal

import pytest

from isthmus.lab.node.pods.container import Container, Resources
from isthmus.lab.node.pods.quantity import in_units, qos_class
from isthmus.lab.quantity import QuantityError, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250m", "0.25"),
        ("1Gi", "1073741824"),
        ("1e3", "1000"),
        ("1E", "1e18"),
        ("0.5", "0.5"),
        (2, "2"),
        ("1.5k", "1500"),
    ],
)
def test_quantities_are_read(text: str | int, value: str) -> None:
    assert parse(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1ki", "--1", "1" * 100, "1e99999999999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse(text)


def test_parts_of_a_unit_count_as_one() -> None:
    assert in_units(parse("1"), "1Mi") == 1
    assert in_units(parse("0"), "1Mi") == 0


def container(**resources: dict[str, str]) -> Container:
    return Container(name="c", resources=Resources(**resources))


def test_quality_of_service_follows_from_requests_and_limits() -> None:
    full = container(limits={"cpu": "1", "memory": "1Gi"}, requests={"cpu": "1000m"})
    assert qos_class([container()]) == "BestEffort"
    assert qos_class([container(requests={"cpu": "1"})]) == "Burstable"
    assert qos_class([full]) == "Guaranteed"
    assert qos_class([full, container()]) == "Burstable"
