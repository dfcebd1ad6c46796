"""Mesh facts for tests: two clusters with pods that look alike."""

from collections.abc import Sequence

from isthmus.model.endpoint import Cluster, Endpoint, Node
from isthmus.model.identity import Identity
from isthmus.model.labels import CLUSTER_KEYS, NAMESPACE_NAME
from isthmus.model.mesh import (
    ClusterJoined,
    ClusterLeft,
    ClusterSynced,
    EndpointGone,
    EndpointTold,
    IdentityGone,
    IdentityTold,
    MeshEvent,
    NodeGone,
    NodeTold,
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
        self.synced: set[str] = set()
        self.nodes: dict[tuple[str, str], Node] = {}
        self.identities: dict[tuple[str, int], Identity] = {}
        self.endpoints: dict[tuple[str, str], Endpoint] = {}

    def take(self, events: Sequence[MeshEvent]) -> None:
        for event in events:
            self._take(event)

    def _take(self, event: MeshEvent) -> None:
        match event:
            case ClusterJoined(cluster):
                self.ids[cluster.name] = cluster.id
            case ClusterLeft(name):
                del self.ids[name]
                self.synced.discard(name)
                for table in (self.nodes, self.identities, self.endpoints):
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

    @property
    def addresses(self) -> set[str]:
        return {ip for _, ip in self.endpoints}

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
