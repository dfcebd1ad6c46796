"""Which pods stand behind a Service."""

from isthmus.kube.schema import Condition, Container, ContainerPort, ObjectMeta, Service, ServicePort, ServiceSpec
from isthmus.lab.controllers.endpoints import endpoint_slice, endpoints_object
from isthmus.lab.controllers.objects import Pod, PodSpec, PodStatus


def pod(name: str, ip: str, *, ready: bool = True, leaving: bool = False, port: int = 8080) -> Pod:
    return Pod(
        metadata=ObjectMeta(
            name=name, namespace="n", uid=name, deletionTimestamp="2026-01-01T00:00:00Z" if leaving else ""
        ),
        spec=PodSpec(nodeName="node", containers=(Container(ports=(ContainerPort(port, name="web"),)),)),
        status=PodStatus(podIP=ip, conditions=(Condition(type="Ready", status=str(ready)),)),
    )


def service(*ports: ServicePort) -> Service:
    return Service(metadata=ObjectMeta(name="s", namespace="n", uid="u"), spec=ServiceSpec(ports=ports))


def test_conditions_say_ready_serving_and_terminating() -> None:
    found = endpoint_slice(
        service(ServicePort(80)),
        [pod("c", "10.0.0.3", leaving=True), pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False)],
    )
    assert [(entry["addresses"], *entry["conditions"].values()) for entry in found["endpoints"]] == [
        (["10.0.0.1"], True, True, False),
        (["10.0.0.2"], False, False, False),
        (["10.0.0.3"], False, True, True),
    ]
    assert found["metadata"]["labels"]["kubernetes.io/service-name"] == "s"
    assert found["ports"] == [{"port": 80, "protocol": "TCP"}]


def test_target_ports_are_numbers_or_names() -> None:
    ports = endpoint_slice(
        service(ServicePort(80, name="n", targetPort="web"), ServicePort(81, name="m", targetPort=9)),
        [pod("a", "10.0.0.1")],
    )["ports"]
    assert ports == [{"port": 8080, "protocol": "TCP", "name": "n"}, {"port": 9, "protocol": "TCP", "name": "m"}]
    assert endpoint_slice(service(ServicePort(80, targetPort="none")), [pod("a", "10.0.0.1")])["ports"] == []


def test_endpoints_tell_ready_from_unready() -> None:
    subset = endpoints_object(service(ServicePort(80)), [pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False)])
    assert [entry["ip"] for entry in subset["subsets"][0]["addresses"]] == ["10.0.0.1"]
    assert [entry["ip"] for entry in subset["subsets"][0]["notReadyAddresses"]] == ["10.0.0.2"]
    assert endpoints_object(service(ServicePort(80)), [])["subsets"] == []
