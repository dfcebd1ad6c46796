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


PORT_PROTOCOLS = {one.name: int(one) for one in (Protocol.TCP, Protocol.UDP, Protocol.SCTP)}
"""The protocols that have ports, by the word the Kubernetes API uses.

Plain numbers: they are in the keys of hundreds of thousands of set elements, and the garbage collector goes through
every tuple that holds anything but numbers and text.
"""


class Flow(msgspec.Struct, frozen=True):
    """From `source` to `destination` (canonical IP text, one family).

    `port` is the destination port, for ICMP and ICMPv6 the type of the message that opened the connection, and 0 where
    the protocol has neither. `translated` says that the sender meant another address (a Service): it matters only
    to a pod that reaches itself that way.
    """

    source: str
    destination: str
    protocol: int
    port: int = 0
    translated: bool = False
