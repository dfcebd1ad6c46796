"""What the rules of Deployments, sets and Jobs share: selectors, pod templates, numbers or percentages."""

import re
from typing import Any

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.inputs.selectors import Requirement
from isthmus.lab.apiserver.strategies import podspec, rules

_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}
_PERCENT = re.compile(r"[0-9]+%")
_PERCENT_TEXT = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
    "validation is '[0-9]+%')"
)


def selects(selector: Json, labels: dict[str, str]) -> bool:
    """Tells whether a valid metav1.LabelSelector selects `labels`; an empty one selects everything."""
    terms = [Requirement(key, "in", frozenset((value,))) for key, value in selector.get("matchLabels", {}).items()]
    for term in selector.get("matchExpressions", ()):
        operator = _OPERATORS.get(term.get("operator", ""), "exists")
        terms.append(Requirement(term.get("key", ""), operator, frozenset(term.get("values", ()))))
    return all(term.matches(labels) for term in terms)


def default_template(spec: Json) -> None:
    """Fills in the pod template of a workload's specification."""
    podspec.default(spec.setdefault("template", {}).setdefault("spec", {}), template=True)


def selector_errors(spec: Json, *, kind: str) -> list[FieldError]:
    """Checks that a selector is there, well formed, not empty, and selects the template."""
    labels = spec["template"].get("metadata", {}).get("labels", {})
    found = []
    if "selector" not in spec:
        if kind != "daemonset":
            found.append(errors.required("spec.selector"))
    else:
        selector = spec["selector"]
        found += rules.label_selector(selector, "spec.selector")
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            found.append(errors.invalid("spec.selector", selector, f"empty selector is invalid for {kind}"))
            return found
    if "selector" not in spec or (not found and not selects(spec["selector"], labels)):
        text = "`selector` does not match template `labels`"
        found.append(errors.invalid("spec.template.metadata.labels", labels, text))
    return found


def template_errors(spec: Json, *, pods: bool = True) -> list[FieldError]:
    """Checks labels, annotations and (with `pods`) the pods of a template."""
    template = spec["template"]
    metadata = template.get("metadata", {})
    found = rules.labels(metadata.get("labels", {}), "spec.template.labels")
    found += rules.annotations(metadata.get("annotations", {}), "spec.template.annotations")
    return found + (podspec.validate(template["spec"], "spec.template.spec") if pods else [])


def always_restarted(spec: Json, *, kind: str) -> list[FieldError]:
    """Checks that the pods of a template are meant to run for ever."""
    pod = spec["template"]["spec"]
    found = []
    if pod["restartPolicy"] != "Always":
        path = "spec.template.spec.restartPolicy"
        found.append(errors.unsupported(path, pod["restartPolicy"], ("Always",)))
    if "activeDeadlineSeconds" in pod:
        path = "spec.template.spec.activeDeadlineSeconds"
        found.append(errors.forbidden(path, f"activeDeadlineSeconds in {kind} is not Supported"))
    return found


def amount(value: Any, path: str) -> list[FieldError]:
    """Checks a number of pods that is not negative, or a percentage."""
    if not isinstance(value, str):
        return rules.not_negative(value, path)
    return [] if _PERCENT.fullmatch(value) else [errors.invalid(path, value, _PERCENT_TEXT)]


def share(value: Any, path: str) -> list[FieldError]:
    """Checks a number or a percentage that is at most 100."""
    found = amount(value, path)
    if not found and isinstance(value, str) and int(value[:-1]) > 100:
        found.append(errors.invalid(path, value, "must not be greater than 100%"))
    return found


def size(value: Any) -> int:
    """Returns a number, or the number of a percentage; 0 for what is neither."""
    if isinstance(value, str):
        return int(value[:-1]) if _PERCENT.fullmatch(value) else 0
    return int(value or 0)


def counts(status: Json, *names: str) -> list[FieldError]:
    """Checks that counts in a status are not negative."""
    found: list[FieldError] = []
    for name in names:
        found += rules.not_negative(status.get(name), f"status.{name}")
    return found


def bounded(status: Json, *names: str) -> list[FieldError]:
    """Checks that counts in a status are not greater than that of all replicas."""
    return [
        errors.invalid(f"status.{name}", status[name], "cannot be greater than status.replicas")
        for name in names
        if status.get(name, 0) > status.get("replicas", 0)
    ]
