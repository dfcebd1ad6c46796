"""The life of an object: creation and update, for every kind alike.

Functions here run inside a transaction: they read, decide and write without waiting. What they guarantee: names, uid,
creation and deletion times are the server's; `generation` counts changes of what is wanted and nothing else; a write
that changes nothing is none; every field has its owners in `managedFields`; the last finalizer taken from a deleted
object removes it.
"""

from collections.abc import Sequence
from typing import Any

from isthmus.lab.apiserver import errors
from isthmus.lab.apiserver.changes import ownership
from isthmus.lab.apiserver.changes.calls import Call, Source
from isthmus.lab.apiserver.changes.ownership import Manager
from isthmus.lab.apiserver.errors import FieldError, Json
from isthmus.lab.apiserver.inputs import decoding
from isthmus.lab.apiserver.schema.kinds import Registry, Resource
from isthmus.lab.apiserver.storage.state import Transaction, decode
from isthmus.lab.apiserver.storage.watchcache import Stored
from isthmus.lab.apiserver.strategies import Hooks, Settings, hooks_for, rules

_SERVER_SET = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
_NAME_TRIES = 8


class Lifecycle:
    """Creates and updates objects under the rules of their kinds."""

    def __init__(self, *, registry: Registry, settings: Settings, source: Source) -> None:
        self.registry = registry
        self.settings = settings
        self.source = source
        self._hooks = {resource.qualified: hooks_for(resource, settings) for resource in registry}

    def hooks(self, resource: Resource) -> Hooks:
        """Returns the rules of a kind."""
        return resource.hooks(self.settings) or self._hooks[resource.qualified]

    def read_body(self, call: Call, body: Json, *, repeated: Sequence[str] = ()) -> Json:
        """Returns the object of a request in stored form; unknown fields are refused, told or ignored as asked.

        So are those in `repeated`, which the body had more than once.
        """
        resource = call.resource
        decoding.check_kind(body, kind=resource.kind, api_version=resource.api_version)
        value, unknown = resource.conform(body)
        words = [f'duplicate field "{path}"' for path in repeated] + [f'unknown field "{path}"' for path in unknown]
        if words and call.validation == "Strict":
            told = ", ".join(words)
            place = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
            raise errors.bad_request(f"{place}: strict decoding error: {told}")
        if call.validation == "Warn":
            call.warnings.extend(words)
        value.setdefault("metadata", {})
        return value

    def load(self, transaction: Transaction, call: Call) -> Json:
        """Returns a copy of the object that the call names; raises 404."""
        stored = transaction.get(call.resource, namespace=call.namespace, name=call.name)
        if stored is None:
            raise errors.not_found(call.resource.qualified, call.name)
        return decode(call.resource, stored)

    def create(
        self, transaction: Transaction, call: Call, value: Json, *, managers: list[Manager] | None = None
    ) -> Stored:
        """Stores a new object, which `read_body` has returned."""
        resource, hooks = call.resource, self.hooks(call.resource)
        metadata = value["metadata"]
        self._place(call, metadata)
        if resource.namespaced:
            self._check_namespace(transaction, call, metadata)
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        self._name(transaction, resource, metadata)
        for name in (*_SERVER_SET, "selfLink", "resourceVersion"):
            metadata.pop(name, None)
        metadata["uid"] = self.source.uid()
        metadata["creationTimestamp"] = self.source.timestamp()
        if resource.generation:
            metadata["generation"] = 1
        sent = metadata.pop("managedFields", None) is not None
        hooks.prepare_create(value)
        hooks.default(value)
        hooks.admit(value, transaction, self.source)
        self._refuse(resource, metadata["name"], self._validate(resource, hooks, value, old=None, new_name=True))
        if transaction.get(resource, namespace=metadata.get("namespace", ""), name=metadata["name"]) is not None:
            raise errors.already_exists(resource.qualified, metadata["name"])
        self._refuse(resource, metadata["name"], hooks.allocate(value, transaction, None))
        if managers is None and not sent:
            new = ownership.leaves(value, resource.type())
            if resource.subresource("status"):
                new = {path: item for path, item in new.items() if path[0] != "f:status"}
            managers = ownership.after_update([], old={}, new=new, writer=self.writer(call, "Update"))
        ownership.write_managers(metadata, managers or [])
        return transaction.put(resource, value)

    def update(
        self,
        transaction: Transaction,
        call: Call,
        value: Json,
        *,
        old: Json,
        managers: list[Manager] | None = None,
    ) -> Stored:
        """Stores a new state of an object; `managers` are the owners after a server-side apply.

        Returns what is stored afterwards; for an object that has lost its last finalizer, its last state.
        """
        resource, hooks = call.resource, self.hooks(call.resource)
        metadata, was = value["metadata"], old["metadata"]
        self._place(call, metadata)
        self._check_preconditions(call, metadata, was)
        for name in _SERVER_SET:
            metadata.pop(name, None)
            if name in was:
                metadata[name] = was[name]
        metadata.setdefault("managedFields", was.get("managedFields", []))
        if call.subresource == "status":
            hooks.prepare_status(value, old)
        else:
            hooks.default(value)
            hooks.prepare_update(value, old)
        if metadata.get("generateName") is None and "generateName" in was:
            metadata["generateName"] = was["generateName"]
        if call.subresource == "status":
            found = rules.metadata(metadata) + hooks.validate_status(value, old)
        else:
            found = self._validate(resource, hooks, value, old=old, new_name=False)
        found += self._finalizers(metadata, was)
        self._refuse(resource, metadata["name"], found)
        if not call.subresource:
            self._refuse(resource, metadata["name"], hooks.allocate(value, transaction, old))
        return self.finish(transaction, call, value, old=old, managers=managers)

    def finish(
        self,
        transaction: Transaction,
        call: Call,
        value: Json,
        *,
        old: Json,
        managers: list[Manager] | None = None,
        counted: bool = True,
    ) -> Stored:
        """Stores a new state that has passed the rules: sets generation and owners, removes what is over."""
        resource, metadata, was = call.resource, value["metadata"], old["metadata"]
        if counted and resource.generation and _wanted(resource, value) != _wanted(resource, old):
            metadata["generation"] = was.get("generation", 0) + 1
        metadata["resourceVersion"] = was["resourceVersion"]
        if managers is None:
            managers = ownership.after_update(
                ownership.read_managers(metadata),
                old=ownership.leaves(old, resource.type()),
                new=ownership.leaves(value, resource.type()),
                writer=self.writer(call, "Update"),
            )
        ownership.write_managers(metadata, managers)
        return self.store(transaction, resource, value, old=old)

    def store(self, transaction: Transaction, resource: Resource, value: Json, *, old: Json) -> Stored:
        """Writes a new state, unless nothing changed, or removes the object if nothing keeps it any more."""
        metadata = value["metadata"]
        if self._is_over(resource, value):
            return transaction.remove(resource, value)
        if value == old:
            held = transaction.get(resource, namespace=metadata.get("namespace", ""), name=metadata["name"])
            if held is not None:
                return held
        return transaction.put(resource, value)

    def _is_over(self, resource: Resource, value: Json) -> bool:
        metadata = value["metadata"]
        if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
            return False
        return not metadata.get("deletionGracePeriodSeconds") and not self.hooks(resource).lingers(value)

    def writer(self, call: Call, operation: str) -> Manager:
        """Returns the entry of managedFields that the call writes as, still without paths."""
        return Manager(
            name=call.manager,
            operation=operation,
            api_version=call.resource.api_version,
            subresource=call.subresource,
            time=self.source.timestamp(),
            paths=frozenset(),
        )

    def _place(self, call: Call, metadata: Json) -> None:
        """Makes the names of object and path agree."""
        if call.name:
            if metadata.get("name", call.name) != call.name:
                text = f"the name of the object ({metadata['name']}) does not match the name on the URL ({call.name})"
                raise errors.bad_request(text)
            metadata["name"] = call.name
        if not call.resource.namespaced:
            metadata.pop("namespace", None)
            return
        if metadata.get("namespace", call.namespace) != call.namespace:
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise errors.bad_request(text)
        metadata["namespace"] = call.namespace

    def _check_namespace(self, transaction: Transaction, call: Call, metadata: Json) -> None:
        namespaces = self.registry.get("namespaces")
        stored = transaction.get(namespaces, namespace="", name=call.namespace)
        if stored is None:
            raise errors.not_found("namespaces", call.namespace)
        if stored.fields[namespaces.fields.index("status.phase")] == "Terminating":
            name = metadata.get("name", "")
            text = f"unable to create new content in namespace {call.namespace} because it is being terminated"
            message = f"namespace {call.namespace} is being terminated"
            cause = {"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}
            raise errors.denied(call.resource.qualified, name, text, causes=[cause])

    def _name(self, transaction: Transaction, resource: Resource, metadata: Json) -> None:
        """Makes a name from generateName, and refuses an object without either."""
        if metadata.get("name"):
            return
        base = metadata.get("generateName")
        if not base:
            bad = errors.required("metadata.name", "name or generateName is required")
            raise errors.unprocessable(resource.qualified_kind, "", [bad])
        for _ in range(_NAME_TRIES):
            metadata["name"] = self.source.name(base)
            if transaction.get(resource, namespace=metadata.get("namespace", ""), name=metadata["name"]) is None:
                return
        raise errors.already_exists(resource.qualified, metadata["name"])

    def _validate(
        self, resource: Resource, hooks: Hooks, value: Json, *, old: Json | None, new_name: bool
    ) -> list[FieldError]:
        found = rules.metadata(value["metadata"])
        if new_name:
            found = hooks.name_rule(value["metadata"]["name"], "metadata.name") + found
        if self.settings.unvalidated & {resource.plural, resource.qualified}:
            return found
        if old is None or not hooks.ratchets:
            found += hooks.validate(value)
        if old is not None and not found:
            found += hooks.validate_update(value, old)
        return found

    @staticmethod
    def _refuse(resource: Resource, name: str, found: list[FieldError]) -> None:
        if found:
            raise errors.unprocessable(resource.qualified_kind, name, found)

    @staticmethod
    def _check_preconditions(call: Call, metadata: Json, was: Json) -> None:
        asked = metadata.get("resourceVersion")
        if asked and asked != was["resourceVersion"]:
            raise errors.conflict(call.resource.qualified, call.name)
        uid = metadata.get("uid")
        if uid and uid != was.get("uid"):
            text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {was.get('uid')}"
            raise errors.conflict(call.resource.qualified, call.name, text)

    @staticmethod
    def _finalizers(metadata: Json, was: Json) -> list[FieldError]:
        added = [name for name in metadata.get("finalizers", ()) if name not in was.get("finalizers", ())]
        if added and "deletionTimestamp" in was:
            text = "no new finalizers can be added if the object is being deleted, found new finalizers "
            names = ", ".join(f'"{name}"' for name in added)
            return [errors.forbidden("metadata.finalizers", f"{text}[]string{{{names}}}")]
        return []


def _wanted(resource: Resource, value: Json) -> dict[str, Any]:
    """Returns what `generation` counts the changes of; the status is wanted where it has no subresource of its own."""
    others: tuple[str, ...] = ("kind", "apiVersion", "metadata", "status")
    if resource.published() is not None and not resource.subresource("status"):
        others = ("kind", "apiVersion", "metadata")
    return {key: item for key, item in value.items() if key not in others}
