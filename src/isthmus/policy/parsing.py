"""Any policy object to rules: the one way in, whatever its kind.

Invariant: `read` fails only for what cannot be told apart from other objects; a malformed object of a known kind is
read, and fails closed. Every result is within the bound of what one policy may cost, whoever wrote the reader.
One function with a branch for every kind was rejected: each API is its own module, and this one only points to it.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from isthmus.policy import networkpolicy
from isthmus.policy.cilium import objects as cilium
from isthmus.policy.context import Context, Parsed
from isthmus.policy.cost import bounded
from isthmus.policy.fields import show
from isthmus.policy.metadata import reference, required
from isthmus.policy.ordered import adminnetworkpolicy, clusternetworkpolicy
from isthmus.policy.rules import ObjectRef, Problem

MAX_VALUES = 250_000
"""Of one object, in lists and objects of any depth: some seconds of reading, and more than MAX_COST leaves in force."""


class Kind(msgspec.Struct, frozen=True):
    """A kind of policy: where it lives in the API, and who reads it."""

    group: str
    versions: tuple[str, ...]
    read: Callable[[Mapping[str, object], Context], Parsed]
    namespaced: bool = False


KINDS: dict[str, Kind] = {
    "NetworkPolicy": Kind("networking.k8s.io", ("v1",), networkpolicy.read, namespaced=True),
    "CiliumNetworkPolicy": Kind("cilium.io", ("v2",), cilium.read, namespaced=True),
    "CiliumClusterwideNetworkPolicy": Kind("cilium.io", ("v2",), cilium.read),
    "ClusterNetworkPolicy": Kind("policy.networking.k8s.io", ("v1alpha2", "v1beta1"), clusternetworkpolicy.read),
    "AdminNetworkPolicy": Kind("policy.networking.k8s.io", ("v1alpha1",), adminnetworkpolicy.read),
    "BaselineAdminNetworkPolicy": Kind("policy.networking.k8s.io", ("v1alpha1",), adminnetworkpolicy.read_baseline),
}
"""Every kind by its name; the names are unique among the groups that we read."""


def kind_of(obj: Mapping[str, object], kind: str = "") -> str | None:
    """Returns the name in KINDS of what `obj` is, or None if it is no policy that we know.

    `kind` says what was asked for, where items of a list do not say it themselves.
    """
    said = obj.get("kind") or kind
    if not isinstance(said, str) or said not in KINDS or (kind and said != kind):
        return None
    version = obj.get("apiVersion")
    if version is None and kind:
        return said
    known = KINDS[said]
    return said if version in [f"{known.group}/{one}" for one in known.versions] else None


def identify(obj: Mapping[str, object], kind: str = "") -> ObjectRef | None:
    """Returns which object this is, or None if that cannot be told; `kind` as for `kind_of`."""
    known = kind_of(obj, kind)
    return reference(obj, known, namespaced=KINDS[known].namespaced) if known else None


def read(obj: Mapping[str, object], context: Context, *, kind: str = "") -> Parsed:
    """Reads a policy object of any kind; `kind` as for `kind_of`.

    Raises ValueError only if its kind, its name or (where it has one) its namespace cannot be told. Everything else
    that is wrong is in `problems`, and fails closed.
    """
    known = kind_of(obj, kind)
    if known is None:
        raise ValueError(f"{show(obj.get('apiVersion'))} {show(obj.get('kind'))} is not a kind of policy that is known")
    required(obj, known, namespaced=KINDS[known].namespaced)
    if _larger([obj.get("spec"), obj.get("specs")], MAX_VALUES):
        return _unread(obj, known, context)
    return bounded(KINDS[known].read(obj, context))


def _larger(value: object, limit: int) -> bool:
    """Tells whether `value` has more than `limit` values, with each counted as often as YAML has it stand somewhere."""
    left: list[Iterable[object]] = [[value]]
    count = 0
    while left:
        for inner in left.pop():
            within = inner.values() if isinstance(inner, Mapping) else inner if isinstance(inner, list) else ()
            if within:
                count += len(within)
                if count > limit:
                    return True
                left.append(within)
    return False


def _unread(obj: Mapping[str, object], kind: str, context: Context) -> Parsed:
    """Returns what an object of `kind` comes to in which nothing can be read."""
    rest = {key: value for key, value in obj.items() if key not in ("spec", "specs")}
    parsed = KINDS[kind].read({**rest, "spec": []}, context)
    problems = (Problem("spec", f"has more than {MAX_VALUES} values; a policy may have at most so many"),)
    policies = tuple(msgspec.structs.replace(policy, problems=problems) for policy in parsed.policies)
    return msgspec.structs.replace(parsed, policies=policies, problems=problems)
