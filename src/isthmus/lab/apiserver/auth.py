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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

ISSUER = "https://kubernetes.default.svc.cluster.local"
PUBLIC_PATHS = ("/healthz", "/livez", "/readyz", "/version")
MAX_TOKEN = 16 * 1024  # characters

_HEADER = {"alg": "HS256", "typ": "JWT"}


class User(msgspec.Struct, frozen=True):
    """A known caller."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()


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


class Authenticator:
    """Finds the user of a request."""

    def __init__(self, *, tokens: dict[bytes, User], key: bytes, account_uid: Callable[[str, str], str | None]) -> None:
        """`account_uid` returns the UID of the service account (namespace, name), None if there is none."""
        self._tokens = tokens
        self._key = key
        self._account_uid = account_uid

    def user(self, *, certificate: dict[str, Any] | None, authorization: str) -> User | None:
        """Returns the user, or None: nobody known. A bad token is not made good by a certificate."""
        if authorization:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer" or len(token) > MAX_TOKEN:
                return None
            token = token.strip()
            return self._tokens.get(_digest(token)) or self._account(token)
        return certificate_user(certificate)

    def issue(self, *, namespace: str, name: str, uid: str, seconds: int, audiences: list[str]) -> str:
        """Returns a token of a service account that is good for `seconds`."""
        now = int(time.time())
        claims = {
            "aud": audiences or [ISSUER],
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "iss": ISSUER,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
            "sub": f"system:serviceaccount:{namespace}:{name}",
        }
        body = f"{_pack(_HEADER)}.{_pack(claims)}"
        return f"{body}.{self._signature(body)}"

    def _signature(self, body: str) -> str:
        return _base64(hmac.digest(self._key, body.encode(), "sha256"))

    def _account(self, token: str) -> User | None:
        body, _, signature = token.rpartition(".")
        if not body or not signature.isascii() or not hmac.compare_digest(signature, self._signature(body)):
            return None
        try:
            packed = body.partition(".")[2]
            claims = msgspec.json.decode(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
            held = claims["kubernetes.io"]
            namespace, account = held["namespace"], held["serviceaccount"]
            fresh = claims["nbf"] <= time.time() < claims["exp"] and ISSUER in claims["aud"]
        except (msgspec.DecodeError, binascii.Error, KeyError, TypeError):
            return None
        if not fresh or self._account_uid(namespace, account["name"]) != account["uid"]:
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return User(claims["sub"], account["uid"], groups)


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _pack(value: object) -> str:
    return _base64(msgspec.json.encode(value))
