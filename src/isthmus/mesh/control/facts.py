"""Services and EndpointSlices of the own cluster, reduced to what the plans need.

Invariant: an EndpointSlice that tells of another cluster's backends is not a fact of this cluster, whoever wrote it:
taken for local ones, they would be told to the others as ours and come back. Rejected: the facts that the cluster's
source tells of itself, which leave out what is not shared, and that is used here all the same.
"""

import msgspec

from isthmus.kube.schema import EndpointSlice, Service
from isthmus.mesh.control.objects import SOURCE_SERVICE
from isthmus.mesh.source.slices import is_mirrored, slice_of
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.sharing import ServicePort, SharedPort, SharedSlice
from isthmus.policy.rules import Problem
from isthmus.services.settings import AFFINITY, ALIASES, GLOBAL, ORDER, SHARED, SYNC_SLICES, WEIGHT, Settings, settings

MAX_PORTS = 256
MAX_ENDPOINTS = 1000
"""Of one EndpointSlice, as the API allows."""

KEYS = frozenset({GLOBAL, SHARED, AFFINITY, SYNC_SLICES, ORDER, WEIGHT, *ALIASES.values()})
"""Annotations that matter here."""

_PROTOCOLS = {int(number): name for name, number in PORT_PROTOCOLS.items()}


class OwnService(msgspec.Struct, frozen=True):
    """A Service that says something about other clusters; `annotations` are kept for when its namespace changes.

    `imported` is the name of the ServiceImport that it stands for, "" if it stands for itself.
    """

    namespace: str
    name: str
    uid: str
    settings: Settings
    headless: bool = False
    external: bool = False
    ports: tuple[ServicePort, ...] = ()
    annotations: dict[str, str] = {}
    imported: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Returns namespace and name."""
        return self.namespace, self.name

    def judged(self, *, namespace_global: bool) -> "OwnService":
        """Returns the Service with what its annotations mean in a namespace that is global, or is not."""
        found = settings(self.annotations, headless=self.headless, namespace_global=namespace_global)
        if self.external and found.is_global:
            problem = Problem("spec.type", "ExternalName has no backends; taken for not global")
            found = Settings(problems=(*found.problems, problem))
        return msgspec.structs.replace(self, settings=found)


def own_service(obj: Service, *, namespace_global: bool) -> OwnService | None:
    """Returns a Service as far as it concerns other clusters; None if it says nothing about them."""
    meta, spec = obj.metadata, obj.spec
    annotations = {key: value for key, value in meta.annotations.items() if key in KEYS}
    if not annotations:
        return None
    ports = tuple(
        ServicePort(port.name, int(PORT_PROTOCOLS[port.protocol]), port.port, port.appProtocol)
        for port in spec.ports[:MAX_PORTS]
        if port.protocol in PORT_PROTOCOLS
    )
    found = OwnService(
        meta.namespace,
        meta.name,
        meta.uid,
        Settings(),
        headless=spec.clusterIP == "None",
        external=spec.type == "ExternalName",
        ports=ports,
        annotations=annotations,
        imported=meta.labels.get(SOURCE_SERVICE, ""),
    )
    return found.judged(namespace_global=namespace_global)


def own_slice(obj: EndpointSlice, *, cluster: str) -> SharedSlice | None:
    """Returns an EndpointSlice as a fact of this cluster; None if it is of no Service, or tells of another cluster."""
    return None if is_mirrored(obj, cluster=cluster) else slice_of(obj, cluster=cluster)[0]


def protocol_word(number: int) -> str:
    """Returns the API's word for an IANA protocol number."""
    return _PROTOCOLS.get(number, str(number))


def spoken(port: ServicePort | SharedPort) -> str:
    """Returns a port as people write it: "http:8080/TCP", or "8080/TCP" without a name."""
    return (f"{port.name}:" if port.name else "") + f"{port.port}/{protocol_word(port.protocol)}"
