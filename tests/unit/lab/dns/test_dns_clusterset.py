"""Names of what other clusters export."""

import pytest

from isthmus.lab.dns.clusterset import ClusterSetZone
from isthmus.lab.dns.data import Endpoint, Port, Service, Slice
from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.responder import Responder
from isthmus.lab.dns.zone import ServiceZone
from isthmus.wire import dns

HTTP = Port(b"http", b"tcp", 80)
DB = (b"shop", b"db")


@pytest.fixture
def responder() -> Responder:
    own, imports = Directory(), Directory()
    own.put_service(Service((b"kube-system", b"kube-dns"), addresses=(b"\x0a\x60\x00\x0a",)))
    imports.put_service(Service((b"shop", b"web"), addresses=(b"\x0a\x60\x00\x07",), ports=(HTTP,)))
    imports.put_service(Service(DB, ports=(HTTP,)))
    imports.put_service(Service((b"shop", b"idle"), ports=(HTTP,)))
    for cluster, number in ((b"tion", 1), (b"koornacht", 2)):
        address = bytes((10, number, 0, 1))
        endpoints = (
            Endpoint(b"db-0", address, True, cluster),
            Endpoint(b"db-1", bytes((10, number, 0, 2)), False, cluster),
        )
        imports.put_slice(Slice((b"shop", b"db-" + cluster), DB, endpoints, (HTTP,)))
        imports.put_slice(Slice((b"shop", b"web-" + cluster), (b"shop", b"web"), endpoints, (HTTP,)))
    zone = ServiceZone((b"cluster", b"local"), own)
    return Responder([zone, ClusterSetZone((b"clusterset", b"local"), imports, server=zone)])


def ask(responder: Responder, name: str, kind: int = dns.A) -> dns.Message:
    query = dns.Message(4711, dns.RD, (dns.Question(dns.parse_name(name), kind, 1),))
    response = responder.respond(dns.write(query), stream=False)
    assert response is not None
    return dns.read(response)


@pytest.mark.parametrize(
    ("name", "kind", "code", "count"),
    [
        ("web.shop.svc.clusterset.local", dns.A, dns.NOERROR, 1),
        ("web.shop.svc.clusterset.local", dns.AAAA, dns.NOERROR, 0),
        ("_http._tcp.web.shop.svc.clusterset.local", dns.SRV, dns.NOERROR, 1),
        ("_http._udp.web.shop.svc.clusterset.local", dns.SRV, dns.NXDOMAIN, 0),
        ("web.shop.svc.cluster.local", dns.A, dns.NXDOMAIN, 0),
        ("absent.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("shop.svc.clusterset.local", dns.A, dns.NOERROR, 0),
        ("other.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("db.shop.svc.clusterset.local", dns.A, dns.NOERROR, 2),
        ("idle.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("db-0.tion.db.shop.svc.clusterset.local", dns.A, dns.NOERROR, 1),
        ("db-0.koornacht.db.shop.svc.clusterset.local", dns.A, dns.NOERROR, 1),
        ("db-0.koornacht.db.shop.svc.clusterset.local", dns.AAAA, dns.NOERROR, 0),
        ("db-0.koornacht.db.shop.svc.clusterset.local", dns.SRV, dns.NOERROR, 1),
        ("db-1.tion.db.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("db-0.absent.db.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        # Nothing stands for one cluster's endpoints; but there are names below it.
        ("tion.db.shop.svc.clusterset.local", dns.A, dns.NOERROR, 0),
        ("absent.db.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("db-0.db.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("tion.web.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("db-0.tion.web.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("a.db-0.tion.db.shop.svc.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("10-1-0-1.shop.pod.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("clusterset.local", dns.SOA, dns.NOERROR, 1),
        ("clusterset.local", dns.NS, dns.NOERROR, 1),
        ("ns.dns.clusterset.local", dns.A, dns.NXDOMAIN, 0),
        ("ns.dns.cluster.local", dns.A, dns.NOERROR, 1),
    ],
)  # fmt: skip
def test_answers_by_the_specification(responder: Responder, name: str, kind: int, code: int, count: int) -> None:
    answer = ask(responder, name, kind)
    assert (answer.rcode, len(answer.answers)) == (code, count)
    assert all(record.ttl == 5 for record in (*answer.answers, *answer.authorities, *answer.additionals))
    assert answer.flags & dns.AA
    assert [record.type for record in answer.authorities] == ([] if count else [dns.SOA])


def test_the_name_server_has_its_name_in_the_clusters_own_zone(responder: Responder) -> None:
    (record,) = ask(responder, "clusterset.local", dns.NS).answers
    assert record.data == (b"ns", b"dns", b"cluster", b"local")


def test_service_records_name_each_cluster(responder: Responder) -> None:
    answer = ask(responder, "_http._tcp.db.shop.svc.clusterset.local", dns.SRV)
    targets = {record.data.target for record in answer.answers if isinstance(record.data, dns.Srv)}
    base = (b"db", b"shop", b"svc", b"clusterset", b"local")
    assert targets == {(b"db-0", b"tion", *base), (b"db-0", b"koornacht", *base)}
    assert {record.name for record in answer.additionals} == targets
