"""Which pod label keys the policies of the mesh select on, so that importers keep them.

Why: labels that make every pod look different are left out of identities, unless a policy needs them. A policy of one
cluster selects pods of another, so what counts is the union over all clusters that this process reads. Only peers
count: subjects are pods of an agent's own node, and it knows all their labels. Pure but for the callbacks. Policies are
hostile here: what does not look like a selector has no keys, and the policy's own parser says what is wrong with it.
Rejected: parsing them, which needs what they refer to, and would leave out the keys of what is not valid.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from isthmus.kube.schema import Service
from isthmus.kube.watch import Change, Gone, Put, Snapshot
from isthmus.mesh.source.identities import LabelFilter

MAX_KEYS = 4096
"""Distinct keys of one policy; more are ignored. A selector of a real policy has a handful."""

_DIRECTIONS = ("ingress", "egress", "ingressDeny", "egressDeny")
_PEERS = ("from", "to")
"""Peers of NetworkPolicy and of the kinds with tiers, which have pod selectors at one of two places."""
_ENDPOINTS = ("fromEndpoints", "toEndpoints", "fromRequires", "toRequires")
_SOURCES = ("k8s:", "any:")
"""Where a label is from, as Cilium's selectors may say; those of no other source are labels of a pod."""


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


Place = tuple[str, str, str]
"""(kind, namespace, name)."""


class PolicyKeys:
    """The keys that the policies of one cluster select peers by, of all kinds, kept as they come and go.

    Where some policy has `toServices`, selectors of Services are selectors of peers too.
    """

    def __init__(self, label_filter: LabelFilter | None = None) -> None:
        self._filter = label_filter or LabelFilter()
        self._by_policy: dict[Place, frozenset[str]] = {}
        self._counts: Counter[str] = Counter()
        self._to_services: set[Place] = set()
        self._by_service: dict[tuple[str, str], frozenset[str]] = {}
        """Keys that would not be kept otherwise: of most Services none."""

    @property
    def keys(self) -> frozenset[str]:
        """Returns the keys in use."""
        found = frozenset(self._counts)
        return found.union(*self._by_service.values()) if self._to_services and self._by_service else found

    def put(self, kind: str, policy: dict[str, Any]) -> None:
        """Takes a new or changed policy of any kind, as decoded JSON."""
        place = _place(kind, policy)
        self._replace(place, frozenset(_peer_keys(policy)))
        if _has_to_services(policy):
            self._to_services.add(place)
        else:
            self._to_services.discard(place)

    def drop(self, kind: str, policy: dict[str, Any]) -> None:
        """Takes a deletion."""
        place = _place(kind, policy)
        self._replace(place, frozenset())
        self._to_services.discard(place)

    def reset(self, kind: str, policies: Iterable[dict[str, Any]]) -> None:
        """Takes all policies of a kind that there are."""
        for place in [place for place in self._by_policy if place[0] == kind]:
            self._replace(place, frozenset())
        self._to_services = {place for place in self._to_services if place[0] != kind}
        for policy in policies:
            self.put(kind, policy)

    def services(self, change: Change[Service]) -> None:
        """Takes a change of the cluster's Services."""
        match change:
            case Put(service):
                self._put_service(service)
            case Gone(service):
                self._by_service.pop((service.metadata.namespace, service.metadata.name), None)
            case Snapshot(services):
                self._by_service.clear()
                for service in services:
                    self._put_service(service)

    def _put_service(self, service: Service) -> None:
        place = (service.metadata.namespace, service.metadata.name)
        keys = self._filter.selecting(service.spec.selector).selected
        if keys:
            self._by_service[place] = keys
        else:
            self._by_service.pop(place, None)

    def _replace(self, place: Place, keys: frozenset[str]) -> None:
        before = self._by_policy.pop(place, frozenset())
        if keys:
            self._by_policy[place] = keys
        if keys == before:
            return
        self._counts.update(keys)
        self._counts.subtract(before)
        for key in before - keys:
            if not self._counts[key]:
                del self._counts[key]


def _place(kind: str, policy: dict[str, Any]) -> Place:
    meta = policy.get("metadata")
    found = meta if isinstance(meta, dict) else {}
    return kind, str(found.get("namespace", "")), str(found.get("name", ""))


def _rules(policy: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the rules of all directions of a policy of any kind."""
    specs = policy.get("specs")
    for spec in (policy.get("spec"), *(specs if isinstance(specs, list) else ())):
        if isinstance(spec, dict):
            for direction in _DIRECTIONS:
                yield from _dicts(spec.get(direction))


def _peer_keys(policy: dict[str, Any]) -> list[str]:
    """Returns the label keys of all selectors of pods among the peers."""
    keys: dict[str, None] = {}
    for rule in _rules(policy):
        for selector in _selectors(rule):
            for key in _selector_keys(selector):
                if len(keys) >= MAX_KEYS:
                    return list(keys)
                keys[key] = None
    return list(keys)


def _selectors(rule: dict[str, Any]) -> Iterator[object]:
    for field in _PEERS:
        for peer in _dicts(rule.get(field)):
            yield peer.get("podSelector")
            pods = peer.get("pods")
            yield pods.get("podSelector") if isinstance(pods, dict) else None
    for field in _ENDPOINTS:
        yield from _dicts(rule.get(field))


def _has_to_services(policy: dict[str, Any]) -> bool:
    return any(rule.get("toServices") for rule in _rules(policy))


def _selector_keys(selector: object) -> Iterator[str]:
    if not isinstance(selector, dict):
        return
    labels = selector.get("matchLabels")
    if isinstance(labels, dict):
        yield from (_bare(key) for key in labels if isinstance(key, str))
    for expression in _dicts(selector.get("matchExpressions")):
        if isinstance(key := expression.get("key"), str):
            yield _bare(key)


def _bare(key: str) -> str:
    """Returns the key of a label without the source that Cilium's selectors may name.

    In the selectors of other kinds a key that looks so cannot be the key of any label.
    """
    for source in _SOURCES:
        if key.startswith(source):
            return key[len(source) :]
    return key


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, dict))
