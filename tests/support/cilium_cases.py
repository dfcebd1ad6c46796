"""Reads the cases of tests/vectors/cilium-policy.json into worlds, one a cluster, and flows with what is expected.

All pods of a cluster live on one node, whose address is that of the case's `host`; each pod has an address of either
family. The option policyDefaultLocalCluster is our scope `local`. Cases written in the tests have the same form.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.flow import Flow, Protocol
from isthmus.model.identity import FIRST_NODE, Identity
from isthmus.model.labels import strip_claims
from isthmus.policy.context import CidrGroup, Context, ServiceFacts
from isthmus.policy.evaluate import Half, Reason, evaluate
from isthmus.policy.parsing import read
from isthmus.policy.rules import Direction, ObjectRef, Policy, Scope
from isthmus.policy.world import LocalPod, World

CONTENT = json.loads((Path(__file__).parent.parent / "vectors" / "cilium-policy.json").read_text())
VERSIONS = {"NetworkPolicy": "networking.k8s.io/v1"}
WHY = {"default-deny": Reason.DEFAULT_DENY, "explicit": Reason.DENIED}

OURS = {
    # What Cilium does here opens more than was written (reference: cilium-policy §2.5); we fail closed instead.
    ("q-tosvc-ports", "a -> b:80/TCP"): False,  # a Service that does not exist, with ports: Cilium means anyone
    ("q-tosvc-ports", "a -> w:80/TCP"): False,
    ("q-fqdn-empty", "a -> b:80/TCP"): False,  # no name, with ports: Cilium means anyone
    ("q-fqdn-empty", "a -> w:80/TCP"): False,
    ("q-icmp0", "a -> b:8/ICMP"): False,  # EchoReply alone: Cilium means every type
    ("q-icmp0", "a -> b:13/ICMP"): False,
}
"""Flows of quirkVectors whose verdict we do not copy, by case and flow."""


class Expected(NamedTuple):
    """A flow, whether it is allowed, and the side and reason of the first refusal where the case states them."""

    name: str
    flow: Flow
    allowed: bool
    why: tuple[Direction, Reason] | None


class Case(NamedTuple):
    data: dict[str, Any]

    def __str__(self) -> str:
        return str(self.data["id"])

    @property
    def scope(self) -> Scope:
        return Scope.LOCAL if self.data["options"]["policyDefaultLocalCluster"] else Scope.CLUSTERSET

    def flows(self, family: int = 4) -> Iterator[Expected]:
        """Yields the flows whose ends both have an address of `family`; for IPv6, those between pods without ICMP."""
        for flow in self.data["flows"]:
            ends = [self._address(flow[end], family) for end in ("from", "to")]
            protocol = Protocol[flow["proto"].upper()]
            if None in ends or (family == 6 and protocol is Protocol.ICMP):
                continue
            side, _, reason = flow.get("why", "").partition("/")
            yield Expected(
                f"{flow['from']} -> {flow['to']}:{flow['port']}/{flow['proto']}",
                Flow(str(ends[0]), str(ends[1]), protocol, flow["port"]),
                flow["expect"] == "allow",
                (Direction(side), WHY[reason]) if reason else None,
            )

    def _address(self, name: str, family: int) -> str | None:
        for index, pod in enumerate(self.data["pods"]):
            if pod["id"] == name:
                return _ips(index)[0 if family == 4 else 1]
        external = next(one for one in self.data.get("externals", []) if one["id"] == name)
        return str(external["ip"]) if family == 4 else None

    def policies(self, cluster: str, *, dns_proxy: bool = True) -> dict[ObjectRef, Policy]:
        """Returns the policies of a cluster, read as its agent would."""
        context = Context(
            cluster,
            self.scope,
            {
                one["name"]: CidrGroup(one["name"], one.get("labels", {}), tuple(one["cidrs"]))
                for one in self._of("cidrGroups")
            },
            {(one["ns"], one["name"]): _service(one) for one in self._of("services")},
            dns_proxy,
        )
        found: dict[ObjectRef, Policy] = {}
        for number, data in enumerate(self.data["policies"]):
            if data["cluster"] == cluster:
                parsed = read(as_object(data, number), context)
                assert parsed.valid or self.data.get("invalid"), parsed.problems
                found.update((policy.ref, policy) for policy in parsed.policies)
        return found

    def _of(self, name: str) -> list[dict[str, Any]]:
        return list(self.data.get(name, []))

    def worlds(self, *, dns_proxy: bool = True) -> dict[str, World]:
        """Returns the world of the node of every cluster, by cluster."""
        clusters = list(dict.fromkeys(one["cluster"] for one in [*self.data["pods"], *self.data["policies"]]))
        identities: dict[int, Identity] = {}
        endpoints: dict[str, Endpoint] = {}
        externals = self.data.get("externals", [])
        hosts = frozenset(one["ip"] for one in externals if one["kind"] == "host")
        nodes = {}
        for number, one in enumerate(one for one in externals if one["kind"] == "remote-node"):
            nodes[one["ip"]] = FIRST_NODE + number
            labels = one.get("labels", {})
            identities[FIRST_NODE + number] = Identity(
                FIRST_NODE + number, one.get("cluster", clusters[-1]), "", labels, {}, reserved=("remote-node",)
            )
        worlds = {
            cluster: World(
                cluster,
                policies=self.policies(cluster, dns_proxy=dns_proxy),
                identities=identities,
                endpoints=endpoints,
                node_addresses=hosts,
                nodes=nodes,
                names={one["ip"]: frozenset(one["names"]) for one in externals if "names" in one},
            )
            for cluster in clusters
        }
        for index, pod in enumerate(self.data["pods"]):
            number = ((clusters.index(pod["cluster"]) + 1) << 16) + 256 + index
            local = _pod(pod, index)
            identity = local.subject
            identities[number] = Identity(
                number,
                pod["cluster"],
                pod["ns"],
                strip_claims(pod["labels"]),
                identity.namespace_labels,
                identity.service_account,
            )
            for ip in local.ips:
                endpoints[ip] = Endpoint(
                    pod["cluster"], ip, number, pod["ns"], pod["id"], named_ports=local.named_ports
                )
            worlds[pod["cluster"]].pods[local.key] = local
        return worlds


def _ips(index: int) -> tuple[str, str]:
    return f"10.128.0.{index + 1}", f"fd00::{index + 1:x}"


def _pod(pod: Mapping[str, Any], index: int) -> LocalPod:
    named = tuple(NamedPort(one["name"], one["port"], one["protocol"]) for one in pod.get("ports", []))
    labels = strip_claims(pod["labels"]) | {"io.cilium.k8s.policy.cluster": pod["cluster"]}
    return LocalPod(
        pod["ns"],
        pod["id"],
        "",
        labels,
        _ips(index),
        named,
        namespace_labels=pod.get("nsLabels", {}),
        service_account=pod.get("sa", ""),
    )


def _service(data: Mapping[str, Any]) -> ServiceFacts:
    return ServiceFacts(
        data["ns"], data["name"], data.get("labels", {}), data.get("selector"), tuple(data.get("addresses", ()))
    )


def as_object(data: Mapping[str, Any], number: int = 0) -> dict[str, Any]:
    """Returns the API object of a case's policy; the cases give only some of them names."""
    metadata = {"name": data.get("name", f"policy-{number}")}
    if "ns" in data:
        metadata["namespace"] = data["ns"]
    rest = {key: data[key] for key in ("spec", "specs") if key in data}
    version = VERSIONS.get(data["kind"], "cilium.io/v2")
    return {"apiVersion": version, "kind": data["kind"], "metadata": metadata, **rest}


def halves(worlds: Mapping[str, World], flow: Flow) -> list[Half]:
    """Returns every half of the flow that some node judges, egress first."""
    found = [half for world in worlds.values() for half in evaluate(world, flow).halves]
    return sorted(found, key=lambda half: half.direction.value)


def cases(*sections: str) -> list[Case]:
    """Returns the cases of the given sections of the file."""
    return [Case(data) for section in sections for data in CONTENT[section]]
