"""Mesh facts for tests: two clusters with pods that look alike."""

from collections.abc import Sequence

from isthmus.model.endpoint import Cluster, Endpoint, Node
from isthmus.model.identity import Identity
from isthmus.model.labels import CLUSTER_KEYS, NAMESPACE_NAME
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSeen,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    ExportGone,
    ExportTold,
    IdentityGone,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
    ServiceGone,
    ServiceTold,
    SliceGone,
    SliceTold,
)
from isthmus.model.sharing import (
    ServicePort,
    SharedEndpoint,
    SharedExport,
    SharedPort,
    SharedService,
    SharedSlice,
)

C1 = Cluster("c1", 1)
C2 = Cluster("c2", 2)


def identity(cluster: Cluster, number: int = 1, **labels: str) -> Identity:
    return Identity(cluster.id << 16 | number, cluster.name, "demo", labels or {"app": "web"}, {"team": "blue"})


def endpoint(cluster: Cluster, last: int, number: int = 1) -> Endpoint:
    return Endpoint(
        cluster.name, f"10.{cluster.id}.0.{last}", cluster.id << 16 | number, "demo", f"pod-{last}", uid=f"uid-{last}"
    )


def node(cluster: Cluster, last: int = 1) -> Node:
    return Node(cluster.name, f"node-{last}", (f"192.0.2.{last}",), (f"10.{cluster.id}.0.0/24",))


def service(cluster: Cluster, name: str = "web", **more: object) -> SharedService:
    ports = (ServicePort("http", 6, 80),)
    return SharedService(cluster.name, "demo", name, cluster_ips=("172.20.0.10",), ports=ports, **more)


def shared_slice(cluster: Cluster, *last: int, name: str = "web-1", of: str = "web", **more: object) -> SharedSlice:
    """A slice with the pods of these numbers."""
    endpoints = tuple(SharedEndpoint(f"10.{cluster.id}.0.{n}", node=f"node-{n}", hostname=f"pod-{n}") for n in last)
    return SharedSlice(cluster.name, "demo", name, of, 4, endpoints, (SharedPort("http", 6, 8080),), **more)


def export(cluster: Cluster, name: str = "web", **more: object) -> SharedExport:
    ports = (ServicePort("http", 6, 80),)
    return SharedExport(cluster.name, "demo", name, created="2026-01-02T03:04:05Z", ports=ports, **more)


def world(cluster: Cluster, *, pods: int = 2) -> list[MeshEvent]:
    """A whole cluster, as a source tells it."""
    return [
        ClusterJoined(cluster),
        NodeTold(node(cluster)),
        IdentityTold(identity(cluster)),
        *(EndpointTold(endpoint(cluster, last)) for last in range(1, pods + 1)),
        ClusterSynced(cluster.name),
    ]


class Consumer:
    """What a consumer knows after the events it was told; refuses events that break a promise of `model.mesh`."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.properties: dict[str, dict[str, str]] = {}
        """Of the clusters that have any."""
        self.synced: set[str] = set()
        self.nodes: dict[tuple[str, str], Node] = {}
        self.identities: dict[tuple[str, int], Identity] = {}
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        self.services: dict[tuple[str, str, str], SharedService] = {}
        self.slices: dict[tuple[str, str, str], SharedSlice] = {}
        self.exports: dict[tuple[str, str, str], SharedExport] = {}
        self.stale: dict[str, float] = {}

    def take(self, events: Sequence[MeshEvent]) -> None:
        for event in events:
            self._take(event)

    def _take(self, event: MeshEvent) -> None:
        match event:
            case ClusterJoined(cluster):
                self.ids[cluster.name] = cluster.id
                self.properties.pop(cluster.name, None)
                if cluster.properties:
                    self.properties[cluster.name] = cluster.properties
            case ClusterLeft(name):
                del self.ids[name]
                self.properties.pop(name, None)
                self.synced.discard(name)
                self.stale.pop(name, None)
                tables = (self.nodes, self.identities, self.endpoints, self.services, self.slices, self.exports)
                for table in tables:
                    for key in [key for key in table if key[0] == name]:
                        del table[key]
            case ClusterSynced(name):
                assert name in self.ids
                self.synced.add(name)
            case IdentityTold(identity):
                self.identities[identity.cluster, identity.number] = identity
            case IdentityGone(cluster, number):
                del self.identities[cluster, number]
                assert not [e for e in self.endpoints.values() if (e.cluster, e.identity) == (cluster, number)]
            case EndpointTold(endpoint):
                assert (endpoint.cluster, endpoint.identity) in self.identities
                self.endpoints[endpoint.cluster, endpoint.ip] = endpoint
            case EndpointGone(cluster, ip):
                del self.endpoints[cluster, ip]
            case NodeTold(node):
                self.nodes[node.cluster, node.name] = node
            case NodeGone(cluster, name):
                del self.nodes[cluster, name]
            case ServiceTold(service):
                self.services[service.cluster, *service.key] = service
            case ServiceGone(cluster, key):
                del self.services[cluster, *key]
            case SliceTold(slice_):
                self.slices[slice_.cluster, *slice_.key] = slice_
            case SliceGone(cluster, key):
                del self.slices[cluster, *key]
            case ExportTold(export):
                self.exports[export.cluster, *export.key] = export
            case ExportGone(cluster, key):
                del self.exports[cluster, *key]
            case ClusterSeen(name, None):
                del self.stale[name]
            case ClusterSeen(name, since):
                self.stale[name] = since

    @property
    def addresses(self) -> set[str]:
        return {ip for _, ip in self.endpoints}

    @property
    def backends(self) -> set[str]:
        return {endpoint.address for slice_ in self.slices.values() for endpoint in slice_.endpoints}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Consumer) and self.__dict__ == other.__dict__

    __hash__ = None  # a consumer changes


class Believer(Consumer):
    """A consumer of what comes from API servers: holds the importer to more than a store can promise.

    What is under test may be a part that does not say which clusters there are.
    """

    def _take(self, event: MeshEvent) -> None:
        match event:
            case ClusterLeft(name) | ClusterSynced(name):
                self.ids.setdefault(name, 0)
            case IdentityTold(identity):
                assert not {*CLUSTER_KEYS, NAMESPACE_NAME} & {*identity.labels, *identity.namespace_labels}
                before = self.identities.get((identity.cluster, identity.number), identity)
                assert before == identity, "a number in use never changes its meaning"
        super()._take(event)

    def meaning(self) -> dict[tuple[str, str], tuple[object, ...]]:
        """Returns who holds each address, without the numbers of identities."""
        found = {}
        for key, endpoint in self.endpoints.items():
            identity = self.identities[endpoint.cluster, endpoint.identity]
            found[key] = (
                endpoint.namespace,
                endpoint.pod,
                endpoint.uid,
                endpoint.node,
                endpoint.named_ports,
                tuple(sorted(identity.labels.items())),
                tuple(sorted(identity.namespace_labels.items())),
                identity.service_account,
            )
        return found
