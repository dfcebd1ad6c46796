"""Applying what every cluster begins with, to a server that may have it already."""

import json
import re
from typing import Any

import pytest

from isthmus.lab.addons.applying import AddonError, apply_crds, apply_objects
from isthmus.lab.addons.manifests import DIGEST, crds, dns
from isthmus.lab.life.api import Api, ApiError

VALUES = {"cluster_name": "a", "cluster_domain": "cluster.local", "dns_ip": "172.20.1.10"}
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com", "annotations": {DIGEST: "1"}},
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "dns", "namespace": "kube-system", "annotations": {DIGEST: "1"}},
}


class FakeApi(Api):
    """Holds objects by path; a CRD is established when it is read the second time."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []

    def read(self, path: str) -> dict[str, Any] | None:
        self.calls.append(("GET", path))
        if path == "/api/v1":
            return {"resources": [{"kind": "Service", "name": "services", "namespaced": True}]}
        found = self.objects.get(path)
        if found is not None and found["kind"] == "CustomResourceDefinition":
            found["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
        return found

    def send(
        self, method: str, path: str, content: object, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        self.calls.append((method, path))
        sent = json.loads(json.dumps(content))
        if method == "POST":
            path = f"{path}/{sent['metadata']['name']}"
            if path in self.objects:
                # As kube-apiserver: the address of a Service is looked at before its name.
                raise ApiError(422 if sent["kind"] == "Service" else 409, "exists")
        elif sent["metadata"].get("resourceVersion") != self.objects[path]["metadata"]["resourceVersion"]:
            raise ApiError(409, "conflict")
        sent["metadata"]["resourceVersion"] = str(len(self.calls))
        self.objects[path] = sent
        return dict(sent)


def test_a_crd_is_waited_for_until_it_is_served() -> None:
    api = FakeApi()
    apply_crds(api, [CRD], deadline=float("inf"))
    assert [method for method, _path in api.calls] == ["POST", "GET"]
    with pytest.raises(AddonError, match=r"things\.example\.com is not served"):
        apply_crds(FakeApi(), [CRD], deadline=0)


def test_applying_twice_writes_nothing_the_second_time() -> None:
    api = FakeApi()
    apply_objects(api, [SERVICE])
    before = json.dumps(api.objects)
    apply_objects(api, [SERVICE])
    assert json.dumps(api.objects) == before


def test_an_object_of_another_release_is_replaced_and_a_changed_one_is_left() -> None:
    api = FakeApi()
    apply_objects(api, [SERVICE])
    path = "/api/v1/namespaces/kube-system/services/dns"
    api.objects[path]["spec"] = {"changed": "by hand"}
    apply_objects(api, [SERVICE])
    assert "spec" in api.objects[path]
    newer = {**SERVICE, "metadata": {**SERVICE["metadata"], "annotations": {DIGEST: "2"}}}  # fmt: skip
    apply_objects(api, [newer])
    assert "spec" not in api.objects[path]


def test_what_the_server_does_not_know_is_named() -> None:
    with pytest.raises(AddonError, match="Thing x: the API server does not know v1"):
        apply_objects(FakeApi(), [{"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}}])


def test_the_shipped_addons_are_whole() -> None:
    objects = [*crds(), *dns(VALUES)]
    for found in objects:
        assert re.fullmatch("[0-9a-f]{16}", found["metadata"]["annotations"][DIGEST])
    assert len({(found["kind"], found["metadata"]["name"]) for found in objects}) == len(objects)
    assert "$" not in json.dumps(dns(VALUES)).replace("$(", "")
