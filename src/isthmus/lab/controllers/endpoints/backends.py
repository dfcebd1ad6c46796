"""Which pods stand behind a Service, with which address and which ports.

As upstream: pods that match the selector, have an address and are not over; ready if the pod is Ready and not being
deleted. Named target ports are looked up per pod, so pods of one Service may differ.
"""

from collections.abc import Iterable
from typing import Any

from isthmus.kube.schema import ServicePort
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.services import Service

Json = dict[str, Any]
IPV4, IPV6 = "IPv4", "IPv6"
HEADLESS = "service.kubernetes.io/headless"


def is_headless(service: Service) -> bool:
    """Whether a Service has no address of its own."""
    return service.spec.clusterIP in ("", "None")


def families(service: Service) -> tuple[str, ...]:
    """Returns the address families of a Service."""
    if service.spec.ipFamilies:
        return service.spec.ipFamilies
    return (IPV6 if ":" in service.spec.clusterIP else IPV4,)


def stands_behind(pod: Pod, service: Service) -> bool:
    """Whether a pod belongs to a Service's endpoints."""
    if pod.metadata.namespace != service.metadata.namespace or pod.over or not pod.status.podIP:
        return False
    return service.spec.selector.items() <= pod.metadata.labels.items()


def address(pod: Pod, family: str) -> str | None:
    """Returns a pod's address of a family."""
    known = [one.ip for one in pod.status.podIPs] or [pod.status.podIP]
    for ip in known:
        if ip and (":" in ip) == (family == IPV6):
            return ip
    return None


def ports(service: Service, pod: Pod) -> list[Json]:
    """Returns the ports of a Service on a pod, in the words of EndpointSlices; those it does not have are left out."""
    found = []
    for port in service.spec.ports:
        number = _target(port, pod)
        if number is not None:
            entry: Json = {"name": port.name, "protocol": port.protocol, "port": number}
            if port.appProtocol:
                entry["appProtocol"] = port.appProtocol
            found.append(entry)
    return found


def _target(port: ServicePort, pod: Pod) -> int | None:
    if isinstance(port.targetPort, int):
        return port.targetPort or port.port
    if port.targetPort.isdecimal():
        return int(port.targetPort)
    for container in (*pod.spec.containers, *(one for one in pod.spec.initContainers if one.restartPolicy)):
        for known in container.ports:
            if known.name == port.targetPort and known.protocol == port.protocol:
                return known.containerPort
    return None


def target(pod: Pod) -> Json:
    """Returns how an endpoint names its pod."""
    meta = pod.metadata
    return {"kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid}


def endpoint(service: Service, pod: Pod, family: str) -> Json | None:
    """Returns a pod as an endpoint of a slice; None if it has no address of the family."""
    ip = address(pod, family)
    if ip is None:
        return None
    entry: Json = {
        "addresses": [ip],
        "conditions": {
            "ready": service.spec.publishNotReadyAddresses or (pod.ready and not pod.leaving),
            "serving": pod.ready,
            "terminating": pod.leaving,
        },
        "targetRef": target(pod),
    }
    if pod.spec.nodeName:
        entry["nodeName"] = pod.spec.nodeName
    if name := hostname(service, pod):
        entry["hostname"] = name
    return entry


def hostname(service: Service, pod: Pod) -> str:
    """Returns the name by which a headless Service's DNS knows a pod."""
    return pod.spec.hostname if pod.spec.subdomain == service.metadata.name else ""


def sorted_pods(pods: Iterable[Pod]) -> list[Pod]:
    """Returns pods in an order that stays."""
    return sorted(pods, key=lambda pod: (pod.metadata.namespace, pod.metadata.name))
