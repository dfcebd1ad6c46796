"""What is served: one table of resources, from which routes, discovery, OpenAPI and storage keys follow.

A new kind is a row here, its fields in `types/`, and where it has rules of its own a strategy and columns. Handlers
written per kind were rejected: twelve kinds times nine verbs drift apart.
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.inputs import decoding
from isthmus.lab.apiserver.schema import typetable

if TYPE_CHECKING:
    from isthmus.lab.apiserver.columns import Columns
    from isthmus.lab.apiserver.storage.watchcache import Stored
    from isthmus.lab.apiserver.strategies.base import Hooks, Settings

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
SUBRESOURCE_VERBS = ("get", "patch", "update")


class Subresource(msgspec.Struct, frozen=True):
    """A path below an object; `kind`, `group`, `version` are those of the body it takes or gives."""

    name: str
    verbs: tuple[str, ...] = SUBRESOURCE_VERBS
    kind: str = ""
    group: str = ""
    version: str = ""


class Resource(msgspec.Struct, frozen=True):
    """One served resource. A resource without `list` among its verbs is virtual: it is answered and never stored."""

    group: str
    version: str
    plural: str
    kind: str
    package: str  # of the type table
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[Subresource, ...] = ()
    generation: bool = False  # counts changes of what is wanted (everything but metadata and status)
    fields: tuple[str, ...] = ()  # paths that field selectors may use, besides metadata.name and metadata.namespace
    ttl: int = 0  # seconds after which an object that is not rewritten is removed; 0 for never

    @property
    def api_version(self) -> str:
        """Returns `v1` or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """Returns the resource as errors name it: `plural` or `plural.group`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """Returns the kind as validation errors name it."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def singular(self) -> str:
        """Returns the lower-case kind, which is what kubectl takes for one."""
        return self.kind.lower()

    @property
    def list_kind(self) -> str:
        """Returns the kind of its lists."""
        return f"{self.kind}List"

    @property
    def stored(self) -> bool:
        """Tells whether objects of it are kept."""
        return "list" in self.verbs

    @property
    def prefix(self) -> bytes:
        """Returns the first bytes of every encoded object; lists leave them out."""
        return b'{"kind":"%s","apiVersion":"%s",' % (self.kind.encode(), self.api_version.encode())

    def subresource(self, name: str) -> Subresource | None:
        """Returns the subresource called `name`."""
        return next((sub for sub in self.subresources if sub.name == name), None)

    def type(self) -> typetable.ObjectType:
        """Returns the shape of its objects."""
        return typetable.find(self.kind, package=self.package)

    def conform(self, value: Json) -> tuple[Json, list[str]]:
        """Returns `value` in the stored form, and the paths of fields that it had too much; raises a 400 ApiError."""
        return decoding.conform(value, self.type(), kind=self.kind, version=self.version)

    def hooks(self, settings: "Settings") -> "Hooks | None":
        """Returns the rules that the resource brings with it; None if its rules are in `strategies`."""
        return None

    def columns(self) -> "Columns | None":
        """Returns the columns that the resource brings with it; None if they are in `columns`."""
        return None

    def scale_paths(self) -> "ScalePaths | None":
        """Returns where the values of the scale subresource are; None for where workloads have them."""
        return None

    @property
    def deprecation(self) -> str:
        """Returns the warning that goes with every answer, "" for none."""
        return ""

    @property
    def strategic(self) -> bool:
        """Tells whether strategic merge patches are taken."""
        return True

    def tail(self, stored: "Stored") -> bytes:
        """Returns an object's JSON, without the prefix, in the form of this version."""
        return stored.tail

    def published(self) -> Json | None:
        """Returns the OpenAPI schema that the resource brings with it; None if its type is in the type table."""
        return None


class ScalePaths(msgspec.Struct, frozen=True):
    """Dotted paths of what the scale subresource reads and writes; `selector` is "" for none."""

    replicas: str
    status_replicas: str
    selector: str = ""


STATUS = Subresource("status")
SCALE = Subresource("scale", kind="Scale", group="autoscaling", version="v1")

_CORE = "io.k8s.api.core.v1"
_APPS = "io.k8s.api.apps.v1"
_RBAC = "io.k8s.api.rbac.v1"
_REVIEWS = "io.k8s.api.authorization.v1"
_EVENT_FIELDS = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)

RESOURCES: tuple[Resource, ...] = (
    Resource(
        "",
        "v1",
        "namespaces",
        "Namespace",
        _CORE,
        namespaced=False,
        short_names=("ns",),
        verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
        subresources=(STATUS, Subresource("finalize", verbs=("update",))),
        fields=("status.phase",),
    ),
    Resource(
        "",
        "v1",
        "pods",
        "Pod",
        _CORE,
        short_names=("po",),
        categories=("all",),
        subresources=(
            STATUS,
            Subresource("attach", verbs=("create", "get"), kind="PodAttachOptions"),
            Subresource("binding", verbs=("create",), kind="Binding"),
            Subresource("eviction", verbs=("create",), kind="Eviction", group="policy", version="v1"),
            Subresource("exec", verbs=("create", "get"), kind="PodExecOptions"),
            Subresource("log", verbs=("get",)),
            Subresource("portforward", verbs=("create", "get"), kind="PodPortForwardOptions"),
        ),
        generation=True,
        fields=(
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ),
    ),
    Resource(
        "",
        "v1",
        "services",
        "Service",
        _CORE,
        short_names=("svc",),
        categories=("all",),
        subresources=(STATUS,),
        fields=("spec.clusterIP", "spec.type"),
    ),
    Resource("", "v1", "endpoints", "Endpoints", _CORE, short_names=("ep",)),
    Resource(
        "",
        "v1",
        "nodes",
        "Node",
        _CORE,
        namespaced=False,
        short_names=("no",),
        subresources=(STATUS,),
        fields=("spec.unschedulable",),
    ),
    Resource("", "v1", "events", "Event", _CORE, short_names=("ev",), fields=_EVENT_FIELDS, ttl=3600),
    Resource("", "v1", "configmaps", "ConfigMap", _CORE, short_names=("cm",)),
    Resource("", "v1", "secrets", "Secret", _CORE, fields=("type",)),
    Resource(
        "",
        "v1",
        "serviceaccounts",
        "ServiceAccount",
        _CORE,
        short_names=("sa",),
        subresources=(
            Subresource("token", verbs=("create",), kind="TokenRequest", group="authentication.k8s.io", version="v1"),
        ),
    ),
    Resource("", "v1", "bindings", "Binding", _CORE, verbs=("create",)),
    Resource(
        "apps",
        "v1",
        "deployments",
        "Deployment",
        _APPS,
        short_names=("deploy",),
        categories=("all",),
        subresources=(STATUS, SCALE),
        generation=True,
    ),
    Resource(
        "apps",
        "v1",
        "replicasets",
        "ReplicaSet",
        _APPS,
        short_names=("rs",),
        categories=("all",),
        subresources=(STATUS, SCALE),
        generation=True,
        fields=("status.replicas",),
    ),
    Resource(
        "apps",
        "v1",
        "statefulsets",
        "StatefulSet",
        _APPS,
        short_names=("sts",),
        categories=("all",),
        subresources=(STATUS, SCALE),
        generation=True,
    ),
    Resource(
        "apps",
        "v1",
        "daemonsets",
        "DaemonSet",
        _APPS,
        short_names=("ds",),
        categories=("all",),
        subresources=(STATUS,),
        generation=True,
    ),
    Resource("apps", "v1", "controllerrevisions", "ControllerRevision", _APPS),
    Resource(
        "batch",
        "v1",
        "jobs",
        "Job",
        "io.k8s.api.batch.v1",
        categories=("all",),
        subresources=(STATUS,),
        generation=True,
        fields=("status.successful",),
    ),
    Resource(
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        "io.k8s.api.policy.v1",
        short_names=("pdb",),
        subresources=(STATUS,),
        generation=True,
    ),
    Resource(
        "scheduling.k8s.io",
        "v1",
        "priorityclasses",
        "PriorityClass",
        "io.k8s.api.scheduling.v1",
        namespaced=False,
        short_names=("pc",),
        generation=True,
    ),
    Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", _RBAC),
    Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", _RBAC),
    Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", _RBAC, namespaced=False),
    Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", _RBAC, namespaced=False),
    Resource(
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "NetworkPolicy",
        "io.k8s.api.networking.v1",
        short_names=("netpol",),
        generation=True,
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "ingresses",
        "Ingress",
        "io.k8s.api.networking.v1",
        short_names=("ing",),
        subresources=(STATUS,),
        generation=True,
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "ingressclasses",
        "IngressClass",
        "io.k8s.api.networking.v1",
        namespaced=False,
        generation=True,
    ),
    Resource("coordination.k8s.io", "v1", "leases", "Lease", "io.k8s.api.coordination.v1"),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "io.k8s.api.discovery.v1", generation=True),
    Resource(
        "authentication.k8s.io",
        "v1",
        "tokenreviews",
        "TokenReview",
        "io.k8s.api.authentication.v1",
        namespaced=False,
        verbs=("create",),
    ),
    Resource(
        "authentication.k8s.io",
        "v1",
        "selfsubjectreviews",
        "SelfSubjectReview",
        "io.k8s.api.authentication.v1",
        namespaced=False,
        verbs=("create",),
    ),
    Resource(
        "authorization.k8s.io",
        "v1",
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
        _REVIEWS,
        verbs=("create",),
    ),
    Resource(
        "authorization.k8s.io",
        "v1",
        "subjectaccessreviews",
        "SubjectAccessReview",
        _REVIEWS,
        namespaced=False,
        verbs=("create",),
    ),
    Resource(
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        _REVIEWS,
        namespaced=False,
        verbs=("create",),
    ),
    Resource(
        "authorization.k8s.io",
        "v1",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        _REVIEWS,
        namespaced=False,
        verbs=("create",),
    ),
)


_VERSION = re.compile(r"v([1-9]\d*)(?:(alpha|beta)([1-9]\d*))?")


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Returns a key that sorts the versions of a group, the preferred one first: stable, beta, alpha, others."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return (3, 0, 0, version)
    level = {None: 0, "beta": 1, "alpha": 2}[found[2]]
    return (level, -int(found[1]), -int(found[3] or 0), version)


class Registry:
    """The served resources, by path. CustomResourceDefinitions add and remove rows at run time."""

    def __init__(self, resources: tuple[Resource, ...] = RESOURCES) -> None:
        self._fixed = {"apiextensions.k8s.io", *(resource.group for resource in resources)}
        self._resources = {(resource.group, resource.version, resource.plural): resource for resource in resources}

    def find(self, *, group: str, version: str, plural: str) -> Resource | None:
        """Returns the resource, or None if it is not served."""
        return self._resources.get((group, version, plural))

    def replace(self, plural: str, group: str, rows: Iterable[Resource]) -> None:
        """Serves `rows`, the versions of one resource, instead of those that it had; none to serve it no more."""
        for key in [key for key in self._resources if (key[0], key[2]) == (group, plural)]:
            del self._resources[key]
        self._resources.update({(row.group, row.version, row.plural): row for row in rows})

    def __iter__(self) -> Iterator[Resource]:
        return iter(tuple(self._resources.values()))

    def get(self, plural: str, group: str = "") -> Resource:
        """Returns the resource of any version; KeyError if there is none."""
        for resource in self._resources.values():
            if resource.plural == plural and resource.group == group:
                return resource
        raise KeyError(f"{plural}.{group}")

    def group_versions(self) -> dict[str, list[str]]:
        """Returns group -> versions, the preferred first; the core group is "". Groups of users come last, by name."""
        found: dict[str, list[str]] = {}
        for resource in self._resources.values():
            versions = found.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        custom = sorted(found.keys() - self._fixed)
        for group in custom:
            found[group] = sorted(found.pop(group), key=version_priority)
        return found

    def of(self, group: str, version: str) -> list[Resource]:
        """Returns the resources of one group version."""
        return [found for found in self._resources.values() if (found.group, found.version) == (group, version)]
