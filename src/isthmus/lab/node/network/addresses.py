"""Pod addresses of one node.

Invariants: the network address, the first host address and the broadcast address are never given to pods; an address
that was given back is used again as late as possible, because others may still know it under its old name.
"""

from ipaddress import ip_address, ip_network


class ExhaustedError(Exception):
    """Every address of the node's pod network is in use."""


class AddressPool:
    """The addresses of `cidr`; `taken` are in use already, after a restart."""

    def __init__(self, cidr: str, *, taken: set[str] | None = None) -> None:
        self._network = ip_network(cidr)
        self._first = int(self._network.network_address) + 2
        # Of an IPv6 network, a part that no node of 110 pods ever walks through.
        self._count = min(self._network.num_addresses - 3, 1 << 16)
        self._taken = {int(ip_address(ip)) for ip in taken or ()}
        # After a restart the search goes on behind the highest address in use, for the same reason.
        self._next = (max(self._taken) + 1 - self._first) % self._count if self._taken else 0

    def take(self) -> str:
        """Returns a free address; raises ExhaustedError."""
        for step in range(self._count):
            offset = (self._next + step) % self._count
            if self._first + offset not in self._taken:
                self._taken.add(self._first + offset)
                self._next = (offset + 1) % self._count
                return str(self._network[offset + 2])
        raise ExhaustedError(f"no free address in the node's pod network {self._network}")

    def give_back(self, ip: str) -> None:
        """Frees an address; one that was not taken is no error."""
        self._taken.discard(int(ip_address(ip)))
