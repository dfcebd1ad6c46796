"""ClusterNetworkPolicies that are changed while they are in force: rules change places, actions and priorities change.

What decides afterwards is the order as it is now, with packets, in each direction, for TCP, UDP and SCTP at once.
"""

from itertools import product

import pytest

from tests.support.town import Town, address, cluster_policy, flow, network_policy, pods

PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
HERE, ELSEWHERE = 9000, 9001
"""A port that rules name, and one that they do not."""
both_families = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
both_directions = pytest.mark.parametrize("direction", ["ingress", "egress"])
both_tiers = pytest.mark.parametrize("tier", ["Admin", "Baseline"])


def rule(direction: str, action: str, app: str, *, port: int = 0):
    """Returns a rule about pods of one app; without a port, about everything."""
    peer = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}}
    ports = {"protocols": [{name: {"destinationPort": {"number": port}}} for name in PROTOCOLS.values()]}
    return {"action": action, "from" if direction == "ingress" else "to": [peer], **(ports if port else {})}


def expect(town: Town, direction: str, version: int, expected: dict[tuple[str, int], bool]) -> None:
    """Asserts who (app, port) may talk with pod a."""
    town.expect(
        {
            flow(*((app, "a") if direction == "ingress" else ("a", app)), protocol, port, version=version): allowed
            for ((app, port), allowed), protocol in product(expected.items(), PROTOCOLS)
        }
    )


@both_families
@both_directions
@both_tiers
def test_the_first_rule_that_matches_decides_however_rules_change_places(town: Town, tier, direction, version):
    """Pod b is on the same node, c on another, d in another cluster."""
    about_d = [rule(direction, action, "d") for action in ("Accept", "Deny", "Pass")]
    about_b = [rule(direction, action, "b", port=HERE) for action in ("Deny", "Pass")]
    about_c = [rule(direction, "Accept", "c", port=HERE), rule(direction, "Deny", "c")]

    def apply(*rules):
        town.apply(cluster_policy(tier=tier, **{direction: list(rules)}))

    c = {("c", HERE): True, ("c", ELSEWHERE): False}
    apply(*about_d, *about_b, *about_c)
    expect(town, direction, version, {("d", HERE): True, ("b", HERE): False, ("b", ELSEWHERE): True, **c})
    apply(about_d[1], about_d[0], about_d[2], *about_b, *about_c)
    expect(town, direction, version, {("d", HERE): False, ("b", HERE): False, ("b", ELSEWHERE): True, **c})
    apply(about_d[2], about_d[0], about_d[1], *about_b[::-1], *about_c)
    expect(town, direction, version, {("d", HERE): True, ("b", HERE): True, ("b", ELSEWHERE): True, **c})
    apply(*about_d, *about_b, *about_c[::-1])
    expect(town, direction, version, {("d", HERE): True, ("b", HERE): False, ("c", HERE): False})


@both_families
@both_directions
def test_who_is_asked_first_changes_with_the_priority(town: Town, direction, version):
    deny = cluster_policy(name="a", priority=50, **{direction: [rule(direction, "Deny", "c")]})
    leave = {direction: [rule(direction, "Pass", "c")]}
    accept = cluster_policy(name="z", tier="Baseline", **{direction: [rule(direction, "Accept", "c")]})
    base = cluster_policy(
        name="zz", tier="Baseline", priority=11, **{direction: [rule(direction, "Deny", "c", port=HERE)]}
    )
    town.apply(deny, cluster_policy(name="b", priority=60, **leave), accept, base)
    expect(town, direction, version, {("c", HERE): False, ("b", HERE): True})
    town.apply(cluster_policy(name="b", priority=40, **leave))
    expect(town, direction, version, {("c", HERE): True, ("c", ELSEWHERE): True})
    town.apply({**accept, "spec": {**accept["spec"], "priority": 12}})
    expect(town, direction, version, {("c", HERE): False, ("c", ELSEWHERE): True})


@both_families
@both_directions
def test_what_an_administrator_leaves_open_is_the_namespaces_to_say_and_then_the_baselines(
    town: Town, direction, version
):
    def admin(action: str):
        return cluster_policy(name="admin", **{direction: [rule(direction, action, "c")]})

    baseline = cluster_policy(name="default", tier="Baseline", **{direction: [rule(direction, "Deny", "c")]})
    allow = network_policy(
        policyTypes=["Ingress", "Egress"],
        **{direction: [{"from" if direction == "ingress" else "to": [pods("c")]}]},
    )
    town.apply(admin("Deny"), allow, baseline)
    expect(town, direction, version, {("c", HERE): False, ("b", HERE): False})
    town.apply(admin("Pass"))
    expect(town, direction, version, {("c", HERE): True, ("b", HERE): False})
    town.delete(allow)
    expect(town, direction, version, {("c", HERE): False, ("b", HERE): True})


@both_families
def test_an_exception_for_addresses_comes_and_goes(town: Town, version):
    everything = {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}
    friend = rule("egress", "Accept", "b")
    town.apply(cluster_policy(egress=[friend, everything]))
    expect(town, "egress", version, {("b", HERE): True, ("c", HERE): False, ("d", HERE): False, ("n2", HERE): False})
    mask = "/32" if version == 4 else "/128"
    alone = {"action": "Accept", "to": [{"networks": [address(place, version) + mask for place in ("c", "n2")]}]}
    town.apply(cluster_policy(egress=[alone, friend, everything]))
    expect(town, "egress", version, {("b", HERE): True, ("c", HERE): True, ("d", HERE): False, ("n2", HERE): True})
    town.apply(cluster_policy(egress=[everything, alone, friend]))
    expect(town, "egress", version, {("b", HERE): False, ("c", HERE): False, ("n2", HERE): False})
