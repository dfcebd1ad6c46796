"""A small world of network namespaces for packet tests: one router, which is the node, and pods behind veth pairs.

    with World(["a", "b"]) as world:
        world.nft(script)
        assert world.reach([Attempt("a", "b", "tcp", 80)]) == [True]

Every pod has one IPv4 and one IPv6 address, each alone on its link (/32 and /128) with the router as gateway, as with
most CNIs. Namespaces are anonymous and held by descriptors only: whatever happens to the test process, the kernel
removes them with it. Needs root, in the initial or in a user namespace.
"""

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from isthmus.kernel.elements import ElementWriter
from isthmus.kernel.namespaces import enter, new_namespace
from isthmus.kernel.nftables import Nft
from isthmus.ruleset.sets import ElementChange
from tests.support.probes import Attempt, Responder, Stream, reach

Result = TypeVar("Result")

GATEWAY4 = "169.254.1.1"
GATEWAY6 = "fe80::1"
NODE = ("10.0.0.1", "fd00::1")
SYSCTLS = {
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/router_solicitations": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}
FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
ENVIRONMENT = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}


@dataclass
class Host:
    """A network namespace with a thread that lives in it; `ips` are its own addresses, IPv4 first."""

    name: str
    ips: tuple[str, ...]
    descriptor: int
    _thread: ThreadPoolExecutor = field(repr=False)

    @classmethod
    def make(cls, name: str, ips: Sequence[str], stack: ExitStack, sysctls: Mapping[str, str]) -> "Host":
        descriptor = new_namespace()
        stack.callback(os.close, descriptor)
        thread = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=enter, initargs=(descriptor,))
        stack.callback(thread.shutdown)
        host = cls(name, tuple(ips), descriptor, thread)
        host.run(lambda: [Path("/proc/sys", path).write_text(value) for path, value in sysctls.items()])
        return host

    def run(self, function: Callable[[], Result]) -> Result:
        """Runs a function in the namespace (in one thread: not from inside another `run` of the same host)."""
        return self._thread.submit(function).result()

    def command(self, *arguments: str, text: str | None = None, check: bool = True, timeout: float = 30) -> str:
        """Runs a program in the namespace and returns its standard output; a failure shows what it said."""

        def work() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                arguments, input=text, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, check=False
            )

        done = self.run(work)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def ip(self, *lines: str) -> None:
        """Runs lines of `ip -batch`."""
        self.command("ip", "-batch", "-", text="\n".join(lines) + "\n")

    def sysctl(self, path: str, value: str) -> None:
        """Writes `/proc/sys/PATH` of the namespace."""
        self.run(lambda: Path("/proc/sys", path).write_text(value))


class World:
    """A router and its pods. `pods` are names, or names with addresses of the caller's choice."""

    def __init__(self, pods: Iterable[str] | Mapping[str, Sequence[str]], *, node: Sequence[str] = NODE) -> None:
        if not isinstance(pods, Mapping):
            pods = {name: (f"10.244.0.{n}", f"fd00:10:244::{n:x}") for n, name in enumerate(pods, start=10)}
        self._addresses = pods
        self._node = tuple(node)
        self._stack = ExitStack()
        self._nft: Nft | None = None
        self._elements: ElementWriter | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.router = Host.make("router", self._node, stack, {**SYSCTLS, **FORWARDING})
            self.router.ip(
                "link set lo up", *(f"address add {_prefix(ip)} dev lo{' nodad' * (':' in ip)}" for ip in self._node)
            )
            self.pods: dict[str, Host] = {}
            self.responder = stack.enter_context(Responder())
            for name, ips in self._addresses.items():
                self._add(name, ips, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Host:
        return self.router if name == "router" else self.pods[name]

    def add(self, name: str, *ips: str) -> Host:
        """Adds a pod to the running world."""
        return self._add(name, ips, self._stack)

    def _add(self, name: str, ips: Sequence[str], stack: ExitStack) -> Host:
        number = len(self.pods)
        pod = Host.make(name, ips, stack, SYSCTLS)
        link = f"pod{number}"
        self.router.ip(
            f"link add {link} type veth peer name eth0 netns /proc/{os.getpid()}/fd/{pod.descriptor}",
            f"link set {link} up",
            f"address add {GATEWAY4}/32 dev {link}",
            f"address add {GATEWAY6}/64 dev {link} nodad",
            *(f"route add {_prefix(ip)} dev {link}{_source(ip, self._node)}" for ip in ips),
        )
        pod.ip(
            "link set lo up",
            "link set eth0 up",
            # Without nodad an IPv6 address cannot be bound until the kernel's own thread has had its turn.
            *(f"address add {_prefix(ip)} dev eth0{' nodad' * (':' in ip)}" for ip in ips),
            *(
                [f"route add {GATEWAY4} dev eth0", f"route add default via {GATEWAY4} dev eth0"]
                if any("." in ip for ip in ips)
                else []
            ),
            *([f"route add default via {GATEWAY6} dev eth0"] if any(":" in ip for ip in ips) else []),
        )
        self.pods[name] = pod
        return pod

    # -- what the node does ------------------------------------------------------------------------------------

    @property
    def nftables(self) -> Nft:
        """The router's nftables; one instance for the world."""
        if self._nft is None:
            self._nft = self._stack.enter_context(self.router.run(Nft))
        return self._nft

    @property
    def elements(self) -> ElementWriter:
        """The router's element writer for table `inet isthmus`; one instance for the world."""
        if self._elements is None:
            self._elements = self._stack.enter_context(self.router.run(ElementWriter))
        return self._elements

    def nft(self, script: str) -> str:
        """Runs an nft script in the router."""
        return self.nftables.run(script)

    def apply(self, *changes: ElementChange) -> None:
        """Applies element changes in the router, in one transaction."""
        self.elements.apply(changes)

    # -- traffic -----------------------------------------------------------------------------------------------

    def listen(self, host: str, protocol: str, port: int) -> None:
        """Makes a host answer on a port, on all its addresses; `reach` does it by itself for hosts it knows."""
        self.responder.listen(self[host], protocol, port)

    def reach(self, attempts: Sequence[Attempt], *, timeout: float = 0.3) -> list[bool]:
        """Makes all attempts at the same time and tells which got an answer within `timeout` seconds."""
        for attempt in attempts:
            if attempt.destination in self.pods or attempt.destination == "router":
                self.listen(attempt.destination, attempt.protocol, attempt.port)
        return reach(self, attempts, timeout=timeout)

    def expect(self, expected: Mapping[Attempt, bool], *, timeout: float = 0.3, patience: float = 5) -> None:
        """Asserts what `reach` finds; attempts that should succeed get `patience` seconds, so load cannot fail them."""
        wanted = [attempt for attempt, allowed in expected.items() if allowed]
        unwanted = [attempt for attempt, allowed in expected.items() if not allowed]
        stopped = [a for a, well in zip(wanted, self.reach(wanted, timeout=patience), strict=True) if not well]
        passed = [a for a, well in zip(unwanted, self.reach(unwanted, timeout=timeout), strict=True) if well]
        assert not stopped and not passed, f"dropped but should pass: {stopped}; passed but should drop: {passed}"

    def connect(self, source: str, destination: str, port: int, *, version: int = 4) -> Stream:
        """Opens a TCP connection to keep; `Stream.alive()` tells whether bytes still make the round trip."""
        self.listen(destination, "tcp", port)
        return self._stack.enter_context(Stream(self[source], self.address(destination, version), port))

    def address(self, host: str, version: int) -> str:
        """Returns a host's address of one family; text that is an address already is returned as it is."""
        if host != "router" and host not in self.pods:
            return host
        return next(ip for ip in self[host].ips if (":" in ip) == (version == 6))


def _prefix(ip: str) -> str:
    return f"{ip}/128" if ":" in ip else f"{ip}/32"


def _source(ip: str, node: Sequence[str]) -> str:
    """Returns the part of a route that makes the node speak to a pod as itself and not as the gateway."""
    return next((f" src {own}" for own in node if (":" in own) == (":" in ip)), "")
