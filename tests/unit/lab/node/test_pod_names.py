"""How pods find names."""

from typing import Any

import msgspec
import pytest

from isthmus.lab.node.network.names import Resolution, fqdn, hosts_file, kernel_hostname, read_resolv_conf, resolv_conf
from isthmus.lab.node.pods.spec import Meta, Pod, PodSpec

HERE = Resolution(
    domain="cluster.local", nameservers=("172.20.1.10",), node_nameservers=("9.9.9.9",), node_search=("corp.example",)
)
CLUSTER = "search n.svc.cluster.local svc.cluster.local cluster.local\nnameserver 172.20.1.10\noptions ndots:5\n"
NODE = "search corp.example\nnameserver 9.9.9.9\n"


def pod(name: str = "p", **spec: Any) -> Pod:
    return Pod(metadata=Meta(name=name, namespace="n", uid="u"), spec=msgspec.convert(spec, PodSpec))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, CLUSTER),
        ({"hostNetwork": True}, NODE),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, CLUSTER),
        ({"dnsPolicy": "Default"}, NODE),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}, "nameserver 1.1.1.1\n"),
    ],
)
def test_the_dns_policy_decides(spec: dict[str, Any], expected: str) -> None:
    assert resolv_conf(pod(**spec), HERE) == expected


def test_dns_config_adds_and_replaces_options() -> None:
    config = {
        "nameservers": ["172.20.1.10", "1.1.1.1"],
        "searches": ["example.org"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    }
    assert resolv_conf(pod(dnsConfig=config), HERE) == (
        "search n.svc.cluster.local svc.cluster.local cluster.local example.org\n"
        "nameserver 172.20.1.10\nnameserver 1.1.1.1\noptions ndots:2 edns0\n"
    )


def test_a_subdomain_gives_a_full_name_which_the_kernel_may_be_told() -> None:
    member = pod("web-0", hostname="web-0", subdomain="web")
    assert fqdn(member, "cluster.local") == "web-0.web.n.svc.cluster.local"
    assert kernel_hostname(member, "cluster.local") == "web-0"
    told = pod("web-0", hostname="web-0", subdomain="web", setHostnameAsFQDN=True)
    assert kernel_hostname(told, "cluster.local") == "web-0.web.n.svc.cluster.local"
    with pytest.raises(ValueError, match="too long"):
        kernel_hostname(pod("x" * 60, subdomain="web", setHostnameAsFQDN=True), "cluster.local")


def test_the_hosts_file_names_the_pod_in_both_families_and_its_aliases() -> None:
    text = hosts_file(
        pod(hostAliases=[{"ip": "10.9.9.9", "hostnames": ["a", "b"]}]),
        domain="cluster.local",
        ips=("10.1.0.2", "fd00::2"),
        node_name="node",
    )
    assert "10.1.0.2\tp\nfd00::2\tp\n" in text
    assert text.endswith("10.9.9.9\ta\tb\n")


def test_a_resolv_conf_is_read() -> None:
    assert read_resolv_conf("# x\nnameserver 1.1.1.1\nsearch a b\nnameserver\n") == (("1.1.1.1",), ("a", "b"))
