"""What the controllers of a cluster see: one watch per resource, shared by all of them.

Kinds that the server does not serve (yet) are watched all the same: the watch is degraded, retried with growing pauses,
and what depends on it waits.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from isthmus.kube.client import Client
from isthmus.kube.events import EventRecorder
from isthmus.kube.resources import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    JOBS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
)
from isthmus.lab.controllers.objects.meta import Object
from isthmus.lab.controllers.objects.namespaces import Namespace
from isthmus.lab.controllers.objects.nodes import Lease, Node
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.services import Endpoints, EndpointSlice, Service
from isthmus.lab.controllers.objects.workloads import (
    ControllerRevision,
    DaemonSet,
    Deployment,
    Job,
    ReplicaSet,
    StatefulSet,
)
from isthmus.lab.controllers.performer import Performer
from isthmus.lab.controllers.store import Store

NODE_LEASES = "kube-node-lease"
ROOT_CA = "kube-root-ca.crt"


class World:
    """The stores of one cluster, and hands and voices for its controllers. `clock` gives seconds of the epoch."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.time) -> None:
        self.client = client
        self.clock = clock
        self.pods = Store(client, PODS, Pod)
        self.nodes = Store(client, NODES, Node)
        self.leases = Store(client, LEASES, Lease)
        self.namespaces = Store(client, NAMESPACES, Namespace)
        self.accounts = Store(client, SERVICE_ACCOUNTS, Object, metadata_only=True)
        self.root_cas = Store(
            client, CONFIG_MAPS, Object, field_selector=f"metadata.name={ROOT_CA}", metadata_only=True
        )
        self.services = Store(client, SERVICES, Service)
        self.slices = Store(client, ENDPOINT_SLICES, EndpointSlice)
        self.endpoints = Store(client, ENDPOINTS, Endpoints)
        self.deployments = Store(client, DEPLOYMENTS, Deployment)
        self.replica_sets = Store(client, REPLICA_SETS, ReplicaSet)
        self.stateful_sets = Store(client, STATEFUL_SETS, StatefulSet)
        self.daemon_sets = Store(client, DAEMON_SETS, DaemonSet)
        self.revisions = Store(client, CONTROLLER_REVISIONS, ControllerRevision)
        self.jobs = Store(client, JOBS, Job)
        self.stores: tuple[Store[Any], ...] = (
            self.pods,
            self.nodes,
            self.leases,
            self.namespaces,
            self.accounts,
            self.root_cas,
            self.services,
            self.slices,
            self.endpoints,
            self.deployments,
            self.replica_sets,
            self.stateful_sets,
            self.daemon_sets,
            self.revisions,
            self.jobs,
        )
        self.pods.index("node", lambda pod: (pod.spec.nodeName,) if pod.spec.nodeName else ())
        for store in (self.pods, self.replica_sets, self.revisions):
            store.index("namespace", _namespace)
            store.index("owner", _controller)
        for owners in (
            self.deployments,
            self.replica_sets,
            self.stateful_sets,
            self.daemon_sets,
            self.jobs,
            self.services,
            self.slices,
        ):
            owners.index("namespace", _namespace)
        self._by_resource = {store.resource: store for store in self.stores if store is not self.root_cas}
        self._recorders: dict[str, EventRecorder] = {}

    def store(self, resource: Resource) -> Store[Any] | None:
        """Returns the store that holds a whole resource."""
        return self._by_resource.get(resource)

    def recorder(self, component: str) -> EventRecorder:
        """Returns what writes Events as `component`."""
        return self._recorders.setdefault(component, EventRecorder(self.client, component))

    @property
    def recorders(self) -> Iterable[EventRecorder]:
        """All that write Events."""
        return self._recorders.values()

    def performer(self, component: str) -> Performer:
        """Returns hands for a controller that speaks as `component`."""
        return Performer(self.client, self.recorder(component), self._by_resource, clock=self.clock)


def _namespace(item: Object) -> tuple[str, ...]:
    return (item.metadata.namespace,)


def _controller(item: Object) -> tuple[str, ...]:
    owner = item.controller
    return (owner.uid,) if owner is not None else ()
