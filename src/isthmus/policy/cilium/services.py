"""toServices: Services of the own cluster, read as the pods or addresses behind them.

A Service with a selector stands for the pods that it selects in its namespace, wherever in the mesh the scope lets
them be; one without stands for its backends, as addresses of the world. What resolves to nothing means nothing: where
there are ports beside it, Cilium would open these to everyone (reference: cilium-policy §2.5), and that is not copied.
"""

from collections.abc import Mapping

from isthmus.model.labels import POD_NAMESPACE
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.cilium.cidrs import addresses
from isthmus.policy.cilium.reading import Reading
from isthmus.policy.cilium.selectors import inject
from isthmus.policy.context import ServiceFacts, Use
from isthmus.policy.fields import show
from isthmus.policy.rules import EndpointPeer, Peer

_KINDS = ("k8sService", "k8sServiceSelector")
_BY_NAME = frozenset({"serviceName", "namespace"})
_BY_LABELS = frozenset({"selector", "namespace"})


def service(value: object, field: str, reading: Reading) -> list[Peer]:
    """Returns what an item of toServices means; nothing, with a problem, if that cannot be told."""
    reading.uses.add(Use.SERVICES)
    entry = reading.mapping(value, field)
    if entry is None or not reading.known(entry, frozenset(_KINDS), field, "a Service"):
        return []
    before = reading.faults
    found: list[ServiceFacts] = []
    if entry.get("k8sService") is not None:
        found += _by_name(entry["k8sService"], f"{field}.k8sService", reading)
    if entry.get("k8sServiceSelector") is not None:
        found += _by_labels(entry["k8sServiceSelector"], f"{field}.k8sServiceSelector", reading)
    peers = [peer for one in found for peer in _peers(one, field, reading)]
    if not peers and reading.faults == before:
        reading.warn(field, f"no Service with backends is {show(dict(entry))}: it selects nothing")
    return peers


def _by_name(value: object, field: str, reading: Reading) -> list[ServiceFacts]:
    entry = reading.mapping(value, field)
    if entry is None or not reading.known(entry, _BY_NAME, field, "a Service by name"):
        return []
    before = reading.faults
    name = reading.text(entry.get("serviceName"), f"{field}.serviceName")
    namespace = reading.text(entry.get("namespace"), f"{field}.namespace")
    if reading.faults > before:
        return []
    services = reading.context.services
    if namespace:
        one = services.get((namespace, name or ""))
        return [] if one is None else [one]
    return [services[key] for key in _all(field, reading) if key[1] == name]


def _by_labels(value: object, field: str, reading: Reading) -> list[ServiceFacts]:
    entry = reading.mapping(value, field)
    if entry is None or not reading.known(entry, _BY_LABELS, field, "a Service by labels"):
        return []
    before = reading.faults
    namespace = reading.text(entry.get("namespace"), f"{field}.namespace")
    selector = reading.selector(entry.get("selector"), f"{field}.selector")
    if selector is None or reading.faults > before:
        return []
    services = reading.context.services
    return [
        services[key]
        for key in _all(field, reading)
        if namespace in (None, "", key[0]) and selector.matches(services[key].labels)
    ]


def _all(field: str, reading: Reading) -> list[tuple[str, str]]:
    services = reading.context.services
    return sorted(services) if reading.spend(len(services), field) else []


def _peers(one: ServiceFacts, field: str, reading: Reading) -> tuple[Peer, ...]:
    key = (one.namespace, one.name)
    if key not in reading.backends:
        # A peer is made of some ten values; addresses are taken one by one.
        if not reading.spend(len(one.addresses) if not one.selector else 10, field):
            return ()
        reading.backends[key] = _behind(one, reading)
    return reading.backends[key]


def _behind(one: ServiceFacts, reading: Reading) -> tuple[Peer, ...]:
    if not one.selector:
        return tuple(addresses(one.addresses))
    if any(":" in key for key in one.selector):
        return ()  # no label of a pod
    wanted: Mapping[str, str] = one.selector
    terms = Selector.equals(wanted).terms
    return (EndpointPeer(inject(Selector.of(*terms, Term(POD_NAMESPACE, Operator.IN, (one.namespace,))), reading)),)
