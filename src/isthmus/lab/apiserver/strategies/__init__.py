"""The rules of single kinds, looked up by resource. A resource without an entry has none of its own."""

from isthmus.lab.apiserver.kinds import Resource
from isthmus.lab.apiserver.strategies.apps import DeploymentHooks, WorkloadHooks
from isthmus.lab.apiserver.strategies.base import Hooks, Settings
from isthmus.lab.apiserver.strategies.namespace import NamespaceHooks
from isthmus.lab.apiserver.strategies.netpol import NetworkPolicyHooks
from isthmus.lab.apiserver.strategies.pod import PodHooks
from isthmus.lab.apiserver.strategies.service import ServiceHooks
from isthmus.lab.apiserver.strategies.small import (
    ConfigMapHooks,
    EndpointsHooks,
    EndpointSliceHooks,
    EventHooks,
    LeaseHooks,
    NodeHooks,
    SecretHooks,
)

__all__ = ["Hooks", "Settings", "hooks_for"]

_HOOKS: dict[str, type[Hooks]] = {
    "namespaces": NamespaceHooks,
    "pods": PodHooks,
    "services": ServiceHooks,
    "endpoints": EndpointsHooks,
    "nodes": NodeHooks,
    "events": EventHooks,
    "configmaps": ConfigMapHooks,
    "secrets": SecretHooks,
    "deployments.apps": DeploymentHooks,
    "replicasets.apps": WorkloadHooks,
    "networkpolicies.networking.k8s.io": NetworkPolicyHooks,
    "leases.coordination.k8s.io": LeaseHooks,
    "endpointslices.discovery.k8s.io": EndpointSliceHooks,
}


def hooks_for(resource: Resource, settings: Settings) -> Hooks:
    """Returns the hooks of a resource."""
    return _HOOKS.get(resource.qualified, Hooks)(resource, settings)
