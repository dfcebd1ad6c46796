"""`coredns` in the lab: reads its Corefile, follows the API server, answers.

Invariants: it answers from memory as long as it lives, with or without an API server; it is ready once every resource
was listed, and answers SERVFAIL until then; at SIGTERM it goes on for its lameduck time, so that nobody is sent to it
when it ends.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from isthmus.aio.backoff import Backoff
from isthmus.lab.dns.client import ApiError, Target, get, watch
from isthmus.lab.dns.clusterset import ClusterSetZone
from isthmus.lab.dns.corefile import DEFAULT, CorefileError, Settings, parse
from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.follow import WATCH_SECONDS, Progress, resources
from isthmus.lab.dns.health import Counts, serve_page
from isthmus.lab.dns.responder import Responder
from isthmus.lab.dns.reverse import IN_ADDR, IP6, ReverseZone
from isthmus.lab.dns.server import DnsServer
from isthmus.lab.dns.zone import ServiceZone, Zone
from isthmus.lab.images.programs.loop import Loop, datagram_socket, listen

_USAGE = "usage: coredns [-conf FILE] [-dns.port PORT] [-server HOST:PORT -token-file FILE -ca-file FILE]\n"
_FLAGS = ("conf", "dns.port", "server", "token-file", "ca-file")
_WATCH_LIMIT = WATCH_SECONDS + 30.0


class UsageError(Exception):
    """The arguments are wrong."""


def main(argv: list[str]) -> int:
    """Runs; returns the exit code."""
    try:
        options = flags(argv)
        settings = read_settings(options)
        target = find_target(options)
    except UsageError as error:
        sys.stderr.write(f"{error}\n{_USAGE}")
        return 2
    except (CorefileError, ApiError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for warning in settings.warnings:
        say("WARNING", warning)
    try:
        Daemon(settings, target).run()
    except OSError as error:
        sys.stderr.write(f"Listen: {error}\n")
        return 1
    return 0


def flags(argv: Sequence[str]) -> dict[str, str]:
    """Returns `-name value` and `--name=value`; raises UsageError."""
    found = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in _FLAGS:
            raise UsageError(f"unknown argument {word}")
        if not equals:
            if not words:
                raise UsageError(f"flag needs an argument: -{name}")
            value = words.pop(0)
        found[name] = value
    return found


def read_settings(options: dict[str, str]) -> Settings:
    """Returns what the Corefile says; raises CorefileError, UsageError."""
    text = DEFAULT
    if "conf" in options:
        try:
            with open(options["conf"], encoding="utf-8") as file:
                text = file.read(1024 * 1024)
        except (OSError, UnicodeDecodeError) as error:
            raise CorefileError(f"cannot read {options['conf']}: {error}") from error
    settings = parse(text)
    if "dns.port" in options:
        port = options["dns.port"]
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise UsageError(f"{port} is not a port")
        settings = settings._replace(port=int(port))
    return settings


def find_target(options: dict[str, str]) -> Target:
    """Returns where the API server is; raises ApiError, UsageError."""
    if "server" not in options:
        return Target.from_environment()
    host, _, port = options["server"].rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not {"token-file", "ca-file"} <= options.keys():
        raise UsageError("-server needs HOST:PORT, -token-file and -ca-file")
    return Target(host.strip("[]"), int(port), token_file=options["token-file"], ca_file=options["ca-file"])


def zones_of(settings: Settings, directory: Directory, imported: Directory) -> list[Zone]:
    """Returns the zones of a Corefile; its first name that is not for addresses or imports is the cluster's domain."""
    special = (IN_ADDR, IP6, *settings.multicluster)
    forward = [origin for origin in settings.origins if origin not in special]
    zones: list[Zone] = [ServiceZone(origin, directory, ttl=settings.ttl, pods=settings.pods) for origin in forward]
    if zones and isinstance(zones[0], ServiceZone):
        named = zones[0]
        zones += [ClusterSetZone(name, imported, server=named, ttl=settings.ttl) for name in settings.multicluster]
        reverse = [origin for origin in settings.origins if origin in (IN_ADDR, IP6)]
        zones += [ReverseZone(origin, named, directory, ttl=settings.ttl) for origin in reverse]
    return zones


class Daemon:
    """The running server: DNS in this thread, and one thread for each resource of the API that is followed."""

    def __init__(self, settings: Settings, target: Target) -> None:
        self._settings = settings
        self._target = target
        self._loop = Loop()
        serial = int(time.time()) % 2**32
        directory, imported = Directory(serial=serial), Directory(serial=serial)
        followed = resources(directory, imported if settings.multicluster else None)
        self._progress = [Progress(resource) for resource in followed]
        self._counts = Counts()
        self._responder = Responder(zones_of(settings, directory, imported), is_ready=lambda: self.ready)

    @property
    def ready(self) -> bool:
        """Whether everything was listed once."""
        return all(progress.synced for progress in self._progress)

    def run(self) -> None:
        """Serves until SIGTERM; raises OSError if a port cannot be had."""
        settings, loop = self._settings, self._loop
        server = DnsServer(loop, self._respond)
        server.open_streams(listen(settings.port))
        server.open_datagrams(datagram_socket(settings.port))
        for port, path, page in (
            (settings.health, "/health", lambda: (200, "OK")),
            (settings.ready, "/ready", lambda: (200, "OK") if self.ready else (503, "kubernetes")),
            (settings.metrics, "/metrics", lambda: (200, self._counts.text())),
        ):
            if port:
                serve_page(loop, port, path, page)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call(self._end))
        say("INFO", f"listening on port {settings.port}")
        for progress in self._progress:
            threading.Thread(target=self._follow, args=(progress,), daemon=True).start()
        loop.run()

    def _respond(self, data: bytes, proto: str) -> bytes | None:
        answer = self._responder.respond(data, stream=proto == "tcp")
        if answer is not None:
            self._counts.add(proto, *self._responder.last)
        return answer

    def _end(self) -> None:
        lameduck = self._settings.lameduck
        if not lameduck:
            os._exit(0)
        say("INFO", f"plugin/health: Going into lameduck mode for {lameduck:g}s")
        threading.Timer(lameduck, os._exit, [0]).start()

    def _follow(self, progress: Progress) -> None:
        """Lists and watches one resource for ever, in a thread of its own; what comes is taken in the loop's thread."""
        backoff = Backoff(base=0.2, cap=10.0)
        name = progress.resource.name
        well, defined = True, True
        while True:
            try:
                if progress.watching:
                    for event in watch(self._target, progress.request(), limit=_WATCH_LIMIT):
                        self._take(progress.event, event)
                        backoff.reset()
                    delay = 0.2  # a server that ends every watch at once must not be met in a busy loop
                else:
                    self._take(progress.page, get(self._target, progress.request()))
                    # A list without a revision leads nowhere: it is tried again, but not in a busy loop.
                    delay = 0.0 if progress.watching or progress.listing else backoff.next()
                    if progress.watching:
                        backoff.reset()
                        say("INFO", f"plugin/kubernetes: {name} listed")
                if not well:
                    say("INFO", f"plugin/kubernetes: {name}: the API server is back")
                well, defined = True, True
            except ApiError as error:
                self._take(progress.failed, error.status)
                delay = backoff.next()
                if error.status == 404 and progress.resource.others is not None:
                    if defined and progress.missing:
                        say("INFO", f"plugin/kubernetes: {name} are not defined here; looking again now and then")
                        defined = False
                    time.sleep(delay if progress.missing else 0.0)
                    continue
                if well:
                    say("WARNING", f"plugin/kubernetes: {name}: {error}; answering from memory")
                well = False
            time.sleep(delay)

    def _take(self, action: Callable[[Any], None], what: Any) -> None:
        """Does something in the loop's thread, which alone reads and writes the directory, and waits for it."""
        done = threading.Event()

        def act() -> None:
            try:
                action(what)
            finally:
                done.set()

        self._loop.call(act)
        # Without a time-out: the loop lives as long as the process.
        done.wait()


def say(level: str, text: str) -> None:
    """Writes a line of the log."""
    sys.stderr.write(f"[{level}] {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
