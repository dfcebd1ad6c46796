"""What the agent has been told of Services, and what it says about them.

Feeds every change of Services and EndpointSlices into the service part of the table. No I/O, no clock. Invariants: as
in `isthmus.agent.view`: a Snapshot is taken as a difference, and nothing may be written while something is `missing`.
What is wrong with an object is reported once, and once more when it is mended; it never stops the others.
"""

from collections.abc import Iterable

from isthmus.agent.policies.reports import Report
from isthmus.agent.services.objects import Facts, service_facts, slice_facts
from isthmus.agent.services.staging import Stage
from isthmus.kube.reflector import Change, Gone, Put, Snapshot
from isthmus.kube.schema import EndpointSlice
from isthmus.kube.schema import Service as ServiceObject
from isthmus.mesh.source.slices import is_mirrored
from isthmus.model.service import ServiceKey, Slice
from isthmus.policy.rules import ObjectRef, Problem

SERVICE, SLICE = "Service", "EndpointSlice"


class ServiceView:
    """The Services of the agent's cluster, and the stage they go to. For one thread."""

    def __init__(self, stage: Stage, *, cluster: str) -> None:
        self.compiler = stage.compiler
        self._stage = stage
        self._cluster = cluster
        self._known: set[str] = set()
        self._problems: dict[tuple[str, str, str], tuple[Problem, ...]] = {}
        self._told: dict[ServiceKey, tuple[ObjectRef, tuple[Problem, ...]]] = {}  # and what is wrong with it by itself
        self._crowded: set[ServiceKey] = set()

    @property
    def missing(self) -> list[str]:
        """Returns what has not been told yet, for people."""
        names = {SERVICE: "services", SLICE: "endpoint slices"}
        return [text for kind, text in names.items() if kind not in self._known]

    @property
    def faulty(self) -> int:
        """Returns how many objects have problems."""
        return len(self._problems)

    def services(self, change: Change[ServiceObject]) -> list[Report]:
        """Takes in a change of the cluster's Services; returns what must be said about them."""
        match change:
            case Put(obj):
                reports = self._put_service(obj)
            case Gone(obj):
                self._drop_service((obj.metadata.namespace, obj.metadata.name))
                reports = []
            case Snapshot(objects):
                present = {(obj.metadata.namespace, obj.metadata.name) for obj in objects}
                gone = [key for key in self._of(SERVICE, self._stage.services()) if key not in present]
                for key in gone:
                    self._drop_service(key)
                reports = [report for obj in objects for report in self._put_service(obj)]
                self._known.add(SERVICE)
        return reports + self._reconsider()

    def slices(self, change: Change[EndpointSlice]) -> list[Report]:
        """Takes in a change of the cluster's EndpointSlices; returns what must be said about them."""
        match change:
            case Put(obj):
                return self._put_slice(obj)
            case Gone(obj):
                return self._drop_slice((obj.metadata.namespace, obj.metadata.name))
            case Snapshot(objects):
                present = {(obj.metadata.namespace, obj.metadata.name) for obj in objects}
                gone = [key for key in self._of(SLICE, self._stage.slices()) if key not in present]
                reports = [report for key in gone for report in self._drop_slice(key)]
                reports += [report for obj in objects for report in self._put_slice(obj)]
                self._known.add(SLICE)
                return reports

    def _of(self, kind: str, known: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Returns the places of all objects of a kind that left a trace here."""
        return {*known, *((namespace, name) for what, namespace, name in self._problems if what == kind)}

    def _put_service(self, obj: ServiceObject) -> list[Report]:
        facts = service_facts(obj)
        ref = ObjectRef(SERVICE, obj.metadata.namespace, obj.metadata.name, obj.metadata.uid)
        key = (ref.namespace, ref.name)
        if not self._stage.concerns(key):
            self._drop_service(key)
            return []
        self._told[key] = (ref, facts.problems)
        if facts.service is None:
            self._stage.drop_service(key)
        else:
            self._stage.put_service(facts.service)
        return self._reconsider({key})

    def _drop_service(self, key: ServiceKey) -> None:
        self._stage.drop_service(key)
        self._told.pop(key, None)
        self._problems.pop((SERVICE, *key), None)

    def _put_slice(self, obj: EndpointSlice) -> list[Report]:
        # What a tracker mirrors for others is known here from the first hand, with weights and health.
        mirrored = self._stage.judged and is_mirrored(obj, cluster=self._cluster)
        facts = Facts() if mirrored else slice_facts(obj, cluster=self._cluster)
        meta = obj.metadata
        key = (meta.namespace, meta.name)
        before = self._stage.slice(key)
        if facts.slice is None:
            self._stage.drop_slice(key)
        else:
            self._stage.put_slice(facts.slice)
        of = facts.slice.service if facts.slice is not None else key
        problems = facts.problems if self._stage.concerns(of) else ()
        reports = self._note(ObjectRef(SLICE, *key, meta.uid), problems)
        return reports + self._recount(before, facts.slice)

    def _drop_slice(self, key: tuple[str, str]) -> list[Report]:
        before = self._stage.slice(key)
        self._stage.drop_slice(key)
        self._problems.pop((SLICE, *key), None)
        return self._recount(before)

    def _recount(self, *changed: Slice | None) -> list[Report]:
        return self.recount({slice_.service for slice_ in changed if slice_ is not None})

    def recount(self, services: Iterable[ServiceKey]) -> list[Report]:
        """Says which of these services have too many backends, or no longer, after slices of them came or went."""
        reports: list[Report] = []
        for of in sorted(services):
            crowded = self.compiler.waiting(of) > 0
            if crowded or of in self._crowded:
                (self._crowded.add if crowded else self._crowded.discard)(of)
                reports += self._reconsider({of})
        return reports

    def _reconsider(self, keys: Iterable[ServiceKey] = ()) -> list[Report]:
        """Says what is wrong with services now: `keys`, and those that lost a frontend to another, or won one."""
        reports: list[Report] = []
        for key in sorted({*keys, *self.compiler.take_resettled()} & self._told.keys()):
            ref, problems = self._told[key]
            contests = tuple(
                Problem(frontend.kind.field, f"{frontend} belongs to Service {'/'.join(holder)}")
                for frontend, holder in self.compiler.refused(key)
            )
            waiting = self.compiler.waiting(key)
            crowd = (Problem("spec.selector", f"too many backends: {waiting} of them get nothing"),) * bool(waiting)
            reports += self._note(ref, problems + contests + crowd)
        return reports

    def _note(self, ref: ObjectRef, problems: tuple[Problem, ...]) -> list[Report]:
        place = (ref.kind, ref.namespace, ref.name)
        before = self._problems.pop(place, ())
        if problems:
            self._problems[place] = problems
        return [Report(ref, problems)] if before != problems else []
