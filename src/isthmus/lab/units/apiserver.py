"""The API server of a cluster: the embedded one, or the real kube-apiserver with an etcd of its own.

Both serve the same certificates on the same address of the segment, and are reached from the machine through a
listening socket that was made there. The embedded server gets that socket; the real one cannot be given one, so a
small process forwards what arrives there.

The real one runs with `--authorization-mode=AlwaysAllow` and without anonymous requests: whoever has a certificate of
the cluster or a token may do everything, as with the embedded one, which keeps the two alike; RBAC objects are stored
and not asked.
"""

from isthmus.lab.control import UnitSpec
from isthmus.lab.plan import ClusterPlan
from isthmus.lab.statedir import StateDir
from isthmus.lab.units.credentials import API_PORT, CLUSTER_DOMAIN
from isthmus.lab.units.words import flags, joined_flags, python

STORE_PORT = 2381
"""Of the real API server's etcd, on the loopback of the control-plane node; the tracker's has 2379."""
_STORE_PEER_PORT = 2382

NAMES = ("apiserver", "door")
"""The processes that `lab stop apiserver` ends; the store of a real one goes on, as on a machine of its own."""


def store_units(state: StateDir, plan: ClusterPlan) -> tuple[UnitSpec, ...]:
    """Returns what must run before the API server: nothing, or the real one's etcd."""
    if not plan.binaries:
        return ()
    place = state.cluster(plan.name)
    peer = f"https://127.0.0.1:{_STORE_PEER_PORT}"
    certificate, key, authority = (place.pki / f"apiserver-etcd{end}" for end in (".crt", ".key", "-ca.crt"))
    words = joined_flags(
        {
            "name": plan.control_plane.name,
            "data-dir": place.root / "apiserver-etcd",
            "listen-client-urls": _store_url(),
            "advertise-client-urls": _store_url(),
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"{plan.control_plane.name}={peer}",
            "cert-file": certificate,
            "key-file": key,
            "trusted-ca-file": authority,
            "client-cert-auth": "true",
            "peer-cert-file": certificate,
            "peer-key-file": key,
            "peer-trusted-ca-file": authority,
            "peer-client-cert-auth": "true",
            "auto-compaction-retention": "1",
            # A single member needs no quick elections, and how long it may take to answer follows from these.
            "heartbeat-interval": "200",
            "election-timeout": "4000",
        }
    )
    return (UnitSpec(name="etcd", argv=(f"{plan.binaries}/etcd", *words), node=plan.control_plane.name),)


def api_units(state: StateDir, plan: ClusterPlan) -> tuple[UnitSpec, ...]:
    """Returns the API server; one of the processes wants the machine's listening socket."""
    control = plan.control_plane.name
    if not plan.binaries:
        return (UnitSpec(name="apiserver", argv=tuple(_embedded(state, plan)), node=control, listener=True),)
    to = f"{plan.control_plane.address}:{API_PORT}"
    door = (*python("isthmus.lab.door"), *flags({"to": to}))
    return (
        UnitSpec(name="apiserver", argv=(f"{plan.binaries}/kube-apiserver", *_real(state, plan)), node=control),
        UnitSpec(name="door", argv=door, node=control, listener=True),
    )


def _embedded(state: StateDir, plan: ClusterPlan) -> list[str]:
    place = state.cluster(plan.name)
    pki = place.pki
    return python("isthmus.lab.apiserver") + flags(
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


def _real(state: StateDir, plan: ClusterPlan) -> list[str]:
    pki = state.cluster(plan.name).pki
    address = plan.control_plane.address
    return joined_flags(
        {
            "etcd-servers": _store_url(),
            "etcd-cafile": pki / "apiserver-etcd-ca.crt",
            "etcd-certfile": pki / "apiserver-etcd-client.crt",
            "etcd-keyfile": pki / "apiserver-etcd-client.key",
            "bind-address": address,
            "secure-port": API_PORT,
            "advertise-address": address,
            "tls-cert-file": pki / "apiserver.crt",
            "tls-private-key-file": pki / "apiserver.key",
            "client-ca-file": pki / "ca.crt",
            "kubelet-certificate-authority": pki / "ca.crt",
            "kubelet-client-certificate": pki / "kubelet-client.crt",
            "kubelet-client-key": pki / "kubelet-client.key",
            "kubelet-preferred-address-types": "InternalIP",
            "service-cluster-ip-range": ",".join(plan.service_subnets),
            "service-account-issuer": f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
            "service-account-key-file": pki / "service-accounts.pub",
            "service-account-signing-key-file": pki / "service-accounts.key",
            "authorization-mode": "AlwaysAllow",
            "anonymous-auth": "false",
            "allow-privileged": "true",
            "profiling": "false",
        }
    )


def _store_url() -> str:
    return f"https://127.0.0.1:{STORE_PORT}"
