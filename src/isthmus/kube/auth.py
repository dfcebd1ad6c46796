"""Credentials that stay fresh: files that rotate, plugins whose tokens expire.

Invariants: a credential that has not expired (minus a margin) is used again; however many requests need a new one, one
refresh runs; a rejected credential (401) is refreshed at once, but only if nobody did so meanwhile, so that a hundred
requests failing together cause one plugin run and not a hundred. Clocks are arguments. Rejected: a background task
that refreshes ahead of time: it must be owned and ended by somebody, and runs plugins for clients that do nothing.
"""

import asyncio
import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from isthmus.kube.access import Access, Material, Plugin
from isthmus.kube.errors import CredentialError
from isthmus.kube.kubeconfig import MAX_FILE
from isthmus.kube.plugin import run_plugin

SKEW = 60.0
"""Seconds before its expiry at which a credential counts as expired: clocks differ, requests take time."""

FILE_PERIOD = 60.0
"""Seconds between looks at credential files. The kubelet replaces a service account token after 80 % of its hour."""


CALM = 5.0
"""Seconds for which a plugin's failure, or a refresh that a rejection forced, stands before the plugin runs again."""


class Credential(msgspec.Struct, frozen=True):
    """What goes into a request: the Authorization header ("" for none) and a client certificate with key (PEM).

    `expires` is Unix time, None if unknown.
    """

    authorization: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: float | None = None

    def __repr__(self) -> str:
        return f"Credential(expires={self.expires})"


class Authenticator(Protocol):
    """Gives the credential to use now."""

    async def credential(self, *, rejected: Credential | None = None) -> Credential:
        """Returns a credential; `rejected` is one that the server just refused. Raises CredentialError.

        Returning `rejected` again means that there is no better one.
        """
        ...


def authenticator(access: Access, *, clock: Callable[[], float] = time.time) -> Authenticator:
    """Returns the authenticator for `access`; `clock` gives Unix time in seconds."""
    if access.plugin is not None:
        return PluginCredentials(access, access.plugin, clock=clock)
    return FileCredentials(access.material, origin=access.origin, clock=clock)


class FileCredentials:
    """Inline credentials and files; files are read again every FILE_PERIOD and after a rejection.

    A file that cannot be read any more leaves the last good credential in use until the server refuses it.
    """

    def __init__(self, material: Material, *, origin: str = "", clock: Callable[[], float] = time.time) -> None:
        self._material = material
        self._origin = origin
        self._clock = clock
        self._lock = asyncio.Lock()
        self._current: Credential | None = None
        self._read_at = 0.0
        self._has_files = _has_files(material)

    async def credential(self, *, rejected: Credential | None = None) -> Credential:
        """Returns the credential of the files as they are now, or were at most FILE_PERIOD ago."""
        async with self._lock:
            current = self._current
            if current is not None and not self._has_files:
                return current
            due = abs(self._clock() - self._read_at) >= FILE_PERIOD
            if current is None or due or (rejected is not None and current == rejected):
                try:
                    self._current = await _gather(self._material, self._origin)
                except CredentialError:
                    if current is None or rejected is not None:
                        raise
                self._read_at = self._clock()
            assert self._current is not None  # noqa: S101 - either read above or kept
            return self._current


class PluginCredentials:
    """The answers of an exec plugin, kept until SKEW before they expire."""

    def __init__(self, access: Access, plugin: Plugin, *, clock: Callable[[], float] = time.time) -> None:
        self._access = access
        self._plugin = plugin
        self._clock = clock
        self._lock = asyncio.Lock()
        self._current: Credential | None = None
        self._failure: CredentialError | None = None
        self._failed_at = 0.0
        self._forced_at = -CALM
        self.runs = 0

    async def credential(self, *, rejected: Credential | None = None) -> Credential:
        """Returns the cached answer, or a new one if it expired or was rejected."""
        # Holding the lock while the plugin runs is what makes it a single flight: those who wait find the result,
        # good or bad.
        async with self._lock:
            now = self._clock()
            current = self._current
            if current is not None and not self._expired(current, SKEW):
                if current is not rejected or abs(now - self._forced_at) < CALM:
                    return current
                self._forced_at = now
            if self._failure is None or abs(now - self._failed_at) >= CALM:
                self._failure = None
                try:
                    self._current = await self._run()
                    return self._current
                except CredentialError as error:
                    self._failure, self._failed_at = error, self._clock()
            if current is not None and current is not rejected and not self._expired(current, 0.0):
                return current  # within its last minute it is still better than nothing
            raise CredentialError(str(self._failure)) from self._failure

    async def _run(self) -> Credential:
        self.runs += 1
        answer = await run_plugin(self._access, self._plugin)
        material = Credential()
        if not answer.certificate:
            # A plugin may give only the token, beside a certificate in the kubeconfig.
            material = await _gather(self._access.material, self._access.origin)
        return Credential(
            authorization=f"Bearer {answer.token}" if answer.token else material.authorization,
            certificate=answer.certificate or material.certificate,
            key=answer.key or material.key,
            expires=answer.expires,
        )

    def _expired(self, credential: Credential, margin: float) -> bool:
        return credential.expires is not None and self._clock() >= credential.expires - margin


def _has_files(material: Material) -> bool:
    return bool(material.token_file or material.certificate_file or material.key_file)


async def _gather(material: Material, origin: str) -> Credential:
    """Reads what there is to read in a thread: a token may lie on a slow or dead file system."""
    if _has_files(material):
        return await asyncio.to_thread(_from_material, material, origin)
    return _from_material(material, origin)


def _from_material(material: Material, origin: str) -> Credential:
    token = material.token
    if material.token_file:
        token = _read_text(material.token_file, "token file", origin)
        if not token or not token.isprintable() or not token.isascii():
            raise CredentialError(f"{origin}: token file {material.token_file}: does not hold one line of text")
    authorization = ""
    if token:
        authorization = f"Bearer {token}"
    elif material.username or material.password:
        pair = f"{material.username}:{material.password}".encode()
        authorization = f"Basic {base64.b64encode(pair).decode()}"
    certificate, key = material.certificate, material.key
    if material.certificate_file and not certificate:
        certificate = _read_text(material.certificate_file, "client certificate", origin).encode()
    if material.key_file and not key:
        key = _read_text(material.key_file, "client key", origin).encode()
    return Credential(authorization=authorization, certificate=certificate, key=key)


def _read_text(path: str, what: str, origin: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_FILE).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        raise CredentialError(f"{origin}: {what} {path}: {getattr(error, 'strerror', None) or error}") from error
