"""The objects that are written here, as they are stored: with owners, which say what they go with.

Field names are the API's own. `kube.meshobjects` stays without owners: who reads GlobalServices never asks.
"""

from typing import Any

import msgspec

from isthmus.kube.meshobjects import GlobalService
from isthmus.kube.schema import EndpointSlice, ObjectMeta
from isthmus.mesh.source.slices import MANAGED_BY

OURS = "endpointslice-controller.isthmus.dev"
SOURCE_SERVICE = "multicluster.kubernetes.io/service-name"
HEADLESS = "service.kubernetes.io/headless"


class OwnerReference(msgspec.Struct, frozen=True, gc=False):
    """metav1.OwnerReference."""

    apiVersion: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class OwnedMeta(ObjectMeta, frozen=True, gc=False):
    """metav1.ObjectMeta with owners."""

    ownerReferences: tuple[OwnerReference, ...] = ()


class StoredSlice(EndpointSlice, frozen=True, gc=False, kw_only=True):
    """An EndpointSlice of this cluster."""

    metadata: OwnedMeta

    @property
    def ours(self) -> bool:
        """Whether it is one that the tracker made."""
        return self.metadata.labels.get(MANAGED_BY) == OURS


class StoredGlobalService(GlobalService, frozen=True, gc=False, kw_only=True):
    """A GlobalService."""

    metadata: OwnedMeta


def owned_by_service(name: str, uid: str) -> OwnerReference:
    """Returns the reference that makes an object go when its Service goes."""
    return OwnerReference("v1", "Service", name, uid, controller=True)


def plain(value: Any) -> Any:
    """Returns a struct as JSON values, without what is None."""
    return _without_none(msgspec.to_builtins(value))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value
