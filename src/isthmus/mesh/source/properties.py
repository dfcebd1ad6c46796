"""One cluster's ClusterProperties (About API, KEP-2149) -> what it tells the others of itself. Pure.

Policies select clusters by them, so a value counts where it can be the value of a label; the API allows 128 kB of
anything, and the rest is said once and left out. Invariants: what is told follows from the objects as they are now and
not from their order; nobody but the configuration says what a cluster is called, so `cluster.clusterset.k8s.io` counts
only where it says the same. Rejected: shortening or hashing long values, which two clusters could share by chance.
"""

import msgspec

from isthmus.kube.resources import CLUSTER_PROPERTIES, Resource
from isthmus.kube.schema import KubeObject
from isthmus.kube.watch import Change, Gone, Put, Snapshot
from isthmus.mesh.source.reports import Report, Reports
from isthmus.model.endpoint import Cluster
from isthmus.wire.kvstore import MAX_PROPERTIES, property_fault

VERSIONS: tuple[Resource, ...] = (CLUSTER_PROPERTIES, msgspec.structs.replace(CLUSTER_PROPERTIES, version="v1alpha1"))
"""Those that are understood, the best first; they differ in nothing."""

UNUSABLE = "cannot be told to other clusters; it is left out"
TOO_MANY = f"is one of more than {MAX_PROPERTIES} properties; it is left out"

_KIND = CLUSTER_PROPERTIES.kind


class PropertySpec(msgspec.Struct, frozen=True, gc=False):
    """ClusterPropertySpec."""

    value: str = ""


class ClusterProperty(KubeObject, frozen=True, gc=False, kw_only=True):
    """A fact about the cluster; its name is the property's."""

    spec: PropertySpec = PropertySpec()


class Properties:
    """What a cluster has; `cluster` is it as it is configured."""

    def __init__(self, cluster: Cluster) -> None:
        self._name = cluster.name
        self._usable: dict[str, str] = {}
        self._reports = Reports()
        self.cluster = cluster
        """The cluster with what it tells of itself."""

    def reports(self) -> list[Report]:
        """Returns the problems that were found since the last call."""
        return self._reports.take()

    def take(self, change: Change[ClusterProperty]) -> bool:
        """Takes a change of the cluster's properties; returns whether `cluster` is another one now."""
        match change:
            case Put(obj):
                self._put(obj)
            case Gone(obj):
                self._usable.pop(obj.metadata.name, None)
                self._reports.forget(_KIND, "", obj.metadata.name)
            case Snapshot(objects):
                self._usable.clear()
                self._reports.retain(_KIND, {("", obj.metadata.name) for obj in objects})
                for obj in objects:
                    self._put(obj)
        names = sorted(self._usable)
        left_out = set(names[MAX_PROPERTIES:])
        for name in names:
            problems = [("metadata.name", "", TOO_MANY)] if name in left_out else []
            self._reports.tell(_KIND, "", name, problems, aspect="number")
        told = {name: self._usable[name] for name in names[:MAX_PROPERTIES]}
        if told == self.cluster.properties:
            return False
        self.cluster = msgspec.structs.replace(self.cluster, properties=told)
        return True

    def _put(self, obj: ClusterProperty) -> None:
        name, value = obj.metadata.name, obj.spec.value
        fault = property_fault(name, value, cluster=self._name)
        problems = []
        if fault is None:
            self._usable[name] = value
        else:
            self._usable.pop(name, None)
            self._reports.tell(_KIND, "", name, [], aspect="number")
            field, reason = fault
            problems = [(field, value if field == "spec.value" else name, f"{reason}; {UNUSABLE}")]
        self._reports.tell(_KIND, "", name, problems)
