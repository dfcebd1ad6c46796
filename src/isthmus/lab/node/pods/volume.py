"""core/v1 Volume: the kinds that the node provides, and the names of those that it does not."""

from typing import Any

import msgspec

from isthmus.lab.node.pods.container import FieldRef, ResourceRef

SUPPORTED = ("emptyDir", "configMap", "secret", "downwardAPI", "projected", "hostPath (of the lab)")


class KeyToPath(msgspec.Struct, frozen=True):
    """core/v1 KeyToPath."""

    key: str
    path: str
    mode: int | None = None


class ObjectSource(msgspec.Struct, frozen=True):
    """A ConfigMap or a Secret in a volume; a Secret's own volume calls its name `secretName`."""

    name: str = ""
    secretName: str = ""
    items: tuple[KeyToPath, ...] = ()
    defaultMode: int = 0o644
    optional: bool = False


class DownwardFile(msgspec.Struct, frozen=True):
    """core/v1 DownwardAPIVolumeFile."""

    path: str
    fieldRef: FieldRef | None = None
    resourceFieldRef: ResourceRef | None = None
    mode: int | None = None


class DownwardSource(msgspec.Struct, frozen=True):
    """core/v1 DownwardAPIVolumeSource."""

    items: tuple[DownwardFile, ...] = ()
    defaultMode: int = 0o644


class TokenSource(msgspec.Struct, frozen=True):
    """core/v1 ServiceAccountTokenProjection."""

    path: str
    audience: str = ""
    expirationSeconds: int = 3600


class Projection(msgspec.Struct, frozen=True):
    """core/v1 VolumeProjection."""

    configMap: ObjectSource | None = None
    secret: ObjectSource | None = None
    downwardAPI: DownwardSource | None = None
    serviceAccountToken: TokenSource | None = None
    clusterTrustBundle: dict[str, Any] | None = None


class ProjectedSource(msgspec.Struct, frozen=True):
    """core/v1 ProjectedVolumeSource."""

    sources: tuple[Projection, ...] = ()
    defaultMode: int = 0o644


class EmptyDir(msgspec.Struct, frozen=True):
    """core/v1 EmptyDirVolumeSource; size and medium make no difference here."""

    medium: str = ""


class HostPath(msgspec.Struct, frozen=True):
    """core/v1 HostPathVolumeSource."""

    path: str
    type: str = ""


class Volume(msgspec.Struct, frozen=True):
    """core/v1 Volume; of kinds that the node cannot provide only their presence is known."""

    name: str
    emptyDir: EmptyDir | None = None
    configMap: ObjectSource | None = None
    secret: ObjectSource | None = None
    downwardAPI: DownwardSource | None = None
    projected: ProjectedSource | None = None
    hostPath: HostPath | None = None
    persistentVolumeClaim: dict[str, Any] | None = None
    ephemeral: dict[str, Any] | None = None
    csi: dict[str, Any] | None = None
    nfs: dict[str, Any] | None = None
    image: dict[str, Any] | None = None
    iscsi: dict[str, Any] | None = None
    cephfs: dict[str, Any] | None = None
    rbd: dict[str, Any] | None = None
    gitRepo: dict[str, Any] | None = None

    @property
    def unsupported(self) -> str:
        """The kind of a volume that the node cannot provide, "unknown" if it cannot be told, else nothing."""
        if self.projected or self.configMap or self.secret or self.downwardAPI or self.emptyDir or self.hostPath:
            return ""
        for kind in ("persistentVolumeClaim", "ephemeral", "csi", "nfs", "image", "iscsi", "cephfs", "rbd", "gitRepo"):
            if getattr(self, kind) is not None:
                return kind
        return "unknown"
