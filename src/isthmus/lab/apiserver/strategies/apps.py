"""Workloads: Deployment and ReplicaSet, so far as objects; what they lead to is the controllers' business."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.selectors import Requirement
from isthmus.lab.apiserver.strategies import podspec, rules
from isthmus.lab.apiserver.strategies.base import Hooks

_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def _selects(selector: Json, labels: dict[str, str]) -> bool:
    terms = [Requirement(key, "in", frozenset((value,))) for key, value in selector.get("matchLabels", {}).items()]
    for term in selector.get("matchExpressions", ()):
        operator = _OPERATORS.get(term.get("operator", ""), "exists")
        terms.append(Requirement(term.get("key", ""), operator, frozenset(term.get("values", ()))))
    return all(term.matches(labels) for term in terms)


class WorkloadHooks(Hooks):
    """apps/v1 ReplicaSet, and what it has in common with Deployment."""

    def default(self, value: Json) -> None:
        """Sets one replica and fills in the template."""
        spec = value.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        podspec.default(spec.setdefault("template", {}).setdefault("spec", {}))

    def validate(self, value: Json) -> list[FieldError]:
        """Checks replicas, selector and template."""
        spec = value["spec"]
        found = rules.not_negative(spec["replicas"], "spec.replicas")
        found += rules.not_negative(spec.get("minReadySeconds"), "spec.minReadySeconds")
        selector = spec.get("selector", {})
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            if "selector" not in spec:
                found.append(errors.required("spec.selector"))
            else:
                text = "empty selector is invalid for deployment"
                found.append(errors.invalid("spec.selector", selector, text))
        else:
            found += rules.label_selector(selector, "spec.selector")
            labels = spec["template"].get("metadata", {}).get("labels", {})
            if not found and not _selects(selector, labels):
                text = "`selector` does not match template `labels`"
                found.append(errors.invalid("spec.template.metadata.labels", labels, text))
        found += podspec.validate(spec["template"]["spec"], "spec.template.spec")
        policy = spec["template"]["spec"]["restartPolicy"]
        if policy != "Always":
            found.append(errors.unsupported("spec.template.spec.restartPolicy", policy, ("Always",)))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses a change of the selector."""
        return rules.immutable(value["spec"].get("selector"), old["spec"].get("selector"), "spec.selector")


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
        """Adds the rules of the strategy."""
        found = super().validate(value)
        strategy = value["spec"]["strategy"]
        found += rules.one_of(strategy["type"], "spec.strategy.type", ("Recreate", "RollingUpdate"))
        if strategy["type"] == "Recreate" and "rollingUpdate" in strategy:
            text = "may not be specified when strategy `type` is 'Recreate'"
            found.append(errors.forbidden("spec.strategy.rollingUpdate", text))
        return found
