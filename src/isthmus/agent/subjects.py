"""API objects of this node -> what the compiler knows them by.

Pods are read exactly as the mesh importer reads them (`isthmus.mesh.source.objects`), so that a pod's own policies and
its peers' policies agree on what it is. Unlike an identity, a subject keeps all its labels: policies of its own cluster
may select by those that make every pod unique.
"""

from ipaddress import ip_network

from isthmus.kube.schema import Node, Pod
from isthmus.mesh.source.objects import node_facts, pod_facts
from isthmus.model.labels import stamp
from isthmus.policy.rules import Network
from isthmus.policy.world import LocalPod


def key_of(pod: Pod) -> str:
    """Returns `namespace/name`."""
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def subject(pod: Pod, *, cluster: str) -> LocalPod | None:
    """Returns the pod as policies can select it; None for hostNetwork pods (they are the node) and finished ones."""
    facts, _ = pod_facts(pod)
    if facts is None:
        return None
    return LocalPod(
        facts.namespace,
        facts.name,
        facts.uid,
        stamp(facts.labels, cluster=cluster),
        facts.ips,
        facts.named_ports,
        (not facts.terminating, facts.running, facts.created),
    )


def own_node(node: Node, *, cluster: str) -> tuple[tuple[str, ...], tuple[Network, ...]]:
    """Returns the addresses of the node that the agent runs on, and the pod networks it hands out addresses from."""
    record, _ = node_facts(node, cluster=cluster)
    return record.addresses, tuple(ip_network(text) for text in record.pod_cidrs)
