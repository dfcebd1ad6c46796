"""The kind CustomResourceDefinition: its defaults, its rules, and what the server notes in its status.

Names are settled in the transaction that writes the definition, so a kind can be used as soon as the write is
answered; the real server takes a moment. Deleting one marks it, and `serving` removes its objects before it goes.
(Reference: apiextensions `pkg/registry/customresourcedefinition`, `pkg/apis/apiextensions/validation`.)
"""

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes.calls import Source
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.extensions import naming
from isthmus.lab.apiserver.extensions.schemaform import SchemaForm
from isthmus.lab.apiserver.extensions.versions import check_versions
from isthmus.lab.apiserver.schema.kinds import STATUS, Resource
from isthmus.lab.apiserver.storage.state import Transaction, decode
from isthmus.lab.apiserver.strategies import rules
from isthmus.lab.apiserver.strategies.base import Hooks, Settings

GROUP = "apiextensions.k8s.io"
PACKAGE = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1"
FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
APPROVAL = "api-approved.kubernetes.io"
_APPROVAL_TEXT = f'protected groups must have approval annotation "{APPROVAL}"'
_APPROVAL_LINK = "see https://github.com/kubernetes/enhancements/pull/1111"


class DefinitionResource(Resource, frozen=True, eq=False, kw_only=True):
    """The row of CustomResourceDefinitions in the registry."""

    source: Source

    def conform(self, value: Json) -> tuple[Json, list[str]]:
        """Returns the definition in stored form, and the paths of unknown fields; raises a 400 ApiError."""
        kept, unknown = super().conform(value)
        form = SchemaForm()
        for at, version in enumerate(kept.get("spec", {}).get("versions", ())):
            validation = version.get("schema") or {}
            if validation.get("openAPIV3Schema") is not None:
                where = f"spec.versions[{at}].schema.openAPIV3Schema"
                validation["openAPIV3Schema"] = form.read(validation["openAPIV3Schema"], where)
        return kept, unknown + form.unknown

    def hooks(self, settings: Settings) -> Hooks:
        """Returns the rules of definitions."""
        return DefinitionHooks(self, settings, source=self.source)


def definitions_row(source: Source) -> DefinitionResource:
    """Returns the row of the registry."""
    return DefinitionResource(
        group=GROUP,
        version="v1",
        plural="customresourcedefinitions",
        kind="CustomResourceDefinition",
        package=PACKAGE,
        namespaced=False,
        short_names=("crd", "crds"),
        categories=("api-extensions",),
        subresources=(STATUS,),
        generation=True,
        source=source,
    )


class DefinitionHooks(Hooks):
    """Defaults and validation of definitions."""

    def __init__(self, resource: Resource, settings: Settings, *, source: Source) -> None:
        super().__init__(resource, settings)
        self._source = source

    def default(self, value: Json) -> None:
        """Fills in names and conversion."""
        spec = value.setdefault("spec", {})
        names = spec.setdefault("names", {})
        if names.get("kind"):
            names.setdefault("singular", names["kind"].lower())
            names.setdefault("listKind", f"{names['kind']}List")
        spec.setdefault("conversion", {"strategy": "None"})

    def validate(self, value: Json) -> list[FieldError]:
        """Checks a definition."""
        spec, metadata = value["spec"], value["metadata"]
        names, group = spec.get("names", {}), spec.get("group", "")
        found: list[FieldError] = []
        if metadata["name"] != f"{names.get('plural', '')}.{group}":
            found.append(errors.invalid("metadata.name", metadata["name"], 'must be spec.names.plural+"."+spec.group'))
        found += _approval(group, metadata.get("annotations", {}))
        if not group:
            found.append(errors.required("spec.group"))
        else:
            bad = rules.dns_subdomain(group, "spec.group")
            if not bad and "." not in group:
                bad = [errors.invalid("spec.group", group, "should be a domain with at least one dot")]
            found += bad
        scope = spec.get("scope", "")
        if not scope:
            found.append(errors.required("spec.scope"))
        elif scope not in ("Cluster", "Namespaced"):
            found.append(errors.unsupported("spec.scope", scope, ("Cluster", "Namespaced")))
        if spec.get("preserveUnknownFields"):
            text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in "
            text += "spec.versions[*].schema instead"
            found.append(errors.invalid("spec.preserveUnknownFields", True, text))
        found += check_versions(spec.get("versions") or [])
        found += _conversion(spec.get("conversion") or {})
        found += _names(names)
        stored = [version["name"] for version in spec.get("versions") or () if version.get("storage")]
        if not stored:
            text = "must have at least one stored version"
            shown = "Invalid value: []string(nil): "
            found.append(FieldError("FieldValueInvalid", "status.storedVersions", shown + text))
        for at, name in enumerate(value.get("status", {}).get("storedVersions") or ()):
            if name not in [version["name"] for version in spec.get("versions") or ()]:
                found.append(errors.invalid(f"status.storedVersions[{at}]", name, "must appear in spec.versions"))
        return found

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Checks what may not change of a kind that is served."""
        if not naming.is_true(old, "Established"):
            return []
        new, was = value["spec"], old["spec"]
        found = rules.immutable(new["scope"], was["scope"], "spec.scope")
        found += rules.immutable(new["names"]["kind"], was["names"]["kind"], "spec.names.kind")
        return found

    def allocate(self, value: Json, transaction: Transaction, old: Json | None) -> list[FieldError]:
        """Settles the names, and notes the versions that objects may be stored in."""
        status = value.setdefault("status", {})
        stored = [version["name"] for version in value["spec"]["versions"] if version.get("storage")]
        kept = status.get("storedVersions") or []
        status["storedVersions"] = [*kept, *(name for name in stored if name not in kept)]
        naming.settle(value, siblings(value, transaction, self.resource), now=self._source.timestamp())
        return []

    def check_delete(self, value: Json) -> None:
        """Puts the finalizer on that keeps the definition until its objects are gone."""
        finalizers = value["metadata"].setdefault("finalizers", [])
        if FINALIZER not in finalizers:
            finalizers.append(FINALIZER)

    def mark_deleted(self, value: Json) -> None:
        """Notes that the kind is going."""
        text = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"
        now = self._source.timestamp()
        naming.set_condition(value, "Terminating", "True", reason="InstanceDeletionPending", message=text, now=now)


def siblings(value: Json, transaction: Transaction, resource: Resource) -> list[Json]:
    """Returns the other definitions of the same group."""
    ending = f".{value['spec']['group']}"
    others = [
        decode(resource, stored)
        for stored in transaction.all(resource)
        if stored.name.endswith(ending) and stored.name != value["metadata"]["name"]
    ]
    return [other for other in others if other["spec"]["group"] == value["spec"]["group"]]


def _approval(group: str, annotations: Json) -> list[FieldError]:
    protected = group in ("k8s.io", "kubernetes.io") or group.endswith((".k8s.io", ".kubernetes.io"))
    if not protected:
        return []
    path, said = f"metadata.annotations[{APPROVAL}]", annotations.get(APPROVAL, "")
    if not said:
        return [errors.required(path, f"{_APPROVAL_TEXT}, {_APPROVAL_LINK}")]
    if said.startswith(("http://", "https://", "unapproved")):
        return []
    text = f'{_APPROVAL_TEXT} with either a URL or a reason starting with "unapproved", {_APPROVAL_LINK}'
    return [errors.invalid(path, said, text)]


def _conversion(conversion: Json) -> list[FieldError]:
    strategy = conversion.get("strategy", "")
    path = "spec.conversion"
    if strategy == "None":
        if conversion.get("webhook"):
            text = "should not be set when strategy is not set to Webhook"
            return [errors.forbidden(f"{path}.webhookClientConfig", text)]
        return []
    if not strategy:
        return [errors.required(f"{path}.strategy")]
    if strategy != "Webhook":
        return [errors.unsupported(f"{path}.strategy", strategy, ("None", "Webhook"))]
    text = "webhook conversion is not supported by this server, which calls no webhooks; use None"
    return [errors.forbidden(f"{path}.strategy", text)]


def _names(names: Json) -> list[FieldError]:
    found: list[FieldError] = []
    path = "spec.names"
    for name in ("plural", "singular", "kind", "listKind"):
        said = names.get(name, "")
        if not said:
            found.append(errors.required(f"{path}.{name}"))
        elif name in ("plural", "singular"):
            found += rules.dns_1035_label(said, f"{path}.{name}")
        else:
            found += [
                FieldError(bad.reason, bad.path, bad.message.replace(f'"{said.lower()}": ', f'"{said}": {_MIXED}'))
                for bad in rules.dns_1035_label(said.lower(), f"{path}.{name}")
            ]
    for name in ("shortNames", "categories"):
        for at, word in enumerate(names.get(name) or ()):
            found += rules.dns_1035_label(word, f"{path}.{name}[{at}]")
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        found.append(errors.invalid(f"{path}.listKind", names["listKind"], "kind and listKind may not be the same"))
    return found


_MIXED = "may have mixed case, but should otherwise match: "
