"""DNS messages: a reader that believes nothing, and a writer that compresses and truncates (RFC 1035, 6891).

Invariants: bytes of any kind give a message or DnsError, in time linear in their length; a name is a tuple of labels
as they were written, so the case that a resolver plays with (0x20) comes back as it came; what is written can be
read. Standard library only and no msgspec, because it runs inside pods, where msgspec alone would take a third of the
memory. Rejected: dnspython, which is right about everything and costs 300 us and six megabytes; it is the oracle of
the tests.
"""

from collections.abc import Iterable
from typing import NamedTuple

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT, IXFR, AXFR, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 41, 251, 252, 255
IN, ANY_CLASS = 1, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
BADVERS = 16
QUERY, NOTIFY, UPDATE = 0, 4, 5
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010

MAX_NAME = 255
MAX_LABEL = 63
MAX_MESSAGE = 65535
MIN_UDP = 512
"""Bytes that every resolver takes over UDP."""
MAX_RECORDS = 4096
"""Records of a message that are read; the smallest takes 11 bytes."""
_HEADER = 12
_POINTER = 0xC0
_MAX_OFFSET = 0x3FFF

Name = tuple[bytes, ...]
"""Labels, outermost last; the root is ()."""


class DnsError(Exception):
    """Bytes are no DNS message, or a name is no name."""


class Question(NamedTuple):
    """What is asked for."""

    name: Name
    type: int
    cls: int = IN


class Srv(NamedTuple):
    """Data of an SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: Name


class Soa(NamedTuple):
    """Data of an SOA record; times in seconds."""

    primary: Name
    contact: Name
    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int


Data = bytes | Name | Srv | Soa
"""A name for CNAME, NS and PTR; bytes as on the wire for A, AAAA and every type without a structure here."""


class Record(NamedTuple):
    """A resource record; `ttl` in seconds."""

    name: Name
    type: int
    ttl: int
    data: Data
    cls: int = IN


class Edns(NamedTuple):
    """What an OPT record says (RFC 6891): the sender's UDP size, version, DO bit, upper bits of the response code."""

    size: int
    version: int = 0
    dnssec: bool = False
    extended: int = 0


class Message(NamedTuple):
    """A whole message; `flags` are the 16 bits of the header."""

    id: int
    flags: int
    questions: tuple[Question, ...] = ()
    answers: tuple[Record, ...] = ()
    authorities: tuple[Record, ...] = ()
    additionals: tuple[Record, ...] = ()
    edns: Edns | None = None

    @property
    def opcode(self) -> int:
        """The kind of request."""
        return self.flags >> 11 & 0xF

    @property
    def rcode(self) -> int:
        """The response code, with its upper bits."""
        return self.flags & 0xF | (self.edns.extended << 4 if self.edns else 0)


def read(data: bytes) -> Message:
    """Returns the message in `data`; raises DnsError. Bytes after its end are an error too."""
    if len(data) < _HEADER:
        raise DnsError("shorter than a header")
    number, flags, *counts = _words(data, 0, 6)
    at = _HEADER
    if sum(counts) > MAX_RECORDS:
        raise DnsError("too many records")
    questions = []
    for _ in range(counts[0]):
        name, at = read_name(data, at)
        kind, cls = _words(data, at, 2)
        at += 4
        questions.append(Question(name, kind, cls))
    sections: list[tuple[Record, ...]] = []
    edns: Edns | None = None
    for count in counts[1:]:
        section = []
        for _ in range(count):
            name, at = read_name(data, at)
            kind, cls, high, low, length = _words(data, at, 5)
            at += 10
            end = at + length
            if end > len(data):
                raise DnsError("a record reaches beyond the message")
            if kind == OPT:
                if edns is not None or name or len(sections) != 2:
                    raise DnsError("misplaced OPT record")
                _check_options(data, at, end)
                edns = Edns(size=cls, version=high & 0xFF, dnssec=bool(low & 0x8000), extended=high >> 8)
            else:
                section.append(Record(name, kind, high << 16 | low, _read_data(data, at, end, kind), cls))
            at = end
        sections.append(tuple(section))
    if at != len(data):
        raise DnsError("bytes after the end of the message")
    return Message(number, flags, tuple(questions), sections[0], sections[1], sections[2], edns)


def read_name(data: bytes, at: int) -> tuple[Name, int]:
    """Returns the name at an offset and the offset behind it; raises DnsError."""
    labels: list[bytes] = []
    size = 1
    end = -1
    limit = at
    while True:
        if at >= len(data):
            raise DnsError("a name reaches beyond the message")
        length = data[at]
        if length >= _POINTER:
            if at + 2 > len(data):
                raise DnsError("a name reaches beyond the message")
            if end < 0:
                end = at + 2
            at = (length & 0x3F) << 8 | data[at + 1]
            # Only backwards, and each time further back: no loop, and no more jumps than bytes.
            if at >= limit:
                raise DnsError("a name points forwards")
            limit = at
            continue
        if length > MAX_LABEL:
            raise DnsError("unknown kind of label")
        at += 1
        if length == 0:
            return tuple(labels), at if end < 0 else end
        size += length + 1
        if size > MAX_NAME:
            raise DnsError("a name is longer than 255 bytes")
        label = data[at : at + length]
        if len(label) < length:
            raise DnsError("a name reaches beyond the message")
        labels.append(label)
        at += length


def write(message: Message, *, limit: int = MAX_MESSAGE) -> bytes:
    """Returns a message of at most `limit` bytes (512 or more).

    What does not fit is left out, with TC set unless it was only additional (RFC 2181 section 9). Raises DnsError for
    what cannot be written.
    """
    try:
        return _write(message, min(limit, MAX_MESSAGE))
    except OverflowError as error:
        raise DnsError(f"a number is out of range: {error}") from error


def _write(message: Message, limit: int) -> bytes:
    out = _Writer(message.flags & ~TC, message.id)
    reserve = 11 if message.edns is not None else 0
    for question in message.questions:
        out.question(question)
    counts = [0, 0, 0]
    truncated = False
    for index, section in enumerate((message.answers, message.authorities, message.additionals)):
        for record in section:
            mark = out.size
            out.record(record)
            if out.size + reserve > limit:
                out.cut(mark)
                truncated = index < 2
                break
            counts[index] += 1
        if truncated:
            break
    if message.edns is not None:
        out.option(message.edns)
        counts[2] += 1
    return out.finish((len(message.questions), *counts), truncated=truncated)


class _Writer:
    """A message as it grows."""

    def __init__(self, flags: int, number: int) -> None:
        self._data = bytearray(_HEADER)
        self._offsets: dict[Name, int] = {}
        self._head = (number, flags)

    @property
    def size(self) -> int:
        return len(self._data)

    def cut(self, size: int) -> None:
        del self._data[size:]
        self._offsets = {name: at for name, at in self._offsets.items() if at < size}

    def question(self, question: Question) -> None:
        self._name(question.name)
        self._data += question.type.to_bytes(2, "big") + question.cls.to_bytes(2, "big")

    def record(self, record: Record) -> None:
        self._name(record.name)
        self._data += (
            record.type.to_bytes(2, "big") + record.cls.to_bytes(2, "big") + record.ttl.to_bytes(4, "big") + b"\0\0"
        )
        begin = len(self._data)
        data = record.data
        if isinstance(data, bytes):
            self._data += data
        elif isinstance(data, Srv):
            for number in data[:3]:
                self._data += number.to_bytes(2, "big")
            # Not compressed: RFC 2782.
            self._data += plain_name(data.target)
        elif isinstance(data, Soa):
            self._name(data.primary)
            self._name(data.contact)
            for number in data[2:]:
                self._data += number.to_bytes(4, "big")
        else:
            self._name(data)
        length = len(self._data) - begin
        if length > 0xFFFF:
            raise DnsError("a record is longer than 65535 bytes")
        self._data[begin - 2 : begin] = length.to_bytes(2, "big")

    def option(self, edns: Edns) -> None:
        flags = 0x8000 if edns.dnssec else 0
        self._data += b"\0" + OPT.to_bytes(2, "big") + edns.size.to_bytes(2, "big")
        self._data += bytes((edns.extended, edns.version)) + flags.to_bytes(2, "big") + b"\0\0"

    def finish(self, counts: Iterable[int], *, truncated: bool) -> bytes:
        number, flags = self._head
        words = (number, flags | (TC if truncated else 0), *counts)
        self._data[:_HEADER] = b"".join(word.to_bytes(2, "big") for word in words)
        return bytes(self._data)

    def _name(self, name: Name) -> None:
        check_name(name)
        lower = lowered(name)
        for index in range(len(name)):
            known = self._offsets.get(lower[index:])
            if known is not None:
                self._data += (known | _POINTER << 8).to_bytes(2, "big")
                return
            if len(self._data) <= _MAX_OFFSET:
                self._offsets[lower[index:]] = len(self._data)
            self._data.append(len(name[index]))
            self._data += name[index]
        self._data.append(0)


def check_name(name: Name) -> None:
    """Raises DnsError unless a name can be written."""
    size = 1
    for label in name:
        if not 0 < len(label) <= MAX_LABEL:
            raise DnsError("a label must have 1 to 63 bytes")
        size += len(label) + 1
    if size > MAX_NAME:
        raise DnsError("a name is longer than 255 bytes")


def plain_name(name: Name) -> bytes:
    """Returns a name without compression; raises DnsError."""
    check_name(name)
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def lowered(name: Name) -> Name:
    """Returns the name as names are compared: without regard to the case of ASCII letters (RFC 4343)."""
    return tuple([label.lower() for label in name])


def parse_name(text: str) -> Name:
    """Returns the name in presentation form, with or without the dot at its end; raises DnsError."""
    labels: list[bytes] = []
    label = bytearray()
    at = 0
    if text in (".", ""):
        return ()
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            number = text[at + 1 : at + 4]
            if len(number) == 3 and number.isascii() and number.isdigit() and int(number) < 256:
                label.append(int(number))
                at += 4
                continue
            at += 1
            letter = text[at : at + 1]
        elif letter == ".":
            labels.append(bytes(label))
            label.clear()
            at += 1
            continue
        if not letter or not letter.isascii():
            raise DnsError(f"{text!r} is not a name")
        label += letter.encode()
        at += 1
    if label or not text.endswith("."):
        labels.append(bytes(label))
    name = tuple(labels)
    check_name(name)
    return name


def name_text(name: Name) -> str:
    """Returns the presentation form of a name, with the dot at its end."""
    return "".join(f"{_label_text(label)}." for label in name) or "."


def text_data(*texts: bytes) -> bytes:
    """Returns the data of a TXT record; raises DnsError."""
    if any(len(text) > 255 for text in texts):
        raise DnsError("a text is longer than 255 bytes")
    return b"".join(bytes((len(text),)) + text for text in texts)


def _label_text(label: bytes) -> str:
    return "".join(
        f"\\{byte:03}" if not 0x21 <= byte <= 0x7E else f"\\{chr(byte)}" if byte in b'."();@$\\' else chr(byte)
        for byte in label
    )


def _words(data: bytes, at: int, count: int) -> list[int]:
    end = at + 2 * count
    if end > len(data):
        raise DnsError("the message ends too early")
    return [data[index] << 8 | data[index + 1] for index in range(at, end, 2)]


def _check_options(data: bytes, at: int, end: int) -> None:
    while at < end:
        if at + 4 > end:
            raise DnsError("malformed option")
        at += 4 + (data[at + 2] << 8 | data[at + 3])
    if at != end:
        raise DnsError("malformed option")


def _read_data(data: bytes, at: int, end: int, kind: int) -> Data:
    if kind in (CNAME, NS, PTR):
        name, after = read_name(data, at)
        return _whole(name, after, end)
    if kind == SRV:
        priority, weight, port = _words(data[:end], at, 3)
        name, after = read_name(data, at + 6)
        return _whole(Srv(priority, weight, port, name), after, end)
    if kind == SOA:
        primary, after = read_name(data, at)
        contact, after = read_name(data, after)
        words = _words(data[:end], after, 10)
        numbers = [words[index] << 16 | words[index + 1] for index in range(0, 10, 2)]
        return _whole(Soa(primary, contact, *numbers), after + 20, end)
    if (kind == A and end - at != 4) or (kind == AAAA and end - at != 16):
        raise DnsError("an address of the wrong length")
    return data[at:end]


def _whole(value: Data, after: int, end: int) -> Data:
    if after != end:
        raise DnsError("a record's data has another length than it says")
    return value
