"""An API server as far as Multi-Cluster Services need one: it keeps objects, gives addresses, and its watch may lag."""

import itertools
from typing import Any

import msgspec

from isthmus.kube.resources import SERVICES, Resource
from isthmus.mesh.mcs.api import Api, OwnedMeta, Service, ServiceExport, ServiceImport, ServicePort, ServiceSpec
from isthmus.mesh.mcs.state import Apply, Objects, Read, Remove, Step
from isthmus.model.service import ServiceKey

API = Api(
    "v1beta1",
    exports=Resource("multicluster.x-k8s.io", "v1beta1", "serviceexports", "ServiceExport"),
    imports=Resource("multicluster.x-k8s.io", "v1beta1", "serviceimports", "ServiceImport"),
)
NOW = "2026-01-01T00:00:00Z"
MOST_STEPS = 12
"""For one Service, from any state to the right one: more is a quarrel with oneself."""

Held = dict[str, Any]
Change = tuple[str, ServiceKey, Any]


class Stale(Exception):
    """The server refuses what was planned from an older state: try again when the watch has told more."""


class Server:
    """Objects by kind and key as JSON; `late` are changes that the watch has not told yet.

    Fields of `unknown` are dropped, as by definitions of an older version.
    """

    def __init__(self, *, unknown: frozenset[str] = frozenset()) -> None:
        self.unknown = unknown
        self.held: dict[str, dict[ServiceKey, Held]] = {"exports": {}, "imports": {}, "services": {}}
        self.late: list[Change] = []
        self.asked = 0
        """Requests that would have written, whether or not they changed anything."""
        self._versions = itertools.count(1)
        self._addresses = itertools.count(1)

    def export(self, key: ServiceKey, **spec: Any) -> None:
        """A user exports a Service, or changes that."""
        self._put("exports", key, {"spec": spec}, created="2026-01-01T00:00:00Z")

    def service(self, key: ServiceKey, **spec: Any) -> None:
        """A user makes a Service."""
        self._put("services", key, {"spec": spec})

    def hand_made(self, key: ServiceKey) -> None:
        """A user makes a ServiceImport."""
        self._put("imports", key, {"spec": {"type": "ClusterSetIP", "ports": []}})

    def delete(self, kind: str, key: ServiceKey) -> None:
        """Somebody deletes an object."""
        gone = self.held[kind].pop(key, None)
        if gone is not None:
            self.late.append((kind, key, None))

    def tell(self, objects: Objects, count: int | None = None) -> set[ServiceKey]:
        """Lets the watch tell its oldest changes, all if `count` is None; returns the Services that they concern."""
        told, self.late = (self.late, []) if count is None else (self.late[:count], self.late[count:])
        concerned: set[ServiceKey] = set()
        for kind, key, item in told:
            concerned |= _take(objects, kind, key, item)
        return concerned

    def listed(self, objects: Objects) -> set[ServiceKey]:
        """Tells everything anew, as after a lost watch."""
        self.late = []
        concerned: set[ServiceKey] = set()
        for kind, items in self.held.items():
            concerned |= objects.keep(kind, items)
            for key, item in items.items():
                concerned |= _take(objects, kind, key, _typed(kind, item))
        return concerned

    def settle(self, objects: Objects, key: ServiceKey) -> None:
        """Does what is planned for a Service until nothing is. Raises Stale."""
        objects.forgive(key)
        for _ in range(MOST_STEPS):
            step = objects.plan(key, now=NOW)
            if step is None:
                return
            self.do(objects, step)
        raise AssertionError(f"no end for {key}: {objects.plan(key, now=NOW)}")

    def do(self, objects: Objects, step: Step) -> None:
        """Does one step, as the follower does. Raises Stale."""
        self.asked += not isinstance(step, Read)
        match step:
            case Read(key):
                found = self.held["services"].get(key)
                if found is None:
                    objects.drop_service(key)
                else:
                    objects.put_service(_typed("services", found))
            case Remove(resource, key, uid):
                kind = "services" if resource is SERVICES else "imports"
                found = self.held[kind].get(key)
                if found is not None and found["metadata"]["uid"] == uid:
                    self.delete(kind, key)
                (objects.drop_service if kind == "services" else objects.drop_import)(key)
            case Apply():
                self._apply(objects, step)

    def _apply(self, objects: Objects, step: Apply) -> None:
        kind = {SERVICES: "services", API.exports: "exports", API.imports: "imports"}[step.resource]
        namespace, name = step.key
        held = self.held[kind].get((namespace, name))
        if step.status:
            if held is None or held["metadata"]["uid"] != step.body["metadata"]["uid"]:
                raise Stale
            status = {part: value for part, value in step.body["status"].items() if part not in self.unknown}
            body = {"spec": held["spec"], "status": status}
            answer = self._put(kind, (namespace, name), body, meta=held["metadata"])
        else:
            body = {"spec": {part: value for part, value in step.body["spec"].items() if part not in self.unknown}}
            if kind == "services":
                body["spec"] |= self._addresses_of(body["spec"], held)
            if held is not None and "status" in held:
                body["status"] = held["status"]
            answer = self._put(kind, (namespace, name), body, meta=step.body["metadata"])
        objects.settle(step, answer)

    def _addresses_of(self, spec: Held, held: Held | None) -> Held:
        if held is not None:
            same = {part: held["spec"][part] for part in ("clusterIP", "clusterIPs", "ipFamilies")}
            if (same["clusterIP"] == "None") != (spec.get("clusterIP") == "None"):
                raise Stale  # an address cannot be taken back
            return same
        address = spec.get("clusterIP") or f"10.96.0.{next(self._addresses)}"
        return {"clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"]}

    def _put(self, kind: str, key: ServiceKey, body: Held, *, meta: Held | None = None, created: str = "") -> Any:
        version = next(self._versions)
        before = self.held[kind].get(key)
        kept = before["metadata"] if before is not None else {"uid": f"uid-{version}", "creationTimestamp": created}
        said = {part: (meta or {}).get(part, {}) for part in ("labels", "annotations")}
        made = {
            **kept,
            **said,
            "ownerReferences": (meta or {}).get("ownerReferences", []),
            "namespace": key[0],
            "name": key[1],
        }
        fresh: Held = {"metadata": made, **body}
        if before is not None and _same(before, fresh):
            return _typed(kind, before)  # nothing changed: no new version, and nothing to tell
        made["resourceVersion"] = str(version)
        self.held[kind][key] = fresh
        item = _typed(kind, fresh)
        self.late.append((kind, key, item))
        return item


def _same(before: Held, fresh: Held) -> bool:
    kept = {**before, "metadata": {**before["metadata"], "resourceVersion": ""}}
    return kept == {**fresh, "metadata": {**fresh["metadata"], "resourceVersion": ""}}


def _typed(kind: str, item: Held) -> Any:
    types: dict[str, Any] = {"exports": ServiceExport, "imports": ServiceImport, "services": Service}
    api = API.imports.api_version if kind == "imports" else ""
    word = API.imports.kind if kind == "imports" else ""
    return msgspec.convert({**item, "apiVersion": api, "kind": word}, types[kind])


def _take(objects: Objects, kind: str, key: ServiceKey, item: Any) -> set[ServiceKey]:
    concerned: ServiceKey | None = key
    match kind, item:
        case "exports", None:
            objects.drop_export(key)
        case "exports", _:
            objects.put_export(item)
        case "imports", None:
            objects.drop_import(key)
        case "imports", _:
            objects.put_import(item)
        case _, None:
            concerned = objects.drop_service(key)
        case _, _:
            concerned = objects.put_service(item)
    return set() if concerned is None else {concerned}


def service(name: str = "web", *, ports: tuple[ServicePort, ...] = (ServicePort(80, "http"),), **spec: Any) -> Service:
    """Returns a Service of namespace shop with an address."""
    given = {"clusterIP": "10.96.0.1", "clusterIPs": ("10.96.0.1",), "ipFamilies": ("IPv4",), **spec}
    meta = OwnedMeta(name=name, namespace="shop", uid=f"uid-{name}")
    return Service(metadata=meta, spec=ServiceSpec(ports=ports, **given))
