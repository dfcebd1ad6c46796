"""What can go wrong between us and an API server, as types that callers can tell apart.

One root, `KubeError`. Under it: the configuration is wrong, no credential could be had, the server could not be
reached, its answer could not be understood, or it answered with an error (`ApiError` and its children, made from the
Status body). Messages carry clipped payloads: an answer may hold a Secret, and a log is read by many. Rejected: letting
aiohttp's exceptions through, which would put a library's name into every caller's `except`.
"""

import msgspec

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""Everything that decoding hostile JSON can raise: malformed or mistyped, not UTF-8, nested too deep."""

CLIP = 256
"""Characters of a foreign payload that an error message may repeat."""


def clip(payload: bytes | str) -> str:
    """Returns the printable beginning of `payload`, at most CLIP characters."""
    text = payload[: CLIP * 4].decode("utf-8", "replace") if isinstance(payload, bytes) else payload
    text = "".join(c if c.isprintable() else " " for c in text[: CLIP + 1])
    return text if len(text) <= CLIP else text[:CLIP] + "..."


class KubeError(Exception):
    """The root of everything that `isthmus.kube` raises."""


class ConfigError(KubeError):
    """A kubeconfig cannot be used; the message names the file and the field."""


class CredentialError(KubeError):
    """No credential could be had: the plugin failed, the token file is gone, the certificate does not load."""


class ConnectionFailed(KubeError):
    """The server could not be reached, did not answer in time, or broke off; whether it acted is unknown."""


class BadAnswer(KubeError):
    """The server's answer is not what the API says it must be, or is larger than allowed."""


class ApiError(KubeError):
    """The server refused: `status` is the HTTP code, `reason` the API's word for it ("NotFound"), may be empty."""

    def __init__(self, *, status: int, reason: str = "", message: str = "", retry_after: float | None = None) -> None:
        super().__init__(message or reason or f"HTTP {status}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the server asks us to wait, from the header or from the Status details."""


class BadRequest(ApiError):
    """400."""


class Unauthorized(ApiError):
    """401: the credential is missing, expired or unknown."""


class Forbidden(ApiError):
    """403: the credential is good, the permission is not there."""


class NotFound(ApiError):
    """404: the object or the whole resource does not exist."""


class Conflict(ApiError):
    """409: the object changed since it was read, or a field is owned by another manager."""


class AlreadyExists(Conflict):
    """409 with reason AlreadyExists."""


class Expired(ApiError):
    """410: the resourceVersion or the continue token is too old; list again."""


class Invalid(ApiError):
    """422: the object does not pass validation."""


class TooManyRequests(ApiError):
    """429: slow down; see `retry_after`."""


class ServerFailure(ApiError):
    """5xx."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: TooManyRequests,
}


def too_late(error: Exception) -> bool:
    """Whether an object was refused because its namespace is on its way out: nobody misses what would go with it."""
    return isinstance(error, Forbidden) and "because it is being terminated" in str(error)


class _Details(msgspec.Struct):
    retryAfterSeconds: int | None = None


class _Status(msgspec.Struct):
    kind: str = ""
    code: int | None = None
    reason: str | None = ""
    message: str | None = ""
    details: _Details | None = None


_MAX_RETRY_AFTER = 3600
"""Seconds; a server cannot put us to sleep for a year."""


def error_from_body(status: int, body: bytes, *, retry_after: float | None = None) -> ApiError:
    """Returns the error for an answer with HTTP `status`; `body` is a Status object, or anything."""
    reason, message = "", ""
    try:
        parsed = msgspec.json.decode(body, type=_Status)
    except DECODE_ERRORS:
        message = f"HTTP {status}: {clip(body)}" if body else f"HTTP {status}"
    else:
        reason, message = clip(parsed.reason or ""), clip(parsed.message or "")
        if parsed.details is not None and parsed.details.retryAfterSeconds is not None:
            retry_after = float(parsed.details.retryAfterSeconds)
    if retry_after is not None:
        retry_after = min(max(retry_after, 0.0), _MAX_RETRY_AFTER)
    cls = _BY_STATUS.get(status, ServerFailure if status >= 500 else ApiError)
    if cls is Conflict and reason == "AlreadyExists":
        cls = AlreadyExists
    return cls(status=status, reason=reason, message=message, retry_after=retry_after)


def error_from_status(raw: bytes) -> ApiError:
    """Returns the error in the object of a watch event of type ERROR; garbage counts as an internal error (500)."""
    try:
        code = msgspec.json.decode(raw, type=_Status).code
    except DECODE_ERRORS:
        code = None
    return error_from_body(code if code is not None and 400 <= code <= 599 else 500, raw)
