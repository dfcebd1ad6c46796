"""Narrow views of Kubernetes objects: only the fields that somebody here reads.

Why: decoding 10,000 pods into these costs a twentieth of decoding them into dictionaries, and caching them does not
slow the garbage collector (`gc=False` is sound because nothing in an immutable tree can point back). Field names are
the API's own. A null anywhere means the same as absent (Kubernetes API conventions); `isthmus.kube.decode` sees to it.
For whole objects ask for `type=dict`; for bytes as they came, `type=msgspec.Raw`. Rejected: generated models of whole
kinds, 4 times slower to import than this whole program is to start.
"""

import msgspec

Labels = dict[str, str]


class ObjectMeta(msgspec.Struct, frozen=True, gc=False):
    """metav1.ObjectMeta; `namespace` is "" for cluster-wide kinds; timestamps stay RFC 3339 text."""

    name: str
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    generation: int = 0
    labels: Labels = {}
    annotations: Labels = {}
    creationTimestamp: str = ""
    deletionTimestamp: str = ""


class KubeObject(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What every object has. Items of a typed list carry no `kind` and no `apiVersion`."""

    metadata: ObjectMeta
    kind: str = ""
    apiVersion: str = ""


class ContainerPort(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ContainerPort."""

    containerPort: int
    name: str = ""
    protocol: str = "TCP"


class Container(msgspec.Struct, frozen=True, gc=False):
    """core/v1 Container: its ports; `restartPolicy` Always marks an init container as a sidecar."""

    name: str = ""
    ports: tuple[ContainerPort, ...] = ()
    restartPolicy: str = ""


class PodSpec(msgspec.Struct, frozen=True, gc=False):
    """core/v1 PodSpec."""

    nodeName: str = ""
    hostNetwork: bool = False
    serviceAccountName: str = ""
    containers: tuple[Container, ...] = ()
    initContainers: tuple[Container, ...] = ()


class PodIP(msgspec.Struct, frozen=True, gc=False):
    """core/v1 PodIP."""

    ip: str = ""


class Condition(msgspec.Struct, frozen=True, gc=False):
    """A condition of a pod or a node; `status` is True, False or Unknown."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class PodStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 PodStatus; `phase` is Pending, Running, Succeeded, Failed or Unknown."""

    phase: str = ""
    podIP: str = ""
    podIPs: tuple[PodIP, ...] = ()
    hostIP: str = ""
    conditions: tuple[Condition, ...] = ()


class Pod(KubeObject, frozen=True, gc=False, kw_only=True):
    """core/v1 Pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NamespaceStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NamespaceStatus; `phase` is Active or Terminating."""

    phase: str = ""


class Namespace(KubeObject, frozen=True, gc=False, kw_only=True):
    """core/v1 Namespace."""

    status: NamespaceStatus = NamespaceStatus()


class NodeAddress(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NodeAddress; `type` is InternalIP, ExternalIP, Hostname, InternalDNS or ExternalDNS."""

    type: str = ""
    address: str = ""


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NodeSpec."""

    podCIDR: str = ""
    podCIDRs: tuple[str, ...] = ()
    unschedulable: bool = False


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NodeStatus."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Node(KubeObject, frozen=True, gc=False, kw_only=True):
    """core/v1 Node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ServicePort; a `targetPort` that is text names a container port."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    targetPort: int | str = 0
    nodePort: int = 0
    appProtocol: str = ""


class ClientIPConfig(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ClientIPConfig."""

    timeoutSeconds: int | None = None


class SessionAffinityConfig(msgspec.Struct, frozen=True, gc=False):
    """core/v1 SessionAffinityConfig."""

    clientIP: ClientIPConfig | None = None


class ServiceSpec(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ServiceSpec; `clusterIPs` may hold "None" for a headless Service."""

    type: str = "ClusterIP"
    clusterIP: str = ""
    clusterIPs: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: Labels = {}
    externalName: str = ""
    externalIPs: tuple[str, ...] = ()
    loadBalancerSourceRanges: tuple[str, ...] = ()
    sessionAffinity: str = "None"
    sessionAffinityConfig: SessionAffinityConfig | None = None
    internalTrafficPolicy: str = "Cluster"
    externalTrafficPolicy: str = ""
    publishNotReadyAddresses: bool = False
    ipFamilies: tuple[str, ...] = ()
    trafficDistribution: str = ""


class LoadBalancerIngress(msgspec.Struct, frozen=True, gc=False):
    """core/v1 LoadBalancerIngress; `ipMode` is VIP (or empty) or Proxy."""

    ip: str = ""
    hostname: str = ""
    ipMode: str = ""


class LoadBalancerStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 LoadBalancerStatus."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 ServiceStatus."""

    loadBalancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(KubeObject, frozen=True, gc=False, kw_only=True):
    """core/v1 Service."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class EndpointPort(msgspec.Struct, frozen=True, gc=False):
    """discovery/v1 EndpointPort; a `port` that is None stands for all ports."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    appProtocol: str | None = None


class EndpointConditions(msgspec.Struct, frozen=True, gc=False):
    """discovery/v1 EndpointConditions; None is "not said"."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class EndpointOfSlice(msgspec.Struct, frozen=True, gc=False):
    """discovery/v1 Endpoint; of `addresses` only the first counts."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    nodeName: str | None = None
    zone: str | None = None
    hostname: str | None = None


class EndpointSlice(KubeObject, frozen=True, gc=False, kw_only=True):
    """discovery/v1 EndpointSlice; `addressType` is IPv4, IPv6 or FQDN. Lists that are empty come as null."""

    addressType: str = ""
    endpoints: tuple[EndpointOfSlice, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class ObjectReference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """core/v1 ObjectReference: what an Event is about, or what stands behind an endpoint."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    apiVersion: str = ""
    resourceVersion: str = ""
    fieldPath: str = ""


class Bare(KubeObject, frozen=True, gc=False, kw_only=True):
    """Any object, when only its metadata matters."""


class ConfigMap(KubeObject, frozen=True, gc=False, kw_only=True):
    """core/v1 ConfigMap, without what is not text."""

    data: Labels = {}


class Secret(KubeObject, frozen=True, gc=False, kw_only=True):
    """core/v1 Secret; never to be logged."""

    type: str = ""
    data: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"Secret({self.metadata.namespace}/{self.metadata.name}: {', '.join(self.data)})"


class LeaseSpec(msgspec.Struct, frozen=True, gc=False):
    """coordination/v1 LeaseSpec; a lease that was given back has no holder."""

    holderIdentity: str = ""
    leaseDurationSeconds: int = 0
    renewTime: str = ""


class Lease(KubeObject, frozen=True, gc=False, kw_only=True):
    """coordination/v1 Lease."""

    spec: LeaseSpec = LeaseSpec()
