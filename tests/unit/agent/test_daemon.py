"""When the agent writes what: nothing before it knows, everything after doubt, differences otherwise."""

import pytest
from prometheus_client import CollectorRegistry

from isthmus.agent.daemon import Agent, Settings
from isthmus.kernel.errors import KernelError
from isthmus.kube.access import Access
from isthmus.kube.client import Client
from isthmus.kube.reflector import Put, Snapshot
from isthmus.model.endpoint import Cluster, Endpoint
from isthmus.model.mesh import ClusterJoined, ClusterSynced, EndpointTold
from isthmus.ruleset.layout import PEERS
from tests.support.agent_writer import FakeWriter
from tests.unit.agent.test_view import NODE, pod, policy


@pytest.fixture
def writer() -> FakeWriter:
    return FakeWriter()


@pytest.fixture
def agent(writer: FakeWriter) -> Agent:
    client = Client(Access(server="https://127.0.0.1:1"))
    settings = Settings(node="n1", cluster="east")
    return Agent(settings, client=client, writer=writer, mesh=lambda: None, registry=CollectorRegistry())


def _tell_all(agent: Agent) -> None:
    agent.view.policies(Snapshot((policy(),)))
    agent.view.pods(Snapshot((pod(),)))
    agent.view.node(Snapshot((NODE,)))
    agent.view.mesh([ClusterJoined(Cluster("east", 1)), ClusterSynced("east")])


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
