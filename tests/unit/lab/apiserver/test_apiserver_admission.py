"""Pods and who they are: service accounts, tokens bound to pods, priorities, evictions, graces."""

import asyncio
from typing import Any

from tests.support.apihttp import Api

CORE = "/api/v1/namespaces/default"
PODS, ACCOUNTS = f"{CORE}/pods", f"{CORE}/serviceaccounts"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
WEB = {"app": "web"}


def pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    held = {"containers": [{"name": "c", "image": "nginx"}], **spec}
    return {"metadata": {"name": name, "labels": WEB}, "spec": held}


def account(name: str = "default", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **more}


async def test_a_pod_gets_the_token_of_its_account(dual: Api) -> None:
    await dual.create(ACCOUNTS, account())
    spec = (await dual.create(PODS, pod()))["spec"]
    (volume,), (mount,) = spec["volumes"], spec["containers"][0]["volumeMounts"]
    assert volume["name"] == mount["name"] and volume["name"].startswith("kube-api-access-")
    assert mount["readOnly"] and mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    sources = volume["projected"]["sources"]
    assert sources[0] == {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    assert sources[1]["configMap"]["name"] == "kube-root-ca.crt"
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "default"


async def test_a_token_is_mounted_only_where_it_is_wanted(dual: Api) -> None:
    await dual.create(ACCOUNTS, account(automountServiceAccountToken=False))
    assert "volumes" not in (await dual.create(PODS, pod("a")))["spec"]
    asked = (await dual.create(PODS, pod("b", automountServiceAccountToken=True)))["spec"]
    assert len(asked["volumes"]) == 1


async def test_a_pod_of_an_unknown_account_is_forbidden(dual: Api) -> None:
    code, found = await dual.send("POST", PODS, pod(serviceAccountName="nobody"))
    assert (code, found["reason"]) == (403, "Forbidden")
    text = 'error looking up service account default/nobody: serviceaccount "nobody" not found'
    assert found["message"] == f'pods "p" is forbidden: {text}'


async def test_a_pod_waits_a_moment_for_the_default_account(dual: Api) -> None:
    making = asyncio.create_task(dual.send("POST", PODS, pod()))
    while not dual.state.cache(dual.life.registry.get("serviceaccounts")).watchers:
        await asyncio.sleep(0)
    await dual.create(ACCOUNTS, account())
    code, found = await making
    assert code == 201, found


async def test_a_token_lives_as_long_as_the_pod_that_it_is_bound_to(dual: Api) -> None:
    await dual.create(ACCOUNTS, account())
    uid = (await dual.create(PODS, pod()))["metadata"]["uid"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}
    path = f"{ACCOUNTS}/default/token"
    made = await dual.create(path, {"spec": {"audiences": [], "boundObjectRef": bound}})
    asked = {"spec": {"token": made["status"]["token"]}}
    reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
    status = (await dual.create(reviews, asked))["status"]
    assert status["authenticated"] and status["user"]["username"] == "system:serviceaccount:default:default"
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [uid]
    for wrong, code in (({**bound, "uid": "x"}, 409), ({**bound, "name": "q"}, 404), ({**bound, "kind": "Job"}, 400)):
        assert (await dual.send("POST", path, {"spec": {"boundObjectRef": wrong}}))[0] == code
    assert (await dual.send("POST", path, {"spec": {"expirationSeconds": 5}}))[0] == 422
    await dual.send("DELETE", f"{PODS}/p")
    assert "authenticated" not in (await dual.create(reviews, asked))["status"]


async def test_an_audience_is_checked(dual: Api) -> None:
    await dual.create(ACCOUNTS, account())
    made = await dual.create(f"{ACCOUNTS}/default/token", {"spec": {"audiences": ["vault"]}})
    token = made["status"]["token"]
    reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
    assert "authenticated" not in (await dual.create(reviews, {"spec": {"token": token}}))["status"]
    asked = {"spec": {"token": token, "audiences": ["vault", "other"]}}
    assert (await dual.create(reviews, asked))["status"]["audiences"] == ["vault"]


async def test_questions_about_access(api: Api) -> None:
    group = "/apis/authorization.k8s.io/v1"
    about = {"resourceAttributes": {"verb": "get", "resource": "pods"}}
    assert (await api.create(f"{group}/selfsubjectaccessreviews", {"spec": about}))["status"]["allowed"]
    path = f"{group}/namespaces/default/localsubjectaccessreviews"
    assert (await api.create(path, {"spec": {**about, "user": "u"}}))["status"]["allowed"]
    anonymous = {"spec": {**about, "user": "system:anonymous"}}
    assert not (await api.create(f"{group}/subjectaccessreviews", anonymous))["status"]["allowed"]
    assert (await api.send("POST", f"{group}/subjectaccessreviews", {"spec": about}))[0] == 422
    assert (await api.send("POST", f"{group}/selfsubjectaccessreviews", {"spec": {}}))[0] == 422


async def test_a_caller_may_ask_to_be_taken_for_another(api: Api) -> None:
    headers = {"Impersonate-User": "jane", "Impersonate-Group": "devs"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    code, found = await api.send("POST", path, {}, **headers)
    wanted = {"username": "jane", "groups": ["devs", "system:authenticated"]}
    assert (code, found["status"]["userInfo"]) == (201, wanted)


async def test_priority_follows_from_the_class(api: Api) -> None:
    spec = (await api.create(PODS, pod("a", priorityClassName="system-cluster-critical")))["spec"]
    assert spec["priority"] == 2_000_000_000
    code, found = await api.send("POST", PODS, pod("b", priorityClassName="nope"))
    assert (code, found["message"]) == (403, 'pods "b" is forbidden: no PriorityClass with name nope was found')
    code, found = await api.send("POST", PODS, pod("b", priority=7))
    assert code == 403 and "must not be provided in pod spec" in found["message"]
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    await api.create(classes, {"metadata": {"name": "usual"}, "value": 5, "globalDefault": True})
    spec = (await api.create(PODS, pod("c")))["spec"]
    assert (spec["priorityClassName"], spec["priority"]) == ("usual", 5)


async def test_a_toleration_of_everything_needs_no_other(api: Api) -> None:
    everything = [{"operator": "Exists"}]
    assert (await api.create(PODS, pod(tolerations=everything)))["spec"]["tolerations"] == everything


async def budget(api: Api, **status: Any) -> None:
    body = {"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": WEB}, "minAvailable": 1}}
    await api.create(BUDGETS, body)
    if status:
        counted = {"observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, **status}
        code, found = await api.patch(f"{BUDGETS}/b/status", {"status": counted})
        assert code == 200, found


async def running(api: Api, name: str) -> None:
    await api.create(PODS, pod(name, nodeName="n"))
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    assert (await api.patch(f"{PODS}/{name}/status", {"status": status}))[0] == 200


async def evict(api: Api, name: str, **options: Any) -> tuple[int, Any]:
    body = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": name}, "deleteOptions": options}
    return await api.send("POST", f"{PODS}/{name}/eviction", body)


async def test_an_eviction_deletes_gracefully_and_says_why(api: Api) -> None:
    await running(api, "p")
    assert (await evict(api, "p", gracePeriodSeconds=7))[0] == 201
    found = await api.get(f"{PODS}/p")
    assert found["metadata"]["deletionGracePeriodSeconds"] == 7
    reasons = {item["type"]: item.get("reason") for item in found["status"]["conditions"]}
    assert reasons["DisruptionTarget"] == "EvictionByEvictionAPI"
    assert (await evict(api, "q"))[0] == 404


async def test_a_budget_is_spent_once(api: Api) -> None:
    for name in ("p", "q"):
        await running(api, name)
    await budget(api, disruptionsAllowed=1)
    assert (await evict(api, "p"))[0] == 201
    code, found = await evict(api, "q")
    assert (code, found["reason"]) == (429, "TooManyRequests")
    assert found["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    held = (await api.get(f"{BUDGETS}/b"))["status"]
    assert held["disruptionsAllowed"] == 0 and list(held["disruptedPods"]) == ["p"]


async def test_nothing_is_evicted_before_the_budget_was_counted(api: Api) -> None:
    await running(api, "p")
    await budget(api)
    code, found = await evict(api, "p")
    assert code == 429 and "still being processed" in found["details"]["causes"][0]["message"]


async def test_a_dry_eviction_evicts_nothing(api: Api) -> None:
    await running(api, "p")
    assert (await evict(api, "p", dryRun=["All"]))[0] == 201
    assert "deletionTimestamp" not in (await api.get(f"{PODS}/p"))["metadata"]


async def test_a_grace_can_only_be_shortened(api: Api) -> None:
    await running(api, "p")
    path = f"{PODS}/p"
    first = (await api.send("DELETE", path, {"gracePeriodSeconds": 60}))[1]["metadata"]
    assert (first["deletionGracePeriodSeconds"], first["generation"]) == (60, 2)
    longer = (await api.send("DELETE", path, {"gracePeriodSeconds": 90}))[1]["metadata"]
    assert longer == first
    shorter = (await api.send("DELETE", path, {"gracePeriodSeconds": 5}))[1]["metadata"]
    assert shorter["deletionGracePeriodSeconds"] == 5 and shorter["generation"] == 2
    assert shorter["deletionTimestamp"] < first["deletionTimestamp"]
    assert (await api.send("DELETE", path, {"gracePeriodSeconds": 0}))[0] == 200
    assert (await api.send("GET", path))[0] == 404


async def test_dependents_are_dealt_with_as_the_client_says(api: Api) -> None:
    maps = f"{CORE}/configmaps"
    for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
        name = policy.lower()
        await api.create(maps, {"metadata": {"name": name}})
        code, found = await api.send("DELETE", f"{maps}/{name}", {"propagationPolicy": policy})
        assert (code, found["metadata"]["finalizers"]) == (200, [finalizer])
        assert found["metadata"]["deletionGracePeriodSeconds"] == 0
        code, found = await api.send("DELETE", f"{maps}/{name}")
        assert found["metadata"]["finalizers"] == [finalizer]
        code, found = await api.send("DELETE", f"{maps}/{name}", {"propagationPolicy": "Background"})
        assert (code, found["status"]) == (200, "Success")
    code, found = await api.send("DELETE", f"{maps}/x", {"propagationPolicy": "Orphan", "orphanDependents": True})
    assert code == 422 and "cannot be both set" in found["message"]
