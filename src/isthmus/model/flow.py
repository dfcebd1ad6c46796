"""A connection attempt as policy judges it: the original direction and the tuple after DNAT."""

from enum import IntEnum

import msgspec


class Protocol(IntEnum):
    """IP protocol numbers that policy can name (IANA)."""

    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    SCTP = 132


PORT_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
"""The protocols that have ports, by the word the Kubernetes API uses."""


class Flow(msgspec.Struct, frozen=True):
    """From `source` to `destination` (canonical IP text, one family); `port` is 0 where the protocol has none."""

    source: str
    destination: str
    protocol: int
    port: int = 0
