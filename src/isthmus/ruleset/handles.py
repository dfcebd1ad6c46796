"""Which identities a selector could match, and which selectors an identity could: without trying each on each.

A handle is one necessary condition, such as "has pod label app=web". Every selector of pods is filed under the handles
of one of its conditions (one for each value that it accepts), every identity under all that it meets. Whoever share no
handle cannot match; who share one must still be asked. Invariant: `matches` is true only where handles are shared.
Rejected: trying all, which is a second of one CPU for a thousand selectors and a thousand identities.
"""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from isthmus.model.identity import RESERVED_SOURCE, Identity
from isthmus.model.labels import (
    CILIUM_NAMESPACE_LABELS,
    CILIUM_SERVICE_ACCOUNT,
    CLUSTER_KEYS,
    NAMESPACE_NAME,
    POD_NAMESPACE,
    names_clusters,
)
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.rules import EndpointPeer, IdentityPeer, NodePeer, PodPeer

Handle = tuple[str, ...]
T = TypeVar("T")

ANY: Handle = ()
_POD, _NAMESPACE, _CLUSTER, _ACCOUNT, _RESERVED = "pod", "namespace", "cluster", "account", "reserved"
_NODES: tuple[Handle, ...] = ((_RESERVED, "remote-node"), (_RESERVED, "host"))


def of_peer(peer: IdentityPeer) -> tuple[Handle, ...]:
    """Returns handles of which every identity that `peer` matches has one."""
    match peer:
        case PodPeer():
            return (
                _of_selector(_POD, peer.pods)
                or ((_NAMESPACE, NAMESPACE_NAME, peer.namespace),) * bool(peer.namespace)
                or _of_selector(_NAMESPACE, peer.namespaces)
                or _of_clusters(peer.cluster, peer.pods, peer.namespaces)
                or (ANY,)
            )
        case NodePeer():
            return _of_selector(_POD, peer.selector) or _NODES
        case EndpointPeer():
            return _of_endpoints(peer.selector) or _of_clusters("", peer.selector) or (ANY,)


def _of_selector(kind: str, selector: Selector) -> tuple[Handle, ...]:
    for term in selector.terms:
        if term.operator is Operator.IN and not names_clusters(term.key):
            return tuple((kind, term.key, value) for value in term.values)
    return ()


def _of_clusters(name: str, *selectors: Selector) -> tuple[Handle, ...]:
    if name:
        return ((_CLUSTER, name),)
    for selector in selectors:
        for term in selector.terms:
            if term.operator is Operator.IN and term.key in CLUSTER_KEYS:
                return tuple((_CLUSTER, value) for value in term.values)
    return ()


def _of_endpoints(selector: Selector) -> tuple[Handle, ...]:
    """Returns the handles of the term that fewest are likely to meet: a pod's label rather than its namespace."""
    found = [handles for term in selector.terms if (handles := _of_endpoint_term(term))]
    return min(found, key=lambda handles: handles[0][:2] == (_NAMESPACE, NAMESPACE_NAME), default=())


def _of_endpoint_term(term: Term) -> tuple[Handle, ...]:
    key = term.key
    if key.startswith(RESERVED_SOURCE):
        there = term.operator is Operator.EXISTS or (term.operator is Operator.IN and "" in term.values)
        return ((_RESERVED, key.removeprefix(RESERVED_SOURCE)),) if there else ()
    if term.operator is not Operator.IN or names_clusters(key):
        return ()
    if key == POD_NAMESPACE:
        return tuple((_NAMESPACE, NAMESPACE_NAME, value) for value in term.values)
    if key == CILIUM_SERVICE_ACCOUNT:
        return tuple((_ACCOUNT, value) for value in term.values)
    if key.startswith(CILIUM_NAMESPACE_LABELS):
        key = key.removeprefix(CILIUM_NAMESPACE_LABELS)
        return () if names_clusters(key) else tuple((_NAMESPACE, key, value) for value in term.values)
    return tuple((_POD, key, value) for value in term.values)


def of_identity(identity: Identity) -> Iterator[Handle]:
    """Yields all handles of an identity."""
    yield ANY
    yield _CLUSTER, identity.cluster
    for word in identity.reserved:
        yield _RESERVED, word
    yield _NAMESPACE, NAMESPACE_NAME, identity.namespace
    if identity.service_account:
        yield _ACCOUNT, identity.service_account
    for key, value in identity.labels.items():
        yield _POD, key, value
    for key, value in identity.namespace_labels.items():
        if key != NAMESPACE_NAME:
            yield _NAMESPACE, key, value


class Files(Generic[T]):
    """Things by their handles."""

    def __init__(self) -> None:
        self._filed: dict[Handle, set[T]] = {}

    def __len__(self) -> int:
        return len(self._filed)

    def add(self, thing: T, handles: Iterable[Handle]) -> None:
        """Files a thing."""
        for handle in handles:
            self._filed.setdefault(handle, set()).add(thing)

    def discard(self, thing: T, handles: Iterable[Handle]) -> None:
        """Takes a thing out again; `handles` are those that it was added with."""
        for handle in handles:
            filed = self._filed.get(handle)
            if filed is not None:
                filed.discard(thing)
                if not filed:
                    del self._filed[handle]

    def under(self, handles: Iterable[Handle]) -> set[T]:
        """Returns all that is filed under any of `handles`."""
        return set().union(*(self._filed.get(handle, ()) for handle in handles))
