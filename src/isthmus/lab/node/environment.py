"""A container's environment and its expanded command line.

Rules of the API (core/v1 EnvVar, Container): `$(NAME)` in values, command and args is replaced if NAME was defined
before, and stays as it is otherwise; `$$` is one dollar sign.
"""

import re
from collections.abc import Mapping, Sequence

from isthmus.lab.images.catalog import PATH, Image
from isthmus.lab.node.pod import Container, Pod

_REFERENCE = re.compile(r"\$(?:\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class UnsupportedError(Exception):
    """The pod asks for something that the lab does not have; the message names it."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replaces references in `text`."""

    def replaced(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        return values.get(name, match.group(0))

    return _REFERENCE.sub(replaced, text)


def expand_all(words: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Replaces references in each word."""
    return tuple(expand(word, values) for word in words)


def environment(
    pod: Pod, container: Container, *, image: Image, host_ip: str, pod_ip: str, services: Mapping[str, str]
) -> dict[str, str]:
    """Returns the variables of a container; raises UnsupportedError."""
    values = {"PATH": PATH, "HOSTNAME": pod.hostname, "HOME": "/root"}
    if container.tty:
        values["TERM"] = "xterm"
    values |= dict(image.env)
    values |= services
    for variable in container.env:
        if variable.valueFrom is None:
            values[variable.name] = expand(variable.value, values)
        elif variable.valueFrom.fieldRef is not None:
            path = variable.valueFrom.fieldRef.fieldPath
            values[variable.name] = _field(pod, path, host_ip=host_ip, pod_ip=pod_ip)
        else:
            raise UnsupportedError(f"env {variable.name}: only value and fieldRef are supported by the lab")
    return values


def _field(pod: Pod, path: str, *, host_ip: str, pod_ip: str) -> str:
    known = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "spec.nodeName": pod.spec.nodeName,
        "spec.serviceAccountName": pod.spec.serviceAccountName,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
    }
    if path in known:
        return known[path]
    if match := _SUBSCRIPT.fullmatch(path):
        source = pod.metadata.labels if match[1] == "labels" else pod.metadata.annotations
        return source.get(match[2], "")
    raise UnsupportedError(f"fieldRef {path}: unknown field")
