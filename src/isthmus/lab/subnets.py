"""Subnets of a cluster: what people write, checked, and cut into blocks for nodes.

Invariants: one network per family, IPv4 always; what is returned has no host bits and is of a kind that pods and
Services can use. Errors begin with where the text came from, a flag or a field of a file.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import islice

import msgspec

SEGMENT = "172.30.0.0/16"
"""The network that joins all nodes. Lives in the lab's own network namespace, so it cannot clash with the host."""
SEGMENT6 = "fd00:172:30::/64"
"""The same for IPv6: unique local addresses (RFC 4193), never seen outside."""

Network = IPv4Network | IPv6Network

_NODE_BLOCKS = {4: (24, 29), 6: (64, 112)}
"""Prefix lengths of a node's pod network, per family: kube-controller-manager's default, and the smallest that is
cut."""
_WIDEST = {4: 8, 6: 16}


class PlanError(Exception):
    """The cluster cannot be made as asked; the message says why and names what it clashes with."""


class Subnets(msgspec.Struct, frozen=True):
    """One network per family."""

    ipv4: IPv4Network
    ipv6: IPv6Network | None = None

    @property
    def each(self) -> tuple[Network, ...]:
        """The networks there are, IPv4 first."""
        return (self.ipv4,) if self.ipv6 is None else (self.ipv4, self.ipv6)


def read_subnets(text: str | None, *, defaults: tuple[str, str], dual: bool, origin: str) -> Subnets:
    """Returns the networks that `text` names, separated by a comma; what it leaves out is taken from `defaults`.

    Raises PlanError.
    """
    found: dict[int, Network] = {}
    for part in (text or "").split(",") if text else ():
        network = _subnet(part.strip(), origin=origin)
        if network.version in found:
            raise PlanError(f"{origin} {text}: more than one IPv{network.version} subnet")
        found[network.version] = network
    if 6 in found and not dual:
        raise PlanError(f"{origin} {text}: an IPv6 subnet needs a cluster of both families (--ip-family dual)")
    ipv4, ipv6 = found.get(4, IPv4Network(defaults[0])), found.get(6)
    if dual and ipv6 is None:
        ipv6 = IPv6Network(defaults[1])
    assert isinstance(ipv4, IPv4Network) and (ipv6 is None or isinstance(ipv6, IPv6Network))  # noqa: S101
    return Subnets(ipv4=ipv4, ipv6=ipv6)


def check_overlaps(pods: Subnets, services: Subnets, *, name: str, others: Iterable[tuple[Network, str]]) -> None:
    """Raises PlanError if the cluster's subnets overlap each other or one of `others` (network, what it is)."""
    for own in services.each:
        for pod in pods.each:
            if own.overlaps(pod):
                raise PlanError(f'service subnet {own} of cluster "{name}" overlaps its own pod subnet {pod}')
    taken = list(others)
    for role, subnets in (("pod", pods), ("service", services)):
        for network in subnets.each:
            for used, owner in taken:
                if network.overlaps(used):
                    raise PlanError(f'{role} subnet {network} of cluster "{name}" overlaps {owner}')


def blocks(network: Network, *, count: int, origin: str) -> list[Network]:
    """Returns the pod networks of `count` nodes, cut from `network`; raises PlanError."""
    usual, smallest = _NODE_BLOCKS[network.version]
    prefix = max(usual, network.prefixlen + (count - 1).bit_length())
    if prefix > smallest:
        raise PlanError(f"{origin} {network}: too small for {count} nodes")
    return list(islice(network.subnets(new_prefix=prefix), count))


def _subnet(text: str, *, origin: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise PlanError(f"{origin} {text}: {error}") from error
    unusable = network.is_multicast or network.is_loopback or network.is_link_local
    if unusable or network.prefixlen < _WIDEST[network.version]:
        raise PlanError(f"{origin} {text}: not a network that pods or services can use")
    return network
