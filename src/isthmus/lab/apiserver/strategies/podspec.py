"""The pod specification: what is filled in and what is checked, for pods and for the templates of workloads.

All that users write in the lab is checked as the real server does; fields that the lab's nodes do not act on
(affinity, exotic volumes) pass as they come.
"""

import re
from collections.abc import Iterator
from typing import Any

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules

CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE_DEFAULTS = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_FILE_VOLUMES = ("secret", "configMap", "projected", "downwardAPI")
_ENV_NAME = re.compile(r"[^=\x00-\x1f\x7f]+")


def containers(spec: Json) -> Iterator[tuple[str, Json]]:
    """Yields (path below spec, container) of all lists."""
    for name in CONTAINER_LISTS:
        for index, container in enumerate(spec.get(name, ())):
            yield f"{name}[{index}]", container


def default(spec: Json, *, template: bool = False) -> None:
    """Fills in what was left out; in a `template` not what only pods get: requests from limits, ports of the host."""
    for name, value in (
        ("restartPolicy", "Always"),
        ("dnsPolicy", "ClusterFirst"),
        ("terminationGracePeriodSeconds", 30),
        ("schedulerName", "default-scheduler"),
    ):
        spec.setdefault(name, value)
    spec.setdefault("securityContext", {})
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for _, container in containers(spec):
        _default_container(container)
        if not template:
            _default_of_pods(container, host_network=spec.get("hostNetwork", False))
    for volume in spec.get("volumes", ()):
        if not volume.keys() - {"name"}:
            volume["emptyDir"] = {}
        for kind in _FILE_VOLUMES:
            if kind in volume:
                volume[kind].setdefault("defaultMode", 0o644)
        if "hostPath" in volume:
            volume["hostPath"].setdefault("type", "")
        sources = volume.get("projected", {}).get("sources", ())
        for held in (volume, *sources):
            for item in held.get("downwardAPI", {}).get("items", ()):
                if "fieldRef" in item:
                    item["fieldRef"].setdefault("apiVersion", "v1")
        for source in sources:
            if "serviceAccountToken" in source:
                source["serviceAccountToken"].setdefault("expirationSeconds", 3600)


def _default_of_pods(container: Json, *, host_network: bool) -> None:
    resources = container["resources"]
    for name, quantity in resources.get("limits", {}).items():
        resources.setdefault("requests", {}).setdefault(name, quantity)
    for port in container.get("ports", ()):
        if host_network and "containerPort" in port:
            port.setdefault("hostPort", port["containerPort"])


def _default_container(container: Json) -> None:
    image = container.get("image", "")
    if not container.get("imagePullPolicy"):
        tag = image.rpartition("/")[2].partition(":")[2]
        latest = "@" not in image and tag in ("", "latest")
        container["imagePullPolicy"] = "Always" if latest else "IfNotPresent"
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for variable in container.get("env", ()):
        reference = variable.get("valueFrom", {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")
    for name in _PROBES:
        probe = container.get(name)
        if probe is not None:
            for field, value in _PROBE_DEFAULTS.items():
                probe.setdefault(field, value)
            _default_get(probe)
            if "grpc" in probe:
                probe["grpc"].setdefault("service", "")
    for hook in container.get("lifecycle", {}).values():
        if isinstance(hook, dict):
            _default_get(hook)


def _default_get(handler: Json) -> None:
    if "httpGet" in handler:
        handler["httpGet"].setdefault("path", "/")
        handler["httpGet"].setdefault("scheme", "HTTP")


def validate(spec: Json, path: str) -> list[FieldError]:
    """Checks a defaulted specification."""
    found: list[FieldError] = []
    volumes = _volumes(spec, path, found)
    if not spec.get("containers"):
        found.append(errors.required(f"{path}.containers"))
    names: set[str] = set()
    for where, container in containers(spec):
        found += _container(container, f"{path}.{where}", names=names, volumes=volumes)
    found += rules.one_of(spec["restartPolicy"], f"{path}.restartPolicy", ("Always", "OnFailure", "Never"))
    policies = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
    found += rules.one_of(spec["dnsPolicy"], f"{path}.dnsPolicy", policies)
    if spec["dnsPolicy"] == "None" and not spec.get("dnsConfig", {}).get("nameservers"):
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        found.append(errors.required(f"{path}.dnsConfig.nameservers", text))
    found += rules.not_negative(spec["terminationGracePeriodSeconds"], f"{path}.terminationGracePeriodSeconds")
    active = spec.get("activeDeadlineSeconds")
    if active is not None and not 1 <= active < 2**31:
        text = "must be between 1 and 2147483647, inclusive"
        found.append(errors.invalid(f"{path}.activeDeadlineSeconds", active, text))
    for name, rule in (
        ("hostname", rules.dns_label),
        ("subdomain", rules.dns_label),
        ("nodeName", rules.dns_subdomain),
        ("serviceAccountName", rules.dns_subdomain),
    ):
        if spec.get(name):
            found += rule(spec[name], f"{path}.{name}")
    found += rules.labels(spec.get("nodeSelector", {}), f"{path}.nodeSelector")
    found += _identity(spec["securityContext"], f"{path}.securityContext")
    for index, toleration in enumerate(spec.get("tolerations", ())):
        found += _toleration(toleration, f"{path}.tolerations[{index}]")
    for index, alias in enumerate(spec.get("hostAliases", ())):
        found += rules.address(alias.get("ip", ""), f"{path}.hostAliases[{index}].ip")
    return found


def _identity(context: Json, path: str) -> list[FieldError]:
    """Checks the numbers of user and group that processes are to have."""
    return [
        errors.invalid(f"{path}.{name}", context[name], "must be between 0 and 2147483647, inclusive")
        for name in ("runAsUser", "runAsGroup", "fsGroup")
        if not 0 <= context.get(name, 0) < 2**31
    ]


def _toleration(toleration: Json, path: str) -> list[FieldError]:
    found: list[FieldError] = []
    operator, effect = toleration.get("operator", ""), toleration.get("effect", "")
    if not toleration.get("key") and operator != "Exists":
        text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        found.append(errors.invalid(f"{path}.operator", operator, text))
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        found.append(errors.invalid(f"{path}.effect", effect, text))
    if operator == "Exists" and toleration.get("value"):
        found.append(errors.invalid(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'"))
    if operator:
        found += rules.one_of(operator, f"{path}.operator", ("Equal", "Exists"))
    if effect:
        found += rules.one_of(effect, f"{path}.effect", ("NoSchedule", "PreferNoSchedule", "NoExecute"))
    return found


def _volumes(spec: Json, path: str, found: list[FieldError]) -> set[str]:
    names: set[str] = set()
    for index, volume in enumerate(spec.get("volumes", ())):
        place = f"{path}.volumes[{index}]"
        name = volume.get("name", "")
        if not name:
            found.append(errors.required(f"{place}.name"))
            continue
        found += rules.dns_label(name, f"{place}.name")
        if name in names:
            found.append(errors.duplicate(f"{place}.name", name))
        names.add(name)
        kinds = sorted(volume.keys() - {"name"})
        for extra in kinds[1:]:
            found.append(errors.forbidden(f"{place}.{extra}", "may not specify more than 1 volume type"))
        for kind, key in (("configMap", "name"), ("secret", "secretName"), ("hostPath", "path")):
            if kind in volume and not volume[kind].get(key):
                found.append(errors.required(f"{place}.{kind}.{key}"))
    return names


def _container(container: Json, path: str, *, names: set[str], volumes: set[str]) -> list[FieldError]:
    found: list[FieldError] = []
    name, image = container.get("name", ""), container.get("image", "")
    if not name:
        found.append(errors.required(f"{path}.name"))
    else:
        found += rules.dns_label(name, f"{path}.name")
        if name in names:
            found.append(errors.duplicate(f"{path}.name", name))
        names.add(name)
    if not image:
        found.append(errors.required(f"{path}.image"))
    elif image != image.strip():
        found.append(errors.invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    policies = ("Always", "IfNotPresent", "Never")
    found += rules.one_of(container["imagePullPolicy"], f"{path}.imagePullPolicy", policies)
    found += _ports(container, path)
    for index, variable in enumerate(container.get("env", ())):
        place = f"{path}.env[{index}]"
        if not variable.get("name"):
            found.append(errors.required(f"{place}.name"))
        elif not _ENV_NAME.fullmatch(variable["name"]):
            text = "a valid environment variable name must consist only of printable ASCII characters other than '='"
            found.append(errors.invalid(f"{place}.name", variable["name"], text))
        if variable.get("value") and variable.get("valueFrom"):
            found.append(errors.invalid(f"{place}.valueFrom", "", "may not be specified when `value` is not empty"))
    paths: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts", ())):
        place = f"{path}.volumeMounts[{index}]"
        if mount.get("name") not in volumes:
            found.append(errors.missing(f"{place}.name", mount.get("name", "")))
        if not mount.get("mountPath"):
            found.append(errors.required(f"{place}.mountPath"))
        elif mount["mountPath"] in paths:
            found.append(errors.invalid(f"{place}.mountPath", mount["mountPath"], "must be unique"))
        paths.add(mount.get("mountPath", ""))
    found += _identity(container.get("securityContext", {}), f"{path}.securityContext")
    for probe in _PROBES:
        if probe in container:
            found += _probe(container[probe], f"{path}.{probe}")
    return found


def _ports(container: Json, path: str) -> list[FieldError]:
    found: list[FieldError] = []
    names: set[str] = set()
    for index, port in enumerate(container.get("ports", ())):
        place = f"{path}.ports[{index}]"
        name = port.get("name")
        if name:
            found += rules.port_name(name, f"{place}.name")
            if name in names:
                found.append(errors.duplicate(f"{place}.name", name))
            names.add(name)
        if not port.get("containerPort"):
            found.append(errors.required(f"{place}.containerPort"))
        else:
            found += rules.port_number(port["containerPort"], f"{place}.containerPort")
        if port.get("hostPort"):
            found += rules.port_number(port["hostPort"], f"{place}.hostPort")
        found += rules.protocol(port["protocol"], f"{place}.protocol")
    return found


def _probe(probe: Json, path: str) -> list[FieldError]:
    found: list[FieldError] = []
    kinds = [name for name in ("exec", "httpGet", "tcpSocket", "grpc") if name in probe]
    if not kinds:
        found.append(errors.required(path, "must specify a handler type"))
    text = "may not specify more than 1 handler type"
    found += [errors.forbidden(f"{path}.{extra}", text) for extra in kinds[1:]]
    for name in ("httpGet", "tcpSocket"):
        if name in probe:
            found += rules.port_or_name(probe[name].get("port", 0), f"{path}.{name}.port")
    if "exec" in probe and not probe["exec"].get("command"):
        found.append(errors.required(f"{path}.exec.command"))
    for name in ("initialDelaySeconds", *_PROBE_DEFAULTS):
        found += rules.not_negative(probe.get(name), f"{path}.{name}")
    return found


def service_class(spec: Json) -> str:
    """Returns the quality of service that follows from requests and limits of CPU and memory."""
    requests: list[Any] = []
    guaranteed = True
    for _, container in containers(spec):
        held = container.get("resources", {})
        for name in ("cpu", "memory"):
            limit, request = held.get("limits", {}).get(name), held.get("requests", {}).get(name)
            requests += [item for item in (limit, request) if item is not None]
            guaranteed &= limit is not None and limit == request
    if not requests:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
