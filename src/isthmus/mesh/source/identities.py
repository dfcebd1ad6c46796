"""Which number stands for which set of labels, in one cluster. Pure.

Pods that look the same to policy share an identity. Invariants:
- a number never changes its meaning while anyone may hold it. A freed number *rests*: it goes back to the same labels
  at any time, to others only after GRACE further numbers were freed. A cluster therefore has 65,280 - GRACE identities;
  beyond that `Exhausted` is raised rather than a number reused early, because a reader that still holds the old meaning
  would grant one pod what was granted to another;
- numbers follow from the labels by a hash, so replicas that never speak with each other agree, except where two sets
  of labels collide; `adopt` takes over what was persisted and wins over the hash, so numbers survive a restart;
- numbers below 256 of the local part are left out: they look like reserved identities once the cluster is masked off.

Rejected: counting upward, which needs a common store before the first pod can be told.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import blake2b

import msgspec

from isthmus.model.endpoint import Cluster
from isthmus.model.identity import FIRST_LOCAL, LOCAL_MASK, Identity, number_range

GRACE = 1024
"""Freed numbers that rest. A rollout of a thousand deployments at once fits."""

SPACE = LOCAL_MASK + 1 - FIRST_LOCAL

DEFAULT_EXCLUDED = frozenset(
    {
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/job-name",
        "controller-revision-hash",
        "controller-uid",
        "job-name",
        "pod-template-generation",
        "pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
    }
)
"""Labels that Kubernetes' own controllers put on pods and that make each pod, or each rollout, look different."""


class LabelFilter(msgspec.Struct, frozen=True):
    """Which pod labels count: all but `excluded`, unless a policy selects on the key (`selected`).

    An entry of `excluded` that ends in `*` is a prefix.
    """

    excluded: frozenset[str] = DEFAULT_EXCLUDED
    selected: frozenset[str] = frozenset()

    def selecting(self, keys: Iterable[str]) -> "LabelFilter":
        """Returns this filter for another set of keys in use, reduced to those that it makes a difference for."""
        return LabelFilter(self.excluded, frozenset(key for key in keys if self._excludes(key)))

    def keep(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Returns the labels that count."""
        return {key: value for key, value in labels.items() if key in self.selected or not self._excludes(key)}

    def _excludes(self, key: str) -> bool:
        if key in self.excluded:
            return True
        return any(entry.endswith("*") and key.startswith(entry[:-1]) for entry in self.excluded)


class Looks(msgspec.Struct, frozen=True):
    """All that policy may know of a pod; `text` is the same for the same looks, and only then."""

    namespace: str
    labels: dict[str, str]
    namespace_labels: dict[str, str]
    service_account: str

    @property
    def text(self) -> bytes:
        """Returns the canonical text."""
        parts = (
            self.namespace,
            sorted(self.labels.items()),
            sorted(self.namespace_labels.items()),
            self.service_account,
        )
        return msgspec.json.encode(parts)


class Exhausted(Exception):
    """There is no number left in the cluster."""


class _Used(msgspec.Struct):
    identity: Identity
    references: int


class Allocator:
    """The identities of one cluster, with a count of who uses each."""

    def __init__(self, cluster: Cluster, *, grace: int = GRACE) -> None:
        self._cluster = cluster
        self._base = number_range(cluster.id).start
        self._grace = grace
        self._used: dict[bytes, _Used] = {}
        self._texts: dict[int, bytes] = {}
        """The text behind each number that is used, resting or adopted."""
        self._resting: OrderedDict[bytes, int] = OrderedDict()
        self._adopted: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._used)

    @property
    def has_room(self) -> bool:
        """Whether labels that were never seen would get a number."""
        return len(self._texts) < SPACE

    def adopt(self, existing: Mapping[int, Identity]) -> list[str]:
        """Takes over numbers from an earlier life; returns what was refused and why.

        They wait for their labels to come up again until `settle`.
        """
        refused = []
        for number in sorted(existing):
            identity = existing[number]
            looks = Looks(identity.namespace, identity.labels, identity.namespace_labels, identity.service_account)
            text = looks.text
            if identity.cluster != self._cluster.name or number not in self._numbers:
                refused.append(f"identity {number} of cluster {identity.cluster} is not one of {self._cluster.name}")
            elif number in self._texts or text in self._adopted or text in self._used:
                refused.append(f"identity {number} has the same labels as {self._number_of(text) or number}")
            else:
                self._adopted[text] = number
                self._texts[number] = text
        return refused

    def settle(self) -> None:
        """All pods of the start were seen: adopted numbers that nobody took up begin to rest."""
        for text, number in self._adopted.items():
            self._rest(text, number)
        self._adopted.clear()

    def acquire(self, looks: Looks) -> tuple[Identity, bool]:
        """Adds a reference to the identity of `looks`; returns it and whether it is in use from now on.

        Raises Exhausted.
        """
        text = looks.text
        used = self._used.get(text)
        if used is not None:
            used.references += 1
            return used.identity, False
        number = self._adopted.pop(text, None) or self._resting.pop(text, None)
        if number is None:
            number = self._free_number(text)
            self._texts[number] = text
        identity = Identity(
            number=number,
            cluster=self._cluster.name,
            namespace=looks.namespace,
            labels=looks.labels,
            namespace_labels=looks.namespace_labels,
            service_account=looks.service_account,
        )
        self._used[text] = _Used(identity, 1)
        return identity, True

    def release(self, number: int) -> bool:
        """Takes back one reference; returns whether it was the last. Raises KeyError for a number not in use."""
        text = self._texts[number]
        used = self._used[text]
        used.references -= 1
        if used.references:
            return False
        del self._used[text]
        self._rest(text, number)
        return True

    @property
    def _numbers(self) -> range:
        return range(self._base + FIRST_LOCAL, self._base + LOCAL_MASK + 1)

    def _number_of(self, text: bytes) -> int | None:
        used = self._used.get(text)
        return used.identity.number if used else self._adopted.get(text)

    def _rest(self, text: bytes, number: int) -> None:
        self._resting[text] = number
        while len(self._resting) > self._grace:
            _, freed = self._resting.popitem(last=False)
            del self._texts[freed]

    def _free_number(self, text: bytes) -> int:
        if not self.has_room:
            raise Exhausted(
                f"cluster {self._cluster.name} has no identity number left; "
                "exclude labels that make pods look different"
            )
        start = int.from_bytes(blake2b(text, digest_size=8).digest()) % SPACE
        for step in range(SPACE):
            number = self._base + FIRST_LOCAL + (start + step) % SPACE
            if number not in self._texts:
                return number
        raise AssertionError("unreachable: fewer numbers are taken than there are")
