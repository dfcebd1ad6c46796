"""What is known of exports and of the objects that follow from them, and what has to be written for one of them next.

A machine without clock or socket: facts go in, `plan` says what comes next for a Service, what was done goes in again.
Invariants: nothing is taken away because of what was not told yet. A cluster that an import names, and that is a member
and has not told everything since the start, still exports what the import says; a namespace that is not known is not
there; an answer and a watch may overtake each other, and the newer one counts. What a user made by hand (an import
without our mark, a Service that is not owned by it) is never changed or deleted. Rejected: caches of all Services, of
which nine in ten are never exported.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.kube.resources import SERVICES, Resource
from isthmus.mesh.mcs import conditions, desired
from isthmus.mesh.mcs.api import (
    PREFIX,
    Api,
    ImportingFrom,
    Service,
    ServiceExport,
    ServiceImport,
    derived_name,
    is_ours,
)
from isthmus.mesh.mcs.told import Told
from isthmus.model.service import ServiceKey
from isthmus.model.sharing import SharedExport
from isthmus.services.exports import Merged, merge
from isthmus.services.settings import namespace_is_global

Json = dict[str, Any]


class Read(msgspec.Struct, frozen=True):
    """Read the own Service of this key, and tell `put_service` or `drop_service`."""

    key: ServiceKey


class Apply(msgspec.Struct, frozen=True):
    """Apply an object, or with `status` its status; `mark` stands for what the status says, apart from times."""

    resource: Resource
    body: Json
    status: bool = False
    mark: bytes = b""

    @property
    def key(self) -> ServiceKey:
        """Returns namespace and name."""
        return self.body["metadata"]["namespace"], self.body["metadata"]["name"]


class Remove(msgspec.Struct, frozen=True):
    """Delete this very object."""

    resource: Resource
    key: ServiceKey
    uid: str


Step = Read | Apply | Remove
_Object = ServiceExport | ServiceImport | Service


class Objects:
    """The objects of the own cluster that matter, through one session with its API server."""

    def __init__(self, api: Api, told: Told) -> None:
        self.api = api
        self._told = told
        self._namespaces: dict[str, bool] = {}
        self._exports: dict[ServiceKey, ServiceExport] = {}
        self._imports: dict[ServiceKey, ServiceImport] = {}
        self._services: dict[ServiceKey, Service | None] = {}
        """Of exported Services alone; None is one that is known not to be there."""
        self._derived: dict[ServiceKey, Service] = {}
        """By their own names."""
        self._settled: dict[tuple[str, ServiceKey], tuple[bytes, bytes]] = {}
        """Digests of what was applied last, and of what the server made of it."""
        self._refused: dict[ServiceKey, tuple[str, str]] = {}

    # Facts

    def put_namespace(self, name: str, annotations: dict[str, str]) -> set[ServiceKey]:
        """Takes a namespace; returns the Services that this concerns."""
        shared = namespace_is_global(annotations)[0]
        if self._namespaces.get(name) is shared:
            return set()
        self._namespaces[name] = shared
        return self._within(name)

    def drop_namespace(self, name: str) -> set[ServiceKey]:
        """Forgets a namespace."""
        return self._within(name) if self._namespaces.pop(name, None) is not None else set()

    def put_export(self, item: ServiceExport, *, listed: bool = False) -> ServiceKey:
        """Takes a ServiceExport; what is `listed` counts in any case, here and below (`_is_older`)."""
        key = _key(item)
        held = self._exports.get(key)
        if held is not None and held.metadata.uid != item.metadata.uid:
            self._services.pop(key, None)
        if listed or not _is_older(item, held):
            self._exports[key] = item
        return key

    def drop_export(self, key: ServiceKey) -> None:
        """Forgets a ServiceExport."""
        self._exports.pop(key, None)
        self._services.pop(key, None)
        self._settled.pop(("export status", key), None)

    def put_import(self, item: ServiceImport, *, listed: bool = False) -> ServiceKey:
        """Takes a ServiceImport."""
        key = _key(item)
        if listed or not _is_older(item, self._imports.get(key)):
            self._imports[key] = item
        return key

    def drop_import(self, key: ServiceKey) -> None:
        """Forgets a ServiceImport."""
        self._imports.pop(key, None)
        for place in ("import", "import status", "derived"):
            self._settled.pop((place, key), None)

    def put_service(self, item: Service, *, listed: bool = False) -> ServiceKey | None:
        """Takes a Service; returns the Service of the export or import that it concerns, None if it concerns none."""
        key = _key(item)
        if key in self._exports and (listed or not _is_older(item, self._services.get(key))):
            self._services[key] = item
        if key[1].startswith(PREFIX):
            if listed or not _is_older(item, self._derived.get(key)):
                self._derived[key] = item
            owner = _owner(item)
            return None if owner is None else (key[0], owner)
        return key if key in self._exports else None

    def drop_service(self, key: ServiceKey) -> ServiceKey | None:
        """Forgets a Service; returns as `put_service`."""
        if key in self._exports:
            self._services[key] = None
        gone = self._derived.pop(key, None)
        if gone is not None:
            owner = _owner(gone)
            return None if owner is None else (key[0], owner)
        return key if key in self._exports else None

    def keep(self, kind: str, found: Iterable[ServiceKey]) -> set[ServiceKey]:
        """Forgets what a whole list of objects of a kind does not have; returns what that is."""
        kept = set(found)
        if kind == "exports":
            gone = self._exports.keys() - kept
            for key in gone:
                self.drop_export(key)
            return gone
        if kind == "imports":
            gone = self._imports.keys() - kept
            for key in gone:
                self.drop_import(key)
            return gone
        # A Service that is exported and not in the list is known not to be there.
        lost = (self._derived.keys() | self._exports.keys()) - kept
        return {concerned for key in lost if (concerned := self.drop_service(key)) is not None}

    def keep_namespaces(self, names: Iterable[str]) -> set[ServiceKey]:
        """Forgets namespaces that are not in a whole list."""
        keys: set[ServiceKey] = set()
        for name in self._namespaces.keys() - set(names):
            keys |= self.drop_namespace(name)
        return keys

    def refuse(self, key: ServiceKey, reason: str, message: str) -> None:
        """Notes why there is no derived Service, which is told; `plan` asks for none until `forgive`."""
        self._refused[key] = (reason, message)

    def forgive(self, key: ServiceKey) -> bool:
        """Forgets that; returns whether there was something to forget."""
        return self._refused.pop(key, None) is not None

    def concerns(self, key: ServiceKey) -> bool:
        """Whether anything is known of a Service that is exported or imported."""
        return key in self._exports or key in self._imports or bool(self._told.of(key))

    def foreign(self, key: ServiceKey) -> bool:
        """Whether there is a ServiceImport that somebody made by hand."""
        found = self._imports.get(key)
        return found is not None and not is_ours(found)

    def refused(self, key: ServiceKey) -> bool:
        """Whether there is no derived Service, for a reason."""
        return key in self._refused

    def settle(self, step: Apply, answer: _Object) -> None:
        """Notes what the server made of what was applied."""
        match answer:
            case ServiceExport():
                self._settled["export status", self.put_export(answer)] = (step.mark, _digest(answer.status))
            case ServiceImport() if step.status:
                self._settled["import status", self.put_import(answer)] = (step.mark, _digest(answer.status))
            case ServiceImport():
                key = self.put_import(answer)
                self._settled["import", key] = (_digest(step.body), _content(answer))
            case Service():
                self.put_service(answer)
                key = (answer.metadata.namespace, _owner(answer) or "")
                self._settled["derived", key] = (_digest(step.body), _content(answer))

    # What they come to

    def keys(self) -> set[ServiceKey]:
        """Returns all Services that there may be something to do for."""
        return self._told.keys() | self._exports.keys() | {k for k, item in self._imports.items() if is_ours(item)}

    def importing_from(self, clusters: Iterable[str]) -> set[ServiceKey]:
        """Returns the imports that name one of these clusters."""
        names = set(clusters)
        return {
            key
            for key, item in self._imports.items()
            if any(status.cluster in names for status in item.status.clusters)
        }

    def export(self, key: ServiceKey) -> ServiceExport | None:
        """Returns a ServiceExport."""
        return self._exports.get(key)

    def local(self, key: ServiceKey) -> Service | None:
        """Returns the Service that the own cluster exports, None if it exports none (or may not)."""
        service = self._services.get(key) if key in self._exports else None
        shared = self._namespaces.get(key[0]) is True
        return service if shared and conditions.invalid(service) is None else None

    def derived(self, key: ServiceKey) -> Service | None:
        """Returns the derived Service of an import, None if there is none of ours."""
        found = self._derived.get((key[0], derived_name(key)))
        return found if found is not None and found.derived_from(key[1]) else None

    def copied(self, key: ServiceKey) -> tuple[Service, Service, Merged] | None:
        """Returns local Service, derived Service and merge if the local slices are to be copied to the derived one."""
        local, derived = self.local(key), self.derived(key)
        if local is None or derived is None:
            return None
        merged = merge(self._known(key))
        if merged is None or desired.lends_selector(local, merged):
            return None
        return local, derived, merged

    def plan(self, key: ServiceKey, *, now: str) -> Step | None:
        """Returns what to do next for a Service, None if all is as it should be; `now` is RFC 3339."""
        export = self._exports.get(key)
        if export is not None and key not in self._services:
            return Read(key)
        shared = self._namespaces.get(key[0])
        if shared is None:
            return None
        known = merge(self._known(key))
        if export is not None and (step := self._tell_export(key, export, known, now=now)) is not None:
            return step
        found = self._imports.get(key)
        if found is not None and (found.metadata.deletionTimestamp or not is_ours(found)):
            return None
        merged = known
        if found is not None and shared:
            waiting = [one.cluster for one in found.status.clusters if self._told.pending(one.cluster)]
            if waiting:
                merged = merge([*self._known(key), *(desired.remembered(found, cluster=name) for name in waiting)])
        if merged is None or not shared:
            return self._remove(key, found)
        return self._import(key, found, merged) or self._tell_import(key, merged, now=now)

    def _known(self, key: ServiceKey) -> list[SharedExport]:
        """Returns the exports of a Service that were told, the own one included."""
        local, export = self.local(key), self._exports.get(key)
        own = [] if local is None or export is None else [desired.own_export(local, export, cluster=self._told.own)]
        return [*self._told.of(key), *own]

    def _import(self, key: ServiceKey, found: ServiceImport | None, merged: Merged) -> Step | None:
        derived = self.derived(key)
        if derived is not None and desired.must_be_made_again(derived, merged):
            return None if derived.metadata.deletionTimestamp else Remove(SERVICES, _key(derived), derived.metadata.uid)
        ips = () if derived is None else tuple(ip for ip in derived.spec.clusterIPs if ip != "None")
        body = desired.import_body(key, merged, api=self.api, ips=ips)
        if found is None or not self._is_settled(("import", key), body, found):
            return Apply(self.api.imports, body)
        occupied = self._derived.get((key[0], derived_name(key)))
        if occupied is not None and derived is None:
            self.refuse(key, "Pending", f"Service {derived_name(key)} exists and was not derived from this import")
            return None
        if (derived is not None and derived.metadata.deletionTimestamp) or key in self._refused:
            return None
        local = self.local(key)
        body = desired.derived_body(key, merged, owner=found, local=local, held=derived, own=self._told.own)
        if derived is None or not self._is_settled(("derived", key), body, derived):
            return Apply(SERVICES, body)
        return None

    def _remove(self, key: ServiceKey, found: ServiceImport | None) -> Step | None:
        """Takes away what we made: the derived Service first, so that nobody is left without an owner."""
        derived = self.derived(key)
        if derived is not None and not derived.metadata.deletionTimestamp:
            return Remove(SERVICES, _key(derived), derived.metadata.uid)
        if found is not None:
            return Remove(self.api.imports, key, found.metadata.uid)
        return None

    def _tell_export(self, key: ServiceKey, export: ServiceExport, merged: Merged | None, *, now: str) -> Step | None:
        shared = self._namespaces.get(key[0]) is True
        wanted = conditions.of_export(self._services.get(key), merged, shared=shared)
        held = export.status.conditions
        mark = _digest(wanted)
        # A server may drop what its definition of the kind does not have.
        said = self._settled.get(("export status", key)) == (mark, _digest(export.status))
        if export.metadata.deletionTimestamp or said or conditions.export_is_told(held, wanted):
            return None
        stamped = conditions.stamped(held, wanted, generation=export.metadata.generation, now=now)
        return _status(self.api.exports, export, {"conditions": stamped}, mark=mark)

    def _tell_import(self, key: ServiceKey, merged: Merged, *, now: str) -> Step | None:
        found = self._imports.get(key)
        if found is None:
            return None
        wanted = conditions.of_import(merged, ips=found.spec.ips, refusal=self._refused.get(key))
        clusters = tuple(ImportingFrom(name) for name in merged.clusters)
        mark = _digest((clusters, wanted))
        if self._settled.get(("import status", key)) == (mark, _digest(found.status)):
            return None
        if found.status.clusters == clusters and conditions.import_is_told(found.status.conditions, wanted):
            return None
        generation = found.metadata.generation
        stamped = conditions.stamped(found.status.conditions, wanted, generation=generation, now=now)
        told = {"clusters": [{"cluster": name} for name in merged.clusters], "conditions": stamped}
        return _status(self.api.imports, found, told, mark=mark)

    def _is_settled(self, place: tuple[str, ServiceKey], body: Json, held: ServiceImport | Service) -> bool:
        """Whether an object is what the server made of this body when we applied it last, or looks as if it were."""
        now = (_digest(body), _content(held))
        if place not in self._settled and _looks_like(held, body):
            self._settled[place] = now  # of an earlier life
        return self._settled.get(place) == now

    def _within(self, namespace: str) -> set[ServiceKey]:
        return {key for key in self.keys() if key[0] == namespace}


def _is_older(item: _Object, held: _Object | None) -> bool:
    """Whether an object was overtaken: an answer may come later than what the watch tells, and the reverse.

    Versions are numbers of one sequence on every server that there is (KEP-5504); what is none is taken as it comes.
    Never asked of a whole list: a server that was restored from a copy counts from an earlier number.
    """
    if held is None or held.metadata.uid != item.metadata.uid:
        return False
    new, old = item.metadata.resourceVersion, held.metadata.resourceVersion
    return new.isdecimal() and old.isdecimal() and int(new) < int(old)


def _owner(item: Service) -> str | None:
    """Returns the name of the ServiceImport that a Service was derived from."""
    return next((one.name for one in item.metadata.ownerReferences if one.kind == "ServiceImport"), None)


def _status(resource: Resource, item: ServiceExport | ServiceImport, status: Json, *, mark: bytes) -> Apply:
    """Returns the application of a status; the UID keeps it from a new object of the same name."""
    meta = {"namespace": item.metadata.namespace, "name": item.metadata.name, "uid": item.metadata.uid}
    body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, "status": status}
    return Apply(resource, body, status=True, mark=mark)


def _key(item: _Object) -> ServiceKey:
    return item.metadata.namespace, item.metadata.name


def _content(item: ServiceImport | Service) -> bytes:
    """Returns a digest of what of an object is compared: not of what changes with every write."""
    meta = item.metadata
    owners = item.metadata.ownerReferences if isinstance(item, Service) else ()
    return _digest((meta.uid, meta.labels, meta.annotations, owners, item.spec))


def _looks_like(held: ServiceImport | Service, body: Json) -> bool:
    """Whether an object says what `body` does, no more and no less, apart from what the server decides."""
    wanted = msgspec.convert(body, type(held))
    if (held.metadata.labels, held.metadata.annotations) != (wanted.metadata.labels, wanted.metadata.annotations):
        return False
    if not (isinstance(held, Service) and isinstance(wanted, Service)):
        return held.spec == wanted.spec
    given = msgspec.structs.replace(
        wanted.spec,
        clusterIP=wanted.spec.clusterIP or held.spec.clusterIP,
        clusterIPs=held.spec.clusterIPs,
        ipFamilies=wanted.spec.ipFamilies or held.spec.ipFamilies,
    )
    return held.spec == given and held.metadata.ownerReferences == wanted.metadata.ownerReferences


def _digest(body: Any) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(body, order="deterministic"), digest_size=16).digest()
