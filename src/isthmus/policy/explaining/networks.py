"""Which of the networks that policies name hold an address.

Asked of every pod, against every network of every policy: a look-up for each length of prefix that occurs, and none for
each network. Rejected: a trie, which is more to get right for the same result.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address

from isthmus.policy.rules import CidrPeer, Network, Policy


class Networks:
    """Networks by number, in a fixed order."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self.all = sorted(set(networks), key=lambda network: (network.version, network.prefixlen, int(network[0])))
        self._by_length: dict[tuple[int, int], dict[int, int]] = {}
        for number, network in enumerate(self.all):
            lengths = self._by_length.setdefault((network.version, network.prefixlen), {})
            lengths[int(network.network_address)] = number

    def holding(self, ip: str) -> tuple[int, ...]:
        """Returns the numbers of the networks that hold an address, the widest first."""
        address = ip_address(ip)
        bits = address.max_prefixlen
        value = int(address)
        found = []
        for (version, length), starts in self._by_length.items():
            if version == address.version:
                number = starts.get(value >> (bits - length) << (bits - length))
                if number is not None:
                    found.append(number)
        return tuple(sorted(found))


def named_networks(policies: Iterable[Policy], *, pods: bool) -> set[Network]:
    """Returns the networks of all rules, with their exceptions; with `pods` only where they can mean pods."""
    found: set[Network] = set()
    for policy in policies:
        for rule in policy.rules:
            for peer in rule.peers or ():
                if isinstance(peer, CidrPeer) and not (pods and peer.outside):
                    found.add(peer.network)
                    found.update(peer.excepts)
    return found


def representatives(networks: Networks, free: Callable[[str], bool]) -> list[tuple[str, Network]]:
    """Returns for each network an address that is in it and in no narrower one, and `free`, with the network.

    A network that narrower ones cover, or of which only its ends would be free, has none.
    """
    result = []
    for number, network in enumerate(networks.all):
        narrower = [other for other in networks.all[number + 1 :] if other.version == network.version]
        inside = [other for other in narrower if other[0] in network]
        candidates = [network[0], network[-1]]
        if network.num_addresses > 2:
            candidates = [network[1], network[-2], *candidates]
        for other in inside[:64]:
            for value in (int(other[0]) - 1, int(other[-1]) + 1):
                if int(network[0]) <= value <= int(network[-1]):
                    candidates.append(network[value - int(network[0])])
        for candidate in candidates:
            text = str(candidate)
            if free(text) and networks.holding(text)[-1:] == (number,):
                result.append((text, network))
                break
    return result
