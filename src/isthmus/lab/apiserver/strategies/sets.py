"""StatefulSets, DaemonSets, and the revisions of both."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules, workloads
from isthmus.lab.apiserver.strategies.base import Hooks

_MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
_IMMUTABLE_TEXT = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_TEMPLATES = "deprecated.daemonset.template.generation"
_SCHEDULED = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")
_REPLICAS = ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")


class StatefulSetHooks(Hooks):
    """apps/v1 StatefulSet."""

    name_rule = staticmethod(rules.dns_label)

    def prepare_create(self, value: Json) -> None:
        """Begins with counts of zero."""
        super().prepare_create(value)
        value["status"] = {"replicas": 0, "availableReplicas": 0}

    def default(self, value: Json) -> None:
        """Sets replicas, policies and the rolling update, and fills in the template."""
        spec = value.setdefault("spec", {})
        spec.setdefault("podManagementPolicy", "OrderedReady")
        strategy = spec.setdefault("updateStrategy", {})
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
            strategy.setdefault("rollingUpdate", {})
        if strategy["type"] == "RollingUpdate" and "rollingUpdate" in strategy:
            strategy["rollingUpdate"].setdefault("partition", 0)
        retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
        retention.setdefault("whenDeleted", "Retain")
        retention.setdefault("whenScaled", "Retain")
        spec.setdefault("replicas", 1)
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("serviceName", "")
        workloads.default_template(spec)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks everything but the pods, as the real server: their errors are the controller's events."""
        spec = value["spec"]
        found = []
        policy = spec["podManagementPolicy"]
        if policy not in ("OrderedReady", "Parallel"):
            found.append(errors.invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'"))
        found += self._strategy(spec["updateStrategy"])
        for name in ("whenDeleted", "whenScaled"):
            path = f"spec.persistentVolumeClaimRetentionPolicy.{name}"
            found += rules.one_of(spec["persistentVolumeClaimRetentionPolicy"][name], path, ("Retain", "Delete"))
        found += rules.not_negative(spec["replicas"], "spec.replicas")
        found += rules.not_negative(spec.get("minReadySeconds"), "spec.minReadySeconds")
        found += rules.not_negative(spec.get("ordinals", {}).get("start"), "spec.ordinals.start")
        if spec.get("serviceName"):
            found += rules.dns_label(spec["serviceName"], "spec.serviceName")
        found += workloads.selector_errors(spec, kind="statefulset")
        found += workloads.template_errors(spec, pods=False)
        return found + workloads.always_restarted(spec, kind="StatefulSet")

    @staticmethod
    def _strategy(strategy: Json) -> list[FieldError]:
        path = "spec.updateStrategy"
        rolling = strategy.get("rollingUpdate")
        if strategy["type"] == "OnDelete":
            if rolling is None:
                return []
            text = "only allowed for updateStrategy 'RollingUpdate'"
            return [errors.invalid(f"{path}.rollingUpdate", rolling, text)]
        if strategy["type"] != "RollingUpdate":
            return [errors.invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'")]
        found = rules.not_negative((rolling or {}).get("partition"), f"{path}.rollingUpdate.partition")
        if "maxUnavailable" in (rolling or {}):
            place = f"{path}.rollingUpdate.maxUnavailable"
            found += workloads.share(strategy["rollingUpdate"]["maxUnavailable"], place)
            if not workloads.size(strategy["rollingUpdate"]["maxUnavailable"]):
                found.append(errors.invalid(place, strategy["rollingUpdate"]["maxUnavailable"], "cannot be 0"))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses a change of what names the pods and their volumes."""
        kept = [{key: item for key, item in held["spec"].items() if key not in _MUTABLE} for held in (value, old)]
        return [errors.forbidden("spec", _IMMUTABLE_TEXT)] if kept[0] != kept[1] else []

    def validate_status(self, value: Json, old: Json) -> list[FieldError]:
        """Checks the counts."""
        status = value.get("status", {})
        found = workloads.counts(status, "replicas", *_REPLICAS, "observedGeneration")
        found += workloads.bounded(status, *_REPLICAS)
        if status.get("availableReplicas", 0) > status.get("readyReplicas", 0):
            text = "cannot be greater than status.readyReplicas"
            found.append(errors.invalid("status.availableReplicas", status["availableReplicas"], text))
        return found


class DaemonSetHooks(Hooks):
    """apps/v1 DaemonSet."""

    def prepare_create(self, value: Json) -> None:
        """Begins to count the templates, in an annotation that is older than generations."""
        super().prepare_create(value)
        value["metadata"].setdefault("annotations", {})[_TEMPLATES] = "1"
        value["status"] = dict.fromkeys(_SCHEDULED, 0)

    def prepare_update(self, value: Json, old: Json) -> None:
        """Counts a new template."""
        super().prepare_update(value, old)
        held = old["metadata"].get("annotations", {}).get(_TEMPLATES, "")
        count = int(held) if held.isdecimal() and len(held) < 19 else 0
        changed = value["spec"].get("template") != old["spec"].get("template")
        value["metadata"].setdefault("annotations", {})[_TEMPLATES] = str(count + changed)

    def default(self, value: Json) -> None:
        """Sets the rolling update of one node at a time, and fills in the template."""
        spec = value.setdefault("spec", {})
        strategy = spec.setdefault("updateStrategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxUnavailable", 1)
            rolling.setdefault("maxSurge", 0)
        spec.setdefault("revisionHistoryLimit", 10)
        workloads.default_template(spec)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks selector, template and strategy."""
        spec = value["spec"]
        found = workloads.selector_errors(spec, kind="daemonset")
        found += workloads.template_errors(spec)
        found += workloads.always_restarted(spec, kind="DaemonSet")
        found += rules.not_negative(spec.get("minReadySeconds"), "spec.minReadySeconds")
        strategy, path = spec["updateStrategy"], "spec.updateStrategy"
        if strategy["type"] == "RollingUpdate":
            rolling, place = strategy["rollingUpdate"], f"{path}.rollingUpdate"
            found += workloads.share(rolling["maxUnavailable"], f"{place}.maxUnavailable")
            found += workloads.share(rolling["maxSurge"], f"{place}.maxSurge")
            down, up = workloads.size(rolling["maxUnavailable"]), workloads.size(rolling["maxSurge"])
            if down and up:
                text = "may not be set when maxUnavailable is non-zero"
                found.append(errors.invalid(f"{place}.maxSurge", rolling["maxSurge"], text))
            elif not down and not up:
                found.append(errors.required(f"{place}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
        elif strategy["type"] != "OnDelete":
            found.append(errors.unsupported(path, strategy, ("RollingUpdate", "OnDelete")))
        return found + rules.not_negative(spec.get("revisionHistoryLimit"), "spec.revisionHistoryLimit")

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses a change of the selector."""
        return rules.immutable(value["spec"].get("selector"), old["spec"].get("selector"), "spec.selector")

    def validate_status(self, value: Json, old: Json) -> list[FieldError]:
        """Checks the counts."""
        status = value.get("status", {})
        return workloads.counts(status, *(name for name, item in status.items() if isinstance(item, int)))


class ControllerRevisionHooks(Hooks):
    """apps/v1 ControllerRevision."""

    def validate(self, value: Json) -> list[FieldError]:
        """Checks the number and that there is a snapshot."""
        found = rules.not_negative(value.get("revision"), "revision")
        if value.get("data") is None:
            found.append(errors.required("data", "data is mandatory"))
        elif not isinstance(value["data"], dict):
            found.append(errors.required("data", "data must be a valid JSON object"))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses a change of the snapshot."""
        return rules.immutable(value.get("data"), old.get("data"), "data")
