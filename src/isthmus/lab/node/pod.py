"""A pod as the node reads it: the fields of the API object that decide how its processes run."""

from typing import Any

import msgspec

from isthmus.kube.schema import KubeObject, ObjectMeta


class FieldRef(msgspec.Struct, frozen=True):
    """core/v1 ObjectFieldSelector."""

    fieldPath: str = ""


class EnvSource(msgspec.Struct, frozen=True):
    """core/v1 EnvVarSource; what is not listed here is reported as unsupported."""

    fieldRef: FieldRef | None = None


class EnvVar(msgspec.Struct, frozen=True):
    """core/v1 EnvVar."""

    name: str
    value: str = ""
    valueFrom: EnvSource | None = None


class VolumeMount(msgspec.Struct, frozen=True):
    """core/v1 VolumeMount."""

    name: str
    mountPath: str
    readOnly: bool = False
    subPath: str = ""


class Capabilities(msgspec.Struct, frozen=True):
    """core/v1 Capabilities."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(msgspec.Struct, frozen=True):
    """core/v1 SecurityContext, as far as it means something here: everything runs as the lab's one user."""

    privileged: bool = False
    capabilities: Capabilities = Capabilities()


class Container(msgspec.Struct, frozen=True):
    """core/v1 Container."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    workingDir: str = ""
    env: tuple[EnvVar, ...] = ()
    volumeMounts: tuple[VolumeMount, ...] = ()
    securityContext: SecurityContext = SecurityContext()
    stdin: bool = False
    stdinOnce: bool = False
    tty: bool = False


class EmptyDir(msgspec.Struct, frozen=True):
    """core/v1 EmptyDirVolumeSource; size and medium make no difference here."""


class Volume(msgspec.Struct, frozen=True):
    """core/v1 Volume of a kind that the node can provide; for others only the name is known."""

    name: str
    emptyDir: EmptyDir | None = None


class HostAlias(msgspec.Struct, frozen=True):
    """core/v1 HostAlias."""

    ip: str
    hostnames: tuple[str, ...] = ()


class PodSpec(msgspec.Struct, frozen=True):
    """core/v1 PodSpec."""

    containers: tuple[Container, ...] = ()
    initContainers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    hostAliases: tuple[HostAlias, ...] = ()
    nodeName: str = ""
    restartPolicy: str = "Always"
    hostNetwork: bool = False
    hostname: str = ""
    subdomain: str = ""
    serviceAccountName: str = ""
    terminationGracePeriodSeconds: int = 30


class Meta(ObjectMeta, frozen=True):
    """metav1.ObjectMeta with what deleting needs."""

    deletionGracePeriodSeconds: int | None = None


class PodStatus(msgspec.Struct, frozen=True):
    """core/v1 PodStatus, as far as the node keeps what others wrote."""

    phase: str = ""
    startTime: str = ""
    qosClass: str = ""
    conditions: tuple[dict[str, Any], ...] = ()


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
