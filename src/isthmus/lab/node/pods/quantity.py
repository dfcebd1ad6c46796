"""What follows from the quantities of a pod: its class, and what its programs are told of them."""

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal

from isthmus.lab.node.pods.container import Container, Quantity
from isthmus.lab.quantity import parse

_COMPUTE = ("cpu", "memory")


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
