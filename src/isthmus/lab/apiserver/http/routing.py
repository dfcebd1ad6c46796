"""From a path to a resource."""

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.schema.kinds import Registry, Resource

MAX_NAME = 253  # characters of any part of a path


class Target(msgspec.Struct, frozen=True):
    """What a path points at: a collection (no name), an object, or a subresource of one."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def resolve(path: str, registry: Registry) -> Target | None:
    """Returns the target of `/api/V/...` or `/apis/G/V/...`, None for any other path; raises 404 for an unknown one."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if any(len(part) > MAX_NAME for part in rest):
        raise errors.unknown_path()
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and not _is_namespace_part(rest, registry, group, version):
        namespace, rest = rest[1], rest[2:]
    resource = registry.find(group=group, version=version, plural=rest[0])
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise errors.unknown_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if name and resource.namespaced and not namespace:
        raise errors.unknown_path()
    if subresource and resource.subresource(subresource) is None:
        raise errors.unknown_path()
    return Target(resource, namespace, name, subresource)


def _is_namespace_part(rest: list[str], registry: Registry, group: str, version: str) -> bool:
    """Tells `namespaces/x/status`, a subresource, from `namespaces/x/pods`, a collection."""
    namespaces = registry.find(group=group, version=version, plural="namespaces")
    return namespaces is not None and len(rest) == 3 and namespaces.subresource(rest[2]) is not None
