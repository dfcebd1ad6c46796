"""Codecs of services, slices and exports: what goes in comes out, and no bytes bring a decoder down."""

import json
from ipaddress import IPv4Address, IPv6Address

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.endpoint import Cluster
from isthmus.model.mesh import ClusterSeen
from isthmus.model.sharing import (
    ServicePort,
    SharedEndpoint,
    SharedExport,
    SharedPort,
    SharedService,
    SharedSlice,
)
from isthmus.wire import kvstore
from isthmus.wire.kvstore import CodecError, DataKey, Kind, Membership, SeenKey, WholeKey
from isthmus.wire.mesh import slices_pb2
from tests.property.test_kvstore import clusters, json_like, label_keys, label_values, labels, names

KEY = b"cilium/test"
ports = st.integers(1, 65535)
protocols = st.sampled_from([6, 17, 132])
port_names = st.one_of(st.just(""), names)
app_protocols = st.sampled_from(["", "http", "kubernetes.io/h2c"])
v4 = st.integers(0x0A000000, 0x0AFFFFFF).map(lambda n: str(IPv4Address(n)))
v6 = st.integers(0xFD << 120, (0xFE << 120) - 1).map(lambda n: str(IPv6Address(n)))
service_ports = st.builds(ServicePort, port_names, protocols, ports, st.just(""))


@st.composite
def slices(draw: st.DrawFn, *, cluster: str = "c1", service: str | None = None) -> SharedSlice:
    version = draw(st.sampled_from([4, 6]))
    endpoints = st.builds(
        SharedEndpoint,
        v4 if version == 4 else v6,
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.one_of(st.just(""), names),
        st.one_of(st.just(""), names),
        label_values,
    )
    return SharedSlice(
        cluster=cluster,
        namespace=draw(names) if service is None else "ns",
        name=draw(names),
        service=service or draw(names),
        version=version,
        endpoints=tuple(draw(st.lists(endpoints, max_size=4))),
        ports=tuple(draw(st.lists(st.builds(SharedPort, port_names, protocols, ports, app_protocols), max_size=3))),
        weight=draw(st.sampled_from([0, 1, 100, 1000])),
    )


@given(slices(), st.integers(1, 255))
def test_slices_round_trip(shared, number):
    value = kvstore.encode_slice(KEY, shared, cluster_id=number)

    assert value == kvstore.encode_slice(KEY, shared, cluster_id=number), "the same slice is the same bytes"
    assert kvstore.decode_slice(KEY, value, place=shared.key, cluster="c1", cluster_id=number) == shared


@given(
    st.builds(
        SharedService,
        cluster=st.just("c1"),
        namespace=st.just("ns"),
        name=st.just("web"),
        cluster_ips=st.lists(v4, unique=True, min_size=1, max_size=2).map(tuple),
        ports=st.lists(service_ports, unique_by=lambda p: p.name, min_size=1, max_size=3).map(tuple),
        labels=labels,
        selector=labels,
    ),
    st.lists(slices(service="web"), max_size=3),
)
def test_service_records_hold_the_ready_backends_of_all_slices(service, parts):
    value = kvstore.encode_service(KEY, service, parts, cluster_id=7)

    read = kvstore.decode_service(KEY, value, place=("ns", "web"), cluster="c1", cluster_id=7)

    assert set(read.service.ports) == set(service.ports)
    assert set(read.service.cluster_ips) == set(service.cluster_ips)
    assert (read.service.labels, read.service.selector) == (service.labels, service.selector)
    ready = {endpoint.address for part in parts for endpoint in part.endpoints if endpoint.ready}
    found = [endpoint.address for part in read.slices for endpoint in part.endpoints]
    assert sorted(found) == sorted(ready), "each address once"
    assert all((":" in endpoint.address) == (p.version == 6) for p in read.slices for endpoint in p.endpoints)
    assert len({part.key for part in read.slices}) == len(read.slices)


@given(
    st.builds(
        SharedExport,
        cluster=st.just("c1"),
        namespace=names,
        name=names,
        created=st.datetimes().map(lambda when: when.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")),
        type=st.sampled_from(["ClusterSetIP", "Headless"]),
        ports=st.lists(st.builds(ServicePort, port_names, protocols, ports, app_protocols), max_size=3).map(tuple),
        session_affinity=st.sampled_from(["None", "ClientIP"]),
        affinity_seconds=st.integers(0, 86400),
        ip_families=st.lists(st.sampled_from(["IPv4", "IPv6"]), max_size=2, unique=True).map(tuple),
        internal_traffic_policy=st.sampled_from(["", "Cluster", "Local"]),
        traffic_distribution=st.sampled_from(["", "PreferClose", "PreferSameNode"]),
        labels=labels,
        annotations=st.dictionaries(label_keys, st.text(max_size=30), max_size=3),
    )
)
def test_exports_round_trip(export):
    value = kvstore.encode_export(KEY, export)

    assert kvstore.decode_export(KEY, value, place=export.key, cluster="c1") == export


@given(names, st.floats(0, 1e11), st.text(max_size=100))
def test_staleness_round_trips(name, since, reason):
    seen = ClusterSeen(name, since, reason)

    assert kvstore.decode_seen(KEY, kvstore.encode_seen(KEY, seen), cluster=name) == seen


@given(clusters, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_what_a_cluster_writes_round_trips(cluster, cached, services, exports, whole):
    membership = Membership(cluster, cached=cached, slices=True, services=services, exports=exports, whole=whole)

    assert kvstore.decode_membership(KEY, kvstore.encode_membership(membership), cluster=cluster.name) == membership


@given(clusters, names, names, st.booleans(), st.sampled_from([Kind.SERVICES, Kind.SLICES, Kind.EXPORTS]))
def test_keys_of_objects_round_trip(cluster: Cluster, namespace, name, cached, kind):
    key = kvstore.parse_key(kvstore.object_key(kind, cluster.name, (namespace, name), cached=cached))

    assert key == DataKey(kind, cluster.name, f"{namespace}/{name}", cached)
    assert key.place == (namespace, name)
    assert kvstore.parse_key(kvstore.seen_key(cluster.name)) == SeenKey(cluster.name)
    assert kvstore.parse_key(kvstore.whole_key(cluster.name)) == WholeKey(cluster.name)


VALID = SharedSlice(
    "c",
    "ns",
    "web-1",
    "web",
    4,
    (SharedEndpoint("10.3.0.1", node="n1", zone="a"), SharedEndpoint("10.3.0.2", ready=False)),
    (SharedPort("http", 6, 8080, "http"),),
    weight=20,
)
TEXT = zstandard.ZstdDecompressor().decompress(kvstore.encode_slice(KEY, VALID, cluster_id=3))
FIELDS = ["cluster", "namespace", "name", "frontends", "backends", "hostnames", "zones", "labels", "selector", "shared"]
FIELDS += ["clusterID", "ports", "type", "sessionAffinity", "sessionAffinityConfig", "ipFamilies", "annotations"]
FIELDS += ["exportCreationTimestamp", "staleSince", "reason", "10.3.0.1", "Port", "Protocol"]
named = st.recursive(
    json_like,
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=8),
    max_leaves=6,
)


@st.composite
def mutations(draw: st.DrawFn, text: bytes) -> bytes:
    """Valid bytes with a few of them changed, left out or added."""
    changed = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        match draw(st.integers(0, 3)):
            case 0:
                changed[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del changed[place : place + draw(st.integers(1, 8))]
            case 2:
                changed[place:place] = draw(st.binary(max_size=8))
            case _:
                del changed[place:]
    return bytes(changed)


def compressed(text: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(text)


def sizeless(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(text)


@given(
    st.one_of(
        st.binary(max_size=64),
        mutations(compressed(TEXT)),
        mutations(sizeless(TEXT)),
        mutations(TEXT).map(compressed),
        mutations(TEXT).map(sizeless),
        st.binary(max_size=200).map(compressed),
    )
)
def test_no_slice_raises_anything_but_a_codec_error(value):
    try:
        shared = kvstore.decode_slice(KEY, value, place=("ns", "web-1"), cluster="c", cluster_id=3)
    except CodecError:
        return
    # What was read can be told on, and read again as the same.
    again = kvstore.encode_slice(KEY, shared, cluster_id=3)
    assert kvstore.decode_slice(KEY, again, place=("ns", "web-1"), cluster="c", cluster_id=3) == shared
    shared.backends()


SERVICE = kvstore.encode_service(
    KEY,
    SharedService("c", "ns", "web", cluster_ips=("10.0.0.1",), ports=(ServicePort("http", 6, 80),)),
    [VALID],
    cluster_id=3,
)
EXPORT = kvstore.encode_export(
    KEY, SharedExport("c", "ns", "web", "2026-01-02T03:04:05Z", ports=(ServicePort("http", 6, 80),), affinity_seconds=3)
)
SEEN = kvstore.encode_seen(KEY, ClusterSeen("c", 12.5, "away"))


@given(
    st.one_of(
        st.binary(max_size=64),
        st.dictionaries(st.sampled_from(FIELDS), named, max_size=8).map(lambda value: json.dumps(value).encode()),
        mutations(SERVICE),
        mutations(EXPORT),
        mutations(SEEN),
    )
)
def test_no_json_raises_anything_but_a_codec_error(value):
    for decode in (
        lambda: kvstore.decode_service(KEY, value, place=("ns", "web"), cluster="c", cluster_id=3),
        lambda: kvstore.decode_export(KEY, value, place=("ns", "web"), cluster="c"),
        lambda: kvstore.decode_seen(KEY, value, cluster="c"),
    ):
        try:
            decode()
        except CodecError:
            continue


@given(st.integers(0, 2000))
def test_messages_have_the_bounds_of_an_api_server(count):
    record = slices_pb2.ClusterEndpointSlice(cluster="c", clusterID=3, namespace="ns", name="web-1", addressType="IPv4")
    record.labels["kubernetes.io/service-name"] = "web"
    for _ in range(count):
        record.endpoints.add(addresses=["10.3.0.1"])
    value = compressed(record.SerializeToString())

    try:
        kvstore.decode_slice(KEY, value, place=("ns", "web-1"), cluster="c", cluster_id=3)
    except CodecError as error:
        assert count > 1000, error
    else:
        assert count <= 1000
