"""A child etcd on our own data directory: found, started, watched over, restarted, and gone when we are.

Invariants: one owner per data directory (a lock that the kernel drops with its holder, so a kill leaves nothing stale);
etcd dies with us even if we are killed (PR_SET_PDEATHSIG, set in the child itself between fork and exec, where it
cannot race); every data directory has a random name, by which we know that the etcd that answers is ours and not
somebody's on the same port, and which makes even etcd's own cluster id differ for all who compare it. Writes are synced
to disk: identity numbers must survive a power cut, and 128 keys share one sync. Rejected: `--unsafe-no-fsync`, which
makes a crash of the machine take back writes that agents have seen.
"""

import asyncio
import fcntl
import os
import re
import secrets
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec
import structlog

from isthmus.aio.backoff import Backoff
from isthmus.store.client import Client
from isthmus.store.errors import Denied, StoreError
from isthmus.store.owner import make_owner
from isthmus.store.transport import Tls, endpoints_of

PACKAGE = "etcd-server"
"""What Debian and Ubuntu call the package (Debian 12 and later)."""

QUOTA = 4 << 30
"""Bytes of database: a million addresses with their history take about one; etcd advises at most 8 GiB."""

RETENTION = "10m"
"""History kept: long enough for a reader to resume after a restart, short enough to keep the database small."""

START_TIMEOUT = 60.0
STOP_TIMEOUT = 5.0
KEPT_LINES = 20
MAX_LINE = 16 * 1024

# Runs in the child: tie it to its parent, notice a parent that is already gone, become etcd.
_BECOME = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

_log = structlog.get_logger("isthmus.store.child")


class ChildError(Exception):
    """etcd cannot be started; the message says what to do."""


class ServerTls(msgspec.Struct, frozen=True):
    """The server's certificate and key, and the authority that signs it and its clients (PEM files)."""

    cert: Path
    key: Path
    ca: Path


class ChildEtcd:
    """Runs etcd while used as an async context manager; `serve` must run to bring it back when it dies.

    `listen` are the URLs for clients: https with `tls`, then only clients with a certificate get in.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        listen: str = "http://127.0.0.1:2379",
        tls: ServerTls | None = None,
        program: str = "etcd",
        fsync: bool = True,
        quota: int = QUOTA,
        on_restart: Callable[[str], None] | None = None,
    ) -> None:
        self._dir = data_dir
        targets, secure = endpoints_of([listen])
        if secure != (tls is not None):
            raise ChildError(f"{listen}: https needs a certificate, a key and a CA, and http takes none")
        self._listen = listen.removesuffix("/")
        self._target = _reachable(targets[0])
        self._tls = tls
        self._program = program
        self._fsync = fsync
        self._quota = quota
        self.on_restart = on_restart
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._client_tls: Tls | None = None
        self._bundle: Path | None = None
        self._name = ""
        self._refusal = "another etcd answers on its port"
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process number while etcd runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def client(self) -> Client:
        """Returns a new client that may do everything."""
        scheme = "https" if self._tls is not None else "http"
        return Client([f"{scheme}://{self._target}"], tls=self._client_tls)

    async def __aenter__(self) -> "ChildEtcd":
        try:
            self._prepare()
            await self._ready(await self._start())
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def serve(self) -> None:
        """Restarts etcd whenever it dies, with growing delays. Runs until cancelled."""
        delays = Backoff(base=0.2, cap=15.0)
        loop = asyncio.get_running_loop()
        while True:
            process = self._process
            started = loop.time()
            code = await process.wait() if process is not None else None
            if self._reader is not None:
                await self._reader
            if loop.time() - started > 60:
                delays.reset()
            delay = delays.next()
            reason = f"{_ending(code)}: {self._last()}"
            _log.warning("etcd ended", reason=reason, retry_seconds=round(delay, 1))
            await asyncio.sleep(delay)
            self.restarts += 1
            try:
                await self._start()
            except OSError as error:
                # Too many processes, or the program is being upgraded: next time, then.
                self._lines.append(str(error))
                self._process = None
                continue
            if self.on_restart is not None:
                self.on_restart(reason)

    def _prepare(self) -> None:
        program = shutil.which(self._program)
        if program is None:
            raise ChildError(
                f"the program {self._program!r} is not installed: install the package {PACKAGE}"
                " (apt-get install etcd-server), or name a running etcd with --etcd-endpoints"
            )
        self._path = program
        try:
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(self._dir / "lock")
            self._name = _name(self._dir / "name")
        except OSError as error:
            raise ChildError(f"data directory {self._dir}: {error.strerror or error}") from error
        if self._tls is not None:
            for path in (self._tls.cert, self._tls.key, self._tls.ca):
                if not os.access(path, os.R_OK):
                    raise ChildError(f"cannot read {path}")
            try:
                self._bundle, self._client_tls = make_owner(self._dir, ca=self._tls.ca, cert=self._tls.cert)
            except OSError as error:
                raise ChildError(f"data directory {self._dir}: {error.strerror or error}") from error

    def arguments(self) -> list[str]:
        """The command line, for etcd 3.4 and later."""
        peer = "http://127.0.0.1:0"
        arguments = [
            self._path,
            f"--name={self._name}",
            f"--data-dir={(self._dir / 'etcd').absolute()}",
            f"--listen-client-urls={self._listen}",
            f"--advertise-client-urls={self._listen}",
            # One member talks to no peer; a socket in the data directory keeps a port free and closed.
            "--listen-peer-urls=unix://peer:0",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={self._name}={peer}",
            f"--initial-cluster-token={self._name}",
            # One member elects itself; waiting long for others only delays a restart.
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--auto-compaction-mode=periodic",
            f"--auto-compaction-retention={RETENTION}",
            f"--quota-backend-bytes={self._quota}",
            # The JSON gateway would speak with the server's own certificate.
            "--enable-grpc-gateway=false",
            "--logger=zap",
            "--log-outputs=stderr",
            "--log-level=warn",
        ]
        if not self._fsync:
            arguments.append("--unsafe-no-fsync")
        if self._tls is not None:
            arguments += [
                f"--cert-file={self._tls.cert.absolute()}",
                f"--key-file={self._tls.key.absolute()}",
                f"--trusted-ca-file={self._bundle.absolute() if self._bundle else ''}",
                "--client-cert-auth=true",
            ]
        return arguments

    async def _start(self) -> asyncio.subprocess.Process:
        self._lines.clear()
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            "-c",
            _BECOME,
            str(os.getpid()),
            *self.arguments(),
            cwd=self._dir,
            env=_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # A terminal's Ctrl-C is for us; etcd is told when it is its turn.
            process_group=0,
        )
        self._reader = asyncio.create_task(self._read(process))
        return process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Keeps the last lines; reads chunks, because a line may be longer than any stream limit."""
        rest = b""
        while process.stderr is not None and (chunk := await process.stderr.read(4096)):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[:MAX_LINE]
            for line in lines:
                self._heard(line[:MAX_LINE])
        if rest:
            self._heard(rest)

    def _heard(self, line: bytes) -> None:
        text = _message(line)
        if text and not _STACK.search(text):
            self._lines.append(text)
            _log.debug("etcd says", text=text)

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        """Waits until etcd answers. Raises ChildError with its last words if it ends or takes too long."""
        ended = asyncio.create_task(process.wait())
        client = self.client()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while True:
                    if ended.done():
                        if self._reader is not None:
                            await self._reader
                        raise ChildError(f"etcd {_ending(ended.result())}: {self._last()}")
                    try:
                        if self._name in await client.members():
                            return
                    except Denied as error:
                        raise ChildError(f"etcd does not accept its owner: {error}") from error
                    except StoreError as error:
                        self._refusal = str(error)
                    await asyncio.wait({ended}, timeout=0.05)
        except TimeoutError:
            raise ChildError(
                f"etcd did not answer within {START_TIMEOUT:g} s ({self._refusal}): {self._last()}"
            ) from None
        finally:
            ended.cancel()
            await client.close()

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            _signal(process, signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
            except TimeoutError:
                _signal(process, signal.SIGKILL)
                # The kernel does not refuse this one, so the wait needs no limit.
                await process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _last(self) -> str:
        return "; ".join(list(self._lines)[-3:]) or "it said nothing"


def _lock(path: Path) -> int:
    """Takes the lock for this process and writes its number into it. Raises ChildError naming the holder."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise ChildError(f"data directory {path.parent} is in use by process {holder}") from None
    except OSError:
        os.close(fd)
        raise
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _name(path: Path) -> str:
    """Returns the data directory's own name, made up when it is used for the first time."""
    try:
        name = path.read_text(encoding="ascii", errors="replace")[:64].strip()
    except FileNotFoundError:
        name = ""
    if not name.isascii() or not name.replace("-", "").isalnum():
        name = f"isthmus-{secrets.token_hex(8)}"
        path.write_text(name + "\n", encoding="ascii")
    return name


def _reachable(target: str) -> str:
    """The address at which we ourselves reach a listener on `target`."""
    host, _, port = target.rpartition(":")
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host) + ":" + port


def _environment() -> dict[str, str]:
    """Our environment without etcd's own variables, each of which would silently override a flag."""
    keep = "ETCD_UNSUPPORTED_ARCH"
    return {k: v for k, v in os.environ.items() if not k.startswith("ETCD_") or k == keep}


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with code {code}"
    return f"was ended by signal {-code}"


_STACK = re.compile(r"^goroutine \d+ \[|\.go:\d+( \+0x[0-9a-f]+)?$|^created by |^[\w./*()-]+\([^ ]*(, [^ ]*)*\)$")
"""Lines of the trace that follows a panic: they would push out what it was about."""


def _message(line: bytes) -> str:
    """What etcd says in a JSON line: its message and error; other lines as they are."""
    text = line.decode("utf-8", "replace").strip()
    try:
        entry = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text
    if not isinstance(entry, dict) or "msg" not in entry:
        return text
    return ": ".join(str(entry[k]) for k in ("msg", "error") if entry.get(k))
