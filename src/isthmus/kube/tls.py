"""TLS contexts from PEM in memory.

Invariant: a private key never touches a disk because of us. OpenSSL's Python binding reads certificate chains only from
files, so they are handed over in an anonymous memory file. Contexts are never changed once made: a new certificate
means a new context, and connections made with the old one finish with it. Rejected: a temporary file, which a killed
process leaves behind.
"""

import os
import ssl
from urllib.parse import urlsplit

from isthmus.kube.access import Access
from isthmus.kube.errors import ConfigError, CredentialError


def client_context(access: Access, *, certificate: bytes = b"", key: bytes = b"") -> ssl.SSLContext | None:
    """Returns the context for `access` with an optional client certificate (PEM), or None for plain http.

    Blocks for some milliseconds when the system's roots are read. Raises ConfigError for a bad authority and
    CredentialError for a bad certificate or key.
    """
    if urlsplit(access.server).scheme != "https":
        return None
    try:
        authority = access.tls.ca.decode("ascii") if access.tls.ca is not None else None
        context = ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{access.origin}: certificate authority: not a PEM certificate: {error}") from error
    if not access.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        _add_certificate(context, certificate, key, origin=access.origin)
    return context


def _add_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes, *, origin: str) -> None:
    handle = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(certificate.rstrip() + b"\n" + key.rstrip() + b"\n")

        def refuse_password() -> str:
            # Without this OpenSSL would ask on the terminal and hang a daemon.
            raise CredentialError(f"{origin}: client key: is encrypted, and there is nobody to ask for its password")

        context.load_cert_chain(f"/proc/self/fd/{handle}", password=refuse_password)
    except (ssl.SSLError, OSError) as error:
        raise CredentialError(f"{origin}: client certificate and key do not load: {error}") from error
    finally:
        os.close(handle)
