"""Which resources there are and where they live under a server's URL.

A `Resource` is all that the client needs to know of a kind; anyone may make one for a CRD. Rejected: discovery at
run time, which costs a round trip per group and tells us nothing about kinds that we decode into our own types.
"""

from urllib.parse import quote

import msgspec


class Resource(msgspec.Struct, frozen=True):
    """A kind as the API serves it: `plural` is its word in URLs, `group` is "" for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The apiVersion of its objects: "v1" or "group/version"."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Returns the URL path of the collection or of one object, each part escaped.

        `namespace` None on a namespaced resource means all namespaces. Raises ValueError for a part that would leave
        its place in the path, and for a namespace on a cluster-wide resource.
        """
        parts = ["api", self.version] if not self.group else ["apis", self.group, self.version]
        if namespace is not None:
            if not self.namespaced:
                raise ValueError(f"{self.plural} have no namespace, got {namespace!r}")
            parts += ["namespaces", namespace]
        elif name is not None and self.namespaced:
            raise ValueError(f"{self.plural} {name!r}: one object needs a namespace")
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
            if subresource is not None:
                parts += subresource.split("/")
        for part in parts:
            if part in ("", ".", ".."):
                raise ValueError(f"{part!r} cannot be part of a path to {self.plural}")
        return "/" + "/".join(quote(part, safe="") for part in parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods", "Pod")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
SERVICES = Resource("", "v1", "services", "Service")
EVENTS = Resource("", "v1", "events", "Event")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
CILIUM_NETWORK_POLICIES = Resource("cilium.io", "v2", "ciliumnetworkpolicies", "CiliumNetworkPolicy")
CILIUM_CLUSTERWIDE_NETWORK_POLICIES = Resource(
    "cilium.io", "v2", "ciliumclusterwidenetworkpolicies", "CiliumClusterwideNetworkPolicy", namespaced=False
)
CILIUM_CIDR_GROUPS = Resource("cilium.io", "v2", "ciliumcidrgroups", "CiliumCIDRGroup", namespaced=False)
CLUSTER_NETWORK_POLICIES = Resource(
    "policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy", namespaced=False
)
ADMIN_NETWORK_POLICIES = Resource(
    "policy.networking.k8s.io", "v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy", namespaced=False
)
BASELINE_ADMIN_NETWORK_POLICIES = Resource(
    "policy.networking.k8s.io",
    "v1alpha1",
    "baselineadminnetworkpolicies",
    "BaselineAdminNetworkPolicy",
    namespaced=False,
)
POLICY_KINDS = (
    NETWORK_POLICIES,
    CILIUM_NETWORK_POLICIES,
    CILIUM_CLUSTERWIDE_NETWORK_POLICIES,
    CLUSTER_NETWORK_POLICIES,
    ADMIN_NETWORK_POLICIES,
    BASELINE_ADMIN_NETWORK_POLICIES,
)
"""Every kind of object that `isthmus.policy.parsing` reads."""
CLUSTER_PROPERTIES = Resource("about.k8s.io", "v1beta1", "clusterproperties", "ClusterProperty", namespaced=False)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
JOBS = Resource("batch", "v1", "jobs", "Job")
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
MESH_CLUSTERS = Resource("isthmus.dev", "v1alpha1", "meshclusters", "MeshCluster", namespaced=False)
MESH_NODES = Resource("isthmus.dev", "v1alpha1", "meshnodes", "MeshNode", namespaced=False)
GLOBAL_SERVICES = Resource("isthmus.dev", "v1alpha1", "globalservices", "GlobalService")
SERVICE_EXPORTS = Resource("multicluster.x-k8s.io", "v1alpha1", "serviceexports", "ServiceExport")
SERVICE_IMPORTS = Resource("multicluster.x-k8s.io", "v1alpha1", "serviceimports", "ServiceImport")
