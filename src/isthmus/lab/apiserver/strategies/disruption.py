"""Disruption budgets and priority classes."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules, workloads
from isthmus.lab.apiserver.strategies.base import Hooks

SYSTEM_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
HIGHEST_USER_PRIORITY = 1_000_000_000
_SYSTEM = "system-"


class DisruptionBudgetHooks(Hooks):
    """policy/v1 PodDisruptionBudget."""

    def prepare_create(self, value: Json) -> None:
        """Begins with a status that allows nothing: the controller has not counted yet."""
        names = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")
        value["status"] = dict.fromkeys(names, 0)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks the amounts and the selector."""
        spec = value.get("spec", {})
        found = []
        if "minAvailable" in spec and "maxUnavailable" in spec:
            found.append(errors.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
        for name in ("minAvailable", "maxUnavailable"):
            if name in spec:
                found += workloads.share(spec[name], f"spec.{name}")
        found += rules.label_selector(spec.get("selector", {}), "spec.selector")
        if "unhealthyPodEvictionPolicy" in spec:
            path = "spec.unhealthyPodEvictionPolicy"
            found += rules.one_of(spec["unhealthyPodEvictionPolicy"], path, ("AlwaysAllow", "IfHealthyBudget"))
        return found


class PriorityClassHooks(Hooks):
    """scheduling.k8s.io/v1 PriorityClass."""

    def default(self, value: Json) -> None:
        """Sets the preemption policy."""
        value.setdefault("preemptionPolicy", "PreemptLowerPriority")
        value.setdefault("value", 0)

    def validate(self, value: Json) -> list[FieldError]:
        """Keeps the names and values of the system for the system."""
        name, number = value["metadata"]["name"], value["value"]
        found = rules.one_of(value["preemptionPolicy"], "preemptionPolicy", ("Never", "PreemptLowerPriority"))
        if name.startswith(_SYSTEM):
            if SYSTEM_CLASSES.get(name) != number:
                text = "priority class names with 'system-' prefix are reserved for system use only"
                found.append(errors.forbidden("metadata.name", f"{text}. error: {name} is not a known system priority"))
        elif number > HIGHEST_USER_PRIORITY:
            text = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
            found.append(errors.forbidden("value", text))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Keeps the value."""
        if value["value"] != old.get("value"):
            return [errors.forbidden("value", "may not be changed in an update.")]
        return []
