"""The world as one node sees it: what a verdict depends on, and nothing else.

Invariant: `endpoints` holds at most one record an address (overlaps are refused before they get here), and every
endpoint's identity is in `identities` or the endpoint counts as `world`. Subjects are the pods of this node, with all
their labels; everyone else is known only by identity.
"""

import msgspec

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.identity import Identity
from isthmus.policy.rules import Direction, Network, ObjectRef, Policy


class LocalPod(msgspec.Struct, frozen=True):
    """A pod of this node that policies can have as their subject: not hostNetwork, not completed.

    `standing` (alive, running, creation time) decides between pods that claim one address.
    """

    namespace: str
    name: str
    uid: str
    labels: dict[str, str]
    ips: tuple[str, ...] = ()
    named_ports: tuple[NamedPort, ...] = ()
    standing: tuple[bool, bool, str] = (True, True, "")

    @property
    def key(self) -> str:
        """Returns `namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def claim(self) -> tuple[tuple[bool, bool, str], str, str, str]:
        """Orders the claims on one address, as the mesh importer does: the greatest has it."""
        return self.standing, self.uid, self.namespace, self.name


class World(msgspec.Struct):
    """Everything a node's verdicts follow from. Filled by the agent, read by evaluator and compiler."""

    cluster: str
    policies: dict[ObjectRef, Policy] = {}
    pods: dict[str, LocalPod] = {}
    identities: dict[int, Identity] = {}
    endpoints: dict[str, Endpoint] = {}
    node_addresses: frozenset[str] = frozenset()
    pod_cidrs: tuple[Network, ...] = ()

    def pod_at(self, ip: str) -> LocalPod | None:
        """Returns the pod of this node that holds `ip`; linear in the node's pods, for the evaluator only."""
        return next((pod for pod in self.pods.values() if ip in pod.ips), None)

    def identity_at(self, ip: str) -> Identity | None:
        """Returns who holds `ip`, or None for `world`."""
        endpoint = self.endpoints.get(ip)
        return self.identities.get(endpoint.identity) if endpoint else None

    def isolating(self, pod: LocalPod, direction: Direction) -> list[Policy]:
        """Returns the policies that isolate `pod` in `direction`, by name."""
        return [
            self.policies[ref]
            for ref in sorted(self.policies)
            if direction in self.policies[ref].isolates and self.policies[ref].selects(pod.namespace, pod.labels)
        ]
