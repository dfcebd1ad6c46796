"""Small pieces of table cells: ages, selectors, ports, lists."""

import datetime
from collections.abc import Iterable

from isthmus.lab.apiserver.errors import Json

NONE = "<none>"
UNKNOWN = "<unknown>"

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400
_OPERATORS = {"In": "in", "NotIn": "notin"}


def seconds_since(text: str | None, now: datetime.datetime) -> int | None:
    """Returns the whole seconds from an RFC 3339 time to `now`, None if the text is no time."""
    if not text:
        return None
    try:
        then = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if then.tzinfo is None:
        return None
    return int((now - then).total_seconds())


def duration(seconds: int) -> str:
    """Returns a duration as kubectl shows it: two units while young, one when old (duration.HumanDuration)."""
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    if seconds < 2 * _MINUTE:
        return f"{seconds}s"
    if seconds < 10 * _MINUTE:
        return _two(seconds, _MINUTE, "m", 1, "s")
    if seconds < 3 * _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < 8 * _HOUR:
        return _two(seconds, _HOUR, "h", _MINUTE, "m")
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR}h"
    if seconds < 8 * _DAY:
        return _two(seconds, _DAY, "d", _HOUR, "h")
    if seconds < 2 * _YEAR:
        return f"{seconds // _DAY}d"
    if seconds < 8 * _YEAR:
        return _two(seconds, _YEAR, "y", _DAY, "d")
    return f"{seconds // _YEAR}y"


def _two(seconds: int, big: int, big_unit: str, small: int, small_unit: str) -> str:
    rest = seconds % big // small
    return f"{seconds // big}{big_unit}" + (f"{rest}{small_unit}" if rest else "")


def age(text: str | None, now: datetime.datetime) -> str:
    """Returns how long ago a time was."""
    seconds = seconds_since(text, now)
    return UNKNOWN if seconds is None else duration(seconds)


def age_of(value: Json, now: datetime.datetime) -> str:
    """Returns the age of an object."""
    return age(value["metadata"].get("creationTimestamp"), now)


def label_pairs(labels: Json | None) -> str:
    """Returns `a=b,c=d` in order of keys, or <none>."""
    return ",".join(f"{key}={item}" for key, item in sorted((labels or {}).items())) or NONE


def selector(value: Json | None) -> str:
    """Returns a metav1.LabelSelector as text; <none> if it selects everything."""
    value = value or {}
    terms = [f"{key}={item}" for key, item in value.get("matchLabels", {}).items()]
    for term in value.get("matchExpressions", ()):
        key, operator = term.get("key", ""), term.get("operator", "")
        if operator in _OPERATORS:
            terms.append(f"{key} {_OPERATORS[operator]} ({','.join(sorted(term.get('values', ())))})")
        else:
            terms.append(key if operator == "Exists" else f"!{key}")
    return ",".join(sorted(terms)) or NONE


def shortened(items: Iterable[str], limit: int) -> str:
    """Returns the first `limit` items, and how many more there are."""
    held = list(items)
    if not held:
        return NONE
    text = ",".join(held[:limit])
    return text if len(held) <= limit else f"{text} + {len(held) - limit} more..."
