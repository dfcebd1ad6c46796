"""The downward API: what a pod may ask to be told of itself, as variables and as files."""

import re
from collections.abc import Mapping
from decimal import Decimal

import msgspec

from isthmus.lab.node.pods.container import Container, ResourceRef
from isthmus.lab.node.pods.quantity import in_units
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.quantity import QuantityError, parse

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_RESOURCE = re.compile(r"(limits|requests)\.([a-z0-9./-]+)")


class FieldError(Exception):
    """The pod asks for something that there is not; the message names it."""


class Facts(msgspec.Struct, frozen=True):
    """What a node knows of a pod besides its object; addresses by family, the pod's first family first.

    `allocatable` is what stands for a limit that a container does not have.
    """

    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    allocatable: Mapping[str, str] = {}


def field(pod: Pod, path: str, facts: Facts, *, as_file: bool = False) -> str:
    """Returns a field's value; raises FieldError. Whole maps (labels, annotations) are for files only."""
    known = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "spec.nodeName": pod.spec.nodeName,
        "spec.serviceAccountName": pod.spec.serviceAccountName,
        "status.hostIP": facts.host_ips[0] if facts.host_ips else "",
        "status.hostIPs": ",".join(facts.host_ips),
        "status.podIP": facts.pod_ips[0] if facts.pod_ips else "",
        "status.podIPs": ",".join(facts.pod_ips),
    }
    if path in known:
        return known[path]
    if match := _SUBSCRIPT.fullmatch(path):
        source = pod.metadata.labels if match[1] == "labels" else pod.metadata.annotations
        return source.get(match[2], "")
    if as_file and path in ("metadata.labels", "metadata.annotations"):
        source = pod.metadata.labels if path.endswith("labels") else pod.metadata.annotations
        return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(source.items()))
    raise FieldError(f"fieldRef {path}: unknown field")


def resource(pod: Pod, ref: ResourceRef, facts: Facts, *, container: Container | None = None) -> str:
    """Returns a resource of a container in units of the divisor; raises FieldError."""
    if ref.containerName:
        container = pod.container(ref.containerName)
    match = _RESOURCE.fullmatch(ref.resource)
    if container is None or match is None:
        raise FieldError(f"resourceFieldRef {ref.containerName} {ref.resource}: unknown container or resource")
    which, name = match.groups()
    resources = container.resources
    chosen = resources.limits if which == "limits" else resources.requests
    try:
        if name in chosen:
            value = parse(chosen[name])
        elif which == "limits" and name in facts.allocatable:
            value = parse(facts.allocatable[name])
        else:
            value = Decimal(0)
        return str(in_units(value, ref.divisor))
    except QuantityError as error:
        raise FieldError(f"resourceFieldRef {ref.resource}: {error}") from error


def _quoted(text: str) -> str:
    """As Go's %q: escapes for quotes, backslashes and what cannot be printed."""
    pieces = []
    for letter in text:
        special = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(letter)
        if special:
            pieces.append(special)
        elif letter.isprintable():
            pieces.append(letter)
        else:
            code = ord(letter)
            pieces.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return f'"{"".join(pieces)}"'
