"""Values of services and slices as Cilium writes them, and what is refused and why."""

import json

import pytest
import zstandard

from isthmus.model.sharing import ServicePort, SharedEndpoint, SharedPort, SharedService, SharedSlice
from isthmus.wire import kvstore
from isthmus.wire.kvstore import CodecError, Kind
from isthmus.wire.mesh import slices_pb2

KEY = b"cilium/state/endpointslices/v1/cluster3/demo/web-x7k2p"
PLACE = ("demo", "web-x7k2p")


def test_keys_are_where_cilium_looks_for_them():
    place = ("demo", "web")
    key = kvstore.object_key
    assert key(Kind.SERVICES, "c1", place, cached=False) == b"cilium/state/services/v1/c1/demo/web"
    assert key(Kind.SLICES, "c1", place, cached=True) == b"cilium/cache/endpointslices/v1/c1/demo/web"
    assert key(Kind.EXPORTS, "c1", place, cached=False) == b"cilium/state/serviceexports/v1/c1/demo/web"
    assert kvstore.synced_key("c1", Kind.SLICES, cached=False) == b"cilium/synced/c1/cilium/state/endpointslices/v1"


def test_what_agents_need_lies_before_what_is_for_others():
    facts = [
        kvstore.config_key("z"),
        kvstore.HEARTBEAT,
        kvstore.whole_key("z"),
        kvstore.seen_key("z"),
        kvstore.node_key("z", "z", cached=False),
        kvstore.endpoint_key("z", "fd00::1", cached=False),
        kvstore.identity_key("z", 65537, cached=False),
        *(kvstore.object_key(Kind.SLICES, "z", ("z", "z"), cached=cached) for cached in (False, True)),
    ]
    others = [
        *(kvstore.object_key(kind, "a", ("a", "a"), cached=False) for kind in (Kind.SERVICES, Kind.EXPORTS)),
        kvstore.synced_key("a", Kind.NODES, cached=False),
    ]

    assert max(facts) < kvstore.FOR_OTHERS <= min(others)


@pytest.mark.parametrize(
    "key",
    [
        b"cilium/state/endpointslices/v1/c1/demo",
        b"cilium/state/endpointslices/v1/c1/demo/a/b",
        b"cilium/state/endpointslices/v1/c1//web",
        b"cilium/cache/services/v1/C1/demo/web",
        b"cilium/cache/serviceexports/v1/c1/demo/Web",
        b"cilium/isthmus/seen/v1/c1/x",
        b"cilium/isthmus/whole/v1/",
        b"cilium/state/serviceexports/v1/C1/demo/web",
        b"cilium/state/endpointslices/v1/c1/" + b"n" * 64 + b"/web",
        b"cilium/state/endpointslices/v1/c1/demo/" + b"n" * 254,
    ],
)
def test_keys_of_the_wrong_shape_are_refused(key):
    with pytest.raises(CodecError):
        kvstore.parse_key(key)


@pytest.mark.parametrize("kind", [Kind.SERVICES, Kind.SLICES, Kind.EXPORTS])
@pytest.mark.parametrize("cached", [False, True])
def test_the_longest_names_of_the_api_are_keys_that_say_whose_they_are(kind, cached):
    place = ("n" * 63, "n" * 253)
    found = kvstore.parse_key(kvstore.object_key(kind, "c" * 32, place, cached=cached))

    assert found == kvstore.DataKey(kind, "c" * 32, "/".join(place), cached)
    assert found.place == place


# -- slices ----------------------------------------------------------------------------------------------------


def field(number: int, content: bytes | int) -> bytes:
    """One field of a protobuf message: a number, or bytes."""
    if isinstance(content, int):
        return bytes([number << 3]) + varint(content)
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def entry(key: bytes, value: bytes) -> bytes:
    return field(1, key) + field(2, value)


def as_written_elsewhere() -> bytes:
    """A slice by the numbers of k8s.io/api/discovery/v1, with the fields that we do not read."""
    conditions = field(1, 0) + field(2, 1) + field(3, 1)
    reference = field(1, b"Pod") + field(2, b"demo") + field(3, b"web-0")
    hints = field(1, field(1, b"zone-a"))
    endpoint = (
        field(1, b"10.3.0.5")
        + field(2, conditions)
        + field(3, b"web-0")
        + field(4, reference)
        + field(5, entry(b"old", b"topology"))
        + field(6, b"node-1")
        + field(7, b"zone-a")
        + field(8, hints)
    )
    port = field(1, b"http") + field(2, b"TCP") + field(3, 8080) + field(4, b"kubernetes.io/h2c")
    every = field(1, b"all") + field(2, b"TCP")
    return (
        field(1, b"cluster3")
        + field(2, 3)
        + field(3, b"demo")
        + field(4, b"web-x7k2p")
        + field(5, entry(b"kubernetes.io/service-name", b"web"))
        + field(5, entry(b"endpointslice.kubernetes.io/managed-by", b"endpointslice-controller.k8s.io"))
        + field(6, entry(b"service.cilium.io/weight", b"7"))
        + field(7, b"IPv4")
        + field(8, endpoint)
        + field(8, field(1, b"10.3.0.6"))
        + field(9, port)
        + field(9, every)
        + field(15, b"from the future")
    )


def squeezed(text: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(text)


def read(value: bytes) -> SharedSlice:
    return kvstore.decode_slice(KEY, value, place=PLACE, cluster="cluster3", cluster_id=3)


@pytest.mark.parametrize("options", [{}, {"write_content_size": False}, {"write_checksum": True}])
def test_a_slice_that_another_program_wrote_is_read(options):
    assert read(squeezed(as_written_elsewhere(), **options)) == SharedSlice(
        "cluster3",
        "demo",
        "web-x7k2p",
        "web",
        4,
        (
            SharedEndpoint(
                "10.3.0.5", ready=False, serving=True, terminating=True, node="node-1", hostname="web-0", zone="zone-a"
            ),
            SharedEndpoint("10.3.0.6"),
        ),
        (SharedPort("http", 6, 8080, "kubernetes.io/h2c"),),
    )


def test_our_slices_have_the_field_numbers_of_the_api():
    shared = read(squeezed(as_written_elsewhere()))
    text = zstandard.ZstdDecompressor().decompress(kvstore.encode_slice(KEY, shared, cluster_id=3))

    condition = field(2, field(1, 0) + field(2, 1) + field(3, 1))
    assert field(1, b"10.3.0.5") + condition + field(3, b"web-0") + field(6, b"node-1") + field(7, b"zone-a") in text
    assert field(9, field(1, b"http") + field(2, b"TCP") + field(3, 8080) + field(4, b"kubernetes.io/h2c")) in text
    assert text.startswith(field(1, b"cluster3") + field(2, 3) + field(3, b"demo") + field(4, b"web-x7k2p"))
    assert field(5, entry(b"kubernetes.io/service-name", b"web")) in text
    assert field(7, b"IPv4") in text


def message(**changes: object) -> slices_pb2.ClusterEndpointSlice:
    record = slices_pb2.ClusterEndpointSlice()
    record.ParseFromString(as_written_elsewhere())
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def changed(**changes: object) -> bytes:
    return squeezed(message(**changes).SerializeToString())


def with_endpoint(**fields: object) -> bytes:
    record = message()
    record.endpoints.add(**fields)
    return squeezed(record.SerializeToString())


def with_port(**fields: object) -> bytes:
    record = message()
    record.ports.add(**fields)
    return squeezed(record.SerializeToString())


def with_annotation(value: str) -> bytes:
    record = message()
    record.annotations["isthmus.dev/weight"] = value
    return squeezed(record.SerializeToString())


# A frame whose blocks of 4 bytes each say "128 KiB of zeros".
BOMB = bytes.fromhex("28b52ffd0058") + bytes.fromhex("020010" + "00") * 400


@pytest.mark.parametrize(
    ("value", "field_", "reason"),
    [
        (changed(cluster="cluster4"), "cluster", "expected 'cluster3'"),
        (changed(clusterID=4), "clusterID", "is 4, expected 3"),
        (changed(namespace="other"), "namespace", "expected 'demo'"),
        (changed(name="web-other"), "name", "expected 'web-x7k2p'"),
        (changed(addressType="FQDN"), "addressType", "'FQDN' is not IPv4 or IPv6"),
        (changed(addressType="IPv6"), "endpoints.addresses", "not an IPv6 address"),
        (with_endpoint(addresses=["fd00::1"]), "endpoints.addresses", "not an IPv4 address"),
        (with_endpoint(addresses=["10.3.0.300"]), "endpoints.addresses", "not an IP address"),
        (with_endpoint(addresses=["::ffff:10.3.0.3"]), "endpoints.addresses", "maps IPv4"),
        (with_endpoint(addresses=["fe80::1%eth0"]), "endpoints.addresses", "zone"),
        (with_endpoint(), "endpoints", "no address"),
        (with_endpoint(addresses=["10.3.0.7"], hostname="A_B"), "endpoints.hostname", "not an RFC 1123 name"),
        (with_endpoint(addresses=["10.3.0.7"], nodeName="a/b"), "endpoints.nodeName", "not an RFC 1123 name"),
        (with_port(name="x", protocol="ICMP", port=1), "ports.protocol", "not TCP, UDP or SCTP"),
        (with_port(name="x", port=0), "ports.port", "0 is no port"),
        (with_port(name="x", port=-5), "ports.port", "-5 is no port"),
        (with_port(name="X Y", port=5), "ports.name", "not an RFC 1123 name"),
        (with_annotation("1001"), "annotations[isthmus.dev/weight]", "0 to 1000"),
        (with_annotation("-1"), "annotations[isthmus.dev/weight]", "0 to 1000"),
        (squeezed(as_written_elsewhere().replace(b"node-1", b"node-\xff")), "endpoints.nodeName", "not UTF-8"),
        (squeezed(as_written_elsewhere())[:-4], "", "not a zstd frame"),
        (squeezed(as_written_elsewhere(), write_content_size=False)[:-4], "", "not a zstd frame"),
        (squeezed(as_written_elsewhere()) + b"more", "", "not a zstd frame"),
        (squeezed(as_written_elsewhere(), write_content_size=False) + b"more", "", "not a zstd frame"),
        (as_written_elsewhere(), "", "not a zstd frame"),
        (b"", "", "not a zstd frame"),
        (squeezed(b"\xff" * 20), "", "not a slice in protobuf"),
        (squeezed(b"\0" * (17 << 20)), "", "17825792 bytes when inflated"),
        (squeezed(b"\0" * (40 << 20), write_content_size=False), "", "more than 16777216 bytes when inflated"),
        (BOMB, "", "more than 16777216 bytes when inflated"),
        (b"\0" * (2 << 20), "", "longer than"),
    ],
)
def test_slices_that_are_not_what_their_key_says_are_refused(value, field_, reason):
    with pytest.raises(CodecError) as caught:
        read(value)

    assert caught.value.field == field_
    assert reason in caught.value.reason
    assert "cluster3/demo/web-x7k2p" in str(caught.value)


def test_addresses_are_read_in_canonical_form():
    value = changed(addressType="IPv6")
    record = message(addressType="IPv6")
    del record.endpoints[:]
    record.endpoints.add(addresses=["FD00:0::0005"])
    value = squeezed(record.SerializeToString())

    assert [endpoint.address for endpoint in read(value).endpoints] == ["fd00::5"]


def test_a_slice_with_more_than_an_object_can_hold_is_not_written():
    ports = tuple(SharedPort(f"p{n}", 6, n + 1) for n in range(1000))
    endpoints = tuple(SharedEndpoint(f"10.1.0.{n}") for n in range(101))

    with pytest.raises(CodecError, match="101 endpoints with 1000 ports"):
        kvstore.encode_slice(KEY, SharedSlice("c1", "demo", "web", "web", 4, endpoints, ports), cluster_id=1)


# -- whole services --------------------------------------------------------------------------------------------

RECORD = {
    "cluster": "cluster3",
    "namespace": "demo",
    "name": "web",
    "frontends": {"172.20.0.9": {"http": {"Protocol": "TCP", "Port": 80}, "dns": {"Protocol": "UDP", "Port": 53}}},
    "backends": {
        "10.3.0.5": {"http": {"Protocol": "TCP", "Port": 8080}},
        "10.3.0.6": {"http": {"Protocol": "TCP", "Port": 8081}},
        "10.3.0.4": {"http": {"Protocol": "TCP", "Port": 8080}},
        "fd03::5": {"http": {"Protocol": "TCP", "Port": 8080}},
    },
    "hostnames": {"10.3.0.5": "web-0"},
    "zones": {"10.3.0.5": {"zone": "zone-a", "forZones": [{"name": "zone-a"}]}},
    "labels": {"app": "web"},
    "selector": {"app": "web"},
    "includeExternal": True,
    "shared": True,
    "clusterID": 3,
}


def whole(**changes: object) -> kvstore.ClusterService:
    value = json.dumps({**RECORD, **changes}).encode()
    return kvstore.decode_service(b"k", value, place=("demo", "web"), cluster="cluster3", cluster_id=3)


def test_a_service_record_is_a_slice_for_each_family_and_set_of_ports():
    found = whole()

    http, other = SharedPort("http", 6, 8080), SharedPort("http", 6, 8081)
    assert found.slices == (
        SharedSlice(
            "cluster3",
            "demo",
            "web",
            "web",
            4,
            (SharedEndpoint("10.3.0.4"), SharedEndpoint("10.3.0.5", hostname="web-0", zone="zone-a")),
            (http,),
        ),
        SharedSlice("cluster3", "demo", "web.ipv4-1", "web", 4, (SharedEndpoint("10.3.0.6"),), (other,)),
        SharedSlice("cluster3", "demo", "web.ipv6-0", "web", 6, (SharedEndpoint("fd03::5"),), (http,)),
    )
    assert found.service == SharedService(
        "cluster3",
        "demo",
        "web",
        cluster_ips=("172.20.0.9",),
        ports=(ServicePort("dns", 17, 53), ServicePort("http", 6, 80)),
        labels={"app": "web"},
        selector={"app": "web"},
    )


def test_a_service_that_is_not_shared_has_no_slices():
    assert whole(shared=False).slices == ()


def test_empty_fields_may_be_null_and_a_port_may_have_no_name():
    nothing = dict.fromkeys(("frontends", "hostnames", "zones", "labels", "selector"))
    found = whole(**nothing, backends={"10.3.0.5": {"": {"Protocol": "TCP", "Port": 1}}})

    assert found.service.headless
    assert found.slices[0].ports == (SharedPort("", 6, 1),)


@pytest.mark.parametrize(
    ("changes", "field_"),
    [
        ({"cluster": "x"}, "cluster"),
        ({"clusterID": 4}, "clusterID"),
        ({"namespace": "x"}, "namespace"),
        ({"name": "x"}, "name"),
        ({"backends": {"10.3.0.5%1": {}}}, "backends"),
        ({"backends": {"fe80::1%1": {}}}, "backends"),
        ({"frontends": {"nonsense": {}}}, "frontends"),
        ({"backends": {"10.3.0.5": {"http": {"Protocol": "ICMP", "Port": 1}}}}, "backends.protocol"),
        ({"backends": {"10.3.0.5": {"http": {"Protocol": "TCP", "Port": 70000}}}}, "backends.port"),
        ({"backends": []}, "backends"),
        ({"shared": "yes"}, "shared"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"hostnames": {"10.3.0.5": "a b"}}, "hostnames"),
        ({"frontends": {f"10.0.{n}.1": {} for n in range(101)}}, "frontends"),
    ],
)
def test_service_records_that_are_not_what_their_key_says_are_refused(changes, field_):
    with pytest.raises(CodecError) as caught:
        whole(**changes)

    assert caught.value.field == field_


def test_what_we_write_of_a_service_is_what_older_readers_know():
    service = SharedService("c1", "demo", "web", cluster_ips=("172.20.0.9",), ports=(ServicePort("http", 6, 80),))
    endpoints = (SharedEndpoint("10.1.0.5", hostname="web-0", zone="a"), SharedEndpoint("10.1.0.6", ready=False))
    part = SharedSlice("c1", "demo", "web-1", "web", 4, endpoints, (SharedPort("http", 6, 8080),))

    assert json.loads(kvstore.encode_service(b"k", service, [part], cluster_id=1)) == {
        "cluster": "c1",
        "namespace": "demo",
        "name": "web",
        "frontends": {"172.20.0.9": {"http": {"Protocol": "TCP", "Port": 80}}},
        "backends": {"10.1.0.5": {"http": {"Protocol": "TCP", "Port": 8080}}},
        "hostnames": {"10.1.0.5": "web-0"},
        "zones": {"10.1.0.5": {"zone": "a", "forZones": None}},
        "labels": {},
        "selector": {},
        "includeExternal": True,
        "shared": True,
        "clusterID": 1,
    }


def test_a_record_near_the_limit_of_etcd_is_not_written():
    service = SharedService("c1", "demo", "web")
    ports = tuple(SharedPort(f"port-{n}", 6, 8000 + n) for n in range(10))
    endpoints = tuple(SharedEndpoint(f"10.1.{n >> 8}.{n & 255}") for n in range(3000))

    with pytest.raises(CodecError, match="3000 backends make"):
        kvstore.encode_service(
            b"k", service, [SharedSlice("c1", "demo", "web-1", "web", 4, endpoints, ports)], cluster_id=1
        )


def test_an_address_of_two_slices_has_the_ports_of_both():
    web = SharedService("c1", "demo", "web", cluster_ips=("172.20.0.9",))
    parts = [
        SharedSlice("c1", "demo", f"web-{port}", "web", 4, (SharedEndpoint("10.1.0.5"),), (SharedPort(name, 6, port),))
        for name, port in (("http", 8080), ("admin", 9090))
    ]
    value = kvstore.encode_service(b"k", web, parts, cluster_id=1)

    (found,) = kvstore.decode_service(b"k", value, place=("demo", "web"), cluster="c1", cluster_id=1).slices
    assert found.ports == (SharedPort("admin", 6, 9090), SharedPort("http", 6, 8080))
