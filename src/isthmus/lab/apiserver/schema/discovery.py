"""What the server tells about itself: API groups, versions, resources, in the old form and the aggregated one.

Everything is derived from the registry at the time of the request, so that custom resources need nothing here.
"""

from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.schema.kinds import Registry, Resource

VERSION = "v1.33.4"  # the API level that the type table is made from
AGGREGATED = ("v2", "v2beta1")
DISCOVERY_GROUP = "apidiscovery.k8s.io"


def version_info() -> Json:
    """Returns the body of /version."""
    major, minor, _ = VERSION[1:].split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{VERSION}+isthmus",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


def core_versions(address: str) -> Json:
    """Returns the body of /api."""
    served = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": served}


def group(registry: Registry, name: str) -> Json | None:
    """Returns the body of /apis/GROUP, None if the group is not served."""
    versions = registry.group_versions().get(name)
    if versions is None or not name:
        return None
    served = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": served,
        "preferredVersion": served[0],
    }


def group_list(registry: Registry) -> Json:
    """Returns the body of /apis."""
    groups = []
    for name in registry.group_versions():
        body = group(registry, name)
        if body is not None:
            groups.append({key: item for key, item in body.items() if key not in ("kind", "apiVersion")})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def resource_list(registry: Registry, *, name: str, version: str) -> Json | None:
    """Returns the body of /api/V or /apis/GROUP/V, None if it is not served."""
    held = registry.of(name, version)
    if not held:
        return None
    rows = []
    for resource in held:
        row: Json = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            row["shortNames"] = list(resource.short_names)
        if resource.categories:
            row["categories"] = list(resource.categories)
        rows.append(row)
        for sub in resource.subresources:
            row = {"name": f"{resource.plural}/{sub.name}", "singularName": "", "namespaced": resource.namespaced}
            if sub.group:
                row |= {"group": sub.group, "version": sub.version}
            rows.append({**row, "kind": sub.kind or resource.kind, "verbs": list(sub.verbs)})
    group_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows}


def aggregated(registry: Registry, *, core: bool, form: str) -> Json:
    """Returns the APIGroupDiscoveryList of the core group, or of all others; `form` is one of AGGREGATED."""
    items = []
    for name, versions in registry.group_versions().items():
        if (name == "") != core:
            continue
        listed = [
            {
                "version": version,
                "resources": [_discovered(resource) for resource in registry.of(name, version)],
                "freshness": "Current",
            }
            for version in versions
        ]
        metadata: Json = {"creationTimestamp": None}
        if name:
            metadata["name"] = name
        items.append({"metadata": metadata, "versions": listed})
    api_version = f"{DISCOVERY_GROUP}/{form}"
    return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def _discovered(resource: Resource) -> Json:
    row: Json = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        row["shortNames"] = list(resource.short_names)
    if resource.categories:
        row["categories"] = list(resource.categories)
    subresources = []
    for sub in resource.subresources:
        kind = {
            "group": sub.group or resource.group,
            "version": sub.version or resource.version,
            "kind": sub.kind or resource.kind,
        }
        subresources.append({"subresource": sub.name, "responseKind": kind, "verbs": list(sub.verbs)})
    if subresources:
        row["subresources"] = subresources
    return row
