"""The certificate with which the owner of a child etcd is its root user.

etcd with client certificates knows a user by the certificate's common name, and only `root` may write. Nobody should
have to issue such a certificate by hand: at each start we make an authority of our own, trusted by this etcd beside
the configured one, and with it one certificate for `root` that lives in the data directory, readable by us alone. The
authority's key is never written. Rejected: a root password, which would be a second way in and a token to renew.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.store.errors import Refused
from isthmus.store.transport import Tls

LIFETIME = timedelta(days=3650)
"""Made anew at each start, so the end of its life only has to lie beyond any uptime."""


def make_owner(directory: Path, *, ca: Path, cert: Path) -> tuple[Path, Tls]:
    """Writes the certificate into `directory`; returns the bundle for etcd to trust and our client's TLS files.

    `ca` signs clients and the server, `cert` is the server's: one of its names is what our client will check.
    Raises Refused naming the file that cannot be read.
    """
    authority = _read(ca)
    name = _server_name(cert)
    now = datetime.now(UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "isthmus store owner authority")])
    ca_cert = (
        _builder(ca_name, ca_name, ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    certificate = (
        _builder(root, ca_name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    bundle = directory / "trusted-ca.pem"
    _write(bundle, authority.rstrip() + b"\n" + ca_cert.public_bytes(pem))
    _write(directory / "owner.crt", certificate.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(directory / "owner.key", private)
    return bundle, Tls(ca=ca, cert=directory / "owner.crt", key=directory / "owner.key", server_name=name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    # An hour back, for a clock that is set right after a start.
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


def _server_name(cert: Path) -> str:
    try:
        names = (
            x509.load_pem_x509_certificate(_read(cert)).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        ).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise Refused(f"{cert}: not a certificate with subject alternative names: {error}") from error
    hosts = [name.removeprefix("*.") for name in names.get_values_for_type(x509.DNSName)]
    hosts += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    if not hosts:
        raise Refused(f"{cert}: the certificate names no host")
    return hosts[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    """Replaces a file at once, readable by us alone from its first moment."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    new.replace(path)
