"""What a policy may cost: counted as a whole, refused as a whole, and closed when refused."""

import msgspec
import pytest

from isthmus.policy.context import Context
from isthmus.policy.cost import MAX_COST, bounded
from isthmus.policy.parsing import read
from isthmus.policy.rules import Action, Direction, Grade

PORTS = [{"port": 1 + 2 * n} for n in range(3000)]


def policy(spec, kind="NetworkPolicy", version="networking.k8s.io/v1"):
    metadata = {"name": "p", "namespace": "shop"}
    return read({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}, Context("east"))


@pytest.mark.parametrize(
    ("peers", "elements"),
    [
        ([{"ipBlock": {"cidr": f"10.{n // 250}.{n % 250}.0/24"}} for n in range(3000)], 9_000_000),
        ([{"podSelector": {"matchLabels": {"app": f"a{n}"}}} for n in range(3000)], 32 * 9_000_000),
        (
            [{"ipBlock": {"cidr": "::/0", "except": [f"2001:db8:{n:x}::/128" for n in range(3000)]}}],
            (1 + 3000 * 128) * 3000,
        ),
    ],
    ids=["networks", "pods", "exceptions"],
)
def test_a_policy_that_would_be_millions_in_the_kernel_is_refused_as_a_whole_with_both_numbers(peers, elements):
    parsed = policy({"podSelector": {}, "ingress": [{"from": peers, "ports": PORTS}, {"ports": [{"port": 80}]}]})

    assert [str(problem) for problem in parsed.problems] == [
        f"spec: needs {elements + 1} set elements and rules; a policy may need at most {MAX_COST}"
    ]
    assert not parsed.valid
    (left,) = parsed.policies
    assert left.rules == () and left.isolates == {Direction.INGRESS}
    assert left.problems == parsed.problems


def test_all_rules_of_a_policy_share_its_bound():
    many = {"from": [{"ipBlock": {"cidr": f"10.{n // 250}.{n % 250}.0/24"}} for n in range(300)], "ports": PORTS[:300]}

    assert policy({"podSelector": {}, "ingress": [many] * 2}).valid
    assert not policy({"podSelector": {}, "ingress": [many] * 3}).valid


def test_a_refused_policy_of_the_admin_tier_denies_all_where_it_denied_or_passed_and_allows_nothing():
    networks = [{"networks": [f"10.{n}.{m}.0/24" for m in range(25)]} for n in range(25)]
    ports = [{"tcp": {"destinationPort": {"number": 1 + n}}} for n in range(25)]
    accept = {"action": "Accept", "to": networks, "protocols": ports}
    spec = {
        "tier": "Admin",
        "priority": 5,
        "subject": {"namespaces": {}},
        "ingress": [{"action": "Accept", "from": [{"namespaces": {}}]}],
        "egress": [*[accept] * 20, {"action": "Pass", "to": [{"namespaces": {}}]}],
    }
    parsed = policy(spec, "ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2")

    (left,) = parsed.policies
    assert parsed.problems[0].grade is Grade.INVALID
    assert [(r.direction, r.action, r.peers, r.ports) for r in left.rules] == [
        (Direction.EGRESS, Action.DENY, None, None)
    ]
    assert (left.tier.value, left.priority) == ("Admin", 5)


def test_the_parts_of_an_object_share_its_bound():
    one = policy({"podSelector": {}, "ingress": [{"ports": [{"port": 1}, {"port": 2}]}]})
    two = msgspec.structs.replace(one, policies=one.policies * 2)

    assert bounded(one, 2) is one
    assert [p.rules for p in bounded(two, 3).policies] == [(), ()]
