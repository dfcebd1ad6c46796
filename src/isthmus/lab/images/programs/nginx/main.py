"""The program `nginx`: its options, its files, its log.

Invariant: a new configuration is in force as a whole or not at all; `nginx -s reload` with a mistake in it leaves the
old one. What nobody reads of the access log is dropped: a server must not stand still because its log does. Rejected:
writing the log through `print`, which blocks on a full pipe.
"""

import glob
import os
import select
import signal
import socket
import sys
import time

from isthmus.lab.images.programs.loop import Loop, end_on_signals, listen
from isthmus.lab.images.programs.messages import MONTHS, REASONS, Peer, Request, Response, http_date, one_line
from isthmus.lab.images.programs.nginx.answering import VERSION, Answerer, error_body, expand
from isthmus.lab.images.programs.nginx.grammar import ConfigError, Reader
from isthmus.lab.images.programs.nginx.site import Site, build
from isthmus.lab.images.programs.nginx.stock import FILES, FORMATS, TYPES
from isthmus.lab.images.programs.web import Reply, Server

CONFIG = "/etc/nginx/nginx.conf"
_PID = "/run/nginx.pid"
_STANDARD_LOGS = {"/dev/stdout": 1, "/var/log/nginx/access.log": 1, "logs/access.log": 1, "/dev/stderr": 2}
_SIGNALS = {"stop": signal.SIGTERM, "quit": signal.SIGQUIT, "reload": signal.SIGHUP, "reopen": signal.SIGUSR1}
_USAGE = "Usage: nginx [-?hvVtTq] [-s signal] [-p prefix] [-e filename] [-c filename] [-g directives]\n"


class Start:
    """What the configuration says at the start: the site, whether to go to the background, where the number goes."""

    def __init__(self, site: Site, *, daemon: bool, pid_file: str) -> None:
        self.site = site
        self.daemon = daemon
        self.pid_file = pid_file


class Options:
    """What the command line says."""

    def __init__(self) -> None:
        self.config = CONFIG
        self.globals = ""
        self.signal = ""
        self.test = self.dump = self.quiet = self.version = self.usage = False


def main(argv: list[str]) -> int:
    """Runs; returns the exit code."""
    try:
        options = parse(argv)
    except ConfigError as error:
        sys.stderr.write(f"nginx: {error}\n")
        return 1
    if options.version or options.usage:
        sys.stderr.write(f"nginx version: {VERSION}\n" + (_USAGE if options.usage else ""))
        return 0
    virtual = install(FILES)
    files: list[tuple[str, str]] = []
    try:
        start = load(options, virtual, files)
    except ConfigError as error:
        complain("emerg", str(error), prefix="nginx: ")
        if options.test:
            sys.stderr.write(f"nginx: configuration file {options.config} test failed\n")
        return 1
    if options.signal:
        return send_signal(options.signal, start.pid_file)
    if options.test or options.dump:
        if not options.quiet:
            sys.stderr.write(f"nginx: the configuration file {options.config} syntax is ok\n")
            sys.stderr.write(f"nginx: configuration file {options.config} test is successful\n")
        if options.dump:
            for path, text in files:
                sys.stdout.write(f"# configuration file {path}:\n{text}\n")
        return 0
    if start.daemon and os.fork():
        return 0
    return Nginx(options, start, virtual).run()


def parse(argv: list[str]) -> Options:
    """Returns the options; raises ConfigError."""
    options = Options()
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            raise ConfigError(f'invalid option: "{word}"')
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in "gcspe":
                value = letters or (words.pop(0) if words else "")
                letters = ""
                if not value:
                    raise ConfigError(f'option "-{letter}" requires parameter')
                if letter == "g":
                    options.globals = value
                elif letter == "c":
                    options.config = value if value.startswith("/") else f"/etc/nginx/{value}"
                elif letter == "s":
                    if value not in _SIGNALS:
                        raise ConfigError(f'invalid option: "-s {value}"')
                    options.signal = value
            elif letter in "vV":
                options.version = True
            elif letter in "?h":
                options.usage = True
            elif letter == "t":
                options.test = True
            elif letter == "T":
                options.dump = True
            elif letter == "q":
                options.quiet = True
            else:
                raise ConfigError(f'invalid option: "{letter}"')
    return options


def install(files: dict[str, str]) -> dict[str, str]:
    """Writes the image's files where nothing else is; returns those that could not be written."""
    left = {}
    # What is mounted over a directory of the image hides all of it.
    absent = {folder: not os.path.lexists(folder) for folder in {os.path.dirname(path) for path in files}}
    for path, text in files.items():
        folder = os.path.dirname(path)
        if os.path.lexists(path) or (not absent[folder] and os.path.ismount(folder)):
            continue
        try:
            os.makedirs(folder, exist_ok=True)
            with open(path, "x") as file:
                file.write(text)
        except OSError:
            left[path] = text
    return left


def load(options: Options, virtual: dict[str, str], seen: list[tuple[str, str]]) -> Start:
    """Returns what the files and -g say; raises ConfigError."""

    def read_file(path: str) -> str:
        if path in virtual:
            text = virtual[path]
        else:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        seen.append((path, text))
        return text

    def find(pattern: str) -> list[str]:
        mine = [path for path in virtual if matches(path, pattern)]
        return sorted({*glob.glob(pattern), *mine})

    reader = Reader(read_file, find)
    directives = reader.parse(options.globals, "command line") if options.globals else []
    directives += reader.read(options.config)
    said = {found.name: found.args[0] for found in directives if found.name in ("daemon", "pid") and found.args}
    return Start(build(directives), daemon=said.get("daemon") != "off", pid_file=said.get("pid", _PID))


def matches(path: str, pattern: str) -> bool:
    """Tells whether a pattern of one directory names this file."""
    folder, _, name = pattern.rpartition("/")
    head, _, tail = name.partition("*")
    at, _, last = path.rpartition("/")
    return at == folder and last.startswith(head) and last.endswith(tail)


def send_signal(name: str, pid_file: str) -> int:
    """Does `nginx -s`; returns the exit code."""
    try:
        with open(pid_file) as file:
            number = file.read(100).strip()
    except OSError as error:
        complain("error", f'open() "{pid_file}" failed ({error.errno}: {error.strerror})', prefix="nginx: ")
        return 1
    try:
        os.kill(int(number), _SIGNALS[name])
    except (OSError, ValueError, OverflowError):
        complain("error", f'invalid PID number "{number}" in "{pid_file}"', prefix="nginx: ")
        return 1
    return 0


def complain(level: str, text: str, *, prefix: str = "") -> None:
    """Writes to the error log."""
    stamp = "" if prefix else time.strftime("%Y/%m/%d %H:%M:%S ")
    who = "" if prefix else f" {os.getpid()}#{os.getpid()}:"
    write_line(2, f"{prefix}{stamp}[{level}]{who} {one_line(text)}\n", wait=bool(prefix))


def write_line(descriptor: int, line: str, *, wait: bool = False) -> None:
    """Writes a line, unless that would block."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    if wait or poller.poll(0):
        try:
            os.write(descriptor, line.encode(errors="replace"))
        except OSError:
            return


class Nginx:
    """The running server."""

    def __init__(self, options: Options, start: Start, virtual: dict[str, str]) -> None:
        self._options = options
        self._virtual = virtual
        self._loop = Loop()
        self._servers: dict[tuple[str, int], Server] = {}
        self._pid_file = start.pid_file
        self._answerer = Answerer(start.site, pages=virtual, types=TYPES)
        self._logs: dict[str, int] = {}

    def run(self) -> int:
        """Serves until a signal; returns the exit code."""
        end_on_signals()
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))
        signal.signal(signal.SIGHUP, lambda *_: self._loop.call(self._reload))
        signal.signal(signal.SIGUSR1, lambda *_: self._loop.call(self._reopen))
        try:
            self._bind(self._answerer.site)
        except OSError as error:
            complain("emerg", f"{error.args[-1]}", prefix="nginx: ")
            return 1
        try:
            with open(self._pid_file, "w") as file:
                file.write(f"{os.getpid()}\n")
        except OSError as error:
            # As the original, which does not run on a read-only file system unless told to write elsewhere.
            reason = f'open() "{self._pid_file}" failed ({error.errno}: {error.strerror})'
            complain("emerg", reason, prefix="nginx: ")
            return 1
        complain("notice", f"{VERSION}")
        complain("notice", "start worker processes")
        self._loop.run()
        return 0

    def _bind(self, site: Site) -> None:
        """Listens where the site wants to; raises OSError and keeps what there was."""
        wanted = site.addresses
        fresh: dict[tuple[str, int], Server] = {}
        try:
            for host, port in wanted:
                if (host, port) not in self._servers:
                    fresh[host, port] = Server(
                        self._loop, self._listener(host, port), self._serve, common=self._common, refusal=self._refuse
                    )
        except OSError:
            for server in fresh.values():
                server.close()
            raise
        for place in [place for place in self._servers if place not in wanted]:
            self._servers.pop(place).close()
        self._servers |= fresh

    def _listener(self, host: str, port: int) -> socket.socket:
        try:
            return listen(port, host=host)
        except OSError as error:
            shown = f"[{host}]" if ":" in host else host or "0.0.0.0"
            raise OSError(error.errno, f"bind() to {shown}:{port} failed ({error.errno}: {error.strerror})") from error

    def _reload(self) -> None:
        try:
            site = load(self._options, self._virtual, []).site
            self._bind(site)
        except (ConfigError, OSError) as error:
            complain("emerg", str(error.args[-1]))
            return
        self._answerer = Answerer(site, pages=self._virtual, types=TYPES)
        complain("notice", "reconfiguring")

    def _reopen(self) -> None:
        for descriptor in self._logs.values():
            os.close(descriptor)
        self._logs.clear()

    def _common(self) -> list[tuple[str, str]]:
        return [("Server", VERSION), ("Date", http_date(time.time()))]

    def _refuse(self, peer: Peer, line: str, status: int) -> Response:
        title = f"{status} {REASONS[status]}"
        complain("info", f"client sent invalid request, client: {peer[0]}")
        now = time.localtime()
        write_line(
            1, f'{peer[0]} - - [{log_time(now)}] "{log_text(line)}" {status} {len(error_body(title))} "-" "-" "-"\n'
        )
        return Response(status, error_body(title), [("Content-Type", "text/html")], close=True)

    def _serve(self, request: Request, reply: Reply) -> None:
        began = time.monotonic()
        response, scope = self._answerer.answer(request)
        for text in self._answerer.errors:
            host = request.headers.get("host", "")
            where = (
                f', client: {request.peer[0]}, server: , request: "{log_text(request.line)}", host: "{log_text(host)}"'
            )
            complain("error", f"*1 {text}{where}")
        log = scope.get("access_log") or ["/dev/stdout", "main"]
        if log[0] != "off":
            self._log(log, request, response, time.monotonic() - began)
        reply(response)

    def _log(self, log: list[str], request: Request, response: Response, seconds: float) -> None:
        site = self._answerer.site
        name = next((word for word in log[1:] if "=" not in word), "combined")
        form = site.formats.get(name) or FORMATS.get(name) or FORMATS["combined"]
        now = time.localtime()
        more = {
            "status": str(response.status),
            "body_bytes_sent": str(0 if request.method == "HEAD" or response.status == 304 else response.length),
            "bytes_sent": str(response.length),
            "request_time": f"{seconds:.3f}",
            "time_local": log_time(now),
            "time_iso8601": time.strftime("%Y-%m-%dT%H:%M:%S", now) + zone(now, colon=":"),
            "remote_user": "-",
            "request_length": str(len(request.line) + len(request.body)),
            "connection": "1",
            "connection_requests": "1",
            "pipe": ".",
        }
        line = expand(form, request, more=more, shown=lambda value: log_text(value) or "-")
        write_line(self._descriptor(log[0]), f"{line}\n")

    def _descriptor(self, path: str) -> int:
        if path in _STANDARD_LOGS:
            return _STANDARD_LOGS[path]
        if path not in self._logs:
            path = path if path.startswith("/") else f"/etc/nginx/{path}"
            try:
                self._logs[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                complain("alert", f'open() "{path}" failed ({error.errno}: {error.strerror})')
                return 1
        return self._logs[path]


def log_text(text: str) -> str:
    """Escapes text for the access log, as nginx does: quotes, backslashes and what is not printable ASCII."""
    return "".join(
        letter if " " <= letter <= "~" and letter not in '"\\' else f"\\x{byte:02X}"
        for letter, byte in ((chr(byte), byte) for byte in text.encode("latin-1", "replace"))
    )


def log_time(now: time.struct_time) -> str:
    """Returns a time as access logs write it."""
    return (
        f"{now.tm_mday:02}/{MONTHS[now.tm_mon - 1]}/{now.tm_year}:"
        f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} {zone(now)}"
    )


def zone(now: time.struct_time, *, colon: str = "") -> str:
    """Returns the offset from UTC."""
    minutes = now.tm_gmtoff // 60
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{abs(minutes) // 60:02}{colon}{abs(minutes) % 60:02}"
