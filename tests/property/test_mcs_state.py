"""Imports follow exports: whatever happens, in whatever order it is heard of, the end depends on what is there."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.mesh.mcs.api import derived_name
from isthmus.mesh.mcs.state import Objects
from isthmus.mesh.mcs.told import Told
from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterJoined, ClusterLeft, ClusterSynced, ExportGone, ExportTold
from isthmus.model.sharing import ServicePort, SharedExport
from isthmus.services.exports import merge
from tests.support.mcs import API, Server, Stale

OWN, OTHERS = "tion", ("koornacht", "corellia")
KEYS = (("shop", "web"), ("shop", "db"), ("lab", "web"))
clusters = st.sampled_from(OTHERS)
keys = st.sampled_from(KEYS)
ports = st.sampled_from(
    [(ServicePort("http", 6, 80),), (ServicePort("http", 6, 81), ServicePort("dns", 17, 53)), (ServicePort("", 6, 80),)]
)
exports = st.builds(
    lambda cluster, key, created, found, kind, labels: SharedExport(
        cluster, *key, created=created, ports=found, type=kind, labels=labels
    ),
    clusters,
    keys,
    st.sampled_from(["2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z"]),
    ports,
    st.sampled_from(["ClusterSetIP", "ClusterSetIP", "Headless"]),
    st.sampled_from([{}, {"team": "red"}, {"team": "not a label!"}]),
)
specs = st.sampled_from(
    [
        {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        {"selector": {"app": "b"}, "ports": [{"name": "web", "port": 80}], "clusterIP": "None"},
        {"ports": [{"name": "http", "port": 81}]},
        {"type": "ExternalName"},
    ]
)
namespaces = st.sampled_from(["shop", "lab"])
events = st.one_of(
    st.tuples(st.just("told"), exports),
    st.tuples(st.just("gone"), st.tuples(clusters, keys)),
    st.tuples(st.just("left"), clusters),
    st.tuples(st.just("joined"), clusters),
    st.tuples(
        st.just("namespace"), st.tuples(st.sampled_from(["shop", "lab"]), st.sampled_from(["true", "false", ""]))
    ),
    st.tuples(st.just("export"), keys),
    st.tuples(st.just("unexport"), keys),
    st.tuples(st.just("service"), st.tuples(keys, specs)),
    st.tuples(st.just("unservice"), keys),
    st.tuples(st.just("delete derived"), keys),
    st.tuples(st.just("delete import"), keys),
    st.tuples(st.just("watch"), st.integers(0, 4)),
    st.tuples(st.just("work"), keys),
)


class World:
    """A server, a follower's knowledge of it, and what is true of the mesh."""

    def __init__(self) -> None:
        self.server = Server()
        self.told = Told(own=OWN)
        self.told.take([ClusterJoined(Cluster(OWN, 1)), *(ClusterJoined(Cluster(name, 9)) for name in OTHERS)])
        self.told.take([ClusterSynced(name) for name in OTHERS])
        self.objects = Objects(API, self.told)
        self.mesh: dict[tuple[str, tuple[str, str]], SharedExport] = {}
        self.shared: dict[str, bool] = {}
        self.dirty: set[tuple[str, str]] = set()
        for name in ("shop", "lab"):
            self.namespace(name, "true")

    def namespace(self, name: str, value: str) -> None:
        """A namespace takes part, or not; "" is one that is gone, with all that is in it."""
        if value:
            self.shared[name] = value == "true"
            self.dirty |= self.objects.put_namespace(name, {"clustermesh.cilium.io/global": value})
            return
        self.shared.pop(name, None)
        self.dirty |= self.objects.drop_namespace(name)
        for kind, items in self.server.held.items():
            for key in [key for key in items if key[0] == name]:
                self.server.delete(kind, key)

    def do(self, what: str, with_what: Any) -> None:
        """Lets something happen."""
        server = self.server
        match what, with_what:
            case "told", SharedExport() as export:
                self.mesh[export.cluster, export.key] = export
                self.take([ExportTold(export)])
            case "gone", (cluster, key):
                self.mesh.pop((cluster, key), None)
                self.take([ExportGone(cluster, key)])
            case "left", name:
                self.mesh = {place: export for place, export in self.mesh.items() if place[0] != name}
                self.take([ClusterLeft(name)])
            case "joined", name:
                self.take([ClusterJoined(Cluster(name, 9)), ClusterSynced(name)])
            case "namespace", (name, value):
                self.namespace(name, value)
            case "export", key if key[0] in self.shared:
                server.export(key)
            case "unexport", key:
                server.delete("exports", key)
            case "service", (key, spec) if key[0] in self.shared:
                server.delete("services", key)
                address = {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"]}
                server.service(key, **{**address, **spec})
            case "unservice", key:
                server.delete("services", key)
            case "delete derived", key:
                server.delete("services", (key[0], derived_name(key)))
            case "delete import", key:
                server.delete("imports", key)
            case "watch", count:
                self.dirty |= server.tell(self.objects, count)
            case "work", key:
                self.work(key)

    def work(self, key: tuple[str, str]) -> None:
        """Does what is to be done for a Service; if the server knows better, later."""
        self.dirty.discard(key)
        try:
            self.server.settle(self.objects, key)
        except Stale:
            self.dirty.add(key)

    def take(self, told: list[Any]) -> None:
        """The mesh tells something."""
        changed, names = self.told.take(told)
        self.dirty |= changed | self.objects.importing_from(names)

    def rest(self) -> None:
        """Everything is told, and everything that is to be done is done."""
        for _ in range(20):
            self.dirty |= self.server.tell(self.objects)
            if not self.dirty:
                return
            for key in sorted(self.dirty):
                self.work(key)
        raise AssertionError("there is no rest")

    def exported_here(self, key: tuple[str, str]) -> bool:
        """Whether the own cluster exports a Service that may be exported."""
        found = self.server.held["services"].get(key)
        valid = found is not None and found["spec"].get("type") != "ExternalName"
        return key in self.server.held["exports"] and valid and self.shared.get(key[0], False)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=30))
def test_at_rest_there_is_just_what_is_exported(happenings: list[tuple[str, Any]]) -> None:
    world = World()
    for what, with_what in happenings:
        world.do(what, with_what)
    world.rest()
    held = world.server.held
    for key in KEYS:
        told = [export for (_, name), export in world.mesh.items() if name == key]
        here = world.exported_here(key)
        wanted = world.shared.get(key[0], False) and (here or bool(told))
        found, derived = held["imports"].get(key), held["services"].get((key[0], derived_name(key)))
        assert (found is not None, derived is not None) == (wanted, wanted), key
        if found is None or derived is None:
            continue
        names = {export.cluster for export in told} | ({OWN} if here else set())
        assert {one["cluster"] for one in found["status"]["clusters"]} == names
        headless = found["spec"]["type"] == "Headless"
        assert (derived["spec"]["clusterIP"] == "None") == headless
        assert found["spec"].get("ips", []) == ([] if headless else derived["spec"]["clusterIPs"])
        assert derived["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]
        assert [port["port"] for port in derived["spec"]["ports"]] == [port["port"] for port in found["spec"]["ports"]]
        assert not here or len(told) > 0 or derived["metadata"]["labels"].get("team") is None
        if not here:
            merged = merge(told)
            assert merged is not None and found["spec"]["type"] == merged.type
    for key, export in held["exports"].items():
        conditions = {one["type"]: one["status"] for one in export["status"]["conditions"]}
        assert (conditions["Ready"] == "True") == world.exported_here(key)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=25))
def test_another_life_finds_nothing_to_do(happenings: list[tuple[str, Any]]) -> None:
    world = World()
    for what, with_what in happenings:
        world.do(what, with_what)
    world.rest()
    before, asked = {kind: dict(items) for kind, items in world.server.held.items()}, world.server.asked
    again = Objects(API, world.told)
    for name, shared in world.shared.items():
        again.put_namespace(name, {"clustermesh.cilium.io/global": "true" if shared else "false"})
    world.server.listed(again)
    for key in sorted(again.keys()):
        world.server.settle(again, key)
    assert (world.server.held, world.server.asked) == (before, asked)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=25), st.sampled_from(OTHERS))
def test_a_member_that_was_not_heard_yet_loses_nothing(happenings: list[tuple[str, Any]], silent: str) -> None:
    world = World()
    for what, with_what in happenings:
        world.do(what, with_what)
    world.rest()
    theirs = {key for (cluster, key) in world.mesh if cluster == silent and world.shared.get(key[0])}
    ports = {key: world.server.held["imports"][key]["spec"]["ports"] for key in theirs}
    told = Told(own=OWN)
    told.take([ClusterJoined(Cluster(name, 9)) for name in (OWN, *OTHERS)])
    told.take([ExportTold(export) for (cluster, _), export in world.mesh.items() if cluster != silent])
    told.take([ClusterSynced(name) for name in OTHERS if name != silent])
    again = Objects(API, told)
    for name, shared in world.shared.items():
        again.put_namespace(name, {"clustermesh.cilium.io/global": "true" if shared else "false"})
    world.server.listed(again)
    for key in sorted(again.keys()):
        world.server.settle(again, key)
    for key, before in ports.items():
        found = world.server.held["imports"][key]
        assert {"cluster": silent} in found["status"]["clusters"]
        assert all(port in found["spec"]["ports"] for port in before)
