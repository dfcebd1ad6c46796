"""The certificates of a tracker's etcd and of the agents that read it, for clusters that bring none of their own.

An authority per cluster, kept as a Secret, so that enabling again signs with the same one and nobody is cut off.
Invariants: keys are P-256 and leave the process only as Secrets; what is good for longer than RENEW stays as it is;
what cannot be read or was signed by another authority is made anew. Pure but for chance: `now` is given. Rejected:
cert-manager as a requirement, for two certificates that one program writes and two others read.
"""

import datetime
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = datetime.timedelta(days=10 * 365)
LIFE = datetime.timedelta(days=3 * 365)
RENEW = datetime.timedelta(days=60)
_Names = x509.SubjectAlternativeName
_SKEW = datetime.timedelta(hours=1)


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair()"


def from_secret(data: Mapping[str, bytes]) -> Pair | None:
    """Returns what a Secret of type kubernetes.io/tls holds, None if that is nothing."""
    pair = Pair(data.get("tls.crt", b""), data.get("tls.key", b""))
    return pair if pair.certificate and pair.key else None


def authority(known: Pair | None, *, name: str, now: datetime.datetime) -> Pair:
    """Returns the authority: `known` if it can sign for long enough, else a new one."""
    if known is not None:
        certificate = _read(known)
        if certificate is not None and certificate.not_valid_after_utc - now > LIFE + RENEW:
            return known
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = key.public_key()
    made = (
        draft(subject, issuer=subject, public=public, now=now, life=AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(made, key)


def leaf(
    known: Pair | None, *, signer: Pair, common_name: str, hosts: Sequence[str] = (), now: datetime.datetime
) -> Pair:
    """Returns a certificate for a client and, with `hosts` (DNS names or addresses), a server.

    It is `known` if that says the same, was signed by `signer` and is good for longer than RENEW.
    """
    issuer = _read(signer)
    signing = serialization.load_pem_private_key(signer.key, password=None)
    assert issuer is not None and isinstance(signing, ec.EllipticCurvePrivateKey)  # noqa: S101 - made by `authority`
    if known is not None and _still_good(known, issuer, common_name=common_name, hosts=hosts, now=now):
        return known
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        draft(subject, issuer=issuer.subject, public=key.public_key(), now=now, life=LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if hosts:
        names = x509.SubjectAlternativeName([general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return _pair(builder.sign(signing, hashes.SHA256()), key)


def _still_good(
    known: Pair, issuer: x509.Certificate, *, common_name: str, hosts: Sequence[str], now: datetime.datetime
) -> bool:
    certificate = _read(known)
    if certificate is None or certificate.not_valid_after_utc - now <= RENEW:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
        names = {str(item.value) for item in certificate.extensions.get_extension_for_class(_Names).value}
    except x509.ExtensionNotFound:
        names = set()
    except (InvalidSignature, ValueError, TypeError):
        return False
    subject = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    wanted = {str(general_name(host).value) for host in hosts}
    return bool(subject) and subject[0].value == common_name and names == wanted


def _read(pair: Pair) -> x509.Certificate | None:
    """Returns the certificate if its key fits, and is of our kind."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate if key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form) else None


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate.public_bytes(pem), private)


def draft(
    subject: x509.Name,
    *,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    """Returns a certificate without extensions, good from a little before `now` for `life`."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def key_usage(*, authority: bool) -> x509.KeyUsage:
    """Returns what the key of an authority, or of somebody it signs for, may be used for."""
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(host: str) -> x509.GeneralName:
    """Returns an address, or else a DNS name, as certificates have them."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
