"""Sets and maps of the table: their shape, their elements, and changes to them, as plain values.

The common event (a pod IP appears, an identity appears) is an element change and never a rule change, so these types
are what travels to the kernel most often. Keys and values stay typed here; bytes are made in `isthmus.wire.nftables`,
text in `isthmus.ruleset.text`.
"""

from enum import Enum

import msgspec

from isthmus.model.service import Target


class Field(Enum):
    """A part of a key; the value is nft's name of the datatype."""

    IPV4 = "ipv4_addr"  # canonical text in keys
    IPV6 = "ipv6_addr"  # canonical text in keys
    IDENTITY = "classid"  # an identity number; classid because `meta priority` is the scratch that holds it
    PROTOCOL = "inet_proto"  # 0-255
    PORT = "inet_service"  # 0-65535


class Holds(Enum):
    """What a map's element leads to; the value is nft's name of the datatype."""

    VERDICT = "verdict"
    IDENTITY = "classid"
    TARGET4 = "ipv4_addr . inet_service"
    TARGET6 = "ipv6_addr . inet_service"


class Jump(msgspec.Struct, frozen=True):
    """The verdict that continues in `chain` and comes back."""

    chain: str


Key = tuple[str | int, ...]
"""One value for each field of the set's key."""


Value = Jump | Target | int | None
"""A Jump in a verdict map, a number in an identity map, a Target in a map of those, None in a set."""


class SetSpec(msgspec.Struct, frozen=True):
    """The shape of a set (`holds` is None) or map; hash type, no intervals.

    With `room` the packet path fills the map, with at most so many elements, and time-outs empty it: its content is
    the kernel's, and never part of a Table.
    """

    name: str
    key: tuple[Field, ...]
    holds: Holds | None = None
    room: int = 0


class ElementChange(msgspec.Struct, frozen=True):
    """Elements to remove from and then to add to one set, as part of one transaction.

    A changed map value is the key in `remove` and the pair in `add`.
    """

    spec: SetSpec
    remove: tuple[Key, ...] = ()
    add: tuple[tuple[Key, Value], ...] = ()


class Memory(msgspec.Struct, frozen=True):
    """Elements that the packet path put into a dynamic map, with time-out and what is left of it in milliseconds."""

    spec: SetSpec
    elements: tuple[tuple[Key, Value, int, int], ...]
