"""Namespaces: the name as a label, the finalizer, and deletion in two steps.

A deleted namespace becomes Terminating and stays until `spec.finalizers` is emptied through the finalize subresource,
by a controller that has removed its contents. Nothing new can be made in it meanwhile.
"""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules
from isthmus.lab.apiserver.strategies.base import Hooks

NAME_LABEL = "kubernetes.io/metadata.name"
FINALIZER = "kubernetes"
INITIAL = ("default", "kube-system", "kube-public", "kube-node-lease")
_IMMORTAL = ("default", "kube-system", "kube-public")


class NamespaceHooks(Hooks):
    """v1 Namespace."""

    name_rule = staticmethod(rules.dns_label)

    def prepare_create(self, value: Json) -> None:
        """Adds the finalizer and the phase."""
        value["status"] = {"phase": "Active"}
        spec = value.setdefault("spec", {})
        if FINALIZER not in spec.get("finalizers", ()):
            spec["finalizers"] = [*spec.get("finalizers", ()), FINALIZER]

    def prepare_update(self, value: Json, old: Json) -> None:
        """Leaves spec.finalizers to the finalize subresource."""
        super().prepare_update(value, old)
        value["spec"] = old.get("spec", {})

    def default(self, value: Json) -> None:
        """Sets the label that holds the name."""
        labels = value["metadata"].setdefault("labels", {})
        labels.setdefault(NAME_LABEL, value["metadata"]["name"])

    def validate(self, value: Json) -> list[FieldError]:
        """Checks that the label is true."""
        name = value["metadata"]["name"]
        if value["metadata"]["labels"].get(NAME_LABEL) != name:
            path = "metadata.labels[kubernetes.io/metadata.name]"
            return [
                errors.invalid(path, value["metadata"]["labels"][NAME_LABEL], f"must match `metadata.name` ({name})")
            ]
        return []

    def check_delete(self, value: Json) -> None:
        """Refuses for the namespaces that a cluster cannot be without."""
        name = value["metadata"]["name"]
        if name in _IMMORTAL:
            raise errors.denied("namespaces", name, "this namespace may not be deleted")

    def lingers(self, value: Json) -> bool:
        """A namespace lives until its own finalizers are gone."""
        return bool(value.get("spec", {}).get("finalizers"))

    def mark_deleted(self, value: Json) -> None:
        """Sets the phase."""
        value.setdefault("status", {})["phase"] = "Terminating"
        value["metadata"].pop("deletionGracePeriodSeconds", None)
