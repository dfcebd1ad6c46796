"""Go's durations: `500ms`, `2s`, `1m30s`."""

import re

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float | None:
    """Returns the seconds in a duration; None if it is none. Only 0 may lack a unit."""
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if len(text) > 100 or not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))
