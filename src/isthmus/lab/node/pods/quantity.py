"""Resource quantities (apimachinery resource.Quantity) as exact numbers, and what follows from them."""

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal

from isthmus.lab.node.pods.container import Container, Quantity

_FORM = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([a-zA-Z]*|[eE][+-]?[0-9]+)")
_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10**3),
    "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip
_COMPUTE = ("cpu", "memory")


class QuantityError(ValueError):
    """Not a quantity; the message quotes it."""


def parse(quantity: Quantity) -> Decimal:
    """Returns the number that a quantity such as 250m, 1Gi or 1e3 stands for; raises QuantityError."""
    text = str(quantity)
    match = _FORM.fullmatch(text)
    if match is None or len(text) > 40:
        raise QuantityError(f"{text!r} is not a quantity")
    number, suffix = match.groups()
    if suffix in _SUFFIXES:
        return Decimal(number) * _SUFFIXES[suffix]
    if suffix[:1] in "eE" and len(suffix) < 6:
        return Decimal(number + suffix)
    raise QuantityError(f"{text!r} is not a quantity")


def in_units(value: Decimal, divisor: Quantity) -> int:
    """Returns how many `divisor`s there are in `value`, rounded up (core/v1 ResourceFieldSelector); 0 means 1."""
    unit = parse(divisor)
    return int((value / unit if unit > 0 else value).to_integral_value(ROUND_CEILING))


def qos_class(containers: Iterable[Container]) -> str:
    """Returns the pod's quality of service class."""
    limits: list[Mapping[str, Quantity]] = []
    requests: list[Mapping[str, Quantity]] = []
    for container in containers:
        limited = _positive(container.resources.limits)
        limits.append(limited)
        # A limit without a request counts as both.
        requests.append({**limited, **_positive(container.resources.requests)})
    if not any(limits) and not any(requests):
        return "BestEffort"
    guaranteed = all(
        set(limited) == set(_COMPUTE) and all(parse(limited[name]) == parse(asked[name]) for name in _COMPUTE)
        for limited, asked in zip(limits, requests, strict=True)
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _positive(resources: Mapping[str, Quantity]) -> dict[str, Quantity]:
    return {name: value for name, value in resources.items() if name in _COMPUTE and parse(value) > 0}
