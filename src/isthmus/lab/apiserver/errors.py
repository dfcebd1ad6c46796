"""Failures as the API tells them: `Status` objects with the code, reason, message and causes that clients look for.

kubectl prints `message` as it is and decides by `reason` and `code`, so all three follow the real server's wording
(reference: k8s.io/apimachinery `pkg/api/errors`, `pkg/util/validation/field`). Plain HTTP errors were rejected:
client-go turns an unrecognised body into "unknown error".
"""

from collections.abc import Sequence
from typing import Any

import msgspec

Json = dict[str, Any]
"""A decoded JSON object. Objects of users have no narrower Python type: the type table holds their shape."""


class FieldError(msgspec.Struct, frozen=True):
    """One broken rule: `reason` as in StatusCause, `path` like `spec.ports[0].port`."""

    reason: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def _shown(value: object) -> str:
    """Returns a value as the real server prints it: Go's syntax for maps, lists and selectors of strings."""
    if isinstance(value, dict):
        if value and value.keys() <= {"matchLabels", "matchExpressions"}:
            return _selector(value)
        if all(isinstance(item, str) for item in value.values()):
            return f"map[string]string{{{', '.join(f'{_shown(key)}:{_shown(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return f"[]string{{{', '.join(_shown(item) for item in value)}}}"
    return msgspec.json.encode(value).decode()


def _selector(value: Json) -> str:
    labels, terms = value.get("matchLabels"), value.get("matchExpressions")
    shown = "map[string]string(nil)" if labels is None else _shown(labels)
    kind = "v1.LabelSelectorRequirement"
    told = f"[]{kind}(nil)"
    if terms is not None:
        words = (
            f"{kind}{{Key:{_shown(term.get('key', ''))}, Operator:{_shown(term.get('operator', ''))}, "
            f"Values:{_shown(term['values']) if term.get('values') else '[]string(nil)'}}}"
            for term in terms
        )
        told = f"[]{kind}{{{', '.join(words)}}}"
    return f"v1.LabelSelector{{MatchLabels:{shown}, MatchExpressions:{told}}}"


def invalid(path: str, value: object, detail: str) -> FieldError:
    """Says that `value` breaks the rule told by `detail`."""
    return FieldError("FieldValueInvalid", path, f"Invalid value: {_shown(value)}: {detail}")


def required(path: str, detail: str = "") -> FieldError:
    """Says that a value is missing."""
    return FieldError("FieldValueRequired", path, f"Required value: {detail}" if detail else "Required value")


def forbidden(path: str, detail: str) -> FieldError:
    """Says that the field may not be set, or not be changed."""
    return FieldError("FieldValueForbidden", path, f"Forbidden: {detail}")


def duplicate(path: str, value: object) -> FieldError:
    """Says that the value is there twice."""
    return FieldError("FieldValueDuplicate", path, f"Duplicate value: {_shown(value)}")


def unsupported(path: str, value: object, supported: Sequence[str]) -> FieldError:
    """Says that the value is none of the `supported` ones."""
    words = ", ".join(_shown(word) for word in supported)
    return FieldError("FieldValueNotSupported", path, f"Unsupported value: {_shown(value)}: supported values: {words}")


def too_long(path: str, limit: int) -> FieldError:
    """Says that the value is longer than `limit` bytes."""
    return FieldError("FieldValueTooLong", path, f"Too long: may not be more than {limit} bytes")


def missing(path: str, value: object) -> FieldError:
    """Says that what the value refers to does not exist."""
    return FieldError("FieldValueNotFound", path, f"Not found: {_shown(value)}")


class ApiError(Exception):
    """A request's failure; `body()` is the Status to send with HTTP status `code`."""

    def __init__(self, code: int, reason: str, message: str, *, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def body(self) -> Json:
        """Returns the Status object."""
        status: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            # Empty ones are sent too: clients look into them (`kubectl debug` without asking whether they are there).
            status["details"] = self.details
        status["code"] = self.code
        return status


def _details(resource: str, name: str, causes: Sequence[Json] = ()) -> Json:
    plural, _, group = resource.partition(".")
    details: Json = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if plural:
        details["kind"] = plural
    if causes:
        details["causes"] = list(causes)
    return details


def not_found(resource: str, name: str) -> ApiError:
    """404; `resource` is `plural.group`, as in all functions here."""
    return ApiError(404, "NotFound", f'{resource} "{name}" not found', details=_details(resource, name))


def unknown_path() -> ApiError:
    """404 for a path that no resource is served at."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(resource: str, name: str) -> ApiError:
    """409 on create."""
    return ApiError(409, "AlreadyExists", f'{resource} "{name}" already exists', details=_details(resource, name))


def conflict(resource: str, name: str, detail: str = "") -> ApiError:
    """409 on a stale resourceVersion or a broken precondition."""
    detail = detail or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {resource} "{name}": {detail}'
    return ApiError(409, "Conflict", message, details=_details(resource, name))


def bad_request(message: str) -> ApiError:
    """400."""
    return ApiError(400, "BadRequest", message)


def denied(resource: str, name: str, detail: str, *, causes: Sequence[Json] = ()) -> ApiError:
    """403."""
    shown = f'{resource} "{name}" is forbidden: {detail}'
    return ApiError(403, "Forbidden", shown, details=_details(resource, name, causes))


def unauthorized() -> ApiError:
    """401."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    """405."""
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, details={})


def not_acceptable() -> ApiError:
    """406: no media type that the client accepts can be made."""
    message = "only the following media types are accepted: application/json, application/json;stream=watch"
    return ApiError(406, "NotAcceptable", message)


def unsupported_media_type(offered: str, accepted: Sequence[str]) -> ApiError:
    """415: the body is of a type that cannot be read."""
    message = (
        f"the body of the request was in an unknown format - accepted media types include: "
        f"{', '.join(accepted)} (got {offered or 'none'})"
    )
    return ApiError(415, "UnsupportedMediaType", message)


def unprocessable(kind: str, name: str, errors: Sequence[FieldError]) -> ApiError:
    """422; `kind` is `Kind.group`. At least one error."""
    causes = [{"reason": error.reason, "message": error.message, "field": error.path} for error in errors]
    told = list(dict.fromkeys(str(error) for error in errors))
    shown = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    details = _details(kind, name, causes)
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {shown}', details=details)


def expired(message: str) -> ApiError:
    """410: the asked-for version is no longer held."""
    return ApiError(410, "Expired", message)


def too_large_version(asked: int, current: int) -> ApiError:
    """504: a version from the future (of another server, or of a lost store)."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    details = {"causes": causes, "retryAfterSeconds": 1}
    return ApiError(504, "Timeout", f"Too large resource version: {asked}, current: {current}", details=details)


def storage_failed(detail: str, *, full: bool) -> ApiError:
    """507 if the disk is full, else 500: the write was not done."""
    if full:
        return ApiError(507, "InternalError", f"the store has no room: {detail}")
    return ApiError(500, "InternalError", f"the store failed: {detail}")


def internal(message: str) -> ApiError:
    """500."""
    return ApiError(500, "InternalError", f"Internal error occurred: {message}")
