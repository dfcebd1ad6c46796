"""A cluster's certificates: one authority for Kubernetes and one for the tracker's store, as kubeadm lays them out.

Invariants: private keys are written 0600 into a directory of 0700; names in certificates are what the API server takes
as user (CN) and groups (O); everything is P-256, because making RSA keys would be the slowest step of `lab create`.
Two authorities, not one: a node's credential for the API server must open nothing in the store. Rejected: tokens for
everybody, which kube-apiserver reads from a file that has to be rewritten for each new component.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.lab.statedir import write_private
from isthmus.mesh.joining.certificates import draft, general_name, key_usage

_LIFETIME = datetime.timedelta(days=365)


class Authority:
    """A certificate authority; its key stays in memory unless `write_key` is called."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        self._certificate = (
            _draft(subject, issuer=subject, key=self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate_pem(self) -> bytes:
        """The authority's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self, common_name: str, *, organizations: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> tuple[bytes, bytes]:
        """Returns a new (certificate, key), both PEM, good for clients and, with `hosts` (DNS names or IP texts),
        for servers.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            _draft(_name(common_name, organizations), issuer=self._certificate.subject, key=key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([general_name(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def new_key_pair() -> tuple[bytes, bytes]:
    """Returns a (public, private) key, both PEM, that belong to no certificate: for service-account tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return public, _pem(key)


def write_pair(directory: Path, name: str, pair: tuple[bytes, bytes]) -> None:
    """Writes NAME.crt and NAME.key."""
    write_private(directory / f"{name}.crt", pair[0])
    write_private(directory / f"{name}.key", pair[1])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    return x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _draft(subject: x509.Name, *, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return draft(subject, issuer=issuer, public=key.public_key(), now=now, life=_LIFETIME)
