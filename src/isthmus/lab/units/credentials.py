"""The credentials of a cluster: made once with it, and never again while it lives.

Invariants: everything that speaks to the API server has a certificate of its own; the tracker's store, and the store of
a real kube-apiserver, have authorities of their own.
"""

from ipaddress import ip_network

from isthmus.lab import kubeconfig
from isthmus.lab.pki import Authority, new_key_pair, write_pair
from isthmus.lab.plan import ClusterPlan, Mode, service_address
from isthmus.lab.statedir import ClusterDir, StateDir, write_private

API_PORT = 6443
CLUSTER_DOMAIN = "cluster.local"

_MASTERS = "system:masters"


def server_url(plan: ClusterPlan) -> str:
    """Returns where the cluster's API server is on the segment."""
    return f"https://{plan.control_plane.address}:{API_PORT}"


def write_credentials(state: StateDir, plan: ClusterPlan, *, api_host: str, server: str) -> None:
    """Writes certificates and kubeconfigs of a cluster; `api_host` and `server` (a URL) are those on this machine."""
    place = state.cluster(plan.name)
    authority = Authority(f"{plan.name}-ca")
    write_private(place.pki / "ca.crt", authority.certificate_pem)
    write_pair(place.pki, "apiserver", authority.issue("kube-apiserver", hosts=_server_names(plan, api_host)))
    write_pair(place.pki, "kubelet-client", authority.issue("kube-apiserver-kubelet-client", organizations=[_MASTERS]))
    inside = server_url(plan)
    identities = {
        "controllers": ("system:kube-controller-manager", _MASTERS),
        "tracker": (f"isthmus-tracker:{plan.name}", _MASTERS),
    }
    for node in plan.nodes:
        identities[f"node-{node.name}"] = (f"system:node:{node.name}", "system:nodes")
        identities[f"agent-{node.name}"] = (f"isthmus-agent:{node.name}", _MASTERS)
        names = [name for name in (node.address, node.address6, node.name) if name]
        write_pair(place.pki, f"kubelet-{node.name}", authority.issue(f"system:node:{node.name}", hosts=names))
    for who, (user, group) in identities.items():
        _write_kubeconfig(place, plan, authority, who=who, user=user, group=group, server=inside)
    _write_kubeconfig(place, plan, authority, who="admin", user="kubernetes-admin", group=_MASTERS, server=server)
    if plan.mode is Mode.TRACKER:
        _write_store_credentials(place, plan, name="etcd", client=f"isthmus-agent:{plan.name}")
    if plan.binaries:
        _write_store_credentials(place, plan, name="apiserver-etcd", client="kube-apiserver")
        public, private = new_key_pair()
        write_private(place.pki / "service-accounts.pub", public)
        write_private(place.pki / "service-accounts.key", private)
    else:
        write_private(place.pki / "tokens.csv", b"")


def _server_names(plan: ClusterPlan, api_host: str) -> list[str]:
    names = [
        "127.0.0.1",
        "::1",
        "localhost",
        api_host,
        plan.control_plane.address,
        plan.control_plane.address6,
        plan.control_plane.name,
        service_address(plan, 1),
        *(str(ip_network(subnet)[1]) for subnet in plan.service_subnets[1:]),
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
    ]
    return list(dict.fromkeys(name for name in names if name))


def _write_store_credentials(place: ClusterDir, plan: ClusterPlan, *, name: str, client: str) -> None:
    authority = Authority(f"{plan.name}-{name}-ca")
    write_private(place.pki / f"{name}-ca.crt", authority.certificate_pem)
    hosts = ["127.0.0.1", "localhost", plan.control_plane.address, plan.control_plane.name]
    write_pair(place.pki, name, authority.issue("etcd", hosts=hosts))
    write_pair(place.pki, f"{name}-client", authority.issue(client))


def _write_kubeconfig(
    place: ClusterDir, plan: ClusterPlan, authority: Authority, *, who: str, user: str, group: str, server: str
) -> None:
    certificate, key = authority.issue(user, organizations=[group])
    config = kubeconfig.render(
        plan.context, server=server, ca=authority.certificate_pem, certificate=certificate, key=key
    )
    kubeconfig.write(place.kubeconfig(who), config)
