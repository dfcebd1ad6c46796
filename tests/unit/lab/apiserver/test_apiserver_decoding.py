from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.inputs import decoding, protobuf
from isthmus.lab.apiserver.schema import typetable
from isthmus.lab.apiserver.schema.kinds import RESOURCES
from isthmus.lab.apiserver.schema.typetable import find

CORE = "io.k8s.api.core.v1"
POLICY = find("NetworkPolicy", package="io.k8s.api.networking.v1")
POD = find("Pod", package=CORE)


def conform(value: dict[str, Any], shape: typetable.ObjectType = POD) -> tuple[dict[str, Any], list[str]]:
    return decoding.conform(value, shape, kind=shape.name, version="v1")


def test_every_type_of_the_table_can_be_read_and_refers_to_types_that_exist() -> None:
    count = 0
    for package in {resource.package for resource in RESOURCES} | {typetable.META}:
        for name in typetable.names(package):
            shape = find(name, package=package)
            count += 1
            for field in shape.fields.values():
                if not field.scalar:
                    keys = field.target().fields.keys()
                    assert set(field.map_keys or ()) <= keys, f"{name}.{field.name}"
    assert count > 200


def test_field_numbers_are_unique_within_a_type() -> None:
    for package in {resource.package for resource in RESOURCES} | {typetable.META}:
        for name in typetable.names(package):
            numbers = [field.numbers for field in find(name, package=package).fields.values() if field.numbers]
            assert len(set(numbers)) == len(numbers), name


def test_empty_optional_values_are_left_out_as_by_the_real_server() -> None:
    sent = {"spec": {"podSelector": {}, "ingress": [], "egress": None, "policyTypes": ["Ingress"]}}
    assert conform(sent, POLICY) == ({"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}, [])
    rule = {"spec": {"podSelector": {"matchLabels": {}}, "ingress": [{"from": [], "ports": []}]}}
    assert conform(rule, POLICY)[0] == {"spec": {"podSelector": {}, "ingress": [{}]}}


def test_an_empty_selector_is_kept_because_it_means_everything() -> None:
    peers = [{"podSelector": {}}, {"namespaceSelector": {}}]
    kept, _ = conform({"spec": {"podSelector": {}, "ingress": [{"from": peers}]}}, POLICY)
    assert kept["spec"]["ingress"][0]["from"] == peers


def test_zero_of_a_pointer_is_kept_and_of_a_plain_field_is_not() -> None:
    spec = {"terminationGracePeriodSeconds": 0, "hostNetwork": False, "automountServiceAccountToken": False}
    assert conform({"spec": {**spec, "containers": []}})[0] == {
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "containers": []}
    }


def test_unknown_fields_are_named_with_their_path() -> None:
    sent = {"spec": {"containers": [{"name": "a", "imge": "x"}], "nodename": "n"}, "extra": 1}
    kept, unknown = conform(sent)
    assert unknown == ["spec.containers[0].imge", "spec.nodename", "extra"]
    assert kept == {"spec": {"containers": [{"name": "a"}]}}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            {"containers": "x"},
            "cannot unmarshal string into Go struct field PodSpec.spec.containers of type []Container",
        ),
        ({"containers": [1]}, "cannot unmarshal number 1"),
        ({"priority": "high"}, "of type int32"),
        ({"priority": 2**31}, "cannot unmarshal number 2147483648"),
        ({"priority": True}, "cannot unmarshal bool"),
        ({"hostNetwork": 1}, "of type bool"),
        ({"nodeSelector": ["a"]}, "of type map[string]string"),
        ({"nodeSelector": {"a": 1}}, "of type string"),
        ({"nodeName": {}}, "cannot unmarshal object"),
        ({"containers": [{"name": "a", "resources": {"limits": {"cpu": "lots"}}}]}, "quantities must match"),
        ({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"port": []}}}]}, "intstr.IntOrString"),
    ],
)
def test_wrong_types_are_bad_requests(spec: Any, text: str) -> None:
    with pytest.raises(ApiError) as found:
        conform({"spec": spec})
    assert found.value.code == 400
    assert text in found.value.message


def test_times_and_base64_are_checked() -> None:
    with pytest.raises(ApiError, match="parsing time"):
        conform({"metadata": {"creationTimestamp": "yesterday"}})
    with pytest.raises(ApiError, match="illegal base64"):
        conform({"data": {"k": "***"}}, find("Secret", package=CORE))
    assert conform({"metadata": {"creationTimestamp": None}})[0] == {"metadata": {}}


def test_kind_and_version_must_agree_with_the_path() -> None:
    value: dict[str, Any] = {}
    decoding.check_kind(value, kind="Pod", api_version="v1")
    assert value == {"kind": "Pod", "apiVersion": "v1"}
    with pytest.raises(ApiError, match="does not match the expected API version"):
        decoding.check_kind({"apiVersion": "v2"}, kind="Pod", api_version="v1")
    with pytest.raises(ApiError, match="cannot be handled as a Pod"):
        decoding.check_kind({"kind": "Node"}, kind="Pod", api_version="v1")


def field(number: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((number << 3 | 2, len(body))) + body


def envelope(kind: str, raw: bytes, api_version: str = "v1") -> bytes:
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\x00" + field(1, meta) + field(2, raw) + field(3, b"") + field(4, b"")


def test_protobuf_bodies_become_the_same_json() -> None:
    metadata = field(1, b"demo") + field(11, field(1, b"a") + field(2, b"b"))
    metadata += field(8, b"\x08\x80\x92\xb8\xc3\x98\xfe\xff\xff\xff\x01\x10\x00")  # Go's zero time
    assert protobuf.decode(envelope("Namespace", field(1, metadata))) == {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {"name": "demo", "labels": {"a": "b"}},
    }


def test_protobuf_scalars_and_embedded_messages() -> None:
    port = field(2, b"TCP") + b"\x18\x50" + field(4, b"\x08\x01" + field(3, b"http"))
    decoded = protobuf.decode(envelope("Service", field(2, field(1, port) + field(4, b"Cl"))))
    assert decoded["spec"] == {
        "ports": [{"protocol": "TCP", "port": 80, "targetPort": "http"}],
        "type": "Cl",
    }
    volume = field(1, b"v") + field(2, field(6, field(1, b"s")))
    decoded = protobuf.decode(envelope("Pod", field(2, field(1, volume))))
    assert decoded["spec"]["volumes"] == [{"name": "v", "secret": {"secretName": "s"}}]
    options = protobuf.decode(
        envelope("DeleteOptions", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + field(4, b"Orphan"))
    )
    assert options == {
        "gracePeriodSeconds": -1,
        "propagationPolicy": "Orphan",
        "kind": "DeleteOptions",
        "apiVersion": "v1",
    }


@given(st.binary(max_size=200))
def test_no_bytes_break_the_protobuf_reader(data: bytes) -> None:
    for body in (data, b"k8s\x00" + data, envelope("Pod", data[:100]), envelope("Secret", data[:100])):
        try:
            protobuf.decode(body)
        except ApiError as failure:
            assert failure.code == 400
