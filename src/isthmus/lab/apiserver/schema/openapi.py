"""OpenAPI documents, made from the type table and the registry when they are asked for.

kubectl takes three things from them: that `fieldValidation` is understood (then the server checks fields), how lists
merge (for `apply`), and what fields there are (for `explain`). A document of version 3 is made per API group version,
one of version 2 for everything. Nothing is kept: clients cache by the hash, which covers the sources of the
documents.
"""

import functools
import hashlib
from collections.abc import Iterable

import msgspec

from isthmus.lab.apiserver.changes.patching import CUSTOM_TYPES, TYPES
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.extensions import publishing
from isthmus.lab.apiserver.schema import discovery
from isthmus.lab.apiserver.schema.kinds import Registry, Resource
from isthmus.lab.apiserver.schema.typetable import META, FieldType, ObjectType, find

_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_NAMED_SCALARS: dict[str, tuple[str, Json]] = {
    "time": (f"{META}.Time", {"type": "string", "format": "date-time"}),
    "mtime": (f"{META}.MicroTime", {"type": "string", "format": "date-time"}),
    "intstr": (_INT_OR_STRING, {"type": "string", "format": "int-or-string"}),
    "qty": (_QUANTITY, {"type": "string"}),
}
_BASE_3 = "#/components/schemas/"
_EITHER: dict[str, Json] = {
    "intstr": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
    "qty": {"oneOf": [{"type": "string"}, {"type": "number"}]},
}
_SCALARS: dict[str, Json] = {
    "str": {"type": "string"},
    "int": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "bool": {"type": "boolean"},
    "num": {"type": "number", "format": "double"},
    "bytes": {"type": "string", "format": "byte"},
    "any": {"type": "object"},
}
_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")


@functools.cache
def _words() -> dict[str, str]:
    """Returns the words of `types/words.txt`: of a field of any type, a field of one type, or a type."""
    from importlib import resources

    text = (resources.files(__package__) / "types" / "words.txt").read_text(encoding="ascii")
    pairs = (line.partition("|") for line in text.splitlines() if "|" in line and not line.startswith("#"))
    return {name: words for name, _, words in pairs}


class _Document:
    """Gathers the schemas that something refers to; `base` is where references point."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.schemas: dict[str, Json] = {}

    def reference(self, name: str) -> Json:
        return {"$ref": f"{self.base}{name}"}

    def add(self, shape: ObjectType, *, kinds: Iterable[Json] = ()) -> str:
        name = shape.full_name
        if name not in self.schemas:
            schema: Json = {"type": "object"}
            self.schemas[name] = schema
            described = shape.description or _words().get(shape.name)
            if described:
                schema["description"] = described
            if shape.fields:
                schema["properties"] = {
                    field.name: self._property(field, shape.name) for field in shape.fields.values()
                }
            required = [field.name for field in shape.fields.values() if field.required]
            if required:
                schema["required"] = required
            if shape.atomic:
                schema["x-kubernetes-map-type"] = "atomic"
        held = list(kinds)
        if held:
            self.schemas[name].setdefault("x-kubernetes-group-version-kind", []).extend(held)
        return name

    def add_resource(self, resource: Resource, *, version: int) -> str:
        """Adds the schema of a resource's objects; returns its name."""
        own = resource.published()
        if own is None:
            return self.add(resource.type(), kinds=[_kind_of(resource)])
        name = publishing.name(resource.group, resource.version, resource.kind)
        metadata = self.reference(self.add(find("ObjectMeta", package=META)))
        shown = publishing.schema(own, metadata=metadata, version=version)
        self.schemas[name] = {**shown, "x-kubernetes-group-version-kind": [_kind_of(resource)]}
        return name

    def _property(self, field: FieldType, owner: str) -> Json:
        inner = self._scalar(field.type) if field.scalar else {"allOf": [self.reference(self.add(field.target()))]}
        schema: Json = inner
        if field.wrap == "[]":
            schema = {"type": "array", "items": inner}
            schema["x-kubernetes-list-type"] = (
                "atomic" if field.map_keys is None else "map" if field.map_keys else "set"
            )
            if field.map_keys:
                schema["x-kubernetes-list-map-keys"] = list(field.map_keys)
        elif field.wrap == "{}":
            schema = {"type": "object", "additionalProperties": inner}
        strategy = [
            word for word, on in (("merge", field.merge_key is not None), ("retainKeys", field.retain_keys)) if on
        ]
        if strategy:
            schema["x-kubernetes-patch-strategy"] = ",".join(strategy)
        if field.merge_key:
            schema["x-kubernetes-patch-merge-key"] = field.merge_key
        if field.atomic:
            schema["x-kubernetes-map-type"] = "atomic"
        words = _words()
        described = words.get(f"{owner}.{field.name}") or words.get(field.name)
        if not described and not field.scalar:
            described = field.target().description or words.get(field.type)
        if described:
            schema["description"] = described
        return schema

    def _scalar(self, kind: str) -> Json:
        named = _NAMED_SCALARS.get(kind)
        if named is None:
            return dict(_SCALARS[kind])
        either = _EITHER.get(kind) if self.base == _BASE_3 else None  # version 2 has no oneOf
        self.schemas.setdefault(named[0], named[1] if either is None else either)
        return {"allOf": [self.reference(named[0])]}


def _kind_of(resource: Resource) -> Json:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _parameter(name: str, *, place: str, version: int) -> Json:
    kind: Json = {"type": "string", "uniqueItems": True}
    head: Json = {"name": name, "in": place}
    if place == "path":
        head["required"] = True
    return {**head, "schema": kind} if version == 3 else {**head, **kind}


def _operation(resource: Resource, action: str, *, kind: Json, body: Json | None, version: int) -> Json:
    writes = action in ("post", "put", "patch")
    parameters = [_parameter(name, place="query", version=version) for name in _WRITE_PARAMETERS if writes]
    if action == "patch":
        parameters.append(_parameter("force", place="query", version=version))
    operation: Json = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
        "operationId": f"{action}{resource.version.title()}{resource.kind}",
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
    }
    if version == 3 and writes:
        types = (TYPES if resource.strategic else CUSTOM_TYPES) if action == "patch" else ("*/*",)
        schema = {"type": "object"} if action == "patch" or body is None else body
        operation["requestBody"] = {"content": {media: {"schema": schema} for media in types}, "required": True}
    elif writes:
        schema = {"type": "object"} if action == "patch" or body is None else body
        parameters.append({"name": "body", "in": "body", "required": True, "schema": schema})
        if action == "patch":
            operation["consumes"] = list(TYPES if resource.strategic else CUSTOM_TYPES)
    return operation


def _paths(resource: Resource, *, body: Json, version: int) -> dict[str, Json]:
    prefix = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    below = f"{prefix}/namespaces/{{namespace}}" if resource.namespaced else prefix
    collection, item = f"{below}/{resource.plural}", f"{below}/{resource.plural}/{{name}}"
    kind = _kind_of(resource)
    spaces = ["namespace"] if resource.namespaced else []

    def entry(names: list[str], verbs: dict[str, str], *, about: Json, content: Json | None) -> Json:
        found: Json = {"parameters": [_parameter(name, place="path", version=version) for name in names]}
        for method, verb in verbs.items():
            if verb:
                found[method] = _operation(resource, method, kind=about, body=content, version=version)
        return found

    def served(verbs: Iterable[tuple[str, str]]) -> dict[str, str]:
        return {method: verb for method, verb in verbs if verb in resource.verbs}

    paths = {}
    on_all = served((("get", "list"), ("post", "create"), ("delete", "deletecollection")))
    paths[collection] = entry(spaces, on_all, about=kind, content=body)
    on_one = served((("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")))
    if on_one:
        paths[item] = entry([*spaces, "name"], on_one, about=kind, content=body)
    if resource.namespaced and resource.stored:
        paths[f"{prefix}/{resource.plural}"] = entry([], {"get": "list"}, about=kind, content=None)
    methods = {"get": "get", "create": "post", "update": "put", "patch": "patch"}
    for sub in resource.subresources:
        about = {
            "group": sub.group or resource.group,
            "version": sub.version or resource.version,
            "kind": sub.kind or resource.kind,
        }
        content = None if sub.kind else body
        verbs = {methods[verb]: verb for verb in sub.verbs}
        paths[f"{item}/{sub.name}"] = entry([*spaces, "name"], verbs, about=about, content=content)
    return paths


def _fill(document: _Document, resources: list[Resource], *, version: int) -> dict[str, Json]:
    paths: dict[str, Json] = {}
    for resource in resources:
        name = document.add_resource(resource, version=version)
        if resource.stored:
            meta = document.add(find("ListMeta", package=META))
            document.schemas[f"{name.removesuffix(resource.kind)}{resource.list_kind}"] = {
                "type": "object",
                "description": f"A list of {resource.kind} objects",
                "required": ["items"],
                "properties": {
                    "kind": {"type": "string"},
                    "apiVersion": {"type": "string"},
                    "metadata": {"allOf": [document.reference(meta)]},
                    "items": {"type": "array", "items": {"allOf": [document.reference(name)]}},
                },
                "x-kubernetes-group-version-kind": [{**_kind_of(resource), "kind": resource.list_kind}],
            }
        paths |= _paths(resource, body=document.reference(name), version=version)
    everything = {"group": "", "version": "v1", "kind": "DeleteOptions"}
    document.add(find("DeleteOptions", package=META), kinds=[everything])
    return paths


_INFO = {"title": "Kubernetes", "version": discovery.VERSION}


def version_3(registry: Registry, *, group: str, version: str) -> Json | None:
    """Returns the version 3 document of one API group version, None if it is not served."""
    resources = registry.of(group, version)
    if not resources:
        return None
    document = _Document(_BASE_3)
    paths = _fill(document, resources, version=3)
    return {"openapi": "3.0.0", "info": _INFO, "paths": paths, "components": {"schemas": document.schemas}}


def version_2(registry: Registry) -> Json:
    """Returns the version 2 document of everything."""
    document = _Document("#/definitions/")
    paths = _fill(document, list(registry), version=2)
    definitions = {name: _flattened(schema) for name, schema in document.schemas.items()}
    return {"swagger": "2.0", "info": _INFO, "paths": paths, "definitions": definitions}


def _flattened(schema: Json) -> Json:
    """Returns a schema in the words of version 2, where a reference stands alone."""
    if list(schema.get("allOf", ())) and len(schema["allOf"]) == 1:
        reference: Json = dict(schema["allOf"][0])
        return {**{key: item for key, item in schema.items() if key != "allOf"}, **reference}
    flat = dict(schema)
    if "properties" in flat:
        flat["properties"] = {name: _flattened(item) for name, item in flat["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(flat.get(key), dict):
            flat[key] = _flattened(flat[key])
    return flat


@functools.lru_cache(maxsize=64)
def _hash(rows: tuple[Resource, ...]) -> str:
    from importlib import resources

    from isthmus.lab.apiserver.schema.typetable import FILES

    digest = hashlib.sha256(repr(rows).encode())
    for file in ("openapi.py", "types/words.txt", *(f"types/{name}" for name in FILES)):
        digest.update((resources.files(__package__) / file).read_bytes())
    return digest.hexdigest()[:32].upper()


def index(registry: Registry) -> Json:
    """Returns the body of /openapi/v3: where each document is, with a hash to cache it by."""
    paths = {}
    for group, versions in registry.group_versions().items():
        for version in versions:
            place = f"apis/{group}/{version}" if group else f"api/{version}"
            found = _hash(tuple(registry.of(group, version)))
            paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={found}"}
    return {"paths": paths}


def encode(document: Json) -> bytes:
    """Returns a document as JSON."""
    return msgspec.json.encode(document)
