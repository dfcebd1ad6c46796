"""API objects of one cluster -> what explanations know of it.

The same facts as a tracker and an agent take from the same objects (`mesh.source.objects`): who owns an address, which
labels count. Invariants: nothing here is believed of another cluster; a pod that is finished, or has no address, is
left out; workloads without pods get imaginary ones only where asked for, with addresses that nobody has.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address

import msgspec

from isthmus.kube.errors import clip
from isthmus.kube.meshobjects import MeshNode
from isthmus.kube.schema import (
    EndpointSlice,
    KubeObject,
    Namespace,
    Node,
    ObjectMeta,
    Pod,
    PodSpec,
    PodStatus,
    Service,
)
from isthmus.kube.watch import Snapshot
from isthmus.mesh.enforcement import Standing
from isthmus.mesh.mcs.api import SERVICE_NAME as IMPORTED_NAME
from isthmus.mesh.mcs.api import derived_name
from isthmus.mesh.membership import CONFIG, NAMESPACE, POLICY_SCOPE
from isthmus.mesh.source.identities import DEFAULT_EXCLUDED
from isthmus.mesh.source.objects import (
    FINISHED,
    canonical_ip,
    clean_labels,
    named_ports,
    namespace_labels,
    node_facts,
    pod_facts,
)
from isthmus.mesh.source.properties import ClusterProperty, Properties
from isthmus.mesh.source.slices import SERVICE_NAME, is_mirrored
from isthmus.model.endpoint import Cluster
from isthmus.model.flow import PORT_PROTOCOLS
from isthmus.model.labels import CILIUM_PREFIX, names_clusters
from isthmus.policy.cilium.groups import cidr_group
from isthmus.policy.explaining.facts import ClusterSeen, NodeSeen, Object, PodSeen, ServicePortSeen, ServiceSeen, place
from isthmus.policy.metadata import generation
from isthmus.policy.rules import Scope
from isthmus.services.settings import namespace_is_global, settings

INCIDENTAL = DEFAULT_EXCLUDED
_IMAGINARY = int(IPv4Address("198.18.0.0"))
"""RFC 2544: addresses for benchmarks, 131,072 of them, which no cluster has."""

HASH = "pod-template-hash"


class OwnerReference(msgspec.Struct, frozen=True, gc=False):
    """metav1.OwnerReference."""

    kind: str = ""
    name: str = ""
    controller: bool | None = None


class OwnedMeta(ObjectMeta, frozen=True, gc=False):
    """ObjectMeta with what made the object."""

    ownerReferences: tuple[OwnerReference, ...] = ()


class OwnedPod(Pod, frozen=True, gc=False, kw_only=True):
    """A pod with what made it."""

    metadata: OwnedMeta


class Selector(msgspec.Struct, frozen=True, gc=False):
    """The part of a LabelSelector that workloads use."""

    matchLabels: dict[str, str] = {}


class TemplateMeta(msgspec.Struct, frozen=True, gc=False):
    """ObjectMeta of a PodTemplateSpec, which has no name."""

    labels: dict[str, str] = {}


class Template(msgspec.Struct, frozen=True, gc=False):
    """PodTemplateSpec."""

    metadata: TemplateMeta = TemplateMeta()
    spec: PodSpec = PodSpec()


class WorkloadSpec(msgspec.Struct, frozen=True, gc=False):
    """What Deployments, StatefulSets, DaemonSets, ReplicaSets and Jobs have in common."""

    selector: Selector | None = None
    template: Template = Template()


class Workload(KubeObject, frozen=True, gc=False, kw_only=True):
    """Something that makes pods."""

    metadata: OwnedMeta
    spec: WorkloadSpec = WorkloadSpec()


class Parts(msgspec.Struct, kw_only=True):
    """The objects of a cluster; `workloads` only where pods are to be imagined.

    `exports` are the namespaces and names of ServiceExports; where there are Services derived from them, those say it.
    """

    namespaces: list[Namespace] = []
    nodes: list[Node] = []
    pods: list[OwnedPod] = []
    services: list[Service] = []
    slices: list[EndpointSlice] = []
    properties: list[ClusterProperty] = []
    workloads: list[Workload] = []
    policies: list[Object] = []
    cidr_groups: list[Object] = []
    exports: list[tuple[str, str]] = []
    mesh_nodes: list[MeshNode] = []


def draw(parts: Parts, *, cluster: str, scope: Scope, origin: str, imagine_from: int | None = None) -> ClusterSeen:
    """Returns what the objects say of `cluster`.

    With `imagine_from` workloads without pods get imaginary ones, and pods that never ran get addresses: those from
    that number on.
    """
    namespaces = {ns.metadata.name: own_labels(namespace_labels(ns, cluster=cluster)[0]) for ns in parts.namespaces}
    pods = [seen for pod in parts.pods if (seen := pod_seen(pod)) is not None]
    if imagine_from is not None:
        pods = imagined(parts.workloads, pods, first=imagine_from)
    for pod in pods:
        namespaces.setdefault(pod.namespace, {})
    slices: dict[tuple[str, str], list[EndpointSlice]] = {}
    for found in parts.slices:
        if not is_mirrored(found, cluster=cluster):
            key = found.metadata.namespace, found.metadata.labels.get(SERVICE_NAME, "")
            slices.setdefault(key, []).append(found)
    global_in = {ns.metadata.name: namespace_is_global(ns.metadata.annotations)[0] for ns in parts.namespaces}
    taken = Properties(Cluster(cluster, 1))
    taken.take(Snapshot(tuple(parts.properties)))
    return ClusterSeen(
        name=cluster,
        scope=scope,
        properties=taken.cluster.properties,
        namespaces=namespaces,
        pods=tuple(pods),
        nodes=tuple(node_seen(node, cluster=cluster) for node in parts.nodes),
        services=tuple(
            service_seen(
                service,
                slices=slices.get((service.metadata.namespace, service.metadata.name), ()),
                pods=pods,
                in_global=global_in.get(service.metadata.namespace, True),
            )
            for service in parts.services
        ),
        policies=tuple(parts.policies),
        cidr_groups=tuple(group for obj in parts.cidr_groups if (group := cidr_group(obj)) is not None),
        api_servers=tuple(_backends(slices.get(("default", "kubernetes"), ()), unready=True)),
        exports=frozenset(parts.exports),
        kept=_kept(parts),
        origin=origin,
    )


def _kept(parts: Parts) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """Returns which nodes say of a policy, in the version that was read, that an earlier one is in force."""
    latest = {place(obj): generation(obj) for obj in parts.policies}
    found: dict[tuple[str, str, str], list[str]] = {}
    for node in sorted(parts.mesh_nodes, key=lambda node: node.metadata.name):
        for told in node.status.policies.exceptions if node.status.policies is not None else ():
            where = told.kind, told.namespace, told.name
            if told.state == Standing.KEPT.value and latest.get(where) == told.generation:
                found.setdefault(where, []).append(node.metadata.name)
    return {where: tuple(nodes) for where, nodes in found.items()}


def default_scope(config: Mapping[str, str]) -> Scope:
    """Returns the scope of a cluster's policies as ConfigMap kube-system/isthmus-config says it, given its data.

    Raises ValueError, which names the object and the field.
    """
    text = config.get(POLICY_SCOPE, Scope.CLUSTERSET.value)
    try:
        return Scope(text)
    except ValueError:
        where = f"ConfigMap {NAMESPACE}/{CONFIG}: {POLICY_SCOPE}"
        raise ValueError(f"{where}: {clip(text)!r} is neither clusterset nor local") from None


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels that a pod or a namespace can give itself."""
    return {
        key: value for key, value in labels.items() if not names_clusters(key) and not key.startswith(CILIUM_PREFIX)
    }


def pod_seen(pod: OwnedPod) -> PodSeen | None:
    """Returns a pod; None for one that is finished."""
    facts, _ = pod_facts(pod)
    meta, spec = pod.metadata, pod.spec
    if facts is None:
        if pod.status.phase in FINISHED:
            return None
        told = [entry.ip for entry in pod.status.podIPs] or [pod.status.podIP or pod.status.hostIP]
        ips = [ip for text in told if (ip := canonical_ip(text)) is not None]
        return PodSeen(
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            labels=own_labels(clean_labels(meta.labels, [])),
            node=spec.nodeName,
            ips=tuple(ips),
            named_ports=named_ports(pod),
            ports=container_ports(pod),
            workload=workload_of(meta),
            host_network=True,
        )
    return PodSeen(
        namespace=facts.namespace,
        name=facts.name,
        uid=facts.uid,
        labels=own_labels(facts.labels),
        service_account=facts.service_account,
        node=facts.node,
        ips=facts.ips,
        named_ports=facts.named_ports,
        ports=container_ports(pod),
        workload=workload_of(meta),
        standing=(not facts.terminating, facts.running, facts.created),
    )


def container_ports(pod: Pod) -> tuple[tuple[int, int], ...]:
    """Returns (protocol, number) of all container ports."""
    return tuple(
        sorted(
            {
                (int(PORT_PROTOCOLS[port.protocol]), port.containerPort)
                for container in pod.spec.containers
                for port in container.ports
                if port.protocol in PORT_PROTOCOLS and 0 < port.containerPort <= 65535
            }
        )
    )


def workload_of(meta: OwnedMeta) -> str:
    """Returns what made a pod: of a ReplicaSet with a template hash in its name, the Deployment behind it."""
    owner = next((owner for owner in meta.ownerReferences if owner.controller), None)
    if owner is None or owner.kind == "Node":
        return ""
    stem, dash, tail = owner.name.rpartition("-")
    if owner.kind == "ReplicaSet" and dash and tail == meta.labels.get(HASH):
        return f"Deployment/{stem}"
    return f"{owner.kind}/{owner.name}"


def node_seen(node: Node, *, cluster: str) -> NodeSeen:
    """Returns a node."""
    record, _ = node_facts(node, cluster=cluster)
    return NodeSeen(
        name=record.name,
        addresses=record.addresses,
        labels=own_labels(record.labels),
        pod_cidrs=record.pod_cidrs,
    )


def service_seen(
    service: Service, *, slices: Sequence[EndpointSlice], pods: Sequence[PodSeen], in_global: bool
) -> ServiceSeen:
    """Returns a Service, given its slices; where there are none, its backends are the pods that it selects."""
    meta, spec = service.metadata, service.spec
    said = settings(meta.annotations, headless=spec.clusterIP == "None", namespace_global=in_global)
    told = _backends(slices)
    backends = list(told)
    if not backends and spec.selector:
        wanted = spec.selector.items()
        backends = [
            ip for pod in pods if pod.namespace == meta.namespace and wanted <= pod.labels.items() for ip in pod.ips
        ]
    return ServiceSeen(
        namespace=meta.namespace,
        name=meta.name,
        labels=dict(meta.labels),
        selector=dict(spec.selector) or None,
        ips=tuple(ip for ip in (*spec.clusterIPs, spec.clusterIP) if ip and ip != "None"),
        ports=tuple(
            ServicePortSeen(
                port=port.port, protocol=int(PORT_PROTOCOLS[port.protocol]), name=port.name, target=port.targetPort
            )
            for port in spec.ports
            if port.protocol in PORT_PROTOCOLS
        ),
        backends=tuple(backends),
        told=told,
        stands_for=_imported(meta),
        is_global=said.is_global,
        shared=said.shared,
        preference=said.preference,
    )


def _imported(meta: ObjectMeta) -> str:
    """Returns the name of the Service of the ClusterSet that a Service was derived for; "" for any other."""
    name = meta.labels.get(IMPORTED_NAME, "")
    return name if name and meta.name == derived_name((meta.namespace, name)) else ""


def _backends(slices: Iterable[EndpointSlice], *, unready: bool = False) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """Returns the addresses of ready endpoints, with `unready` of all (the API server's are always its), and ports."""
    seen: dict[str, tuple[tuple[str, int, int], ...]] = {}
    for found in slices:
        ports = tuple(
            (port.name or "", int(PORT_PROTOCOLS[port.protocol or "TCP"]), port.port)
            for port in found.ports or ()
            if port.port is not None and (port.protocol or "TCP") in PORT_PROTOCOLS and 0 < port.port <= 65535
        )
        for endpoint in found.endpoints or ():
            ip = canonical_ip(endpoint.addresses[0]) if endpoint.addresses else None
            if ip is not None and (unready or endpoint.conditions.ready is not False):
                # Mostly one slice has it, whose ports are kept once for all of its addresses.
                known = seen.get(ip)
                seen[ip] = tuple(dict.fromkeys((*known, *ports))) if known else ports
    return seen


# -- pods that do not exist ----------------------------------------------------------------------------------------


def imagined(workloads: Sequence[Workload], pods: Sequence[PodSeen], *, first: int = 0) -> list[PodSeen]:
    """Returns `pods`, with addresses for those that have none, and a pod for each workload that has none of them."""
    made: list[PodSeen] = []
    ran: list[PodSeen] = []
    for seen in pods:
        if not seen.ips and not seen.host_network:
            seen = msgspec.structs.replace(seen, ips=(imaginary_address(first),), imaginary=True)
            first += 1
        ran.append(seen)
    known = {(pod.namespace, pod.workload) for pod in pods}
    for workload in workloads:
        meta = workload.metadata
        name = f"{workload.kind}/{meta.name}"
        if any(owner.controller for owner in meta.ownerReferences) or (meta.namespace, name) in known:
            continue
        selector = workload.spec.selector
        wanted = (selector.matchLabels if selector is not None else {}).items()
        if wanted and any(pod.namespace == meta.namespace and wanted <= pod.labels.items() for pod in pods):
            continue
        pod = _imagine(workload, name, imaginary_address(first + len(made)))
        if pod is not None:
            made.append(pod)
    return [*ran, *made]


def _imagine(workload: Workload, name: str, ip: str) -> PodSeen | None:
    meta, template = workload.metadata, workload.spec.template
    pod_name = f"{meta.name}-0" if workload.kind == "StatefulSet" else meta.name
    labels = dict(template.metadata.labels)
    if workload.kind == "StatefulSet":
        labels |= {"statefulset.kubernetes.io/pod-name": pod_name, "apps.kubernetes.io/pod-index": "0"}
    pod = OwnedPod(
        metadata=OwnedMeta(name=pod_name, namespace=meta.namespace, labels=labels),
        spec=template.spec,
        status=PodStatus(phase="Running", podIP=ip),
    )
    seen = pod_seen(pod)
    if seen is None:
        return None
    account = seen.service_account or "default"
    return msgspec.structs.replace(
        seen,
        workload=name,
        imaginary=True,
        service_account=account,
        ips=() if seen.host_network else seen.ips,
    )


def imaginary_address(number: int) -> str:
    """Returns an address that nobody has."""
    return str(IPv4Address(_IMAGINARY + 1 + number % 131_000))
