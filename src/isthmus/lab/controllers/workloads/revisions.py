"""ControllerRevisions: the templates that a StatefulSet or DaemonSet had, so that `kubectl rollout undo` finds them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from isthmus.kube.resources import CONTROLLER_REVISIONS, Resource
from isthmus.lab.controllers.effects import Change, Create, Effect, delete
from isthmus.lab.controllers.objects.meta import Object, owned_by
from isthmus.lab.controllers.objects.workloads import ControllerRevision
from isthmus.lab.controllers.workloads.templates import MAX_NAME, clean, encoded_hash

Json = dict[str, Any]


class Revision(msgspec.Struct, frozen=True):
    """The revision of the template as it is now, and what writes it."""

    name: str
    hash: str
    number: int
    effects: tuple[Effect, ...] = ()


def current(
    owner: Object,
    kind: Resource,
    template: Json,
    known: Sequence[ControllerRevision],
    *,
    collisions: int,
    label: str,
) -> Revision:
    """Returns the newest revision of a template; `label` is where its hash is kept."""
    highest = max((one.revision for one in known), default=0)
    same = [one for one in known if clean(template_of(one)) == clean(template)]
    if same:
        found = max(same, key=lambda one: one.revision)
        meta = found.metadata
        hash_ = meta.labels.get(label, "") or meta.name.removeprefix(f"{owner.metadata.name}-")
        if found.revision == highest:
            return Revision(meta.name, hash_, highest)
        renumber = Change(
            CONTROLLER_REVISIONS,
            meta.namespace,
            meta.name,
            {"revision": highest + 1},
            version=meta.resourceVersion,
        )
        return Revision(meta.name, hash_, highest + 1, (renumber,))
    hash_ = encoded_hash(template, collisions)
    name = f"{owner.metadata.name[: MAX_NAME - 11]}-{hash_}"
    labels = (template.get("metadata") or {}).get("labels") or {}
    body = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": owner.metadata.namespace,
            "labels": {**labels, label: hash_},
            "annotations": {
                key: value
                for key, value in owner.metadata.annotations.items()
                if key != "kubectl.kubernetes.io/last-applied-configuration"
            },
            "ownerReferences": [owned_by(owner, kind)],
        },
        "data": {"spec": {"template": {**template, "$patch": "replace"}}},
        "revision": highest + 1,
    }
    return Revision(name, hash_, highest + 1, (Create(CONTROLLER_REVISIONS, body),))


def template_of(revision: ControllerRevision) -> Json:
    """Returns the template that a revision keeps."""
    template = (revision.data.get("spec") or {}).get("template") or {}
    return {key: value for key, value in template.items() if key != "$patch"}


def surplus(known: Sequence[ControllerRevision], *, live: set[str], limit: int) -> list[Effect]:
    """Returns the deletion of the oldest revisions beyond `limit` that no pod and no status names (`live`)."""
    unused = sorted((one for one in known if one.metadata.name not in live), key=lambda one: one.revision)
    return [delete(one, CONTROLLER_REVISIONS) for one in unused[: max(len(unused) - limit, 0)]]
