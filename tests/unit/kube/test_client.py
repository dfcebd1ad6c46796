import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from isthmus.kube.access import Access, Impersonation, Material, Plugin, Tls
from isthmus.kube.auth import Credential
from isthmus.kube.client import Client, Patch
from isthmus.kube.errors import (
    AlreadyExists,
    ApiError,
    BadAnswer,
    ConfigError,
    Conflict,
    ConnectionFailed,
    CredentialError,
    Expired,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    ServerFailure,
    TooManyRequests,
    Unauthorized,
)
from isthmus.kube.resources import EVENTS, NAMESPACES, NODES, PODS, Resource
from isthmus.kube.schema import Bare, Namespace, Pod
from tests.support.certificates import Authority
from tests.support.kubeserver import ScriptedServer, answer, pod, pod_list, status


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


async def test_verbs_and_where_they_go(server: ScriptedServer) -> None:
    server.script.extend(answer(pod("a")) for _ in range(7))
    async with Client(server.access) as client:
        found = await client.get(PODS, "a", type=Pod, namespace="demo")
        await client.create(PODS, pod("a"), type=dict, namespace="demo")
        await client.create(PODS, {}, type=dict, namespace="demo", name="a", subresource="binding")
        await client.replace(PODS, "a", b"{}", type=msgspec.Raw, namespace="demo", subresource="status")
        await client.patch(PODS, "a", {"x": 1}, type=Pod, namespace="demo")
        await client.patch(PODS, "a", {}, type=Pod, kind=Patch.APPLY, namespace="demo", field_manager="me", force=True)
        await client.delete(PODS, "a", namespace="demo", uid="u1", grace_period=0, propagation="Background")

    assert found.metadata.uid == "uid-a"
    assert [(r.method, str(r.rel_url)) for r in server.requests] == [
        ("GET", "/api/v1/namespaces/demo/pods/a"),
        ("POST", "/api/v1/namespaces/demo/pods"),
        ("POST", "/api/v1/namespaces/demo/pods/a/binding"),
        ("PUT", "/api/v1/namespaces/demo/pods/a/status"),
        ("PATCH", "/api/v1/namespaces/demo/pods/a"),
        ("PATCH", "/api/v1/namespaces/demo/pods/a?fieldManager=me&force=true"),
        ("DELETE", "/api/v1/namespaces/demo/pods/a"),
    ]
    assert [r.headers.get("Content-Type") for r in server.requests[3:6]] == [
        "application/json",
        "application/merge-patch+json",
        "application/apply-patch+yaml",
    ]
    assert json.loads(server.bodies[6]) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u1"},
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Background",
    }


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Expired),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", ServerFailure),
        (503, "", ServerFailure),
    ],
)
async def test_errors_are_made_from_the_status_body(
    server: ScriptedServer, code: int, reason: str, expected: type[KubeError]
) -> None:
    server.script.append(answer(status(code, reason, "because", details={"retryAfterSeconds": 7}), status=code))
    async with Client(server.access) as client:
        with pytest.raises(expected, match="because") as caught:
            await client.get(NODES, "a", type=Bare)

    assert type(caught.value) is expected
    assert isinstance(caught.value, ApiError)
    assert caught.value.retry_after == 7


async def test_an_error_that_is_no_status_is_clipped(server: ScriptedServer) -> None:
    server.script.append(answer(b"<html>\n" + b"x" * 10_000, status=502))
    async with Client(server.access) as client:
        with pytest.raises(ServerFailure, match="HTTP 502: <html> x") as caught:
            await client.get(NODES, "a", type=Bare)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"kind":"Node","metadata":{"name":"a"}}',
        b'{"kind":"Pod"}',
    ],
)
async def test_answers_that_are_not_what_was_asked_for(server: ScriptedServer, body: bytes) -> None:
    server.script.extend([answer(body), answer(body)])
    async with Client(server.access) as client:
        with pytest.raises(BadAnswer, match="GET /api/v1/namespaces/demo/pods/a"):
            await client.get(PODS, "a", type=Pod, namespace="demo")
        with pytest.raises(BadAnswer, match="GET /api/v1/pods"):
            await client.list_all(PODS, type=Pod)


async def test_lists_are_read_in_pages(server: ScriptedServer) -> None:
    server.script.extend([answer(pod_list(pod("a"), more="t1")), answer(pod_list(pod("b"), None, more="")), answer({})])
    async with Client(server.access) as client:
        found = await client.list_all(PODS, type=Pod, label_selector="app in (a,b)", field_selector="spec.nodeName=n")

    assert [p.metadata.name for p in found] == ["a", "b"]
    shared = {"labelSelector": "app in (a,b)", "fieldSelector": "spec.nodeName=n", "limit": "500"}
    assert server.queries() == [shared, {**shared, "continue": "t1"}]


async def test_pages_that_never_end_are_noticed(server: ScriptedServer) -> None:
    server.script.extend(answer(pod_list(pod("a"), more="same")) for _ in range(3))
    async with Client(server.access) as client:
        with pytest.raises(BadAnswer, match="same continue token twice"):
            await client.list_all(PODS, type=Pod)


async def test_null_means_absent(server: ScriptedServer) -> None:
    quirky = {**pod("a", labels=None), "spec": {"containers": None, "nodeName": None}, "status": None}
    server.script.extend([answer(quirky), answer({**pod_list(), "items": None})])
    async with Client(server.access) as client:
        found = await client.get(PODS, "a", type=Pod, namespace="demo")
        assert (found.metadata.labels, found.spec.containers, found.status.phase) == ({}, (), "")
        assert await client.list_all(PODS, type=Pod) == []


async def test_compressed_answers_are_asked_for_and_read(server: ScriptedServer) -> None:
    server.script.append(server.stream(pod("a"), compress=True))
    async with Client(server.access, compress=True) as client:
        assert (await client.get(PODS, "a", type=Pod, namespace="demo")).metadata.name == "a"

    assert server.requests[0].headers["Accept-Encoding"] == "gzip"


async def test_an_answer_without_bound_is_cut_off(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.kube.client.MAX_BODY", 1000)
    server.script.append(answer(pod_list(*[pod("a")] * 100)))
    async with Client(server.access) as client:
        with pytest.raises(BadAnswer, match="longer than 1000 bytes"):
            await client.list_all(PODS, type=Pod)


async def test_redirects_are_not_followed(server: ScriptedServer) -> None:
    server.script.append(answer({}, status=302, headers={"Location": "http://127.0.0.1:1/"}))
    async with Client(server.access) as client:
        with pytest.raises(BadAnswer, match="redirects"):
            await client.get(NODES, "a", type=Bare)


async def test_a_server_that_is_not_there(server: ScriptedServer) -> None:
    async with Client(Access(server="http://127.0.0.1:1")) as client:
        with pytest.raises(ConnectionFailed, match=r"GET http://127\.0\.0\.1:1/api/v1/nodes/a: "):
            await client.get(NODES, "a", type=Bare)


async def test_a_connection_that_is_cut_in_the_middle_of_an_answer(server: ScriptedServer) -> None:
    server.script.append(server.stream(raw=b'{"kind":', then="cut"))
    async with Client(server.access) as client:
        with pytest.raises(ConnectionFailed, match="GET /api/v1/nodes/a"):
            await client.get(NODES, "a", type=Bare)


@pytest.mark.looptime
async def test_an_answer_that_never_comes_ends_in_an_error() -> None:
    async with ScriptedServer() as server:
        server.script.append(server.stream(raw=b"{", then="hang"))
        async with Client(server.access) as client:
            with pytest.raises(ConnectionFailed, match="no answer in 60 s"):
                await client.get(NODES, "a", type=Bare)
        server.release.set()


async def test_names_are_escaped_and_cannot_leave_their_place(server: ScriptedServer) -> None:
    server.script.append(answer({"kind": "Node", "metadata": {"name": "x"}}))
    async with Client(server.access) as client:
        await client.get(NODES, "a/../b?x=1#", type=Bare)
        for name in ("", ".", ".."):
            with pytest.raises(ValueError, match="cannot be part of a path"):
                await client.get(NODES, name, type=Bare)

    assert server.requests[0].raw_path == "/api/v1/nodes/a%2F..%2Fb%3Fx%3D1%23"


def test_paths_of_resources() -> None:
    widgets = Resource("example.com", "v1alpha1", "widgets", "Widget")

    assert widgets.path() == "/apis/example.com/v1alpha1/widgets"
    assert (widgets.api_version, str(widgets), str(PODS)) == ("example.com/v1alpha1", "widgets.example.com", "pods")
    with pytest.raises(ValueError, match="have no namespace"):
        NAMESPACES.path(namespace="a")
    with pytest.raises(ValueError, match="needs a namespace"):
        EVENTS.path(name="a")


class Tokens:
    """Gives token after token, each time the last one is refused."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = [Credential(authorization=f"Bearer {token}") for token in tokens]

    async def credential(self, *, rejected: Credential | None = None) -> Credential:
        if rejected == self.tokens[0] and len(self.tokens) > 1:
            self.tokens.pop(0)
        return self.tokens[0]


async def test_a_refused_credential_is_renewed_once_and_the_request_sent_again(server: ScriptedServer) -> None:
    no = answer(status(401, "Unauthorized", "no"), status=401)
    server.script.extend([no, answer(pod("a"))])
    async with Client(server.access, auth=Tokens("old", "new")) as client:
        await client.create(PODS, pod("a"), type=Pod, namespace="demo")

    assert [r.headers["Authorization"] for r in server.requests] == ["Bearer old", "Bearer new"]
    assert server.bodies[0] == server.bodies[1] != b""


async def test_a_credential_is_renewed_only_once(server: ScriptedServer) -> None:
    no = answer(status(401, "Unauthorized", "no"), status=401)
    server.script.extend([no, no, no])
    async with Client(server.access, auth=Tokens("a", "b", "c")) as client:
        with pytest.raises(Unauthorized, match="no"):
            await client.get(NODES, "a", type=Bare)

    assert len(server.requests) == 2


async def test_a_credential_that_cannot_be_renewed_is_not_sent_again(server: ScriptedServer) -> None:
    server.script.append(answer(status(401), status=401))
    async with Client(server.access, auth=Tokens("a")) as client:
        with pytest.raises(Unauthorized):
            await client.get(NODES, "a", type=Bare)

    assert len(server.requests) == 1


async def test_impersonation(server: ScriptedServer) -> None:
    server.script.append(answer({"kind": "Node", "metadata": {"name": "x"}}))
    who = Impersonation(user="jane", groups=("dev", "ops"), extra=(("a/b", ("1", "2")),))
    async with Client(msgspec.structs.replace(server.access, impersonation=who)) as client:
        await client.get(NODES, "x", type=Bare)

    headers = server.requests[0].headers
    assert headers["Impersonate-User"] == "jane"
    assert headers.getall("Impersonate-Group") == ["dev", "ops"]
    assert headers.getall("Impersonate-Extra-a%2Fb") == ["1", "2"]


async def peer_name(request: web.Request) -> web.StreamResponse:
    """Answers with a Namespace named like the client's certificate."""
    assert request.transport is not None
    peer = request.transport.get_extra_info("peercert") or {}
    names = [value for part in peer.get("subject", ()) for key, value in part if key == "commonName"]
    return web.json_response({"kind": "Namespace", "metadata": {"name": (names or ["nobody"])[0]}})


def serving(authority: Authority) -> ssl.SSLContext:
    """Returns a server's context that asks for a client certificate of `authority`, but does not need one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(*authority.issue("server"))
    return context


async def test_client_certificates_inline_from_files_and_rotated(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("jane")
    async with ScriptedServer(serving(authority)) as server:
        server.script.extend([peer_name] * 4)
        tls = Tls(ca=authority.ca.read_bytes())
        async with Client(Access(server=server.url, tls=tls)) as client:
            assert (await client.get(NAMESPACES, "x", type=Namespace)).metadata.name == "nobody"
        inline = Material(certificate=certificate.read_bytes(), key=key.read_bytes())
        async with Client(Access(server=server.url, tls=tls, material=inline)) as client:
            assert (await client.get(NAMESPACES, "x", type=Namespace)).metadata.name == "jane"
        files = Material(certificate_file=str(certificate), key_file=str(key))
        now = 0.0
        async with Client(Access(server=server.url, tls=tls, material=files), clock=lambda: now) as client:
            assert (await client.get(NAMESPACES, "x", type=Namespace)).metadata.name == "jane"
            for old, new in zip((certificate, key), authority.issue("joe"), strict=True):
                old.write_bytes(new.read_bytes())
            now = 1000.0
            assert (await client.get(NAMESPACES, "x", type=Namespace)).metadata.name == "joe"


async def test_a_plugin_can_give_a_client_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("from-plugin")
    answer_file = tmp_path / "answer.json"
    body = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
    version = "client.authentication.k8s.io/v1beta1"
    answer_file.write_text(json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": body}))
    plugin = Plugin(api_version=version, command="cat", args=(str(answer_file),))
    async with ScriptedServer(serving(authority)) as server:
        server.script.append(peer_name)
        async with Client(Access(server=server.url, tls=Tls(ca=authority.ca.read_bytes()), plugin=plugin)) as client:
            assert (await client.get(NAMESPACES, "x", type=Namespace)).metadata.name == "from-plugin"


async def test_the_server_is_verified(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    ours, foreign = authority.ca.read_bytes(), stranger.ca.read_bytes()
    async with ScriptedServer(serving(authority)) as server:
        server.script.extend([peer_name] * 3)
        for tls in (Tls(ca=foreign), Tls(ca=ours, server_name="other.example"), Tls()):
            async with Client(Access(server=server.url, tls=tls)) as client:
                with pytest.raises(ConnectionFailed, match=r"(?i)certificate"):
                    await client.get(NAMESPACES, "x", type=Namespace)
        for tls in (Tls(ca=ours), Tls(ca=ours, server_name="localhost"), Tls(verify=False)):
            async with Client(Access(server=server.url, tls=tls)) as client:
                await client.get(NAMESPACES, "x", type=Namespace)


async def test_certificates_that_do_not_load_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ca = authority.ca.read_bytes()
    certificate, key = (path.read_bytes() for path in authority.issue("x"))
    other_key = authority.issue("y")[1].read_bytes()
    origin = "config context 'c'"
    cases: list[tuple[Tls, Material, type[KubeError], str]] = [
        (Tls(ca=b"nonsense"), Material(), ConfigError, "certificate authority"),
        (Tls(ca=ca), Material(certificate=certificate, key=other_key), CredentialError, "do not load"),
        (Tls(ca=ca), Material(certificate=b"x", key=key), CredentialError, "do not load"),
    ]
    for tls, material, kind, message in cases:
        async with Client(Access(server="https://127.0.0.1:1", tls=tls, material=material, origin=origin)) as client:
            with pytest.raises(kind, match=f"config context 'c': .*{message}"):
                await client.get(NODES, "a", type=Bare)


async def test_a_closed_client_says_so() -> None:
    client = Client(Access(server="http://127.0.0.1:1"))
    with pytest.raises(RuntimeError, match="not open"):
        await client.get(NODES, "a", type=Bare)
    async with client, aiohttp.ClientSession():
        pass
    with pytest.raises(RuntimeError, match="not open"):
        await client.get(NODES, "a", type=Bare)
