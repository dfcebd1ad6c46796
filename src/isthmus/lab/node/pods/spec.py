"""A pod as the node reads it: the fields of the API object that decide how its processes run.

Names are the API's own (core/v1). What is not listed here makes no difference to the lab's nodes.
"""

from typing import Any

import msgspec

from isthmus.kube.schema import KubeObject, ObjectMeta
from isthmus.lab.node.pods.container import Container
from isthmus.lab.node.pods.volume import Volume

Json = dict[str, Any]


class HostAlias(msgspec.Struct, frozen=True):
    """core/v1 HostAlias."""

    ip: str
    hostnames: tuple[str, ...] = ()


class DnsOption(msgspec.Struct, frozen=True):
    """core/v1 PodDNSConfigOption."""

    name: str = ""
    value: str | None = None


class DnsConfig(msgspec.Struct, frozen=True):
    """core/v1 PodDNSConfig."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DnsOption, ...] = ()


class ReadinessGate(msgspec.Struct, frozen=True):
    """core/v1 PodReadinessGate."""

    conditionType: str


class PodSecurityContext(msgspec.Struct, frozen=True):
    """core/v1 PodSecurityContext, as far as it means something here."""

    runAsUser: int | None = None
    runAsGroup: int | None = None
    runAsNonRoot: bool | None = None
    fsGroup: int | None = None
    supplementalGroups: tuple[int, ...] = ()


class PodSpec(msgspec.Struct, frozen=True):
    """core/v1 PodSpec."""

    containers: tuple[Container, ...] = ()
    initContainers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    hostAliases: tuple[HostAlias, ...] = ()
    nodeName: str = ""
    restartPolicy: str = "Always"
    hostNetwork: bool = False
    shareProcessNamespace: bool = False
    hostname: str = ""
    subdomain: str = ""
    setHostnameAsFQDN: bool = False
    serviceAccountName: str = ""
    enableServiceLinks: bool = True
    dnsPolicy: str = "ClusterFirst"
    dnsConfig: DnsConfig = DnsConfig()
    readinessGates: tuple[ReadinessGate, ...] = ()
    securityContext: PodSecurityContext = PodSecurityContext()
    activeDeadlineSeconds: int | None = None
    terminationGracePeriodSeconds: int = 30


class Meta(ObjectMeta, frozen=True):
    """metav1.ObjectMeta with what deleting needs."""

    deletionGracePeriodSeconds: int | None = None


class PodStatus(msgspec.Struct, frozen=True):
    """core/v1 PodStatus, as far as the node keeps what others wrote."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    startTime: str = ""
    qosClass: str = ""
    conditions: tuple[Json, ...] = ()


class Pod(KubeObject, frozen=True, kw_only=True):
    """core/v1 Pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def where(self) -> str:
        """namespace/name, for messages."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def hostname(self) -> str:
        """What the pod calls itself: at most 63 characters, as the kubelet cuts it."""
        return self.spec.hostname or self.metadata.name[:63].rstrip("-.")

    @property
    def all_containers(self) -> tuple[Container, ...]:
        """Init containers and sidecars, then the others."""
        return (*self.spec.initContainers, *self.spec.containers)

    def container(self, name: str) -> Container | None:
        """Returns a container by name."""
        return next((container for container in self.all_containers if container.name == name), None)

    def is_sidecar(self, container: Container) -> bool:
        """Tells whether an init container is one that keeps running (KEP-753)."""
        return container in self.spec.initContainers and container.restartPolicy == "Always"
