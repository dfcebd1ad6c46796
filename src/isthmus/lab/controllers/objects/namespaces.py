"""Namespaces."""

import msgspec

from isthmus.lab.controllers.objects.meta import Object


class NamespaceSpec(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NamespaceSpec."""

    finalizers: tuple[str, ...] = ()


class NamespaceCondition(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NamespaceCondition."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    lastTransitionTime: str = ""


class NamespaceStatus(msgspec.Struct, frozen=True, gc=False):
    """core/v1 NamespaceStatus."""

    phase: str = "Active"
    conditions: tuple[NamespaceCondition, ...] = ()


class Namespace(Object, frozen=True, gc=False, kw_only=True):
    """core/v1 Namespace."""

    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()
