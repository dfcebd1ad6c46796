"""A custom resource as the server sees it: a row of the registry whose rules come from a definition.

Everything that needs the schema is made when it is first asked for and kept: the schema itself, the shape for
server-side apply, compiled rules, columns. Two versions of a resource share their objects; `tail` gives an object in
the form of the version that is asked for (conversion strategy None: another apiVersion, and the fields of that schema).
"""

import functools
import time
from typing import TYPE_CHECKING, Any

import msgspec

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.errors import ApiError, FieldError, Json
from isthmus.lab.apiserver.extensions import printing, pruning, shapes, values
from isthmus.lab.apiserver.extensions.celrules import Rules
from isthmus.lab.apiserver.schema.kinds import SCALE, STATUS, Resource, ScalePaths, Subresource
from isthmus.lab.apiserver.schema.typetable import ObjectType
from isthmus.lab.apiserver.strategies.base import Hooks, Settings

if TYPE_CHECKING:
    from isthmus.lab.apiserver.columns import Columns
    from isthmus.lab.apiserver.storage.state import Transaction
    from isthmus.lab.apiserver.storage.watchcache import Stored

RULES_TIME = 1.0  # seconds that all rules together may take for one object


class VersionModel:
    """One version of one definition. `stored` is the definition as the store holds it, `at` the version's index."""

    def __init__(self, stored: "Stored", at: int, *, storage: int, label: str) -> None:
        self.stored = stored
        self.terminating = False
        self._at = at
        self._storage = storage
        self._label = label

    def __repr__(self) -> str:
        return self._label  # what OpenAPI documents are cached by

    @functools.cached_property
    def version(self) -> Json:
        """Returns the version's part of the definition."""
        found: Json = self._versions()[self._at]
        return found

    def _versions(self) -> list[Json]:
        value: Json = msgspec.json.decode(b"{" + self.stored.tail)
        versions: list[Json] = value["spec"]["versions"]
        return versions

    @functools.cached_property
    def schema(self) -> Json:
        """Returns the structural schema."""
        found: Json = self.version.get("schema", {}).get("openAPIV3Schema", {})
        return found

    @functools.cached_property
    def converts(self) -> bool:
        """Tells whether objects look different in this version than in the stored one."""
        return self._at != self._storage and self._versions()[self._storage].get("schema") != self.version.get("schema")

    @functools.cached_property
    def shape(self) -> ObjectType:
        """Returns what server-side apply sees of the schema."""
        return shapes.shape(self.schema, top=True)

    @functools.cached_property
    def rules(self) -> Rules:
        """Returns the rules in CEL, which compile when they are first met."""
        return Rules(self.schema)

    def refreshed(self, value: Json, *, kind: str) -> Json:
        """Returns an object as this version shows it, without what the schema does not know and with its defaults."""
        kept, _ = pruning.prune(value, self.schema, kind=kind, version="")
        pruning.fill(kept, self.schema)
        return kept


class CustomResource(Resource, frozen=True, eq=False, kw_only=True):
    """A row of the registry that a definition brought."""

    model: VersionModel
    singular_name: str
    lists: str
    scale: ScalePaths | None = None
    definitions: Resource
    deprecated: bool = False

    @property
    def singular(self) -> str:
        """Returns the accepted singular name."""
        return self.singular_name

    @property
    def list_kind(self) -> str:
        """Returns the accepted kind of lists."""
        return self.lists

    @property
    def deprecation(self) -> str:
        """Returns what to say of a deprecated version."""
        if not self.deprecated:
            return ""
        return self.model.version.get("deprecationWarning") or f"{self.api_version} {self.kind} is deprecated"

    @property
    def strategic(self) -> bool:
        """Returns False: there are no Go types to tell how lists merge."""
        return False

    def type(self) -> ObjectType:
        """Returns the shape of its objects."""
        return self.model.shape

    def conform(self, value: Json) -> tuple[Json, list[str]]:
        """Returns `value` without unknown fields, and their paths; raises a 400 ApiError."""
        return pruning.prune(value, self.model.schema, kind=self.kind, version=self.version)

    def hooks(self, settings: Settings) -> Hooks:
        """Returns the rules of its objects."""
        return CustomHooks(self, settings)

    def columns(self) -> "Columns | None":
        """Returns the columns of tables."""
        return printing.columns(self.model.version.get("additionalPrinterColumns"))

    def scale_paths(self) -> ScalePaths | None:
        """Returns where the values of the scale subresource are."""
        return self.scale

    def published(self) -> Json:
        """Returns the schema for OpenAPI."""
        return self.model.schema

    def tail(self, stored: "Stored") -> bytes:
        """Returns an object's JSON, without prefix, in the form of this version."""
        if not self.model.converts:
            return stored.tail
        value = msgspec.json.decode(self.prefix + stored.tail)
        kept = self.model.refreshed(value, kind=self.kind)
        return msgspec.json.encode({name: item for name, item in kept.items() if name not in ("kind", "apiVersion")})[
            1:
        ]


class CustomHooks(Hooks):
    """Defaults and validation of custom objects."""

    ratchets = True

    def __init__(self, resource: CustomResource, settings: Settings) -> None:
        super().__init__(resource, settings)
        self._custom = resource
        self._model = resource.model

    def default(self, value: Json) -> None:
        """Fills in the defaults of the schema."""
        pruning.fill(value, self._model.schema)

    def prepare_status(self, value: Json, old: Json) -> None:
        """Restores what a status update may not touch, and fills in the defaults of the status."""
        super().prepare_status(value, old)
        pruning.fill(value, self._model.schema)

    def validate(self, value: Json) -> list[FieldError]:
        """Checks a new object."""
        return self._check(value, values.ABSENT)

    def validate_update(self, value: Json, old: Json) -> list[FieldError]:
        """Checks what changed, with the rules that compare."""
        return self._check(value, old)

    def validate_status(self, value: Json, old: Json) -> list[FieldError]:
        """Checks what changed, as in any update."""
        return self._check(value, old)

    def _check(self, value: Json, old: Any) -> list[FieldError]:
        schema = self._model.schema
        before = old if old is values.ABSENT else {**old, "metadata": {}}
        seen = {**value, "metadata": {name: value["metadata"][name] for name in _NAMES if name in value["metadata"]}}
        found = values.check(seen, schema, old=before)
        found += values.check_lists(seen, schema) + values.check_embedded(seen, schema)
        if any(error.reason in values.BLOCKING for error in found):
            if self._model.rules.any():
                text = "some validation rules were not checked because the object was invalid; correct the existing "
                found.append(FieldError("FieldValueInvalid", "<nil>", f'Invalid value: "null": {text}{_REST}'))
            return found
        end = time.monotonic() + RULES_TIME
        was = old if old is values.ABSENT else {**old, "metadata": seen["metadata"]}
        return found + self._model.rules.check(seen, old=was, deadline=lambda: time.monotonic() > end)

    def allocate(self, value: Json, transaction: "Transaction", old: Json | None) -> list[FieldError]:
        """Refuses new objects of a kind that is going."""
        held = transaction.get(self._custom.definitions, namespace="", name=self.resource.qualified)
        if held is None:
            raise errors.unknown_path()
        if held is self._model.stored and not self._model.terminating:
            return []
        if b'"deletionTimestamp"' in held.tail and old is None:
            text = "create not allowed while custom resource definition is terminating"
            raise ApiError(405, "MethodNotAllowed", text)
        return []


_NAMES = ("name", "generateName")
_REST = "errors to complete validation"


def subresources(version: Json) -> tuple[tuple[Subresource, ...], ScalePaths | None]:
    """Returns the subresources that a version asks for, and where its scale is."""
    asked = version.get("subresources") or {}
    found: list[Subresource] = []
    paths = None
    if "status" in asked:
        found.append(STATUS)
    if "scale" in asked:
        found.append(SCALE)
        scale = asked["scale"]
        replicas, status = scale["specReplicasPath"], scale["statusReplicasPath"]
        paths = ScalePaths(replicas[1:], status[1:], scale.get("labelSelectorPath", "")[1:])
    return tuple(found), paths
