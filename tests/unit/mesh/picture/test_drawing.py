"""What is known of a cluster from its objects: the same as its agents and its tracker know."""

from typing import Any

import msgspec

from isthmus.kube.meshobjects import MeshNode, MeshNodeStatus, PoliciesOnNode, PolicyException
from isthmus.kube.schema import EndpointSlice, ObjectMeta, Service
from isthmus.mesh.mcs.api import derived_name
from isthmus.mesh.picture.drawing import OwnedPod, Parts, draw
from isthmus.mesh.source.slices import SOURCE_CLUSTER
from isthmus.model.endpoint import NamedPort
from isthmus.policy.explaining.facts import ClusterSeen
from isthmus.policy.rules import Scope


def slice_(
    service: str, *endpoints: dict[str, Any], namespace: str = "default", ports: object = None, **labels: str
) -> EndpointSlice:
    meta = {"name": f"{service}-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": service, **labels}}
    found = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}
    return msgspec.convert(found, EndpointSlice)


def at(ip: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [ip], "conditions": conditions}


def pod(name: str, ip: str, *, namespace: str = "default", owner: str = "", **labels: str) -> OwnedPod:
    owners = [{"kind": "ReplicaSet", "name": owner, "controller": True}] if owner else []
    meta = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owners}
    return msgspec.convert({"metadata": meta, "status": {"podIP": ip, "phase": "Running"}}, OwnedPod)


def service(name: str = "web", **spec: Any) -> Service:
    return msgspec.convert({"metadata": {"name": name, "namespace": "default"}, "spec": spec}, Service)


def drawn(**parts: Any) -> ClusterSeen:
    return draw(Parts(**parts), cluster="east", scope=Scope.CLUSTERSET, origin="here")


def test_the_api_server_is_at_its_addresses_ready_or_not() -> None:
    slices = [slice_("kubernetes", at("192.0.2.1", ready=False), at("192.0.2.2")), slice_("web", at("10.0.0.1"))]
    assert drawn(slices=[*slices, slice_("kubernetes", at("10.0.0.2"), namespace="x")]).api_servers == (
        "192.0.2.1",
        "192.0.2.2",
    )


def test_backends_are_those_of_the_own_cluster_that_are_not_said_to_be_unready() -> None:
    slices = [
        slice_("web", at("10.0.0.1"), at("10.0.0.2", ready=False), at("10.0.0.3", ready=True)),
        slice_("web", at("10.9.0.1"), **{SOURCE_CLUSTER: "west"}),
    ]
    (found,) = drawn(slices=slices, services=[service()]).services
    assert found.backends == ("10.0.0.1", "10.0.0.3")


def test_ports_are_what_the_slices_of_an_address_say() -> None:
    http, dns = {"name": "http", "port": 9000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}
    slices = [
        slice_("web", at("10.0.0.1"), at("10.0.0.2"), ports=[http, dns, {"name": "all"}, {"port": 70000}]),
        slice_("web", at("10.0.0.2"), ports=[http, {**http, "name": "more", "protocol": None}]),
        slice_("web", at("10.0.0.3"), ports=[{**http, "protocol": "QUIC"}]),
        slice_("other", at("10.0.0.1"), ports=[{"name": "x", "port": 1}]),
    ]
    (found,) = drawn(slices=slices, services=[service()]).services
    first = (("http", 6, 9000), ("", 17, 53))
    assert found.told == {"10.0.0.1": first, "10.0.0.2": (*first, ("more", 6, 9000)), "10.0.0.3": ()}


def test_pods_in_the_network_of_their_node_have_named_ports_too() -> None:
    port = {"name": "http", "containerPort": 9000}
    spec = {"nodeName": "n1", "hostNetwork": True, "containers": [{"ports": [port]}]}
    said = {"metadata": {"name": "a", "namespace": "x"}, "spec": spec, "status": {"hostIP": "172.18.0.2"}}
    (found,) = drawn(pods=[msgspec.convert(said, OwnedPod)]).pods
    assert (found.host_network, found.ips, found.named_ports) == (True, ("172.18.0.2",), (NamedPort("http", 9000),))


def test_a_derived_service_is_told_by_its_label_and_its_name() -> None:
    def named(name: str) -> Service:
        label = {"multicluster.kubernetes.io/service-name": "web"}
        return msgspec.convert({"metadata": {"name": name, "namespace": "default", "labels": label}}, Service)

    ours, somebodys = drawn(services=[named(derived_name(("default", "web"))), named("derived-my-own")]).services
    assert (ours.stands_for, somebodys.stands_for) == ("web", "")


def test_without_slices_backends_are_the_pods_that_are_selected_in_the_same_namespace() -> None:
    pods = [
        pod("a", "10.0.0.1", app="web"),
        pod("b", "10.0.0.2", app="db"),
        pod("c", "10.0.0.3", namespace="x", app="web"),
    ]
    seen = drawn(pods=pods, services=[service(selector={"app": "web"})])
    assert seen.services[0].backends == ("10.0.0.1",)
    assert seen.namespaces == {"default": {}, "x": {}}  # nobody has shown these, and pods are in them


def test_a_deployment_is_told_from_a_replica_set_of_ones_own_by_the_hash_in_its_name() -> None:
    made = pod("web-5d4-x", "10.0.0.1", owner="web-5d4", **{"pod-template-hash": "5d4"})
    own = pod("db-blue-x", "10.0.0.2", owner="db-blue")
    assert [one.workload for one in drawn(pods=[made, own]).pods] == ["Deployment/web", "ReplicaSet/db-blue"]


def test_nodes_that_keep_an_earlier_version_are_known_for_the_version_that_was_read() -> None:
    def node(name: str, *told: PolicyException) -> MeshNode:
        return MeshNode(metadata=ObjectMeta(name), status=MeshNodeStatus(policies=PoliciesOnNode(exceptions=told)))

    def says(state: str, generation: int) -> PolicyException:
        return PolicyException("NetworkPolicy", "default", "web", generation, state)

    policy = {"kind": "NetworkPolicy", "metadata": {"name": "web", "namespace": "default", "generation": 3}}
    nodes = [
        node("c", says("Kept", 3)),
        node("a", says("Kept", 3)),
        node("late", says("Kept", 2)),
        node("new", says("Invalid", 3)),
        MeshNode(metadata=ObjectMeta("silent")),
    ]
    place = ("NetworkPolicy", "default", "web")
    assert drawn(policies=[policy], mesh_nodes=nodes).kept == {place: ("a", "c")}
    assert drawn(mesh_nodes=nodes).kept == {}
