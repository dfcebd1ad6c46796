"""Deployments and ReplicaSets, so far as objects; what they lead to is the controllers' business."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules, workloads
from isthmus.lab.apiserver.strategies.base import Hooks

_BOUNDED = ("readyReplicas", "availableReplicas", "updatedReplicas", "fullyLabeledReplicas")


class WorkloadHooks(Hooks):
    """apps/v1 ReplicaSet, and what it has in common with Deployment."""

    noun = "deployment"  # the real server says so for ReplicaSets too

    def prepare_create(self, value: Json) -> None:
        """Begins with no pods, where the status always says how many there are."""
        super().prepare_create(value)
        if self.resource.plural == "replicasets":
            value["status"] = {"replicas": 0}

    def default(self, value: Json) -> None:
        """Sets one replica and fills in the template."""
        spec = value.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        workloads.default_template(spec)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks replicas, selector and template."""
        spec = value["spec"]
        found = rules.not_negative(spec["replicas"], "spec.replicas")
        found += workloads.selector_errors(spec, kind=self.noun)
        found += workloads.template_errors(spec)
        found += workloads.always_restarted(spec, kind="ReplicaSet")
        found += rules.not_negative(spec.get("minReadySeconds"), "spec.minReadySeconds")
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses a change of the selector."""
        return rules.immutable(value["spec"].get("selector"), old["spec"].get("selector"), "spec.selector")

    def validate_status(self, value: Json, old: Json) -> list[FieldError]:
        """Checks the counts."""
        status = value.get("status", {})
        found = workloads.counts(status, "replicas", *_BOUNDED, "observedGeneration")
        return found + workloads.bounded(status, *_BOUNDED)


class DeploymentHooks(WorkloadHooks):
    """apps/v1 Deployment."""

    def default(self, value: Json) -> None:
        """Adds the rolling update with a quarter up and a quarter down."""
        super().default(value)
        spec = value["spec"]
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxUnavailable", "25%")
            rolling.setdefault("maxSurge", "25%")
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("progressDeadlineSeconds", 600)

    def validate(self, value: Json) -> list[FieldError]:
        """Adds the rules of the strategy and of the deadline."""
        found = super().validate(value)
        spec, path = value["spec"], "spec.strategy"
        strategy = spec["strategy"]
        if strategy["type"] == "Recreate":
            if "rollingUpdate" in strategy:
                text = "may not be specified when strategy `type` is 'Recreate'"
                found.append(errors.forbidden(f"{path}.rollingUpdate", text))
        elif strategy["type"] == "RollingUpdate":
            rolling = strategy["rollingUpdate"]
            found += workloads.share(rolling["maxUnavailable"], f"{path}.rollingUpdate.maxUnavailable")
            found += workloads.amount(rolling["maxSurge"], f"{path}.rollingUpdate.maxSurge")
            if not workloads.size(rolling["maxUnavailable"]) and not workloads.size(rolling["maxSurge"]):
                held, text = rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0"
                found.append(errors.invalid(f"{path}.rollingUpdate.maxUnavailable", held, text))
        else:
            found.append(errors.unsupported(path, strategy, ("Recreate", "RollingUpdate")))
        found += rules.not_negative(spec.get("revisionHistoryLimit"), "spec.revisionHistoryLimit")
        deadline = spec["progressDeadlineSeconds"]
        found += rules.not_negative(deadline, "spec.progressDeadlineSeconds")
        if deadline <= spec.get("minReadySeconds", 0):
            text = "must be greater than minReadySeconds"
            found.append(errors.invalid("spec.progressDeadlineSeconds", deadline, text))
        return found
