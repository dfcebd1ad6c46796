"""Which policies mean something else under the other scope, and what.

For whoever joins a mesh, or changes `--policy-scope`: a policy whose selectors name no cluster sees one cluster under
`local` and all of them under `clusterset`. Each object is read under both and the readings are compared, which cannot
miss a place where scope matters, as a search for selectors in YAML would (that was rejected). Cilium's
`inspect-policy-default-local-cluster` is the same question about fewer kinds.
"""

from collections.abc import Iterable, Mapping

import msgspec

from isthmus.model.identity import Identity
from isthmus.policy.context import Context, Parsed
from isthmus.policy.metadata import SCOPE_ANNOTATION
from isthmus.policy.parsing import read
from isthmus.policy.rules import Action, CidrPeer, Direction, NamePeer, ObjectRef, Peer, Rule, Scope


class RuleUnderScopes(msgspec.Struct, frozen=True):
    """The peers of one rule that are not the same under both scopes, as each has them; usually they pair up in order.

    `field` is the path of the rule in the object, such as `spec.ingress[0]`.
    """

    direction: Direction
    field: str
    action: Action
    clusterset: tuple[Peer, ...]
    local: tuple[Peer, ...]
    name: str = ""

    def seen(self, scope: Scope, pods: Iterable[tuple[str, Identity]]) -> dict[str, list[str]]:
        """Returns whom these peers see under `scope` among named `pods` (or nodes): their names by cluster, sorted."""
        peers = self.clusterset if scope is Scope.CLUSTERSET else self.local
        found: dict[str, list[str]] = {}
        for name, identity in pods:
            if any(not isinstance(peer, CidrPeer | NamePeer) and peer.matches(identity) for peer in peers):
                found.setdefault(identity.cluster, []).append(name)
        return {cluster: sorted(found[cluster]) for cluster in sorted(found)}


class ScopedObject(msgspec.Struct, frozen=True):
    """An object that means something else under the other scope; `pinned` if its annotation chose, and then `scope`
    does not follow the cluster's default."""

    ref: ObjectRef
    scope: Scope
    pinned: bool
    rules: tuple[RuleUnderScopes, ...]


class Inspection(msgspec.Struct, frozen=True):
    """What was found among `total` objects: those that depend on the scope, and complaints about unreadable ones."""

    total: int
    objects: tuple[ScopedObject, ...]
    unreadable: tuple[str, ...] = ()


def inspect(objects: Iterable[Mapping[str, object]], context: Context) -> Inspection:
    """Returns which of `objects` (policies of any kind, of the cluster of `context`) depend on the scope."""
    total, found, unreadable = 0, [], []
    for obj in objects:
        total += 1
        try:
            one = under_scopes(obj, context)
        except ValueError as error:
            unreadable.append(str(error))
            continue
        if one is not None:
            found.append(one)
    return Inspection(total, tuple(sorted(found, key=lambda one: one.ref)), tuple(unreadable))


def under_scopes(obj: Mapping[str, object], context: Context, *, kind: str = "") -> ScopedObject | None:
    """Returns how the readings of `obj` under the two scopes differ, its annotation aside; None if they do not.

    `kind` as for `parsing.read`. Raises ValueError as that does.
    """
    plain, pinned = _unpinned(obj)
    wide, narrow = (
        read(plain, msgspec.structs.replace(context, scope=scope), kind=kind)
        for scope in (Scope.CLUSTERSET, Scope.LOCAL)
    )
    rules = tuple(_differences(wide, narrow))
    if not rules:
        return None
    in_force = read(obj, context, kind=kind).policies[0].scope if pinned else context.scope
    return ScopedObject(wide.ref, in_force, pinned, rules)


def _unpinned(obj: Mapping[str, object]) -> tuple[Mapping[str, object], bool]:
    metadata = obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(annotations, Mapping) or SCOPE_ANNOTATION not in annotations:
        return obj, False
    others = {key: value for key, value in annotations.items() if key != SCOPE_ANNOTATION}
    return {**obj, "metadata": {**metadata, "annotations": others}}, True


def _differences(wide: Parsed, narrow: Parsed) -> Iterable[RuleUnderScopes]:
    """Compares rule by rule; a rule that one reading has as two is one place in the object all the same."""
    places: dict[tuple[int, Direction, str], tuple[Rule, dict[Scope, list[Peer]]]] = {}
    for parsed, scope in ((wide, Scope.CLUSTERSET), (narrow, Scope.LOCAL)):
        for policy in parsed.policies:
            for rule in policy.rules:
                place = policy.ref.part, rule.direction, rule.field
                peers = places.setdefault(place, (rule, {one: [] for one in Scope}))[1]
                peers[scope] += rule.peers or ()
    for rule, peers in places.values():
        clusterset, local = peers[Scope.CLUSTERSET], peers[Scope.LOCAL]
        seen_by_all, seen_by_own = set(clusterset), set(local)
        if seen_by_all != seen_by_own:
            yield RuleUnderScopes(
                rule.direction,
                rule.field,
                rule.action,
                tuple(dict.fromkeys(peer for peer in clusterset if peer not in seen_by_own)),
                tuple(dict.fromkeys(peer for peer in local if peer not in seen_by_all)),
                rule.name,
            )
