"""When the agent writes what: nothing before it knows, everything after doubt, differences otherwise."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from isthmus.agent import inputs
from isthmus.agent.daemon import FITTING, TOO_LARGE, Agent, Settings
from isthmus.agent.policies.storing import KeptStore
from isthmus.kernel.errors import KernelError, NftError
from isthmus.kube.access import Access
from isthmus.kube.client import Client
from isthmus.kube.reflector import Put, Snapshot
from isthmus.kube.resources import NETWORK_POLICIES
from isthmus.model.endpoint import Cluster, Endpoint
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterJoined, ClusterSynced, EndpointTold, IdentityGone, IdentityTold
from isthmus.ruleset.layout import PEERS
from tests.support.agent_writer import FakeWriter
from tests.unit.agent.test_view import NODE, namespace, pod, policy, tell_inputs


@pytest.fixture
def writer() -> FakeWriter:
    return FakeWriter()


@pytest.fixture
def agent(writer: FakeWriter) -> Agent:
    client = Client(Access(server="https://127.0.0.1:1"))
    settings = Settings(node="n1", cluster="east")
    return Agent(settings, client=client, writer=writer, mesh=lambda: None, registry=CollectorRegistry())


def _tell_all(agent: Agent) -> None:
    tell_inputs(agent.view, policy(), pods=(pod(),))
    agent.view.mesh([ClusterJoined(Cluster("east", 1)), ClusterSynced("east")])
    agent.view.mesh([IdentityTold(Identity(0x20100, "west", "x", {}, {}))])


async def test_nothing_is_written_before_everything_is_known(agent: Agent, writer: FakeWriter):
    agent.view.policies(Snapshot((policy(),)))
    agent.view.pods(Snapshot((pod(),)))
    await agent._sync()

    assert writer.calls == []


async def test_the_first_write_replaces_whatever_is_there_in_one_go(agent: Agent, writer: FakeWriter):
    _tell_all(agent)
    await agent._sync()
    await agent._sync()

    assert writer.calls == ["replace"]
    assert ("10.1.0.10",) in writer.kernel.elements["ingress4"]


async def test_the_first_write_of_a_restarted_agent_has_what_an_earlier_one_kept(tmp_path):
    good = policy(ingress=[{"ports": [{"port": 80}]}])
    good["metadata"] |= {"uid": "1", "generation": 1, "resourceVersion": "10"}
    bad = policy(ingress=[{"ports": [{"port": -1}]}])
    bad["metadata"] |= {"uid": "1", "generation": 2, "resourceVersion": "11"}
    kernels = []
    for listed in (good, bad):
        writer, store = FakeWriter(), KeptStore(tmp_path, cluster="east", node="n1")
        agent = Agent(
            Settings(node="n1", cluster="east"),
            client=Client(Access(server="https://127.0.0.1:1")),
            writer=writer,
            mesh=lambda: None,
            registry=CollectorRegistry(),
            store=store,
            earlier=store.load(),
        )
        tell_inputs(agent.view, listed, pods=(pod(),))
        agent.view.mesh([ClusterJoined(Cluster("east", 1)), ClusterSynced("east")])
        agent.inputs.on_policies(NETWORK_POLICIES, Put(bad))
        await agent._sync()
        await store.write()
        assert writer.calls == ["replace"]
        kernels.append((writer.kernel.sets, writer.kernel.elements))
        assert agent._state().policies.exceptions[0].state == "Kept"

    assert kernels[0] == kernels[1]


async def test_a_pod_ip_far_away_is_an_element_change_and_a_policy_is_structure(agent: Agent, writer: FakeWriter):
    _tell_all(agent)
    await agent._sync()
    agent.view.mesh([EndpointTold(Endpoint("west", "10.2.0.1", 0x20100, "x", "a"))])
    await agent._sync()
    agent.view.policies(Put(policy("q", policyTypes=["Egress"])))
    await agent._sync()

    assert writer.calls == ["replace", "elements", "structure"]
    assert writer.kernel.elements[PEERS[4].name] == {("10.2.0.1",): 0x20100}


async def test_after_a_refusal_the_whole_table_is_written_anew(agent: Agent, writer: FakeWriter):
    _tell_all(agent)
    await agent._sync()
    writer.kernel.broken.append(KernelError("No space left on device"))
    agent.view.mesh([EndpointTold(Endpoint("west", "10.2.0.1", 0x20100, "x", "a"))])
    with pytest.raises(KernelError):
        await agent._sync()
    await agent._sync()

    assert writer.calls == ["replace", "elements", "replace"]
    assert writer.kernel.elements[PEERS[4].name] == {("10.2.0.1",): 0x20100}


async def test_a_table_that_somebody_else_changed_is_restored(agent: Agent, writer: FakeWriter):
    _tell_all(agent)
    await agent._sync()
    writer.touched = True
    await agent._sync()
    await agent._sync()

    assert writer.calls == ["replace", "replace"]


async def test_without_an_earlier_table_patience_with_other_clusters_ends(agent: Agent, writer: FakeWriter):
    _tell_all(agent)
    agent.view.mesh([ClusterJoined(Cluster("west", 2))])
    await agent._sync()
    assert writer.calls == []

    agent._patient = False
    await agent._sync()
    assert writer.calls == ["replace"]


@pytest.mark.looptime
@pytest.mark.parametrize(("earlier", "seconds"), [(False, 30), (True, 300)])
async def test_a_cluster_that_never_comes_delays_a_restarted_agent_and_does_not_stop_it(
    agent: Agent, writer: FakeWriter, earlier, seconds
):
    if earlier:
        writer.kernel.run("add table inet isthmus\n")
    waiting = asyncio.create_task(agent._lose_patience())
    await asyncio.sleep(1000)  # the API server is away
    _tell_all(agent)
    agent.view.mesh([ClusterJoined(Cluster("west", 2))])
    agent._changed()
    start = asyncio.get_running_loop().time()
    await waiting
    await agent._sync()

    assert asyncio.get_running_loop().time() - start == seconds
    assert writer.calls == ["replace"]


async def test_a_policy_with_thousands_of_problems_is_a_few_lines_in_the_log(agent: Agent):
    bad = policy(ingress=[{"ports": [{"port": -1}] * 5000}])
    with capture_logs() as logs:
        agent.inputs.on_policies(NETWORK_POLICIES, Snapshot((bad,)))

    assert len(logs) < 30
    assert "4980 more" in logs[-1]["problem"]


async def test_changes_of_policies_are_timed_once_however_often_the_kernel_refuses_and_no_more_than_a_bound(
    agent: Agent, writer: FakeWriter, monkeypatch
):
    monkeypatch.setattr(inputs, "MOST_ARRIVALS", 3)
    _tell_all(agent)
    for number in range(2):
        agent.inputs.on_policies(NETWORK_POLICIES, Put(policy(f"early-{number}")))
    writer.kernel.broken.append(KernelError("No space left on device"))
    with pytest.raises(KernelError):
        await agent._sync()
    for number in range(2):
        agent.inputs.on_policies(NETWORK_POLICIES, Put(policy(f"late-{number}")))
    await agent._sync()
    await agent._sync()

    (count,) = [one.value for one in agent._metrics.enforcement.collect()[0].samples if one.name.endswith("_count")]
    assert count == 3
    assert agent.inputs.arrivals == []


POISON = "6666"  # the port of the policy that the kernel of these tests cannot stand


@pytest.fixture(params=["named", "unnamed"])
def picky(writer: FakeWriter, request, monkeypatch) -> FakeWriter:
    """A kernel that refuses every script about port 6666; nft names the line, or says nothing of use."""
    run = writer.kernel.run

    def refuse(script: str) -> str:
        lines = [line for line in script.split("\n") if POISON in line]
        if lines and request.param == "named":
            raise NftError(f"nft: line 1:1: Invalid argument: {lines[0]}", errno=22, line=1, column=1, source=lines[0])
        if lines:
            raise NftError("nft: Message too long", errno=90)
        return run(script)

    monkeypatch.setattr(writer.kernel, "run", refuse)
    return writer


async def _settle(agent: Agent, tries: int = 8) -> None:
    for _ in range(tries):
        try:
            await agent._sync()
        except KernelError:
            continue
        return
    raise AssertionError("refused for ever")


def _poison(name="poison", port=POISON):
    select = {"matchLabels": {"app": "b"}}
    return policy(name, podSelector=select, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
                                                      "ports": [{"port": int(port)}]}])  # fmt: skip


def _chain_of(writer: FakeWriter, ip: str) -> list[str]:
    return writer.kernel.chains[writer.kernel.elements["ingress4"][(ip,)].chain + "_rules"]


@pytest.mark.parametrize("started", [True, False], ids=["while running", "at the start"])
async def test_a_policy_that_the_kernel_refuses_is_shut_and_told_and_keeps_no_other_from_being_enforced(
    agent: Agent, picky: FakeWriter, started
):
    told = []
    agent._events.emit = lambda about, **event: told.append((about.name, event["reason"]))
    _tell_all(agent)
    if started:
        await agent._sync()
    agent.view.pods(Put(pod("b", ip="10.1.0.11")))
    agent.view.policies(Put(_poison()))
    await _settle(agent)
    agent.view.policies(
        Put(policy("q", podSelector={"matchLabels": {"app": "a"}}, ingress=[{"ports": [{"port": 80}]}]))
    )
    await agent._sync()

    assert any("80" in rule for rule in _chain_of(picky, "10.1.0.10"))
    assert not any("10.0.0.0" in rule for rule in _chain_of(picky, "10.1.0.11"))
    assert "drop" in _chain_of(picky, "10.1.0.11")[-1]
    assert ("poison", "PolicyRefused") in told
    assert agent._refusal == ""


async def test_a_refused_policy_is_tried_again_later_and_its_successor_at_once(agent: Agent, picky: FakeWriter):
    _tell_all(agent)
    agent.view.pods(Put(pod("b", ip="10.1.0.11")))
    agent.view.policies(Put(_poison()))
    await _settle(agent)
    agent._reopen = 0.0
    await _settle(agent)
    assert len(agent.view.compiler.shut) == 1

    agent.view.policies(Put(_poison(port="81")))
    await agent._sync()

    assert agent.view.compiler.shut == {}
    assert any("81" in rule for rule in _chain_of(picky, "10.1.0.11"))


async def test_when_the_kernel_refuses_everything_no_policy_is_blamed(agent: Agent, writer: FakeWriter, monkeypatch):
    _tell_all(agent)
    await agent._sync()
    before = writer.kernel.scripts[-1]
    run = writer.kernel.run
    agent.view.policies(Put(policy("q", policyTypes=["Egress"])))
    with monkeypatch.context() as patch:
        patch.setattr(writer.kernel, "run", _refuse_all)
        for _ in range(8):
            with pytest.raises(KernelError):
                await agent._sync()
    assert writer.kernel.scripts[-1] == before
    assert agent.view.compiler.shut == {}

    assert writer.kernel.run == run
    await agent._sync()
    assert ("10.1.0.10",) in writer.kernel.elements["egress4"]


def _refuse_all(_script: str) -> str:
    raise NftError("nft: Operation not permitted", errno=1)


async def test_the_first_ruleset_is_told_of_once(writer: FakeWriter):
    client, told = Client(Access(server="https://127.0.0.1:1")), []
    settings = Settings(node="n1", cluster="east")
    agent = Agent(
        settings,
        client=client,
        writer=writer,
        mesh=lambda: None,
        registry=CollectorRegistry(),
        on_first=lambda: told.append(list(writer.calls)),
    )
    await agent._sync()
    assert told == []
    _tell_all(agent)
    for _ in range(2):
        await agent._sync()

    assert told == [["replace"]]


async def test_what_a_status_says_of_policies_is_what_the_kernel_has(agent: Agent, picky: FakeWriter):
    _tell_all(agent)
    assert agent._state().policies is None
    await agent._sync()
    agent.view.pods(Put(pod("b", ip="10.1.0.11")))
    agent.view.policies(Put(_poison()))
    await _settle(agent)

    told = agent._state().policies
    # The pod is isolated by both, in one gate: what "p" allows it is not to be had there either.
    assert {(one.name, one.state) for one in told.exceptions} == {("p", "Refused"), ("poison", "Refused")}
    assert [one.name for one in told.recent] == ["poison"]


async def test_policies_too_large_for_a_node_are_told_of_until_they_fit_and_nothing_else_is_lost(
    agent: Agent, writer: FakeWriter, monkeypatch
):
    told = []
    agent._events.emit = lambda about, **event: told.append((about.name, event["reason"], event["message"]))
    monkeypatch.setattr(agent.view.compiler._gates, "most", 1)
    _tell_all(agent)
    anyone = {"namespaceSelector": {}}
    wide = policy("wide", podSelector={"matchLabels": {"app": "b"}}, ingress=[{"from": [anyone]}])
    agent.view.pods(Put(pod("b", ip="10.1.0.11")))
    agent.view.policies(Put(wide))
    await agent._sync()
    assert told == [] and len(_chain_of(writer, "10.1.0.11")) > len(_chain_of(writer, "10.1.0.10"))

    agent.view.mesh([IdentityTold(Identity(0x20101, "west", "y", {}, {}))])
    with capture_logs() as logs:
        await agent._sync()
        await agent._sync()
    (line,) = [line for line in logs if line["event"] == TOO_LARGE]
    assert line["policies"] == ["NetworkPolicy x/wide", "NetworkPolicy x/p"]
    assert [(name, reason) for name, reason, _ in told] == [("wide", "PolicyRefused"), ("p", "PolicyRefused")]
    assert "needs 2 set elements" in told[0][2] and "at most 1 of a set of policies" in told[0][2]
    exceptions = agent._state().policies.exceptions
    assert [(one.name, one.state) for one in exceptions] == [("wide", "Refused"), ("p", "Refused")]
    assert exceptions[0].message in told[0][2]
    assert _chain_of(writer, "10.1.0.11") != [] and "drop" in _chain_of(writer, "10.1.0.11")[-1]
    assert agent._refusal == ""

    agent.view.mesh([IdentityGone("west", 0x20101)])
    with capture_logs() as logs:
        await agent._sync()
    assert FITTING in [line["event"] for line in logs]
    assert agent._state().policies.exceptions == ()
    assert writer.calls == ["replace", "structure", "structure"]


@pytest.mark.looptime
@pytest.mark.parametrize("earlier", [False, True])
async def test_a_kind_that_the_server_fails_to_give_delays_a_new_node_and_leaves_an_earlier_ruleset_alone(
    agent: Agent, writer: FakeWriter, earlier
):
    if earlier:
        writer.kernel.run("add table inet isthmus\n")
    waiting = asyncio.create_task(agent._lose_patience())
    agent.view.policies(Snapshot((policy(),)))
    agent.view.namespaces(Snapshot((namespace(),)))
    agent.view.pods(Snapshot((pod(),)))
    agent.view.node(Snapshot((NODE,)))
    agent.view.mesh([ClusterJoined(Cluster("east", 1)), ClusterSynced("east")])
    agent._changed()
    await asyncio.sleep(10_000)
    await agent._sync()
    assert writer.calls == ([] if earlier else ["replace"])

    _tell_all(agent)
    agent._changed()
    await waiting
    await agent._sync()
    assert writer.calls == ["replace"]
