"""Objects and names of group multicluster.x-k8s.io, and which version of it an API server has.

Versions v1alpha1 and v1beta1 differ in what they promise and in a few optional fields, not in shape, so one view of
each kind serves for both; fields that a server does not know are dropped by it and not missed. Source: KEP-1645, the
types of sigs.k8s.io/mcs-api, and Cilium for the name and the marks of derived Services. Rejected: one version alone,
as clusters of one mesh are seldom upgraded on one day.
"""

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from isthmus.kube.errors import BadAnswer, NotFound
from isthmus.kube.resources import Resource
from isthmus.kube.schema import KubeObject, ObjectMeta, SessionAffinityConfig
from isthmus.model.service import ServiceKey

if TYPE_CHECKING:  # whoever wants the names alone, as for manifests, loads no HTTP client
    from isthmus.kube.client import Client

GROUP = "multicluster.x-k8s.io"
VERSIONS = ("v1beta1", "v1alpha1")
"""Those that are understood, the best first."""
SERVICE_NAME = "multicluster.kubernetes.io/service-name"
SOURCE_CLUSTER = "multicluster.kubernetes.io/source-cluster"
DERIVED = "multicluster.kubernetes.io/derived-service"
MANAGED_BY = "app.kubernetes.io/managed-by"
OURS = "isthmus"
"""Value of MANAGED_BY of what we made."""
PREFIX = "derived-"


class Api(msgspec.Struct, frozen=True):
    """The resources of the version that a server has."""

    version: str
    exports: Resource
    imports: Resource


class OwnerReference(msgspec.Struct, frozen=True, gc=False):
    """metav1.OwnerReference."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    apiVersion: str = ""


class OwnedMeta(ObjectMeta, frozen=True, gc=False):
    """metav1.ObjectMeta with owners."""

    ownerReferences: tuple[OwnerReference, ...] = ()


class Condition(msgspec.Struct, frozen=True, gc=False):
    """metav1.Condition."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    observedGeneration: int = 0
    lastTransitionTime: str = ""


class ExportSpec(msgspec.Struct, frozen=True, gc=False):
    """ServiceExportSpec."""

    exportedLabels: dict[str, str] = {}
    exportedAnnotations: dict[str, str] = {}


class ExportStatus(msgspec.Struct, frozen=True, gc=False):
    """ServiceExportStatus."""

    conditions: tuple[Condition, ...] = ()


class ServiceExport(KubeObject, frozen=True, gc=False, kw_only=True):
    """Offers the Service of the same name to all clusters."""

    spec: ExportSpec = ExportSpec()
    status: ExportStatus = ExportStatus()


class ImportPort(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """ServicePort of a ServiceImport."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    appProtocol: str = ""


class ImportSpec(msgspec.Struct, frozen=True, gc=False):
    """ServiceImportSpec."""

    type: str = ""
    ports: tuple[ImportPort, ...] = ()
    ips: tuple[str, ...] = ()
    ipFamilies: tuple[str, ...] = ()
    sessionAffinity: str = ""
    sessionAffinityConfig: SessionAffinityConfig | None = None
    internalTrafficPolicy: str = ""
    trafficDistribution: str = ""


class ImportingFrom(msgspec.Struct, frozen=True, gc=False):
    """ClusterStatus of a ServiceImport."""

    cluster: str


class ImportStatus(msgspec.Struct, frozen=True, gc=False):
    """ServiceImportStatus."""

    clusters: tuple[ImportingFrom, ...] = ()
    conditions: tuple[Condition, ...] = ()


class ServiceImport(KubeObject, frozen=True, gc=False, kw_only=True):
    """A Service that clusters of the set export, as this cluster uses it."""

    spec: ImportSpec = ImportSpec()
    status: ImportStatus = ImportStatus()


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ServicePort, as far as it is exported or derived."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    targetPort: int | str = 0
    appProtocol: str = ""


class ServiceSpec(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ServiceSpec, as far as it is exported or derived."""

    type: str = "ClusterIP"
    clusterIP: str = ""
    clusterIPs: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    ipFamilies: tuple[str, ...] = ()
    sessionAffinity: str = "None"
    sessionAffinityConfig: SessionAffinityConfig | None = None
    internalTrafficPolicy: str = ""
    trafficDistribution: str = ""
    publishNotReadyAddresses: bool = False

    @property
    def headless(self) -> bool:
        """Whether it has no address on purpose."""
        return self.clusterIP == "None"


class Service(KubeObject, frozen=True, gc=False, kw_only=True):
    """core/v1 Service with its owners."""

    metadata: OwnedMeta
    spec: ServiceSpec = ServiceSpec()

    def derived_from(self, name: str) -> bool:
        """Whether it was derived from the ServiceImport of this name, and so may be changed and deleted with it."""
        return any(
            owner.kind == "ServiceImport" and owner.name == name and owner.apiVersion.startswith(f"{GROUP}/")
            for owner in self.metadata.ownerReferences
        )


def derived_name(key: ServiceKey) -> str:
    """Returns the name of the Service that stands for an imported one (as Cilium and the API's own controller do)."""
    digest = hashlib.sha256(f"{key[0]}/{key[1]}".encode()).digest()
    return PREFIX + base64.b32hexencode(digest).decode().lower()[:10]


def is_ours(item: ServiceImport) -> bool:
    """Whether we (or who made derived Services before us) made a ServiceImport; others are a user's own."""
    meta = item.metadata
    marked = meta.annotations.get(DERIVED) == derived_name((meta.namespace, meta.name))
    return marked or meta.labels.get(MANAGED_BY) == OURS


async def discover(client: "Client") -> Api | None:
    """Returns the best version that the server has both kinds of, None if it has none. Raises KubeError."""
    for version in await _served(client):
        path = f"/apis/{GROUP}/{version}"
        try:
            found = _decoded(await client.raw("GET", path), _ResourceList, path)
        except NotFound:
            continue
        if {"serviceexports", "serviceimports"} <= {resource.name for resource in found.resources}:
            return Api(
                version,
                exports=Resource(GROUP, version, "serviceexports", "ServiceExport"),
                imports=Resource(GROUP, version, "serviceimports", "ServiceImport"),
            )
    return None


async def _served(client: "Client") -> list[str]:
    path = f"/apis/{GROUP}"
    try:
        group = _decoded(await client.raw("GET", path), _Group, path)
    except NotFound:
        return []
    served = {version.version for version in group.versions}
    return [version for version in VERSIONS if version in served]


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    versions: list[_Version] = []


class _Named(msgspec.Struct):
    name: str


class _ResourceList(msgspec.Struct):
    resources: list[_Named] = []


def _decoded(body: bytes, kind: type[Any], path: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadAnswer(f"GET {path}: {error}") from error
