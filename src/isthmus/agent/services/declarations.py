"""What Services and namespaces of the own cluster say about other clusters, by annotation.

Invariants: only Services that ask to be global are kept, and only namespaces that forbid it; what is wrong with an
annotation is said once, and once more when it is mended. Each change returns the services that it may concern. Pure.
"""

import msgspec

from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.schema import Bare
from isthmus.kube.schema import Service as ServiceObject
from isthmus.model.service import ServiceKey
from isthmus.policy.rules import ObjectRef, Problem
from isthmus.services.settings import Settings, namespace_is_global, settings

SERVICE, NAMESPACE = "Service", "Namespace"

_KEYS = ("service.cilium.io/", "io.cilium/", "isthmus.dev/")


class Report(msgspec.Struct, frozen=True):
    """What is wrong with the annotations of an object, or (nothing) that they are mended."""

    ref: ObjectRef
    problems: tuple[Problem, ...]


class _Asked(msgspec.Struct, frozen=True, gc=False):
    """A Service that asks to be global, its namespace apart."""

    settings: Settings
    headless: bool


class Declarations:
    """The annotations that matter. For one thread."""

    def __init__(self) -> None:
        self.known = False
        """Whether all namespaces have been told."""
        self._asked: dict[ServiceKey, _Asked] = {}
        self._closed: set[str] = set()
        self._problems: dict[tuple[str, str, str], tuple[Problem, ...]] = {}
        self._reports: list[Report] = []

    # -- what is asked -----------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Returns how many services are global."""
        return sum(1 for namespace, _ in self._asked if namespace not in self._closed)

    @property
    def faulty(self) -> int:
        """Returns how many objects have annotations that cannot be read."""
        return len(self._problems)

    def asks(self, key: ServiceKey) -> bool:
        """Tells whether a service asks to be global, its namespace apart."""
        return key in self._asked

    def settings(self, key: ServiceKey) -> Settings | None:
        """Returns what a service wants, if it is global and has an address of its own."""
        asked = self._asked.get(key)
        return asked.settings if asked is not None and not asked.headless and key[0] not in self._closed else None

    def take_reports(self) -> list[Report]:
        """Returns what must be said since the last time."""
        reports, self._reports = self._reports, []
        return reports

    # -- what is told ------------------------------------------------------------------------------------------

    def services(self, change: Change[ServiceObject]) -> set[ServiceKey]:
        """Takes in a change of the cluster's Services."""
        match change:
            case Put(obj):
                return self._put_service(obj)
            case Gone(obj):
                return self._drop_service((obj.metadata.namespace, obj.metadata.name))
            case Snapshot(objects):
                present = {(obj.metadata.namespace, obj.metadata.name) for obj in objects}
                told = {(namespace, name) for kind, namespace, name in self._problems if kind == SERVICE}
                gone = {*self._asked, *told} - present
                return set().union(*map(self._drop_service, gone), *map(self._put_service, objects))

    def namespaces(self, change: Change[Bare]) -> set[ServiceKey]:
        """Takes in a change of the cluster's Namespaces."""
        match change:
            case Put(obj):
                return self._put_namespace(obj)
            case Gone(obj):
                return self._drop_namespace(obj.metadata.name)
            case Snapshot(objects):
                present = {obj.metadata.name for obj in objects}
                told = {name for kind, _, name in self._problems if kind == NAMESPACE}
                gone = {*self._closed, *told} - present
                self.known = True
                return set().union(*map(self._drop_namespace, gone), *map(self._put_namespace, objects))

    def _put_service(self, obj: ServiceObject) -> set[ServiceKey]:
        meta = obj.metadata
        key = (meta.namespace, meta.name)
        silent = not any(name.startswith(_KEYS) for name in meta.annotations)
        if silent and key not in self._asked and (SERVICE, *key) not in self._problems:
            return set()
        headless = obj.spec.clusterIP in ("", "None") or obj.spec.type == "ExternalName"
        said = settings(meta.annotations, headless=headless)
        self._note(ObjectRef(SERVICE, *key, meta.uid), said.problems)
        if said.is_global:
            self._asked[key] = _Asked(said, headless)
        else:
            self._asked.pop(key, None)
        return {key}

    def _drop_service(self, key: ServiceKey) -> set[ServiceKey]:
        self._problems.pop((SERVICE, *key), None)
        return {key} if self._asked.pop(key, None) is not None else set()

    def _put_namespace(self, obj: Bare) -> set[ServiceKey]:
        name = obj.metadata.name
        is_global, problems = namespace_is_global(obj.metadata.annotations)
        self._note(ObjectRef(NAMESPACE, "", name, obj.metadata.uid), problems)
        return self._close(name, closed=not is_global)

    def _drop_namespace(self, name: str) -> set[ServiceKey]:
        self._problems.pop((NAMESPACE, "", name), None)
        return self._close(name, closed=False)

    def _close(self, name: str, *, closed: bool) -> set[ServiceKey]:
        if closed is (name in self._closed):
            return set()
        (self._closed.add if closed else self._closed.discard)(name)
        return {key for key in self._asked if key[0] == name}

    def _note(self, ref: ObjectRef, problems: tuple[Problem, ...]) -> None:
        place = (ref.kind, ref.namespace, ref.name)
        before = self._problems.pop(place, ())
        if problems:
            self._problems[place] = problems
        if problems != before:
            self._reports.append(Report(ref, problems))
