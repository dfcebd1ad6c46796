"""What the zone answers, against a plain reading of the specification over a list of objects."""

import ipaddress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.lab.dns import data
from isthmus.lab.dns.directory import Directory
from isthmus.lab.dns.reverse import IN_ADDR, ReverseZone
from isthmus.lab.dns.zone import ServiceZone
from isthmus.wire import dns

DOMAIN = (b"cluster", b"local")
NAMESPACES = st.sampled_from(["a", "b"])
SERVICES = st.sampled_from(["web", "db", "x"])
HOSTS = st.sampled_from(["h-0", "h-1", ""])
ADDRESSES = st.sampled_from(["10.1.0.1", "10.1.0.2", "10.1.0.3", "fd00::1", "fd00::2"])
PORTS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["http", "sql", ""]), "port": st.sampled_from([80, 81]),
                           "protocol": st.sampled_from(["TCP", "UDP"])}), max_size=2,
)  # fmt: skip


def service(namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


CLUSTER_IPS = st.sampled_from(["10.96.0.1", "10.96.0.2", "fd01::1"])
SPECS = st.one_of(
    st.builds(lambda ips, ports: {"clusterIPs": ips, "clusterIP": ips[0], "ports": ports},
              st.lists(CLUSTER_IPS, min_size=1, max_size=2, unique=True), PORTS),
    st.builds(lambda ports, unready: {"clusterIP": "None", "ports": ports, "publishNotReadyAddresses": unready},
              PORTS, st.booleans()),
    st.just({"type": "ExternalName", "externalName": "web.a.svc.cluster.local"}),
)  # fmt: skip
ENDPOINTS = st.builds(
    lambda address, host, ready: {"addresses": [address], "conditions": {} if ready is None else {"ready": ready}}
    | ({"hostname": host} if host else {}),
    ADDRESSES, HOSTS, st.sampled_from([True, False, None]),
)  # fmt: skip
SLICES = st.builds(
    lambda namespace, name, number, endpoints, ports: {
        "metadata": {"namespace": namespace, "name": f"{name}-{number}", "labels": {data.SERVICE_LABEL: name}},
        "endpoints": endpoints, "ports": ports,
    },
    NAMESPACES, SERVICES, st.integers(0, 2), st.lists(ENDPOINTS, max_size=3), PORTS,
)  # fmt: skip
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("service"), st.builds(service, NAMESPACES, SERVICES, SPECS)),
        st.tuples(st.just("slice"), SLICES),
        st.tuples(st.just("drop service"), st.builds(service, NAMESPACES, SERVICES, st.just({}))),
        st.tuples(st.just("drop slice"), SLICES),
    ),
    max_size=15,
)


class Objects:
    """The objects as they are, in plain dicts."""

    def __init__(self) -> None:
        self.services: dict[tuple[str, str], dict[str, Any]] = {}
        self.slices: dict[tuple[str, str], dict[str, Any]] = {}

    def apply(self, what: str, item: dict[str, Any], directory: Directory) -> None:
        key = (item["metadata"]["namespace"], item["metadata"]["name"])
        packed = (key[0].encode(), key[1].encode())
        match what:
            case "service":
                self.services[key] = item
                found = data.service(item)
                assert found is not None
                directory.put_service(found)
            case "slice":
                self.slices[key] = item
                whole = data.endpoint_slice(item)
                assert whole is not None
                directory.put_slice(whole)
            case "drop service":
                self.services.pop(key, None)
                directory.drop_service(packed)
            case _:
                self.slices.pop(key, None)
                directory.drop_slice(packed)

    def ready(self, namespace: str, name: str) -> list[tuple[str, str, list[dict[str, Any]]]]:
        """(host label, address, ports) of what a Service publishes."""
        spec = self.services[namespace, name]["spec"]
        found = []
        for item in self.slices.values():
            meta = item["metadata"]
            if meta["namespace"] == namespace and meta["labels"][data.SERVICE_LABEL] == name:
                for row in item["endpoints"]:
                    if row["conditions"].get("ready") is not False or spec.get("publishNotReadyAddresses"):
                        address = row["addresses"][0]
                        host = row.get("hostname") or address.replace(".", "-").replace(":", "-")
                        found.append((host, address, item["ports"]))
        return found


def addresses(found: Any) -> set[str]:
    return {str(ipaddress.ip_address(record.data)) for record in found.records if record.type in (dns.A, dns.AAAA)}


def family(values: list[str], version: int) -> set[str]:
    return {value for value in values if ipaddress.ip_address(value).version == version}


@settings(max_examples=60)
@given(STEPS)
def test_answers_follow_from_the_objects(steps: list[tuple[str, dict[str, Any]]]) -> None:
    directory, objects = Directory(), Objects()
    for what, item in steps:
        objects.apply(what, item, directory)
    zone = ServiceZone(DOMAIN, directory)
    for namespace in ("a", "b"):
        for name in ("web", "db", "x"):
            check(zone, directory, objects, namespace, name)


def check(zone: ServiceZone, directory: Directory, objects: Objects, namespace: str, name: str) -> None:
    base = (name.encode(), namespace.encode(), b"svc", *DOMAIN)
    item = objects.services.get((namespace, name))
    found4, found6 = zone.find(base, dns.A), zone.find(base, dns.AAAA)
    if item is None:
        assert not found4.exists and not found6.exists
        return
    spec = item["spec"]
    if spec.get("type") == "ExternalName":
        assert [record.type for record in found4.records] == [dns.CNAME]
        assert found4.alias == (b"web", b"a", b"svc", *DOMAIN)
        return
    endpoints = objects.ready(namespace, name)
    expected = [row[1] for row in endpoints] if spec["clusterIP"] == "None" else spec["clusterIPs"]
    assert (addresses(found4), addresses(found6)) == (family(expected, 4), family(expected, 6))
    assert found4.exists == bool(expected)
    for host in {row[0] for row in endpoints}:
        mine = [row[1] for row in endpoints if row[0] == host]
        assert addresses(zone.find((host.encode(), *base), dns.A)) == family(mine, 4)
    for port, protocol in (("http", "TCP"), ("sql", "UDP"), ("sql", "TCP")):
        srv = zone.find((f"_{port}".encode(), f"_{protocol.lower()}".encode(), *base), dns.SRV)

        def named(rows: list[dict[str, Any]], asked: tuple[str, str] = (port, protocol)) -> list[int]:
            return [row["port"] for row in rows if (row["name"], row["protocol"]) == asked]

        if spec["clusterIP"] == "None":
            wanted = {(number, (host.encode(), *base)) for host, _, rows in endpoints for number in named(rows)}
        else:
            wanted = {(number, base) for number in named(spec["ports"])}
        got = {(found.data.port, found.data.target) for found in srv.records if isinstance(found.data, dns.Srv)}
        assert got == wanted
        assert srv.exists == bool(wanted)
        assert {record.name for record in srv.additionals} == {target for _port, target in wanted}
    if spec["clusterIP"] != "None":
        reverse = ReverseZone(IN_ADDR, zone, directory)
        for address in family(spec["clusterIPs"], 4):
            labels = (*(part.encode() for part in reversed(address.split("."))), *IN_ADDR)
            assert base in [record.data for record in reverse.find(labels, dns.PTR).records]


@settings(max_examples=60)
@given(STEPS)
def test_the_way_to_a_state_does_not_matter(steps: list[tuple[str, dict[str, Any]]]) -> None:
    """Indexes that were kept up to date equal those that are made anew."""
    directory, objects = Directory(), Objects()
    for what, item in steps:
        objects.apply(what, item, directory)
    fresh = Directory()
    for item in objects.services.values():
        found = data.service(item)
        assert found is not None
        fresh.put_service(found)
    for item in objects.slices.values():
        whole = data.endpoint_slice(item)
        assert whole is not None
        fresh.put_slice(whole)
    for text in ("10.1.0.1", "10.96.0.1", "fd00::1", "fd01::1"):
        address = ipaddress.ip_address(text).packed
        assert sorted(directory.services_at(address)) == sorted(fresh.services_at(address))
        assert sorted(directory.services_behind(address)) == sorted(fresh.services_behind(address))
    for namespace in (b"a", b"b"):
        assert directory.has_namespace(namespace) == fresh.has_namespace(namespace)


FIELDS = (
    f"metadata spec name namespace labels {data.SERVICE_LABEL} clusterIP clusterIPs ports endpoints addresses "
    "conditions ready hostname externalName type port"
).split()
TEXT = st.text(max_size=8) | st.sampled_from(["None", "10.0.0.1", "ExternalName"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["metadata", "spec", "endpoints", "ports"]), JSON))
def test_objects_that_make_no_sense_are_left_out(item: dict[str, Any]) -> None:
    directory = Directory()
    found, whole = data.service(item), data.endpoint_slice(item)
    if found is not None:
        directory.put_service(found)
    if whole is not None:
        directory.put_slice(whole)
    ServiceZone(DOMAIN, directory).find((b"a", b"a", b"svc", *DOMAIN), dns.A)
