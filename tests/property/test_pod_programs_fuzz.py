"""Bytes and texts that nobody meant, given to the programs in pods: an answer or their own error, never another one."""

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.lab.dns.corefile import CorefileError
from isthmus.lab.dns.corefile import parse as parse_corefile
from isthmus.lab.dns.data import Port, Service
from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.follow import Progress, resources
from isthmus.lab.dns.responder import Responder
from isthmus.lab.dns.reverse import IN_ADDR, ReverseZone
from isthmus.lab.dns.zone import ServiceZone
from isthmus.lab.images.imagefile import ImageFileError
from isthmus.lab.images.imagefile import parse as parse_images
from isthmus.lab.images.programs.jsonmock import Store
from isthmus.lab.images.programs.messages import BadRequest, Request, parse_head, parse_query, unchunk, unquote
from isthmus.lab.images.programs.nginx.answering import Answerer, resolve
from isthmus.lab.images.programs.nginx.grammar import ConfigError, Reader
from isthmus.lab.images.programs.nginx.site import build
from isthmus.model.durations import seconds
from isthmus.wire import dns

DIRECTORY = Directory()
DIRECTORY.put_service(Service((b"a", b"web"), (b"\x0a\x60\x00\x01",), (Port(b"http", b"tcp", 80),)))
ZONE = ServiceZone((b"cluster", b"local"), DIRECTORY)
RESPONDER = Responder([ZONE, ReverseZone(IN_ADDR, ZONE, DIRECTORY)])
QUERY = dns.write(dns.Message(7, dns.RD, (dns.Question(dns.parse_name("web.a.svc.cluster.local"), dns.A),)))
LABELS = st.sampled_from([b"web", b"a", b"svc", b"pod", b"_http", b"_tcp", b"10-0-0-1", b"in-addr", b"arpa", b"1"])
ENDS = st.sampled_from([(b"cluster", b"local"), (b"svc", b"cluster", b"local"), (b"in-addr", b"arpa"), ()])


def respond(data: bytes) -> None:
    for stream in (False, True):
        answer = RESPONDER.respond(data, stream=stream)
        if answer is None:
            assert len(data) < 12 or data[2] & 0x80
        else:
            found = dns.read(answer)
            assert answer[:2] == data[:2] and found.flags & dns.QR
            assert stream or len(answer) <= 1232


@settings(max_examples=150)
@given(st.binary(max_size=80), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=4))
def test_every_datagram_has_an_answer_or_none(data: bytes, changes: list[tuple[int, int]]) -> None:
    respond(data)
    damaged = bytearray(QUERY)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    respond(bytes(damaged))


@settings(max_examples=150)
@given(st.lists(LABELS, max_size=8).map(tuple), ENDS, st.sampled_from([1, 2, 5, 6, 12, 16, 28, 33, 251, 252, 255, 999]))
def test_every_question_has_an_answer(inner: dns.Name, end: dns.Name, kind: int) -> None:
    respond(dns.write(dns.Message(7, dns.RD, (dns.Question((*inner, *end), kind),), edns=dns.Edns(1232))))


WORDS = st.sampled_from(
    """http { } server { } ; location / ~ = @x return 200 root /tmp index listen 80 "text" 'q' # \n include /x * $uri
    ${x .:53 { } kubernetes cluster.local ttl 5 pods insecure health ready""".split(" ")
) | st.text(max_size=5)
TEXTS = st.lists(WORDS, max_size=25).map(" ".join)


def no_file(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


@settings(max_examples=200)
@given(TEXTS)
def test_configurations_are_understood_or_refused(text: str) -> None:
    with contextlib.suppress(CorefileError):
        parse_corefile(text)
    with contextlib.suppress(ImageFileError):
        parse_images(text.encode(errors="replace"), where="FILE")
    with contextlib.suppress(ConfigError):
        site = build(Reader(no_file, lambda _pattern: []).parse(text, "x"))
        request = Request("GET /a HTTP/1.1", {"host": "h"}, peer=("10.0.0.1", 1), local=("10.0.0.2", 80))
        Answerer(site, pages={}, types={}).answer(request)


@settings(max_examples=150)
@given(st.binary(max_size=200), st.text(max_size=60))
def test_requests_are_read_or_refused(data: bytes, text: str) -> None:
    with contextlib.suppress(BadRequest):
        line, headers = parse_head(data)
        Request(line, headers, peer=("10.0.0.1", 1), local=("10.0.0.2", 80))
    with contextlib.suppress(BadRequest):
        unchunk(bytearray(data), limit=100)
    parse_query(text)
    seconds(text)
    plain = resolve("/" + unquote(text))
    assert plain is None or (plain.startswith("/") and ".." not in plain.split("/"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("id"), inner, max_size=3),
    max_leaves=10,
)
CALLS = st.tuples(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]),
    st.sampled_from(["/a", "/a/1", "/b", "/b/x", "/c", "/db", "/"]),
    st.dictionaries(st.sampled_from(["q", "_sort", "_page", "_limit", "id", "x.y"]), st.text(max_size=3), max_size=2),
    st.binary(max_size=10) | st.sampled_from([b'{"id": 1}', b'{"id": [1]}', b"[]", b'{"x": {"y": 1}}']),
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON), st.lists(CALLS, max_size=6))
def test_a_document_answers_whatever_is_asked(data: dict[str, Any], calls: list[Any]) -> None:
    store = Store(data)
    for method, path, query, body in calls:
        status, _answer = store.answer(method, path, query, body)
        assert 200 <= status < 600


@settings(max_examples=150)
@given(st.lists(JSON, max_size=4), st.booleans())
def test_lists_and_events_of_any_kind_are_taken(bodies: list[Any], watching: bool) -> None:
    progress = Progress(resources(Directory())[1])
    if watching:
        progress.page({"metadata": {"resourceVersion": "1"}, "items": []})
    for body in bodies:
        progress.page({"metadata": body, "items": [body, {"metadata": body}]})
        progress.event({"type": "ADDED", "object": {"metadata": body, "endpoints": [body], "ports": body}})
        progress.event(body)
    assert progress.request()
