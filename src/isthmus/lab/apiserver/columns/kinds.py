"""The columns of all kinds but pods, as `kubectl get` shows them from a real server."""

import datetime
from typing import Any

from isthmus.lab.apiserver.columns.text import NONE, UNKNOWN, age, age_of, label_pairs, selector, shortened
from isthmus.lab.apiserver.errors import Json

_ROLE = "node-role.kubernetes.io/"
_MAX_ENDPOINTS = 3


def namespace(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, status, age."""
    return [value["metadata"]["name"], value.get("status", {}).get("phase", ""), age_of(value, now)]


def _service_ports(spec: Json) -> str:
    held = []
    for port in spec.get("ports", ()):
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        held.append(f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}")
    return ",".join(held) or NONE


def _external(value: Json) -> str:
    spec = value.get("spec", {})
    held = list(spec.get("externalIPs", ()))
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", NONE))
    if spec.get("type") == "LoadBalancer":
        points = value.get("status", {}).get("loadBalancer", {}).get("ingress", ())
        held = [point.get("ip") or point.get("hostname", "") for point in points] + held
        return ",".join(held) or "<pending>"
    return ",".join(held) or NONE


def service(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, type, addresses, ports, age, selector."""
    spec = value.get("spec", {})
    return [
        value["metadata"]["name"],
        spec.get("type", ""),
        spec.get("clusterIP") or NONE,
        _external(value),
        _service_ports(spec),
        age_of(value, now),
        label_pairs(spec.get("selector")),
    ]


def node(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, status, roles, age, version, addresses, system."""
    status, metadata = value.get("status", {}), value["metadata"]
    info = status.get("nodeInfo", {})
    ready = [item.get("status") for item in status.get("conditions", ()) if item.get("type") == "Ready"]
    word = "Unknown" if not ready else "Ready" if ready[0] == "True" else "NotReady"
    if value.get("spec", {}).get("unschedulable"):
        word += ",SchedulingDisabled"
    labels = metadata.get("labels", {})
    roles = sorted(key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE) and key != _ROLE)
    addresses: dict[str, str] = {}
    for item in status.get("addresses", ()):
        addresses.setdefault(item.get("type", ""), item.get("address", ""))
    return [
        metadata["name"],
        word,
        ",".join(roles) or NONE,
        age_of(value, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


def event(value: Json, now: datetime.datetime) -> list[Any]:
    """Last seen, type, reason, object, path, source, message, first seen, count, name."""
    about, source, series = value.get("involvedObject", {}), value.get("source", {}), value.get("series", {})
    first = age(value.get("firstTimestamp") or value.get("eventTime"), now)
    last = age(series.get("lastObservedTime") or value.get("lastTimestamp"), now)
    where = [source.get("component") or value.get("reportingComponent", ""), source.get("host", "")]
    return [
        first if last == UNKNOWN else last,
        value.get("type", ""),
        value.get("reason", ""),
        f"{about.get('kind', '').lower()}/{about.get('name', '')}",
        about.get("fieldPath", ""),
        ", ".join(word for word in where if word),
        value.get("message", "").strip(),
        first,
        series.get("count") or value.get("count") or 1,
        value["metadata"]["name"],
    ]


def config_map(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, number of keys, age."""
    return [
        value["metadata"]["name"],
        len(value.get("data", ())) + len(value.get("binaryData", ())),
        age_of(value, now),
    ]


def secret(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, type, number of keys, age."""
    return [value["metadata"]["name"], value.get("type", ""), len(value.get("data", ())), age_of(value, now)]


def service_account(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, number of secrets, age."""
    return [value["metadata"]["name"], len(value.get("secrets", ())), age_of(value, now)]


def endpoints(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, addresses with ports, age."""
    held = []
    for subset in value.get("subsets", ()):
        for address in subset.get("addresses", ()):
            ip = address.get("ip", "")
            shown = f"[{ip}]" if ":" in ip else ip
            held += [f"{shown}:{port.get('port')}" for port in subset.get("ports", ())] or [ip]
    return [value["metadata"]["name"], shortened(held, _MAX_ENDPOINTS), age_of(value, now)]


def endpoint_slice(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, address type, ports, addresses, age."""
    ports = [str(port.get("port", "*")) for port in value.get("ports", ())]
    held = [text for point in value.get("endpoints", ()) for text in point.get("addresses", ())]
    texts = (shortened(ports, _MAX_ENDPOINTS), shortened(held, _MAX_ENDPOINTS))
    shown = ["<unset>" if text == NONE else text for text in texts]
    return [value["metadata"]["name"], value.get("addressType", ""), *shown, age_of(value, now)]


def network_policy(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, pod selector, age."""
    return [value["metadata"]["name"], selector(value.get("spec", {}).get("podSelector")), age_of(value, now)]


def lease(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, holder, age."""
    return [value["metadata"]["name"], value.get("spec", {}).get("holderIdentity", ""), age_of(value, now)]


def _containers(value: Json) -> list[Any]:
    spec = value.get("spec", {})
    held = spec.get("template", {}).get("spec", {}).get("containers", ())
    names = ",".join(item.get("name", "") for item in held)
    images = ",".join(item.get("image", "") for item in held)
    return [names, images, selector(spec.get("selector"))]


def deployment(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, ready, up to date, available, age, containers, images, selector."""
    status = value.get("status", {})
    wanted = value.get("spec", {}).get("replicas", 0)
    return [
        value["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{wanted}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age_of(value, now),
        *_containers(value),
    ]


def replica_set(value: Json, now: datetime.datetime) -> list[Any]:
    """Name, desired, current, ready, age, containers, images, selector."""
    status = value.get("status", {})
    wanted = value.get("spec", {}).get("replicas", 0)
    counts = [wanted, status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [value["metadata"]["name"], *counts, age_of(value, now), *_containers(value)]


def plain(value: Json, now: datetime.datetime) -> list[Any]:
    """Name and creation time, for kinds without columns of their own."""
    return [value["metadata"]["name"], value["metadata"].get("creationTimestamp", "")]
