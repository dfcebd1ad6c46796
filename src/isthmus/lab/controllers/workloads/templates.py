"""Pod templates: their hash, their equality, and the pods made of them."""

import copy
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from isthmus.kube.resources import Resource
from isthmus.lab.controllers.objects.meta import Object, owned_by

Json = dict[str, Any]
Suffix = Callable[[], str]
"""Gives five characters that make a name unique."""

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""What upstream makes names of: no vowels and no look-alikes, so that no name is a word."""

TEMPLATE_HASH = "pod-template-hash"
REVISION_HASH = "controller-revision-hash"
MAX_NAME = 253


def suffix() -> str:
    """Returns five characters at random."""
    return "".join(secrets.choice(ALPHABET) for _ in range(5))


def clean(value: Any) -> Any:
    """Returns a value without nulls, empty maps and empty lists: to the API these mean the same as absent."""
    if isinstance(value, dict):
        kept = {key: clean(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner is not None and inner != {} and inner != []}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return value


def encoded_hash(value: Any, collisions: int = 0) -> str:
    """Returns a short hash of a value in the characters of names; `collisions` gives another one for the same."""
    data = msgspec.json.encode(clean(value), order="deterministic")
    if collisions:
        data += str(collisions).encode()
    number = 2166136261  # FNV-1a, 32 bit
    for byte in data:
        number = ((number ^ byte) * 16777619) & 0xFFFFFFFF
    return "".join(ALPHABET[ord(digit) % len(ALPHABET)] for digit in str(number))


def without_hash(template: Json) -> Json:
    """Returns a template as it was before a Deployment labelled it."""
    meta = template.get("metadata") or {}
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key != TEMPLATE_HASH}
    cleaned: Json = clean({**template, "metadata": {**meta, "labels": labels}})
    return cleaned


def same_template(one: Json, other: Json) -> bool:
    """Whether two templates make the same pods."""
    return without_hash(one) == without_hash(other)


def new_pod(
    owner: Object,
    kind: Resource,
    template: Json,
    *,
    name: str,
    generate_name: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    finalizers: tuple[str, ...] = (),
) -> Json:
    """Returns the pod that `owner` (of resource `kind`) makes of a template."""
    meta = template.get("metadata") or {}
    metadata: Json = {
        "name": name,
        "namespace": owner.metadata.namespace,
        "labels": {**(meta.get("labels") or {}), **(labels or {})},
        "annotations": {**(meta.get("annotations") or {}), **(annotations or {})},
        "finalizers": [*(meta.get("finalizers") or ()), *finalizers],
        "ownerReferences": [owned_by(owner, kind)],
    }
    if generate_name:
        metadata["generateName"] = generate_name
    spec = copy.deepcopy(template.get("spec") or {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": clean_meta(metadata), "spec": spec}


def clean_meta(metadata: Json) -> Json:
    """Returns metadata without what is empty."""
    return {key: value for key, value in metadata.items() if value}


def prefixed(name: str, fresh: Suffix, *, room: int = MAX_NAME) -> tuple[str, str]:
    """Returns generateName and a name made of it, for a child of `name`."""
    prefix = f"{name[: room - 6]}-"
    return prefix, prefix + fresh()
