"""Certificates of a tracker's etcd: good for what they are for, kept while they are good, made anew when not."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.mesh.joining.certificates import AUTHORITY_LIFE, LIFE, RENEW, Pair, authority, from_secret, leaf

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
HOSTS = ("tracker.kube-system.svc", "127.0.0.1")
SIGNER = authority(None, name="isthmus c1", now=NOW)


def server(known: Pair | None = None, *, signer: Pair = SIGNER, **changes: object) -> Pair:
    wanted = {"common_name": "etcd", "hosts": HOSTS, "now": NOW, **changes}
    return leaf(known, signer=signer, **wanted)


def test_a_server_certificate_is_one_for_its_names_signed_by_the_authority() -> None:
    made = x509.load_pem_x509_certificate(server().certificate)
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(SIGNER.certificate))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == list(HOSTS)
    usages = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_a_client_certificate_is_no_server_s() -> None:
    made = x509.load_pem_x509_certificate(
        leaf(None, signer=SIGNER, common_name="isthmus-agent:c1", now=NOW).certificate
    )
    assert made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "isthmus-agent:c1"
    assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


def test_openssl_takes_the_authority() -> None:
    ssl.create_default_context(cadata=SIGNER.certificate.decode())


def test_what_is_good_stays_as_it_is() -> None:
    made = server()
    assert server(made) is made
    assert server(made, hosts=tuple(reversed(HOSTS))) is made
    assert server(made, now=NOW + LIFE - RENEW - datetime.timedelta(days=1)) is made
    assert authority(SIGNER, name="isthmus c1", now=NOW) is SIGNER


@pytest.mark.parametrize(
    "changes",
    [
        {"hosts": ("other.svc",)},
        {"common_name": "somebody"},
        {"now": NOW + LIFE - RENEW},
        {"signer": authority(None, name="isthmus c1", now=NOW)},
    ],
)
def test_what_says_something_else_or_ends_soon_is_made_anew(changes: dict[str, object]) -> None:
    made = server()
    assert server(made, **changes) != made


@pytest.mark.parametrize("broken", [Pair(b"nonsense", b"nonsense"), Pair(SIGNER.certificate, server().key)])
def test_what_cannot_be_read_is_made_anew(broken: Pair) -> None:
    assert server(broken) != broken
    assert authority(broken, name="isthmus c1", now=NOW) != broken


def test_an_authority_is_renewed_before_what_it_signs_would_outlive_it() -> None:
    late = NOW + AUTHORITY_LIFE - LIFE - RENEW
    assert authority(SIGNER, name="isthmus c1", now=late) != SIGNER


def test_a_secret_without_both_parts_is_no_pair() -> None:
    assert from_secret({"tls.crt": b"x"}) is None
    assert from_secret({"tls.crt": b"x", "tls.key": b"y"}) == Pair(b"x", b"y")
    assert "x" not in repr(Pair(b"x", b"y"))
