"""Mesh facts for tests: two clusters with pods that look alike."""

from isthmus.model.endpoint import Cluster, Endpoint, Node
from isthmus.model.identity import Identity
from isthmus.model.mesh import ClusterJoined, ClusterSynced, EndpointTold, IdentityTold, MeshEvent, NodeTold

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
