"""Recorded values: what Cilium writes is read, and what it was seen to take is still what we write."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from isthmus.model.endpoint import Cluster
from isthmus.model.sharing import (
    ServicePort,
    SharedEndpoint,
    SharedExport,
    SharedPort,
    SharedService,
    SharedSlice,
)
from isthmus.wire import kvstore
from isthmus.wire.kvstore import ConfigKey, DataKey, Kind, Membership

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "cilium-kvstore.json").read_text())
WRITTEN = {item["name"]: item for item in VECTORS["written"]}
ACCEPTED = {item["name"]: item for item in VECTORS["accepted"]}
TION = Cluster("tion", 2)

HTTP, DNS = SharedPort("http", 6, 8080, "kubernetes.io/h2c"), SharedPort("dns", 17, 5353)
PORTS = (ServicePort("http", 6, 80), ServicePort("dns", 17, 53), ServicePort("assoc", 132, 9))
EXPORT = SharedExport(
    "tion",
    "shop",
    "web",
    created="2026-01-02T03:04:05Z",
    ports=(ServicePort("http", 6, 80, "kubernetes.io/h2c"), ServicePort("", 17, 53)),
    session_affinity="ClientIP",
    affinity_seconds=60,
    ip_families=("IPv4", "IPv6"),
    internal_traffic_policy="Local",
    traffic_distribution="PreferSameZone",
    labels={"team": "shop"},
    annotations={"example.com/owner": "shop"},
)
DB = SharedExport("tion", "shop", "db", created="2026-01-02T03:04:05Z", type="Headless")
SLICE = SharedSlice(
    "tion",
    "shop",
    "web-abcde",
    "web",
    4,
    (
        SharedEndpoint("10.2.1.4", node="tion-worker", hostname="web-0", zone="west-1"),
        SharedEndpoint("10.2.1.5", ready=False, serving=True, terminating=True),
        SharedEndpoint("10.2.1.6"),
    ),
    (HTTP, SharedPort("", 17, 53)),
)


def read(item: dict[str, str]) -> Any:
    key, value = item["key"].encode(), base64.b64decode(item["value"])
    match kvstore.parse_key(key):
        case ConfigKey(cluster):
            return kvstore.decode_membership(key, value, cluster=cluster)
        case DataKey(Kind.SLICES, "tion") as found:
            return kvstore.decode_slice(key, value, place=found.place, cluster="tion", cluster_id=2)
        case DataKey(Kind.SERVICES, "tion") as found:
            return kvstore.decode_service(key, value, place=found.place, cluster="tion", cluster_id=2)
        case DataKey(Kind.EXPORTS, "tion") as found:
            return kvstore.decode_export(key, value, place=found.place, cluster="tion")
    raise AssertionError(item["key"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("config mode=", Membership(TION)),
        ("config mode=services-and-endpointslices", Membership(TION, slices=True, exports=True)),
        ("config mode=endpointslices-only", Membership(TION, slices=True, services=False, exports=True)),
        ("config cached", Membership(TION, cached=True)),
        ("config bare", Membership(TION, canaries=False)),
        ("slice", SLICE),
        (
            "slice IPv6",
            SharedSlice(
                "tion", "shop", "web-six", "web", 6, (SharedEndpoint("fd02::9"),), (SharedPort("assoc", 132, 9),)
            ),
        ),
        ("slice empty", SharedSlice("tion", "shop", "web-empty", "web", 4, (), ())),
        ("export", EXPORT),
        ("export, fields of earlier releases", EXPORT),
        ("export headless", DB),
    ],
)
def test_what_cilium_writes_means_here_what_it_means_there(name: str, expected: object) -> None:
    assert read(WRITTEN[name]) == expected


def test_a_whole_service_of_cilium_becomes_a_slice_for_each_family_and_set_of_ports() -> None:
    found = read(WRITTEN["service"])

    assert found.service == SharedService(
        "tion",
        "shop",
        "web",
        cluster_ips=("172.20.2.7", "fd00::7"),
        ports=(ServicePort("dns", 17, 53), ServicePort("http", 6, 80)),
        labels={"app": "web"},
        selector={"app": "web"},
    )
    assert {(e.address, e.hostname, e.zone, part.ports) for part in found.slices for e in part.endpoints} == {
        ("10.2.1.4", "web-0", "west-1", (SharedPort("dns", 17, 5353), SharedPort("http", 6, 8080))),
        ("10.2.2.9", "", "west-2", (SharedPort("http", 6, 8081),)),
        ("fd02::9", "", "", (SharedPort("assoc", 132, 9), SharedPort("http", 6, 8080))),
    }


@pytest.mark.parametrize(
    ("name", "shared", "backends"),
    [
        ("service headless, port without a name", True, 1),
        ("service not shared", False, 0),
        ("service nulls", True, 0),
        ("service many", True, 50),
    ],
)
def test_whole_services_of_cilium_of_every_kind_are_read(name: str, shared: bool, backends: int) -> None:
    found = read(WRITTEN[name])

    assert found.service.shared is shared
    assert sum(len(part.endpoints) for part in found.slices) == backends


def test_a_hundred_endpoints_of_cilium_are_read() -> None:
    assert [e.address for e in read(WRITTEN["slice of 100"]).endpoints] == [f"10.2.9.{n}" for n in range(100)]


def ours() -> dict[str, tuple[bytes, bytes]]:
    """What is written today of the facts that the accepted values were written of."""
    written: dict[str, tuple[bytes, bytes]] = {}
    for name, membership in (
        ("own", Membership(TION, slices=True, services=True, exports=True, whole=True)),
        ("cached", Membership(TION, cached=True, slices=True, services=False, exports=True, whole=True)),
        ("plain", Membership(TION)),
    ):
        written[f"config {name}"] = kvstore.config_key("tion"), kvstore.encode_membership(membership)
    ports = (HTTP, DNS, SharedPort("assoc", 132, 9))
    first, terminating, _ = SLICE.endpoints
    four = SharedSlice(
        "tion",
        "shop",
        "web-abcde",
        "web",
        4,
        (first, terminating, SharedEndpoint("10.2.1.6", ready=False, serving=False)),
        ports,
        weight=50,
    )
    six = SharedSlice("tion", "shop", "web-six", "web", 6, (SharedEndpoint("fd02::9"),), (HTTP,))
    empty = SharedSlice("tion", "shop", "web-empty", "web", 4, (), ())
    plain = SharedSlice("tion", "shop", "plain-1", "plain", 4, (SharedEndpoint("10.2.1.7"),), (SharedPort("", 6, 80),))
    for found in (four, six, empty, plain):
        key = kvstore.object_key(Kind.SLICES, "tion", found.key, cached=False)
        written[f"slice {found.name}"] = key, kvstore.encode_slice(key, found, cluster_id=2)
    for name, slices, more in (
        (
            "web",
            [four, six, empty],
            {"cluster_ips": ("172.20.2.7", "fd00::7"), "labels": {"app": "web"}, "selector": {"app": "web"}},
        ),
        ("headless", [plain], {"headless": True}),
        ("hidden", [], {"shared": False}),
    ):
        service = SharedService("tion", "shop", name, ports=PORTS, **more)
        key = kvstore.object_key(Kind.SERVICES, "tion", service.key, cached=False)
        written[f"service {name}"] = key, kvstore.encode_service(key, service, slices, cluster_id=2)
    for export in (
        SharedExport(**{field: getattr(EXPORT, field) for field in EXPORT.__struct_fields__} | {"ports": PORTS}),
        DB,
        SharedExport(
            "tion", "shop", "plain", created="2026-01-02T03:04:05.123456Z", ports=(ServicePort("", 6, 80, "http"),)
        ),
    ):
        key = kvstore.object_key(Kind.EXPORTS, "tion", export.key, cached=False)
        written[f"export {export.name}"] = key, kvstore.encode_export(key, export)
    return written


def test_what_we_write_is_still_what_cilium_was_seen_to_accept() -> None:
    found = ours()

    assert found.keys() == ACCEPTED.keys()
    for name, (key, value) in found.items():
        recorded = base64.b64decode(ACCEPTED[name]["value"])
        assert key.decode() == ACCEPTED[name]["key"]
        if name.startswith("slice"):
            # The frame is the business of whichever zstd there is.
            inflate = zstandard.ZstdDecompressor().decompress
            value, recorded = inflate(value), inflate(recorded)
        assert value == recorded, name
