"""Roles and bindings. They are stored and checked as objects; nothing is decided by them (see `access.auth`)."""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.strategies import rules
from isthmus.lab.apiserver.strategies.base import Hooks

GROUP = "rbac.authorization.k8s.io"


class RoleHooks(Hooks):
    """rbac.authorization.k8s.io/v1 Role and ClusterRole."""

    name_rule = staticmethod(rules.path_segment)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks the rules."""
        found = []
        for index, rule in enumerate(value.get("rules") or ()):
            path = f"rules[{index}]"
            if not rule.get("verbs"):
                found.append(errors.required(f"{path}.verbs", "verbs must contain at least one value"))
            urls = rule.get("nonResourceURLs")
            if urls:
                if self.resource.namespaced:
                    text = "namespaced rules cannot apply to non-resource URLs"
                    found.append(errors.invalid(f"{path}.nonResourceURLs", urls, text))
                if any(rule.get(name) for name in ("apiGroups", "resources", "resourceNames")):
                    text = "rules cannot apply to both regular resources and non-resource URLs"
                    found.append(errors.invalid(f"{path}.nonResourceURLs", urls, text))
                continue
            if not rule.get("apiGroups"):
                text = "resource rules must supply at least one api group"
                found.append(errors.required(f"{path}.apiGroups", text))
            if not rule.get("resources"):
                text = "resource rules must supply at least one resource"
                found.append(errors.required(f"{path}.resources", text))
        if "aggregationRule" in value and not value["aggregationRule"].get("clusterRoleSelectors"):
            text = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            found.append(errors.required("aggregationRule.clusterRoleSelectors", text))
        return found


class BindingHooks(Hooks):
    """rbac.authorization.k8s.io/v1 RoleBinding and ClusterRoleBinding."""

    name_rule = staticmethod(rules.path_segment)

    def default(self, value: Json) -> None:
        """Sets the API groups of role and subjects."""
        if "roleRef" in value and not value["roleRef"].get("apiGroup"):
            value["roleRef"]["apiGroup"] = GROUP
        for subject in value.get("subjects", ()):
            if not subject.get("apiGroup") and subject.get("kind") in ("User", "Group"):
                subject["apiGroup"] = GROUP

    def validate(self, value: Json) -> list[FieldError]:
        """Checks the role's reference and the subjects."""
        role = value.get("roleRef", {})
        found = rules.one_of(role.get("apiGroup", ""), "roleRef.apiGroup", (GROUP,))
        kinds = ("Role", "ClusterRole") if self.resource.namespaced else ("ClusterRole",)
        found += rules.one_of(role.get("kind", ""), "roleRef.kind", kinds)
        if not role.get("name"):
            found.append(errors.required("roleRef.name"))
        else:
            found += rules.path_segment(role["name"], "roleRef.name")
        for index, subject in enumerate(value.get("subjects", ())):
            found += self._subject(subject, f"subjects[{index}]")
        return found

    def _subject(self, subject: Json, path: str) -> list[FieldError]:
        found = [] if subject.get("name") else [errors.required(f"{path}.name")]
        group, kind = subject.get("apiGroup", ""), subject.get("kind", "")
        if kind == "ServiceAccount":
            if subject.get("name"):
                found += rules.dns_subdomain(subject["name"], f"{path}.name")
            if group:
                found.append(errors.unsupported(f"{path}.apiGroup", group, ("",)))
            if not self.resource.namespaced and not subject.get("namespace"):
                found.append(errors.required(f"{path}.namespace"))
        elif kind in ("User", "Group"):
            found += rules.one_of(group, f"{path}.apiGroup", (GROUP,))
        else:
            found.append(errors.unsupported(f"{path}.kind", kind, ("ServiceAccount", "User", "Group")))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Keeps the role."""
        if value.get("roleRef") == old.get("roleRef"):
            return []
        return [errors.invalid("roleRef", value.get("roleRef"), "cannot change roleRef")]
