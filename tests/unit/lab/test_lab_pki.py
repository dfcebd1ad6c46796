"""The lab's certificates work with the standard library's TLS and are private."""

import socket
import ssl
import threading
from pathlib import Path

import pytest

from isthmus.lab.pki import Authority, write_pair
from isthmus.lab.statedir import write_private


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("a-ca")


def contexts(authority: Authority, directory: Path, *, hosts: list[str]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    write_private(directory / "ca.crt", authority.certificate_pem)
    write_pair(directory, "server", authority.issue("kube-apiserver", hosts=hosts))
    write_pair(directory, "client", authority.issue("kubernetes-admin", organizations=["system:masters"]))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(directory / "ca.crt"))
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    for context, name in ((server, "server"), (client, "client")):
        # What Python 3.13 asks of certificates by default.
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(str(directory / f"{name}.crt"), str(directory / f"{name}.key"))
    return server, client


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> dict[str, str]:
    """Returns the subject that the server saw."""
    ours, theirs = socket.socketpair()
    seen: dict[str, str] = {}

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as wrapped:
                subject = (wrapped.getpeercert() or {}).get("subject", ())
                seen.update({key: value for part in subject for key, value in part})
        except ssl.SSLError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name):
            pass
    finally:
        ours.close()
        thread.join(timeout=10)
    return seen


@pytest.mark.parametrize("name", ["127.0.0.1", "kubernetes.default"])
def test_a_client_is_known_by_its_names(authority: Authority, tmp_path: Path, name: str) -> None:
    server, client = contexts(authority, tmp_path, hosts=["127.0.0.1", "kubernetes.default"])
    seen = shake(server, client, name)
    assert seen == {"organizationName": "system:masters", "commonName": "kubernetes-admin"}


def test_a_server_is_not_believed_under_another_name(authority: Authority, tmp_path: Path) -> None:
    server, client = contexts(authority, tmp_path, hosts=["127.0.0.1"])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client, "10.0.0.1")


def test_keys_are_for_their_owner_only(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "pki" / "x.key"
    path.parent.mkdir()
    path.touch(mode=0o644)
    write_private(path, b"secret")
    assert path.stat().st_mode & 0o777 == 0o600
