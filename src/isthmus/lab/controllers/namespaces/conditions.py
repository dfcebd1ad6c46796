"""What a namespace that is being deleted says of itself, in upstream's words."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from isthmus.kube.resources import Resource
from isthmus.lab.controllers.objects.meta import stamp
from isthmus.lab.controllers.objects.namespaces import NamespaceCondition


class Remains(msgspec.Struct, frozen=True):
    """What one look into a namespace found: objects by resource, finalizers by word, and what went wrong."""

    objects: Mapping[Resource, int] = {}
    finalizers: Mapping[str, int] = {}
    discovery: Sequence[str] = ()
    failures: Sequence[str] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is left and everything could be looked at."""
        return not self.objects and not self.failures and not self.discovery


def conditions(remains: Remains, known: Sequence[NamespaceCondition], *, now: float) -> tuple[NamespaceCondition, ...]:
    """Returns the conditions; those that say the same keep their time."""
    discovery = "; ".join(remains.discovery)
    failures = "; ".join(remains.failures)
    objects = ", ".join(
        f"{resource} has {count} resource instances"
        for resource, count in sorted(remains.objects.items(), key=lambda item: str(item[0]))
    )
    finalizers = ", ".join(
        f"{word} in {count} resource instances" for word, count in sorted(remains.finalizers.items())
    )
    wanted = (
        _condition(
            "NamespaceDeletionDiscoveryFailure",
            ("DiscoveryFailed", f"Discovery failed for some groups, {len(remains.discovery)} failing: {discovery}"),
            ("ResourcesDiscovered", "All resources successfully discovered"),
            bad=bool(discovery),
        ),
        _condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            ("GroupVersionParsingFailed", ""),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            bad=False,
        ),
        _condition(
            "NamespaceDeletionContentFailure",
            (
                "ContentDeletionFailed",
                f"Failed to delete all resource types, {len(remains.failures)} remaining: {failures}",
            ),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            bad=bool(failures),
        ),
        _condition(
            "NamespaceContentRemaining",
            ("SomeResourcesRemain", f"Some resources are remaining: {objects}"),
            ("ContentRemoved", "All content successfully removed"),
            bad=bool(objects),
        ),
        _condition(
            "NamespaceFinalizersRemaining",
            ("SomeFinalizersRemain", f"Some content in the namespace has finalizers remaining: {finalizers}"),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            bad=bool(finalizers),
        ),
    )
    old = {condition.type: condition for condition in known}
    result = []
    for condition in wanted:
        before = old.pop(condition.type, None)
        if before is not None and before.status == condition.status:
            condition = replace(condition, lastTransitionTime=before.lastTransitionTime)
        else:
            condition = replace(condition, lastTransitionTime=stamp(now))
        result.append(condition)
    return (*old.values(), *result)


def _condition(kind: str, told: tuple[str, str], fine: tuple[str, str], *, bad: bool) -> NamespaceCondition:
    reason, message = told if bad else fine
    return NamespaceCondition(type=kind, status=str(bad), reason=reason, message=message)
