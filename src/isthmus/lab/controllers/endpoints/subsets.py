"""The Endpoints object of a Service: deprecated, one address family, no terminating pods, and still read by many."""

from collections.abc import Iterable
from typing import Any

import msgspec

from isthmus.kube.resources import ENDPOINTS
from isthmus.lab.controllers.effects import Change, Create, Effect
from isthmus.lab.controllers.endpoints.backends import (
    HEADLESS,
    address,
    families,
    hostname,
    is_headless,
    ports,
    sorted_pods,
    target,
)
from isthmus.lab.controllers.objects.pods import Pod
from isthmus.lab.controllers.objects.services import Endpoints, Service
from isthmus.lab.controllers.workloads.templates import clean

Json = dict[str, Any]
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
CAPACITY = 1000
"""Addresses of one Endpoints object; more are cut off, and an annotation says so."""


def plan(service: Service, pods: Iterable[Pod], known: Endpoints | None) -> list[Effect]:
    """Returns what to write so that the Endpoints object says what stands behind a Service."""
    subsets, truncated = _subsets(service, pods)
    meta = service.metadata
    labels = {key: value for key, value in meta.labels.items() if key != HEADLESS} | {MANAGED_BY: MANAGER}
    if is_headless(service):
        labels[HEADLESS] = ""
    annotations = {OVER_CAPACITY: "truncated"} if truncated else {}
    if known is None:
        body = {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": meta.name,
                "namespace": meta.namespace,
                "labels": labels,
                "annotations": annotations,
            },
            "subsets": subsets,
        }
        return [Create(ENDPOINTS, body)]
    patch: Json = {}
    if clean(list(known.subsets)) != clean(subsets):
        patch["subsets"] = subsets
    if known.metadata.labels != labels:
        patch["metadata"] = {"labels": {**dict.fromkeys(known.metadata.labels.keys() - labels.keys()), **labels}}
    if (OVER_CAPACITY in known.metadata.annotations) != truncated:
        patch.setdefault("metadata", {})["annotations"] = {OVER_CAPACITY: "truncated" if truncated else None}
    if not patch:
        return []
    return [Change(ENDPOINTS, meta.namespace, meta.name, patch, version=known.metadata.resourceVersion)]


def _subsets(service: Service, pods: Iterable[Pod]) -> tuple[list[Json], bool]:
    family = families(service)[0]
    groups: dict[bytes, tuple[list[Json], list[Json], list[Json]]] = {}
    count = 0
    # Those that serve come first, so that a cut takes the others.
    for pod in sorted(sorted_pods(pods), key=lambda pod: not pod.ready):
        ip = address(pod, family)
        if pod.leaving or ip is None:
            continue
        listed = ports(service, pod)
        if service.spec.ports and not listed:
            continue
        count += 1
        if count > CAPACITY:
            return _shown(groups), True
        entry: Json = {"ip": ip, "targetRef": target(pod)}
        if pod.spec.nodeName:
            entry["nodeName"] = pod.spec.nodeName
        if name := hostname(service, pod):
            entry["hostname"] = name
        listed = [{key: value for key, value in port.items() if value} for port in listed]
        listed.sort(key=lambda port: (port.get("name", ""), port["port"]))
        _, ready, unready = groups.setdefault(msgspec.json.encode(listed), (listed, [], []))
        (ready if pod.ready or service.spec.publishNotReadyAddresses else unready).append(entry)
    return _shown(groups), False


def _shown(groups: dict[bytes, tuple[list[Json], list[Json], list[Json]]]) -> list[Json]:
    subsets = []
    for _, (listed, ready, unready) in sorted(groups.items()):
        subset: Json = {}
        if ready:
            subset["addresses"] = sorted(ready, key=lambda entry: str(entry["ip"]))
        if unready:
            subset["notReadyAddresses"] = sorted(unready, key=lambda entry: str(entry["ip"]))
        if listed:
            subset["ports"] = listed
        subsets.append(subset)
    return subsets
