"""Which pod label keys the policies of the mesh select on, so that importers keep them.

Why: labels that make every pod look different are left out of identities, unless a policy needs them. A policy of one
cluster selects pods of another, so what counts is the union over all clusters that this process reads. Pure but for
the callbacks. Policies are hostile here: what does not look like a selector has no keys, and the policy's own parser
says what is wrong with it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_KEYS = 4096
"""Distinct keys of one policy; more are ignored. A selector of a real policy has a handful."""


class SelectedKeys:
    """The union of the keys in use, and who wants to know."""

    def __init__(self) -> None:
        self._by_source: dict[str, frozenset[str]] = {}
        self._listeners: list[Callable[[], None]] = []
        self.keys: frozenset[str] = frozenset()

    def tell(self, source: str, keys: Iterable[str]) -> None:
        """States the keys that are in use in one source; the listeners hear of it if the union changes."""
        self._by_source[source] = frozenset(keys)
        self._update()

    def forget(self, source: str) -> None:
        """The source is no part of the mesh any more."""
        self._by_source.pop(source, None)
        self._update()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Adds a callback for changes of `keys`; returns what removes it again."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _update(self) -> None:
        union = frozenset().union(*self._by_source.values())
        if union != self.keys:
            self.keys = union
            for listener in list(self._listeners):
                listener()


class PolicyKeys:
    """The keys that the NetworkPolicies of one cluster select on, kept as they come and go."""

    def __init__(self) -> None:
        self._by_policy: dict[tuple[str, str], frozenset[str]] = {}
        self._counts: Counter[str] = Counter()

    @property
    def keys(self) -> frozenset[str]:
        """Returns the keys in use."""
        return frozenset(self._counts)

    def put(self, policy: dict[str, Any]) -> None:
        """Takes a new or changed policy (networking.k8s.io/v1, as decoded JSON)."""
        place = _place(policy)
        self._replace(place, frozenset(_peer_keys(policy)))

    def drop(self, policy: dict[str, Any]) -> None:
        """Takes a deletion."""
        self._replace(_place(policy), frozenset())

    def reset(self, policies: Iterable[dict[str, Any]]) -> None:
        """Takes all policies that there are."""
        self._by_policy.clear()
        self._counts.clear()
        for policy in policies:
            self.put(policy)

    def _replace(self, place: tuple[str, str], keys: frozenset[str]) -> None:
        self._counts.subtract(self._by_policy.pop(place, ()))
        self._counts.update(keys)
        self._counts = +self._counts
        if keys:
            self._by_policy[place] = keys


def _place(policy: dict[str, Any]) -> tuple[str, str]:
    meta = policy.get("metadata")
    found = meta if isinstance(meta, dict) else {}
    return str(found.get("namespace", "")), str(found.get("name", ""))


def _peer_keys(policy: dict[str, Any]) -> list[str]:
    """Returns the label keys of all podSelectors among the peers; subjects are local and need no identity."""
    keys: dict[str, None] = {}
    spec = policy.get("spec")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in _dicts(spec.get(direction) if isinstance(spec, dict) else None):
            for peer in _dicts(rule.get(peers)):
                for key in _selector_keys(peer.get("podSelector")):
                    if len(keys) < MAX_KEYS:
                        keys[key] = None
    return list(keys)


def _selector_keys(selector: object) -> Iterator[str]:
    if not isinstance(selector, dict):
        return
    labels = selector.get("matchLabels")
    if isinstance(labels, dict):
        yield from (key for key in labels if isinstance(key, str))
    for expression in _dicts(selector.get("matchExpressions")):
        if isinstance(key := expression.get("key"), str):
            yield key


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, dict))
