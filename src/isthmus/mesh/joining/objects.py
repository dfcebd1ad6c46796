"""The objects of a cluster that takes part in the mesh, as they are to be. Pure.

Invariant: what these functions return for the same arguments is the same, so applying it again changes nothing; every
value that comes from outside was checked, or is put in where it can only be text. Rejected: a Helm chart as the only
way, because joining needs what is in two clusters at a time.
"""

import functools
import hashlib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from string import Template
from typing import Any

import yaml

from isthmus.kube import resources
from isthmus.kube.resources import Resource
from isthmus.mesh.membership import CONFIG, NAMESPACE, Configuration, configuration_data

Manifest = dict[str, Any]

TRACKER = "isthmus-tracker"
AGENT = "isthmus-agent"
REMOTE = "isthmus-remote"
"""The role of other clusters' trackers, and with the cluster's name behind it their account, binding and token."""

AUTHORITY, SERVER, CLIENT = "isthmus-ca", "isthmus-tracker-server", "isthmus-agent-client"
"""The Secrets with the authority of the tracker's etcd, its certificate, and that of the agents."""

PORT = 2379
REMOTE_LABEL = "isthmus.dev/remote-cluster"
"""On what was made for another cluster: its name."""

LABELS = {"app.kubernetes.io/part-of": "isthmus"}
SERVICE_TYPES = ("LoadBalancer", "NodePort", "ClusterIP")

_PLACE = Path(__file__).parent.parent / "manifests"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS: Mapping[str, Resource] = {
    found.kind: found
    for found in (
        resources.CUSTOM_RESOURCE_DEFINITIONS,
        resources.CONFIG_MAPS,
        resources.SECRETS,
        resources.SERVICES,
        resources.SERVICE_ACCOUNTS,
        resources.ENDPOINT_SLICES,
        resources.CLUSTER_ROLES,
        resources.CLUSTER_ROLE_BINDINGS,
        resources.ROLES,
        resources.ROLE_BINDINGS,
        resources.DEPLOYMENTS,
        resources.DAEMON_SETS,
        resources.LEASES,
    )
}


def resource_of(manifest: Manifest) -> Resource:
    """Returns the resource of one of our objects."""
    return _KINDS[manifest["kind"]]


def definitions() -> list[Manifest]:
    """Returns the CustomResourceDefinitions of group isthmus.dev."""
    return _load("crds.yaml", {})


def remote_role() -> Manifest:
    """Returns the ClusterRole of other clusters' trackers."""
    return _load("remote.yaml", {})[0]


def accounts() -> list[Manifest]:
    """Returns accounts, roles and bindings of the tracker and the agents."""
    return _load("accounts.yaml", {})


def workloads(configuration: Configuration, *, image: str, certificates: bytes) -> list[Manifest]:
    """Returns the Deployment and the DaemonSet; `certificates` is what they must start again for."""
    values = {
        # Quoted as YAML, so that no image is anything but text.
        "IMAGE": yaml.safe_dump(image, width=2**20, default_style='"').strip(),
        "CLUSTER_NAME": configuration.cluster.name,
        "CLUSTER_ID": str(configuration.cluster.id),
        "POLICY_SCOPE": configuration.scope.value,
        "CERTIFICATES": f'"{hashlib.sha256(certificates).hexdigest()[:16]}"',
    }
    return _load("workloads.yaml", values)


def config_map(configuration: Configuration) -> Manifest:
    """Returns the ConfigMap that says what this cluster is."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG, "namespace": NAMESPACE, "labels": dict(LABELS)},
        "data": configuration_data(configuration),
    }


def service(configuration: Configuration, *, service_type: str) -> list[Manifest]:
    """Returns the Service of the tracker, and where its tracker is no pod the EndpointSlice that leads to it."""
    port = {"name": "etcd", "port": PORT, "protocol": "TCP", "targetPort": PORT}
    made: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": TRACKER, "namespace": NAMESPACE, "labels": dict(LABELS)},
        "spec": {"type": service_type, "ports": [port]},
    }
    if not configuration.address:
        made["spec"]["selector"] = {"app.kubernetes.io/name": TRACKER}
        return [made]
    host, _, number = configuration.address.rpartition(":")
    host = host.strip("[]")
    port["targetPort"] = int(number)
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": TRACKER,
            "namespace": NAMESPACE,
            "labels": {**LABELS, "kubernetes.io/service-name": TRACKER},
        },
        "addressType": f"IPv{ip_address(host).version}",
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
        "ports": [{"name": "etcd", "port": int(number), "protocol": "TCP"}],
    }
    return [made, slice_]


def tls_secret(name: str, *, certificate: bytes, key: bytes, ca: bytes) -> Manifest:
    """Returns a Secret with a certificate (all PEM)."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": dict(LABELS)},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": certificate, "tls.key": key, "ca.crt": ca},
    }


def remote_name(cluster: str) -> str:
    """Returns what the account, the binding and the token of another cluster's tracker are called."""
    return f"{REMOTE}-{cluster}"


def remote_account(cluster: str) -> list[Manifest]:
    """Returns the account of another cluster's tracker and what binds it to its role."""
    name = remote_name(cluster)
    labels = {**LABELS, REMOTE_LABEL: cluster}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name, "labels": labels},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": REMOTE},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
        },
    ]


def remote_token(cluster: str) -> Manifest:
    """Returns the Secret that asks for a token of that account."""
    name = remote_name(cluster)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {**LABELS, REMOTE_LABEL: cluster},
            "annotations": {"kubernetes.io/service-account.name": name},
        },
        "type": "kubernetes.io/service-account-token",
    }


@functools.cache
def _text(name: str) -> str:
    return (_PLACE / name).read_text()


def _load(name: str, values: Mapping[str, str]) -> list[Manifest]:
    text = _text(name)
    if values:
        text = Template(text).substitute(values)
    return [found for found in yaml.load_all(text, Loader=_LOADER) if found]
