"""An API server as plans see it: objects in dictionaries, and what a plan does to them."""

import itertools
from typing import Any

import msgspec

from isthmus.kube.meshobjects import MeshCluster
from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.resources import ENDPOINT_SLICES, GLOBAL_SERVICES, MESH_CLUSTERS, Resource
from isthmus.kube.schema import (
    EndpointConditions,
    EndpointOfSlice,
    EndpointPort,
    Namespace,
    ObjectMeta,
    Service,
    ServicePort,
    ServiceSpec,
)
from isthmus.mesh.control import clusters, global_services, mirrored
from isthmus.mesh.control.effects import Change, Create, Delete, Effect, Tell
from isthmus.mesh.control.objects import OwnedMeta, StoredGlobalService, StoredSlice
from isthmus.mesh.control.world import Key, Member, World
from isthmus.mesh.source.slices import SERVICE_NAME
from isthmus.model import sharing
from isthmus.model.mesh import ClusterSynced, ServiceTold, SliceTold
from isthmus.model.sharing import SharedEndpoint, SharedPort, SharedService, SharedSlice

NOW = 1_700_000_000.0
KEY = ("demo", "web")
_KINDS: dict[str, Any] = {
    MESH_CLUSTERS.plural: MeshCluster,
    GLOBAL_SERVICES.plural: StoredGlobalService,
    ENDPOINT_SLICES.plural: StoredSlice,
}


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


class Place:
    """A cluster: a world, the objects that are stored there, and what was said."""

    def __init__(self, own: str = "here") -> None:
        self.world = World(own)
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.told: list[Tell] = []
        self.mode = mirrored.HEADLESS_ONLY
        self.now = NOW
        self._versions = itertools.count(1)

    def members(self, *names: str, state: str = "Synced", known: bool = True) -> None:
        synced = NOW if state == "Synced" else None
        found = [Member(name, n, state, synced=synced) for n, name in enumerate((self.world.own, *names), 1)]
        self.observe(found, known=known)
        if state == "Synced":
            self.world.tell([ClusterSynced(member.name) for member in found])

    def observe(self, found: list[Member], *, known: bool = True) -> None:
        self.world.observe(found, known=known, now=self.now, patience=600)

    def put(self, resource: Any, body: dict[str, Any], *, namespace: str = "", name: str) -> None:
        meta = {**body["metadata"], "name": name, "resourceVersion": str(next(self._versions))}
        meta.setdefault("uid", f"uid-{meta['resourceVersion']}")
        if namespace:
            meta["namespace"] = namespace
        body = {**body, "metadata": meta}
        self.objects[resource.plural, namespace, name] = body
        self._show(resource.plural, Put(msgspec.convert(body, _KINDS[resource.plural])))

    def drop(self, resource: Any, name: str, *, namespace: str = "") -> None:
        body = self.objects.pop((resource.plural, namespace, name))
        self._show(resource.plural, Gone(msgspec.convert(body, _KINDS[resource.plural])))

    def load(self, objects: dict[tuple[str, str, str], dict[str, Any]]) -> None:
        """Takes the objects of a server that was there before."""
        self.world.on_mesh_clusters(Snapshot(()))
        self.objects = {}
        for (plural, namespace, name), body in objects.items():
            self.put(Resource("", "", plural, ""), body, namespace=namespace, name=name)

    def _show(self, plural: str, change: Any) -> None:
        take = {
            MESH_CLUSTERS.plural: self.world.on_mesh_clusters,
            GLOBAL_SERVICES.plural: self.world.on_global_services,
            ENDPOINT_SLICES.plural: self.world.on_slices,
        }
        take[plural](change)

    def apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Create(resource, namespace, name, body):
                    assert (resource.plural, namespace, name) not in self.objects
                    # A server keeps no status of a new object that has it as a subresource.
                    kept = {key: value for key, value in body.items() if key != "status"}
                    self.put(resource, kept, namespace=namespace, name=name)
                case Change(resource, namespace, name, patch, status, version):
                    before = self.objects[resource.plural, namespace, name]
                    assert version in ("", before["metadata"]["resourceVersion"])
                    assert set(patch) <= ({"status"} if status else {"metadata", "endpoints", "ports"})
                    self.put(resource, merged(before, patch), namespace=namespace, name=name)
                case Delete(resource, namespace, name, uid):
                    assert self.objects[resource.plural, namespace, name]["metadata"]["uid"] == uid
                    self.drop(resource, name, namespace=namespace)
                case Tell():
                    self.told.append(effect)

    def plans(self, key: Key) -> list[Effect]:
        return [
            *global_services.plan(
                self.world, key, now=self.now, enabled=self.mode != mirrored.OFF, slices=self.mode == mirrored.ALL
            ),
            *mirrored.plan(self.world, key, mode=self.mode),
        ]

    def settle(self) -> list[Effect]:
        """Does all that is due, as the tracker does; returns what it was."""
        done: list[Effect] = []
        for name in sorted(self.world.take_clusters()):
            effects = clusters.plan(self.world, name, now=self.now)
            self.apply(effects)
            done += effects
        for key in sorted(self.world.take_services()):
            effects = self.plans(key)
            self.apply(effects)
            failed = global_services.still_failed(self.world, key, effects)
            if failed:
                self.world.failed[key] = failed
            else:
                self.world.failed.pop(key, None)
            done += effects
        return done

    def reasons(self) -> list[str]:
        """Takes what was said since the last call."""
        told, self.told = self.told, []
        return [tell.reason for tell in told]

    def status(self, key: Key = KEY) -> Any:
        return self.world.global_services[key].status

    def used(self, key: Key = KEY) -> list[str]:
        return [entry.name for entry in self.status(key).clusters if entry.used]

    def mirrors(self) -> list[Any]:
        """What is mirrored here, sorted by name."""
        return [self.world.mirrored[key] for key in sorted(self.world.mirrored)]

    # -- the own cluster ---------------------------------------------------------------------------------------

    def service(
        self, key: Key = KEY, *, uid: str = "svc", ports: Any = None, cluster_ip: str = "10.0.0.1", **notes: str
    ) -> None:
        """Puts a Service; `notes` are annotations by their last word (`global_`, `affinity`, ...)."""
        self.world.on_services(Put(service(key, uid=uid, ports=ports, cluster_ip=cluster_ip, notes=notes)))

    def namespace(self, name: str, *, is_global: str = "true") -> None:
        meta = ObjectMeta(name, annotations={"clustermesh.cilium.io/global": is_global})
        self.world.on_namespaces(Put(Namespace(metadata=meta)))

    def backends(self, *ready: bool, key: Key = KEY) -> None:
        """Puts an EndpointSlice of this cluster with so many backends."""
        endpoints = tuple(
            EndpointOfSlice((f"10.9.0.{n}",), EndpointConditions(up, up, False), nodeName="node")
            for n, up in enumerate(ready, 1)
        )
        meta = OwnedMeta(f"{key[1]}-own", key[0], labels={SERVICE_NAME: key[1]})
        port = EndpointPort("http", "TCP", 8080)
        found = StoredSlice(metadata=meta, addressType="IPv4", endpoints=endpoints, ports=(port,))
        self.world.on_slices(Put(found))

    def slices_again(self, *objects: StoredSlice) -> None:
        self.world.on_slices(Snapshot(objects))

    # -- other clusters ----------------------------------------------------------------------------------------

    def remote(self, cluster: str, *ready: bool, key: Key = KEY, **fields: Any) -> None:
        """Tells a Service of another cluster and one slice of it."""
        ports = fields.pop("ports", (sharing.ServicePort("http", 6, 80),))
        self.world.tell([ServiceTold(SharedService(cluster, *key, ports=ports, **fields))])
        self.world.tell([SliceTold(remote_slice(cluster, *ready, key=key))])


def remote_slice(cluster: str, *ready: bool, key: Key = KEY, name: str = "a", **fields: Any) -> SharedSlice:
    number = sum(map(ord, cluster)) % 200
    endpoints = tuple(SharedEndpoint(f"10.{number}.0.{n}", up, up, False, "far") for n, up in enumerate(ready, 1))
    fields = {"version": 4, "endpoints": endpoints, "ports": (SharedPort("http", 6, 8080),), **fields}
    return SharedSlice(cluster, key[0], f"{key[1]}-{name}", key[1], **fields)


def service(key: Key, *, uid: str, ports: Any, cluster_ip: str, notes: dict[str, str]) -> Service:
    long = {
        "weight": "isthmus.dev/weight",
        "order": "isthmus.dev/affinity",
        "sync": "service.cilium.io/global-sync-endpoint-slices",
    }
    annotations = {long.get(word, f"service.cilium.io/{word.rstrip('_')}"): value for word, value in notes.items()}
    spec = ServiceSpec(clusterIP=cluster_ip, ports=ports if ports is not None else (ServicePort(80, "http"),))
    return Service(metadata=ObjectMeta(key[1], key[0], uid, annotations=annotations), spec=spec)
