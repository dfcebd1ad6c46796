"""API objects of this node -> what the compiler knows them by.

Pods are read exactly as the mesh importer reads them (`isthmus.mesh.source.objects`), so that a pod's own policies and
its peers' policies agree on what it is. Unlike an identity, a subject keeps all its labels: policies of its own cluster
may select by those that make every pod unique. Invariant: labels that are ours to give (the cluster, its properties,
Cilium's own) never come from a pod or a namespace.
"""

from collections.abc import Mapping
from ipaddress import ip_network

from isthmus.kube.schema import Bare, Namespace, Node, Pod
from isthmus.mesh.source.objects import namespace_labels, node_facts, pod_facts
from isthmus.model import endpoint
from isthmus.model.labels import CILIUM_PREFIX, names_clusters, stamp
from isthmus.policy.rules import Network
from isthmus.policy.world import LocalPod


def key_of(pod: Pod) -> str:
    """Returns `namespace/name`."""
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def subject(pod: Pod, *, cluster: str) -> LocalPod | None:
    """Returns the pod as policies can select it; None for hostNetwork pods (they are the node) and finished ones.

    What its namespace and its cluster say is not in it yet.
    """
    facts, _ = pod_facts(pod)
    if facts is None:
        return None
    return LocalPod(
        facts.namespace,
        facts.name,
        facts.uid,
        stamp(own_labels(facts.labels), cluster=cluster),
        facts.ips,
        facts.named_ports,
        (not facts.terminating, facts.running, facts.created),
        service_account=facts.service_account,
    )


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels that a pod or a namespace can give itself."""
    return {
        key: value for key, value in labels.items() if not names_clusters(key) and not key.startswith(CILIUM_PREFIX)
    }


def labels_of(namespace: Bare, *, cluster: str) -> dict[str, str]:
    """Returns the labels of a namespace that count; its name is not one of them."""
    found, _ = namespace_labels(Namespace(metadata=namespace.metadata), cluster=cluster)
    return own_labels(found)


def own_node(node: Node, *, cluster: str) -> tuple[endpoint.Node, tuple[Network, ...]]:
    """Returns the node that the agent runs on, and the pod networks it hands out addresses from."""
    record, _ = node_facts(node, cluster=cluster)
    return record, tuple(ip_network(text) for text in record.pod_cidrs)
