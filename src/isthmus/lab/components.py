"""The processes of a cluster, as command lines, and the credentials each of them needs.

Invariants: everything that speaks to the API server has a certificate of its own; the tracker's store has an authority
of its own; addresses and file names come from the plan and the state directory alone, so this is a pure function of
both.
"""

import importlib.util
import sys
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

import isthmus
from isthmus.lab import kubeconfig
from isthmus.lab.control import UnitSpec
from isthmus.lab.pki import Authority, write_pair, write_private
from isthmus.lab.plan import ClusterPlan, Mode, NodePlan, service_address
from isthmus.lab.statedir import ClusterDir, StateDir

API_PORT = 6443
ETCD_PORT = 2379
TRACKER_METRICS_PORT = 9442
AGENT_METRICS_PORT = 9441

CLUSTER_DOMAIN = "cluster.local"

_MASTERS = "system:masters"


def server_url(plan: ClusterPlan) -> str:
    """Returns where the cluster's API server is on the segment."""
    return f"https://{plan.control_plane.address}:{API_PORT}"


def write_credentials(state: StateDir, plan: ClusterPlan, *, api_port: int) -> None:
    """Writes certificates and kubeconfigs of a cluster; `api_port` is the API server's port on this machine."""
    place = state.cluster(plan.name)
    authority = Authority(f"{plan.name}-ca")
    write_private(place.pki / "ca.crt", authority.certificate_pem)
    hosts = [
        "127.0.0.1",
        "::1",
        "localhost",
        plan.control_plane.address,
        plan.control_plane.name,
        service_address(plan, 1),
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
        *(str(ip_network(subnet)[1]) for subnet in plan.service_subnets[1:]),
    ]
    write_pair(place.pki, "apiserver", authority.issue("kube-apiserver", hosts=hosts))
    write_pair(place.pki, "kubelet-client", authority.issue("kube-apiserver-kubelet-client", organizations=[_MASTERS]))
    write_private(place.pki / "tokens.csv", b"")
    inside = server_url(plan)
    identities = {
        "controllers": ("system:kube-controller-manager", _MASTERS),
        "tracker": (f"isthmus-tracker:{plan.name}", _MASTERS),
    }
    for node in plan.nodes:
        identities[f"node-{node.name}"] = (f"system:node:{node.name}", "system:nodes")
        identities[f"agent-{node.name}"] = (f"isthmus-agent:{node.name}", _MASTERS)
        pair = authority.issue(
            f"system:node:{node.name}", hosts=[a for a in (node.address, node.address6, node.name) if a]
        )
        write_pair(place.pki, f"kubelet-{node.name}", pair)
    for who, (user, group) in identities.items():
        _write_kubeconfig(place, plan, authority, who=who, user=user, group=group, server=inside)
    _write_kubeconfig(
        place,
        plan,
        authority,
        who="admin",
        user="kubernetes-admin",
        group=_MASTERS,
        server=f"https://127.0.0.1:{api_port}",
    )
    if plan.mode is Mode.TRACKER:
        _write_store_credentials(place, plan)


def api_unit(state: StateDir, plan: ClusterPlan) -> UnitSpec:
    """Returns the API server."""
    place = state.cluster(plan.name)
    pki = place.pki
    words = _python("isthmus.lab.apiserver") + _flags(
        {
            "data-dir": place.data,
            "cluster-name": plan.name,
            "service-cidr": ",".join(plan.service_subnets),
            "pod-cidr": ",".join(plan.pod_subnets),
            "tls-cert": pki / "apiserver.crt",
            "tls-key": pki / "apiserver.key",
            "client-ca": pki / "ca.crt",
            "token-file": pki / "tokens.csv",
            "listen": f"{plan.control_plane.address}:{API_PORT}",
            "advertise": f"{plan.control_plane.address}:{API_PORT}",
            "kubelet-ca": pki / "ca.crt",
            "kubelet-client-cert": pki / "kubelet-client.crt",
            "kubelet-client-key": pki / "kubelet-client.key",
        }
    )
    return UnitSpec(name="apiserver", argv=tuple(words), node=plan.control_plane.name, listener=True)


def other_units(state: StateDir, plan: ClusterPlan) -> tuple[UnitSpec, ...]:
    """Returns controllers, nodes and, as far as they are installed, tracker and agents."""
    place = state.cluster(plan.name)
    control = plan.control_plane.name
    units = [UnitSpec(name="controllers", argv=tuple(_controllers_words(place)), node=control)]
    units += [_node_unit(state, plan, node) for node in plan.nodes]
    if plan.mode is Mode.TRACKER and _installed("tracker"):
        units.append(_tracker_unit(state, plan))
    if plan.mode is not Mode.NONE and _installed("agent"):
        units += [_agent_unit(state, plan, node) for node in plan.nodes]
    return tuple(units)


def _controllers_words(place: ClusterDir) -> list[str]:
    words = _python("isthmus.lab.controllers") + _flags({"kubeconfig": place.kubeconfig("controllers")})
    if _knows("lab/controllers/__main__.py", "--root-ca-file"):
        words += _flags({"root-ca-file": place.pki / "ca.crt"})
    return words


def _node_unit(state: StateDir, plan: ClusterPlan, node: NodePlan) -> UnitSpec:
    place = state.cluster(plan.name)
    words = _python("isthmus.lab.node") + _flags(
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
        }
    )
    if _knows("lab/node/__main__.py", "--cluster-domain"):
        words += _flags({"cluster-domain": CLUSTER_DOMAIN})
    if node.address6 and _knows("lab/node/__main__.py", "--address6"):
        words += _flags({"address6": node.address6, "pod-cidr6": node.pod_cidr6})
    if plan.images_file and _knows("lab/node/__main__.py", "--images-file"):
        words += _flags({"images-file": plan.images_file})
    if node.control_plane:
        words.append("--control-plane")
        # As kind: a cluster of one node runs ordinary pods on it.
        if len(plan.nodes) > 1:
            words.append("--taint")
    return UnitSpec(name=f"node-{node.name}", argv=tuple(words), node=node.name)


def _tracker_unit(state: StateDir, plan: ClusterPlan) -> UnitSpec:
    place = state.cluster(plan.name)
    address = plan.control_plane.address
    flags = {
        "cluster-name": plan.name,
        "cluster-id": plan.id,
        "clusters-file": state.roster,
        "data-dir": place.root / "etcd",
        "etcd-listen": _store_url(plan),
        "etcd-ca": place.pki / "etcd-ca.crt",
        "etcd-cert": place.pki / "etcd.crt",
        "etcd-key": place.pki / "etcd.key",
        "metrics-bind-address": f"{address}:{TRACKER_METRICS_PORT}",
    }
    words = [*_isthmus("tracker"), *_flags(flags)]
    return UnitSpec(name="tracker", argv=tuple(words), node=plan.control_plane.name)


def _agent_unit(state: StateDir, plan: ClusterPlan, node: NodePlan) -> UnitSpec:
    place = state.cluster(plan.name)
    flags: dict[str, object] = {
        "node-name": node.name,
        "cluster-name": plan.name,
        "cluster-id": plan.id,
        "kubeconfig": place.kubeconfig(f"agent-{node.name}"),
        "metrics-bind-address": f"{node.address}:{AGENT_METRICS_PORT}",
    }
    words = list(_isthmus("agent"))
    if _knows("cli/agent.py", "--kube-proxy-replacement"):
        words.append("--kube-proxy-replacement")
    if plan.mode is Mode.STANDALONE:
        words.append("--standalone")
        flags["clusters-file"] = state.roster
    else:
        flags |= {
            "etcd-endpoint": _store_url(plan),
            "etcd-ca": place.pki / "etcd-ca.crt",
            "etcd-cert": place.pki / "etcd-client.crt",
            "etcd-key": place.pki / "etcd-client.key",
        }
    return UnitSpec(name=f"agent-{node.name}", argv=tuple(words + _flags(flags)), node=node.name)


def _store_url(plan: ClusterPlan) -> str:
    return f"https://{plan.control_plane.address}:{ETCD_PORT}"


def _write_store_credentials(place: ClusterDir, plan: ClusterPlan) -> None:
    authority = Authority(f"{plan.name}-etcd-ca")
    write_private(place.pki / "etcd-ca.crt", authority.certificate_pem)
    hosts = ["127.0.0.1", "localhost", plan.control_plane.address, plan.control_plane.name]
    write_pair(place.pki, "etcd", authority.issue("etcd", hosts=hosts))
    write_pair(place.pki, "etcd-client", authority.issue(f"isthmus-agent:{plan.name}"))


def _write_kubeconfig(
    place: ClusterDir, plan: ClusterPlan, authority: Authority, *, who: str, user: str, group: str, server: str
) -> None:
    certificate, key = authority.issue(user, organizations=[group])
    config = kubeconfig.render(
        plan.context, server=server, ca=authority.certificate_pem, certificate=certificate, key=key
    )
    kubeconfig.write(place.kubeconfig(who), config)


def _knows(file: str, flag: str) -> bool:
    return f'"{flag}"' in (Path(isthmus.__path__[0]) / file).read_text()


def _installed(command: str) -> bool:
    return importlib.util.find_spec(f"isthmus.cli.{command}") is not None


def _isthmus(command: str) -> Sequence[str]:
    return (*_python("isthmus"), command)


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _flags(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]
