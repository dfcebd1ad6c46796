"""What files a volume has: a pure function of the volume, the pod, and the objects it names.

The messages are kubelets', because they end up in FailedMount events that people search for.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from isthmus.lab.node.environment.fields import Facts, FieldError, field, resource
from isthmus.lab.node.environment.variables import CONFIG_MAP, SECRET, Find
from isthmus.lab.node.pods.spec import Pod
from isthmus.lab.node.pods.volume import SUPPORTED, DownwardSource, ObjectSource, Projection, TokenSource, Volume


class VolumeError(Exception):
    """The volume cannot be provided now; the message says why."""


class File(msgspec.Struct, frozen=True):
    """A file of a volume."""

    data: bytes
    mode: int


Payload = Mapping[str, File]
"""Files by relative path."""

Token = Callable[[TokenSource], str]
"""Returns the token for a projection; raises VolumeError."""


def payload(volume: Volume, pod: Pod, *, facts: Facts, find: Find, token: Token) -> Payload | None:
    """Returns the files of a volume, None for one whose content is its users' own; raises VolumeError."""
    if volume.configMap is not None:
        return _object(CONFIG_MAP, volume.configMap, volume.configMap.name, volume.configMap.defaultMode, find=find)
    if volume.secret is not None:
        name = volume.secret.secretName or volume.secret.name
        return _object(SECRET, volume.secret, name, volume.secret.defaultMode, find=find)
    if volume.downwardAPI is not None:
        return _downward(volume.downwardAPI, pod, facts, default=volume.downwardAPI.defaultMode)
    if volume.projected is not None:
        files: dict[str, File] = {}
        for source in volume.projected.sources:
            files |= _projection(source, pod, facts=facts, find=find, token=token, mode=volume.projected.defaultMode)
        return files
    if kind := volume.unsupported:
        raise VolumeError(f"{kind} volumes are not supported by the lab, which has {', '.join(SUPPORTED)}")
    return None


def references(volumes: Iterable[Volume]) -> set[tuple[str, str]]:
    """Returns the objects (kind, name) that volumes need."""
    found: set[tuple[str, str]] = set()
    for volume in volumes:
        sources = [(volume.configMap, volume.secret)]
        if volume.projected is not None:
            sources += [(source.configMap, source.secret) for source in volume.projected.sources]
        for config_map, secret in sources:
            if config_map is not None and config_map.name:
                found.add((CONFIG_MAP, config_map.name))
            if secret is not None and (secret.secretName or secret.name):
                found.add((SECRET, secret.secretName or secret.name))
    return found


def token_sources(volumes: Iterable[Volume]) -> tuple[TokenSource, ...]:
    """Returns the token projections of volumes."""
    return tuple(
        source.serviceAccountToken
        for volume in volumes
        if volume.projected is not None
        for source in volume.projected.sources
        if source.serviceAccountToken is not None
    )


def _projection(source: Projection, pod: Pod, *, facts: Facts, find: Find, token: Token, mode: int) -> dict[str, File]:
    if source.configMap is not None:
        return _object(CONFIG_MAP, source.configMap, source.configMap.name, mode, find=find)
    if source.secret is not None:
        return _object(SECRET, source.secret, source.secret.name, mode, find=find)
    if source.downwardAPI is not None:
        return _downward(source.downwardAPI, pod, facts, default=mode)
    if source.serviceAccountToken is not None:
        wanted = source.serviceAccountToken
        return {_checked(wanted.path): File(token(wanted).encode(), 0o600 if _one_user(pod) else mode)}
    kind = "clusterTrustBundle" if source.clusterTrustBundle is not None else "unknown"
    raise VolumeError(f"projected source {kind} is not supported by the lab")


def _object(kind: str, source: ObjectSource, name: str, mode: int, *, find: Find) -> dict[str, File]:
    data = find(kind, name)
    if data is None:
        if source.optional:
            return {}
        raise VolumeError(f'{kind.lower()} "{name}" not found')
    if not source.items:
        return {_checked(key): File(value, mode) for key, value in data.items()}
    files: dict[str, File] = {}
    for item in source.items:
        if item.key not in data:
            if source.optional:
                continue
            what = (
                "configmap references non-existent config" if kind == CONFIG_MAP else "references non-existent secret"
            )
            raise VolumeError(f"{what} key: {item.key}")
        files[_checked(item.path)] = File(data[item.key], mode if item.mode is None else item.mode)
    return files


def _downward(source: DownwardSource, pod: Pod, facts: Facts, *, default: int) -> dict[str, File]:
    files: dict[str, File] = {}
    for item in source.items:
        try:
            if item.fieldRef is not None:
                text = field(pod, item.fieldRef.fieldPath, facts, as_file=True)
            elif item.resourceFieldRef is not None:
                text = resource(pod, item.resourceFieldRef, facts)
            else:
                raise FieldError(f"{item.path}: neither fieldRef nor resourceFieldRef")
        except FieldError as error:
            raise VolumeError(str(error)) from error
        files[_checked(item.path)] = File(text.encode(), default if item.mode is None else item.mode)
    return files


def _one_user(pod: Pod) -> bool:
    """Whether all containers run as the same user other than root, who then owns the token alone."""
    users = {
        pod.spec.securityContext.runAsUser
        if container.securityContext.runAsUser is None
        else container.securityContext.runAsUser
        for container in pod.all_containers
    }
    return len(users) == 1 and users not in ({None}, {0}) and pod.spec.securityContext.fsGroup is None


def _checked(path: str) -> str:
    """Returns a path that stays in its volume; the API server has refused others, but who knows which one it was."""
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts) or path.startswith(".."):
        raise VolumeError(f"invalid path {path!r}")
    return path
