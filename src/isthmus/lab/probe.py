"""Waiting for a new cluster, from the machine it runs on, with nothing but the standard library.

Commands must start fast, so they do not load the asynchronous client for three questions.
"""

import base64
import http.client
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from isthmus.lab.kubeconfig import Config

_PAUSE = 0.1
"""Seconds between two questions."""
_TIMEOUT = 5.0


class NotReadyError(Exception):
    """The cluster did not become ready in time; the message says what was missing."""


class ApiProbe:
    """Asks the API server that `config`, a kubeconfig with one cluster, describes."""

    def __init__(self, config: Config) -> None:
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

    def get(self, path: str) -> tuple[int, bytes]:
        """Returns (status, body); raises OSError, http.client.HTTPException."""
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=_TIMEOUT)
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait_ready(self, *, deadline: float) -> None:
        """Waits for the API server; `deadline` is of time.monotonic(). Raises NotReadyError."""
        self._until(self._missing_api, deadline)

    def wait_nodes(self, names: Sequence[str], *, deadline: float) -> None:
        """Waits until these nodes are ready. Raises NotReadyError."""
        self._until(lambda: self._missing_nodes(names), deadline)

    def wait_account(self, *, deadline: float) -> None:
        """Waits for the ServiceAccount without which no pod can be made. Raises NotReadyError."""
        self._until(self._missing_account, deadline)

    def _until(self, missing: Callable[[], str], deadline: float) -> None:
        while reason := self._asked(missing):
            if time.monotonic() > deadline:
                raise NotReadyError(reason)
            time.sleep(_PAUSE)

    def _asked(self, missing: Callable[[], str]) -> str:
        try:
            return missing()
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"API server: {error}"

    def _missing_api(self) -> str:
        status, body = self.get("/readyz")
        return "" if status == 200 else f"API server not ready: {body[:200].decode(errors='replace')}"

    def _missing_nodes(self, names: Sequence[str]) -> str:
        ready = {item["metadata"]["name"] for item in self._list("/api/v1/nodes") if _is_ready(item)}
        waiting = [name for name in names if name not in ready]
        return f"nodes not ready: {', '.join(waiting)}" if waiting else ""

    def _missing_account(self) -> str:
        status, _body = self.get("/api/v1/namespaces/default/serviceaccounts/default")
        return "" if status == 200 else "no default ServiceAccount yet"

    def _list(self, path: str) -> list[dict[str, Any]]:
        status, body = self.get(path)
        if status != 200:
            raise ValueError(f"HTTP {status}")
        items = json.loads(body).get("items") or []
        return list(items)


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
