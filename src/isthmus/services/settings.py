"""What the annotations of a Service and of its namespace say about other clusters.

The keys and their meaning are Cilium's (`service.cilium.io/*`, with the older `io.cilium/*`), and two of our own: an
order of clusters and weights. Invariants: what cannot be read is told by key and counts as if it were not there, so one
wrong value never changes what the others mean; a list counts as far as it can be read, up to a bound. Rejected: taking
whatever is not `true` for false, as Cilium does: `shared: "ture"` would take backends away and nobody would be told.
"""

import re
from collections.abc import Iterator, Mapping
from enum import Enum

import msgspec

from isthmus.model.sharing import FULL_WEIGHT
from isthmus.policy.rules import Problem

GLOBAL = "service.cilium.io/global"
SHARED = "service.cilium.io/shared"
AFFINITY = "service.cilium.io/affinity"
SYNC_SLICES = "service.cilium.io/global-sync-endpoint-slices"
ORDER = "isthmus.dev/affinity"
WEIGHT = "isthmus.dev/weight"
NAMESPACE_GLOBAL = "clustermesh.cilium.io/global"

ALIASES = {
    GLOBAL: "io.cilium/global-service",
    SHARED: "io.cilium/shared-service",
    AFFINITY: "io.cilium/service-affinity",
}
"""Older names; where both are there, the newer one counts."""

MOST_WEIGHT = 1000
MOST_CLUSTERS = 255
"""Names in one list: as many as a ClusterSet has clusters."""

_CLUSTER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,4}")
_QUOTED = 80  # characters of a wrong value that people are shown


class Affinity(Enum):
    """Whose backends a service prefers."""

    NONE = "none"
    LOCAL = "local"
    REMOTE = "remote"


class Settings(msgspec.Struct, frozen=True):
    """What a Service wants with other clusters.

    `shared` is false unless `is_global`: it alone says whether a cluster gives the Service's backends to the others, as
    `is_global` alone says whether it uses theirs. `order` wins over `affinity`. `weight` is what each backend of its
    own cluster counts for, in per cent, for all clusters; `weights` are what this cluster makes of the named ones,
    whatever those say. `sync_slices` asks for EndpointSlices of the other clusters' backends.
    """

    is_global: bool = False
    shared: bool = False
    affinity: Affinity = Affinity.NONE
    order: tuple[str, ...] = ()
    weight: int = FULL_WEIGHT
    weights: dict[str, int] = {}
    sync_slices: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def preference(self) -> str:
        """Returns the affinity in one word for people: none, local, remote, or the clusters in their order."""
        return ",".join(self.order) or self.affinity.value


def settings(annotations: Mapping[str, str], *, headless: bool = False, namespace_global: bool = True) -> Settings:
    """Reads a Service's annotations; in a namespace that is not global they mean nothing, but are still judged."""
    problems: list[Problem] = []
    asked = _truth(annotations, GLOBAL, problems, default=False)
    shared = _truth(annotations, SHARED, problems, default=True)
    sync = _truth(annotations, SYNC_SLICES, problems, default=headless)
    affinity = _affinity(annotations, problems)
    order = _order(annotations, problems)
    weight, weights = _weights(annotations, problems)
    if order and _found(annotations, AFFINITY) is not None:
        problems.append(_problem(_key(annotations, AFFINITY), f"not used, because {ORDER} is there"))
    is_global = asked and namespace_global
    return Settings(
        is_global=is_global,
        shared=is_global and shared,
        affinity=affinity,
        order=order,
        weight=weight,
        weights=weights,
        sync_slices=is_global and sync,
        problems=tuple(problems),
    )


def namespace_is_global(annotations: Mapping[str, str]) -> tuple[bool, tuple[Problem, ...]]:
    """Tells whether Services of a namespace may be global, and what is wrong with what it says about that."""
    problems: list[Problem] = []
    return _truth(annotations, NAMESPACE_GLOBAL, problems, default=True), tuple(problems)


def _key(annotations: Mapping[str, str], key: str) -> str:
    """Returns the name under which something is said: the older one only where it is alone."""
    alias = ALIASES.get(key, key)
    return alias if key not in annotations and alias in annotations else key


def _found(annotations: Mapping[str, str], key: str) -> str | None:
    return annotations.get(_key(annotations, key))


def _problem(key: str, message: str) -> Problem:
    return Problem(f"metadata.annotations[{key}]", message)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}...")


def _truth(annotations: Mapping[str, str], key: str, problems: list[Problem], *, default: bool) -> bool:
    value = _found(annotations, key)
    if value is None:
        return default
    word = value.strip().lower()
    if word not in ("true", "false"):
        taken = str(default).lower()
        problems.append(
            _problem(_key(annotations, key), f"{_quoted(value)} is neither true nor false; taken for {taken}")
        )
        return default
    return word == "true"


def _affinity(annotations: Mapping[str, str], problems: list[Problem]) -> Affinity:
    value = _found(annotations, AFFINITY)
    try:
        return Affinity.NONE if value is None else Affinity(value.strip().lower())
    except ValueError:
        said = f"{_quoted(value or '')} is neither local, remote nor none; taken for none"
        problems.append(_problem(_key(annotations, AFFINITY), said))
        return Affinity.NONE


def _listed(value: str, key: str, problems: list[Problem]) -> Iterator[str]:
    """Yields the parts of a list with commas, as many as are allowed."""
    parts = value.split(",", MOST_CLUSTERS)
    if len(parts) > MOST_CLUSTERS:
        problems.append(_problem(key, f"more than {MOST_CLUSTERS} clusters; the rest is left out"))
    yield from (part.strip() for part in parts[:MOST_CLUSTERS])


def _order(annotations: Mapping[str, str], problems: list[Problem]) -> tuple[str, ...]:
    value = annotations.get(ORDER)
    found: dict[str, None] = {}
    for name in _listed(value, ORDER, problems) if value is not None else ():
        if not _CLUSTER.fullmatch(name):
            problems.append(_problem(ORDER, f"{_quoted(name)} is no name of a cluster; left out"))
        elif name in found:
            problems.append(_problem(ORDER, f"{name} is there twice; the first one counts"))
        else:
            found[name] = None
    return tuple(found)


def _weights(annotations: Mapping[str, str], problems: list[Problem]) -> tuple[int, dict[str, int]]:
    value = annotations.get(WEIGHT)
    if value is None:
        return FULL_WEIGHT, {}
    if "=" not in value:
        weight = _weight(value.strip())
        if weight is None:
            said = f"{_quoted(value)} is not 0 to {MOST_WEIGHT}, nor CLUSTER=WEIGHT,...; taken for {FULL_WEIGHT}"
            problems.append(_problem(WEIGHT, said))
        return FULL_WEIGHT if weight is None else weight, {}
    found: dict[str, int] = {}
    for part in _listed(value, WEIGHT, problems):
        name, _, number = (piece.strip() for piece in part.partition("="))
        weight = _weight(number)
        if not _CLUSTER.fullmatch(name) or weight is None:
            said = f"{_quoted(part)} is not CLUSTER=WEIGHT with a weight of 0 to {MOST_WEIGHT}; left out"
            problems.append(_problem(WEIGHT, said))
        elif name in found:
            problems.append(_problem(WEIGHT, f"{name} is there twice; the first one counts"))
        else:
            found[name] = weight
    return FULL_WEIGHT, found


def _weight(text: str) -> int | None:
    if not text.isascii() or not _NUMBER.fullmatch(text):
        return None
    weight = int(text)
    return weight if weight <= MOST_WEIGHT else None
