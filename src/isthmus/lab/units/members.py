"""Everything of a cluster that speaks to its API server: controllers, nodes, tracker, agents, as command lines.

Invariants: nothing here knows which API server that is; addresses and file names come from the plan and the state
directory alone, so this is a pure function of both.
"""

from isthmus.lab.control import UnitSpec
from isthmus.lab.plan import (
    ClusterPlan,
    GlobalServices,
    LiveConnections,
    Mode,
    NodePlan,
    PolicyScope,
    ServiceProxy,
    service_address,
)
from isthmus.lab.statedir import ClusterDir, StateDir
from isthmus.lab.supervisor.health import AGENT_PORT
from isthmus.lab.units.credentials import CLUSTER_DOMAIN
from isthmus.lab.units.words import flags, installed, python
from isthmus.lab.units.words import isthmus as our_command

ETCD_PORT = 2379
TRACKER_METRICS_PORT = 9442


def other_units(state: StateDir, plan: ClusterPlan) -> tuple[UnitSpec, ...]:
    """Returns controllers, nodes and, as far as they are installed, tracker and agents."""
    place = state.cluster(plan.name)
    control = plan.control_plane.name
    units = [UnitSpec(name="controllers", argv=tuple(_controllers_words(place)), node=control)]
    units += [_node_unit(state, plan, node) for node in plan.nodes]
    if plan.mode is Mode.TRACKER and installed("tracker"):
        units.append(_tracker_unit(state, plan))
    if plan.mode is not Mode.NONE and installed("agent"):
        units += [_agent_unit(state, plan, node) for node in plan.nodes]
    return tuple(units)


def _controllers_words(place: ClusterDir) -> list[str]:
    return python("isthmus.lab.controllers") + flags(
        {"kubeconfig": place.kubeconfig("controllers"), "root-ca-file": place.pki / "ca.crt"}
    )


def _node_unit(state: StateDir, plan: ClusterPlan, node: NodePlan) -> UnitSpec:
    place = state.cluster(plan.name)
    words = python("isthmus.lab.node") + flags(
        {
            "node-name": node.name,
            "address": node.address,
            "pod-cidr": node.pod_cidr,
            "cluster-dns": service_address(plan, 10),
            "kubeconfig": place.kubeconfig(f"node-{node.name}"),
            "data-dir": place.node(node.name),
            "run-dir": place.run / "sandboxes" / node.name,
            "images-dir": state.images,
            "tls-cert": place.pki / f"kubelet-{node.name}.crt",
            "tls-key": place.pki / f"kubelet-{node.name}.key",
            "client-ca": place.pki / "ca.crt",
            "cluster-domain": CLUSTER_DOMAIN,
        }
    )
    if node.address6:
        words += flags({"address6": node.address6, "pod-cidr6": node.pod_cidr6})
    if plan.images_file:
        words += flags({"images-file": plan.images_file})
    if node.control_plane:
        words.append("--control-plane")
        # As kind: a cluster of one node runs ordinary pods on it.
        if len(plan.nodes) > 1:
            words.append("--taint")
    return UnitSpec(name=f"node-{node.name}", argv=tuple(words), node=node.name)


def _tracker_unit(state: StateDir, plan: ClusterPlan) -> UnitSpec:
    place = state.cluster(plan.name)
    address = plan.control_plane.address
    values = {
        "cluster-name": plan.name,
        "cluster-id": plan.id,
        "kubeconfig": place.kubeconfig("tracker"),
        "data-dir": place.root / "etcd",
        "etcd-listen": _store_url(plan),
        "etcd-ca": place.pki / "etcd-ca.crt",
        "etcd-cert": place.pki / "etcd.crt",
        "etcd-key": place.pki / "etcd.key",
        "metrics-bind-address": f"{address}:{TRACKER_METRICS_PORT}",
    }
    words = [*our_command("tracker"), *flags(values | _global_services(plan))]
    return UnitSpec(name="tracker", argv=tuple(words), node=plan.control_plane.name)


def _agent_unit(state: StateDir, plan: ClusterPlan, node: NodePlan) -> UnitSpec:
    place = state.cluster(plan.name)
    values: dict[str, object] = (
        _global_services(plan)
        | _policy(plan)
        | {
            "node-name": node.name,
            "cluster-name": plan.name,
            "cluster-id": plan.id,
            "kubeconfig": place.kubeconfig(f"agent-{node.name}"),
            "state-dir": place.agent(node.name),
            "metrics-bind-address": f"{node.address}:{AGENT_PORT}",
        }
    )
    words = our_command("agent")
    if plan.service_proxy is ServiceProxy.ISTHMUS:
        words = [*words, "--kube-proxy-replacement"]
    if plan.mode is Mode.STANDALONE:
        words = [*words, "--standalone"]
        values["clusters-file"] = state.roster
    else:
        values |= {
            "etcd-endpoint": _store_url(plan),
            "etcd-ca": place.pki / "etcd-ca.crt",
            "etcd-cert": place.pki / "etcd-client.crt",
            "etcd-key": place.pki / "etcd-client.key",
        }
    return UnitSpec(name=f"agent-{node.name}", argv=tuple(words + flags(values)), node=node.name)


def _global_services(plan: ClusterPlan) -> dict[str, object]:
    """Returns what tracker and agents are told of global services, nothing where that is what they do anyway."""
    if plan.global_services is GlobalServices.NFTABLES:
        return {}
    return {"global-services": plan.global_services.value}


def _policy(plan: ClusterPlan) -> dict[str, object]:
    """Returns what agents are told of policy, nothing where that is what they do anyway."""
    told: dict[str, object] = {}
    if plan.policy_scope is not PolicyScope.CLUSTERSET:
        told["policy-scope"] = plan.policy_scope.value
    if plan.live_connections is not LiveConnections.CUT:
        told["live-connections"] = plan.live_connections.value
    return told


def _store_url(plan: ClusterPlan) -> str:
    return f"https://{plan.control_plane.address}:{ETCD_PORT}"
