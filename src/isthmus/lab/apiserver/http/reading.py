"""Get and list: current or at a version, selected, in pages."""

import base64
import binascii
from collections.abc import Mapping

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import Json
from isthmus.lab.apiserver.http.representation import Renderer
from isthmus.lab.apiserver.http.routing import Target
from isthmus.lab.apiserver.inputs.parameters import number, version_of
from isthmus.lab.apiserver.inputs.selectors import Selection, parse_fields, parse_labels
from isthmus.lab.apiserver.storage.state import State
from isthmus.lab.apiserver.storage.watchcache import Stored

MATCHES = ("", "Exact", "NotOlderThan")


class _Token(msgspec.Struct, frozen=True):
    """Where the next page begins: after object (namespace, name), in the state of `version`."""

    version: int
    namespace: str
    name: str


def selection_of(target: Target, query: Mapping[str, str]) -> Selection:
    """Returns what labelSelector and fieldSelector (and a name in the path) ask for."""
    fields = parse_fields(query.get("fieldSelector", ""), known=target.resource.fields)
    if target.name:
        fields = (*fields, ("metadata.name", target.name, True))
    return Selection(parse_labels(query.get("labelSelector", "")), fields)


def get(state: State, target: Target, query: Mapping[str, str]) -> Stored:
    """Returns one object; raises 404."""
    check_fresh(state, version_of(query))
    stored = state.cache(target.resource).objects.get((target.namespace, target.name))
    if stored is None:
        raise errors.not_found(target.resource.qualified, target.name)
    return stored


def check_fresh(state: State, version: int | None) -> None:
    """Raises 504 for a version that does not exist yet."""
    if version is not None and version > state.version:
        raise errors.too_large_version(version, state.version)


def list_objects(state: State, target: Target, query: Mapping[str, str], renderer: Renderer) -> bytes:
    """Returns the encoded list."""
    match, version, limit = query.get("resourceVersionMatch", ""), version_of(query), number(query, "limit")
    text = query.get("continue", "")
    _check_options(match, version, text)
    token = _decode(text) if text else None
    check_fresh(state, version)
    cache = state.cache(target.resource)
    at = state.version
    objects = cache.objects
    if token is not None:
        check_fresh(state, token.version)
        at, objects = token.version, cache.at(token.version)
    elif match == "Exact" and version is not None:
        at, objects = version, cache.at(version)
    chosen = cache.select(objects, namespace=target.namespace, selection=selection_of(target, query))
    if token is not None:
        chosen = [stored for stored in chosen if (stored.namespace, stored.name) > (token.namespace, token.name)]
    metadata: Json = {"resourceVersion": str(at)}
    if limit and len(chosen) > limit:
        last = chosen[limit - 1]
        metadata["continue"] = _encode(_Token(at, last.namespace, last.name))
        if not query.get("labelSelector") and not query.get("fieldSelector"):
            metadata["remainingItemCount"] = len(chosen) - limit
        chosen = chosen[:limit]
    return renderer.many(chosen, metadata)


def _check_options(match: str, version: int | None, token: str) -> None:
    path = "resourceVersionMatch"
    found = []
    if match not in MATCHES:
        found.append(errors.unsupported(path, match, MATCHES))
    elif match and version is None:
        found.append(errors.forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided"))
    elif match and token:
        found.append(errors.forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
    elif match == "Exact" and version == 0:
        found.append(errors.forbidden(path, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    if found:
        raise errors.unprocessable("ListOptions.meta.k8s.io", "", found)
    if token and version:
        raise errors.bad_request("specifying resource version is not allowed when using continue")


def _encode(token: _Token) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode()


def _decode(text: str) -> _Token:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=_Token)
    except (msgspec.DecodeError, binascii.Error, ValueError) as failure:
        raise errors.bad_request("continue key is not valid") from failure
