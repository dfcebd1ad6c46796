"""A node that serves Services in a small world of network namespaces, and backends that say who they are.

    node = ServiceNode(world)
    node.put(service("web", port=80), backends("web", ("10.244.0.11", 8080)))
    assert node.ask("a", "172.20.0.10", 80) == "b:8080"

Pods of the world are pods of the node but for those named `outside`, which stand for clients elsewhere. The node has a
route for the service networks, as a node of a cluster has.
"""

import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from selectors import EVENT_READ, DefaultSelector
from types import TracebackType
from typing import Self

from isthmus.agent.writer import KernelWriter
from isthmus.kernel.namespaces import enter
from isthmus.model.flow import PORT_PROTOCOLS, Protocol
from isthmus.model.service import Backend, Port, Service, Slice, Target
from isthmus.policy.world import LocalPod
from isthmus.policy.world import World as PolicyWorld
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.services import ServiceCompiler
from isthmus.ruleset.text import replacement, script
from isthmus.services.frontends import FrontendKey
from tests.support.netns import World

NODE = "n1"
OWN = "east"
NETWORKS = ("172.20.0.0/16", "fd00:172:20::/64")
VIP4, VIP6 = "172.20.0.10", "fd00:172:20::10"


def service(name: str = "web", *ports: Port, **fields: object) -> Service:
    """Returns a service with a ClusterIP of each family, and by default one port, TCP 80."""
    given = {"cluster_ips": (VIP4, VIP6), **fields}
    return Service("shop", name, ports=ports or (Port("", Protocol.TCP, 80),), **given)


def backends(
    name: str,
    *targets: tuple[str, int],
    protocol: str = "TCP",
    port: str = "",
    key: str = "",
    cluster: str = OWN,
    **flags: object,
) -> Slice:
    """Returns a slice; `flags` are those of every backend in it (`node` is this node by default)."""
    told = {"node": NODE, **flags}
    members = {((port, PORT_PROTOCOLS[protocol]), Backend(cluster, Target(*target), **told)) for target in targets}
    place = ("shop", key or f"{name}-{protocol}-{port}")
    return Slice(place if cluster == OWN else (cluster, *place), ("shop", name), frozenset(members))


class ServiceNode:
    """The node of a world: what it knows, and how that gets into the kernel."""

    def __init__(self, world: World, *, outside: Iterable[str] = (), policies: PolicyWorld | None = None) -> None:
        self.world = world
        world.router.ip(
            "link add svc type veth peer name svcpeer",
            "link set svc up",
            "link set svcpeer up",
            *(f"route add {network} dev svc src {ip}" for network, ip in zip(NETWORKS, world.router.ips, strict=True)),
        )
        self.compiler = Compiler(policies or PolicyWorld(OWN))
        for name, host in world.pods.items():
            if name not in outside:
                self.compiler.put_pod(LocalPod("shop", name, "", {"app": name}, host.ips))
        self.services = ServiceCompiler(self.compiler.table, node=NODE)
        self.services.set_node(world.router.ips)
        world.nft(replacement(self.compiler.table.whole()))
        self.compiler.table.forget_journal()

    def put(self, *things: Service | Slice) -> bool:
        """Tells of services and slices, writes as the agent does, and returns whether that took structure."""
        for thing in things:
            if isinstance(thing, Service):
                self.services.put_service(thing)
            else:
                self.services.put_slice(thing)
        return self.push()

    def push(self) -> bool:
        """Writes what changed: structure as text, elements alone as netlink."""
        delta = self.compiler.table.take_delta()
        if delta.structural:
            for step in delta.steps:
                self.world.nft(script(step))
        elif delta:
            self.world.apply(*delta.changes)
        return delta.structural

    def stale(self) -> dict[FrontendKey, frozenset[Target]]:
        """Returns what `forget_stale` takes."""
        return {key: self.services.rightful(key) for key in self.services.take_stale()}

    def ask(self, host: str, address: str, port: int, protocol: str = "TCP") -> str:
        """Opens one connection and returns who answered, or "refused"."""
        return next(iter(self.ask_often(host, address, port, protocol, times=1)))

    def silent(self, host: str, address: str, port: int, protocol: str = "TCP") -> bool:
        """Opens one connection and tells whether nothing at all comes of it for a moment."""
        return set(self.ask_often(host, address, port, protocol, times=1, patience=0.3)) == {"silence"}

    def ask_often(
        self, host: str, address: str, port: int, protocol: str = "TCP", *, times: int, patience: float = 5
    ) -> Counter[str]:
        """Opens that many connections, one after another, and counts who answered within `patience` seconds."""
        kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def work() -> Counter[str]:
            return Counter(_ask(family, kind, (address, port), patience) for _ in range(times))

        return self.world[host].run(work)


def _ask(family: int, kind: int, place: tuple[str, int], patience: float) -> str:
    with socket.socket(family, kind) as sock:
        sock.settimeout(patience)
        try:
            sock.connect(place)
            sock.send(b"?")
            return sock.recv(100).decode()
        except TimeoutError:
            return "silence"
        except (ConnectionRefusedError, PermissionError):  # the latter is what a UDP sender on the node itself gets
            return "refused"


@asynccontextmanager
async def writer_in(world: World) -> AsyncIterator[KernelWriter]:
    """Opens the agent's writer in the router's namespace: its one thread is taken there before it does anything."""
    writer = KernelWriter(services=True)
    await writer._run(lambda: enter(world.router.descriptor))
    async with writer:
        yield writer


class Answerers:
    """Servers that answer with who they are, who asked, and over what: `name:port` or, asked "from", the client."""

    def __init__(self) -> None:
        self._selector = DefaultSelector()
        self._end, self._stop = socket.socketpair()
        self._selector.register(self._end, EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, name="answerers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def add(self, world: World, name: str, ports: Sequence[int], protocols: Sequence[str] = ("TCP", "UDP")) -> None:
        """Makes a host answer on all its addresses."""
        host = world[name]
        for port in ports:
            for ip in host.ips:
                for protocol in protocols:
                    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
                    sock = host.run(lambda ip=ip, port=port, kind=kind: _bound(ip, port, kind))
                    self._selector.register(sock, EVENT_READ, (f"{name}:{port}", protocol))

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with suppress(OSError):
                    self._answer(key.fileobj, *key.data)

    def _answer(self, sock: socket.socket, name: str, state: str) -> None:
        match state:
            case "TCP":
                connection, _ = sock.accept()
                connection.setblocking(False)
                self._selector.register(connection, EVENT_READ, (name, "open"))
            case "open":
                data = b""
                with suppress(ConnectionError):
                    data = sock.recv(100)
                    if data:
                        sock.send(sock.getpeername()[0].encode() if data == b"from" else name.encode())
                if not data:
                    self._selector.unregister(sock)
                    sock.close()
            case _:
                data, client = sock.recvfrom(100)
                sock.sendto(client[0].encode() if data == b"from" else name.encode(), client)


def _bound(ip: str, port: int, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((ip, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(1024)
    sock.setblocking(False)
    return sock
