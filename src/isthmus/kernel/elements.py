"""Set elements into the kernel: typed changes become one atomic netlink transaction.

What must stay true: all of `apply` happens or none of it; adding an element that is there (EEXIST) and removing one
that is not (ENOENT) are errors, because either means that this program and the kernel disagree, and then the caller
must write the table anew instead of drifting on. `apply` never splits what it was given; who prefers many small
transactions to one big one (a first load: twice as fast, but not atomic) says so with `in_transactions`.

Rejected: putting the table's elements through libnftables as text like its structure. Each call refreshes a cache of
the whole table: 3 ms an element in a table of 2,000 chains, against 0.02 ms.
"""

import errno
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import NoReturn, Self

from isthmus.kernel.errors import KernelError, about, describe
from isthmus.kernel.sockets import NetfilterSocket
from isthmus.model.service import Target
from isthmus.ruleset.sets import ElementChange, Field, Holds, Jump, Key, Memory, SetSpec, Value
from isthmus.wire import netlink, nftables

TABLE = "isthmus"
MAX_IDENTITY = 0xFFFFFFFF
READINGS = 50  # until two agree
PER_TRANSACTION = 4096  # elements; measured best on 1M-element loads, and well inside an unprivileged send buffer


class ElementWriter:
    """Writes elements of the table `inet TABLE` in the network namespace of the thread that made it.

    One thread at a time; a context manager. A call blocks until the kernel has committed.
    """

    def __init__(self, *, table: str = TABLE) -> None:
        self._table = table
        self._socket = NetfilterSocket()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket; may be called again."""
        self._socket.close()

    def apply(self, changes: Sequence[ElementChange]) -> None:
        """Makes all of `changes` in one transaction, in order, per change first `remove` and then `add`.

        Raises ValueError for a key or value that does not fit its set, KernelError if the kernel refused; the error's
        `subject` names the set and, where the kernel points at it, the key. Nothing has changed then.
        """
        operations: list[nftables.Operation] = []
        sources: list[tuple[ElementChange, bool]] = []
        for change in changes:
            if change.remove:
                encode = key_encoder(change.spec)
                removed = [nftables.encode_element(encode(key)) for key in change.remove]
                operations.append(nftables.Operation(change.spec.name, False, removed))
                sources.append((change, False))
            if change.add:
                added = _encode_pairs(change.spec, change.add)
                operations.append(nftables.Operation(change.spec.name, True, added))
                sources.append((change, True))
        if not operations:
            return
        count = sum(len(operation.elements) for operation in operations)
        sequence = self._socket.reserve(count + len(operations) + 2)
        batch = nftables.encode_batch(operations, table=self._table, sequence=sequence)
        refused = self._socket.transact(batch.data, last=batch.last)
        if refused:
            raise self._error(batch, refused, sources)

    def read(self, spec: SetSpec) -> dict[Key, Value]:
        """Returns the elements of one set as the kernel holds them; for tests and for people, not for decisions.

        After a load the kernel grows the hash table in the background, and until it is done a listing (that of
        `nft list` too) lacks elements without a word. So the set is read until two readings agree. Raises KernelError;
        ENOENT if there is no such set.
        """
        before = self._read(spec)
        for _ in range(READINGS):
            after = self._read(spec)
            if after == before:
                return after
            before = after
        raise KernelError(
            f"elements of inet {self._table} {spec.name}: no two of {READINGS} readings agree", subject=spec.name
        )

    def remembered(self, spec: SetSpec, *, most: int) -> Memory:
        """Returns what the packet path put into a dynamic map, at most so many elements; none if there is no such map.

        One look: an element more or less does not matter. Raises KernelError.
        """
        found: list[tuple[Key, Value, int, int]] = []
        try:
            for key, value, element in self._elements(spec):
                if element.expires and len(found) < most:
                    found.append((key, value, element.timeout, element.expires))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
        return Memory(spec, tuple(found))

    def chain(self, name: str) -> bytes:
        """Returns a chain and its rules as the kernel tells them, to be compared; empty if it is not there.

        What nft would show as text takes a second where there are thousands of elements. Raises KernelError.
        """
        told = b""
        try:
            with about(f"chain inet {self._table} {name}"):
                for rules in (False, True):
                    sequence = self._socket.reserve(1)
                    request = nftables.encode_chain(table=self._table, name=name, sequence=sequence, rules=rules)
                    for message in self._socket.dump(request, sequence=sequence):
                        # Without the header, which counts the commits of everyone.
                        told += netlink.split_nfgenmsg(message.payload)[1]
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return b""
        return told

    def generation(self) -> int:
        """Returns a number that every commit here changes, whoever makes it; raises KernelError."""
        sequence = self._socket.reserve(1)
        request = nftables.encode_generation(sequence=sequence)
        with about("generation of nf_tables"):
            numbers = [nftables.decode_generation(found) for found in self._socket.dump(request, sequence=sequence)]
            if len(numbers) != 1:
                raise KernelError(f"{len(numbers)} answers")
        return numbers[0]

    def _read(self, spec: SetSpec) -> dict[Key, Value]:
        return {key: value for key, value, _ in self._elements(spec)}

    def _elements(self, spec: SetSpec) -> Iterator[tuple[Key, Value, nftables.Element]]:
        sequence = self._socket.reserve(1)
        request = nftables.encode_dump(table=self._table, name=spec.name, sequence=sequence)
        with about(f"elements of inet {self._table} {spec.name}", subject=spec.name):
            for message in self._socket.dump(request, sequence=sequence):
                if message.type == nftables.NEW_ELEMENTS:
                    for element in nftables.decode_elements(message):
                        yield decode_key(spec, element.key), _decode_value(spec, element), element

    def _error(
        self, batch: nftables.Batch, refused: list[netlink.Answer], sources: list[tuple[ElementChange, bool]]
    ) -> KernelError:
        """Returns the error about the first refusal that can be traced to an element."""
        traced = [(answer, nftables.locate(batch, answer)) for answer in refused]
        answer, place = next(((a, p) for a, p in traced if p is not None), traced[0])
        also = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        if place is None:
            text = f"inet {self._table}: element transaction: {describe(answer.errno)}{also}"
            return KernelError(text, errno=answer.errno, subject=f"inet {self._table}")
        change, add = sources[place.operation]
        subject = f"inet {self._table} {change.spec.name}"
        keys = [key for key, _ in change.add] if add else list(change.remove)
        if place.element is not None:
            subject += f" {{ {show_key(keys[place.element])} }}"
        elif answer.offset is None and place.count:
            subject += f" {{ {show_key(keys[place.first])}, … }} (one of {place.count})"
        reason = _REASONS.get((answer.errno, add, place.element is not None), describe(answer.errno))
        if answer.text:
            reason += f" ({answer.text})"
        verb = "add to" if add else "remove from"
        return KernelError(f"{verb} {subject}: {reason}{also}", errno=answer.errno, subject=subject)


_REASONS = {
    (errno.EEXIST, True, True): "the element exists already",
    (errno.ENOENT, False, True): "there is no such element",
    (errno.ENOENT, True, True): "the chain to jump to does not exist",
    (errno.ENOENT, True, False): "there is no such table or set",
    (errno.ENOENT, False, False): "there is no such table or set",
    (errno.ENFILE, True, True): "the set is full",
}


def in_transactions(
    changes: Iterable[ElementChange], *, elements: int = PER_TRANSACTION
) -> Iterator[tuple[ElementChange, ...]]:
    """Yields `changes` cut into groups of at most `elements` elements, for as many calls of `apply`.

    Order is kept, so a key that is removed and added again goes through a moment without it when the cut falls
    between: for a first load, or where that moment does not matter.
    """
    group: list[ElementChange] = []
    room = elements
    for change in changes:
        remove, add = change.remove, change.add
        while remove or add:
            gone = remove[:room]
            come = add[: room - len(gone)]
            group.append(ElementChange(change.spec, gone, come))
            remove, add = remove[len(gone) :], add[len(come) :]
            room -= len(gone) + len(come)
            if room == 0:
                yield tuple(group)
                group, room = [], elements
    if group:
        yield tuple(group)


def encode_key(spec: SetSpec, key: Key) -> bytes:
    """Returns `key` as nf_tables lays it out. Raises ValueError naming the set, the field and what is wrong."""
    return key_encoder(spec)(key)


def key_encoder(spec: SetSpec) -> Callable[[Key], bytes]:
    """Returns what encodes the keys of one set: a load has a million of them, and looks up their fields once."""
    fields = [(_ENCODERS[field], _PADDING[field]) for field in spec.key]
    first = _ENCODERS[spec.key[0]]

    def encode(key: Key) -> bytes:
        try:
            if len(fields) == 1:
                (only,) = key
                return first(only)
            return b"".join([encode(part) + padding for (encode, padding), part in zip(fields, key, strict=True)])
        except (OSError, OverflowError, TypeError, ValueError) as error:
            kinds = " . ".join(field.value for field in spec.key)
            reason = error if len(key) == len(fields) else f"it has {len(key)} fields"
            raise ValueError(f"set {spec.name}: key {show_key(key)} is not of type {kinds}: {reason}") from error

    return encode


def decode_key(spec: SetSpec, data: bytes) -> Key:
    """Returns the key in `data`, the inverse of `encode_key`. Raises NetlinkDecodeError for a wrong length."""
    concatenated = len(spec.key) > 1
    sizes = [_SIZES[field] for field in spec.key]
    expected = sum(map(netlink.aligned, sizes)) if concatenated else sizes[0]
    if len(data) != expected:
        raise netlink.NetlinkDecodeError(f"set {spec.name}: a key of {len(data)} bytes, expected {expected}")
    parts: list[str | int] = []
    position = 0
    for field, size in zip(spec.key, sizes, strict=True):
        parts.append(_decode_field(field, data[position : position + size]))
        position += netlink.aligned(size)
    return tuple(parts)


def show_key(key: Key) -> str:
    """Returns a key as nft shows a concatenation: `10.0.0.1 . 6 . 80`."""
    return " . ".join(map(str, key))


def _encode_pairs(spec: SetSpec, pairs: Sequence[tuple[Key, Value]]) -> list[bytes]:
    """Returns the encoded elements. The kind of set is asked once and not per element: loads have a million of them."""
    element, encode = nftables.encode_element, key_encoder(spec)
    match spec.holds:
        case None:
            return [element(encode(key)) if value is None else _misfit(spec, key, value) for key, value in pairs]
        case Holds.IDENTITY:
            return [
                element(encode(key), data=value.to_bytes(4, sys.byteorder))
                if isinstance(value, int) and 0 <= value <= MAX_IDENTITY
                else _misfit(spec, key, value)
                for key, value in pairs
            ]
        case Holds.VERDICT:
            return [
                element(encode(key), chain=value.chain) if isinstance(value, Jump) else _misfit(spec, key, value)
                for key, value in pairs
            ]
        case Holds.TARGET4 | Holds.TARGET6:
            encode_target = key_encoder(SetSpec(spec.name, _TARGETS[spec.holds]))
            return [
                element(encode(key), data=encode_target((value.address, value.port)))
                if isinstance(value, Target)
                else _misfit(spec, key, value)
                for key, value in pairs
            ]


def _misfit(spec: SetSpec, key: Key, value: Value) -> NoReturn:
    holds = f"a map to {spec.holds.value}" if spec.holds else "a set"
    raise ValueError(f"set {spec.name}: {value!r} for key {show_key(key)} does not fit {holds}")


def _decode_value(spec: SetSpec, element: nftables.Element) -> Value:
    match spec.holds:
        case None:
            return None
        case Holds.VERDICT:
            if element.chain is None:
                raise netlink.NetlinkDecodeError(f"map {spec.name}: an element without a chain to jump to")
            return Jump(element.chain)
        case Holds.IDENTITY:
            if element.data is None or len(element.data) != 4:
                raise netlink.NetlinkDecodeError(f"map {spec.name}: an element without an identity")
            return int.from_bytes(element.data, sys.byteorder)
        case Holds.TARGET4 | Holds.TARGET6:
            parts = decode_key(SetSpec(spec.name, _TARGETS[spec.holds]), element.data or b"")
            return Target(_text(parts[0]), _number(parts[1]))


_TARGETS = {Holds.TARGET4: (Field.IPV4, Field.PORT), Holds.TARGET6: (Field.IPV6, Field.PORT)}


def _encode_ipv4(value: str | int) -> bytes:
    return socket.inet_pton(socket.AF_INET, _text(value))


def _encode_ipv6(value: str | int) -> bytes:
    return socket.inet_pton(socket.AF_INET6, _text(value))


def _encode_identity(value: str | int) -> bytes:
    return _number(value).to_bytes(4, sys.byteorder)  # type classid, like the packet's priority, is in host order


def _encode_protocol(value: str | int) -> bytes:
    return _number(value).to_bytes(1, "big")


def _encode_port(value: str | int) -> bytes:
    return _number(value).to_bytes(2, "big")


_ENCODERS: dict[Field, Callable[[str | int], bytes]] = {
    Field.IPV4: _encode_ipv4,
    Field.IPV6: _encode_ipv6,
    Field.IDENTITY: _encode_identity,
    Field.PROTOCOL: _encode_protocol,
    Field.PORT: _encode_port,
}
_SIZES = {Field.IPV4: 4, Field.IPV6: 16, Field.IDENTITY: 4, Field.PROTOCOL: 1, Field.PORT: 2}
_PADDING = {field: bytes(-size % 4) for field, size in _SIZES.items()}  # in a concatenation every field is aligned


def _decode_field(field: Field, data: bytes) -> str | int:
    match field:
        case Field.IPV4:
            return socket.inet_ntop(socket.AF_INET, data)
        case Field.IPV6:
            text = socket.inet_ntop(socket.AF_INET6, data)
            # The C library writes an embedded IPv4 address with dots; the rest of the program takes ipaddress's form.
            return str(ipaddress.IPv6Address(data)) if "." in text else text
        case Field.IDENTITY:
            return int.from_bytes(data, sys.byteorder)
        case Field.PROTOCOL | Field.PORT:
            return int.from_bytes(data, "big")


def _text(value: str | int) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is not text")


def _number(value: str | int) -> int:
    if isinstance(value, int):
        return value
    raise TypeError(f"{value!r} is not a number")
