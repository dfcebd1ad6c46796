"""Defaults and rules of the kinds, over HTTP."""

from typing import Any

import pytest

from tests.support.apihttp import Api

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "nginx"}], **spec}}


def policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "n"}, "spec": {"podSelector": {}, **spec}}


def service(name: str = "s", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


async def refused(api: Api, path: str, body: dict[str, Any]) -> list[str]:
    """The fields of a 422."""
    code, found = await api.send("POST", path, body)
    assert code == 422, found
    assert (found["kind"], found["status"], found["reason"], found["code"]) == ("Status", "Failure", "Invalid", 422)
    return [cause["field"] for cause in found["details"]["causes"]]


async def test_a_pod_gets_what_it_left_out(api: Api) -> None:
    found = await api.create(PODS, pod())
    spec = found["spec"]
    assert spec["restartPolicy"] == "Always"
    assert spec["terminationGracePeriodSeconds"] == 30
    assert spec["serviceAccountName"] == "default"
    assert spec["containers"][0]["imagePullPolicy"] == "Always"
    assert [toleration["tolerationSeconds"] for toleration in spec["tolerations"]] == [300, 300]
    assert found["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert found["metadata"]["namespace"] == "default"
    assert found["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("r:5000/a", "Always"),
        ("a:1", "IfNotPresent"),
        ("a@sha256:0", "IfNotPresent"),
    ],
)
async def test_the_pull_policy_follows_the_tag(api: Api, image: str, policy: str) -> None:
    found = await api.create(PODS, pod(containers=[{"name": "c", "image": image}]))
    assert found["spec"]["containers"][0]["imagePullPolicy"] == policy


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({}, "BestEffort"), ({"cpu": "1"}, "Burstable"), ({"cpu": "1", "memory": "1Gi"}, "Guaranteed")],
)
async def test_limits_become_requests_and_a_class(api: Api, limits: dict[str, str], expected: str) -> None:
    container = {"name": "c", "image": "x", "resources": {"limits": limits}}
    found = await api.create(PODS, pod(containers=[container]))
    assert found["spec"]["containers"][0]["resources"].get("requests", {}) == limits
    assert found["status"]["qosClass"] == expected


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"containers": []}, ["spec.containers"]),
        ({"containers": [{}]}, ["spec.containers[0].name", "spec.containers[0].image"]),
        ({"containers": [{"name": "a", "image": "x"}] * 2}, ["spec.containers[1].name"]),
        ({"containers": [{"name": "A", "image": "x"}]}, ["spec.containers[0].name"]),
        (
            {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 0}, {"containerPort": 70000}]}]},
            ["spec.containers[0].ports[0].containerPort", "spec.containers[0].ports[1].containerPort"],
        ),
        (
            {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 1, "protocol": "ICMP"}]}]},
            ["spec.containers[0].ports[0].protocol"],
        ),
        (
            {"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
            ["spec.containers[0].volumeMounts[0].name"],
        ),
        (
            {"containers": [{"name": "a", "image": "x", "readinessProbe": {}}]},
            ["spec.containers[0].readinessProbe"],
        ),
        ({"restartPolicy": "Sometimes"}, ["spec.restartPolicy"]),
        ({"tolerations": [{"operator": "Maybe", "key": "k"}]}, ["spec.tolerations[0].operator"]),
        ({"tolerations": [{"effect": "NoSchedule"}]}, ["spec.tolerations[0].operator"]),
        ({"tolerations": [{"key": "k", "tolerationSeconds": 3}]}, ["spec.tolerations[0].effect"]),
        ({"hostAliases": [{"ip": "x"}]}, ["spec.hostAliases[0].ip"]),
        (
            {"containers": [{"name": "c", "image": "x", "securityContext": {"runAsUser": -5}}]},
            ["spec.containers[0].securityContext.runAsUser"],
        ),
        ({"dnsPolicy": "None"}, ["spec.dnsConfig.nameservers"]),
        ({"terminationGracePeriodSeconds": -1}, ["spec.terminationGracePeriodSeconds"]),
        ({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}, ["spec.volumes[0].hostPath"]),
        ({"volumes": [{"name": "v"}, {"name": "v"}]}, ["spec.volumes[1].name"]),
    ],
)
async def test_pods_are_refused_with_all_their_faults(api: Api, spec: dict[str, Any], fields: list[str]) -> None:
    assert await refused(api, PODS, pod(**spec)) == fields


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"name": "Upper"}, "metadata.name"),
        ({"name": "x" * 254}, "metadata.name"),
        ({}, "metadata.name"),
        ({"name": "p", "labels": {"a b": "c"}}, "metadata.labels"),
        ({"name": "p", "labels": {"a": "c d"}}, "metadata.labels"),
        ({"name": "p", "annotations": {"a": "x" * 300_000}}, "metadata.annotations"),
        ({"name": "p", "finalizers": ["nope"]}, "metadata.finalizers[0]"),
        (
            {"name": "p", "ownerReferences": [{"kind": "x", "name": "x", "uid": "x"}]},
            "metadata.ownerReferences.apiVersion",
        ),
    ],
)
async def test_metadata_is_checked_for_every_kind(api: Api, metadata: dict[str, Any], field: str) -> None:
    assert field in await refused(api, PODS, {**pod(), "metadata": metadata})


async def test_a_policy_affects_what_it_has_rules_for(api: Api) -> None:
    found = await api.create(POLICIES, policy(egress=[{"ports": [{"port": 53}]}]))
    assert found["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert found["spec"]["egress"][0]["ports"] == [{"port": 53, "protocol": "TCP"}]
    assert found["metadata"]["generation"] == 1


PEER = "spec.ingress[0].from[0]"


@pytest.mark.parametrize(
    ("peer", "fields"),
    [
        ({}, [PEER]),
        ({"ipBlock": {"cidr": "10.0.0.0/33"}}, [f"{PEER}.ipBlock.cidr"]),
        ({"ipBlock": {"cidr": "10.0.0.1"}}, [f"{PEER}.ipBlock.cidr"]),
        ({"ipBlock": {"cidr": ""}}, [f"{PEER}.ipBlock.cidr"]),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}, [f"{PEER}.ipBlock.except[0]"]),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}, [f"{PEER}.ipBlock.except[0]"]),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["::/96"]}}, [f"{PEER}.ipBlock.except[0]"]),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, [PEER]),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is", "values": ["b"]}]}},
            [f"{PEER}.podSelector.matchExpressions[0].operator"],
        ),
        (
            {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            [f"{PEER}.namespaceSelector.matchExpressions[0].values"],
        ),
        ({"podSelector": {"matchLabels": {"a": "b c"}}}, [f"{PEER}.podSelector.matchLabels"]),
    ],
)
async def test_peers_of_policies_are_checked(api: Api, peer: dict[str, Any], fields: list[str]) -> None:
    assert await refused(api, POLICIES, policy(ingress=[{"from": [peer]}])) == fields


@pytest.mark.parametrize(
    ("port", "field"),
    [
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"port": "-bad-"}, "port"),
        ({"port": 80, "protocol": "ICMP"}, "protocol"),
        ({"endPort": 90}, "port"),
        ({"port": "http", "endPort": 90}, "endPort"),
        ({"port": 100, "endPort": 90}, "endPort"),
        ({"port": 100, "endPort": 70000}, "endPort"),
    ],
)
async def test_ports_of_policies_are_checked(api: Api, port: dict[str, Any], field: str) -> None:
    assert await refused(api, POLICIES, policy(egress=[{"ports": [port]}])) == [f"spec.egress[0].ports[0].{field}"]


async def test_services_get_addresses_and_ports(api: Api) -> None:
    found = await api.create(SERVICES, service(type="NodePort"))
    spec = found["spec"]
    assert spec["clusterIP"] == "10.96.0.16"
    assert spec["clusterIPs"] == ["10.96.0.16"]
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30000}]
    assert spec["externalTrafficPolicy"] == "Cluster"
    code, found = await api.patch(f"{SERVICES}/s", {"spec": {"type": "ClusterIP"}})
    assert (code, found["spec"]["clusterIP"]) == (200, "10.96.0.16")
    assert "nodePort" not in found["spec"]["ports"][0]
    code, found = await api.patch(f"{SERVICES}/s", {"spec": {"clusterIP": "10.96.0.99"}})
    assert code == 422


async def test_addresses_asked_for_are_given_once(api: Api) -> None:
    assert (await api.create(SERVICES, service(clusterIP="10.96.0.16")))["spec"]["clusterIP"] == "10.96.0.16"
    assert await refused(api, SERVICES, service("t", clusterIP="10.96.0.16")) == ["spec.clusterIPs"]
    assert await refused(api, SERVICES, service("t", clusterIP="10.97.0.1")) == ["spec.clusterIPs"]
    assert await refused(api, SERVICES, service("t", clusterIP="x")) == ["spec.clusterIPs[0]"]
    assert (await api.create(SERVICES, service("t")))["spec"]["clusterIP"] == "10.96.0.17"
    await api.send("DELETE", f"{SERVICES}/s")
    assert (await api.create(SERVICES, service("u")))["spec"]["clusterIP"] == "10.96.0.16"


async def test_a_full_range_is_told(api: Api) -> None:
    for number in range(253):
        await api.create(SERVICES, service(f"s{number}"))
    code, found = await api.send("POST", SERVICES, service("last"))
    assert (code, found["message"]) == (
        500,
        "Internal error occurred: failed to allocate a serviceIP: range is full",
    )


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ports": []}, "spec.ports"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port"),
        ({"ports": [{"port": 1}, {"port": 2}]}, "spec.ports[0].name"),
        ({"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]}, "spec.ports[1].name"),
        ({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}, "spec.ports[1]"),
        ({"ports": [{"port": 1, "nodePort": 30000}]}, "spec.ports[0].nodePort"),
        ({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}, "spec.ports[0].nodePort"),
        ({"type": "Magic"}, "spec.type"),
        ({"type": "ExternalName"}, "spec.externalName"),
        ({"sessionAffinity": "Sticky"}, "spec.sessionAffinity"),
        ({"ipFamilies": ["IPv6"]}, "spec.ipFamilies[0]"),
        ({"ipFamilyPolicy": "RequireDualStack"}, "spec.ipFamilyPolicy"),
        ({"externalTrafficPolicy": "Local"}, "spec.externalTrafficPolicy"),
    ],
)
async def test_services_are_checked(api: Api, spec: dict[str, Any], field: str) -> None:
    assert field in await refused(api, SERVICES, service(**spec))


async def test_secrets_encode_what_is_given_as_text(api: Api) -> None:
    found = await api.create(
        "/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}, "stringData": {"a": "b"}}
    )
    assert (found["data"], found["type"]) == ({"a": "Yg=="}, "Opaque")
    code, _ = await api.patch("/api/v1/namespaces/default/secrets/s", {"type": "other"})
    assert code == 422


async def test_immutable_configuration_stays(api: Api) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    await api.create(path, {"metadata": {"name": "c"}, "data": {"a": "b"}, "immutable": True})
    code, found = await api.patch(f"{path}/c", {"data": {"a": "c"}})
    assert (code, found["details"]["causes"][0]["field"]) == (422, "data")
    assert (await api.patch(f"{path}/c", {"metadata": {"labels": {"a": "b"}}}))[0] == 200


async def test_namespaces_carry_their_name_as_a_label(api: Api) -> None:
    found = await api.create("/api/v1/namespaces", {"metadata": {"name": "n"}})
    assert found["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}
    assert found["spec"] == {"finalizers": ["kubernetes"]}
    code, _ = await api.patch("/api/v1/namespaces/n", {"metadata": {"labels": {"kubernetes.io/metadata.name": "m"}}})
    assert code == 422
    code, found = await api.send("DELETE", "/api/v1/namespaces/default")
    assert (code, found["reason"]) == (403, "Forbidden")


async def test_deployments_must_select_their_own_pods(api: Api) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    found = await api.create(path, {"metadata": {"name": "d"}, "spec": spec})
    assert found["spec"]["replicas"] == 1
    assert found["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": "25%", "maxSurge": "25%"}
    code, _ = await api.patch(f"{path}/d", {"spec": {"selector": {"matchLabels": {"a": "c"}}}})
    assert code == 422
    bad = {"metadata": {"name": "e"}, "spec": {**spec, "selector": {"matchLabels": {"a": "x"}}}}
    assert await refused(api, path, bad) == ["spec.template.metadata.labels"]


async def test_events_stand_beside_their_object(api: Api) -> None:
    event = {"metadata": {"name": "e"}, "involvedObject": {"namespace": "other", "name": "x"}}
    assert await refused(api, "/api/v1/namespaces/default/events", event) == ["involvedObject.namespace"]
