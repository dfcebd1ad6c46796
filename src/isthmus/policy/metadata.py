"""The head of a policy object, which all kinds have in common: who it is, its generation, its scope annotation.

Items of a typed list carry neither `kind` nor `apiVersion`, so the kind is told by whoever asked for the list; nothing
here looks at them. Believing `metadata.selfLink` or guessing a kind by its fields was rejected.
"""

from collections.abc import Mapping

from isthmus.policy.fields import Reader, show
from isthmus.policy.rules import Grade, ObjectRef, Scope

SCOPE_ANNOTATION = "isthmus.dev/policy-scope"
_LAST_GENERATION = 2**63 - 1


def reference(obj: Mapping[str, object], kind: str, *, namespaced: bool) -> ObjectRef | None:
    """Returns which object of `kind` this is, or None if not even that can be told (then it cannot be applied)."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping):
        return None
    name, uid = metadata.get("name"), metadata.get("uid")
    namespace = metadata.get("namespace") if namespaced else ""
    if not (isinstance(name, str) and name and isinstance(namespace, str) and (namespace or not namespaced)):
        return None
    return ObjectRef(kind, namespace, name, uid if isinstance(uid, str) else "")


def required(obj: Mapping[str, object], kind: str, *, namespaced: bool) -> ObjectRef:
    """Returns which object this is; raises ValueError if that cannot be told."""
    ref = reference(obj, kind, namespaced=namespaced)
    if ref is None:
        wanted = "metadata.namespace and metadata.name" if namespaced else "metadata.name"
        raise ValueError(f"{kind} without {wanted}: {show(obj.get('metadata'))}")
    return ref


def generation(obj: Mapping[str, object]) -> int:
    """Returns `metadata.generation`; 0 where there is none, as in a file."""
    metadata = obj.get("metadata")
    value = metadata.get("generation") if isinstance(metadata, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_GENERATION else 0


def scope(obj: Mapping[str, object], default: Scope, reader: Reader) -> Scope:
    """Returns the scope that the object's annotation asks for, or else `default`."""
    metadata = obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    if not isinstance(annotations, Mapping) or SCOPE_ANNOTATION not in annotations:
        return default
    try:
        return Scope(annotations[SCOPE_ANNOTATION])
    except ValueError:
        reader.complain(
            f"metadata.annotations[{SCOPE_ANNOTATION}]",
            f'{show(annotations[SCOPE_ANNOTATION])} is neither "clusterset" nor "local"; "local" is used',
            Grade.WARNING,
        )
        return Scope.LOCAL
