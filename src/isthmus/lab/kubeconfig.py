"""Kubeconfig files: one per component of a cluster, one for people, and merging into one's own.

Invariants: a file is replaced as a whole and is readable by its owner only; merging keeps everything that is not
ours, and taking out removes exactly the names that merging put in. Rejected: calling `kubectl config`, which the lab
should not need in order to start.
"""

import base64
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]
_SECTIONS = ("clusters", "contexts", "users")


class KubeconfigError(Exception):
    """A kubeconfig cannot be read, understood or written; the message names it."""


def render(name: str, *, server: str, ca: bytes, certificate: bytes, key: bytes) -> Config:
    """Returns a kubeconfig with one cluster, user and context, all called `name`, with its certificates inside."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _text(ca)}}],
        "users": [
            {
                "name": name,
                "user": {"client-certificate-data": _text(certificate), "client-key-data": _text(key)},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }


def merge(base: Config, other: Config, *, switch: bool = False) -> Config:
    """Returns `base` with the entries of `other`, which win over entries of the same name.

    The current context becomes that of `other` if `switch` is set or `base` has none.
    """
    merged = dict(base)
    for section in _SECTIONS:
        names = _names(other, section)
        kept = [entry for entry in _entries(base, section) if entry.get("name") not in names]
        merged[section] = [*kept, *_entries(other, section)]
    if switch or not base.get("current-context"):
        merged["current-context"] = other.get("current-context", "")
    return merged


def without(base: Config, names: Iterable[str]) -> Config:
    """Returns `base` without the clusters, users and contexts of these names."""
    gone = set(names)
    left = dict(base)
    for section in _SECTIONS:
        left[section] = [entry for entry in _entries(base, section) if entry.get("name") not in gone]
    if base.get("current-context") in gone:
        left["current-context"] = ""
    return left


def empty() -> Config:
    """Returns a kubeconfig with nothing in it."""
    return {"apiVersion": "v1", "kind": "Config", "clusters": [], "contexts": [], "users": [], "current-context": ""}


def load(path: Path) -> Config:
    """Returns the kubeconfig at `path`, an empty one if there is none; raises KubeconfigError."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return empty()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KubeconfigError(f"cannot read kubeconfig {path}: {error}") from error
    if content is None:
        return empty()
    if not isinstance(content, dict):
        raise KubeconfigError(f"{path} is not a kubeconfig")
    for section in _SECTIONS:
        entries = content.get(section)
        if entries is not None and not (isinstance(entries, list) and all(isinstance(e, dict) for e in entries)):
            raise KubeconfigError(f"{path} is not a kubeconfig: {section} is not a list of objects")
    return content


def dump(config: Config) -> str:
    """Returns the YAML text."""
    text = yaml.safe_dump(config, sort_keys=False)
    assert isinstance(text, str)  # noqa: S101
    return text


def write(path: Path, config: Config) -> None:
    """Replaces the file; raises KubeconfigError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(dump(config))
        # A kubeconfig that is a link stays one.
        os.replace(draft, path.resolve())
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise KubeconfigError(f"cannot write kubeconfig {path}: {error.strerror or error}") from error


def users_own() -> Path:
    """Returns the file that kubectl changes: the first of $KUBECONFIG, or ~/.kube/config."""
    listed = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Path(listed[0]) if listed else Path.home() / ".kube" / "config"


def _entries(config: Config, section: str) -> list[Config]:
    return list(config.get(section) or [])


def _names(config: Config, section: str) -> set[object]:
    return {entry.get("name") for entry in _entries(config, section)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
