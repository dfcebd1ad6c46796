"""Global services: whatever happened in whatever order, what is there is what a new agent would make of it."""

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.agent.across import services as global_services
from isthmus.agent.across.liveness import Health, Place
from isthmus.kube.reflector import Gone, Put
from isthmus.model.endpoint import Cluster, Endpoint, Node
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    NodeGone,
    NodeTold,
    SliceGone,
    SliceTold,
)
from tests.unit.agent.across.test_global_services import CLOSED, GLOBAL, Agent, global_service, namespace, shared
from tests.unit.agent.services.test_services import service, slice_

OTHERS = ("west", "north")
ANNOTATIONS = (
    {},
    GLOBAL,
    {**GLOBAL, "service.cilium.io/affinity": "local"},
    {**GLOBAL, "isthmus.dev/weight": "west=0"},
)
SERVICES = {"web": "172.20.0.1", "api": "172.20.0.2"}
NETWORKS = ("10.1.0.0/24", "10.2.0.0/24", "10.2.0.0/28")

_addresses = st.lists(st.sampled_from(["10.1.0.9", "10.2.0.1", "10.2.0.2", "10.2.0.77", "127.0.0.1"]), max_size=3)
_cluster = st.sampled_from(OTHERS)
_name = st.sampled_from(sorted(SERVICES))
_node = st.sampled_from(["1", "2"])
_action = st.one_of(
    st.tuples(st.just("service"), _name, st.sampled_from(ANNOTATIONS)),
    st.tuples(st.just("no service"), _name),
    st.tuples(st.just("namespace"), st.booleans()),
    st.tuples(st.just("own slice"), _name, st.lists(st.sampled_from(["10.1.0.1", "10.1.0.2"]), max_size=2), _node),
    st.tuples(st.just("no own slice"), _name),
    st.tuples(st.just("slice"), _cluster, st.sampled_from("ab"), _name, _addresses, _node, st.sampled_from([100, 20])),
    st.tuples(st.just("no slice"), _cluster, st.sampled_from("ab")),
    st.tuples(st.just("joined"), _cluster),
    st.tuples(st.just("synced"), _cluster),
    st.tuples(st.just("left"), _cluster),
    st.tuples(st.just("node"), st.sampled_from(["east", *OTHERS]), _node, st.sampled_from(NETWORKS)),
    st.tuples(st.just("no node"), st.sampled_from(["east", *OTHERS]), _node),
    st.tuples(st.just("pod"), _cluster, st.sampled_from(["10.2.0.1", "10.2.0.2"]), _node),
    st.tuples(st.just("no pod"), st.sampled_from(["10.2.0.1", "10.2.0.2"])),
    st.tuples(st.just("turned"), st.sampled_from(["east", *OTHERS]), _node, st.sampled_from(Health)),
    st.tuples(st.just("drained"), st.dictionaries(_cluster, st.sampled_from([0, 50]))),
    st.tuples(st.just("stale"), st.sets(_cluster)),
)


class World:
    """An agent that is told of changes, and everything that holds now, for another one to be told at once."""

    def __init__(self, *, everything: bool) -> None:
        self.agent = Agent(everything=everything)
        self.do("left", "west")
        self.facts: dict[tuple[str, ...], tuple] = {}

    def act(self, action: tuple) -> None:
        what, *given = action
        if what == "slice" and not self._joined(given[0]):
            return  # nobody tells of a cluster that is not a member
        if what == "synced" and not self._joined(given[0]):
            return
        if what in ("node", "pod") and given[0] != "east" and not self._joined(given[0]):
            return
        self.do(what, *given)
        match what:
            case "left":
                self.facts = {key: fact for key, fact in self.facts.items() if len(key) < 2 or key[1] != given[0]}
            case "no service" | "no own slice":
                self.facts.pop((what[3:], given[0]), None)
            case "no slice" | "no node":
                self.facts.pop((what[3:], given[0], given[1]), None)
            case "no pod":
                self.facts = {key: fact for key, fact in self.facts.items() if key[0] != "pod" or key[2] != given[0]}
            case "slice" | "node":
                self.facts[what, given[0], given[1]] = action
            case "pod":
                self.facts = {key: fact for key, fact in self.facts.items() if key[0] != "pod" or key[2] != given[1]}
                self.facts[what, given[0], given[1]] = action
            case "service" | "own slice" | "joined" | "synced":
                self.facts[what, given[0]] = action
            case "namespace" | "drained" | "stale":
                self.facts[what,] = action

    def _joined(self, cluster: str) -> bool:
        return ("joined", cluster) in self.facts

    def do(self, what: str, *given) -> None:
        agent = self.agent
        match what, given:
            case "service", (name, annotations):
                agent.services(Put(global_service(name, annotations=annotations, clusterIPs=[SERVICES[name]])))
            case "no service", (name,):
                agent.services(Gone(service(name)))
            case "namespace", (is_open,):
                agent.namespaces(Put(namespace() if is_open else CLOSED))
            case "own slice", (name, ips, node):
                agent.slices(Put(slice_(*ips, name=f"{name}-1", of=name, nodeName=f"n{node}")))
            case "no own slice", (name,):
                agent.slices(Gone(slice_(name=f"{name}-1", of=name)))
            case "slice", (cluster, key, name, ips, node, weight):
                host = f"n{node}" if key == "a" else ""
                agent.tell(SliceTold(shared(*ips, cluster=cluster, name=key, of=name, node=host, weight=weight)))
            case "no slice", (cluster, key):
                agent.tell(SliceGone(cluster, ("x", key)))
            case "joined", (cluster,):
                agent.tell(ClusterJoined(Cluster(cluster, 2)))
            case "synced", (cluster,):
                agent.tell(ClusterSynced(cluster))
            case "left", (cluster,):
                agent.pods = {ip: pod for ip, pod in agent.pods.items() if pod.cluster != cluster}
                agent.tell(ClusterLeft(cluster))
            case "node", (cluster, node, network):
                number = f"{1 + ['east', *OTHERS].index(cluster)}.{node}"
                agent.tell(NodeTold(Node(cluster, f"n{node}", (f"172.18.{number}",), (network,))))
            case "no node", (cluster, node):
                agent.tell(NodeGone(cluster, f"n{node}"))
            case "pod", (cluster, ip, node):
                agent.tell(EndpointTold(Endpoint(cluster, ip, 1, "x", "p", node=f"n{node}")))
            case "no pod", (ip,):
                pod = agent.pods.pop(ip, None)
                agent.tell(EndpointGone(pod.cluster if pod else "west", ip))
            case "turned", (cluster, node, health):
                agent.globals.turned((Place(cluster, f"n{node}", 4), health))
            case "drained", (left,):
                agent.globals.drain(left)
            case "stale", (clusters,):
                agent.globals.set_stale(frozenset(clusters))


def _down(agent: Agent) -> set[Place]:
    return {place for name in ("east", *OTHERS) for place in agent.globals.neighbours.down(name)}


@pytest.mark.parametrize("part", [1, global_services.PART])
@given(st.booleans(), st.lists(_action, max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=70, deadline=None)
def test_what_is_there_depends_on_what_holds_and_not_on_how_it_came_about(part, everything, actions, random):
    world = World(everything=everything)
    with mock.patch.object(global_services, "PART", part):  # so that others happen between two parts
        for action in actions:
            world.act(action)
    agent = world.agent
    while agent.globals.unfinished:
        agent.globals.go_on()

    facts = list(world.facts.values())
    random.shuffle(facts)
    facts.sort(key=lambda fact: {"joined": 0, "slice": 1}.get(fact[0], 2))  # as any source tells them
    other = World(everything=everything)
    for what, *given_ in facts:
        other.do(what, *given_)
    for place in _down(agent):
        other.agent.globals.turned((place, Health.UNREACHABLE))

    assert agent.compiler.slices == other.agent.compiler.slices
    assert agent.compiler.services == other.agent.compiler.services
    assert agent.compiler._choices == other.agent.compiler._choices
    assert {k: v for k, v in agent.globals.backends.items() if v} == {
        k: v for k, v in other.agent.globals.backends.items() if v
    }
    assert +agent.globals.unreachable == +other.agent.globals.unreachable
    assert agent.globals.left_out() == other.agent.globals.left_out()
    neighbours, others = agent.globals.neighbours, other.agent.globals.neighbours
    for name in ("east", *OTHERS):
        assert dict(neighbours.watched(name)) == dict(others.watched(name))
        assert neighbours.down(name) <= set(neighbours.watched(name))
    assert set(neighbours.slices()) == set(others.slices())
