"""Which pods stand behind a Service: Endpoints and EndpointSlices, worked out by pure functions.

As the real controllers: pods that match the selector, have an address and are not over; ready if the pod is Ready and
not being deleted; named target ports are looked up per pod. One slice per Service holds up to 1,000 endpoints, the
API's limit, and that is more than a lab has.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from isthmus.kube.client import Client
from isthmus.kube.errors import AlreadyExists, Conflict, Forbidden, NotFound
from isthmus.kube.resources import ENDPOINT_SLICES, ENDPOINTS
from isthmus.kube.schema import Service, ServicePort
from isthmus.lab.controllers.objects import Meta, Pod
from isthmus.lab.controllers.store import Store

MANAGER = "endpointslice-controller.k8s.io"
SERVICE_NAME = "kubernetes.io/service-name"
MAX_ENDPOINTS = 1000

Json = dict[str, Any]
_log = structlog.get_logger()


class EndpointsController:
    """Writes Endpoints and EndpointSlices of Services with a selector."""

    def __init__(
        self,
        client: Client,
        *,
        services: Store[Service],
        pods: Store[Pod],
        slices: Store[Meta],
        endpoints: Store[Meta],
    ) -> None:
        self._client = client
        self._services = services
        self._pods = pods
        self._slices = slices
        self._endpoints = endpoints
        self._written: dict[tuple[str, str], bytes] = {}

    async def run(self) -> None:
        """Writes what differs from what was written before; raises KubeError."""
        for store in (self._services, self._pods, self._slices, self._endpoints):
            await store.synced.wait()
        wanted = set()
        for service in self._services:
            if not service.spec.selector or service.metadata.deletionTimestamp:
                continue
            key = (service.metadata.namespace, service.metadata.name)
            wanted.add(key)
            behind = [pod for pod in self._pods if _stands_behind(pod, service)]
            objects = (endpoint_slice(service, behind), endpoints_object(service, behind))
            text = msgspec.json.encode([service.metadata.uid, objects])
            here = self._slices.get(key[0], slice_name(key[1])) and self._endpoints.get(*key)
            if here and self._written.get(key) == text:
                continue
            if await self._write(key[0], *objects):
                self._written[key] = text
        self._written = {key: text for key, text in self._written.items() if key in wanted}
        await self._remove_others(wanted)

    async def _write(self, namespace: str, slice: Json, endpoints: Json) -> bool:
        for resource, body in ((ENDPOINT_SLICES, slice), (ENDPOINTS, endpoints)):
            name = body["metadata"]["name"]
            try:
                await self._client.create(resource, body, type=dict, namespace=namespace)
            except AlreadyExists:
                try:
                    await self._client.replace(resource, name, body, type=dict, namespace=namespace)
                except (NotFound, Conflict):
                    return False
            except (NotFound, Forbidden):
                return False  # the namespace is on its way out
        return True

    async def _remove_others(self, wanted: set[tuple[str, str]]) -> None:
        """Removes slices that were made here for Services which are gone; their Endpoints bear the same name."""
        for item in self._slices:
            meta = item.metadata
            if meta.labels.get("endpointslice.kubernetes.io/managed-by") != MANAGER:
                continue
            service = meta.labels.get(SERVICE_NAME, "")
            if (meta.namespace, service) in wanted:
                continue
            for resource, name in ((ENDPOINTS, service), (ENDPOINT_SLICES, meta.name)):
                try:
                    await self._client.delete(resource, name, namespace=meta.namespace)
                except (NotFound, Conflict):
                    continue


def slice_name(service: str) -> str:
    """Returns the name of a Service's only slice: the same after a restart, so it is found again."""
    return f"{service[:240]}-lab"


def endpoint_slice(service: Service, pods: Iterable[Pod]) -> Json:
    """Returns the EndpointSlice of a Service for the pods behind it."""
    entries: list[Json] = []
    ports: list[Json] = []
    for pod in sorted(pods, key=lambda pod: pod.key)[:MAX_ENDPOINTS]:
        leaving = bool(pod.metadata.deletionTimestamp)
        entries.append(
            {
                "addresses": [pod.status.podIP],
                "conditions": {
                    "ready": (pod.ready and not leaving) or service.spec.publishNotReadyAddresses,
                    "serving": pod.ready,
                    "terminating": leaving,
                },
                "nodeName": pod.spec.nodeName,
                "targetRef": _target(pod),
            }
        )
        ports = ports or _ports(service, pod)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(service.metadata.name),
            "labels": {
                **service.metadata.labels,
                SERVICE_NAME: service.metadata.name,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": service.metadata.name,
                    "uid": service.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "addressType": "IPv4",
        "endpoints": entries,
        "ports": ports,
    }


def endpoints_object(service: Service, pods: Iterable[Pod]) -> Json:
    """Returns the Endpoints object of a Service for the pods behind it."""
    ready: list[Json] = []
    unready: list[Json] = []
    ports: list[Json] = []
    for pod in sorted(pods, key=lambda pod: pod.key)[:MAX_ENDPOINTS]:
        if pod.metadata.deletionTimestamp:
            continue
        entry = {"ip": pod.status.podIP, "nodeName": pod.spec.nodeName, "targetRef": _target(pod)}
        (ready if pod.ready or service.spec.publishNotReadyAddresses else unready).append(entry)
        ports = ports or _ports(service, pod)
    subset: Json = {"ports": ports}
    if ready:
        subset["addresses"] = ready
    if unready:
        subset["notReadyAddresses"] = unready
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": service.metadata.name, "labels": service.metadata.labels},
        "subsets": [subset] if ready or unready else [],
    }


def _stands_behind(pod: Pod, service: Service) -> bool:
    return (
        pod.metadata.namespace == service.metadata.namespace
        and bool(pod.status.podIP)
        and not pod.over
        and all(pod.metadata.labels.get(key) == value for key, value in service.spec.selector.items())
    )


def _ports(service: Service, pod: Pod) -> list[Json]:
    ports = []
    for port in service.spec.ports:
        number = _target_port(port, pod)
        if number is not None:
            entry: Json = {"port": number, "protocol": port.protocol}
            if port.name:
                entry["name"] = port.name
            ports.append(entry)
    return ports


def _target_port(port: ServicePort, pod: Pod) -> int | None:
    if isinstance(port.targetPort, int):
        return port.targetPort or port.port
    for container in pod.spec.containers:
        for known in container.ports:
            if known.name == port.targetPort and known.protocol == port.protocol:
                return known.containerPort
    return None


def _target(pod: Pod) -> Json:
    meta = pod.metadata
    return {"kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid}
