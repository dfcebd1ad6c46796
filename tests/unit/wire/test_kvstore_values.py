"""Values as Cilium writes them, and what is refused in them."""

import json

import pytest

from isthmus.model.endpoint import Cluster, Endpoint, NamedPort, Node
from isthmus.model.identity import Identity
from isthmus.wire import kvstore
from isthmus.wire.kvstore import CodecError, Kind

ID = (3 << 16) + 307
IDENTITY = Identity(
    number=ID,
    cluster="cluster3",
    namespace="bar",
    labels={"app": "baz"},
    namespace_labels={"team": "blue"},
    service_account="default",
)
IDENTITY_TEXT = (
    b"k8s:app=baz;"
    b"k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=bar;"
    b"k8s:io.cilium.k8s.namespace.labels.team=blue;"
    b"k8s:io.cilium.k8s.policy.cluster=cluster3;"
    b"k8s:io.cilium.k8s.policy.serviceaccount=default;"
    b"k8s:io.kubernetes.pod.namespace=bar;"
)
KEY = b"cilium/test"


def decode_identity(value: bytes, *, number: int = ID) -> Identity:
    return kvstore.decode_identity(KEY, value, number=number, cluster="cluster3", cluster_id=3)


def decode_endpoint(value: bytes, *, ip: str = "10.0.0.7") -> Endpoint:
    return kvstore.decode_endpoint(KEY, value, ip=ip, cluster="cluster3", cluster_id=3)


def decode_node(value: bytes) -> Node:
    return kvstore.decode_node(KEY, value, name="node-1", cluster="cluster3", cluster_id=3)


def test_keys_are_where_cilium_looks_for_them():
    assert kvstore.config_key("c1") == b"cilium/cluster-config/c1"
    assert kvstore.synced_key("c1", Kind.ENDPOINTS, cached=False) == b"cilium/synced/c1/cilium/state/ip/v1"
    assert kvstore.synced_key("c1", Kind.IDENTITIES, cached=True) == b"cilium/synced/c1/cilium/cache/identities/v1"
    assert kvstore.node_key("c1", "n", cached=False) == b"cilium/state/nodes/v1/c1/n"
    assert kvstore.node_key("c1", "n", cached=True) == b"cilium/cache/nodes/v1/c1/n"
    assert kvstore.endpoint_key("c1", "10.0.0.1", cached=False) == b"cilium/state/ip/v1/default/10.0.0.1"
    assert kvstore.endpoint_key("c1", "fd00::1", cached=True) == b"cilium/cache/ip/v1/c1/fd00::1"
    assert kvstore.identity_key("c1", 65537, cached=False) == b"cilium/state/identities/v1/id/65537"
    assert kvstore.identity_key("c1", 65537, cached=True) == b"cilium/cache/identities/v1/c1/id/65537"


def test_keys_that_are_none_of_our_business_are_passed_over():
    for key in (
        b"",
        b"foo",
        b"cilium/.initlock/xyz",
        b"cilium/.has-cluster-config",
        b"cilium/state/services/v2/c1/ns/web",
        b"cilium/state/cnpstatuses/v2/x",
        b"cilium/synced/c1/cilium/state/serviceexports/v2",
        b"cilium/isthmus/seen/v2/c1",
        b"isthmus/epoch",
        b"ciliumstate/nodes/v1/c/n",
    ):
        assert kvstore.parse_key(key) is None


@pytest.mark.parametrize(
    "key",
    [
        b"cilium/cluster-config/",
        b"cilium/cluster-config/Default_",
        b"cilium/cluster-config/default",
        b"cilium/cluster-config/" + b"a" * 33,
        b"cilium/state/nodes/v1/c1",
        b"cilium/state/nodes/v1/c1/",
        b"cilium/state/nodes/v1/c1/a/b",
        b"cilium/state/ip/v1/default/10.0.0.01",
        b"cilium/state/ip/v1/default/",
        b"cilium/state/ip/v1/default/fe80::1%eth0",
        b"cilium/state/ip/v1/other/10.0.0.1",
        b"cilium/cache/ip/v1/10.0.0.1/10.0.0.1",
        b"cilium/state/identities/v1/id/065537",
        b"cilium/state/identities/v1/id/-1",
        b"cilium/state/identities/v1/id/" + b"9" * 400,
        b"cilium/state/identities/v1/id/2",
        b"cilium/state/identities/v1/value/k8s:app=x;",
        b"cilium/\xff\xfe",
        b"cilium/" + b"x" * 2000,
    ],
)
def test_malformed_keys_are_named(key):
    with pytest.raises(CodecError) as caught:
        kvstore.parse_key(key)

    assert caught.value.reason
    assert caught.value.key.startswith("cilium/")


def test_an_identity_is_written_as_cilium_writes_it():
    assert kvstore.encode_identity(KEY, IDENTITY) == IDENTITY_TEXT
    assert decode_identity(IDENTITY_TEXT) == IDENTITY


def test_labels_are_sorted_by_key_not_by_text():
    """'=' sorts after '-' and '.', so sorting whole texts would differ."""
    identity = Identity(ID, "cluster3", "bar", {"a": "1", "a.b": "2", "a-b": "3"}, {})

    text = kvstore.encode_identity(KEY, identity)

    assert text.startswith(b"k8s:a=1;k8s:a-b=3;k8s:a.b=2;")


def test_what_a_pod_claims_of_its_place_is_not_published():
    claims = {
        "io.kubernetes.pod.namespace": "kube-system",
        "io.cilium.k8s.policy.cluster": "other",
        "io.cilium.k8s.policy.serviceaccount": "admin",
        "io.cilium.k8s.namespace.labels.team": "red",
        "cluster.clusterset.k8s.io": "other",
    }
    identity = Identity(ID, "cluster3", "bar", {"app": "baz", **claims}, {"team": "blue"}, "default")

    assert kvstore.encode_identity(KEY, identity) == IDENTITY_TEXT


@pytest.mark.parametrize(
    ("labels", "namespace_labels", "field"),
    [
        ({"app": "a;k8s:x=y"}, {}, "app"),
        ({"app": "a=b"}, {}, "app"),
        ({"a=b": "c"}, {}, "a=b"),
        ({"": "c"}, {}, "''"),
        ({}, {"team": "blue;"}, "team"),
        ({}, {"te;am": "x"}, "te;am"),
        ({"app": "é"}, {}, "app"),
        ({"app": "a\n"}, {}, "app"),
        ({"app": "a" * 64}, {}, "app"),
    ],
)
def test_labels_that_the_form_cannot_hold_are_refused(labels, namespace_labels, field):
    with pytest.raises(CodecError) as caught:
        kvstore.encode_identity(KEY, Identity(ID, "cluster3", "bar", labels, namespace_labels))

    assert field in caught.value.field


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b"", ""),
        (b"k8s:app=baz", ""),
        (IDENTITY_TEXT[:-1], ""),
        (IDENTITY_TEXT + b"k8s:app=two;", "app"),
        (IDENTITY_TEXT + b"reserved:host=;", "host"),
        (IDENTITY_TEXT + b"nonsense;", ""),
        (IDENTITY_TEXT + b"k8s:x=a=b;", "x"),
        (IDENTITY_TEXT.replace(b"cluster3", b"cluster4"), "io.cilium.k8s.policy.cluster"),
        (b"k8s:app=baz;k8s:io.kubernetes.pod.namespace=bar;", "io.cilium.k8s.policy.cluster"),
        (b"k8s:io.cilium.k8s.policy.cluster=cluster3;", "io.kubernetes.pod.namespace"),
        (b"\xff;", ""),
        (b"k8s:a=b;" * 2000, ""),
        (b"x" * 300_000, ""),
    ],
)
def test_bad_identities_are_refused_with_the_field(value, field):
    with pytest.raises(CodecError) as caught:
        decode_identity(value)

    assert field in caught.value.field


def test_an_identity_of_another_clusters_range_is_refused():
    with pytest.raises(CodecError, match="not a number of cluster cluster3"):
        decode_identity(IDENTITY_TEXT, number=(4 << 16) + 307)


def test_labels_of_other_sources_and_cluster_claims_are_left_out():
    extra = (
        b"container:x=y;k8s:cluster.clusterset.k8s.io=evil;"
        b"k8s:io.cilium.k8s.namespace.labels.cluster.clusterset.k8s.io=evil;"
    )

    assert decode_identity(IDENTITY_TEXT + extra) == IDENTITY


def test_a_pod_address_as_cilium_writes_it():
    value = (
        b'{"IP":"10.0.0.7","Mask":null,"HostIP":"172.18.0.2","ID":196915,"Key":0,"Metadata":"",'
        b'"K8sNamespace":"bar","K8sPodName":"web-0","K8sServiceAccount":"default","Future":{"a":[1]},'
        b'"NamedPorts":[{"Name":"http","Port":80,"Protocol":"TCP"}]}'
    )

    endpoint = decode_endpoint(value)

    assert endpoint == Endpoint(
        "cluster3",
        "10.0.0.7",
        196915,
        "bar",
        "web-0",
        host_ip="172.18.0.2",
        service_account="default",
        named_ports=(NamedPort("http", 80),),
    )
    assert decode_endpoint(kvstore.encode_endpoint(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ((b'"IP":"10.0.0.7"', b'"IP":"10.0.0.8"'), "IP"),
        ((b'"IP":"10.0.0.7"', b'"IP":7'), "IP"),
        ((b'"Mask":null', b'"Mask":"////AA=="'), "Mask"),
        ((b'"HostIP":"172.18.0.2"', b'"HostIP":"172.18.0.2%x"'), "HostIP"),
        ((b'"ID":196915', b'"ID":262451'), "ID"),
        ((b'"ID":196915', b'"ID":1'), "ID"),
        ((b'"ID":196915', b'"ID":-5'), "ID"),
        ((b'"ID":196915', b'"ID":1e99'), "ID"),
        ((b'"Port":80', b'"Port":0'), "NamedPorts"),
        ((b'"Port":80', b'"Port":70000'), "NamedPorts"),
        ((b'"Protocol":"TCP"', b'"Protocol":"QUIC"'), "NamedPorts"),
        ((b'"K8sNamespace":"bar"', b'"K8sNamespace":""'), "K8sNamespace"),
        ((b'"K8sNamespace":"bar"', b'"K8sNamespace":"a/b"'), "K8sNamespace"),
        ((b'"K8sPodName":"web-0"', b'"K8sPodName":null'), "K8sPodName"),
        ((b"}", b""), ""),
    ],
)
def test_bad_pod_addresses_are_refused_with_the_field(change, field):
    value = (
        b'{"IP":"10.0.0.7","Mask":null,"HostIP":"172.18.0.2","ID":196915,"Key":0,"Metadata":"",'
        b'"K8sNamespace":"bar","K8sPodName":"web-0","NamedPorts":[{"Name":"http","Port":80,"Protocol":"TCP"}]}'
    )

    with pytest.raises(CodecError) as caught:
        decode_endpoint(value.replace(*change))

    assert field in caught.value.field


@pytest.mark.parametrize("value", [b"", b"null", b"[]", b"[" * 100_000, b'{"IP":' * 50_000, b"\xff", b" " * 2_000_000])
def test_values_that_are_not_the_object_are_refused(value):
    for decode in (decode_endpoint, decode_node):
        with pytest.raises(CodecError):
            decode(value)
    with pytest.raises(CodecError):
        kvstore.decode_membership(KEY, value, cluster="cluster3")


def test_addresses_that_no_pod_can_hold_are_refused():
    for ip in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "::1", "ff02::1"):
        value = kvstore.encode_endpoint(Endpoint("cluster3", ip, ID, "bar", "web"))
        with pytest.raises(CodecError, match="cannot belong"):
            decode_endpoint(value, ip=ip)


def test_a_node_as_cilium_writes_it():
    """Masks are base64 of raw bytes: `////AA==` is /24."""
    value = (
        b'{"Name":"node-1","Cluster":"cluster3","IPAddresses":[{"Type":"InternalIP","IP":"172.18.0.2"},'
        b'{"Type":"CiliumInternalIP","IP":"10.0.0.9"}],"IPv4AllocCIDR":{"IP":"10.0.0.0","Mask":"////AA=="},'
        b'"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":{"IP":"fd00::","Mask":"//////////8AAAAAAAAAAA=="},'
        b'"ClusterID":3,"Source":"custom-resource","EncryptionKey":0,"Labels":{"zone":"a"},"Annotations":null,'
        b'"WireguardPubKey":"","BootID":"x"}'
    )

    node = decode_node(value)

    assert node == Node("cluster3", "node-1", ("172.18.0.2", "10.0.0.9"), ("10.0.0.0/24", "fd00::/64"), {"zone": "a"})
    text = kvstore.encode_node(KEY, node, cluster_id=3)
    assert b'"Mask":"////AA=="' in text
    assert decode_node(text) == node


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ((b'"Name":"node-1"', b'"Name":"node-2"'), "Name"),
        ((b'"Cluster":"cluster3"', b'"Cluster":"cluster4"'), "Cluster"),
        ((b'"ClusterID":3', b'"ClusterID":4'), "ClusterID"),
        ((b'"////AA=="', b'"AP//AA=="'), "AllocCIDR"),
        ((b'"////AA=="', b'"////"'), "AllocCIDR"),
        ((b'"////AA=="', b'"!"'), "AllocCIDR"),
        ((b'"10.0.0.0"', b'"10.0.0.1"'), "AllocCIDR"),
        ((b'"10.0.0.0"', b'"fd00::"'), "AllocCIDR"),
        ((b'"172.18.0.2"', b'"172.18.0"'), "IPAddresses"),
        ((b'"zone":"a"', b'"zone":"a b"'), "Labels"),
    ],
)
def test_bad_nodes_are_refused_with_the_field(change, field):
    value = (
        b'{"Name":"node-1","Cluster":"cluster3","IPAddresses":[{"Type":"InternalIP","IP":"172.18.0.2"}],'
        b'"IPv4AllocCIDR":{"IP":"10.0.0.0","Mask":"////AA=="},"ClusterID":3,"Labels":{"zone":"a"}}'
    )

    with pytest.raises(CodecError) as caught:
        decode_node(value.replace(*change))

    assert field in caught.value.field


def test_a_node_whose_network_is_no_network_is_not_written():
    with pytest.raises(CodecError, match="not a CIDR"):
        kvstore.encode_node(KEY, Node("c", "n", pod_cidrs=("10.0.0.1/24",)), cluster_id=3)


def test_membership_as_cilium_writes_it():
    value = b'{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false}}'

    membership = kvstore.decode_membership(KEY, value, cluster="cluster3")

    assert membership == kvstore.Membership(Cluster("cluster3", 3), cached=False, canaries=True)
    assert kvstore.decode_membership(KEY, kvstore.encode_membership(membership), cluster="cluster3") == membership


@pytest.mark.parametrize(
    "value", [b'{"id":0}', b'{"id":256}', b'{"id":"3"}', b'{"id":3,"capabilities":{"maxConnectedClusters":511}}']
)
def test_memberships_we_cannot_share_numbers_with_are_refused(value):
    with pytest.raises(CodecError):
        kvstore.decode_membership(KEY, value, cluster="cluster3")


def test_properties_are_below_a_key_that_cilium_does_not_know():
    membership = kvstore.Membership(Cluster("c1", 1, {"region": "north", "cluster.clusterset.k8s.io": "c1"}))
    value = kvstore.encode_membership(membership)

    record = json.loads(value)
    assert set(record) == {"id", "capabilities", "isthmus"}
    assert record["isthmus"] == {"properties": {"cluster.clusterset.k8s.io": "c1", "region": "north"}}
    assert kvstore.decode_membership(KEY, value, cluster="c1") == membership


def test_a_cluster_without_properties_is_written_as_cilium_writes_it():
    assert set(json.loads(kvstore.encode_membership(kvstore.Membership(Cluster("c1", 1))))) == {"id", "capabilities"}


@pytest.mark.parametrize("ours", [None, {}, {"properties": None}, {"properties": {}}, {"later": [1]}])
def test_properties_may_be_absent_in_many_ways(ours):
    value = json.dumps({"id": 3, "isthmus": ours}).encode()

    assert kvstore.decode_membership(KEY, value, cluster="c3").cluster == Cluster("c3", 3)


BAD_PROPERTIES = [
    {"a": "not a label!"},
    {"a": "x" * 64},
    {"A": "x"},
    {"a/b": "x"},
    {"": "x"},
    {"a" * 64: "x"},
    {"cluster.clusterset.k8s.io": "c4"},
    {f"p{i}": "x" for i in range(kvstore.MAX_PROPERTIES + 1)},
    {"a": 7},
    {"a": None},
    ["a"],
    "a",
]


@pytest.mark.parametrize("properties", BAD_PROPERTIES)
def test_properties_that_no_policy_can_select_by_or_that_lie_are_refused(properties):
    value = json.dumps({"id": 3, "isthmus": {"properties": properties}}).encode()

    with pytest.raises(CodecError) as caught:
        kvstore.decode_membership(KEY, value, cluster="c3")
    assert caught.value.field.startswith("isthmus.properties")


@pytest.mark.parametrize("properties", BAD_PROPERTIES[:8])
def test_properties_that_no_reader_would_take_are_not_written(properties):
    with pytest.raises(CodecError, match="cluster-config/c3"):
        kvstore.encode_membership(kvstore.Membership(Cluster("c3", 3, properties)))


@pytest.mark.parametrize("name", ["", "default", "A", "a_b", "-a", "a-", "a" * 33, "a.b", "a\n"])
def test_cluster_names_that_cilium_refuses_are_refused(name):
    assert kvstore.cluster_fault(name)
    assert kvstore.cluster_fault("cluster-1") is None
