"""What a consumer of mesh events believes, with the promises of `isthmus.model.mesh` checked at every step."""

from collections.abc import Iterable

from isthmus.model.endpoint import Endpoint, Node
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


class Believer:
    """Takes events as they come."""

    def __init__(self) -> None:
        self.identities: dict[tuple[str, int], Identity] = {}
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        self.nodes: dict[tuple[str, str], Node] = {}
        self.joined: set[str] = set()
        self.synced: list[str] = []

    def take(self, events: Iterable[MeshEvent]) -> None:
        for event in events:
            match event:
                case ClusterJoined(cluster):
                    self.joined.add(cluster.name)
                case ClusterLeft(name):
                    for table in (self.identities, self.endpoints, self.nodes):
                        for key in [key for key in table if key[0] == name]:
                            del table[key]  # type: ignore[attr-defined]
                case ClusterSynced(name):
                    self.synced.append(name)
                case IdentityTold(identity):
                    assert not {*CLUSTER_KEYS, NAMESPACE_NAME} & {*identity.labels, *identity.namespace_labels}
                    before = self.identities.get((identity.cluster, identity.number), identity)
                    assert before == identity, "a number in use never changes its meaning"
                    self.identities[identity.cluster, identity.number] = identity
                case IdentityGone(cluster_name, number):
                    users = [e for e in self.endpoints.values() if (e.cluster, e.identity) == (cluster_name, number)]
                    assert not users, "an identity goes after its last endpoint"
                    del self.identities[cluster_name, number]
                case EndpointTold(endpoint):
                    assert (endpoint.cluster, endpoint.identity) in self.identities, "an identity comes first"
                    self.endpoints[endpoint.cluster, endpoint.ip] = endpoint
                case EndpointGone(cluster_name, ip):
                    del self.endpoints[cluster_name, ip]
                case NodeTold(node):
                    self.nodes[node.cluster, node.name] = node
                case NodeGone(cluster_name, name):
                    del self.nodes[cluster_name, name]

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
