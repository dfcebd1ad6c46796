"""Services and what stands behind them."""

from typing import Any

import msgspec

from isthmus.kube.schema import ServicePort
from isthmus.lab.controllers.objects.meta import Object


class ServiceSpec(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ServiceSpec."""

    type: str = "ClusterIP"
    clusterIP: str = ""
    clusterIPs: tuple[str, ...] = ()
    ipFamilies: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    publishNotReadyAddresses: bool = False
    trafficDistribution: str = ""


class Service(Object, frozen=True, gc=False, kw_only=True):
    """core/v1 Service."""

    spec: ServiceSpec = ServiceSpec()


class EndpointSlice(Object, frozen=True, gc=False, kw_only=True):
    """discovery/v1 EndpointSlice: kept as they came, because they are compared with what should be written."""

    addressType: str = "IPv4"
    endpoints: tuple[dict[str, Any], ...] = ()
    ports: tuple[dict[str, Any], ...] = ()


class Endpoints(Object, frozen=True, gc=False, kw_only=True):
    """core/v1 Endpoints."""

    subsets: tuple[dict[str, Any], ...] = ()
