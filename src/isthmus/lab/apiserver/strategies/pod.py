"""Pods: admission, defaults, immutability of the specification, graceful deletion.

A deleted pod that a node runs stays, with a deletionTimestamp, until that node deletes it with a grace of zero
seconds; one that no node runs, or that has ended, goes at once.
"""

import copy

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes.calls import Source
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.storage.state import Transaction
from isthmus.lab.apiserver.strategies import admission, podspec
from isthmus.lab.apiserver.strategies.base import Hooks

_MAY_CHANGE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


class PodHooks(Hooks):
    """v1 Pod."""

    def prepare_create(self, value: Json) -> None:
        """Sets the service account, and the first status."""
        spec = value.setdefault("spec", {})
        spec.setdefault("serviceAccountName", spec.get("serviceAccount") or admission.DEFAULT_ACCOUNT)
        value["status"] = {"phase": "Pending"}

    def prepare_update(self, value: Json, old: Json) -> None:
        """Keeps what admission has set."""
        super().prepare_update(value, old)
        for name in ("priority", "preemptionPolicy"):
            if name in old["spec"]:
                value["spec"].setdefault(name, old["spec"][name])

    def default(self, value: Json) -> None:
        """Fills in the specification, and the class that follows from it."""
        spec = value.setdefault("spec", {})
        spec.setdefault("enableServiceLinks", True)
        podspec.default(spec)
        value.setdefault("status", {}).setdefault("qosClass", podspec.service_class(spec))

    def admit(self, value: Json, transaction: Transaction, source: Source) -> None:
        """Sets priority, tolerations and, if the server has service accounts, the token."""
        admission.prioritise(value, transaction)
        if self.settings.service_accounts:
            admission.identify(value, transaction, source)
        admission.tolerate(value["spec"])

    def validate(self, value: Json) -> list[FieldError]:
        """Checks the specification."""
        return podspec.validate(value["spec"], "spec")

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses changes of what a running pod cannot change."""
        new, was = copy.deepcopy(value["spec"]), old["spec"]
        for name in ("containers", "initContainers"):
            for container, before in zip(new.get(name, ()), was.get(name, ()), strict=False):
                container["image"] = before.get("image", "")
        for name in ("activeDeadlineSeconds", "terminationGracePeriodSeconds"):
            if name == "activeDeadlineSeconds" or was.get(name, 0) < 0:
                new.pop(name, None)
                if name in was:
                    new[name] = was[name]
        added = new.get("tolerations", [])
        if all(toleration in added for toleration in was.get("tolerations", ())):
            new["tolerations"] = was.get("tolerations", [])
        if not new.get("tolerations"):
            new.pop("tolerations", None)
        if new != {key: item for key, item in was.items() if key != "tolerations" or item}:
            return [errors.forbidden("spec", _MAY_CHANGE)]
        return []

    def grace(self, value: Json, asked: int | None) -> int:
        """Returns the asked-for or the specified seconds for a pod that a node still runs, else 0."""
        spec, status = value.get("spec", {}), value.get("status", {})
        if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
            return 0
        seconds = spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked
        return max(0, int(seconds))
