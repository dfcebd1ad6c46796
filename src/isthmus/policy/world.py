"""The world as one node sees it: what a verdict depends on, and nothing else.

Invariant: `endpoints` holds at most one record an address (overlaps are refused before they get here), and every
endpoint's identity is in `identities` or the endpoint counts as `world`. Subjects are the pods of this node, with all
their labels; everyone else is known only by identity. The node itself has identity HOST under every address it has.
"""

import msgspec

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.identity import HOST, THE_API_SERVER, THE_WORLD, Identity
from isthmus.model.labels import CILIUM_CLUSTER, CLUSTERSET_CLUSTER, strip_claims
from isthmus.policy.rules import Direction, Network, ObjectRef, Policy, Tier


class LocalPod(msgspec.Struct, frozen=True):
    """A pod of this node that policies can have as their subject: not hostNetwork, not completed.

    `labels` are all that it has, with the cluster stamped; `standing` (alive, running, creation time) decides between
    pods that claim one address.
    """

    namespace: str
    name: str
    uid: str
    labels: dict[str, str]
    ips: tuple[str, ...] = ()
    named_ports: tuple[NamedPort, ...] = ()
    standing: tuple[bool, bool, str] = (True, True, "")
    namespace_labels: dict[str, str] = {}
    service_account: str = ""
    properties: dict[str, str] = {}

    @property
    def key(self) -> str:
        """Returns `namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def claim(self) -> tuple[tuple[bool, bool, str], str, str, str]:
        """Orders the claims on one address, as the mesh importer does: the greatest has it."""
        return self.standing, self.uid, self.namespace, self.name

    @property
    def subject(self) -> Identity:
        """Returns the pod as a policy's subject selector sees it: unlike an identity of the mesh, with every label."""
        cluster = self.labels.get(CLUSTERSET_CLUSTER, self.labels.get(CILIUM_CLUSTER, ""))
        return Identity(
            0,
            cluster,
            self.namespace,
            strip_claims(self.labels),
            strip_claims(self.namespace_labels),
            self.service_account,
            self.properties,
        )


class World(msgspec.Struct):
    """Everything a node's verdicts follow from. Filled by the agent, read by evaluator and compiler.

    `nodes` gives the identity of other nodes' addresses, and of the API server's; `names` the names that a DNS proxy
    saw lead to an address outside the ClusterSet. `identities` may have HOST, with the labels of this node.
    """

    cluster: str
    policies: dict[ObjectRef, Policy] = {}
    pods: dict[str, LocalPod] = {}
    identities: dict[int, Identity] = {}
    endpoints: dict[str, Endpoint] = {}
    node_addresses: frozenset[str] = frozenset()
    pod_cidrs: tuple[Network, ...] = ()
    nodes: dict[str, int] = {}
    names: dict[str, frozenset[str]] = {}

    def pod_at(self, ip: str) -> LocalPod | None:
        """Returns the pod of this node that holds `ip`; linear in the node's pods, for the evaluator only."""
        return next((pod for pod in self.pods.values() if ip in pod.ips), None)

    @property
    def host(self) -> Identity:
        """Returns what this node is to policy."""
        return self.identities.get(HOST) or Identity(HOST, self.cluster, "", {}, {}, reserved=("host",))

    def identity_at(self, ip: str) -> Identity:
        """Returns who holds `ip`; the node's own addresses go before pods, pods before other nodes."""
        if ip in self.node_addresses:
            return self.host
        endpoint = self.endpoints.get(ip)
        number = endpoint.identity if endpoint is not None else self.nodes.get(ip, THE_WORLD.number)
        return self.identity(number)

    def identity(self, number: int) -> Identity:
        """Returns the identity of that number; `world` if there is none."""
        return self.identities.get(number) or (THE_API_SERVER if number == THE_API_SERVER.number else THE_WORLD)

    def concerning(self, pod: LocalPod, direction: Direction, tier: Tier) -> list[Policy]:
        """Returns the policies of a tier that have `pod` as a subject and speak of `direction`, in their order."""
        subject = pod.subject
        found = [
            policy
            for policy in self.policies.values()
            if policy.tier is tier and direction in policy.directions and policy.selects(subject)
        ]
        return sorted(found, key=lambda policy: policy.rank)
