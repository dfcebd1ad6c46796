"""Metadata that controllers need beyond names and labels: owners, finalizers, and when a deletion began.

`kube.schema.ObjectMeta` stays without them: trackers and agents hold a hundred thousand pods and never ask.
"""

import datetime

import msgspec

from isthmus.kube.resources import Resource
from isthmus.kube.schema import KubeObject, ObjectMeta, ObjectReference

Key = tuple[str, str]
"""(namespace, name)."""


class OwnerReference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """metav1.OwnerReference."""

    apiVersion: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    blockOwnerDeletion: bool = False


class Meta(ObjectMeta, frozen=True, gc=False):
    """metav1.ObjectMeta with ownership."""

    ownerReferences: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class Object(KubeObject, frozen=True, gc=False, kw_only=True):
    """Any object, when its metadata is enough."""

    metadata: Meta

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.metadata.namespace, self.metadata.name

    @property
    def leaving(self) -> bool:
        """Whether its deletion has begun."""
        return bool(self.metadata.deletionTimestamp)

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that controls it."""
        for owner in self.metadata.ownerReferences:
            if owner.controller:
                return owner
        return None


def reference(item: Object, resource: Resource) -> ObjectReference:
    """Returns how Events name an object."""
    meta = item.metadata
    return ObjectReference(
        kind=resource.kind,
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        apiVersion=resource.api_version,
        resourceVersion=meta.resourceVersion,
    )


def owned_by(owner: Object, resource: Resource) -> OwnerReference:
    """Returns the reference of a controlled object to its controller."""
    return OwnerReference(
        apiVersion=resource.api_version,
        kind=resource.kind,
        name=owner.metadata.name,
        uid=owner.metadata.uid,
        controller=True,
        blockOwnerDeletion=True,
    )


def seconds(text: str) -> float:
    """Returns an RFC 3339 time as seconds of the epoch; 0.0 for what is none."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def stamp(moment: float) -> str:
    """Returns seconds of the epoch as metav1.Time, which has whole seconds."""
    return datetime.datetime.fromtimestamp(int(moment), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
