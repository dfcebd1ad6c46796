"""The addons' manifests, as they are shipped: CRDs as they are, DNS with its addresses filled in.

Every object is marked with a digest of what it was made from, so that applying again changes only what differs.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

import isthmus.mesh

Manifest = dict[str, Any]

DIGEST = "isthmus.dev/addon-digest"
_HERE = Path(__file__).parent
_MESH = Path(isthmus.mesh.__file__).parent / "manifests" / "crds.yaml"
# The loader on libyaml is ten times as fast, and the CRDs are long; PyYAML may have been built without it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ManifestError(Exception):
    """A manifest that is shipped with the lab cannot be read; the message names it."""


def crds() -> list[Manifest]:
    """Returns the CustomResourceDefinitions, those of the mesh among them; raises ManifestError."""
    return [found for path in (*sorted((_HERE / "crds").glob("*.yaml")), _MESH) for found in _load(path, None)]


def dns(values: Mapping[str, str]) -> list[Manifest]:
    """Returns the objects of cluster DNS, with `values` in the places of $NAMES; raises ManifestError."""
    return _load(_HERE / "dns.yaml", values)


def _load(path: Path, values: Mapping[str, str] | None) -> list[Manifest]:
    try:
        text = path.read_text()
        if values is not None:
            text = Template(text).substitute(values)
        found = [document for document in yaml.load_all(text, Loader=_LOADER) if document]
    except (OSError, KeyError, ValueError, yaml.YAMLError) as error:
        raise ManifestError(f"addon {path.name}: {error!r}") from error
    return [_marked(document, path.name) for document in found]


def _marked(manifest: Manifest, source: str) -> Manifest:
    if not isinstance(manifest, dict) or "kind" not in manifest or "name" not in manifest.get("metadata", {}):
        raise ManifestError(f"addon {source}: a document that is no Kubernetes object")
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), DIGEST: digest}
    return manifest
