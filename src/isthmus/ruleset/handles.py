"""Which identities a selector could match, and which selectors an identity could: without trying each on each.

A handle is one necessary condition, such as "has pod label app=web". Every selector of pods is filed under the handles
of one of its conditions (one for each value that it accepts), every identity under all that it meets. Whoever share no
handle cannot match; who share one must still be asked. Invariant: `matches` is true only where handles are shared.
Rejected: trying all, which is a second of one CPU for a thousand selectors and a thousand identities.
"""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from isthmus.model.identity import Identity
from isthmus.model.labels import CLUSTER_KEYS, NAMESPACE_NAME
from isthmus.model.selector import Operator, Selector
from isthmus.policy.rules import PodPeer

Handle = tuple[str, ...]
T = TypeVar("T")

ANY: Handle = ()
_POD, _NAMESPACE = "pod", "namespace"


def of_peer(peer: PodPeer) -> tuple[Handle, ...]:
    """Returns handles of which every identity that `peer` matches has one."""
    return (
        _of_selector(_POD, peer.pods)
        or ((_NAMESPACE, NAMESPACE_NAME, peer.namespace),) * bool(peer.namespace)
        or _of_selector(_NAMESPACE, peer.namespaces)
        or (ANY,)
    )


def _of_selector(kind: str, selector: Selector) -> tuple[Handle, ...]:
    for term in selector.terms:
        if term.operator is Operator.IN and term.key not in CLUSTER_KEYS:
            return tuple((kind, term.key, value) for value in term.values)
    return ()


def of_identity(identity: Identity) -> Iterator[Handle]:
    """Yields all handles of an identity."""
    yield ANY
    yield _NAMESPACE, NAMESPACE_NAME, identity.namespace
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
