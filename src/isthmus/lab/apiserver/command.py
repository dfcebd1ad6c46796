"""The command line of the server, and its life from start to SIGTERM.

argparse instead of click: this process is started by the lab for every cluster and should import little. The order of
the start is: lock and load the store, begin to write, make what a cluster begins with, listen, say ready. Exit status
2 is a bad argument or file, 1 a store or socket that cannot be used.
"""

import argparse
import asyncio
import contextlib
import gc
import ipaddress
import os
import secrets
import signal
import socket
import ssl
import sys
from pathlib import Path

import structlog
from aiohttp import web

from isthmus.lab.apiserver import upkeep
from isthmus.lab.apiserver.access.auth import Authenticator, TokenFileError, read_token_file
from isthmus.lab.apiserver.changes.calls import Source
from isthmus.lab.apiserver.changes.lifecycle import Lifecycle
from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.http.proxy import NodeAccess, NodeProxy
from isthmus.lab.apiserver.http.server import Server
from isthmus.lab.apiserver.schema.kinds import Registry
from isthmus.lab.apiserver.storage.disk import Storage, StorageError
from isthmus.lab.apiserver.storage.state import State
from isthmus.lab.apiserver.strategies.base import Network, Settings

SHUTDOWN_TIME = 5.0  # seconds for requests under way
KEEPALIVE = 600.0  # seconds of an idle connection; longer than Go clients keep theirs, so that they close first
BACKLOG = 128

_log = structlog.get_logger(__name__)


class UsageError(Exception):
    """An argument, or a file that it names, cannot be used."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m isthmus.lab.apiserver", description="Kubernetes API server of the lab."
    )
    add = found.add_argument
    add("--data-dir", type=Path, required=True, help="directory of the store")
    add("--cluster-name", default="lab", help="name of the cluster")
    add("--service-cidr", default="10.96.0.0/16", help="networks of Services, one per family, separated by commas")
    add("--pod-cidr", default="", help="networks of pods, one per family, separated by commas")
    add("--tls-cert", type=Path, required=True, help="certificate of the server (PEM)")
    add("--tls-key", type=Path, required=True, help="its key (PEM)")
    add("--client-ca", type=Path, help="authority of client certificates (PEM)")
    add("--token-file", type=Path, help='tokens: lines of token,user,uid,"group1,group2"')
    add("--listen", action="append", default=[], metavar="HOST:PORT", help="address to listen on; may be repeated")
    add(
        "--listen-fd",
        action="append",
        type=int,
        default=[],
        metavar="N",
        help="inherited listening socket; may be repeated",
    )
    add("--advertise", metavar="HOST:PORT", help="address of the endpoints of the `kubernetes` Service")
    add(
        "--kubelet-ca",
        type=Path,
        help="authority of the nodes' certificates; without it nodes are reached over plain HTTP",
    )
    add("--kubelet-client-cert", type=Path, help="certificate shown to nodes")
    add("--kubelet-client-key", type=Path, help="its key")
    add("--kubelet-token-file", type=Path, help="bearer token shown to nodes")
    add(
        "--disable-admission-plugins",
        default="",
        metavar="NAMES",
        help="admission plugins not to run, separated by commas; known is ServiceAccount",
    )
    add(
        "--skip-validation-for",
        action="append",
        default=[],
        metavar="RESOURCE",
        help="store objects of this resource unchecked, as older servers might; may be repeated",
    )
    return found


def networks(text: str, flag: str) -> tuple[Network, ...]:
    """Returns the networks of a comma-separated list, at most one per family; raises UsageError."""
    found = []
    for part in text.split(","):
        if part.strip():
            try:
                found.append(ipaddress.ip_network(part.strip()))
            except ValueError as failure:
                raise UsageError(f"{flag}: {failure}") from failure
    if len({network.version for network in found}) != len(found):
        raise UsageError(f"{flag}: more than one network of the same family in {text!r}")
    return tuple(found)


def address(text: str, flag: str) -> tuple[str, int]:
    """Returns host and port of `HOST:PORT` or `[HOST]:PORT`; raises UsageError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{flag}: {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def tls_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Returns the server's TLS settings: client certificates are verified if shown, and never demanded.

    A certificate of another authority ends the handshake, where the real server answers 401: it asks for any
    certificate and verifies it later, which Python's `ssl` offers no way to do (there is no verification callback,
    and CERT_NONE asks for no certificate at all). kubectl says "unknown certificate authority" instead of
    "Unauthorized"; both end with status 1.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as failure:
        raise UsageError(f"TLS files {certificate}, {key}, {client_ca}: {failure}") from failure
    context.set_alpn_protocols(["http/1.1"])
    return context


def open_state(directory: Path, registry: Registry) -> tuple[State, bytes]:
    """Returns the loaded state and the key that signs tokens; raises StorageError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as failure:
        raise StorageError(f"{directory}: {failure}") from failure
    storage = Storage(directory / "state.sqlite3")
    key = storage.setting("token-key", secrets.token_bytes(32))
    return State(storage, registry), key


def sockets(arguments: argparse.Namespace) -> list[socket.socket]:
    """Returns the listening sockets; raises UsageError or OSError."""
    found = []
    for number in arguments.listen_fd:
        try:
            held = socket.socket(fileno=number)
            listening = held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as failure:
            raise UsageError(f"--listen-fd: {number}: {failure}") from failure
        if not listening:
            raise UsageError(f"--listen-fd: {number} is not a listening socket")
        held.setblocking(False)
        found.append(held)
    for text in arguments.listen:
        host, port = address(text, "--listen")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        held = socket.create_server((host, port), family=family, backlog=BACKLOG)
        held.setblocking(False)
        found.append(held)
    if not found:
        raise UsageError("nowhere to listen: give --listen or --listen-fd")
    return found


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT; raises UsageError, StorageError, OSError or ApiError if it cannot start."""
    registry = Registry()
    settings = Settings(
        cluster_name=arguments.cluster_name,
        service_networks=networks(arguments.service_cidr, "--service-cidr"),
        pod_networks=networks(arguments.pod_cidr, "--pod-cidr"),
        service_accounts="ServiceAccount" not in arguments.disable_admission_plugins.split(","),
        unvalidated=frozenset(arguments.skip_validation_for),
    )
    advertised = address(arguments.advertise, "--advertise") if arguments.advertise else None
    tokens = read_token_file(arguments.token_file) if arguments.token_file else {}
    context = tls_context(arguments.tls_cert, arguments.tls_key, arguments.client_ca)
    listening = sockets(arguments)
    state, key = open_state(arguments.data_dir, registry)

    life = Lifecycle(registry=registry, settings=settings, source=Source())
    access = NodeAccess(
        ca=arguments.kubelet_ca,
        certificate=arguments.kubelet_client_cert,
        key=arguments.kubelet_client_key,
        token_file=arguments.kubelet_token_file,
    )
    proxy = NodeProxy(state=state, registry=registry, access=access)
    authenticator = Authenticator(tokens=tokens, key=key, uid_of=state.uid_of)
    host, port = listening[0].getsockname()[:2]
    shown = f"{advertised[0]}:{advertised[1]}" if advertised else f"{host}:{port}"
    server = Server(state=state, life=life, authenticator=authenticator, proxy=proxy, address=shown)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    writer = asyncio.create_task(state.run(), name="state")
    runner = web.AppRunner(
        server.application(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_TIME,
        keepalive_timeout=KEEPALIVE,
    )
    sweeper: asyncio.Task[None] | None = None
    try:
        await upkeep.bootstrap(state, life, advertised=advertised)
        sweeper = asyncio.create_task(upkeep.sweep_for_ever(state, life), name="sweep")
        await runner.setup()
        for held in listening:
            await web.SockSite(runner, held, ssl_context=context, backlog=BACKLOG).start()
        server.ready = True
        gc.collect()
        gc.freeze()
        _log.info("serving", cluster=settings.cluster_name, addresses=[held.getsockname()[:2] for held in listening])
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, writer), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _log.info("stopping", cluster=settings.cluster_name)
    finally:
        await runner.cleanup()
        for task in (sweeper, writer):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        state.close()


def main() -> None:
    """Runs the command."""
    arguments = parser().parse_args()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    os.umask(0o077)
    try:
        asyncio.run(serve(arguments))
    except (UsageError, TokenFileError) as failure:
        sys.exit(_say(failure, 2))
    except (StorageError, OSError, ApiError) as failure:
        sys.exit(_say(failure, 1))


def _say(failure: Exception, code: int) -> int:
    sys.stderr.write(f"apiserver: {failure}\n")
    return code
