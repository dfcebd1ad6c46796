"""The fields of kind's Cluster (kind.x-k8s.io/v1alpha4), and what the lab makes of each.

Invariants: a field that is known to kind is used, or a notice says that it makes no difference here; any other field,
and any value of the wrong type, is an error that names its path, because a misspelled field is the likeliest fault in
such a file. Source: kind's documentation, https://kind.sigs.k8s.io/docs/user/configuration/. Rejected: kind's own
leniency about the case of fields.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from isthmus.lab.kindconfig.document import KindConfigError, read_document

API_VERSION = "kind.x-k8s.io/v1alpha4"
_OLDER = ("kind.x-k8s.io/v1alpha3", "kind.sigs.k8s.io/v1alpha3")
MAX_LABELS = 64

_ORIGINS = {"pods": "networking.podSubnet", "services": "networking.serviceSubnet", "family": "networking.ipFamily"}
# What kind knows and the lab has no use for: field -> why.
_IGNORED = {
    "featureGates": "the lab has no feature gates",
    "runtimeConfig": "the lab serves its APIs as they are",
    "kubeadmConfigPatches": "there is no kubeadm in the lab",
    "kubeadmConfigPatchesJSON6902": "there is no kubeadm in the lab",
    "containerdConfigPatches": "there is no containerd in the lab",
    "containerdConfigPatchesJSON6902": "there is no containerd in the lab",
}
_NODE_IGNORED = {
    "image": "nodes of the lab are made of no image",
    "extraMounts": "mounts into nodes are not supported",
    "extraPortMappings": "not supported; reach pods with kubectl port-forward or from a node with isthmus lab exec",
    "kubeadmConfigPatches": "there is no kubeadm in the lab",
    "kubeadmConfigPatchesJSON6902": "there is no kubeadm in the lab",
}


class KindCluster(msgspec.Struct, frozen=True):
    """What a file asks for; empty or 0 where it says nothing. `labels` are those of each node, control plane first."""

    name: str = ""
    nodes: int = 0
    labels: tuple[dict[str, str], ...] = ()
    ip_family: str = ""
    pod_subnet: str = ""
    service_subnet: str = ""
    api_address: str = ""
    api_port: int = 0
    notices: tuple[str, ...] = ()
    origins: Mapping[str, str] = {}
    """Where the values that are set came from, in the words of `plan.FLAGS`."""


def read_cluster(path: Path) -> KindCluster:
    """Returns what a file asks for; raises KindConfigError."""
    name, document = read_document(path)
    try:
        return understand(document)
    except KindConfigError as error:
        raise KindConfigError(f"{name}: {error}") from error


def understand(document: Mapping[str, Any]) -> KindCluster:
    """Returns what a document asks for; raises KindConfigError, which begins with the path of the field."""
    fields = _Fields(document, "")
    version, kind = fields.text("apiVersion"), fields.text("kind")
    if version != API_VERSION or kind != "Cluster":
        hint = "; it is of an older kind, which called things differently" if version in _OLDER else ""
        raise KindConfigError(f'apiVersion "{version}", kind "{kind}": expected {API_VERSION}, Cluster{hint}')
    notices: list[str] = []
    for field, reason in _IGNORED.items():
        if fields.take(field):
            notices.append(f"{field} is ignored: {reason}")
    name = fields.text("name")
    labels, named = _nodes(fields.take("nodes"), notices)
    networking = _Fields(fields.take("networking"), "networking")
    fields.end()
    origins = {}
    if named:
        origins["nodes"] = "nodes:"
    pods, services = networking.text("podSubnet"), networking.text("serviceSubnet")
    family = networking.text("ipFamily")
    for key, value in (("pods", pods), ("services", services), ("family", family)):
        if value:
            origins[key] = _ORIGINS[key]
    address, port = _api(networking)
    _note_networking(networking, notices)
    networking.end()
    return KindCluster(
        name=name,
        nodes=len(labels),
        labels=labels,
        ip_family=family,
        pod_subnet=pods,
        service_subnet=services,
        api_address=address,
        api_port=port,
        notices=tuple(notices),
        origins=origins,
    )


def _nodes(value: object, notices: list[str]) -> tuple[tuple[dict[str, str], ...], bool]:
    """Returns the labels of each node, and whether the file names nodes at all; kind makes one node if it does not."""
    if value is None or value == []:
        return ({},), False
    if not isinstance(value, list):
        raise KindConfigError("nodes: a list is expected")
    control: list[dict[str, str]] = []
    workers: list[dict[str, str]] = []
    ignored: dict[str, list[int]] = {}
    for index, entry in enumerate(value):
        fields = _Fields(entry, f"nodes[{index}]")
        role = fields.text("role") or "control-plane"
        if role not in ("control-plane", "worker"):
            raise KindConfigError(f'nodes[{index}].role "{role}": one of control-plane, worker')
        labels = _labels(fields.take("labels"), f"nodes[{index}].labels")
        for field in _NODE_IGNORED:
            if fields.take(field):
                ignored.setdefault(field, []).append(index)
        fields.end()
        (control if role == "control-plane" else workers).append(labels)
    notices += [
        f"{', '.join(f'nodes[{index}].{field}' for index in indices)} ignored: {_NODE_IGNORED[field]}"
        for field, indices in ignored.items()
    ]
    if len(control) != 1:
        count = "none" if not control else str(len(control))
        raise KindConfigError(f"nodes: a cluster of the lab has exactly one node with role control-plane, here {count}")
    return (*control, *workers), True


def _labels(value: object, path: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        raise KindConfigError(f"{path}: an object of at most {MAX_LABELS} labels is expected")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise KindConfigError(f"{path}.{key}: text is expected; put it in quotes")
    return dict(value)


def _api(networking: "_Fields") -> tuple[str, int]:
    address, port = networking.text("apiServerAddress"), networking.take("apiServerPort")
    if address:
        try:
            ip_address(address)
        except ValueError as error:
            raise KindConfigError(f"networking.apiServerAddress: {error}") from error
    # kind takes -1 for "let the container engine choose", which is what 0 means here.
    if port is None or port == -1:
        port = 0
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise KindConfigError(f"networking.apiServerPort {port}: a number from 1 to 65535 is expected")
    return address, port


def _note_networking(networking: "_Fields", notices: list[str]) -> None:
    disabled = networking.take("disableDefaultCNI")
    if disabled is not None and not isinstance(disabled, bool):
        raise KindConfigError(f"networking.disableDefaultCNI {disabled}: true or false is expected")
    if disabled:
        notices.append(
            "networking.disableDefaultCNI makes no difference: pods of the lab have their network without a plugin, "
            "and nodes are Ready at once"
        )
    mode = networking.text("kubeProxyMode")
    if mode not in ("", "none", "iptables", "nftables", "ipvs"):
        raise KindConfigError(f'networking.kubeProxyMode "{mode}": one of none, iptables, nftables, ipvs')
    if mode not in ("", "none"):
        notices.append(f"networking.kubeProxyMode {mode} is ignored: the agents serve Services in nftables")
    if networking.take("dnsSearch"):
        notices.append("networking.dnsSearch is ignored: pods search the domains of their cluster alone")


class _Fields:
    """The fields of one object, each to be taken once."""

    def __init__(self, value: object, path: str) -> None:
        if value is not None and not isinstance(value, dict):
            raise KindConfigError(f"{path or 'the document'}: an object is expected")
        self._left: dict[str, Any] = dict(value or {})
        self._path = path

    def take(self, name: str) -> Any:
        """Returns the value of a field, None if there is none."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str:
        """Returns the value of a text field, empty if there is none."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise KindConfigError(f"{self._under(name)}: text is expected")
        return value or ""

    def end(self) -> None:
        """Raises KindConfigError if there are fields that nobody took."""
        if self._left:
            unknown = ", ".join(self._under(str(name)) for name in self._left)
            raise KindConfigError(f"unknown field {unknown}")

    def _under(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name
