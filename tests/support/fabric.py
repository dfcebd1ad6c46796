"""Nodes with their pods, and all the rest of the world, as network namespaces; what policy worlds say is played there.

    with Fabric() as fabric:
        fabric.play({"east/n1": world_of_n1, "east/n2": world_of_n2}, {flow: True, other: False})

A node is a namespace that routes, with the table that the compiler makes of its world; pods hang on it by veth pairs,
each alone on its link, as in `tests.support.netns`. Nodes hang on one more namespace, `elsewhere`, which routes between
them and holds every address that is no pod's and no node's. What a world names is made when it is first named and kept
as long as later worlds agree about who is where.

What must stay true: an address that a node takes for one of its pod network (`pod_cidrs`), but for nobody's pod, hangs
on that node, like a pod that the agent does not know yet.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from isthmus.kernel.elements import ElementWriter
from isthmus.kernel.nftables import Nft
from isthmus.kernel.sockets import NetfilterSocket
from isthmus.model.flow import Flow
from isthmus.policy.world import World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.table import Table
from isthmus.ruleset.text import removal, replacement, script
from isthmus.wire import conntrack, netlink
from tests.support.netns import FORWARDING, GATEWAY4, GATEWAY6, SYSCTLS, Host
from tests.support.volley import Outcome, Volley

NODE_END4, FAR_END4 = "169.254.2.2", "169.254.2.1"
NODE_END6, FAR_END6 = "fe80::2", "fe80::1"
FRONTENDS = {4: "172.31.255.{}", 6: "fd00:172:31::{:x}"}
UNLIMITED = {"net/ipv4/icmp_ratelimit": "0", "net/ipv6/icmp/ratelimit": "0"}
SERVICES = "inet services_of_tests"


class Node:
    """A namespace that routes for pods, and the nftables in it."""

    def __init__(self, name: str, number: int, elsewhere: Host, stack: ExitStack) -> None:
        self.host = Host.make(name, (), stack, {**SYSCTLS, **FORWARDING, **UNLIMITED})
        self.nft = stack.enter_context(self.host.run(Nft))
        self.elements = stack.enter_context(self.host.run(ElementWriter))
        self.link = f"node{number}"
        self.addresses: tuple[str, ...] = ()
        self.written = False
        self._pods = 0
        elsewhere.ip(
            f"link add {self.link} type veth peer name uplink netns {_path(self.host)}",
            f"link set {self.link} up",
            f"address add {FAR_END4}/32 dev {self.link} scope link",
            f"address add {FAR_END6}/64 dev {self.link} nodad",
        )
        self.host.ip(
            "link set lo up",
            "link set uplink up",
            f"address add {NODE_END4}/32 dev uplink scope link",
            f"address add {NODE_END6}/64 dev uplink nodad",
            f"route add default via {FAR_END4} dev uplink onlink",
            f"route add default via {FAR_END6} dev uplink",
        )

    def write(self, table: Table) -> None:
        """Puts a whole table in the place of what there is, for connections of which there are none yet."""
        self.nft.run(replacement(table.whole()))
        self.host.run(_forget_connections)
        table.forget_journal()
        self.written = True

    def push(self, table: Table) -> None:
        """Writes what changed in a table since the last time, as the agent does."""
        delta = table.take_delta()
        if delta.structural:
            for step in delta.steps:
                self.nft.run(script(step))
        elif delta:
            self.elements.apply(delta.changes)

    def take(self, addresses: Iterable[str]) -> None:
        """Gives the node addresses of its own; it speaks as the first of each family."""
        new = [ip for ip in addresses if ip not in self.addresses]
        self.addresses += tuple(new)
        if new:
            self.host.ip(*(_address(ip, "lo") for ip in new))
            speaks = {_version(ip): ip for ip in reversed(self.addresses)}
            gateways = {4: FAR_END4, 6: FAR_END6}
            self.host.ip(
                *(f"route replace default via {gateways[v]} dev uplink onlink src {ip}" for v, ip in speaks.items())
            )

    def attach(self, name: str, ips: Sequence[str], stack: ExitStack) -> Host:
        """Hangs a pod with `ips` on the node."""
        pod = Host.make(name, ips, stack, {**SYSCTLS, **UNLIMITED})
        link = f"pod{self._pods}"
        self._pods += 1
        self.host.ip(
            f"link add {link} type veth peer name eth0 netns {_path(pod)}",
            f"link set {link} up",
            f"address add {GATEWAY4}/32 dev {link} scope link",
            f"address add {GATEWAY6}/64 dev {link} nodad",
        )
        versions = {_version(ip) for ip in ips}
        pod.ip(
            "link set lo up",
            "link set eth0 up",
            *(_address(ip, "eth0") for ip in ips),
            *([f"route add default via {GATEWAY4} dev eth0 onlink"] if 4 in versions else []),
            *([f"route add default via {GATEWAY6} dev eth0"] if 6 in versions else []),
        )
        self.host.ip(*(f"route add {_prefix(ip)} dev {link}" for ip in ips))
        return pod


class Fabric:
    """A context manager; not for use from several threads."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes: dict[str, Node] = {}
        self.holders: dict[str, Host] = {}  # address -> the namespace that holds it
        self._seats: dict[str, str] = {}  # address -> node, for addresses of nodes and of what hangs on them

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.elsewhere = Host.make("elsewhere", (), stack, {**SYSCTLS, **FORWARDING, **UNLIMITED})
            self.elsewhere.ip("link set lo up")
            self.volley = stack.enter_context(Volley(self.holders.__getitem__))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def clear(self) -> None:
        """Removes everything."""
        self._stack.close()
        for content in (self.nodes, self.holders, self._seats):
            content.clear()
        self.__enter__()

    # -- who is where --------------------------------------------------------------------------------------------

    def put(self, worlds: Mapping[str, World], flows: Iterable[Flow] = ()) -> None:
        """Makes whatever is missing of the namespaces that `worlds` and `flows` name; clears away what contradicts."""
        flows = tuple(flows)
        if not self._fits(worlds, flows):
            self.clear()
        for name, world in worlds.items():
            if name not in self.nodes:
                self.nodes[name] = Node(name, len(self.nodes), self.elsewhere, self._stack)
            self.nodes[name].take(sorted(world.node_addresses))
            self._sit(name, self.nodes[name].host, world.node_addresses)
        for name, world in worlds.items():
            for pod in world.pods.values():
                self._attach(name, pod.key, pod.ips)
        for ip, name in _seats(worlds, flows).items():
            self._attach(name, f"unknown {ip}", (ip,))
        new = [ip for ip in _ends(flows) if ip not in self.holders]
        if new:
            self.elsewhere.ip(*(_address(ip, "lo") for ip in new))
            self.holders |= dict.fromkeys(new, self.elsewhere)

    def _fits(self, worlds: Mapping[str, World], flows: Iterable[Flow]) -> bool:
        seats = _seats(worlds, flows)
        if any(self._seats.get(ip) != seats.get(ip) for ip in {*seats, *_ends(flows)} & self.holders.keys()):
            return False
        pods = {ip: pod.key for world in worlds.values() for pod in world.pods.values() for ip in pod.ips}
        return not any(
            self.holders.get(flow.source, 1) is self.holders.get(flow.destination, 2) is not self.elsewhere
            and pods.get(flow.source, flow.source) != pods.get(flow.destination, flow.destination)
            for flow in flows
        )

    def _attach(self, node: str, name: str, ips: Iterable[str]) -> None:
        new = [ip for ip in ips if ip not in self.holders]
        if new:
            self._sit(node, self.nodes[node].attach(f"{node} {name}", new, self._stack), new)

    def _sit(self, node: str, host: Host, ips: Iterable[str]) -> None:
        new = [ip for ip in ips if ip not in self.holders]
        gateways = {4: NODE_END4, 6: NODE_END6}
        link = self.nodes[node].link
        if new:
            self.elsewhere.ip(
                *(f"route add {_prefix(ip)} via {gateways[_version(ip)]} dev {link} onlink" for ip in new)
            )
        self.holders |= dict.fromkeys(new, host)
        self._seats |= dict.fromkeys(new, node)

    # -- what is played ------------------------------------------------------------------------------------------

    def play(
        self,
        worlds: Mapping[str, World],
        expected: Mapping[Flow, bool],
        *,
        compiler: Callable[[World], Compiler] = Compiler,
    ) -> None:
        """Writes the tables that `compiler` makes of `worlds`, and asserts that what gets through is as `expected`."""
        self.put(worlds, expected)
        for name, node in self.nodes.items():
            if name in worlds:
                node.write(compiler(worlds[name]).table)
            elif node.written:
                node.nft.run(removal())
                node.written = False
        self.expect(expected)

    def expect(self, expected: Mapping[Flow, bool]) -> None:
        """Asserts that flows get through, or are met with silence, as `expected` says."""
        played = [flow for flow in expected if self.leaves(flow)]
        frontends = self._serve(flow for flow in played if flow.translated and flow.source in self._seats)
        outcomes = self.volley.fire(played, frontends=frontends, wanted=[flow for flow in played if expected[flow]])
        wrong = [
            f"{_text(flow)} should be {'allowed' if expected[flow] else 'denied'}: {outcome.value}"
            for flow, outcome in outcomes.items()
            if outcome is not (Outcome.THROUGH if expected[flow] else Outcome.SILENCE)
        ]
        assert not wrong, "\n".join(wrong)

    def leaves(self, flow: Flow) -> bool:
        """Tells whether packets of a flow leave a namespace; those of a pod to its own address do not."""
        return flow.translated or self.holders[flow.source] is not self.holders[flow.destination]

    def _serve(self, flows: Iterable[Flow]) -> dict[Flow, str]:
        """Makes nodes lead a frontend to the destination of each flow, as a Service would; returns the frontends."""
        frontends = {
            flow: FRONTENDS[_version(flow.source)].format(number) for number, flow in enumerate(flows, start=1)
        }
        for name in {self._seats[flow.source] for flow in frontends}:
            mine = {flow: ip for flow, ip in frontends.items() if self._seats[flow.source] == name}
            self.nodes[name].nft.run(_services(mine))
        return frontends


def _forget_connections() -> None:
    """Empties conntrack in the namespace of the calling thread."""
    with NetfilterSocket() as sock:
        sequence = sock.reserve(1)
        flags = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
        every = netlink.encode_nfgenmsg(netlink.GenericHeader(0))
        request = netlink.encode_message(netlink.Message(conntrack.DELETE, flags, sequence, 0, every))
        assert not sock.transact(request, last=sequence)


def _services(frontends: Mapping[Flow, str]) -> str:
    lines = [
        f"add table {SERVICES}",
        f"delete table {SERVICES}",
        f"add table {SERVICES}",
        f"add chain {SERVICES} pre {{ type nat hook prerouting priority dstnat; }}",
        f"add chain {SERVICES} out {{ type nat hook output priority -100; }}",
        f"add chain {SERVICES} post {{ type nat hook postrouting priority srcnat; }}",
    ]
    for flow, frontend in frontends.items():
        ip = "ip6" if ":" in frontend else "ip"
        lines += [
            f"add rule {SERVICES} {chain} {ip} daddr {frontend} meta l4proto {flow.protocol} "
            f"dnat {ip} to {flow.destination}"
            for chain in ("pre", "out")
        ]
        if flow.source == flow.destination:
            itself = f"{ip} saddr {flow.source} {ip} daddr {flow.source}"
            lines.append(f"add rule {SERVICES} post {itself} ct status dnat masquerade")
    return "\n".join(lines) + "\n"


def _seats(worlds: Mapping[str, World], flows: Iterable[Flow]) -> dict[str, str]:
    """Returns address and node of everything that `worlds` seat: nodes, pods, strangers in pod networks."""
    seats: dict[str, str] = {}
    for name, world in worlds.items():
        seats |= dict.fromkeys(world.node_addresses, name)
    for name, world in worlds.items():
        for pod in world.pods.values():
            for ip in pod.ips:
                seats.setdefault(ip, name)
    for ip in _ends(flows):
        for name, world in worlds.items():
            if any(ip_address(ip) in cidr for cidr in world.pod_cidrs):
                seats.setdefault(ip, name)
    return seats


def _ends(flows: Iterable[Flow]) -> list[str]:
    return list(dict.fromkeys(ip for flow in flows for ip in (flow.source, flow.destination)))


def _text(flow: Flow) -> str:
    way = " through a Service" if flow.translated else ""
    return f"{flow.source} -> {flow.destination}, protocol {flow.protocol}, port or type {flow.port}{way}"


def _path(host: Host) -> str:
    return f"/proc/{os.getpid()}/fd/{host.descriptor}"


def _version(ip: str) -> int:
    return 6 if ":" in ip else 4


def _prefix(ip: str) -> str:
    return f"{ip}/128" if ":" in ip else f"{ip}/32"


def _address(ip: str, link: str) -> str:
    return f"address add {_prefix(ip)} dev {link}{' nodad' * (':' in ip)}"
