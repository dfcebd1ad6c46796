"""`json-mock` for pods: the HTTP API that json-server makes of a JSON file, with cilium/json-mock's own answers.

Each key of the document is a resource: a list is a collection (`GET /posts`, `GET /posts/1`, POST, PUT, PATCH,
DELETE), an object is a single thing (`GET /profile`, PUT, PATCH). Changes are kept in memory, and written back if the
file can be written. Facts: cilium/json-mock's run.sh (port 80 or $PORT, file /default.json or $FILE), json-server 0.17.
Invariant: a bad document or a bad request is an answer or an exit with a message, never a traceback. Rejected:
json-server's relations, custom routes and HTML pages, which nobody's pods ask for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from isthmus.lab.images.programs.loop import Loop, end_on_signals, listen
from isthmus.lab.images.programs.messages import Request, Response, parse_query, unquote
from isthmus.lab.images.programs.web import Reply, Server

MAX_FILE = 16 * 1024 * 1024
DEFAULT = {
    "private": [{"id": 1, "body": "secret information"}],
    "public": [{"id": 1, "body": "public information"}],
}
_USAGE = "usage: json-mock [--host HOST] [--port PORT] [--watch] [--read-only] [FILE]\n"
_TOKEN = "Bearer 123456"  # noqa: S105
_HOME = b"""<!DOCTYPE html>
<html><head><title>JSON Server</title></head>
<body><h1>Congrats!</h1><p>You're successfully running JSON Server</p></body></html>
"""
_CORS = [
    ("X-Powered-By", "Express"),
    ("Vary", "Origin, Accept-Encoding"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Cache-Control", "no-cache"),
    ("Pragma", "no-cache"),
    ("Expires", "-1"),
    ("X-Content-Type-Options", "nosniff"),
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not at run time: `typing` is a third of what this process takes.
    from typing import Any

    Json = Any


class DocumentError(Exception):
    """The file cannot be served; the message names it."""


class Store:
    """The document, and what requests do to it."""

    def __init__(self, data: dict[str, Json], save: Callable[[dict[str, Json]], None] = lambda _data: None) -> None:
        self.data = data
        self._save = save

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Json]:
        """Returns the status and what to answer with."""
        parts = [part for part in path.split("/") if part]
        if method == "OPTIONS":
            return 204, None
        if parts == ["db"]:
            return (200, self.data) if method in ("GET", "HEAD") else (404, {})
        if not parts or len(parts) > 2 or parts[0] not in self.data:
            return 404, {}
        resource = self.data[parts[0]]
        if method in ("GET", "HEAD"):
            return self._read(resource, parts[1:], query)
        if method == "DELETE":
            given: Json = None
        else:
            try:
                given = json.loads(body or b"{}")
            except (ValueError, RecursionError):
                return 400, {"error": "the body is not JSON"}
            if not isinstance(given, dict):
                return 400, {"error": "the body is not a JSON object"}
        status, answer = self._write(method, parts, resource, given)
        if status < 300:
            self._save(self.data)
        return status, answer

    def _read(self, resource: Json, rest: list[str], query: dict[str, str]) -> tuple[int, Json]:
        if not isinstance(resource, list):
            return (404, {}) if rest else (200, resource)
        if rest:
            found = next((item for item in resource if _has_id(item, rest[0])), None)
            return (404, {}) if found is None else (200, found)
        return 200, select(resource, query)

    def _write(self, method: str, parts: list[str], resource: Json, given: Json) -> tuple[int, Json]:
        if not isinstance(resource, list):
            if len(parts) == 2 or method not in ("POST", "PUT", "PATCH"):
                return 404, {}
            self.data[parts[0]] = {**resource, **given} if method == "PATCH" and isinstance(resource, dict) else given
            return (201 if method == "POST" else 200), self.data[parts[0]]
        if len(parts) == 1:
            if method != "POST":
                return 404, {}
            item = {**given, "id": given["id"]} if "id" in given else {**given, "id": _next_id(resource)}
            if any(_has_id(other, str(item["id"])) for other in resource):
                return 500, {"error": "Insert failed, duplicate id"}
            resource.append(item)
            return 201, item
        for index, item in enumerate(resource):
            if _has_id(item, parts[1]):
                if method == "DELETE":
                    del resource[index]
                    return 200, {}
                if method not in ("PUT", "PATCH"):
                    return 404, {}
                resource[index] = {**(item if method == "PATCH" else {}), **given, "id": item["id"]}
                return 200, resource[index]
        return 404, {}


def select(items: list[Json], query: dict[str, str]) -> list[Json]:
    """Returns the items that a query asks for: filters by field, `q`, `_sort` with `_order`, `_page` with `_limit`."""
    found = items
    for name, value in query.items():
        if name == "q":
            found = [item for item in found if value.lower() in json.dumps(item).lower()]
        elif not name.startswith("_"):
            found = [item for item in found if _text(_field(item, name)) == value]
    if "_sort" in query:
        name = query["_sort"]
        found = sorted(found, key=lambda item: _order(_field(item, name)), reverse=query.get("_order") == "desc")
    size = _number(query.get("_limit"), 10)
    if "_page" in query:
        begin = (max(_number(query["_page"], 1), 1) - 1) * size
        return found[begin : begin + size]
    return found[:size] if "_limit" in query else found


def load(path: str) -> dict[str, Json]:
    """Returns the document in a file; raises DocumentError."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        raise DocumentError(f"Cannot read {path}: {error.strerror}") from error
    if len(text) > MAX_FILE:
        raise DocumentError(f"{path} is longer than {MAX_FILE} bytes")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise DocumentError(f"{path}: the document must be an object, whose keys are the resources")
    return data


def main(argv: list[str]) -> int:
    """Runs; returns the exit code."""
    end_on_signals()
    host, port, path, writable = "", os.environ.get("PORT", "") or "80", os.environ.get("FILE", ""), True
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--host", "-H", "--port", "-p", "--middlewares", "-m", "--delay", "-d", "--routes", "-r"):
            value = value if equals else (words.pop(0) if words else "")
            if name in ("--port", "-p"):
                port = value
            elif name in ("--host", "-H"):
                host = "" if value in ("0.0.0.0", "::") else value
        elif name in ("--read-only", "--ro"):
            writable = False
        elif not name.startswith("-"):
            path = word
        elif name not in ("--watch", "-w", "--quiet", "-q", "--no-cors", "--nc", "--no-gzip", "--ng"):
            sys.stderr.write(f"json-mock: unknown option {word}\n{_USAGE}")
            return 1
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        sys.stderr.write(f"json-mock: {port!r} is not a port\n{_USAGE}")
        return 1
    try:
        data = load(path) if path else json.loads(json.dumps(DEFAULT))
        listener = listen(int(port), host="127.0.0.1" if host == "localhost" else host)
    except DocumentError as error:
        sys.stderr.write(f"json-mock: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"json-mock: cannot listen on port {port}: {error.strerror}\n")
        return 1
    store = Store(data, (lambda document: save(path, document)) if path and writable else (lambda _document: None))
    loop = Loop()
    Server(loop, listener, lambda request, reply: serve(store, request, reply))
    sys.stdout.write(f"JSON Server started on port {port}, resources: {', '.join(f'/{name}' for name in data)}\n")
    sys.stdout.flush()
    loop.run()
    return 0


def save(path: str, document: dict[str, Json]) -> None:
    """Writes the document back; a ConfigMap cannot be written, and then it stays in memory."""
    draft = f"{path}.new"
    try:
        with open(draft, "w") as file:
            json.dump(document, file, indent=2)
        os.replace(draft, path)
    except OSError:
        return


def serve(store: Store, request: Request, reply: Reply) -> None:
    """Answers one request and writes a line about it."""
    began = time.monotonic()
    path = request.path
    kind = "application/json; charset=utf-8"
    if path.startswith("/auth-header-required") and request.headers.get("authorization") != _TOKEN:
        text = f'Invalid Authorization header, try setting it to "{_TOKEN}"'
        response = Response(401, text.encode(), [("Content-Type", "text/html; charset=utf-8")])
    elif path.startswith("/client-ip"):
        response = Response(200, json.dumps({"client-ip": request.peer[0]}).encode(), [("Content-Type", kind)])
    elif path.startswith("/hostname"):
        response = Response(200, json.dumps({"hostname": os.uname().nodename}).encode(), [("Content-Type", kind)])
    elif path in ("/", "/index.html"):
        response = Response(200, _HOME, [("Content-Type", "text/html; charset=UTF-8")])
    else:
        status, answer = store.answer(request.method, path, parse_query(request.query), request.body)
        body = b"" if answer is None else json.dumps(answer, indent=2, ensure_ascii=False).encode(errors="replace")
        response = Response(status, body, [("Content-Type", kind)])
    response.headers += _CORS
    took = (time.monotonic() - began) * 1000
    line = "".join(letter if letter.isprintable() else "?" for letter in f"{request.method} {unquote(path)}")
    sys.stdout.write(f"{line} {response.status} {took:.3f} ms - {response.length or '-'}\n")
    sys.stdout.flush()
    reply(response)


def _has_id(item: Json, wanted: str) -> bool:
    return isinstance(item, dict) and _text(item.get("id")) == wanted


def _next_id(items: list[Json]) -> int:
    return max((item["id"] for item in items if isinstance(item, dict) and type(item.get("id")) is int), default=0) + 1


def _field(item: Json, name: str) -> Json:
    for part in name.split("."):
        item = item.get(part) if isinstance(item, dict) else None
    return item


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _order(value: Json) -> tuple[bool, float, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return False, value, ""
    return True, 0.0, _text(value)


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else default
