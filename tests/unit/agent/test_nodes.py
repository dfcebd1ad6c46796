"""Nodes and the API server as identities: who shares one, who holds an address, and what goes when nobody needs it."""

from itertools import permutations

import pytest

from isthmus.agent.nodes import NodeBook
from isthmus.model.endpoint import Node
from isthmus.model.identity import FIRST_NODE, HOST, KUBE_APISERVER
from isthmus.policy.world import World
from isthmus.ruleset.compiler import Compiler

OWN = Node("east", "n1", ("172.18.0.1", "fd00::1"), labels={"rack": "r0"})


def node(name, *addresses, cluster="west", **labels):
    return Node(cluster, name, addresses, labels=labels)


@pytest.fixture
def compiler() -> Compiler:
    return Compiler(World("east"))


@pytest.fixture
def book(compiler: Compiler) -> NodeBook:
    book = NodeBook(compiler, own="east")
    book.put_own(OWN)
    return book


def words(compiler: Compiler, ip: str) -> tuple[str, ...]:
    return compiler.world.identity_at(ip).reserved


def node_numbers(compiler: Compiler) -> set[int]:
    return {number for number in compiler.world.identities if number >= FIRST_NODE}


def test_nodes_that_policy_cannot_tell_apart_are_one_identity_until_a_policy_asks_for_a_label(book, compiler):
    for number in range(3):
        book.put(node(f"w{number}", f"10.0.0.{number + 1}", rack=f"r{number}", noise=str(number)))
    assert len(node_numbers(compiler)) == 1
    assert words(compiler, "10.0.0.2") == ("remote-node",)

    book.select_by({"rack"})
    assert len(node_numbers(compiler)) == 3
    assert compiler.world.identity_at("10.0.0.2").labels == {"rack": "r1"}

    book.select_by(())
    assert len(node_numbers(compiler)) == 1


def test_clusters_are_told_apart_and_their_properties_are_those_of_their_nodes(book, compiler):
    book.put_properties("west", {"tier": "gold"})
    book.put(node("w1", "10.0.0.1"))
    book.put(node("n2", "172.18.0.2", cluster="east"))
    assert compiler.world.identity_at("10.0.0.1").properties == {"tier": "gold"}
    assert compiler.world.identity_at("172.18.0.2").properties == {}

    book.put_properties("west", {})
    assert compiler.world.identity_at("10.0.0.1").properties == {}
    assert compiler.world.identity_at("172.18.0.2").cluster == "east"


def test_the_own_node_is_the_host_with_its_labels_however_the_mesh_tells_of_it(book, compiler):
    book.put(node("n1", "172.18.0.1", "172.18.0.77", cluster="east"))

    host = compiler.world.identities[HOST]
    assert (host.labels, host.reserved) == ({"rack": "r0"}, ("host",))
    assert node_numbers(compiler) == set()
    assert "172.18.0.77" not in compiler.world.nodes, "what the own Node object does not say is not ours"


def test_an_address_of_the_own_node_is_nobody_elses(book, compiler):
    book.put(node("w1", "172.18.0.1"))
    assert compiler.world.nodes == {}

    book.put_own(Node("east", "n1", ("172.18.0.9",)))
    assert words(compiler, "172.18.0.1") == ("remote-node",)


def test_where_the_api_server_is_changes_who_nodes_are(book, compiler):
    book.put(node("n2", "172.18.0.2", "fd00::2", cluster="east"))
    book.put(node("n3", "172.18.0.3", cluster="east"))

    book.put_api_servers({"172.18.0.2", "172.18.0.1", "192.0.2.7"})
    assert words(compiler, "172.18.0.2") == words(compiler, "fd00::2") == ("kube-apiserver", "remote-node")
    assert words(compiler, "172.18.0.3") == ("remote-node",)
    assert compiler.world.nodes["192.0.2.7"] == KUBE_APISERVER
    assert words(compiler, "192.0.2.7") == ("kube-apiserver", "world")
    assert compiler.world.identities[HOST].reserved == ("host", "kube-apiserver")

    book.put_api_servers({"172.18.0.3"})
    assert words(compiler, "172.18.0.2") == words(compiler, "fd00::2") == ("remote-node",)
    assert words(compiler, "172.18.0.3") == ("kube-apiserver", "remote-node")
    assert words(compiler, "192.0.2.7") == ("world",)
    assert compiler.world.identities[HOST].reserved == ("host",)


def test_a_node_at_the_address_of_the_api_server_takes_it_over_and_gives_it_back(book, compiler):
    book.put_api_servers({"192.0.2.7"})
    book.put(node("n2", "192.0.2.7", cluster="east"))
    assert words(compiler, "192.0.2.7") == ("kube-apiserver", "remote-node")

    book.drop("east", "n2")
    assert compiler.world.nodes == {"192.0.2.7": KUBE_APISERVER}


CLAIMS = (node("w1", "10.0.0.1", rack="w"), node("n2", "10.0.0.1", cluster="east", rack="e"), node("a", "10.0.0.1"))
FIRST_BY_NAME = node("a", "10.0.0.1", cluster="alps", rack="a")


@pytest.mark.parametrize("order", list(permutations(CLAIMS)), ids=lambda order: " ".join(one.name for one in order))
def test_an_address_that_several_nodes_claim_is_the_own_clusters_in_any_order(book, compiler, order):
    book.select_by({"rack"})
    for one in order:
        book.put(one)
    assert compiler.world.identity_at("10.0.0.1").labels == {"rack": "e"}
    book.put(FIRST_BY_NAME)
    assert compiler.world.identity_at("10.0.0.1").labels == {"rack": "e"}
    book.drop_cluster("alps")

    book.drop("east", "n2")
    assert compiler.world.identity_at("10.0.0.1").labels == {}
    book.drop("west", "a")
    assert compiler.world.identity_at("10.0.0.1").labels == {"rack": "w"}
    book.drop_cluster("west")
    assert (compiler.world.nodes, node_numbers(compiler)) == ({}, set())
    assert book.count() == {}


def test_a_node_that_moves_leaves_nothing_behind(book, compiler):
    book.put(node("w1", "10.0.0.1"))
    book.put(node("w1", "10.0.0.2"))

    assert list(compiler.world.nodes) == ["10.0.0.2"]
    assert len(node_numbers(compiler)) == 1


def test_what_is_told_again_changes_nothing(book, compiler):
    book.put(node("w1", "10.0.0.1"))
    compiler.table.take_delta()
    book.put(node("w1", "10.0.0.1"))
    book.put_own(OWN)
    book.put_api_servers(())
    book.select_by(())

    assert not compiler.table.take_delta()
