"""Strings that a schema restricts: the formats that the API server checks, and patterns.

Patterns are RE2 and run in linear time, in the engine that CEL brings (reference: Go `regexp/syntax`); Python's `re`
was rejected, because a pattern that a user wrote could keep it busy for ever, and because its syntax differs.
A format that is not known here is not checked, as in the real server.
"""

import base64
import binascii
import datetime
import functools
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from isthmus.lab.apiserver.extensions.engine import Engine

MAX_REMEMBERED = 128  # characters of a text whose verdict is kept: names, labels and ports come again and again

_DURATION = re.compile(r"[+-]?(0|(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))*)")
_WORDS = re.compile(
    r"\d+\s*(ns|us|µs|ms|s|m|h|d|w|(nano|micro|milli)?(seconds?|secs?)|minutes?|mins?|hours?|hrs?|days?|weeks?)"
)
_TIME = re.compile(r"(\d{4})-(\d{2})-(\d{2})[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]\d{2}:\d{2})?")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?")
_EMAIL = re.compile(r"[^@\s<>()\[\],;:\\\"]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_MAC = re.compile(r"([0-9A-Fa-f]{2}([:-])([0-9A-Fa-f]{2}\2){4}([0-9A-Fa-f]{2}\2[0-9A-Fa-f]{2}\2)?[0-9A-Fa-f]{2})")
_COLOR = re.compile(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
_OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")
_SSN = re.compile(r"\d{3}[- ]?\d{2}[- ]?\d{4}")


def _address(version: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            return ipaddress.ip_address(text).version == version and "%" not in text
        except ValueError:
            return False

    return check


def _network(text: str) -> bool:
    address, slash, length = text.partition("/")
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return bool(slash) and length.isdecimal() and "%" not in address


def _bytes(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return bool(text)


def _date(text: str) -> bool:
    try:
        return bool(datetime.date.fromisoformat(text)) and len(text) == 10
    except ValueError:
        return False


def _date_time(text: str) -> bool:
    found = _TIME.fullmatch(text)
    return found is not None and _date(text[:10])


def _uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme or text.startswith("/")) and not any(letter.isspace() for letter in text)


def _uuid(version: str) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        digits = text.replace("-", "")
        return _UUID.fullmatch(text) is not None and (not version or digits[12] == version)

    return check


_FORMATS: dict[str, Callable[[str], bool]] = {
    "ipv4": _address(4),
    "ipv6": _address(6),
    "cidr": _network,
    "byte": _bytes,
    "date": _date,
    "date-time": _date_time,
    "datetime": _date_time,
    "duration": lambda text: bool(_DURATION.fullmatch(text) or _WORDS.fullmatch(text.strip())),
    "uri": _uri,
    "hostname": lambda text: len(text) <= 255 and _HOST.fullmatch(text) is not None,
    "email": lambda text: _EMAIL.fullmatch(text) is not None,
    "mac": lambda text: _MAC.fullmatch(text) is not None,
    "uuid": _uuid(""),
    "uuid3": _uuid("3"),
    "uuid4": _uuid("4"),
    "uuid5": _uuid("5"),
    "hexcolor": lambda text: _COLOR.fullmatch(text) is not None,
    "bsonobjectid": lambda text: _OBJECT_ID.fullmatch(text) is not None,
    "ssn": lambda text: _SSN.fullmatch(text) is not None,
}


def has_format(text: str, name: str) -> bool:
    """Tells whether `text` is of the format called `name`; an unknown format holds everything."""
    check = _FORMATS.get(name)
    return check is None or check(text)


def matches(text: str, pattern: str) -> bool:
    """Tells whether `pattern` is found in `text`; False for a pattern that is none."""
    return _remembered(text, pattern) if len(text) <= MAX_REMEMBERED else Engine.shared().matches(text, pattern)


@functools.lru_cache(maxsize=2048)
def _remembered(text: str, pattern: str) -> bool:
    return Engine.shared().matches(text, pattern)


def pattern_error(pattern: str) -> str:
    """Returns what is wrong with a pattern, "" if nothing is."""
    return Engine.shared().pattern_error(pattern)
