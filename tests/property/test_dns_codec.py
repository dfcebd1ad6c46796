"""Our DNS codec against dnspython, and against bytes that nobody meant."""

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.wire import dns as ours

LABELS = st.binary(min_size=1, max_size=20) | st.sampled_from([b"a", b"web", b"svc", b"cluster", b"local"])
NAMES = st.lists(LABELS, max_size=6).map(tuple).filter(lambda name: sum(map(len, name)) + len(name) < 250)
TEXTS = st.lists(st.binary(max_size=30), min_size=1, max_size=3)
U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0x7FFFFFFF)
DATA = st.one_of(
    st.tuples(st.just(ours.A), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(ours.AAAA), st.binary(min_size=16, max_size=16)),
    st.tuples(st.sampled_from([ours.CNAME, ours.NS, ours.PTR]), NAMES),
    st.tuples(st.just(ours.SRV), st.builds(ours.Srv, U16, U16, U16, NAMES)),
    st.tuples(st.just(ours.SOA), st.builds(ours.Soa, NAMES, NAMES, U32, U32, U32, U32, U32)),
    st.tuples(st.just(ours.TXT), TEXTS.map(lambda texts: ours.text_data(*texts))),
)
RECORDS = st.builds(lambda name, ttl, pair: ours.Record(name, pair[0], ttl, pair[1]), NAMES, U32, DATA)
SECTION = st.lists(RECORDS, max_size=5).map(tuple)
EDNS = st.none() | st.builds(ours.Edns, st.integers(512, 4096), st.just(0), st.booleans(), st.just(0))
KINDS = st.sampled_from([ours.A, ours.AAAA, ours.SRV])
QUESTIONS = st.builds(lambda name, kind: ours.Question(name, kind), NAMES, KINDS)
MESSAGES = st.builds(
    ours.Message,
    U16,
    st.integers(0, 0xFFFF).map(lambda flags: flags & ~ours.TC & ~0x7800),
    QUESTIONS.map(lambda question: (question,)),
    SECTION,
    SECTION,
    SECTION,
    EDNS,
)


def theirs(record: ours.Record) -> str:
    """A record as dnspython writes it."""
    name = dns.name.Name([*record.name, b""])
    data = record.data
    if isinstance(data, ours.Srv):
        text = f"{data.priority} {data.weight} {data.port} {dns.name.Name([*data.target, b''])}"
    elif isinstance(data, ours.Soa):
        names = f"{dns.name.Name([*data.primary, b''])} {dns.name.Name([*data.contact, b''])}"
        text = f"{names} {data.serial} {data.refresh} {data.retry} {data.expire} {data.minimum}"
    elif isinstance(data, tuple):
        text = str(dns.name.Name([*data, b""]))
    else:
        kind = dns.rdatatype.RdataType.make(record.type)
        text = dns.rdata.from_wire(dns.rdataclass.IN, kind, data, 0, len(data)).to_text()
    return f"{name} {record.ttl} {record.type} {text}"


def flattened(section: list[dns.rrset.RRset]) -> list[str]:
    return [f"{rrset.name} {rrset.ttl} {int(rrset.rdtype)} {rdata.to_text()}" for rrset in section for rdata in rrset]


@settings(max_examples=60)
@given(MESSAGES)
def test_what_is_written_is_read_by_dnspython(message: ours.Message) -> None:
    wire = ours.write(message)
    parsed = dns.message.from_wire(wire, one_rr_per_rrset=True)
    assert parsed.id == message.id
    assert parsed.question[0].name.labels[:-1] == message.questions[0].name
    for section, records in (
        (parsed.answer, message.answers),
        (parsed.authority, message.authorities),
        (parsed.additional, message.additionals),
    ):
        assert flattened(section) == [theirs(record) for record in records]
    if message.edns is not None:
        assert (parsed.payload, bool(parsed.ednsflags & dns.flags.DO)) == (message.edns.size, message.edns.dnssec)


@settings(max_examples=60)
@given(MESSAGES)
def test_what_is_written_is_read_back(message: ours.Message) -> None:
    back = ours.read(ours.write(message))
    assert back._replace(questions=()) == message._replace(questions=()) or same_but_for_case(back, message)


def same_but_for_case(one: ours.Message, other: ours.Message) -> bool:
    """Compression may take the case of a name that was written before."""
    return repr(one).lower() == repr(other).lower()


@settings(max_examples=60)
@given(MESSAGES)
def test_what_dnspython_writes_is_read(message: ours.Message) -> None:
    rewritten = dns.message.from_wire(ours.write(message), one_rr_per_rrset=True)
    rewritten.use_edns(-1) if message.edns is None else None
    assert same_but_for_case(ours.read(rewritten.to_wire(max_size=65535)), message)


@settings(max_examples=60)
@given(MESSAGES, st.integers(512, 1500))
def test_a_message_that_is_too_long_is_cut_at_a_record_and_says_so(message: ours.Message, limit: int) -> None:
    wire = ours.write(message, limit=limit)
    whole = ours.write(message)
    back = ours.read(wire)
    assert len(wire) <= max(limit, len(ours.write(ours.Message(1, 0, message.questions, edns=message.edns))))
    if len(whole) <= limit:
        assert wire == whole
    answers = len(back.answers)
    assert same_but_for_case(back._replace(flags=0), message._replace(
        flags=0, answers=message.answers[:answers], authorities=message.authorities[: len(back.authorities)],
        additionals=message.additionals[: len(back.additionals)],
    ))  # fmt: skip
    lost = len(message.answers) + len(message.authorities) - answers - len(back.authorities)
    assert bool(back.flags & ours.TC) == bool(lost)


@settings(max_examples=60)
@given(st.binary(max_size=200) | st.binary(min_size=12, max_size=12).map(lambda head: head + b"\xc0\x0c" * 40))
def test_any_bytes_give_a_message_or_the_modules_own_error(data: bytes) -> None:
    try:
        ours.read(data)
    except ours.DnsError:
        return


@settings(max_examples=60)
@given(MESSAGES, st.data())
def test_a_damaged_message_is_read_or_refused_as_dnspython_does(message: ours.Message, data: st.DataObject) -> None:
    wire = bytearray(ours.write(message))
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = ours.read(bytes(wire))
    except ours.DnsError:
        return
    # What we take, others can read: names and counts are sound.
    try:
        again = ours.read(ours.write(found._replace(flags=found.flags & ~ours.TC)))
    except ours.DnsError:
        return
    assert len(again.answers) == len(found.answers)


@settings(max_examples=60)
@given(NAMES)
def test_names_survive_their_presentation(name: ours.Name) -> None:
    assert ours.parse_name(ours.name_text(name)) == name
    assert dns.name.from_text(ours.name_text(name)).labels[:-1] == name


@pytest.mark.parametrize("text", ["a..b", ".a", "a" * 64, ".".join(["a" * 60] * 5), "ü", "a\\", "a.b.."])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ours.DnsError):
        ours.parse_name(text)


def test_a_chain_of_pointers_costs_no_more_than_its_length() -> None:
    # Each label points to the one before; the last name would be 5,000 jumps away without a bound on its length.
    body = b"\x01a\x00" + b"".join(
        b"\x01a" + (0xC000 | (12 if n == 0 else 15 + 4 * (n - 1))).to_bytes(2, "big") for n in range(5000)
    )
    header = bytes((0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    with pytest.raises(ours.DnsError):
        ours.read_name(header + body, 12 + len(body) - 4)
