"""What the tracker knows when it writes objects of its own cluster: the mesh, and the objects as they are.

Pure: changes go in, and what has to be looked at again is noted (`take_*`); nothing is decided here. Invariants: what
is held depends on the objects as they are now, not on the order in which they came; a cluster that has not told all it
has since we started is `unheard`, and then what the stored objects say of it stays; an object that we wrote is never
taken back by a watch that comes late. Rejected: planning from the events themselves, which is wrong after the first one
that is lost.
"""

from collections.abc import Mapping, Sequence

import msgspec

from isthmus.kube.meshobjects import MeshCluster
from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.schema import KubeObject, Namespace, Service
from isthmus.mesh.control.facts import OwnService, own_service, own_slice
from isthmus.mesh.control.objects import StoredGlobalService, StoredSlice
from isthmus.mesh.source.slices import SERVICE_NAME, SOURCE_CLUSTER
from isthmus.model.mesh import (
    ClusterLeft,
    ClusterSeen,
    ClusterSynced,
    MeshEvent,
    ServiceGone,
    ServiceTold,
    SliceGone,
    SliceTold,
)
from isthmus.model.sharing import SharedService, SharedSlice
from isthmus.services.draining import percent_left
from isthmus.services.settings import namespace_is_global

Key = tuple[str, str]
"""(namespace, name); the namespace of a cluster is ""."""


class Member(msgspec.Struct, frozen=True):
    """A cluster as the fleet has it; `state` is Syncing, Synced or Degraded, `synced` in Unix seconds."""

    name: str
    id: int
    state: str
    reason: str = ""
    nodes: int = 0
    identities: int = 0
    endpoints: int = 0
    synced: float | None = None


class Dirty(msgspec.Struct):
    """What has to be looked at again."""

    clusters: set[str] = msgspec.field(default_factory=set)
    services: set[Key] = msgspec.field(default_factory=set)


class World:
    """All of it; `own` is the name of the own cluster."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.members: dict[str, Member] = {}
        self.members_known = False
        """Whether `members` are all: a cluster that is not among them is none."""
        self.kept: Mapping[str, str] = {}
        """Clusters that may be members all the same, and why that is not known."""
        self.heard: set[str] = set()
        """Clusters that have told everything once."""
        self.stale_since: dict[str, float] = {}
        self.stale: frozenset[str] = frozenset()
        self.services: dict[Key, OwnService] = {}
        self.drained: dict[str, int] = {}
        """Per cent that is left of clusters that are drained."""
        self.mesh_clusters: dict[str, MeshCluster] = {}
        self.global_services: dict[Key, StoredGlobalService] = {}
        self.mirrored: dict[Key, StoredSlice] = {}
        """EndpointSlices that are ours."""
        self.failed: dict[Key, frozenset[str]] = {}
        """Clusters that Services lost all backends of, as was told; who comes back from there is told too."""
        self._shut: set[str] = set()
        """Namespaces that are not global."""
        self._shared: dict[Key, dict[str, SharedService]] = {}
        self._slices: dict[tuple[str, Key], SharedSlice] = {}
        self._slices_of: dict[Key, set[tuple[str, Key]]] = {}
        self._mirrored_of: dict[Key, set[Key]] = {}
        self._dirty = Dirty()

    # -- reading -----------------------------------------------------------------------------------------------

    def take_clusters(self) -> set[str]:
        """Returns which MeshClusters have to be looked at again since the last call."""
        found, self._dirty.clusters = self._dirty.clusters, set()
        return found

    def take_services(self) -> set[Key]:
        """Returns which Services have to be looked at again since the last call."""
        found, self._dirty.services = self._dirty.services, set()
        return found

    def touch_all(self) -> None:
        """Has everything looked at again that there is, or that there should be."""
        self._dirty.clusters |= {*self.members, *self.mesh_clusters}
        self._dirty.services |= {*self.services, *self.global_services, *self._mirrored_of}

    def unheard(self, cluster: str) -> bool:
        """Whether a cluster is a member, and has not told all that it has yet."""
        return cluster not in self.heard and (cluster in self.members or not self.members_known)

    def shared(self, key: Key) -> Mapping[str, SharedService]:
        """Returns what other clusters say of a Service, by their names."""
        return self._shared.get(key, {})

    def slices(self, key: Key) -> list[SharedSlice]:
        """Returns who answers for a Service in all clusters, ours included, in a stable order."""
        return [self._slices[place] for place in sorted(self._slices_of.get(key, ()))]

    def mirrored_of(self, key: Key) -> dict[Key, StoredSlice]:
        """Returns the EndpointSlices of ours that belong to a Service."""
        return {place: self.mirrored[place] for place in self._mirrored_of.get(key, ())}

    def services_shared_by(self, cluster: str) -> int:
        """Returns how many Services a cluster shares."""
        if cluster == self.own:
            return sum(service.settings.shared for service in self.services.values())
        return sum(cluster in told and told[cluster].shared for told in self._shared.values())

    # -- the mesh ----------------------------------------------------------------------------------------------

    def tell(self, events: Sequence[MeshEvent]) -> None:
        """Takes what is told of the clusters."""
        for event in events:
            match event:
                case ServiceTold(service) if service.cluster != self.own:
                    self._shared.setdefault(service.key, {})[service.cluster] = service
                    self._touch(service.key)
                    self._dirty.clusters.add(service.cluster)
                case ServiceGone(cluster, key) if cluster != self.own:
                    self._unshare(cluster, key)
                    self._dirty.clusters.add(cluster)
                case SliceTold(found) if found.cluster != self.own:
                    self._put_slice(found)
                case SliceGone(cluster, key) if cluster != self.own:
                    self._drop_slice((cluster, key))
                case ClusterSynced(name):
                    if name not in self.heard:
                        self.heard.add(name)
                        self._touch_services()
                case ClusterLeft(name):
                    self._forget(name)
                case ClusterSeen(name, since, _):
                    if since is None:
                        self.stale_since.pop(name, None)
                    else:
                        self.stale_since[name] = since
                case _:
                    pass

    def observe(self, members: Sequence[Member], *, known: bool, now: float, patience: float) -> None:
        """Takes how the clusters are; `known` if those are all, `now` in Unix seconds.

        A cluster whose source has failed for longer than `patience` (seconds, 0: never) is stale.
        """
        found = {member.name: member for member in members}
        changed = {name for name in {*found, *self.members} if found.get(name) != self.members.get(name)}
        if known and not self.members_known:
            changed |= {*self.mesh_clusters}
            self._touch_services()
        states = {name for name in changed if _state(found.get(name)) != _state(self.members.get(name))}
        self.members, self.members_known = found, known or self.members_known
        self._dirty.clusters |= changed
        stale = frozenset(name for name, since in self.stale_since.items() if 0 < patience <= now - since)
        drained = self._drains(now)
        if stale != self.stale or drained != self.drained or states:
            self.stale, self.drained = stale, drained
            self._touch_services()

    def _drains(self, now: float) -> dict[str, int]:
        found = {}
        for name, cluster in self.mesh_clusters.items():
            drain = cluster.spec.drain
            if drain is not None:
                found[name] = percent_left(drain.since, drain.over, now=now)[0]
        return {name: left for name, left in found.items() if left < 100}

    def _forget(self, cluster: str) -> None:
        self.heard.discard(cluster)
        self.stale_since.pop(cluster, None)
        for key in [key for key, told in self._shared.items() if cluster in told]:
            self._unshare(cluster, key)
        for place in [place for place in self._slices if place[0] == cluster]:
            self._drop_slice(place)
        self._dirty.clusters.add(cluster)
        self._touch_services()

    def _unshare(self, cluster: str, key: Key) -> None:
        told = self._shared.get(key, {})
        if told.pop(cluster, None) is not None:
            self._touch(key)
        if not told:
            self._shared.pop(key, None)

    # -- the own cluster ---------------------------------------------------------------------------------------

    def on_services(self, change: Change[Service]) -> None:
        """Takes a change of the own cluster's Services."""
        match change:
            case Put(obj):
                self._put_service(obj)
            case Gone(obj):
                self._drop_service((obj.metadata.namespace, obj.metadata.name))
            case Snapshot(objects):
                present = {(obj.metadata.namespace, obj.metadata.name) for obj in objects}
                for key in [key for key in self.services if key not in present]:
                    self._drop_service(key)
                for obj in objects:
                    self._put_service(obj)

    def _put_service(self, obj: Service) -> None:
        key = (obj.metadata.namespace, obj.metadata.name)
        service = own_service(obj, namespace_global=key[0] not in self._shut)
        if service is None:
            self._drop_service(key)
        elif service != self.services.get(key):
            self.services[key] = service
            self._touch(key)
            self._dirty.clusters.add(self.own)

    def _drop_service(self, key: Key) -> None:
        if self.services.pop(key, None) is not None:
            self._dirty.services.add(key)  # also where nothing is written of it: what was said of it is forgotten
            self._dirty.clusters.add(self.own)

    def on_namespaces(self, change: Change[Namespace]) -> None:
        """Takes a change of the own cluster's namespaces."""
        before = set(self._shut)
        match change:
            case Put(obj):
                self._put_namespace(obj)
            case Gone(obj):
                self._shut.discard(obj.metadata.name)
            case Snapshot(objects):
                self._shut.clear()
                for obj in objects:
                    self._put_namespace(obj)
        changed = before ^ self._shut
        if changed:
            for key, service in list(self.services.items()):
                if key[0] in changed:
                    self.services[key] = service.judged(namespace_global=key[0] not in self._shut)
                    self._touch(key)
                    self._dirty.clusters.add(self.own)

    def _put_namespace(self, obj: Namespace) -> None:
        if namespace_is_global(obj.metadata.annotations)[0]:
            self._shut.discard(obj.metadata.name)
        else:
            self._shut.add(obj.metadata.name)

    def on_slices(self, change: Change[StoredSlice]) -> None:
        """Takes a change of the own cluster's EndpointSlices: its backends, and what we mirrored."""
        match change:
            case Put(obj):
                self._put_stored_slice(obj)
            case Gone(obj):
                self._drop_stored_slice((obj.metadata.namespace, obj.metadata.name))
            case Snapshot(objects):
                present = {(obj.metadata.namespace, obj.metadata.name) for obj in objects}
                local = {place[1] for place in self._slices if place[0] == self.own}
                for key in [*(local - present), *(set(self.mirrored) - present)]:
                    self._drop_stored_slice(key)
                for obj in objects:
                    self._put_stored_slice(obj, whole=True)

    def _put_stored_slice(self, obj: StoredSlice, *, whole: bool = False) -> None:
        key = (obj.metadata.namespace, obj.metadata.name)
        if not obj.ours:
            self._unmirror(key)
            found = own_slice(obj, cluster=self.own)
            if found is None:
                self._drop_slice((self.own, key))
            else:
                self._put_slice(found)
            return
        before = self.mirrored.get(key)
        if before is not None and not whole and _late(obj, before):
            return
        self._drop_slice((self.own, key))
        self._unmirror(key)
        self.mirrored[key] = obj
        service = _service_of(obj)
        self._mirrored_of.setdefault(service, set()).add(key)
        self._touch(service)

    def _drop_stored_slice(self, key: Key) -> None:
        self._drop_slice((self.own, key))
        self._unmirror(key)

    def _unmirror(self, key: Key) -> None:
        before = self.mirrored.pop(key, None)
        if before is None:
            return
        service = _service_of(before)
        keys = self._mirrored_of[service]
        keys.discard(key)
        if not keys:
            del self._mirrored_of[service]
        self._touch(service)

    def on_mesh_clusters(self, change: Change[MeshCluster]) -> None:
        """Takes a change of the MeshClusters."""
        match change:
            case Put(obj):
                self._put_mesh_cluster(obj)
            case Gone(obj):
                self._drop_mesh_cluster(obj.metadata.name)
            case Snapshot(objects):
                present = {obj.metadata.name for obj in objects}
                for name in [name for name in self.mesh_clusters if name not in present]:
                    self._drop_mesh_cluster(name)
                for obj in objects:
                    self._put_mesh_cluster(obj, whole=True)

    def _put_mesh_cluster(self, obj: MeshCluster, *, whole: bool = False) -> None:
        name = obj.metadata.name
        before = self.mesh_clusters.get(name)
        if before is not None and not whole and _late(obj, before):
            return
        self.mesh_clusters[name] = obj
        self._dirty.clusters.add(name)

    def _drop_mesh_cluster(self, name: str) -> None:
        if self.mesh_clusters.pop(name, None) is not None:
            self._dirty.clusters.add(name)

    def on_global_services(self, change: Change[StoredGlobalService]) -> None:
        """Takes a change of the GlobalServices."""
        match change:
            case Put(obj):
                self._put_global_service(obj)
            case Gone(obj):
                self._drop_global_service((obj.metadata.namespace, obj.metadata.name))
            case Snapshot(objects):
                present = {(obj.metadata.namespace, obj.metadata.name) for obj in objects}
                for key in [key for key in self.global_services if key not in present]:
                    self._drop_global_service(key)
                for obj in objects:
                    self._put_global_service(obj, whole=True)

    def _put_global_service(self, obj: StoredGlobalService, *, whole: bool = False) -> None:
        key = (obj.metadata.namespace, obj.metadata.name)
        before = self.global_services.get(key)
        if before is not None and not whole and _late(obj, before):
            return
        self.global_services[key] = obj
        self._touch(key)

    def _drop_global_service(self, key: Key) -> None:
        if self.global_services.pop(key, None) is not None:
            self._touch(key)

    # -- inside ------------------------------------------------------------------------------------------------

    def _put_slice(self, found: SharedSlice) -> None:
        place = (found.cluster, found.key)
        before = self._slices.get(place)
        if before == found:
            return
        if before is not None and before.service_key != found.service_key:
            self._drop_slice(place)
        self._slices[place] = found
        self._slices_of.setdefault(found.service_key, set()).add(place)
        self._touch(found.service_key)

    def _drop_slice(self, place: tuple[str, Key]) -> None:
        before = self._slices.pop(place, None)
        if before is None:
            return
        places = self._slices_of[before.service_key]
        places.discard(place)
        if not places:
            del self._slices_of[before.service_key]
        self._touch(before.service_key)

    def _touch(self, key: Key) -> None:
        # Only what is here concerns us: another cluster's thousand Services that this one does not have cost nothing.
        if key in self.services or key in self.global_services or key in self._mirrored_of:
            self._dirty.services.add(key)

    def _touch_services(self) -> None:
        self._dirty.services |= {*self.services, *self.global_services, *self._mirrored_of}


def _state(member: Member | None) -> str:
    return member.state if member is not None else ""


def _service_of(obj: StoredSlice) -> Key:
    return obj.metadata.namespace, obj.metadata.labels.get(SERVICE_NAME, "")


def _late(obj: KubeObject, known: KubeObject) -> bool:
    """Whether an object is an older state than the one that is known; versions that are no numbers tell nothing.

    Never asked of a whole list: an etcd that was restored counts from an earlier number.
    """
    version, before = obj.metadata.resourceVersion, known.metadata.resourceVersion
    return version.isdecimal() and before.isdecimal() and int(version) < int(before)


def source_of(obj: StoredSlice) -> str:
    """Returns the cluster that one of our EndpointSlices was mirrored from."""
    return obj.metadata.labels.get(SOURCE_CLUSTER, "")
