"""A request and a site in, a response out: nginx's phases, as far as static content needs them.

Invariants: no path leaves its root (`..` is resolved before anything is looked up); a file is opened once and served
from that descriptor, so a ConfigMap that is replaced meanwhile cannot mix two versions; internal redirects are
bounded. Rejected: reading whole files into memory, where one large file and a few clients fill the pod.
"""

import os
import re
import socket
import stat
import time
from collections.abc import Callable, Mapping

from isthmus.lab.images.programs.messages import REASONS, Request, Response, http_date
from isthmus.lab.images.programs.nginx.site import Location, Scope, Site, VirtualServer

VERSION = "nginx/1.27.5"
MAX_REDIRECTS = 10
"""Internal redirects of one request, as in nginx."""
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_HAS_LOCATION = (301, 302, 303, 307, 308)


class Answerer:
    """Answers requests; `pages` are files that exist only here, for when the disk has none."""

    def __init__(self, site: Site, *, pages: Mapping[str, str], types: Mapping[str, str]) -> None:
        self.site = site
        self._pages = pages
        self._types = {**types, **site.types}
        self.errors: list[str] = []
        """What the error log is told about the last request."""

    def answer(self, request: Request) -> tuple[Response, Scope]:
        """Returns the response and the block that gave it."""
        server = self.site.server(request.headers.get("host", ""), port=request.local[1])
        self.errors = []
        return _Work(self, server, request).run()

    def kind(self, path: str, scope: Scope) -> str:
        """Returns the content type of a file."""
        extension = path.rpartition("/")[2].rpartition(".")[2].lower() if "." in path.rpartition("/")[2] else ""
        default = scope.get("default_type")
        return self._types.get(extension) or (default[0] if default else "application/octet-stream")

    def look(self, path: str) -> str:
        """Returns "file", "directory" or ""."""
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            return "file" if path in self._pages else ""
        return "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else ""

    def page(self, path: str) -> bytes | None:
        """Returns a file that exists only here."""
        text = self._pages.get(path)
        return None if text is None else text.encode()


class _Work:
    """One request on its way through the locations."""

    def __init__(self, answerer: Answerer, server: VirtualServer, request: Request) -> None:
        self._answerer = answerer
        self._server = server
        self._request = request
        self._uri = request.path
        self._status = 0  # of the error whose page is being served

    def run(self) -> tuple[Response, Scope]:
        uri = resolve(self._request.path)
        scope: Scope = self._server
        if uri is None:
            return self._error(400, scope)
        self._uri = uri
        location: Location | None = None
        for _ in range(MAX_REDIRECTS):
            if self._server.own.get("return"):
                return self._finish(self._return(self._server, self._server.own["return"][0]), self._server)
            location = location or self._server.location(self._uri)
            scope = location or self._server
            if len(self._request.body) > size_limit(scope):
                return self._error(413, scope)
            result = self._content(scope)
            location = None
            if isinstance(result, str):
                if result.startswith("@"):
                    location = self._server.named(result[1:]) or self._server.named(result)
                    if location is None:
                        return self._error(500, scope)
                else:
                    self._uri = result
                continue
            if isinstance(result, Response):
                return self._finish(result, scope)
            page = None if self._status else self._error_page(result, scope)
            if page is None:
                return self._error(result, scope)
            self._status, self._uri = page
            if "://" in self._uri:
                response = Response(302, headers=[("Location", self._uri)])
                return self._finish(self._with_body(response), scope)
        return self._error(500, scope)

    def _content(self, scope: Scope) -> Response | str | int:
        """Returns a response, another URI to go on with, or the status of an error."""
        if scope.get("return"):
            return self._return(scope, scope.get("return"))
        tries = scope.get("try_files")
        if tries:
            for text in tries[:-1]:
                candidate = self._expand(text)
                wanted = "directory" if candidate.endswith("/") else "file"
                if self._answerer.look(self._path(scope, candidate)) == wanted:
                    return self._file(scope, candidate)
            last = self._expand(tries[-1])
            if last.startswith("="):
                return int(last[1:]) if last[1:].isdigit() else 500
            return last.partition("?")[0]
        return self._file(scope, self._uri)

    def _file(self, scope: Scope, uri: str) -> Response | str | int:
        request = self._request
        if request.method not in ("GET", "HEAD") and not self._status:
            return 405
        path = self._path(scope, uri)
        if uri.endswith("/"):
            for name in scope.get("index") or ["index.html"]:
                if self._answerer.look(path + name) == "file":
                    return uri + name
            if self._answerer.look(path) != "directory":
                return self._missing(path, 404)
            if scope.get("autoindex") == ["on"]:
                return self._listing(path, uri)
            self._answerer.errors.append(f'directory index of "{path}" is forbidden')
            return 403
        found = self._answerer.look(path)
        if found == "directory":
            host = request.headers.get("host") or request.local[0]
            return self._with_body(Response(301, headers=[("Location", f"http://{host}{quote(uri)}/")]))
        if not found:
            return self._missing(path, 404)
        return self._open(path, scope)

    def _open(self, path: str, scope: Scope) -> Response | int:
        kind = self._answerer.kind(path, scope)
        body = self._answerer.page(path)
        if body is not None and not os.path.exists(path):
            return Response(200, body, [("Content-Type", kind)])
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError:
            return self._missing(path, 403)
        except OSError:
            return self._missing(path, 404)
        about = os.fstat(file)
        tag = f'"{int(about.st_mtime):x}-{about.st_size:x}"'
        modified = http_date(about.st_mtime)
        headers = [("Content-Type", kind), ("Last-Modified", modified), ("ETag", tag)]
        asked = self._request.headers
        if "if-none-match" in asked:
            tags = [text.strip().removeprefix("W/") for text in asked["if-none-match"].split(",")]
            same = tag in tags or "*" in tags
        else:
            same = asked.get("if-modified-since") == modified
        if same and not self._status:
            os.close(file)
            return Response(304, headers=headers[1:])
        return Response(200, headers=headers, file=file, length=about.st_size)

    def _listing(self, path: str, uri: str) -> Response:
        try:
            names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(path))
        except OSError:
            names = []
        shown = ["../", *(name for name in names if not name.startswith("."))]
        lines = [f'<a href="{quote(name)}">{escape(name)}</a>' for name in shown]
        title = f"Index of {escape(uri)}"
        text = (
            f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<h1>{title}</h1><hr><pre>"
            + "\r\n".join(lines)
            + "\r\n</pre><hr></body>\r\n</html>\r\n"
        )
        return Response(200, text.encode(), [("Content-Type", "text/html")])

    def _return(self, scope: Scope, args: list[str]) -> Response | int:
        code, text = (args[0], args[1] if len(args) > 1 else "") if args[0].isdigit() else ("302", args[0])
        status = int(code)
        text = self._expand(text)
        if status in _HAS_LOCATION:
            if text.startswith("/"):
                text = f"http://{self._request.headers.get('host') or self._request.local[0]}{text}"
            return self._with_body(Response(status, headers=[("Location", text)]))
        if status == 444:
            return Response(444, close=True)
        if not text:
            return (
                Response(status, headers=[("Content-Type", self._answerer.kind("", scope))]) if status < 300 else status
            )
        return Response(status, text.encode(), [("Content-Type", self._answerer.kind("", scope))])

    def _path(self, scope: Scope, uri: str) -> str:
        alias = scope.get("alias")
        if alias and isinstance(scope, Location):
            return self._expand(alias[0]) + uri[len(scope.text) :]
        root = scope.get("root")
        return (self._expand(root[0]) if root else "/etc/nginx/html").rstrip("/") + uri

    def _missing(self, path: str, status: int) -> int:
        number, words = (2, "No such file or directory") if status == 404 else (13, "Permission denied")
        self._answerer.errors.append(f'open() "{path}" failed ({number}: {words})')
        return status

    def _error_page(self, status: int, scope: Scope) -> tuple[int, str] | None:
        """Returns the status to answer with and the URI of the page."""
        for row in scope.rows("error_page"):
            codes = [word for word in row[:-1] if not word.startswith("=")]
            if str(status) in codes:
                changed = [word[1:] for word in row[:-1] if word.startswith("=")]
                return (int(changed[0]) if changed and changed[0].isdigit() else status), self._expand(row[-1])
        return None

    def _error(self, status: int, scope: Scope) -> tuple[Response, Scope]:
        status = self._status or status
        response = self._with_body(Response(status))
        response.close = status in (400, 413)
        if status == 405:
            response.headers.append(("Allow", "GET, HEAD"))
        return self._finish(response, scope)

    def _with_body(self, response: Response) -> Response:
        title = f"{response.status} {REASONS.get(response.status, '')}".strip()
        response.body = error_body(title)
        response.length = len(response.body)
        response.headers.insert(0, ("Content-Type", "text/html"))
        return response

    def _finish(self, response: Response | int, scope: Scope) -> tuple[Response, Scope]:
        if isinstance(response, int):
            return self._error(response, scope)
        if self._status and response.status == 200:
            response.status = self._status
        for row in scope.rows("add_header"):
            always = len(row) > 2 and row[2] == "always"
            if always or response.status in (200, 201, 204, 206, 301, 302, 303, 304, 307, 308):
                response.headers.append((row[0], self._expand(row[1])))
        return response, scope

    def _expand(self, text: str) -> str:
        return expand(text, self._request, uri=self._uri)


def expand(
    text: str,
    request: Request,
    *,
    uri: str = "",
    more: Mapping[str, str] | None = None,
    shown: Callable[[str], str] = str,
) -> str:
    """Replaces $variables by what `shown` makes of their values; one that is not known is empty."""
    if "$" not in text:
        return text

    def value(match: "re.Match[str]") -> str:
        name = match[1] or match[2]
        known = more[name] if more is not None and name in more else variable(name, request, uri=uri)
        return shown(known)

    return _VARIABLE.sub(value, text)


def variable(name: str, request: Request, *, uri: str) -> str:
    """Returns the value of a variable of nginx."""
    if name.startswith("http_"):
        return request.headers.get(name[5:].replace("_", "-"), "")
    if name.startswith("arg_"):
        for part in request.query.split("&"):
            key, _, value = part.partition("=")
            if key == name[4:]:
                return value
        return ""
    match name:
        case "uri" | "document_uri":
            return uri or request.path
        case "request_uri":
            return request.line.split(" ")[1]
        case "args" | "query_string":
            return request.query
        case "is_args":
            return "?" if request.query else ""
        case "request_method":
            return request.method
        case "request":
            return request.line
        case "scheme":
            return "http"
        case "host":
            return request.headers.get("host", "").rpartition("]")[2].partition(":")[0] or request.local[0]
        case "hostname":
            return socket.gethostname()
        case "remote_addr":
            return request.peer[0]
        case "remote_port":
            return str(request.peer[1])
        case "server_addr":
            return request.local[0]
        case "server_port":
            return str(request.local[1])
        case "server_protocol":
            return request.version
        case "server_name":
            return ""
        case "nginx_version":
            return VERSION.partition("/")[2]
        case "content_type" | "content_length":
            return request.headers.get(name.replace("_", "-"), "")
        case "msec":
            return f"{time.time():.3f}"
        case "pid":
            return str(os.getpid())
        case _:
            return ""


def resolve(path: str) -> str | None:
    """Returns a path without `.`, `..` and double slashes; None if it leaves the root."""
    kept: list[str] = []
    parts = path.split("/")
    for part in parts[1:]:
        if part == "..":
            if not kept:
                return None
            kept.pop()
        elif part not in ("", "."):
            kept.append(part)
    tail = "/" if kept and parts[-1] in ("", ".", "..") else ""
    return "/" + "/".join(kept) + tail


def size_limit(scope: Scope) -> int:
    """Returns how many bytes a request's body may have (client_max_body_size, 1m)."""
    text = (scope.get("client_max_body_size") or ["1m"])[0].lower()
    factor = {"k": 1024, "m": 1024**2, "g": 1024**3}.get(text[-1])
    number = int(text if factor is None else text[:-1]) * (factor or 1)
    return number or 2**40


def error_body(title: str) -> bytes:
    """Returns nginx's page for an error."""
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        f"<hr><center>{VERSION}</center>\r\n</body>\r\n</html>\r\n"
    ).encode()


def quote(text: str) -> str:
    """Quotes a path for a URL."""
    safe = b"/-._~!$&'()*+,;=:@%"
    return "".join(
        chr(byte) if (byte < 128 and chr(byte).isalnum()) or byte in safe else f"%{byte:02X}"
        for byte in text.encode(errors="replace")
    )


def escape(text: str) -> str:
    """Escapes text for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
