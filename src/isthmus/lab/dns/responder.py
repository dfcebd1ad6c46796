"""The bytes of a query in, the bytes of a response out.

Invariants: every query that has a header gets an answer, except a response (which would start a conversation between
two servers); nothing outside the zones is answered (REFUSED), nothing is transferred or changed; before the state is
complete the answer is SERVFAIL, never "no such name", which clients would remember. Answers are rotated by a number
that the caller moves, as chance has no place in here. Rejected: forwarding, which makes names outside of the cluster
depend on the machine that the lab runs on.
"""

from collections.abc import Callable, Sequence

from isthmus.lab.dns.zone import Found, Zone
from isthmus.wire.dns import (
    AA,
    ANY_CLASS,
    AXFR,
    BADVERS,
    CD,
    FORMERR,
    IN,
    IXFR,
    MAX_MESSAGE,
    MIN_UDP,
    NOERROR,
    NOTIFY,
    NOTIMP,
    NXDOMAIN,
    QR,
    QUERY,
    RD,
    REFUSED,
    SERVFAIL,
    UPDATE,
    DnsError,
    Edns,
    Message,
    Name,
    Question,
    Record,
    lowered,
    read,
    write,
)

UDP_SIZE = 1232
"""Bytes of a UDP response at most, whatever the client takes: what no network fragments (DNS flag day 2020)."""
MAX_ALIASES = 8
"""CNAMEs that are followed for one answer."""
_HEADER = 12


class Responder:
    """Answers for zones; `is_ready` tells whether their state is complete."""

    def __init__(self, zones: Sequence[Zone], *, is_ready: Callable[[], bool] = lambda: True) -> None:
        # The longest origin first: a zone within a zone is asked before the one around it.
        self._zones = sorted(zones, key=lambda zone: -len(zone.origin))
        self._is_ready = is_ready
        self._rotation = 0
        self.last: tuple[int, int] = (0, NOERROR)
        """Type and response code of the last answer, for counting."""

    def respond(self, data: bytes, *, stream: bool) -> bytes | None:
        """Returns the response to a query that came over UDP or a stream; None if there is to be none."""
        if len(data) < _HEADER or data[2] & 0x80:
            return None
        number = data[0] << 8 | data[1]
        flags = data[2] << 8 | data[3]
        try:
            query = read(data)
        except DnsError:
            return self._refuse(number, flags, FORMERR)
        if query.opcode != QUERY:
            code = REFUSED if query.opcode in (NOTIFY, UPDATE) else NOTIMP
            return self._refuse(number, flags, code, query)
        if len(query.questions) != 1 or query.answers or query.authorities:
            return self._refuse(number, flags, FORMERR)
        if query.edns is not None and query.edns.version != 0:
            return self._refuse(number, flags, BADVERS, query)
        return self._answer(query, stream=stream)

    def _answer(self, query: Message, *, stream: bool) -> bytes:
        question = query.questions[0]
        code, found, zone = self.resolve(question)
        self.last = (question.type, code)
        self._rotation += 1
        answers = rotated(found.records, self._rotation)
        authorities = (zone.soa(),) if zone is not None and not found.records and code in (NOERROR, NXDOMAIN) else ()
        flags = QR | query.flags & (RD | CD) | (AA if zone is not None else 0) | code
        edns = None if query.edns is None else Edns(UDP_SIZE, dnssec=query.edns.dnssec)
        asked = MIN_UDP if query.edns is None else query.edns.size
        limit = MAX_MESSAGE if stream else max(min(asked, UDP_SIZE), MIN_UDP)
        response = Message(query.id, flags, query.questions, answers, authorities, found.additionals, edns)
        return write(response, limit=limit)

    def resolve(self, question: Question) -> tuple[int, Found, Zone | None]:
        """Returns the response code, what was found, and the zone that the name is in."""
        name = lowered(question.name)
        zone = self._zone(name)
        if zone is None or question.cls not in (IN, ANY_CLASS) or question.type in (AXFR, IXFR):
            return REFUSED, Found(), None
        if not self._is_ready():
            return SERVFAIL, Found(), None
        found = zone.find(name, question.type)
        records: list[Record] = [_as_asked(record, name, question.name) for record in found.records]
        additionals = list(found.additionals)
        for _ in range(MAX_ALIASES):
            if found.alias is None:
                break
            target = lowered(found.alias)
            inner = self._zone(target)
            if inner is None or any(record.name == target for record in records):
                break
            found = inner.find(target, question.type)
            records += found.records
            additionals += found.additionals
        code = NOERROR if found.exists else NXDOMAIN
        return code, Found(tuple(records), tuple(additionals), found.exists), zone

    def _zone(self, name: Name) -> Zone | None:
        for zone in self._zones:
            size = len(zone.origin)
            if len(name) >= size and name[len(name) - size :] == zone.origin:
                return zone
        return None

    def _refuse(self, number: int, flags: int, code: int, query: Message | None = None) -> bytes:
        self.last = (query.questions[0].type if query is not None and query.questions else 0, code)
        questions = () if query is None or len(query.questions) != 1 else query.questions
        edns = None if query is None or query.edns is None else Edns(UDP_SIZE, extended=code >> 4)
        kept = flags & 0x7800 | flags & RD
        return write(Message(number, QR | kept | code & 0xF, questions, edns=edns))


def rotated(records: tuple[Record, ...], by: int) -> tuple[Record, ...]:
    """Returns the records in another order, so that clients that take the first one spread; aliases stay in front."""
    if len(records) < 2 or len({record.name for record in records}) > 1:
        return records
    by %= len(records)
    return records[by:] + records[:by]


def _as_asked(record: Record, name: Name, asked: Name) -> Record:
    """Gives a record the name in the letters of the question."""
    return record._replace(name=asked) if record.name == name else record
