"""Clusters as their manifests say: a directory each, as a repository or `kubectl get -o yaml` has them.

`koornacht=DIR` names the cluster; a plain DIR holds one directory for each cluster, or (with manifests of its own) is
one cluster, named by ConfigMap kube-system/isthmus-config or else by the directory. Objects without a namespace are in
`default`. Invariant: an object of a kind that counts and that cannot be read is an error that names the file and the
field: half a repository would give answers that are wrong.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from isthmus.kube.errors import DECODE_ERRORS, clip
from isthmus.kube.schema import EndpointSlice, Namespace, Node, Service
from isthmus.mesh.mcs.api import GROUP
from isthmus.mesh.membership import CONFIG, NAMESPACE
from isthmus.mesh.picture.documents import DocumentError, files_of, read_place
from isthmus.mesh.picture.drawing import INCIDENTAL, OwnedPod, Parts, Workload, default_scope, draw
from isthmus.mesh.source.properties import ClusterProperty
from isthmus.policy.explaining.facts import ClusterSeen, Picture
from isthmus.policy.parsing import KINDS
from isthmus.policy.rules import Scope

_PLAIN: dict[str, tuple[str, Any]] = {
    "Namespace": ("namespaces", Namespace),
    "Node": ("nodes", Node),
    "Pod": ("pods", OwnedPod),
    "Service": ("services", Service),
    "EndpointSlice": ("slices", EndpointSlice),
    "ClusterProperty": ("properties", ClusterProperty),
}
_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")
_CLUSTER_WIDE = ("Namespace", "Node", "ClusterProperty", "CiliumCIDRGroup")


def read_manifests(places: Sequence[str], *, scopes: dict[str, Scope] | None = None) -> Picture:
    """Returns the clusters of `places` (each `NAME=DIR` or `DIR`); `scopes` go before what the manifests say.

    `scopes` has "" for all clusters. Raises DocumentError.
    """
    clusters: dict[str, ClusterSeen] = {}
    imagined = 0
    for name, path in _directories(places):
        seen = _cluster(name, path, scopes or {}, imagined)
        imagined += sum(pod.imaginary for pod in seen.pods)
        if seen.name in clusters:
            raise DocumentError(f"{path}: cluster {seen.name} is given twice ({clusters[seen.name].origin} too)")
        clusters[seen.name] = seen
    names = sorted(clusters)
    return Picture(
        clusters=tuple(clusters[name] for name in names),
        current=names[0] if len(names) == 1 else "",
        incidental=INCIDENTAL,
    )


def _directories(places: Sequence[str]) -> list[tuple[str, Path]]:
    """Returns the directories with the names of their clusters, "" where the manifests have to say it."""
    found: list[tuple[str, Path]] = []
    for place in places:
        name, equals, text = place.partition("=")
        if equals and name and "/" not in name:
            found.append((name, Path(text)))
            continue
        directory = Path(place)
        if not directory.is_dir():
            raise DocumentError(f"{place}: there is no such directory")
        inner = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
        own = [path for path in files_of(directory) if path.parent == directory]
        holding = [path for path in inner if files_of(path)]
        if own or not holding:
            found.append(("", directory))
        else:
            found += [(path.name, path) for path in holding]
    return found


def _cluster(name: str, path: Path, scopes: dict[str, Scope], first: int) -> ClusterSeen:
    if not path.is_file() and not files_of(path):
        raise DocumentError(f"{path}: holds no manifests (*.yaml, *.yml, *.json)")
    parts = Parts()
    config: dict[str, str] = {}
    for file, obj in read_place(path):
        _sort_in(obj, parts, config, str(file))
    name = name or config.get("cluster-name") or (path.stem if path.is_file() else path.resolve().name)
    try:
        scope = scopes.get(name) or scopes.get("") or default_scope(config)
    except ValueError as error:
        raise DocumentError(f"{path}: {error}") from None
    return draw(parts, cluster=name, scope=scope, origin=str(path), imagine_from=first)


def _sort_in(obj: dict[str, Any], parts: Parts, config: dict[str, str], file: str) -> None:
    kind = obj["kind"]
    if kind in KINDS or kind in ("CiliumCIDRGroup", "ServiceExport", *_PLAIN, *_WORKLOADS, "ConfigMap"):
        obj = _placed(obj, file)
    group = obj["apiVersion"].rpartition("/")[0]
    if kind in KINDS:
        if group == KINDS[kind].group:
            parts.policies.append(obj)
    elif kind == "CiliumCIDRGroup" and group == "cilium.io":
        parts.cidr_groups.append(obj)
    elif kind == "ServiceExport" and group == GROUP:
        parts.exports.append((obj["metadata"]["namespace"], obj["metadata"]["name"]))
    elif kind in _PLAIN:
        word, type_ = _PLAIN[kind]
        getattr(parts, word).append(_converted(obj, type_, file))
    elif kind in _WORKLOADS and group in ("apps", "batch"):
        spec = obj.get("spec")
        if kind == "CronJob" and isinstance(spec, dict) and isinstance(spec.get("jobTemplate"), dict):
            obj = {**obj, "spec": spec["jobTemplate"].get("spec")}
        parts.workloads.append(_converted(obj, Workload, file))
    elif kind == "ConfigMap":
        meta, data = obj["metadata"], obj.get("data")
        if (meta["namespace"], meta["name"]) == (NAMESPACE, CONFIG) and isinstance(data, dict):
            config.update((str(key), str(value)) for key, value in data.items())


def _placed(obj: dict[str, Any], file: str) -> dict[str, Any]:
    """Returns an object with a namespace, if its kind has one. Raises DocumentError if it has no name."""
    kind, meta = obj["kind"], obj.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str) or not meta["name"]:
        raise DocumentError(f"{file}: {kind}: metadata.name: is missing")
    if kind in _CLUSTER_WIDE or (kind in KINDS and not KINDS[kind].namespaced) or meta.get("namespace"):
        return obj
    return {**obj, "metadata": {**meta, "namespace": "default"}}


def _converted(obj: dict[str, Any], type_: Any, file: str) -> Any:
    try:
        return msgspec.convert(_without_nulls(obj), type_)
    except DECODE_ERRORS as error:
        meta = obj["metadata"]
        where = f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])
        raise DocumentError(f"{file}: {obj['kind']} {where}: {clip(str(error))}") from None


def _without_nulls(value: Any) -> Any:
    """Returns `value` without entries that are null, which is the same as absent; keys that are no text go too."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None and isinstance(k, str)}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
