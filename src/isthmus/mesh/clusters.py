"""Which clusters there are, as configured: flags, a file, and when the file says something new.

Invariants: names and IDs are valid and unique before anybody sees them, and the own cluster is among them with the ID
that the flags gave; an error names the file, the entry and the field. A file that becomes bad at run time changes
nothing: the last good list stays, and the caller says why. What is compared is content, so a rewrite with the same
content is no change, and a Secret that is swapped under a symbolic link is one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from isthmus.kube.access import Access
from isthmus.kube.kubeconfig import BAD_VALUES
from isthmus.model.endpoint import Cluster
from isthmus.model.identity import MAX_CLUSTER_ID
from isthmus.wire.kvstore import cluster_fault

MAX_FILE = 1 << 20
"""Bytes; 255 clusters need some 50 kB."""


class ClustersError(Exception):
    """A list of clusters cannot be used; the message names the place and the field."""


class ClusterSpec(msgspec.Struct, frozen=True):
    """One configured cluster. Without `kubeconfig` and `access` it is found as kubectl finds it.

    `content` stands for what the kubeconfig file holds now: new credentials make a new specification. `access` is all
    that is needed, where there is no file.
    """

    cluster: Cluster
    kubeconfig: Path | None = None
    context: str | None = None
    content: str = ""
    access: Access | None = None


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    id: int
    kubeconfig: str | None = None
    context: str | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    clusters: list[Any]


def own_cluster(name: str, number: int, *, flags: tuple[str, str] = ("--cluster-name", "--cluster-id")) -> Cluster:
    """Returns the cluster that `flags` name. Raises ClustersError."""
    fault = cluster_fault(name)
    if fault is not None:
        raise ClustersError(f"{flags[0]}: {fault}")
    if not 1 <= number <= MAX_CLUSTER_ID:
        raise ClustersError(f"{flags[1]}: {number} is not in 1-{MAX_CLUSTER_ID}")
    return Cluster(name, number)


def parse_flag(text: str) -> ClusterSpec:
    """Reads `name=c2,id=2,kubeconfig=PATH,context=NAME`. Raises ClustersError."""
    where = f"--cluster {text!r}"
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, separator, value = part.partition("=")
        key = key.strip()
        if not separator or key not in ("name", "id", "kubeconfig", "context"):
            raise ClustersError(f"{where}: expected name=NAME,id=ID[,kubeconfig=FILE][,context=NAME], found {part!r}")
        if key in fields:
            raise ClustersError(f"{where}: {key} is there twice")
        fields[key] = value.strip()
    number = fields.get("id", "")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise ClustersError(f"{where}: id {number!r} is not a number")
    kubeconfig = Path(fields["kubeconfig"]) if fields.get("kubeconfig") else None
    cluster = own_cluster(fields.get("name", ""), int(number), flags=(f"{where}: name", f"{where}: id"))
    return ClusterSpec(cluster, kubeconfig, fields.get("context") or None)


def parse_file(path: Path, data: bytes) -> list[ClusterSpec]:
    """Reads a YAML (or JSON) list of clusters, bare or under `clusters`; relative paths count from the file.

    Raises ClustersError.
    """
    entries = _load(path, data)
    specs = []
    for index, item in enumerate(entries):
        where = f"{path}: clusters[{index}]"
        try:
            entry = msgspec.convert(item, _Entry)
        except msgspec.ValidationError as error:
            reason, _, field = str(error).partition(" - at `$.")
            raise ClustersError(f"{where}{'.' + field.rstrip('`') if field else ''}: {reason}") from None
        cluster = own_cluster(entry.name, entry.id, flags=(f"{where}.name", f"{where}.id"))
        kubeconfig = path.parent / _path(entry.kubeconfig, f"{where}.kubeconfig") if entry.kubeconfig else None
        specs.append(ClusterSpec(cluster, kubeconfig, entry.context))
    return specs


def _path(text: str, where: str) -> Path:
    if "\0" in text:
        raise ClustersError(f"{where}: a path cannot hold a zero byte")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ClustersError(f"{where}: {error}") from None


def merge(own: ClusterSpec, others: Iterable[ClusterSpec]) -> list[ClusterSpec]:
    """Returns all clusters, the own one first; an entry of the same name says how to reach it.

    Raises ClustersError for a name or an ID that is there twice.
    """
    merged = {own.cluster.name: own}
    seen: set[str] = set()
    for spec in others:
        name, number = spec.cluster.name, spec.cluster.id
        if name in seen:
            raise ClustersError(f"cluster {name} is there twice")
        seen.add(name)
        if name == own.cluster.name and number != own.cluster.id:
            raise ClustersError(f"cluster {name} has id {number} in the list and {own.cluster.id} by --cluster-id")
        merged[name] = spec
    ids: dict[int, str] = {}
    for spec in merged.values():
        other = ids.setdefault(spec.cluster.id, spec.cluster.name)
        if other != spec.cluster.name:
            raise ClustersError(f"clusters {other} and {spec.cluster.name} have the same id {spec.cluster.id}")
    return list(merged.values())


class ClusterList:
    """The configured clusters: `flags` and, if given, what `file` says now."""

    def __init__(self, own: ClusterSpec, *, flags: Sequence[ClusterSpec] = (), file: Path | None = None) -> None:
        self._own = own
        self._flags = tuple(flags)
        self._file = file

    def read(self) -> list[ClusterSpec]:
        """Returns all clusters with the content of their kubeconfigs; blocks. Raises ClustersError."""
        listed: list[ClusterSpec] = []
        if self._file is not None:
            listed = parse_file(self._file, _read(self._file))
        merged = merge(self._own, [*self._flags, *listed])
        return [msgspec.structs.replace(spec, content=_content(spec.kubeconfig)) for spec in merged]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ClustersError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE:
        raise ClustersError(f"{path} is larger than {MAX_FILE} bytes")
    return data


def _content(path: Path | None) -> str:
    """A digest of a file; empty if it cannot be read, which whoever needs it will say better."""
    if path is None:
        return ""
    try:
        return hashlib.sha256(_read(path)).hexdigest()
    except ClustersError:
        return ""


def _load(path: Path, data: bytes) -> list[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(data, Loader=loader):
            # A few aliases of aliases are enough to fill any memory, and deep nesting any stack.
            if isinstance(event, yaml.AliasEvent):
                raise ClustersError(f"{path}: aliases (*name) are not supported")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 16:
                raise ClustersError(f"{path}: nested deeper than 16 levels")
        loaded = yaml.load(data, Loader=loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ClustersError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except BAD_VALUES:
        raise ClustersError(f"{path}: not YAML that can be read: a value does not fit its tag") from None
    if isinstance(loaded, dict):
        try:
            return msgspec.convert(loaded, _File).clusters
        except msgspec.ValidationError as error:
            raise ClustersError(f"{path}: {error}") from None
    if not isinstance(loaded, list):
        raise ClustersError(f"{path}: expected a list of clusters")
    return loaded
