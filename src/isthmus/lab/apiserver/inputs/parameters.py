"""Query parameters that many requests have in common: words that are a boolean, a number or a version, or a refusal."""

from collections.abc import Mapping

from isthmus.lab.apiserver import errors


def flag(query: Mapping[str, str], name: str) -> bool:
    """Returns a boolean query parameter; raises a 400 ApiError for another word."""
    text = query.get(name, "")
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("", "false", "0", "f"):
        return False
    raise errors.bad_request(f"{name}: {text!r} is not a boolean")


def number(query: Mapping[str, str], name: str) -> int | None:
    """Returns a non-negative query parameter, None if it is not there; raises a 400 ApiError for another word."""
    text = query.get(name, "")
    if not text:
        return None
    if not text.isdecimal() or len(text) > 19:
        raise errors.bad_request(f"{name}: {text!r} is not a number")
    return int(text)


def version_of(query: Mapping[str, str]) -> int | None:
    """Returns the resourceVersion parameter, None if it is not there."""
    text = query.get("resourceVersion", "")
    if text and (not text.isdecimal() or len(text) > 19):
        bad = errors.invalid("resourceVersion", text, "must be a number")
        raise errors.unprocessable("ListOptions.meta.k8s.io", "", [bad])
    return int(text) if text else None
