"""The rules of single kinds, looked up by resource. A resource without an entry has none of its own."""

from isthmus.lab.apiserver.schema.kinds import Resource
from isthmus.lab.apiserver.strategies.access import BindingHooks, RoleHooks
from isthmus.lab.apiserver.strategies.apps import DeploymentHooks, WorkloadHooks
from isthmus.lab.apiserver.strategies.base import Hooks, Settings
from isthmus.lab.apiserver.strategies.disruption import DisruptionBudgetHooks, PriorityClassHooks
from isthmus.lab.apiserver.strategies.ingress import IngressClassHooks, IngressHooks
from isthmus.lab.apiserver.strategies.job import JobHooks
from isthmus.lab.apiserver.strategies.namespace import NamespaceHooks
from isthmus.lab.apiserver.strategies.netpol import NetworkPolicyHooks
from isthmus.lab.apiserver.strategies.pod import PodHooks
from isthmus.lab.apiserver.strategies.service import ServiceHooks
from isthmus.lab.apiserver.strategies.sets import ControllerRevisionHooks, DaemonSetHooks, StatefulSetHooks
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
    "statefulsets.apps": StatefulSetHooks,
    "daemonsets.apps": DaemonSetHooks,
    "controllerrevisions.apps": ControllerRevisionHooks,
    "jobs.batch": JobHooks,
    "ingresses.networking.k8s.io": IngressHooks,
    "ingressclasses.networking.k8s.io": IngressClassHooks,
    "poddisruptionbudgets.policy": DisruptionBudgetHooks,
    "priorityclasses.scheduling.k8s.io": PriorityClassHooks,
    "roles.rbac.authorization.k8s.io": RoleHooks,
    "clusterroles.rbac.authorization.k8s.io": RoleHooks,
    "rolebindings.rbac.authorization.k8s.io": BindingHooks,
    "clusterrolebindings.rbac.authorization.k8s.io": BindingHooks,
    "networkpolicies.networking.k8s.io": NetworkPolicyHooks,
    "leases.coordination.k8s.io": LeaseHooks,
    "endpointslices.discovery.k8s.io": EndpointSliceHooks,
}


def hooks_for(resource: Resource, settings: Settings) -> Hooks:
    """Returns the hooks of a resource."""
    return _HOOKS.get(resource.qualified, Hooks)(resource, settings)
