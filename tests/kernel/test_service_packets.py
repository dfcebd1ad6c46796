"""Services in the real kernel: who answers, as seen by whom, and what changes under live traffic."""

import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from isthmus.kernel.conntrack import forget_stale
from isthmus.model.flow import PORT_PROTOCOLS, Protocol
from isthmus.model.service import Port
from isthmus.policy.networkpolicy import parse
from isthmus.ruleset.service_layout import AFFINITY, HOOKED
from isthmus.ruleset.text import replacement
from tests.support.netns import World
from tests.support.probes import Attempt
from tests.support.service_node import VIP4, VIP6, Answerers, ServiceNode, backends, service, writer_in

A, B, C, D = (f"10.244.0.{n}" for n in range(10, 14))
B6, C6 = "fd00:10:244::b", "fd00:10:244::c"
VIPS = pytest.mark.parametrize(("vip", "b", "c"), [(VIP4, B, C), (VIP6, B6, C6)], ids=["IPv4", "IPv6"])
TCP, UDP = Protocol.TCP, Protocol.UDP
CHI_SQUARE_9 = 33.7  # one time in 10,000 with nine degrees of freedom


@pytest.fixture
def answerers() -> Iterator[Answerers]:
    with Answerers() as answerers:
        yield answerers


@pytest.fixture
def node(world: World, answerers: Answerers) -> ServiceNode:
    """Pods a, b, c of the node, and d somewhere outside; b and c answer on 8080 and 8081, the node itself on 9090."""
    for name in "bc":
        answerers.add(world, name, (8080, 8081))
    answerers.add(world, "router", (9090,))
    return ServiceNode(world, outside="d")


def _client_seen(node: ServiceNode, host: str, address: str, port: int) -> str:
    def work() -> str:
        with socket.create_connection((address, port), timeout=5) as sock:
            sock.send(b"from")
            return sock.recv(100).decode()

    return node.world[host].run(work)


@VIPS
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_cluster_ip_leads_to_every_backend_from_pods_of_the_node_the_node_and_a_backend_itself(
    node: ServiceNode, vip, b, c, protocol
):
    node.put(
        service("web", Port("", PORT_PROTOCOLS[protocol], 80)), backends("web", (b, 8080), (c, 8081), protocol=protocol)
    )

    for host in ("a", "b", "router"):
        assert set(node.ask_often(host, vip, 80, protocol, times=40)) == {"b:8080", "c:8081"}, host


def test_sctp_is_served_like_the_rest(node: ServiceNode):
    port = Port("", Protocol.SCTP, 80)
    node.put(service("web", port), backends("web", (B, 7000), (B6, 7000), protocol="SCTP"))
    node.world.listen("b", "sctp", 7000)

    node.world.expect({Attempt("a", VIP4, "sctp", 80): True, Attempt("a", VIP6, "sctp", 80, 6): True})


@VIPS
def test_a_service_without_backends_refuses_at_once_and_serves_as_soon_as_there_is_one(node: ServiceNode, vip, b, c):
    for protocol in ("TCP", "UDP"):
        node.put(service(f"web-{protocol}", Port("", PORT_PROTOCOLS[protocol], 80)))
        for host in ("a", "router"):
            assert node.ask(host, vip, 80, protocol) == "refused", (host, protocol)

        node.put(backends(f"web-{protocol}", (b, 8080), protocol=protocol))
        assert node.ask("a", vip, 80, protocol) == "b:8080"

        node.put(backends(f"web-{protocol}", protocol=protocol))
        assert node.ask("a", vip, 80, protocol) == "refused"


def test_a_port_that_the_cluster_ip_does_not_have_is_refused(node: ServiceNode):
    node.put(service(), backends("web", (B, 8080)))

    assert node.ask("a", VIP4, 8080) == "refused"


@pytest.mark.parametrize("count", [10, 100], ids=["as many slots as the chain has", "fewer slots than the chain has"])
def test_connections_spread_evenly(node: ServiceNode, answerers: Answerers, count):
    ports = range(8100, 8100 + count)
    answerers.add(node.world, "b", ports, ("TCP",))
    node.put(service(), backends("web", *((B, port) for port in ports)))

    found = node.ask_often("a", VIP4, 80, times=2000)

    assert sum(found.values()) == 2000
    tens = [sum(found[f"b:{port}"] for port in ports[i::10]) for i in range(10)]
    assert sum((seen - 200) ** 2 / 200 for seen in tens) < CHI_SQUARE_9, found


def test_connections_stay_with_their_backend_while_others_come_and_go(node: ServiceNode):
    node.put(service(), backends("web", (B, 8080)))

    def connect() -> socket.socket:
        return socket.create_connection((VIP4, 80), timeout=5)

    with node.world["a"].run(connect) as sock:
        for targets in ([(C, 8080)], [(C, 8080), (B, 8080), (C, 8081)], [(C, 8081)], []):
            assert not node.put(backends("web", *targets)), "elements alone"
            sock.send(b"?")
            assert sock.recv(100) == b"b:8080"


@VIPS
def test_session_affinity_keeps_a_client_with_its_backend_until_that_goes(node: ServiceNode, vip, b, c):
    node.put(service(affinity=100), backends("web", (b, 8080), (b, 8081), (c, 8080), (c, 8081)))
    ((first, _),) = node.ask_often("a", vip, 80, times=40).items()
    seen = {"a": first, **{host: node.ask(host, vip, 80) for host in ("d", "router")}}

    more = [(b, 8080), (b, 8081), (c, 8080), (c, 8081), (A if ":" not in vip else "fd00:10:244::a", 1)]
    node.put(backends("web", *more))
    for host, before in seen.items():
        assert node.ask_often(host, vip, 80, times=10) == {before: 10}

    name, port = first.split(":")
    gone = (b if name == "b" else c, int(port))
    node.put(backends("web", *(target for target in more[:4] if target != gone)))
    ((second, _),) = node.ask_often("a", vip, 80, times=40).items()
    assert second != first
    for host, before in seen.items():
        if before != first:
            assert node.ask_often(host, vip, 80, times=10) == {before: 10}


def test_session_affinity_ends_with_its_time_and_with_the_setting(node: ServiceNode):
    both = backends("web", (B, 8080), (C, 8080))
    node.put(service(affinity=1), both)
    assert len(node.ask_often("a", VIP4, 80, times=20)) == 1
    text = node.world.nft("list map inet isthmus affinity4\n")
    assert "timeout 1s" in text

    node.put(service())
    assert len(node.ask_often("a", VIP4, 80, times=40)) == 2


def test_a_pod_that_is_sent_to_itself_sees_the_node_as_the_client(node: ServiceNode):
    node.put(service(), backends("web", (B, 8080)))

    assert node.ask("b", VIP4, 80) == "b:8080"
    assert _client_seen(node, "b", VIP4, 80) != B
    assert _client_seen(node, "a", VIP4, 80) == A


NODE_PORT = Port("", TCP, 80, 30080)


def test_a_node_port_is_open_at_the_nodes_addresses_and_hides_the_client_only_where_it_must(node: ServiceNode):
    node.compiler.drop_pod("shop/c")  # now c is a pod of another node
    node.put(service("web", NODE_PORT), backends("web", (B, 8080), (C, 8080), (B6, 8080)))

    for host in ("a", "d", "router"):
        assert set(node.ask_often(host, "10.0.0.1", 30080, times=40)) == {"b:8080", "c:8080"}, host
    assert node.ask("d", "fd00::1", 30080) == "b:8080"

    node.put(backends("web", (B, 8080)))
    assert _client_seen(node, "d", "10.0.0.1", 30080) == D, "the backend is here: nobody need be hidden"
    node.put(backends("web", (C, 8080)))
    assert _client_seen(node, "d", "10.0.0.1", 30080) not in (D, C), "the answer must come back by this node"
    assert _client_seen(node, "a", "10.0.0.1", 30080) == A


def test_external_traffic_policy_local_keeps_outsiders_to_local_backends_with_their_own_address(node: ServiceNode):
    local, remote = backends("web", (B, 8080)), backends("web", (C, 8080), key="far", node="n2")
    node.put(service("web", NODE_PORT, local_external=True, ingress_ips=("198.51.100.1",)), local, remote)

    for address, port in (("10.0.0.1", 30080), ("198.51.100.1", 80)):
        assert set(node.ask_often("d", address, port, times=20)) == {"b:8080"}
        assert _client_seen(node, "d", address, port) == D
        assert set(node.ask_often("a", address, port, times=40)) == {"b:8080", "c:8080"}, "the cluster itself has all"

    node.put(backends("web"))
    assert node.silent("d", "10.0.0.1", 30080), "another node may have one"
    assert node.ask("a", "10.0.0.1", 30080) == "c:8080"
    node.put(backends("web", key="far"))
    assert node.ask("d", "10.0.0.1", 30080) == "refused", "nobody has one"


def test_external_traffic_policy_local_with_affinity(node: ServiceNode):
    near, far = backends("web", (B, 8080), (B, 8081)), backends("web", (C, 8080), key="far", node="n2")
    node.put(service("web", NODE_PORT, local_external=True, affinity=100), near, far)

    ((first, _),) = node.ask_often("d", "10.0.0.1", 30080, times=20).items()
    assert first.startswith("b:")
    node.put(backends("web", (B, 8081 if first == "b:8080" else 8080)))
    ((second, _),) = node.ask_often("d", "10.0.0.1", 30080, times=20).items()
    assert second.startswith("b:") and second != first


def test_a_load_balancers_address_lets_in_only_whom_it_is_said_to(node: ServiceNode):
    sources = (ip_network(f"{A}/32"), ip_network("fd00::/16"))
    ingress = ("198.51.100.1", "2001:db8::1")
    node.put(service(ingress_ips=ingress, sources=sources), backends("web", (B, 8080), (B6, 8080)))

    assert node.ask("a", ingress[0], 80) == "b:8080"
    assert node.silent("c", ingress[0], 80)
    assert node.ask("c", VIP4, 80) == "b:8080", "nothing is said of the ClusterIP"
    assert node.ask("c", ingress[1], 80) == "b:8080"

    node.put(service(ingress_ips=ingress))
    assert node.ask("c", ingress[0], 80) == "b:8080"


def test_internal_traffic_policy_local_uses_this_nodes_backends_or_none(node: ServiceNode):
    node.put(service(local_internal=True), backends("web", (B, 8080)), backends("web", (C, 8080), key="far", node="n2"))
    assert set(node.ask_often("a", VIP4, 80, times=20)) == {"b:8080"}

    node.put(backends("web"))
    assert node.silent("a", VIP4, 80)


def test_external_ips_are_served_and_leave_the_rest_of_the_address_alone(node: ServiceNode):
    node.put(service(external_ips=("10.0.0.1",)), backends("web", (B, 8080)))

    assert node.ask("d", "10.0.0.1", 80) == "b:8080"
    assert node.ask("d", "10.0.0.1", 9090) == "router:9090"


def test_a_backend_on_the_hosts_network_serves_pods_outsiders_and_the_host(node: ServiceNode):
    node.put(service("web", NODE_PORT), backends("web", ("10.0.0.1", 9090)))

    for host in ("a", "d", "router"):
        assert node.ask(host, VIP4 if host != "d" else "10.0.0.1", 80 if host != "d" else 30080) == "router:9090"


def test_serving_terminating_backends_are_used_only_while_there_is_no_ready_one(node: ServiceNode):
    dying = backends("web", (B, 8080), key="dying", ready=False, terminating=True)
    node.put(service(), dying, backends("web", (C, 8080)))
    assert set(node.ask_often("a", VIP4, 80, times=20)) == {"c:8080"}

    node.put(backends("web", (C, 8080), ready=False, serving=False))
    assert set(node.ask_often("a", VIP4, 80, times=20)) == {"b:8080"}


@VIPS
def test_udp_clients_that_send_on_are_given_another_backend_when_theirs_goes_and_keep_it_when_it_stays(
    node: ServiceNode, vip, b, c
):
    port = Port("", UDP, 53)
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    sock = node.world["a"].run(lambda: socket.socket(family, socket.SOCK_DGRAM))
    with sock:
        sock.settimeout(0.3)
        sock.connect((vip, 53))

        def ask() -> str:
            try:
                sock.send(b"?")
                return sock.recv(100).decode()
            except TimeoutError:
                return "silence"

        assert ask() == "silence", "nobody has that address yet"
        node.put(service("dns", port), backends("dns", (b, 8080), protocol="UDP"))
        assert ask() == "silence", "conntrack remembers that there was none"
        assert node.world.router.run(lambda: forget_stale(node.stale())) == 1
        assert ask() == "b:8080"

        node.put(backends("dns", (b, 8080), (c, 8081), protocol="UDP"))
        assert node.world.router.run(lambda: forget_stale(node.stale())) == 0
        assert ask() == "b:8080"

        dying = backends("dns", (b, 8080), protocol="UDP", key="dying", ready=False, terminating=True)
        node.put(dying, backends("dns", (c, 8081), protocol="UDP"))
        assert node.world.router.run(lambda: forget_stale(node.stale())) == 0
        assert ask() == "b:8080", "it is terminating, but still serves"

        node.put(backends("dns", protocol="UDP", key="dying"))
        assert node.world.router.run(lambda: forget_stale(node.stale())) == 1
        assert ask() == "c:8081"


def test_a_first_packet_that_nobody_answered_is_led_to_another_backend_when_its_own_goes(node: ServiceNode):
    nobody = "10.9.9.9"
    node.world.router.ip(f"route add {nobody} via {D} dev pod3")  # d takes it and has no such address
    node.put(service(), backends("web", (nobody, 8080)))
    with node.world["a"].run(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as sock:
        sock.setblocking(False)
        sock.connect_ex((VIP4, 80))
        assert node.world.router.run(lambda: forget_stale(node.stale())) == 0, "nothing went yet"

        node.put(backends("web", (B, 8080)))
        assert node.world.router.run(lambda: forget_stale(node.stale())) == 1
        ready = select.select([], [sock], [], 8)  # until the first packet is sent once more, after a second
        assert ready[1] and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

        node.put(backends("web", (C, 8080)))
        assert node.world.router.run(lambda: forget_stale(node.stale())) == 0, "it was answered"


def _from_port(port: int, address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.settimeout(5)
    sock.bind(("", port))
    sock.connect((address, 80))
    return sock


@VIPS
def test_a_port_whose_connection_a_backend_broke_off_is_led_to_another_backend_when_that_one_goes(
    node: ServiceNode, vip, b, c
):
    node.put(service(), backends("web", (b, 7000)))
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with node.world["b"].run(lambda: socket.create_server((b, 7000), family=family)) as server:
        with node.world["a"].run(lambda: _from_port(40000, vip)):
            broken, _ = server.accept()
            broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            broken.close()  # a reset, as from a process that was killed with something unread
        with node.world["a"].run(lambda: _from_port(40001, vip)) as open_one:
            lasting, _ = server.accept()
            with lasting:
                node.put(backends("web", (c, 8080)))
                assert node.world.router.run(lambda: forget_stale(node.stale())) == 1
                lasting.send(b"still here")
                assert open_one.recv(100) == b"still here"

    with node.world["a"].run(lambda: _from_port(40000, vip)) as sock:
        sock.send(b"?")
        assert sock.recv(100) == b"c:8080"


def test_many_stale_frontends_are_looked_through_at_once(node: ServiceNode):
    ports = [Port(f"p{n}", UDP, 100 + n) for n in range(12)]
    both = [backends("dns", (B, 8080), protocol="UDP", port=port.name) for port in ports]
    node.put(service("dns", *ports), *both)
    for port in ports:
        assert node.ask("a", VIP4, port.port, "UDP") == "b:8080"
    node.stale()

    node.put(*(backends("dns", (C, 8080), protocol="UDP", port=port.name) for port in ports))
    stale = node.stale()

    assert len(stale) == 12
    assert node.world.router.run(lambda: forget_stale(stale)) == 12
    assert node.world.router.run(lambda: forget_stale(stale)) == 0


def test_policy_judges_the_backend_and_the_real_client_however_the_backend_is_reached(node: ServiceNode):
    node.put(service("web", NODE_PORT), backends("web", (B, 8080)))
    spec = {"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [{"ipBlock": {"cidr": f"{A}/32"}}]}]}
    node.compiler.put_policy(parse({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec}, cluster="east"))
    node.push()

    for address, port in ((B, 8080), (VIP4, 80), ("10.0.0.1", 30080)):
        assert node.ask("a", address, port) == "b:8080"
        assert node.silent("c", address, port)
        assert node.silent("d", address, port)
        assert node.ask("router", address, port) == "b:8080"

    spec = {"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [{"ipBlock": {"cidr": f"{D}/32"}}]}]}
    node.compiler.put_policy(parse({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec}, cluster="east"))
    node.push()
    assert node.ask("d", "10.0.0.1", 30080) == "b:8080"
    assert node.silent("a", VIP4, 80)


def test_a_client_that_may_not_reach_a_remote_backend_is_stopped_before_it_is_masqueraded(node: ServiceNode):
    node.compiler.drop_pod("shop/c")
    node.put(service(), backends("web", (C, 8080)))
    spec = {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Egress"]}
    node.compiler.put_policy(parse({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec}, cluster="east"))
    node.push()

    assert node.silent("a", VIP4, 80)
    assert node.ask("b", VIP4, 80) == "c:8080"


def test_the_table_prints_and_what_it_prints_can_be_loaded_again(node: ServiceNode):
    node.put(service("web", NODE_PORT, affinity=100), backends("web", (B, 8080), (C, 8080), (B6, 8080)))
    node.ask("a", VIP4, 80)
    node.ask("a", VIP6, 80)

    text = node.world.nftables.show("inet isthmus")
    node.world.nft(f"delete table inet isthmus\n{text}")

    assert len(node.ask_often("a", VIP4, 80, times=10)) == 1


@VIPS
def test_clients_keep_their_backend_when_the_whole_table_is_written_anew(node: ServiceNode, vip, b, c):
    node.put(service(affinity=10800), backends("web", (b, 8080), (b, 8081), (c, 8080), (c, 8081)))
    ((first, _),) = node.ask_often("a", vip, 80, times=3).items()
    spec = AFFINITY[6 if ":" in vip else 4]

    memory = node.world.elements.remembered(spec, most=10)
    node.world.nft(replacement(node.compiler.table.whole(), [memory]))

    ((_, token, timeout, expires),) = node.world.elements.remembered(spec, most=10).elements
    assert token == memory.elements[0][1]
    assert timeout == 10_800_000 >= expires > 10_000_000
    assert node.ask_often("a", vip, 80, times=20) == {first: 20}


def test_ten_thousand_services_load_at_once_and_a_change_of_one_is_elements_alone(node: ServiceNode):
    for number in range(10_000):
        name = f"s{number}"
        node.services.put_service(service(name, cluster_ips=(f"172.20.{100 + (number >> 8)}.{number & 255}",)))
        node.services.put_slice(backends(name, (B, 8080), (C, 8081)))
    assert not node.push()

    assert set(node.ask_often("a", "172.20.139.15", 80, times=20)) == {"b:8080", "c:8081"}
    assert not node.put(backends("s9999", (C, 8081)))
    assert set(node.ask_often("a", "172.20.139.15", 80, times=20)) == {"c:8081"}


async def test_the_writer_takes_over_what_is_remembered_of_clients(node: ServiceNode):
    node.put(service(affinity=100), backends("web", (B, 8080), (B, 8081), (C, 8080), (C, 8081)))
    async with writer_in(node.world) as writer:
        ((first, _),) = node.ask_often("a", VIP4, 80, times=5).items()
        for _ in range(4):
            await writer.replace(node.compiler.table.whole())
            assert node.ask_often("a", VIP4, 80, times=5) == {first: 5}


async def test_a_table_of_which_any_hook_is_gone_is_not_intact(node: ServiceNode):
    async with writer_in(node.world) as writer:
        for chain in ("postrouting", *HOOKED):
            await writer.replace(node.compiler.table.whole())
            assert await writer.intact()
            node.world.nft("add table inet somebody\ndelete table inet somebody\n")
            assert await writer.intact(), "what others do with theirs is none of our business"
            node.world.nft(f"flush chain inet isthmus {chain}\n")
            assert not await writer.intact()
            assert not await writer.intact()
        await writer.replace(node.compiler.table.whole())
        assert await writer.present()


def test_a_packet_for_nobodys_service_keeps_its_priority(node: ServiceNode):
    node.put(service(), backends("web", (B, 8080)))
    node.world.nft(
        "add table inet watch\nadd chain inet watch post { type filter hook postrouting priority 300; }\n"
        "add rule inet watch post meta priority 0:7 counter\nadd rule inet watch post meta priority 0 counter\n"
    )

    def work() -> None:
        for address, port in ((B, 8080), (VIP4, 80)):
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 7)
                sock.settimeout(5)
                sock.connect((address, port))
                sock.send(b"?")
                sock.recv(100)

    node.world.router.run(work)
    first, second = (
        int(line.split("packets ")[1].split()[0])
        for line in node.world.nft("list chain inet watch post\n").splitlines()
        if "counter" in line
    )
    assert first > 4 and second >= 1, "only the packet that was translated has lost it"
