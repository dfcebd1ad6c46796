"""Services of one and two families: policies, addresses, node ports, and changes of all of them."""

from typing import Any

import pytest

from tests.support.apihttp import Api

SERVICES = "/api/v1/namespaces/default/services"
PORTS = [{"port": 80}]


def service(name: str = "s", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": PORTS, "selector": {"app": "a"}, **spec}}


async def refused(api: Api, body: dict[str, Any]) -> str:
    code, found = await api.send("POST", SERVICES, body)
    assert code == 422, found
    return str(found["message"]).partition(" is invalid: ")[2]


async def patched(api: Api, name: str, **spec: Any) -> dict[str, Any]:
    code, found = await api.patch(f"{SERVICES}/{name}", {"spec": spec})
    assert code == 200, found
    return dict(found["spec"])


async def unpatched(api: Api, name: str, **spec: Any) -> str:
    code, found = await api.patch(f"{SERVICES}/{name}", {"spec": spec})
    assert code == 422, found
    return str(found["message"]).partition(" is invalid: ")[2]


@pytest.mark.parametrize(
    ("asked", "policy", "families"),
    [
        ({}, "SingleStack", ["IPv4"]),
        ({"ipFamilies": ["IPv6"]}, "SingleStack", ["IPv6"]),
        ({"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", ["IPv4", "IPv6"]),
        ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, "RequireDualStack", ["IPv6", "IPv4"]),
        ({"clusterIP": "fd00:96::17"}, "SingleStack", ["IPv6"]),
        ({"clusterIP": "None"}, "SingleStack", ["IPv4"]),
        ({"clusterIP": "None", "selector": None}, "RequireDualStack", ["IPv4", "IPv6"]),
    ],
)
async def test_families_follow_from_what_is_asked_for(
    dual: Api, asked: dict[str, Any], policy: str, families: list[str]
) -> None:
    spec = (await dual.create(SERVICES, service(**asked)))["spec"]
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == (policy, families)
    if asked.get("clusterIP") == "None":
        assert spec["clusterIPs"] == ["None"]
    else:
        assert [":" in text for text in spec["clusterIPs"]] == [word == "IPv6" for word in families]
        assert spec["clusterIP"] == spec["clusterIPs"][0] == asked.get("clusterIP", spec["clusterIP"])


async def test_one_family_is_enough_for_who_only_prefers_two(api: Api) -> None:
    spec = (await api.create(SERVICES, service(ipFamilyPolicy="PreferDualStack")))["spec"]
    assert (spec["ipFamilies"], len(spec["clusterIPs"])) == (["IPv4"], 1)
    told = await refused(api, service("t", ipFamilyPolicy="RequireDualStack"))
    assert told.endswith('"RequireDualStack": this cluster is not configured for dual-stack services')
    told = await refused(api, service("t", ipFamilies=["IPv6"]))
    assert told == 'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster'


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"clusterIP": "10.97.0.1"}, "failed to allocate IP 10.97.0.1: the provided network does not match"),
        ({"clusterIP": "10.96.0.1"}, "failed to allocate IP 10.96.0.1: provided IP is already allocated"),
        ({"clusterIP": "ten"}, 'spec.clusterIPs[0]: Invalid value: "ten": must be a valid IP address'),
        ({"clusterIP": "10.96.0.9", "ipFamilies": ["IPv6"]}, "expected an IPv6 value as indicated by `ipFamilies[0]`"),
        ({"clusterIPs": ["10.96.0.9"]}, "must be empty when `clusterIP` is not specified"),
        ({"ipFamilies": ["IPv4", "IPv6"]}, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families"),
        ({"ipFamilies": ["IPv4", "IPv4"]}, 'spec.ipFamilies[1]: Duplicate value: "IPv4"'),
        ({"type": "NodePort", "clusterIP": "None"}, "may not be set to 'None' for NodePort services"),
        ({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}, "The range of valid ports is 30000-32767"),
        ({"ports": [{"port": 1, "nodePort": 30001}]}, "may not be used when `type` is 'ClusterIP'"),
        ({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.9"}, "may not be set for ExternalName"),
        ({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}, "must not be set when session affinity is"),
        ({"externalTrafficPolicy": "Local"}, "may only be set for externally-accessible services"),
        ({"loadBalancerClass": "a/b"}, "may only be used when `type` is 'LoadBalancer'"),
        ({"healthCheckNodePort": 30001}, "may only be set when `type` is 'LoadBalancer'"),
    ],
)
async def test_what_cannot_be_is_refused_in_the_words_of_the_real_server(
    dual: Api, spec: dict[str, Any], told: str
) -> None:
    assert told in await refused(dual, service(**spec))


async def test_a_second_family_comes_and_goes_with_the_policy(dual: Api) -> None:
    first = (await dual.create(SERVICES, service()))["spec"]["clusterIP"]
    both = await patched(dual, "s", ipFamilyPolicy="PreferDualStack")
    assert both["clusterIPs"][0] == first and both["ipFamilies"] == ["IPv4", "IPv6"]
    told = await unpatched(dual, "s", clusterIPs=[first], ipFamilies=["IPv4"])
    assert "must be set to 'SingleStack' when releasing the secondary clusterIP" in told
    one = await patched(dual, "s", ipFamilyPolicy="SingleStack")
    assert (one["clusterIPs"], one["ipFamilies"]) == ([first], ["IPv4"])
    assert "may not change once set" in await unpatched(dual, "s", clusterIP="10.96.0.99", clusterIPs=["10.96.0.99"])


async def test_an_address_and_a_port_are_free_again_when_their_service_is_gone(dual: Api) -> None:
    ports = [{"port": 80, "nodePort": 31000}]
    await dual.create(SERVICES, service(type="NodePort", ports=ports, clusterIP="10.96.0.77"))
    assert "31000: provided port is already allocated" in await refused(
        dual, service("t", type="NodePort", ports=ports)
    )
    code, _ = await dual.send("DELETE", f"{SERVICES}/s")
    assert code == 200
    await dual.create(SERVICES, service("t", type="NodePort", ports=ports, clusterIP="10.96.0.77"))


async def test_a_change_of_type_takes_along_and_leaves_behind(dual: Api) -> None:
    first = (await dual.create(SERVICES, service()))["spec"]
    opened = await patched(dual, "s", type="NodePort")
    port = opened["ports"][0]["nodePort"]
    assert opened["externalTrafficPolicy"] == "Cluster" and port >= 30000
    balanced = await patched(dual, "s", type="LoadBalancer", externalTrafficPolicy="Local")
    assert balanced["ports"][0]["nodePort"] == port and balanced["healthCheckNodePort"] not in (0, port)
    assert balanced["allocateLoadBalancerNodePorts"] is True
    closed = await patched(dual, "s", type="ClusterIP")
    assert closed == first
    named = await patched(dual, "s", type="ExternalName", externalName="example.com")
    assert not named.keys() & {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"}
    back = await patched(dual, "s", type="ClusterIP", externalName=None)
    assert back["clusterIP"] and back["ipFamilyPolicy"] == "SingleStack"


async def test_two_protocols_of_a_port_share_a_node_port(dual: Api) -> None:
    ports = [{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53}]
    given = (await dual.create(SERVICES, service(type="NodePort", ports=ports)))["spec"]["ports"]
    assert given[0]["nodePort"] == given[1]["nodePort"]
    other = (await dual.create(SERVICES, service("t", type="NodePort")))["spec"]["ports"]
    assert other[0]["nodePort"] != given[0]["nodePort"]
