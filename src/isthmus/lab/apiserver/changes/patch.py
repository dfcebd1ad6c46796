"""JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386).

Pure functions over decoded JSON; none changes its arguments. Failures carry the codes that the real server uses: 400
for a patch that is no patch, 422 for one that does not fit the object.
"""

import copy
from typing import Any

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import ApiError, Json

MAX_OPERATIONS = 10_000  # of one JSON patch, as in the real server


def merge_patch(target: Any, patch: Any) -> Any:
    """Returns `target` with RFC 7386 `patch` applied: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def json_patch(target: Json, operations: Any) -> Json:
    """Returns `target` with the RFC 6902 operations applied in order; raises ApiError (400, 413 or 422)."""
    if not isinstance(operations, list):
        raise errors.bad_request("error decoding patch: a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        limit = f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        raise ApiError(413, "RequestEntityTooLarge", limit)
    document: Any = copy.deepcopy(target)
    for operation in operations:
        if not isinstance(operation, dict):
            raise errors.bad_request("error decoding patch: an operation is not an object")
        document = _perform(document, operation)
    if not isinstance(document, dict):
        raise _misfit("the result is not an object")
    return document


def _misfit(detail: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {detail}")


def _tokens(operation: Json, member: str = "path") -> list[str]:
    pointer = operation.get(member)
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise errors.bad_request(f"error decoding patch: {member} {pointer!r} is not a JSON pointer")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _perform(document: Any, operation: Json) -> Any:
    path = _tokens(operation)
    match operation.get("op"):
        case "add":
            return _add(document, path, _value(operation))
        case "remove":
            return _remove(document, path)
        case "replace":
            return _put(document, path, _value(operation))
        case "move":
            source = _tokens(operation, "from")
            if path[: len(source)] == source and path != source:
                raise _misfit("an object cannot be moved into itself")
            value = _read(document, source)
            return _add(_remove(document, source), path, value)
        case "copy":
            return _add(document, path, copy.deepcopy(_read(document, _tokens(operation, "from"))))
        case "test":
            found = _read(document, path, default=None)
            if found != operation.get("value") or isinstance(found, bool) != isinstance(operation.get("value"), bool):
                raise _misfit(f"testing path {operation['path']} value failed")
            return document
    raise errors.bad_request(f"error decoding patch: unexpected operation {operation.get('op')!r}")


def _value(operation: Json) -> Any:
    if "value" not in operation:
        raise errors.bad_request(f"error decoding patch: operation {operation.get('op')!r} has no value")
    return copy.deepcopy(operation["value"])


def _index(holder: list[Any], token: str, *, size: int) -> int:
    if not token.isdecimal() or (token != "0" and token.startswith("0")) or int(token) >= size:  # noqa: S105
        raise _misfit(f"index {token!r} is not in a list of {len(holder)}")
    return int(token)


_ABSENT: Any = object()


def _read(document: Any, path: list[str], default: Any = _ABSENT) -> Any:
    for token in path:
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list):
            document = document[_index(document, token, size=len(document))]
        elif default is not _ABSENT:
            return default
        else:
            raise _misfit(f"path {'/' + '/'.join(path)} does not exist")
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    holder = _read(document, path[:-1])
    if isinstance(holder, list):
        place = len(holder) if path[-1] == "-" else _index(holder, path[-1], size=len(holder) + 1)
        holder.insert(place, value)
    elif isinstance(holder, dict):
        holder[path[-1]] = value
    else:
        raise _misfit(f"path {'/' + '/'.join(path)} does not exist")
    return document


def _put(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    holder = _read(document, path[:-1])
    if isinstance(holder, list):
        holder[_index(holder, path[-1], size=len(holder))] = value
    elif isinstance(holder, dict):
        holder[path[-1]] = value  # even if it was not there: RFC 6902 forbids that, the real server does not
    else:
        raise _misfit(f"path {'/' + '/'.join(path)} does not exist")
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        raise _misfit("the whole document cannot be removed")
    holder = _read(document, path[:-1])
    if isinstance(holder, list):
        del holder[_index(holder, path[-1], size=len(holder))]
    elif isinstance(holder, dict) and path[-1] in holder:
        del holder[path[-1]]
    else:
        raise _misfit(f"Unable to remove nonexistent key: {path[-1]}")
    return document
