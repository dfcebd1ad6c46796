"""Who is asking: client certificates, bearer tokens, service-account tokens, or nobody.

There is no authorisation: whoever is known may do everything; whoever is not may see only health and version. Tokens
from the token file are compared by digest, so that timing tells nothing. Service-account tokens are JSON Web Tokens
signed with a key of this server (HS256: nobody else has to verify them, so no key pair is kept).
"""

import base64
import binascii
import csv
import hashlib
import hmac
import io
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

ISSUER = "https://kubernetes.default.svc.cluster.local"
PUBLIC_PATHS = ("/healthz", "/livez", "/readyz", "/version")
ANONYMOUS = "system:anonymous"
MAX_TOKEN = 16 * 1024  # characters
MAX_NAMES = 128  # groups or values of one impersonation

_ACCOUNT = "system:serviceaccount:"
_HEADER = {"alg": "HS256", "typ": "JWT"}


class User(msgspec.Struct, frozen=True):
    """A known caller."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = {}


class TokenFileError(Exception):
    """The token file cannot be read or has a bad line."""


def read_token_file(path: Path) -> dict[bytes, User]:
    """Returns digest of token -> user, from lines `token,user,uid,"group1,group2"`. Raises TokenFileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise TokenFileError(f"{path}: {failure}") from failure
    users = {}
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        if not row:
            continue
        if len(row) < 3 or not row[0] or not row[1]:
            raise TokenFileError(f'{path}: line {number}: expected token,user,uid[,"group1,group2"]')
        groups = tuple(group.strip() for group in row[3].split(",") if group.strip()) if len(row) > 3 else ()
        users[_digest(row[0])] = User(row[1], row[2], (*groups, "system:authenticated"))
    return users


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def certificate_user(certificate: dict[str, Any] | None) -> User | None:
    """Returns the user of a verified certificate (as `getpeercert` gives it): CN is the name, O the groups."""
    if not certificate:
        return None
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [value for key, value in pairs if key == "commonName"]
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(names[0], "", (*groups, "system:authenticated")) if names else None


def impersonated(user: User, headers: Mapping[str, str], groups: list[str]) -> User:
    """Returns whom the caller wants to be taken for (`kubectl --as`); itself if it does not say."""
    name = headers.get("Impersonate-User", "")
    if not name:
        return user
    own = groups[:MAX_NAMES]
    if name.startswith(_ACCOUNT) and not own:
        own = ["system:serviceaccounts", f"system:serviceaccounts:{name.split(':')[2]}"]
    known = "system:unauthenticated" if name == ANONYMOUS else "system:authenticated"
    return User(name, headers.get("Impersonate-Uid", ""), tuple(dict.fromkeys((*own, known))))


class Authenticator:
    """Finds the user of a request."""

    def __init__(self, *, tokens: dict[bytes, User], key: bytes, uid_of: Callable[[str, str, str], str | None]) -> None:
        """`uid_of` returns the UID of the object (plural, namespace, name), None if there is none."""
        self._tokens = tokens
        self._key = key
        self._uid_of = uid_of

    def user(self, *, certificate: dict[str, Any] | None, authorization: str) -> User | None:
        """Returns the user, or None: nobody known. A bad token is not made good by a certificate."""
        if authorization:
            scheme, _, token = authorization.partition(" ")
            found = self.bearer(token.strip(), audiences=[]) if scheme.lower() == "bearer" else None
            return None if found is None else found[0]
        return certificate_user(certificate)

    def bearer(self, token: str, *, audiences: list[str]) -> tuple[User, list[str]] | None:
        """Returns the user of a token, and those of `audiences` (none: this server) that it is meant for."""
        if len(token) > MAX_TOKEN:
            return None
        known = self._tokens.get(_digest(token))
        return (known, []) if known is not None else self._account(token, audiences or [ISSUER])

    def issue(
        self,
        *,
        namespace: str,
        name: str,
        uid: str,
        seconds: int,
        audiences: list[str],
        bound: tuple[str, str, str] | None = None,
    ) -> str:
        """Returns a token of a service account that is good for `seconds`, or while `bound` (kind, name, UID) lives."""
        now = int(time.time())
        held: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
        if bound is not None:
            held[bound[0].lower()] = {"name": bound[1], "uid": bound[2]}
        claims = {
            "aud": audiences or [ISSUER],
            "exp": now + seconds,
            "iat": now,
            "jti": str(uuid.uuid4()),
            "nbf": now,
            "iss": ISSUER,
            "kubernetes.io": held,
            "sub": f"{_ACCOUNT}{namespace}:{name}",
        }
        body = f"{_pack(_HEADER)}.{_pack(claims)}"
        return f"{body}.{self._signature(body)}"

    def _signature(self, body: str) -> str:
        return _base64(hmac.digest(self._key, body.encode(), "sha256"))

    def _account(self, token: str, audiences: list[str]) -> tuple[User, list[str]] | None:
        body, _, signature = token.rpartition(".")
        if not body or not signature.isascii() or not hmac.compare_digest(signature, self._signature(body)):
            return None
        try:
            packed = body.partition(".")[2]
            claims = msgspec.json.decode(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
            held = claims["kubernetes.io"]
            namespace, account = held["namespace"], held["serviceaccount"]
            meant = [audience for audience in audiences if audience in claims["aud"]]
            fresh = claims["nbf"] <= time.time() < claims["exp"]
            bound = [(plural, place, held[kind]) for kind, plural, place in _bindable(namespace) if kind in held]
            living = all(self._uid_of(plural, place, item["name"]) == item["uid"] for plural, place, item in bound)
        except (msgspec.DecodeError, binascii.Error, KeyError, TypeError):
            return None
        if not fresh or not meant or not living:
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        extra = {"authentication.kubernetes.io/credential-id": (f"JTI={claims.get('jti', '')}",)}
        if "pod" in held:
            extra["authentication.kubernetes.io/pod-name"] = (held["pod"]["name"],)
            extra["authentication.kubernetes.io/pod-uid"] = (held["pod"]["uid"],)
        return User(claims["sub"], account["uid"], groups, extra), meant


def _bindable(namespace: str) -> tuple[tuple[str, str, str], ...]:
    """Returns (claim, plural, namespace) of what a token's life may hang on."""
    return (
        ("serviceaccount", "serviceaccounts", namespace),
        ("pod", "pods", namespace),
        ("secret", "secrets", namespace),
        ("node", "nodes", ""),
    )


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _pack(value: object) -> str:
    return _base64(msgspec.json.encode(value))
