"""CIDRs, sets of them with exceptions, and groups: addresses of the world, never of pods or nodes.

Invariant: every peer is a network with holes strictly inside it; holes elsewhere are dropped, and a network that a hole
covers is no peer at all. An exception belongs to its own entry and takes nothing from another. Exceptions work with
groups too, as in Cilium's tests, although its field description says that they do not.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from isthmus.policy.cilium.reading import Reading
from isthmus.policy.context import CidrGroup, Use
from isthmus.policy.fields import as_network, show
from isthmus.policy.rules import CidrPeer, Network

_GROUP_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SOURCES = ("cidr", "cidrGroupRef", "cidrGroupSelector")
SET_FIELDS = frozenset({*_SOURCES, "except"})


def cidr(value: object, field: str, reading: Reading) -> CidrPeer | None:
    """Returns an item of fromCIDR or toCIDR."""
    network = _network(value, field, reading)
    return None if network is None else CidrPeer(network, outside=True)


def cidr_set(value: object, field: str, reading: Reading) -> list[CidrPeer] | None:
    """Returns what an item of fromCIDRSet or toCIDRSet means; None (with a problem) if not all of it can be told."""
    entry = reading.mapping(value, field)
    if entry is None or not reading.known(entry, SET_FIELDS, field, "a CIDR set"):
        return None
    given = [name for name in _SOURCES if entry.get(name) not in (None, "")]
    if not given:
        reading.complain(field, f"one of {', '.join(_SOURCES)} is required")
        return None
    if len(given) > 1:
        reading.complain(field, f"more than one of {', '.join(given)} may not be set")
        return None
    holes = _holes(entry.get("except"), f"{field}.except", reading)
    source = given[0]
    if source == "cidr":
        network = _network(entry[source], f"{field}.cidr", reading)
        if network is None or holes is None or not _inside(holes, network, f"{field}.except", reading):
            return None
        return _carved([network], holes)
    groups = _groups(source, entry[source], f"{field}.{source}", reading)
    if groups is None or holes is None:
        return None
    networks = _expanded(groups, f"{field}.{source}", reading)
    if networks is None or not reading.spend(len(networks) * max(1, len(holes)), field):
        return None
    return _carved(networks, holes)


def _network(value: object, field: str, reading: Reading) -> Network | None:
    if value is None or value == "":
        reading.complain(field, "IP must be specified")
        return None
    return reading.network(value, field)


def _holes(value: object, field: str, reading: Reading) -> list[Network] | None:
    if value is None:
        return []
    before = reading.faults
    holes = [reading.network(item, path) for item, path in reading.items(value, field)]
    if reading.faults > before:
        return None
    return list(dict.fromkeys(hole for hole in holes if hole is not None))


def _inside(holes: Iterable[Network], network: Network, field: str, reading: Reading) -> bool:
    inside = True
    for index, hole in enumerate(holes):
        if not _covers(network, hole):
            reading.complain(
                f"{field}[{index}]", f"allow CIDR prefix {network} does not contain exclude CIDR prefix {hole}"
            )
            inside = False
    return inside


def _groups(source: str, value: object, field: str, reading: Reading) -> list[CidrGroup] | None:
    reading.uses.add(Use.CIDR_GROUPS)
    known = reading.context.cidr_groups
    if source == "cidrGroupRef":
        if not isinstance(value, str) or not _GROUP_NAME.fullmatch(value):
            reading.complain(field, f"must be the name of a CiliumCIDRGroup, is {show(value)}")
            return None
        found = [known[value]] if value in known else []
    else:
        read = reading.selector(value, field)
        selector = None if read is None else reading.sourced(read, "cidrgroup", field)
        if selector is None or not reading.spend(len(known) * max(1, len(selector.terms)), field):
            return None
        found = [group for _, group in sorted(known.items()) if selector.matches(group.labels)]
    if not found:
        reading.warn(field, f"no CiliumCIDRGroup is {show(value)}: it selects nothing")
    return found


def _expanded(groups: Iterable[CidrGroup], field: str, reading: Reading) -> list[Network] | None:
    networks: dict[Network, None] = {}
    for group in groups:
        if not reading.spend(len(group.cidrs), field):
            return None
        if group.name not in reading.networks:
            read = [as_network(text) for text in group.cidrs]
            known = tuple(network for network in read if network is not None)
            reading.networks[group.name] = known if len(known) == len(read) else None
        mine = reading.networks[group.name]
        if mine is None:
            bad = next(text for text in group.cidrs if as_network(text) is None)
            reading.unenforced(field, f"CiliumCIDRGroup {group.name} has {show(bad)}, which is not a CIDR")
            return None
        networks.update(dict.fromkeys(mine))
    return list(networks)


def _covers(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def _carved(networks: Iterable[Network], holes: Iterable[Network]) -> list[CidrPeer]:
    peers = []
    for network in networks:
        if not any(_covers(hole, network) for hole in holes):
            mine = sorted((hole for hole in holes if _covers(network, hole)), key=_order)
            peers.append(CidrPeer(network, tuple(mine), outside=True))
    return peers


def _order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def addresses(texts: Iterable[str]) -> list[CidrPeer]:
    """Returns single addresses of the world as peers; what is no address is left out."""
    networks = (as_network(text) for text in texts)
    return [CidrPeer(network, outside=True) for network in networks if network is not None]
