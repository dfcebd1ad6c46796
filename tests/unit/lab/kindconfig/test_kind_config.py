"""Kind's files: what they ask for, what makes no difference, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.kindconfig.cluster import KindCluster, read_cluster, understand
from isthmus.lab.kindconfig.document import KindConfigError, parse_document, read_document

HEAD = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"


def asked(text: str) -> KindCluster:
    return understand(parse_document((HEAD + text).encode(), name="file"))


def test_the_usual_file_is_understood() -> None:
    found = asked(
        """
name: koornacht
networking:
  disableDefaultCNI: true
  podSubnet: 10.1.0.0/16
  serviceSubnet: 172.20.1.0/24
  ipFamily: dual
  apiServerPort: 16443
  apiServerAddress: 127.0.0.1
nodes:
- role: worker
  labels: {tier: front}
- role: control-plane
- role: worker
"""
    )
    assert (found.name, found.nodes, found.ip_family) == ("koornacht", 3, "dual")
    assert found.labels == ({}, {"tier": "front"}, {})
    assert (found.pod_subnet, found.service_subnet) == ("10.1.0.0/16", "172.20.1.0/24")
    assert (found.api_address, found.api_port) == ("127.0.0.1", 16443)
    assert found.origins["pods"] == "networking.podSubnet"
    assert [notice.split()[0] for notice in found.notices] == ["networking.disableDefaultCNI"]


def test_a_file_without_nodes_means_one_as_with_kind() -> None:
    assert asked("").nodes == 1
    assert asked("nodes: []").nodes == 1
    assert asked("nodes: [{}]").nodes == 1


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("featureGates: {A: true}", "featureGates is ignored"),
        ("runtimeConfig: {api/alpha: 'false'}", "runtimeConfig is ignored"),
        ("kubeadmConfigPatches: ['kind: X']", "kubeadmConfigPatches is ignored"),
        ("containerdConfigPatches: [x]", "containerdConfigPatches is ignored"),
        ("networking: {kubeProxyMode: iptables}", "networking.kubeProxyMode iptables is ignored"),
        ("networking: {dnsSearch: [a.b]}", "networking.dnsSearch is ignored"),
        ("nodes: [{role: control-plane, image: x}, {role: worker, image: x}]", "nodes[0].image, nodes[1].image"),
        ("nodes: [{extraPortMappings: [{containerPort: 80}]}]", "nodes[0].extraPortMappings ignored: not supported"),
        ("nodes: [{extraMounts: [{hostPath: /}]}]", "nodes[0].extraMounts ignored"),
    ],
)
def test_what_makes_no_difference_is_said(text: str, notice: str) -> None:
    assert any(notice in said for said in asked(text).notices)


def test_a_cluster_without_kube_proxy_is_what_the_lab_has() -> None:
    assert asked("networking: {kubeProxyMode: none}").notices == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodez: []", "unknown field nodez"),
        ("networking: {podSubnets: x}", "unknown field networking.podSubnets"),
        ("nodes: [{role: control-plane}, {rolle: worker}]", "unknown field nodes[1].rolle"),
        ("nodes: [{role: master}]", 'nodes[0].role "master": one of control-plane, worker'),
        ("nodes: [{role: control-plane}, {role: control-plane}]", "exactly one node with role control-plane, here 2"),
        ("nodes: [{role: worker}]", "exactly one node with role control-plane, here none"),
        ("nodes: {role: worker}", "nodes: a list is expected"),
        ("nodes: [worker]", "nodes[0]: an object is expected"),
        ("nodes: [{labels: {a: 1}}]", "nodes[0].labels.a: text is expected"),
        ("nodes: [{labels: [a]}]", "nodes[0].labels: an object of at most"),
        ("networking: [x]", "networking: an object is expected"),
        ("networking: {podSubnet: 10}", "networking.podSubnet: text is expected"),
        ("networking: {apiServerPort: 70000}", "networking.apiServerPort 70000: a number from 1 to 65535"),
        ("networking: {apiServerPort: true}", "networking.apiServerPort"),
        ("networking: {apiServerAddress: localhost}", "networking.apiServerAddress: "),
        ("networking: {disableDefaultCNI: 'yes'}", "networking.disableDefaultCNI yes: true or false"),
        ("networking: {kubeProxyMode: userspace}", 'networking.kubeProxyMode "userspace"'),
        ("name: [x]", "name: text is expected"),
        ("name: a\nname: b", "a key that appears twice"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(text: str, message: str) -> None:
    with pytest.raises(KindConfigError) as refused:
        asked(text)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "one YAML document with a Cluster is expected"),
        ("[]", "one YAML document with a Cluster is expected"),
        ("a: b\n---\nc: d", "one YAML document with a Cluster is expected"),
        ("kind: Cluster", 'apiVersion "", kind "Cluster": expected kind.x-k8s.io/v1alpha4, Cluster'),
        ("kind: Cluster\napiVersion: kind.sigs.k8s.io/v1alpha3", "of an older kind"),
        ("kind: Config\napiVersion: kind.x-k8s.io/v1alpha4", 'kind "Config"'),
        ("{", "not YAML"),
        ("a: !!python/object/apply:os.system [true]", "not YAML"),
        ("a: &x [1]\nb: *x", "line 1: anchors and aliases are not accepted"),
        ("[" * 1000, "nested too deep"),
        ("? [a]\n: b", "a key that is no text"),
        ("a: 2001-99-99", "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_a_hostile_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "kind.yaml"
    file.write_text(text)
    with pytest.raises(KindConfigError) as refused:
        read_cluster(file)
    assert message in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_file_that_is_too_big_or_not_there_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kind.yaml"
    with pytest.raises(KindConfigError, match="cannot read"):
        read_document(file)
    file.write_text("#" * 300_000)
    with pytest.raises(KindConfigError, match="more than 256 KiB"):
        read_document(file)


LEAVES: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
NAMES = st.sampled_from(
    ["name", "nodes", "networking", "role", "labels", "podSubnet", "apiServerPort", "ipFamily", "x"]
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_values_are_understood_or_refused(values: dict[str, Any]) -> None:
    text = yaml.safe_dump({**values, "kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"})
    try:
        found = understand(parse_document(text.encode(), name="file"))
    except KindConfigError as error:
        assert str(error)
    else:
        assert found.nodes >= 1


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    try:
        assert isinstance(parse_document(data, name="file"), dict)
    except KindConfigError as error:
        assert str(error).startswith("file: ")
