"""A client of a cluster's API server for commands, with nothing but the standard library.

Commands must start fast, so they do not load the asynchronous client for a few questions. One connection a thread is
kept; a request is repeated once if the server closed it in between.
"""

import base64
import contextlib
import http.client
import json
import os
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from isthmus.lab.kubeconfig import Config, KubeconfigError, load

_TIMEOUT = 10.0
"""Seconds for one answer."""
_MAX_BODY = 64 * 1024 * 1024

TROUBLE = (OSError, http.client.HTTPException, ValueError)
"""What a request may raise while a server is not well."""


class ApiError(ValueError):
    """The server refused; the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def admin_api(path: Path, *, patience: float = _TIMEOUT) -> "Api":
    """Returns a client with the credentials of a kubeconfig; raises KubeconfigError, also for what is none of ours."""
    try:
        return Api(load(path), patience=patience)
    except (LookupError, TypeError, AttributeError, ValueError, OSError) as error:
        raise KubeconfigError(f"{path} does not hold the credentials of a cluster: {error!r}") from error


class Api:
    """Asks the API server that `config`, a kubeconfig with one cluster, describes; `patience` is in seconds."""

    def __init__(self, config: Config, *, patience: float = _TIMEOUT) -> None:
        self._patience = patience
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        address = urlsplit(cluster["server"])
        self._host, self._port = address.hostname or "", address.port or 443
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=ca)
        # load_cert_chain takes files only.
        with tempfile.NamedTemporaryFile(prefix="isthmus-") as file:
            for part in ("client-certificate-data", "client-key-data"):
                file.write(base64.b64decode(user[part]))
            file.flush()
            os.chmod(file.name, 0o600)
            self._tls.load_cert_chain(file.name)
        self._kept = threading.local()

    def get(self, path: str) -> tuple[int, bytes]:
        """Returns (status, body); raises one of TROUBLE."""
        return self._request("GET", path, None, "")

    def read(self, path: str) -> dict[str, Any] | None:
        """Returns the object or list at `path`, None if there is none; raises one of TROUBLE."""
        status, body = self.get(path)
        return None if status == 404 else _understood(status, body)

    def send(
        self, method: str, path: str, content: object, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Writes an object and returns what became of it; raises ApiError if it is refused, one of TROUBLE."""
        status, body = self._request(method, path, json.dumps(content).encode(), content_type)
        return _understood(status, body)

    def _request(self, method: str, path: str, body: bytes | None, content_type: str) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if content_type else {})
        for last in (False, True):
            connection = self._connection()
            try:
                connection.request(method, path, body=body, headers=headers)
                response = connection.getresponse()
                return response.status, response.read(_MAX_BODY)
            except (OSError, http.client.HTTPException):
                self._drop()
                if last:
                    raise
        raise AssertionError("unreachable")

    def _connection(self) -> http.client.HTTPSConnection:
        kept: http.client.HTTPSConnection | None = getattr(self._kept, "connection", None)
        if kept is None:
            kept = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=self._patience)
            self._kept.connection = kept
        return kept

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._connection().close()
        self._kept.connection = None


def _understood(status: int, body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise ApiError(status, f"HTTP {status}: {body[:200].decode(errors='replace')}") from error
    if not isinstance(content, dict):
        raise ApiError(status, f"HTTP {status} with something that is no object")
    if status >= 300:
        raise ApiError(status, str(content.get("message") or f"HTTP {status}"))
    return content
