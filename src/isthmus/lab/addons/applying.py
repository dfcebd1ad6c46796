"""Applying addons to a cluster over HTTP, as anybody could.

Invariants: applying twice changes nothing; an object of another release, or of somebody else, is replaced; one of this
release is not touched, whatever people have changed in it since. An object that is there costs a refused request and a
look. Rejected: server-side apply, which makes each server merge what it has never seen.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from isthmus.lab.addons.manifests import DIGEST, Manifest
from isthmus.lab.life.api import Api, ApiError

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_AT_ONCE = 4
_PAUSE = 0.05
"""Seconds between two looks at whether a CRD is served."""


class AddonError(Exception):
    """An addon could not be applied; the message names the object."""


def apply_crds(api: Api, manifests: Sequence[Manifest], *, deadline: float) -> None:
    """Applies CRDs and waits until they are served; `deadline` is of time.monotonic().

    Raises AddonError, or one of `api.TROUBLE`.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _done in pool.map(lambda manifest: _apply_crd(api, manifest, deadline), manifests):
            pass


def apply_objects(api: Api, manifests: Sequence[Manifest]) -> None:
    """Applies objects in their order; raises AddonError, or one of `api.TROUBLE`."""
    paths: dict[str, dict[str, tuple[str, bool]]] = {}
    for manifest in manifests:
        _apply(api, _collection(api, manifest, paths), manifest)


def _apply_crd(api: Api, manifest: Manifest, deadline: float) -> None:
    found = _apply(api, _CRDS, manifest)
    while not _is_established(found):
        if time.monotonic() > deadline:
            raise AddonError(f"CustomResourceDefinition {manifest['metadata']['name']} is not served")
        time.sleep(_PAUSE)
        found = api.read(f"{_CRDS}/{manifest['metadata']['name']}") or {}


def _apply(api: Api, collection: str, manifest: Manifest) -> dict[str, Any]:
    metadata = manifest["metadata"]
    try:
        return api.send("POST", collection, manifest)
    except ApiError as error:
        refused = error
    # Not by the status alone: a Service that exists may be refused because its own address is taken (422).
    path = f"{collection}/{metadata['name']}"
    found = api.read(path)
    if found is None:
        raise AddonError(f"{manifest['kind']} {metadata['name']}: {refused}") from refused
    there = found["metadata"]
    if (there.get("annotations") or {}).get(DIGEST) == metadata["annotations"][DIGEST]:
        return found
    newer = {**manifest, "metadata": {**metadata, "resourceVersion": there["resourceVersion"]}}
    try:
        return api.send("PUT", path, newer)
    except ApiError as error:
        raise AddonError(f"{manifest['kind']} {metadata['name']}: {error}") from error


def _collection(api: Api, manifest: Manifest, known: dict[str, dict[str, tuple[str, bool]]]) -> str:
    version = str(manifest["apiVersion"])
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if version not in known:
        resources = (api.read(base) or {}).get("resources") or []
        known[version] = {
            resource["kind"]: (resource["name"], bool(resource["namespaced"]))
            for resource in resources
            if "/" not in resource["name"]
        }
    if manifest["kind"] not in known[version]:
        raise AddonError(f"{manifest['kind']} {manifest['metadata']['name']}: the API server does not know {version}")
    plural, namespaced = known[version][manifest["kind"]]
    if namespaced:
        return f"{base}/namespaces/{manifest['metadata'].get('namespace', 'default')}/{plural}"
    return f"{base}/{plural}"


def _is_established(crd: Manifest) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or []
    return any(entry.get("type") == "Established" and entry.get("status") == "True" for entry in conditions)
