"""Jobs: the selector that the server makes, and what may not change once pods run."""

import copy

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules, workloads
from isthmus.lab.apiserver.strategies.base import Hooks

_UID_LABELS = ("controller-uid", "batch.kubernetes.io/controller-uid")
_NAME_LABELS = ("job-name", "batch.kubernetes.io/job-name")
_COUNTS = (
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)
_FROZEN = ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy")
_MAX_PARALLELISM = 100_000  # of an indexed Job


class JobHooks(Hooks):
    """batch/v1 Job."""

    def prepare_create(self, value: Json) -> None:
        """Makes the selector by which only this Job's pods are found, unless the user brings one."""
        super().prepare_create(value)
        spec, metadata = value.setdefault("spec", {}), value["metadata"]
        template = spec.setdefault("template", {})
        if spec.setdefault("manualSelector", False):
            self._label(value)
            return
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        for names, item in ((_NAME_LABELS, metadata["name"]), (_UID_LABELS, metadata["uid"])):
            for name in names:
                labels.setdefault(name, item)
        spec.setdefault("selector", {}).setdefault("matchLabels", {}).setdefault(_UID_LABELS[1], metadata["uid"])
        self._label(value)

    @staticmethod
    def _label(value: Json) -> None:
        """Gives a Job without labels those of its pods."""
        labels = value["spec"]["template"].get("metadata", {}).get("labels")
        if labels and not value["metadata"].get("labels"):
            value["metadata"]["labels"] = dict(labels)

    def default(self, value: Json) -> None:
        """Sets counts, modes and policies, and fills in the template."""
        spec = value.setdefault("spec", {})
        if "completions" not in spec and "parallelism" not in spec:
            spec["completions"] = 1
        spec.setdefault("parallelism", 1)
        spec.setdefault("backoffLimit", 2**31 - 1 if "backoffLimitPerIndex" in spec else 6)
        spec.setdefault("completionMode", "NonIndexed")
        spec.setdefault("suspend", False)
        spec.setdefault("manualSelector", False)
        for rule in spec.get("podFailurePolicy", {}).get("rules", ()):
            for pattern in rule.get("onPodConditions", ()):
                if not pattern.get("status"):
                    pattern["status"] = "True"
        spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
        workloads.default_template(spec)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks counts, modes, selector and template."""
        spec, metadata = value["spec"], value["metadata"]
        found: list[FieldError] = []
        labels = spec["template"].get("metadata", {}).get("labels", {})
        if not spec["manualSelector"]:
            for names, item in ((_UID_LABELS, metadata["uid"]), (_NAME_LABELS, metadata["name"])):
                for name in names:
                    path = "spec.template.metadata.labels"
                    if name not in labels:
                        found.append(errors.required(path, f'must be "{item}"'))
                    elif labels[name] != item:
                        found.append(errors.invalid(f"{path}[{name}]", labels[name], f"must be '{item}'"))
        for name in _COUNTS:
            found += rules.not_negative(spec.get(name), f"spec.{name}")
        found += self._mode(spec)
        path = "spec.podReplacementPolicy"
        policies = ("Failed",) if "podFailurePolicy" in spec else ("Failed", "TerminatingOrFailed")
        found += rules.one_of(spec["podReplacementPolicy"], path, policies)
        found += workloads.template_errors(spec)
        policy, path = spec["template"]["spec"]["restartPolicy"], "spec.template.spec.restartPolicy"
        if policy == "Always":
            found.append(errors.required(path, 'valid values: "OnFailure", "Never"'))
        elif policy not in ("OnFailure", "Never"):
            found.append(errors.unsupported(path, policy, ("OnFailure", "Never")))
        elif "podFailurePolicy" in spec and policy != "Never":
            text = 'only "Never" is supported when podFailurePolicy is specified'
            found.append(errors.invalid(path, policy, text))
        if "selector" not in spec:
            return [*found, errors.required("spec.selector")]
        found += rules.label_selector(spec["selector"], "spec.selector")
        if not workloads.selects(spec["selector"], labels):
            text = "`selector` does not match template `labels`"
            found.append(errors.invalid("spec.template.metadata.labels", labels, text))
        return found

    @staticmethod
    def _mode(spec: Json) -> list[FieldError]:
        found = rules.one_of(spec["completionMode"], "spec.completionMode", ("NonIndexed", "Indexed"))
        if spec["completionMode"] == "Indexed":
            if "completions" not in spec:
                found.append(errors.required("spec.completions", "when completion mode is Indexed"))
            if spec["parallelism"] > _MAX_PARALLELISM:
                text = f"must be less than or equal to {_MAX_PARALLELISM} when completion mode is Indexed"
                found.append(errors.invalid("spec.parallelism", spec["parallelism"], text))
            return found
        for name in ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"):
            if name in spec:
                found.append(errors.invalid(f"spec.{name}", spec[name], "requires indexed completion mode"))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Refuses changes of selector, template, completions and policies."""
        new, was = value["spec"], old["spec"]
        found: list[FieldError] = []
        if new["completionMode"] != "Indexed":
            found += rules.immutable(new.get("completions"), was.get("completions"), "spec.completions")
        elif new.get("completions") not in (was.get("completions"), new["parallelism"]):
            text = "can only be modified in tandem with spec.parallelism"
            found.append(errors.invalid("spec.completions", new.get("completions"), text))
        found += rules.immutable(new.get("selector"), was.get("selector"), "spec.selector")
        template = copy.deepcopy(was["template"])
        if was.get("suspend") and "startTime" not in old.get("status", {}):
            for name in ("nodeSelector", "tolerations", "schedulingGates", "affinity"):
                template["spec"].pop(name, None)
                if name in new["template"]["spec"]:
                    template["spec"][name] = new["template"]["spec"][name]
            template["metadata"] = new["template"].get("metadata", {})
        found += rules.immutable(new["template"], template, "spec.template")
        for name in _FROZEN:
            found += rules.immutable(new.get(name), was.get(name), f"spec.{name}")
        return found
