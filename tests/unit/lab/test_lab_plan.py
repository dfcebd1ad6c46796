"""What a cluster will look like, and what is refused before anything is made."""

from ipaddress import ip_address, ip_network

import pytest

from isthmus.lab.plan import FLAGS, PlanError, plan_cluster, service_address


def test_defaults_follow_from_the_lowest_free_id() -> None:
    first = plan_cluster("a", existing=[], cluster_id=1)
    third = plan_cluster("c", existing=[first], cluster_id=3)
    second = plan_cluster("b", existing=[first, third])
    assert (second.id, second.pod_subnet, second.service_subnet) == (2, "10.2.0.0/16", "172.20.2.0/24")
    assert service_address(second, 10) == "172.20.2.10"


def test_nodes_are_named_and_numbered_as_kind_does() -> None:
    plan = plan_cluster("koornacht", existing=[], cluster_id=7, nodes=3)
    assert [node.name for node in plan.nodes] == ["koornacht-control-plane", "koornacht-worker", "koornacht-worker2"]
    assert [node.address for node in plan.nodes] == ["172.30.7.1", "172.30.7.2", "172.30.7.3"]
    assert [node.pod_cidr for node in plan.nodes] == ["10.7.0.0/24", "10.7.1.0/24", "10.7.2.0/24"]
    assert [node.control_plane for node in plan.nodes] == [True, False, False]


def test_a_small_pod_subnet_is_divided_into_smaller_blocks() -> None:
    plan = plan_cluster("a", existing=[], pod_subnet="10.9.0.0/24", nodes=3)
    assert [node.pod_cidr for node in plan.nodes] == ["10.9.0.0/26", "10.9.0.64/26", "10.9.0.128/26"]


def test_no_two_nodes_of_a_full_lab_share_an_address_or_a_block() -> None:
    plans = []
    for _ in range(5):
        plans.append(plan_cluster(f"c{len(plans)}", existing=plans, nodes=100))
    nodes = [node for plan in plans for node in plan.nodes]
    assert len({node.address for node in nodes}) == len({node.pod_cidr for node in nodes}) == 500
    for plan in plans:
        for node in plan.nodes:
            assert ip_network(node.pod_cidr).subnet_of(ip_network(plan.pod_subnet))
            assert ip_address(node.address) in ip_network("172.30.0.0/16")


def test_a_cluster_of_both_families_has_addresses_of_both() -> None:
    plan = plan_cluster("d", existing=[], cluster_id=10, nodes=2, ip_family="dual")
    assert plan.pod_subnets == ("10.10.0.0/16", "fd00:10:a::/56")
    assert plan.service_subnets == ("172.20.10.0/24", "fd00:172:20:a::/112")
    assert [node.address6 for node in plan.nodes] == ["fd00:172:30::a:1", "fd00:172:30::a:2"]
    assert [node.pod_cidr6 for node in plan.nodes] == ["fd00:10:a::/64", "fd00:10:a:1::/64"]


def test_subnets_of_either_family_can_be_given_in_any_order() -> None:
    plan = plan_cluster("d", existing=[], ip_family="dual", pod_subnet="fd00:9::/56, 10.9.0.0/16")
    assert plan.pod_subnets == ("10.9.0.0/16", "fd00:9::/56")


def test_errors_name_the_field_a_value_came_from() -> None:
    origins = {**FLAGS, "pods": "networking.podSubnet"}
    with pytest.raises(PlanError, match=r"^networking.podSubnet 10.0.0.1/16: 10.0.0.1/16 has host bits set"):
        plan_cluster("a", existing=[], pod_subnet="10.0.0.1/16", origins=origins)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "A"}, '"A" is not a valid cluster name'),
        ({"name": "-a"}, "is not a valid cluster name"),
        ({"name": "a" * 33}, "is not a valid cluster name"),
        ({"name": "other"}, 'cluster already exists: "other"'),
        ({"cluster_id": 0}, "--id 0: a cluster ID is a number from 1 to 255"),
        ({"cluster_id": 256}, "--id 256"),
        ({"cluster_id": 9}, '--id 9: already the ID of cluster "other"'),
        ({"nodes": 0}, "--nodes 0"),
        ({"nodes": 101}, "--nodes 101"),
        ({"pod_subnet": "10.300.0.0/16"}, "--pod-subnet 10.300.0.0/16"),
        ({"pod_subnet": "10.1.0.1/16"}, "has host bits set"),
        ({"pod_subnet": "fd00::/48"}, "an IPv6 subnet needs a cluster of both families"),
        ({"pod_subnet": "10.8.0.0/16,10.9.0.0/16"}, "more than one IPv4 subnet"),
        ({"ip_family": "ipv6"}, "--ip-family ipv6: clusters with IPv6 alone are not supported"),
        ({"ip_family": "ipv5"}, "--ip-family ipv5: one of ipv4, dual"),
        ({"ip_family": "dual", "pod_subnet": "::/0"}, "not a network that pods or services can use"),
        ({"ip_family": "dual", "pod_subnet": "fd00:9::/111", "nodes": 3}, "too small for 3 nodes"),
        ({"ip_family": "dual", "service_subnet": "fd00:9::/64"}, "between a /108 and a /124 is needed"),
        ({"ip_family": "dual", "pod_subnet": "fd00:172:30::/56"}, "overlaps the lab's node network fd00:172:30::/64"),
        ({"pod_subnet": "127.0.0.0/8"}, "not a network that pods or services can use"),
        ({"pod_subnet": "0.0.0.0/0"}, "not a network that pods or services can use"),
        ({"pod_subnet": "10.8.0.0/29", "nodes": 2}, "too small for 2 nodes"),
        ({"service_subnet": "10.8.0.0/29"}, "at least a /28 is needed"),
        ({"service_subnet": "10.1.0.0/24"}, 'of cluster "new" overlaps its own pod subnet 10.1.0.0/16'),
        ({"pod_subnet": "10.9.5.0/24"}, 'overlaps pod subnet 10.9.0.0/16 of cluster "other"'),
        ({"service_subnet": "172.20.9.128/25"}, 'overlaps service subnet 172.20.9.0/24 of cluster "other"'),
        ({"pod_subnet": "172.16.0.0/12"}, "overlaps"),
        ({"service_subnet": "172.30.0.0/24"}, "overlaps the lab's node network 172.30.0.0/16"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    other = plan_cluster("other", existing=[], cluster_id=9)
    values = {"name": "new", "cluster_id": 1, **arguments}
    name = str(values.pop("name"))
    with pytest.raises(PlanError) as refused:
        plan_cluster(name, existing=[other], **values)
    assert message in str(refused.value)
