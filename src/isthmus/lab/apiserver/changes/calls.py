"""One write as its request describes it, apart from HTTP: target, options, writer, and what to warn about."""

import datetime
import random
import uuid
from collections.abc import Mapping

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.schema.kinds import Resource

FIELD_VALIDATIONS = ("Ignore", "Strict", "Warn")
MAX_MANAGER = 128  # characters

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words; as real generated names
_SUFFIX_LENGTH = 5
_MAX_BASE = 63 - _SUFFIX_LENGTH


def time_text(moment: datetime.datetime) -> str:
    """Returns a moment in UTC as metav1.Time."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Source:
    """Where times, identifiers and generated names come from; a seed and a clock make it repeatable."""

    def __init__(self, *, seed: int | None = None, clock: datetime.datetime | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 (names, not secrets)
        self._clock = clock

    def now(self) -> datetime.datetime:
        """Returns the time in UTC."""
        return self._clock or datetime.datetime.now(datetime.UTC)

    def timestamp(self, *, later: int = 0) -> str:
        """Returns the time, `later` seconds on, as metav1.Time."""
        return time_text(self.now() + datetime.timedelta(seconds=later))

    def uid(self) -> str:
        """Returns a new UID."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def name(self, base: str) -> str:
        """Returns `base` with a random suffix, at most 63 characters long."""
        return base[:_MAX_BASE] + "".join(self._random.choices(_SUFFIX_LETTERS, k=_SUFFIX_LENGTH))


class Call(msgspec.Struct, frozen=True):
    """One write. `warnings` is filled while it is done and sent as Warning headers."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    manager: str = "unknown"
    validation: str = "Warn"
    dry_run: bool = False
    force: bool = False
    user: str = ""
    warnings: list[str] = msgspec.field(default_factory=list)


def write_options(query: Mapping[str, str], *, user_agent: str) -> dict[str, object]:
    """Returns the fields of `Call` that query parameters set; raises ApiError (400 or 422)."""
    dry_run = query.get("dryRun", "")
    if dry_run not in ("", "All"):
        bad = errors.unsupported("dryRun", [dry_run], ("All",))
        raise errors.unprocessable("CreateOptions.meta.k8s.io", "", [bad])
    validation = query.get("fieldValidation", "") or "Warn"
    if validation not in FIELD_VALIDATIONS:
        bad = errors.unsupported("fieldValidation", validation, ("", *FIELD_VALIDATIONS))
        raise errors.unprocessable("CreateOptions.meta.k8s.io", "", [bad])
    manager = query.get("fieldManager", "") or user_agent.split("/", 1)[0]
    if len(manager) > MAX_MANAGER or not manager.isprintable():
        bad = errors.invalid("fieldManager", manager, "should be at most 128 printable characters")
        raise errors.unprocessable("CreateOptions.meta.k8s.io", "", [bad])
    return {
        "dry_run": dry_run == "All",
        "validation": validation,
        "manager": manager or "unknown",
        "force": query.get("force", "") in ("true", "1"),
    }
