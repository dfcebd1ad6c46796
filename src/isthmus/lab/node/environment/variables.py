"""A container's environment.

Invariants: what the pod says wins over the services' variables, these over the image's; `env` wins over `envFrom`, a
later source over an earlier one; a reference to an object or a key that is missing keeps the container from starting,
unless it is optional. A pure function: the objects come from `find`.
"""

from collections.abc import Callable, Mapping

import msgspec

from isthmus.lab.images.catalog import PATH, Image
from isthmus.lab.node.environment.expansion import expand
from isthmus.lab.node.environment.fields import Facts, FieldError, field, resource
from isthmus.lab.node.pods.container import Container, EnvVar, Selector
from isthmus.lab.node.pods.spec import Pod

CONFIG_MAP, SECRET = "ConfigMap", "Secret"

Data = Mapping[str, bytes]
Find = Callable[[str, str], Data | None]
"""Returns the data of a ConfigMap or Secret (kind, name) of the pod's namespace; None if there is none."""


class ConfigError(Exception):
    """The container cannot be configured; the message is what its status shows."""


class Environment(msgspec.Struct, frozen=True):
    """`variables` is all that the program gets; `declared` is what references in command and args may name."""

    variables: dict[str, str]
    declared: dict[str, str]


def environment(
    pod: Pod, container: Container, *, image: Image, facts: Facts, services: Mapping[str, str], find: Find
) -> Environment:
    """Returns the variables of a container; raises ConfigError."""
    declared: dict[str, str] = {}
    for source in container.envFrom:
        for kind, ref in ((CONFIG_MAP, source.configMapRef), (SECRET, source.secretRef)):
            if ref is not None:
                declared |= {f"{source.prefix}{name}": text for name, text in _all_of(kind, ref, find).items()}
    for variable in container.env:
        value = _value(pod, container, variable, facts=facts, known={**services, **declared}, find=find)
        if value is not None:
            declared[variable.name] = value
    declared = {**services, **declared}
    basis = {"PATH": PATH, "HOSTNAME": pod.hostname, "HOME": "/root"}
    if container.tty:
        basis["TERM"] = "xterm"
    return Environment(variables={**basis, **dict(image.env), **declared}, declared=declared)


def references(container: Container) -> set[tuple[str, str]]:
    """Returns the objects (kind, name) that a container's environment needs."""
    found: set[tuple[str, str]] = set()
    for source in container.envFrom:
        for kind, ref in ((CONFIG_MAP, source.configMapRef), (SECRET, source.secretRef)):
            if ref is not None and ref.name:
                found.add((kind, ref.name))
    for variable in container.env:
        if variable.valueFrom is not None:
            for kind, ref in (
                (CONFIG_MAP, variable.valueFrom.configMapKeyRef),
                (SECRET, variable.valueFrom.secretKeyRef),
            ):
                if ref is not None and ref.name:
                    found.add((kind, ref.name))
    return found


def _value(
    pod: Pod, container: Container, variable: EnvVar, *, facts: Facts, known: Mapping[str, str], find: Find
) -> str | None:
    source = variable.valueFrom
    if variable.value or source is None:
        return expand(variable.value, known)
    try:
        if source.fieldRef is not None:
            return field(pod, source.fieldRef.fieldPath, facts)
        if source.resourceFieldRef is not None:
            return resource(pod, source.resourceFieldRef, facts, container=container)
    except FieldError as error:
        raise ConfigError(str(error)) from error
    if source.configMapKeyRef is not None:
        return _key_of(CONFIG_MAP, source.configMapKeyRef, find, namespace=pod.metadata.namespace)
    if source.secretKeyRef is not None:
        return _key_of(SECRET, source.secretKeyRef, find, namespace=pod.metadata.namespace)
    raise ConfigError(f"env {variable.name}: this kind of valueFrom is not supported by the lab")


def _all_of(kind: str, ref: Selector, find: Find) -> dict[str, str]:
    data = find(kind, ref.name)
    if data is None:
        if ref.optional:
            return {}
        raise ConfigError(f'{kind.lower()} "{ref.name}" not found')
    return {key: _text(value) for key, value in data.items()}


def _key_of(kind: str, ref: Selector, find: Find, *, namespace: str) -> str | None:
    data = find(kind, ref.name)
    if data is None:
        if ref.optional:
            return None
        raise ConfigError(f'{kind.lower()} "{ref.name}" not found')
    if ref.key not in data:
        if ref.optional:
            return None
        raise ConfigError(f"couldn't find key {ref.key} in {kind} {namespace}/{ref.name}")
    return _text(data[ref.key])


def _text(value: bytes) -> str:
    # A container runtime is asked in UTF-8, and a variable cannot hold a zero byte.
    return value.decode("utf-8", "replace").replace("\0", "")
