"""Variables that name services."""

from isthmus.kube.schema import ObjectMeta, Service, ServicePort, ServiceSpec
from isthmus.lab.node.environment.services import service_variables


def service(name: str, namespace: str = "n", ip: str = "172.20.1.5", *ports: ServicePort) -> Service:
    spec = ServiceSpec(clusterIP=ip, ports=ports or (ServicePort(port=80, name="http"),))
    return Service(metadata=ObjectMeta(name=name, namespace=namespace), spec=spec)


KUBERNETES = service("kubernetes", "default", "172.20.1.1", ServicePort(port=443, name="https"))


def test_a_service_is_named_in_both_forms() -> None:
    found = service_variables([service("my-web")], namespace="n", links=True)
    assert found == {
        "MY_WEB_SERVICE_HOST": "172.20.1.5",
        "MY_WEB_SERVICE_PORT": "80",
        "MY_WEB_SERVICE_PORT_HTTP": "80",
        "MY_WEB_PORT": "tcp://172.20.1.5:80",
        "MY_WEB_PORT_80_TCP": "tcp://172.20.1.5:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp",
        "MY_WEB_PORT_80_TCP_PORT": "80",
        "MY_WEB_PORT_80_TCP_ADDR": "172.20.1.5",
    }


def test_headless_services_and_those_of_other_namespaces_are_left_out() -> None:
    others = [service("a", ip="None"), service("b", "other"), service("c", ip="")]
    assert service_variables(others, namespace="n", links=True) == {}


def test_the_api_server_is_named_everywhere_even_without_links() -> None:
    found = service_variables([KUBERNETES, service("web")], namespace="n", links=False)
    assert found["KUBERNETES_SERVICE_HOST"] == "172.20.1.1"
    assert not any(name.startswith("WEB") for name in found)
