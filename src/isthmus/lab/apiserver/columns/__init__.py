"""Which columns `kubectl get` shows for a resource: a table of definitions and the functions that fill the rows.

A definition is `Name`, or `Name+` for a column of `-o wide`, with `:type` where it is not a string.
"""

import datetime
from collections.abc import Callable
from typing import Any

import msgspec

from isthmus.lab.apiserver.columns import access, kinds, pod, workloads
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.schema.kinds import Resource

Row = Callable[[Json, datetime.datetime], list[Any]]


class Columns(msgspec.Struct, frozen=True):
    """Column definitions as meta.k8s.io/v1 has them, and the function that makes a row."""

    definitions: tuple[Json, ...]
    row: Row


def _columns(text: str, row: Row) -> Columns:
    definitions: list[Json] = []
    for word in text.split(","):
        name, _, kind = word.partition(":")
        wide = name.endswith("+")
        name = name.removesuffix("+")
        definitions.append(
            {
                "name": name,
                "type": kind or "string",
                "format": "name" if name == "Name" and not wide else "",
                "description": f"{name} of the object",
                "priority": 1 if wide else 0,
            }
        )
    return Columns(tuple(definitions), row)


_PLAIN = "Name,Created At:date"
_TABLES: dict[str, tuple[str, Row]] = {
    "pods": ("Name,Ready,Status,Restarts,Age,IP+,Node+,Nominated Node+,Readiness Gates+", pod.row),
    "namespaces": ("Name,Status,Age", kinds.namespace),
    "services": ("Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector+", kinds.service),
    "endpoints": ("Name,Endpoints,Age", kinds.endpoints),
    "nodes": (
        "Name,Status,Roles,Age,Version,Internal-IP+,External-IP+,OS-Image+,Kernel-Version+,Container-Runtime+",
        kinds.node,
    ),
    "events": (
        "Last Seen,Type,Reason,Object,Subobject+,Source+,Message,First Seen+,Count+:integer,Name+",
        kinds.event,
    ),
    "configmaps": ("Name,Data:integer,Age", kinds.config_map),
    "secrets": ("Name,Type,Data:integer,Age", kinds.secret),
    "serviceaccounts": ("Name,Secrets:integer,Age", kinds.service_account),
    "endpointslices.discovery.k8s.io": ("Name,AddressType,Ports,Endpoints,Age", kinds.endpoint_slice),
    "networkpolicies.networking.k8s.io": ("Name,Pod-Selector,Age", kinds.network_policy),
    "leases.coordination.k8s.io": ("Name,Holder,Age", kinds.lease),
    "deployments.apps": (
        "Name,Ready,Up-to-date:integer,Available:integer,Age,Containers+,Images+,Selector+",
        kinds.deployment,
    ),
    "statefulsets.apps": ("Name,Ready,Age,Containers+,Images+", workloads.stateful_set),
    "daemonsets.apps": (
        (
            "Name,Desired:integer,Current:integer,Ready:integer,Up-to-date:integer,Available:integer,Node Selector,Age,"
            "Containers+,Images+,Selector+"
        ),
        workloads.daemon_set,
    ),
    "controllerrevisions.apps": ("Name,Controller,Revision:integer,Age", workloads.controller_revision),
    "jobs.batch": (
        "Name,Status,Completions,Duration,Age,Containers+,Images+,Selector+",
        workloads.job,
    ),
    "poddisruptionbudgets.policy": (
        "Name,Min Available,Max Unavailable,Allowed Disruptions:integer,Age",
        workloads.disruption_budget,
    ),
    "priorityclasses.scheduling.k8s.io": (
        "Name,Value:integer,Global-Default:boolean,Age,PreemptionPolicy",
        workloads.priority_class,
    ),
    "ingresses.networking.k8s.io": ("Name,Class,Hosts,Address,Ports,Age", access.ingress),
    "ingressclasses.networking.k8s.io": ("Name,Controller,Parameters,Age", access.ingress_class),
    "rolebindings.rbac.authorization.k8s.io": ("Name,Role,Age,Users+,Groups+,ServiceAccounts+", access.binding),
    "clusterrolebindings.rbac.authorization.k8s.io": (
        "Name,Role,Age,Users+,Groups+,ServiceAccounts+",
        access.binding,
    ),
    "replicasets.apps": (
        "Name,Desired:integer,Current:integer,Ready:integer,Age,Containers+,Images+,Selector+",
        kinds.replica_set,
    ),
}


def columns_for(resource: Resource) -> Columns:
    """Returns the columns of a resource."""
    return resource.columns() or _columns(*_TABLES.get(resource.qualified, (_PLAIN, kinds.plain)))
