"""HTTP/1.1 for the programs in pods: connections on a `Loop`, requests to a handler, responses back.

Invariants: every connection has bounds on its head, its body and its idle time; a malformed request is answered with
400 and the end of the connection, never with silence; responses keep the order of their requests. Rejected:
`http.server` of the standard library, which wants a thread per connection and imports six megabytes.
"""

import errno
import os
import socket
import time
from collections.abc import Callable

from isthmus.lab.images.programs.loop import READ, WRITE, Loop
from isthmus.lab.images.programs.messages import (
    MAX_HEAD,
    REASONS,
    BadRequest,
    Peer,
    Request,
    Response,
    one_line,
    parse_head,
    place,
    unchunk,
)

MAX_BODY = 8 * 1024 * 1024
MAX_CONNECTIONS = 4096
"""Connections at a time; more wait in the kernel's backlog."""
IDLE = 75.0
"""Seconds without a byte after which a connection is closed (nginx's keepalive_timeout)."""
_READ_SIZE = 64 * 1024
_NO_BODY = (204, 304)
_PIECE = 256 * 1024
"""Bytes of a file that are read at a time."""

Reply = Callable[[Response], None]
"""Takes the response to a request, once, from any thread."""
Handler = Callable[[Request, Reply], None]
OnBad = Callable[[Peer, str, int], Response]
"""Makes the response to what is no request: the peer, its first line, the status."""


def plain_refusal(_peer: Peer, _line: str, status: int) -> Response:
    """Answers a malformed request as Go's net/http does."""
    body = f"{status} {REASONS[status]}".encode()
    return Response(status, body, [("Content-Type", "text/plain; charset=utf-8")], close=True)


class Server:
    """Accepts connections of one listener."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        handler: Handler,
        *,
        common: Callable[[], list[tuple[str, str]]] = list,
        refusal: OnBad = plain_refusal,
        max_body: int = MAX_BODY,
    ) -> None:
        """`common` are headers of every response."""
        self.loop = loop
        self.handler = handler
        self.common = common
        self.refusal = refusal
        self.max_body = max_body
        self._listener = listener
        self._connections: set[Connection] = set()
        self._full = False
        loop.every_tick(self._tick)
        self._open()

    def gone(self, connection: "Connection") -> None:
        """Hears of the end of a connection."""
        self._connections.discard(connection)
        if self._full and len(self._connections) < MAX_CONNECTIONS:
            self._open()

    def close(self) -> None:
        """Ends the listener and all connections."""
        self.loop.forget(self._listener.fileno())
        self._listener.close()
        for connection in list(self._connections):
            connection.close()

    def _open(self) -> None:
        self._full = False
        self.loop.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self, _events: int) -> None:
        for _ in range(64):
            if len(self._connections) >= MAX_CONNECTIONS:
                self._pause()
                return
            try:
                peer, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    self._pause()  # until a connection ends, or the next tick
                    return
                continue
            peer.setblocking(False)
            try:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                local = peer.getsockname()
            except OSError:
                peer.close()
                continue
            self._connections.add(Connection(self, peer, place(address), place(local)))

    def _pause(self) -> None:
        self._full = True
        self.loop.forget(self._listener.fileno())

    def _tick(self) -> None:
        now = time.monotonic()
        for connection in [found for found in self._connections if found.expires <= now]:
            connection.close()
        if self._full and len(self._connections) < MAX_CONNECTIONS:
            self._open()


class _Answer:
    """What a handler calls with its response; from within the handler it is sent without a detour."""

    __slots__ = ("_connection", "_request", "inline", "response")

    def __init__(self, connection: "Connection", request: Request) -> None:
        self._connection = connection
        self._request: Request | None = request
        self.inline = True
        self.response: Response | None = None

    def __call__(self, response: Response) -> None:
        request, self._request = self._request, None
        if request is None:
            return
        if self.inline and self._connection.loop.is_current:
            self.response = response
        else:
            self._connection.loop.call(lambda: self._connection.answer(response, request))


class Connection:
    """One client."""

    __slots__ = ("_closing", "_continued", "_events", "_file", "_input", "_left", "_local", "_output", "_peer",
                 "_request", "_server", "_socket", "_waiting", "expires", "loop")  # fmt: skip

    def __init__(self, server: Server, peer: socket.socket, address: Peer, local: Peer) -> None:
        self.loop = server.loop
        self._server = server
        self._socket = peer
        self._peer = address
        self._local = local
        self._input = bytearray()
        self._output = bytearray()
        self._file = -1
        self._left = 0
        self._request: Request | None = None
        self._waiting = False
        self._closing = False
        self._continued = False
        self._events = READ
        self.expires = time.monotonic() + IDLE
        server.loop.watch(peer.fileno(), READ, self._ready)

    def close(self) -> None:
        """Ends the connection; safe to call twice."""
        if self._socket.fileno() >= 0:
            self._server.loop.forget(self._socket.fileno())
            self._socket.close()
            self._server.gone(self)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _ready(self, events: int) -> None:
        try:
            self.expires = time.monotonic() + IDLE
            if events & ~WRITE:
                data = self._socket.recv(_READ_SIZE)
                if not data:
                    self.close()
                    return
                self._input += data
                self._advance()
            else:
                self._flush()
        except BlockingIOError:
            return
        except OSError:
            self.close()
        except BaseException:
            self.close()
            raise

    def _advance(self) -> None:
        """Serves the requests that are whole; one at a time."""
        while not (self._waiting or self._closing or self._output or self._file >= 0) and self._socket.fileno() >= 0:
            try:
                request = self._take()
            except BadRequest as refusal:
                line = bytes(self._input[:200]).partition(b"\r\n")[0].decode("latin-1")
                self._input.clear()
                self._send(self._server.refusal(self._peer, line, refusal.status), None)
                return
            if request is None:
                break
            self._waiting = True
            answer = _Answer(self, request)
            self._server.handler(request, answer)
            answer.inline = False
            if answer.response is not None:
                self._waiting = False
                self._send(answer.response, request)
        self._listen()

    def answer(self, response: Response, request: Request) -> None:
        """Sends a response that came later."""
        if self._socket.fileno() < 0:
            if response.file >= 0:
                os.close(response.file)
            return
        self._waiting = False
        try:
            self._send(response, request)
            self._advance()
        except OSError:
            self.close()

    def _take(self) -> Request | None:
        """Takes a whole request from the input; None if there is none yet. Raises BadRequest."""
        request = self._request
        if request is None:
            while self._input[:2] == b"\r\n":
                del self._input[:2]
            end = self._input.find(b"\r\n\r\n")
            if end < 0:
                if len(self._input) > MAX_HEAD:
                    raise BadRequest(431)
                first = self._input.partition(b"\n")[0]
                if len(first) < len(self._input) and not first.endswith(b"\r"):
                    raise BadRequest(400)
                return None
            if end > MAX_HEAD:
                raise BadRequest(431)
            line, headers = parse_head(bytes(self._input[:end]))
            request = Request(line, headers, peer=self._peer, local=self._local)
            del self._input[: end + 4]
            self._request = request
            self._continued = False
        body = self._take_body(request)
        if body is None:
            return None
        request.body = body
        self._request = None
        return request

    def _take_body(self, request: Request) -> bytes | None:
        coding = request.headers.get("transfer-encoding", "").lower()
        if coding:
            if coding != "chunked" or "content-length" in request.headers:
                raise BadRequest(501 if coding != "chunked" else 400)
            found = unchunk(self._input, limit=self._server.max_body)
            if found is not None:
                body, used = found
                del self._input[:used]
                return body
        else:
            text = request.headers.get("content-length", "0")
            if not (text.isascii() and text.isdigit()) or len(text) > 15:
                raise BadRequest(400)
            length = int(text)
            if length > self._server.max_body:
                raise BadRequest(413)
            if len(self._input) >= length:
                body = bytes(self._input[:length])
                del self._input[:length]
                return body
        if not self._continued and request.headers.get("expect", "").lower() == "100-continue":
            self._output += b"HTTP/1.1 100 Continue\r\n\r\n"
            self._flush()
        self._continued = True
        return None

    def _send(self, response: Response, request: Request | None) -> None:
        last = response.close or request is None or not request.keeps_alive
        lines = [f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self._server.common()]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if response.status not in _NO_BODY:
            lines.append(f"Content-Length: {response.length}")
        lines.append(f"Connection: {'close' if last else 'keep-alive'}")
        self._output += "\r\n".join(one_line(line) for line in lines).encode("latin-1", "replace") + b"\r\n\r\n"
        bare = response.status in _NO_BODY or (request is not None and request.method == "HEAD")
        if response.file >= 0 and bare:
            os.close(response.file)
        elif response.file >= 0:
            self._file, self._left = response.file, response.length
        elif not bare:
            self._output += response.body
        self._closing = last
        self._flush()

    def _flush(self) -> None:
        """Writes what can be written; goes on with the next request when all is out."""
        while self._output or self._file >= 0:
            if not self._output:
                piece = os.read(self._file, min(_PIECE, self._left)) if self._left else b""
                self._left -= len(piece)
                if not self._left or not piece:
                    os.close(self._file)
                    self._file = -1
                if self._left and not piece:
                    self.close()  # the file has become shorter: the length that was promised cannot be kept
                    return
                self._output += piece
                continue
            try:
                count = self._socket.send(self._output)
            except BlockingIOError:
                break
            del self._output[:count]
        if self._output or self._file >= 0:
            self._listen()
        elif self._closing:
            self._part()
        elif self._events & WRITE:
            self._advance()

    def _part(self) -> None:
        """Closes after everything was sent. What the client still sends would turn the close into a reset."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(_READ_SIZE):
                pass
        except OSError:
            pass
        self.close()

    def _listen(self) -> None:
        if self._socket.fileno() < 0:
            return
        # A client that is being answered is not read from: it cannot pile up requests.
        busy = self._waiting or bool(self._output) or self._file >= 0
        full = len(self._input) > MAX_HEAD and self._request is None
        events = (0 if busy or full else READ) | (WRITE if self._output or self._file >= 0 else 0)
        if events != self._events:
            self._events = events
            self._server.loop.watch(self._socket.fileno(), events, self._ready)
