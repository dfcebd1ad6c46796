"""Services as the API server tells them: what becomes of them, what is said about them, what is hostile."""

import asyncio
import threading

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from isthmus.agent.daemon import Agent, Settings
from isthmus.agent.services import watch
from isthmus.agent.services.objects import service_facts, slice_facts
from isthmus.agent.services.serving import ServiceSettings
from isthmus.agent.services.staging import Stage
from isthmus.agent.services.view import ServiceView
from isthmus.kernel.errors import KernelError
from isthmus.kube.access import Access
from isthmus.kube.client import Client
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.schema import EndpointSlice, Service
from isthmus.model.service import Backend, Port, Target
from isthmus.ruleset import lines
from isthmus.ruleset.service_layout import REFUSED
from isthmus.ruleset.services import ServiceCompiler
from isthmus.ruleset.table import Table
from isthmus.ruleset.text import rule_text
from isthmus.services.pool import Reach
from tests.support.agent_writer import FakeWriter
from tests.support.service_tables import in_use
from tests.unit.agent.test_daemon import _tell_all

VIP = "172.20.0.1"


def service(name="web", *, labels=None, status=None, ports=({"port": 80},), **spec) -> Service:
    data = {
        "metadata": {"name": name, "namespace": "x", "uid": f"uid-{name}", "labels": labels or {}},
        "spec": {"clusterIP": VIP, "clusterIPs": [VIP], "ports": list(ports), **spec},
        "status": status or {},
    }
    return msgspec.convert(data, Service)


def slice_(*addresses, name="web-1", of="web", kind="IPv4", ports=({"name": "", "port": 8080},), **endpoint):
    data = {
        "metadata": {"name": name, "namespace": "x", "labels": {"kubernetes.io/service-name": of}},
        "addressType": kind,
        "endpoints": [{"addresses": [ip], **endpoint} for ip in addresses],
        "ports": ports,
    }
    return msgspec.convert(data, EndpointSlice)


@pytest.fixture
def view() -> ServiceView:
    return ServiceView(Stage(ServiceCompiler(Table(), node="n1")), cluster="east")


def _problems(reports) -> list[str]:
    return [str(problem) for report in reports for problem in report.problems]


# -- what an object is -----------------------------------------------------------------------------------------


def test_every_part_of_a_service_that_matters_is_taken_over():
    obj = service(
        type="LoadBalancer",
        ports=[{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        clusterIPs=[VIP, "FD00::0:1"],
        externalIPs=["192.0.2.1"],
        sessionAffinity="ClientIP",
        externalTrafficPolicy="Local",
        internalTrafficPolicy="Local",
        status={
            "loadBalancer": {
                "ingress": [{"ip": "192.0.2.2"}, {"hostname": "a.b"}, {"ip": "192.0.2.3", "ipMode": "Proxy"}]
            }
        },
    )

    facts = service_facts(obj)

    assert not facts.problems
    assert facts.service.ports == (Port("http", 6, 80, 30080), Port("dns", 17, 53))
    assert facts.service.cluster_ips == (VIP, "fd00::1")
    assert (facts.service.external_ips, facts.service.ingress_ips) == (("192.0.2.1",), ("192.0.2.2",))
    assert facts.service.local_internal and facts.service.local_external
    assert facts.service.affinity == 10800


@pytest.mark.parametrize(
    "obj",
    [
        service(clusterIP="None", clusterIPs=["None"]),
        service(type="ExternalName", externalName="a.b", clusterIP="", clusterIPs=[]),
        service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
        service(clusterIP="", clusterIPs=[]),
    ],
    ids=["headless", "external name", "of another proxy", "without an address yet"],
)
def test_services_that_need_no_dataplane_are_left_alone_in_silence(obj):
    assert service_facts(obj) == service_facts(service(clusterIP="None", clusterIPs=["None"]))


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (service(clusterIPs=["10.0.0.300"]), "spec.clusterIPs"),
        (service(externalIPs=["127.0.0.1"]), "spec.externalIPs"),
        (service(externalIPs=["169.254.169.254"]), "spec.externalIPs"),
        (service(externalIPs=["ff02::1", "0.0.0.0"]), "spec.externalIPs"),
        (service(ports=[{"port": 0}]), "spec.ports[0].port"),
        (service(ports=[{"port": 70000}]), "spec.ports[0].port"),
        (service(ports=[{"port": 80, "protocol": "ICMP"}]), "spec.ports[0].protocol"),
        (service(ports=[{"port": 80}, {"name": "b", "port": 80}]), "spec.ports[1]"),
        (service(type="NodePort", ports=[{"port": 80, "nodePort": -1}]), "spec.ports[0].nodePort"),
        (service(sessionAffinity="Cookie"), "spec.sessionAffinity"),
        (service(externalTrafficPolicy="Near"), "spec.externalTrafficPolicy"),
        (
            service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 0}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        (service(ports=[{"port": n + 1} for n in range(1001)]), "spec.ports"),
        (service(externalIPs=[f"192.0.2.{n}" for n in range(101)]), "spec.externalIPs"),
        (
            service(ports=[{"port": n + 1} for n in range(1000)], externalIPs=[f"192.0.2.{n}" for n in range(11)]),
            "spec.externalIPs",
        ),
    ],
)
def test_what_no_service_can_have_is_named_by_field(obj, field):
    assert field in {problem.field for problem in service_facts(obj).problems}


def test_who_may_use_a_load_balancer_is_enforced_there_and_what_cannot_be_read_lets_nobody_in(view: ServiceView):
    ingress = {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}}
    obj = service(type="LoadBalancer", loadBalancerSourceRanges=[" 10.1.2.3/8", "10.0.0.0/33"], status=ingress)
    reports = view.services(Put(obj))
    view.slices(Put(slice_("10.1.0.1")))

    assert _problems(reports) == ["spec.loadBalancerSourceRanges[1]: '10.0.0.0/33' is no network"]
    ((key, jump),) = view.compiler.table.elements["guarded4"].items()
    assert key == ("192.0.2.2", 6, 80)
    chain = view.compiler.table.chains[jump.chain]
    assert [rule_text(rule) for rule in chain.rules] == ["ip saddr 10.0.0.0/8 return", "counter drop"]

    view.services(Put(service(type="LoadBalancer", loadBalancerSourceRanges=["nonsense"], status=ingress)))
    (jump,) = view.compiler.table.elements["guarded4"].values()
    assert [rule_text(rule) for rule in view.compiler.table.chains[jump.chain].rules] == ["counter drop"]
    view.services(Put(service(type="LoadBalancer", loadBalancerSourceRanges=["0.0.0.0/0"], status=ingress)))
    (jump,) = view.compiler.table.elements["guarded4"].values()
    first = rule_text(view.compiler.table.chains[jump.chain].rules[0])
    assert first == "meta nfproto ipv4 return"
    view.services(Put(service(type="LoadBalancer", status=ingress)))
    assert not [name for name in view.compiler.table.chains if name.startswith("guard_")]


def test_conditions_have_the_defaults_of_the_api():
    cases = {
        (None, None, None): (True, True, False),
        (False, None, None): (False, False, False),
        (False, True, True): (False, True, True),
        (True, False, True): (True, False, True),
    }
    for (ready, serving, terminating), flags in cases.items():
        conditions = {"ready": ready, "serving": serving, "terminating": terminating}
        ((_, backend),) = slice_facts(
            slice_("10.1.0.1", conditions=conditions, nodeName="n2"), cluster="east"
        ).slice.backends
        assert backend == Backend("east", Target("10.1.0.1", 8080), "n2", *flags)


def test_hostile_slices_lose_what_is_wrong_with_them_and_nothing_else():
    mixed = slice_("10.1.0.1", "fd00::1", "300.1.1.1", "127.0.0.1", "10.1.0.2", "")
    facts = slice_facts(mixed, cluster="east")
    assert {backend.target.address for _, backend in facts.slice.backends} == {"10.1.0.1", "10.1.0.2"}
    assert [p.field for p in facts.problems] == [f"endpoints[{n}].addresses" for n in (1, 2, 3, 5)]

    ports = [{"port": 0}, {"port": None}, {"port": 70000}, {"port": 1, "protocol": "X"}, {"name": "a", "port": 9}]
    facts = slice_facts(slice_("10.1.0.1", ports=ports), cluster="east")
    assert {(key, b.target.port) for key, b in facts.slice.backends} == {(("a", 6), 9)}
    assert [p.field for p in facts.problems] == ["ports[0]", "ports[2]", "ports[3]"]

    ports = [{"name": f"p{n}", "port": n + 1} for n in range(1001)]
    facts = slice_facts(slice_("10.1.0.1", ports=ports), cluster="east")
    assert len(facts.slice.backends) == 1000
    assert [str(p) for p in facts.problems] == ["ports: more than 1000; the rest is left out"]

    empty = msgspec.convert(
        {"metadata": slice_().metadata, "addressType": "IPv4", "endpoints": None, "ports": None}, EndpointSlice
    )
    assert slice_facts(empty, cluster="east").slice.backends == frozenset()
    many = slice_(*(f"10.1.{n >> 8}.{n & 255}" for n in range(1, 1002)))
    facts = slice_facts(many, cluster="east")
    assert len(facts.slice.backends) == 1000 and facts.problems[0].field == "endpoints"


@pytest.mark.parametrize("obj", [slice_("a.b", kind="FQDN"), slice_("10.1.0.1", of="")])
def test_slices_that_are_for_nobody_are_left_alone(obj):
    assert slice_facts(obj, cluster="east").slice is None


# -- what the view makes of changes ----------------------------------------------------------------------------


def test_a_snapshot_is_a_difference_and_what_it_does_not_hold_is_gone(view: ServiceView):
    assert view.missing == ["services", "endpoint slices"]
    view.services(Snapshot((service("a"), service("b", clusterIPs=["172.20.0.2"]))))
    view.slices(Snapshot((slice_("10.1.0.1", of="a"), slice_("10.1.0.2", of="b", name="b-1"))))
    assert view.missing == []
    view.compiler.table.take_delta()

    view.services(Snapshot((service("a"), service("b", clusterIPs=["172.20.0.2"]))))
    view.slices(Snapshot((slice_("10.1.0.1", of="a"), slice_("10.1.0.2", of="b", name="b-1"))))
    assert not view.compiler.table.take_delta()

    view.services(Snapshot((service("b", clusterIPs=["172.20.0.2"]),)))
    view.slices(Snapshot(()))
    assert view.compiler.table.elements["services4"] == {("172.20.0.2", 6, 80): REFUSED}
    view.services(Gone(service("b")))
    assert not view.compiler.table.elements["services4"]
    assert not view.compiler.table.elements["virtual4"]


def test_one_endpoint_in_several_slices_has_one_share_until_the_last_of_them_drops_it(view: ServiceView):
    view.services(Put(service()))
    view.slices(Put(slice_("10.1.0.1", "10.1.0.2")))
    view.slices(Put(slice_("10.1.0.1", name="web-2", conditions={"ready": False})))
    assert view.compiler.table.elements["services4"][VIP, 6, 80] == 2

    view.slices(Put(slice_("10.1.0.2")))
    assert in_use(view.compiler, (VIP, 6, 80)) == {Target("10.1.0.2", 8080)}
    view.slices(Gone(slice_(name="web-1")))
    assert view.compiler.table.elements["services4"][VIP, 6, 80] == REFUSED


def test_a_slice_may_move_to_another_service_and_a_service_may_stop_having_an_address(view: ServiceView):
    view.services(Snapshot((service("a"), service("b", clusterIPs=["172.20.0.2"]))))
    view.slices(Put(slice_("10.1.0.1", of="a")))
    view.slices(Put(slice_("10.1.0.1", of="b")))
    assert view.compiler.table.elements["services4"] == {(VIP, 6, 80): REFUSED, ("172.20.0.2", 6, 80): 1}

    view.services(Put(service("b", clusterIP="None", clusterIPs=["None"])))
    assert list(view.compiler.table.elements["services4"]) == [(VIP, 6, 80)]


def test_of_two_services_with_one_address_one_has_it_and_the_other_is_told_until_it_is_free(view: ServiceView):
    first = service("a", clusterIPs=["172.20.0.5"], externalIPs=[VIP])
    assert view.services(Put(first)) == []
    (report,) = view.services(Put(service("b")))
    assert (report.ref.name, _problems([report])) == ("a", [f"spec.externalIPs: {VIP}:80/TCP belongs to Service x/b"])
    assert view.services(Put(first)) == []
    assert view.faulty == 1
    assert view.compiler.frontends[VIP, 6, 80].service == ("x", "b"), "a ClusterIP goes before an external IP"

    (mended,) = view.services(Gone(service("b")))
    assert (mended.ref.name, mended.problems) == ("a", ())
    assert view.compiler.frontends[VIP, 6, 80].service == ("x", "a")
    assert view.faulty == 0


def test_backends_beyond_what_a_list_holds_wait_and_are_counted(view: ServiceView, monkeypatch):
    monkeypatch.setitem(lines._ROOM, Reach.ALL, 2)
    view.services(Put(service()))
    (report,) = view.slices(Put(slice_("10.1.0.1", "10.1.0.2", "10.1.0.3")))
    assert _problems([report]) == ["spec.selector: too many backends: 1 of them get nothing"]

    (mended,) = view.slices(Put(slice_("10.1.0.1", "10.1.0.3")))
    assert (mended.ref.name, mended.problems) == ("web", ())
    assert in_use(view.compiler, (VIP, 6, 80)) == {Target("10.1.0.1", 8080), Target("10.1.0.3", 8080)}


@pytest.mark.parametrize("how", ["deleted", "another service's", "nobody's", "missing in a list"])
def test_too_many_backends_are_mended_also_by_a_slice_that_goes(view: ServiceView, monkeypatch, how):
    monkeypatch.setitem(lines._ROOM, Reach.ALL, 2)
    view.services(Put(service()))
    view.slices(Put(slice_("10.1.0.1", "10.1.0.2", name="one")))
    assert len(view.slices(Put(slice_("10.1.0.3", name="two")))) == 1

    match how:
        case "deleted":
            reports = view.slices(Gone(slice_("10.1.0.3", name="two")))
        case "another service's":
            reports = view.slices(Put(slice_("10.1.0.3", name="two", of="other")))
        case "nobody's":
            reports = view.slices(Put(slice_("10.1.0.3", name="two", of="")))
        case _:
            reports = view.slices(Snapshot((slice_("10.1.0.1", "10.1.0.2", name="one"),)))
    assert [(report.ref.name, report.problems) for report in reports] == [("web", ())]
    assert view.faulty == 0


def test_many_ports_and_many_endpoints_in_one_slice_are_not_multiplied_without_end():
    addresses = [f"10.1.{n >> 8}.{n & 255}" for n in range(1000)]
    facts = slice_facts(slice_(*addresses, ports=[{"name": f"p{n}", "port": n + 1} for n in range(1000)]), cluster="e")

    assert len(facts.slice.backends) == 100_000
    assert [str(problem) for problem in facts.problems] == ["endpoints: more than 100; the rest is left out"]


def test_one_node_port_of_two_ports_belongs_to_the_same_one_whichever_came_first(view: ServiceView):
    ports = [{"port": number, "nodePort": 30080} for number in (80, 81)]
    for order in (ports[:1], ports, ports[1:], ports[::-1]):
        view.compiler.set_node(("10.0.0.1",))
        view.services(Put(service(type="NodePort", ports=order)))
        least = min(port["port"] for port in order)
        assert view.compiler.frontends["10.0.0.1", 6, 30080].port.port == least


def test_problems_are_said_once_and_once_more_when_they_are_mended(view: ServiceView):
    bad = service(externalIPs=["0.0.0.0"])
    assert len(view.services(Put(bad))) == 1
    assert view.services(Put(bad)) == []
    (mended,) = view.services(Put(service()))
    assert mended.problems == ()
    view.services(Put(bad))
    view.services(Snapshot(()))
    assert view.faulty == 0


def test_two_named_ports_with_different_targets_and_a_port_that_nobody_has(view: ServiceView):
    view.services(Put(service(ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81}, {"name": "c", "port": 82}])))
    view.slices(Put(slice_("10.1.0.1", ports=[{"name": "a", "port": 8080}, {"name": "b", "port": 9090}])))

    assert in_use(view.compiler, (VIP, 6, 80)) == {Target("10.1.0.1", 8080)}
    assert in_use(view.compiler, (VIP, 6, 81)) == {Target("10.1.0.1", 9090)}
    assert view.compiler.table.elements["services4"][VIP, 6, 82] == REFUSED


# -- the agent -------------------------------------------------------------------------------------------------


def _agent(writer: FakeWriter, *, services: bool) -> Agent:
    client = Client(Access(server="https://127.0.0.1:1"))
    settings = Settings(node="n1", cluster="east", services=ServiceSettings() if services else None)
    return Agent(settings, client=client, writer=writer, mesh=lambda: None, registry=CollectorRegistry())


async def test_without_the_flag_nothing_of_services_exists():
    writer = FakeWriter()
    agent = _agent(writer, services=False)
    _tell_all(agent)
    await agent._sync()

    assert not {"services4", "fates"} & writer.kernel.sets.keys()
    assert list(writer.kernel.hooks) == ["postrouting"]


async def test_nothing_is_written_before_services_and_slices_are_known_and_then_node_ports_are_at_the_nodes_addresses():
    writer = FakeWriter()
    agent = _agent(writer, services=True)
    _tell_all(agent)
    agent.services.on_services(Snapshot((service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]),)))
    agent._patient = False
    await agent._sync()
    assert writer.calls == []
    assert agent._missing == ["endpoint slices"]

    agent.services.on_slices(Snapshot((slice_("10.1.0.1"),)))
    agent.inputs.on_node(Snapshot(()))
    await agent._sync()
    assert writer.calls == ["replace"]
    assert set(writer.kernel.elements["services4"]) == {(VIP, 6, 80), ("172.18.0.2", 6, 30080)}

    agent.services.on_slices(Put(slice_("10.1.0.1", "10.1.0.2")))
    await agent._sync()
    assert writer.calls == ["replace", "elements"]
    assert len(writer.kernel.elements["backends4"]) == 4


async def test_stale_udp_connections_are_looked_for_after_the_kernel_took_the_change_and_not_before():
    writer = FakeWriter()
    agent = _agent(writer, services=True)
    asked: list[dict] = []
    done = threading.Event()
    agent.services.own._flush = lambda stale: (asked.append(dict(stale)), done.set(), 1)[2]
    _tell_all(agent)
    dns = service(ports=[{"port": 53, "protocol": "UDP"}])
    agent.services.on_services(Snapshot((dns,)))
    udp = [{"name": "", "port": 53, "protocol": "UDP"}]
    agent.services.on_slices(Snapshot((slice_("10.1.0.1", ports=udp),)))
    task = asyncio.create_task(agent.services.own.serve())
    writer.kernel.broken.append(KernelError("busy"))
    with pytest.raises(KernelError):
        await agent._sync()
    assert not agent.services.own._wake.is_set()

    await agent._sync()
    await asyncio.to_thread(done.wait, 20)
    assert asked == [{(VIP, 17, 53): frozenset({Target("10.1.0.1", 53)})}]
    task.cancel()


async def test_stale_connections_are_looked_for_again_while_backends_end_and_by_what_is_right_then(monkeypatch):
    monkeypatch.setattr(watch, "PAUSE", 0.0)
    monkeypatch.setattr(watch, "AGAIN", (0.0, 0.0, 0.0))
    agent = _agent(FakeWriter(), services=True)
    asked: asyncio.Queue[dict] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    agent.services.own._flush = lambda stale: (loop.call_soon_threadsafe(asked.put_nowait, dict(stale)), 0)[1]
    _tell_all(agent)
    ports = [{"name": "", "port": 8080, "protocol": "TCP"}]
    agent.services.on_services(Snapshot((service(ports=[{"port": 80}]),)))
    agent.services.on_slices(Snapshot((slice_("10.1.0.1", ports=ports),)))
    await agent._sync()
    before, after = ({(VIP, 6, 80): frozenset({Target(ip, 8080)})} for ip in ("10.1.0.1", "10.1.0.2"))
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(agent.services.own.serve())
        assert [await asked.get() for _ in range(4)] == [before] * 4
        agent.services.on_slices(Snapshot((slice_("10.1.0.2", ports=ports),)))
        await agent._sync()
        assert [await asked.get() for _ in range(4)] == [after] * 4
        task.cancel()
    assert asked.empty()


async def test_a_flush_that_fails_is_said_once_and_ends_nothing():
    agent = _agent(FakeWriter(), services=True)

    def refuse(stale):
        raise KernelError("conntrack: EPERM")

    agent.services.own._flush = refuse
    with capture_logs() as logs:
        for _ in range(2):
            await agent.services.own._forget({})
    assert [log["error"] for log in logs] == ["conntrack: EPERM"]
