"""Queries in, responses out: codes, flags, sizes."""

import pytest

from isthmus.lab.dns.data import Endpoint, Port, Service, Slice
from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.responder import UDP_SIZE, Responder
from isthmus.lab.dns.reverse import IN_ADDR, IP6, ReverseZone
from isthmus.lab.dns.zone import ServiceZone
from isthmus.wire import dns

DOMAIN = (b"cluster", b"local")
HTTP = Port(b"http", b"tcp", 80)
WEB = (b"shop", b"web")


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    directory.put_service(Service(WEB, addresses=(b"\x0a\x60\x00\x07", bytes(15) + b"\x07"), ports=(HTTP,)))
    directory.put_service(Service((b"shop", b"db"), ports=(HTTP,)))
    endpoints = (Endpoint(b"db-0", b"\x0a\x01\x00\x01", True), Endpoint(b"10-1-0-2", b"\x0a\x01\x00\x02", True))
    directory.put_slice(Slice((b"shop", b"db-x"), (b"shop", b"db"), endpoints, (HTTP,)))
    directory.put_service(Service((b"shop", b"old"), alias=(b"web", b"shop", b"svc", *DOMAIN)))
    directory.put_service(Service((b"shop", b"out"), alias=(b"example", b"com")))
    directory.put_service(Service((b"shop", b"loop"), alias=(b"loop", b"shop", b"svc", *DOMAIN)))
    directory.put_namespace(b"empty")
    return directory


@pytest.fixture
def responder(directory: Directory) -> Responder:
    zone = ServiceZone(DOMAIN, directory)
    return Responder([zone, ReverseZone(IN_ADDR, zone, directory), ReverseZone(IP6, zone, directory)])


def ask(
    responder: Responder,
    name: str,
    kind: int = dns.A,
    *,
    stream: bool = False,
    edns: dns.Edns | None = None,
    cls: int = 1,
) -> dns.Message:
    query = dns.Message(4711, dns.RD, (dns.Question(dns.parse_name(name), kind, cls),), edns=edns)
    response = responder.respond(dns.write(query), stream=stream)
    assert response is not None
    return dns.read(response)


@pytest.mark.parametrize(
    ("name", "kind", "code", "count"),
    [
        ("web.shop.svc.cluster.local", dns.A, dns.NOERROR, 1),
        ("web.shop.svc.cluster.local", dns.AAAA, dns.NOERROR, 1),
        ("web.shop.svc.cluster.local", dns.TXT, dns.NOERROR, 0),
        ("web.shop.svc.cluster.local", dns.ANY, dns.NOERROR, 2),
        ("_http._tcp.web.shop.svc.cluster.local", dns.SRV, dns.NOERROR, 1),
        ("_http._udp.web.shop.svc.cluster.local", dns.SRV, dns.NXDOMAIN, 0),
        ("http.tcp.web.shop.svc.cluster.local", dns.SRV, dns.NXDOMAIN, 0),
        ("a.b.c.web.shop.svc.cluster.local", dns.A, dns.NXDOMAIN, 0),
        ("nope.shop.svc.cluster.local", dns.A, dns.NXDOMAIN, 0),
        ("shop.svc.cluster.local", dns.A, dns.NOERROR, 0),
        ("empty.svc.cluster.local", dns.A, dns.NOERROR, 0),
        ("absent.svc.cluster.local", dns.A, dns.NXDOMAIN, 0),
        ("svc.cluster.local", dns.A, dns.NOERROR, 0),
        ("nope.cluster.local", dns.A, dns.NXDOMAIN, 0),
        ("cluster.local", dns.SOA, dns.NOERROR, 1),
        ("cluster.local", dns.NS, dns.NOERROR, 1),
        ("cluster.local", dns.A, dns.NOERROR, 0),
        ("dns-version.cluster.local", dns.TXT, dns.NOERROR, 1),
        ("db.shop.svc.cluster.local", dns.A, dns.NOERROR, 2),
        ("db-0.db.shop.svc.cluster.local", dns.A, dns.NOERROR, 1),
        ("db-1.db.shop.svc.cluster.local", dns.A, dns.NXDOMAIN, 0),
        ("10-1-0-2.shop.pod.cluster.local", dns.A, dns.NOERROR, 1),
        ("10-1-0-2.shop.pod.cluster.local", dns.AAAA, dns.NOERROR, 0),
        ("fd00--1.shop.pod.cluster.local", dns.AAAA, dns.NOERROR, 1),
        ("10-1-0-2.absent.pod.cluster.local", dns.A, dns.NXDOMAIN, 0),
        ("10-1-0-256.shop.pod.cluster.local", dns.A, dns.NXDOMAIN, 0),
        ("7.0.96.10.in-addr.arpa", dns.PTR, dns.NOERROR, 1),
        ("1.0.1.10.in-addr.arpa", dns.PTR, dns.NOERROR, 1),
        ("9.0.96.10.in-addr.arpa", dns.PTR, dns.NXDOMAIN, 0),
        ("0.96.10.in-addr.arpa", dns.PTR, dns.NOERROR, 0),
        ("999.0.96.10.in-addr.arpa", dns.PTR, dns.NXDOMAIN, 0),
        ("7" + ".0" * 31 + ".ip6.arpa", dns.PTR, dns.NOERROR, 1),
        ("example.com", dns.A, dns.REFUSED, 0),
        ("cluster.locale", dns.A, dns.REFUSED, 0),
        ("local", dns.A, dns.REFUSED, 0),
        (".", dns.NS, dns.REFUSED, 0),
        ("cluster.local", dns.AXFR, dns.REFUSED, 0),
        ("cluster.local", dns.IXFR, dns.REFUSED, 0),
    ],
)  # fmt: skip
def test_answers_by_the_specification(responder: Responder, name: str, kind: int, code: int, count: int) -> None:
    answer = ask(responder, name, kind)
    assert (answer.rcode, len(answer.answers)) == (code, count)
    assert answer.id == 4711 and answer.flags & dns.QR and answer.flags & dns.RD
    assert all(record.ttl == 5 for record in (*answer.answers, *answer.authorities, *answer.additionals))
    inside = code != dns.REFUSED
    assert bool(answer.flags & dns.AA) == inside
    # An absence is told with the zone's SOA, which says for how long it may be remembered.
    assert [record.type for record in answer.authorities] == ([dns.SOA] if inside and not count else [])


def test_letters_come_back_as_they_were_asked(responder: Responder) -> None:
    answer = ask(responder, "wEb.ShOp.svc.CLUSTER.local")
    assert answer.questions[0].name == answer.answers[0].name == (b"wEb", b"ShOp", b"svc", b"CLUSTER", b"local")


def test_services_come_with_the_addresses_of_their_targets(responder: Responder) -> None:
    answer = ask(responder, "_http._tcp.db.shop.svc.cluster.local", dns.SRV)
    targets = {record.data.target for record in answer.answers if isinstance(record.data, dns.Srv)}
    assert targets == {record.name for record in answer.additionals}
    assert {name[0] for name in targets} == {b"db-0", b"10-1-0-2"}


def test_other_names_are_followed_within_the_cluster(responder: Responder) -> None:
    inside = ask(responder, "old.shop.svc.cluster.local")
    assert [record.type for record in inside.answers] == [dns.CNAME, dns.A]
    outside = ask(responder, "out.shop.svc.cluster.local")
    assert [record.data for record in outside.answers] == [(b"example", b"com")]
    assert len(ask(responder, "loop.shop.svc.cluster.local").answers) < 10


def test_answers_rotate(responder: Responder) -> None:
    firsts = {ask(responder, "db.shop.svc.cluster.local").answers[0].data for _ in range(4)}
    assert len(firsts) == 2


def test_a_long_answer_is_cut_over_udp_and_whole_over_tcp(responder: Responder, directory: Directory) -> None:
    endpoints = tuple(Endpoint(b"h-%d" % n, bytes((10, 2, n // 256, n % 256)), True) for n in range(300))
    directory.put_service(Service((b"shop", b"big")))
    directory.put_slice(Slice((b"shop", b"big-x"), (b"shop", b"big"), endpoints))
    plain = dns.write(dns.Message(1, 0, (dns.Question(dns.parse_name("big.shop.svc.cluster.local"), dns.A),)))
    short = responder.respond(plain, stream=False)
    assert short is not None and len(short) <= 512 and dns.read(short).flags & dns.TC
    wide = ask(responder, "big.shop.svc.cluster.local", edns=dns.Edns(4096))
    assert wide.flags & dns.TC and 60 < len(wide.answers) < 80 and wide.edns == dns.Edns(UDP_SIZE)
    assert len(ask(responder, "big.shop.svc.cluster.local", stream=True).answers) == 300


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00", dns.FORMERR),  # a question is promised
        (b"\x12\x34\x01\x00" + bytes(8), dns.FORMERR),  # no question
        (b"\x12\x34\x20\x00" + bytes(8), dns.REFUSED),  # notify
        (b"\x12\x34\x28\x00" + bytes(8), dns.REFUSED),  # update
        (b"\x12\x34\x10\x00" + bytes(8), dns.NOTIMP),  # status
        (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", dns.FORMERR),  # points at itself
    ],
)
def test_what_is_no_query_is_answered_with_its_number(responder: Responder, data: bytes, code: int) -> None:
    response = responder.respond(data, stream=False)
    assert response is not None
    assert (response[:2], dns.read(response).rcode) == (b"\x12\x34", code)


@pytest.mark.parametrize("data", [b"", b"\x12\x34\x01", b"\x12\x34\x81\x80" + bytes(8)])
def test_responses_and_rubbish_are_not_answered(responder: Responder, data: bytes) -> None:
    assert responder.respond(data, stream=False) is None


def test_other_versions_and_classes_are_refused(responder: Responder) -> None:
    assert ask(responder, "web.shop.svc.cluster.local", edns=dns.Edns(1232, version=1)).rcode == dns.BADVERS
    assert ask(responder, "version.bind", dns.TXT, cls=3).rcode == dns.REFUSED


def test_nothing_is_denied_before_everything_is_known(directory: Directory) -> None:
    ready = False
    responder = Responder([ServiceZone(DOMAIN, directory)], is_ready=lambda: ready)
    assert ask(responder, "nope.shop.svc.cluster.local").rcode == dns.SERVFAIL
    assert ask(responder, "example.com").rcode == dns.REFUSED
    ready = True
    assert ask(responder, "nope.shop.svc.cluster.local").rcode == dns.NXDOMAIN


def test_a_second_zone_answers_from_its_own_directory(directory: Directory) -> None:
    imported = Directory()
    imported.put_service(Service(WEB, addresses=(b"\x0a\x70\x00\x01",), ports=(HTTP,)))
    responder = Responder(
        [ServiceZone(DOMAIN, directory), ServiceZone((b"clusterset", b"local"), imported, pods=False)]
    )
    assert ask(responder, "web.shop.svc.clusterset.local").answers[0].data == b"\x0a\x70\x00\x01"
    assert ask(responder, "10-1-0-1.shop.pod.clusterset.local").rcode == dns.NXDOMAIN
    assert ask(responder, "web.shop.svc.cluster.local").answers[0].data == b"\x0a\x60\x00\x07"
