"""Codecs of the key-value layout: what goes in comes out, and no bytes bring a decoder down."""

import json
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.endpoint import Cluster, Endpoint, NamedPort, Node
from isthmus.model.identity import Identity, number_range
from isthmus.model.labels import CLUSTER_KEYS, NAMESPACE_NAME
from isthmus.wire import kvstore
from isthmus.wire.kvstore import CodecError, ConfigKey, DataKey, Kind, Membership, SyncedKey
from isthmus.wire.kvstore.checks import address_fault

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
clusters = st.builds(Cluster, names.filter(lambda n: n != "default"), st.integers(1, 255))
label_values = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?)?", fullmatch=True)
label_keys = st.from_regex(
    r"([a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True
).filter(lambda k: not kvstore.is_reserved_label(k) and k not in (NAMESPACE_NAME, *CLUSTER_KEYS))
labels = st.dictionaries(label_keys, label_values, max_size=6)
addresses = st.one_of(
    st.integers(0x0A000000, 0x0AFFFFFF).map(IPv4Address), st.integers(0xFD << 120, (0xFE << 120) - 1).map(IPv6Address)
).map(str)
networks = st.tuples(addresses, st.integers(8, 32)).map(lambda pair: str(ip_network(pair, strict=False)))
KEY = b"cilium/test"


@st.composite
def identities(draw: st.DrawFn) -> tuple[Cluster, Identity]:
    cluster = draw(clusters)
    number = draw(st.sampled_from([number_range(cluster.id)[0], number_range(cluster.id)[-1]]))
    account = draw(st.one_of(st.just(""), names))
    return cluster, Identity(number, cluster.name, draw(names), draw(labels), draw(labels), account)


@given(identities())
def test_identities_round_trip(pair):
    cluster, identity = pair

    value = kvstore.encode_identity(KEY, identity)

    assert (
        kvstore.decode_identity(KEY, value, number=identity.number, cluster=cluster.name, cluster_id=cluster.id)
        == identity
    )


@given(clusters, addresses, names, names, st.lists(st.builds(NamedPort, names, st.integers(1, 65535)), max_size=3))
def test_endpoints_round_trip(cluster, ip, namespace, pod, ports):
    endpoint = Endpoint(
        cluster=cluster.name,
        ip=ip,
        identity=cluster.id << 16 | 7,
        namespace=namespace,
        pod=pod,
        uid="7d3c2c1e-2f5a-4a55-9d41-0a5b2c3d4e5f",
        host_ip="192.0.2.1",
        named_ports=tuple(ports),
    )

    value = kvstore.encode_endpoint(endpoint)

    assert kvstore.decode_endpoint(KEY, value, ip=ip, cluster=cluster.name, cluster_id=cluster.id) == endpoint


@given(
    clusters, names, st.lists(addresses, unique=True, max_size=3), st.lists(networks, unique=True, max_size=4), labels
)
def test_nodes_round_trip(cluster, name, ips, cidrs, node_labels):
    cidrs.sort(key=lambda cidr: ":" in cidr)  # IPv4 before IPv6, as the record has it
    node = Node(cluster.name, name, tuple(ips), tuple(cidrs), node_labels)

    value = kvstore.encode_node(KEY, node, cluster_id=cluster.id)

    assert kvstore.decode_node(KEY, value, name=name, cluster=cluster.name, cluster_id=cluster.id) == node


properties = st.dictionaries(
    st.from_regex(r"[a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?", fullmatch=True),
    st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", fullmatch=True),
    max_size=64,
)


@given(clusters, properties, st.booleans(), st.booleans())
def test_memberships_round_trip(cluster, found, cached, canaries):
    found.pop("cluster.clusterset.k8s.io", None)
    membership = Membership(Cluster(cluster.name, cluster.id, found), cached=cached, canaries=canaries)

    assert kvstore.decode_membership(KEY, kvstore.encode_membership(membership), cluster=cluster.name) == membership


@given(clusters, names, addresses, st.booleans(), st.sampled_from(Kind))
def test_keys_round_trip(cluster, name, ip, cached, kind):
    c = cluster.name
    owner = c if cached else ""
    number = cluster.id << 16 | 5
    parse = kvstore.parse_key

    assert parse(kvstore.config_key(c)) == ConfigKey(c)
    assert parse(kvstore.synced_key(c, kind, cached=cached)) == SyncedKey(c, kind, cached)
    assert parse(kvstore.node_key(c, name, cached=cached)) == DataKey(Kind.NODES, c, name, cached)
    assert parse(kvstore.endpoint_key(c, ip, cached=cached)) == DataKey(Kind.ENDPOINTS, owner, ip, cached)
    assert parse(kvstore.identity_key(c, number, cached=cached)) == DataKey(Kind.IDENTITIES, owner, str(number), cached)


@given(st.one_of(addresses, st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){2,4}", fullmatch=True), st.text(max_size=20)))
def test_the_fast_path_for_addresses_says_what_the_library_says(text):
    try:
        expected = str(ip_address(text)) == text
    except ValueError:
        expected = False
    if "%" in text or text.startswith("::ffff:"):
        return

    assert (address_fault(text) is None) == expected


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["IP", "Mask", "ID", "K8sNamespace", "K8sPodName", "NamedPorts", "Name", "Cluster", "IPAddresses"]
FIELDS += ["IPv4AllocCIDR", "ClusterID", "Labels", "id", "capabilities", "HostIP"]


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """Bytes, mangled label lists, and JSON objects with the right names and anything in them."""
    match draw(st.integers(0, 2)):
        case 0:
            return draw(st.binary(max_size=64))
        case 1:
            parts = st.sampled_from(["k8s:", "io.kubernetes.pod.namespace", "=", ";", "a", "reserved:", "\x00", "é"])
            return "".join(draw(st.lists(parts, max_size=12))).encode()
        case _:
            return json.dumps(draw(st.dictionaries(st.sampled_from(FIELDS), json_like, max_size=8))).encode()


@given(values())
def test_no_value_raises_anything_but_a_codec_error(value):
    for decode in (
        lambda: kvstore.decode_identity(KEY, value, number=3 << 16, cluster="c", cluster_id=3),
        lambda: kvstore.decode_endpoint(KEY, value, ip="10.0.0.1", cluster="c", cluster_id=3),
        lambda: kvstore.decode_node(KEY, value, name="n", cluster="c", cluster_id=3),
        lambda: kvstore.decode_membership(KEY, value, cluster="c"),
    ):
        try:
            decode()
        except CodecError as error:
            assert error.reason


@given(
    st.one_of(
        st.binary(max_size=80),
        st.tuples(
            st.sampled_from(
                [p for k in (True, False) for p in kvstore.prefixes_of("c1", cached=k)] + [b"cilium/synced/"]
            ),
            st.one_of(st.binary(max_size=20), st.text(max_size=12).map(str.encode)),
        ).map(b"".join),
    )
)
def test_no_key_raises_anything_but_a_codec_error(key):
    try:
        kvstore.parse_key(key)
    except CodecError as error:
        assert error.reason


@given(identities(), st.integers(1, 200))
def test_a_value_cut_short_is_never_taken_for_a_whole_one(pair, cut):
    """A half-written label list either is refused or was cut between two labels and lost its owner's mark."""
    cluster, identity = pair
    value = kvstore.encode_identity(KEY, identity)[:-cut]

    try:
        decoded = kvstore.decode_identity(
            KEY, value, number=identity.number, cluster=cluster.name, cluster_id=cluster.id
        )
    except CodecError:
        return
    assert decoded != identity
