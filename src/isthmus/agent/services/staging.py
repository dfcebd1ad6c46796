"""Which of the own cluster's Services and EndpointSlices are in the dataplane: all of them, or those that are global.

Beside a kube-proxy only global services are ours. A Service becomes global by an annotation of its own, which comes
with the whole object, or by one of its namespace, which does not; and its slices say nothing of it at all. So what may
be needed is kept aside. Invariant: the compiler holds an object or it is aside, never both. Rejected: asking the API
server for the slices of a service that becomes global, which is late and may fail.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from isthmus.model.service import Service, ServiceKey, Slice, SliceKey
from isthmus.ruleset.services import ServiceCompiler


class Judge(Protocol):
    """Who knows what is global."""

    def declared(self, key: ServiceKey) -> bool:
        """Tells whether a service asks to be global, its namespace apart."""

    def used(self, key: ServiceKey) -> bool:
        """Tells whether a service is global here."""

    def flagged(self, slice_: Slice) -> Slice:
        """Returns a slice of the own cluster with what is known of its backends' nodes."""

    def own_changed(self, before: Slice | None, after: Slice | None) -> None:
        """Hears of each change of an own slice once it is made; None for one that was not there, or is gone."""


class Stage:
    """The own cluster's services and slices on their way to the compiler. For one thread."""

    def __init__(self, compiler: ServiceCompiler, *, judge: Judge | None = None, everything: bool = True) -> None:
        self.compiler = compiler
        self.everything = everything
        self._judge = judge
        self._services: dict[ServiceKey, Service] = {}  # aside
        self._slices: dict[SliceKey, Slice] = {}  # aside
        self._of: dict[ServiceKey, tuple[SliceKey, ...]] = {}  # kept only where somebody judges

    # -- what is told ------------------------------------------------------------------------------------------

    def put_service(self, service: Service) -> None:
        """Takes in a service."""
        if self._wanted(service.key):
            self.compiler.put_service(service)
            return
        self.compiler.drop_service(service.key)
        self._services.pop(service.key, None)
        if self.concerns(service.key):
            self._services[service.key] = service

    def drop_service(self, key: ServiceKey) -> None:
        """Forgets a service, if it is there."""
        self._services.pop(key, None)
        self.compiler.drop_service(key)

    def put_slice(self, slice_: Slice) -> None:
        """Takes in a slice."""
        before = self.slice(slice_.key)
        if before is not None and before.service != slice_.service:
            self.drop_slice(slice_.key)
            before = None
        if self._judge is not None and before is None:
            self._of[slice_.service] = (*self._of.get(slice_.service, ()), slice_.key)
        self._place(slice_)
        if self._judge is not None:
            self._judge.own_changed(before, slice_)

    def drop_slice(self, key: SliceKey) -> None:
        """Forgets a slice, if it is there."""
        before = self._slices.pop(key, None) or self.compiler.slices.get(key)
        self.compiler.drop_slice(key)
        if before is None or self._judge is None:
            return
        rest = tuple(other for other in self._of.get(before.service, ()) if other != key)
        if rest:
            self._of[before.service] = rest
        else:
            self._of.pop(before.service, None)
        self._judge.own_changed(before, None)

    # -- what is asked -----------------------------------------------------------------------------------------

    def slice(self, key: SliceKey) -> Slice | None:
        """Returns a slice, wherever it is."""
        return self._slices.get(key) or self.compiler.slices.get(key)

    def services(self) -> Iterator[ServiceKey]:
        """Yields the services that are held, here or in the compiler."""
        yield from self._services
        yield from self.compiler.services

    def slices(self) -> Iterator[tuple[str, str]]:
        """Yields the keys of the own cluster's slices."""
        for held in (self._slices, self.compiler.slices):
            for key in held:
                if len(key) == 2:
                    yield key

    @property
    def judged(self) -> bool:
        """Tells whether there is a judge."""
        return self._judge is not None

    def concerns(self, key: ServiceKey) -> bool:
        """Tells whether what is wrong with a service matters here."""
        return self.everything or (self._judge is not None and self._judge.declared(key))

    def slices_of(self, service: ServiceKey) -> tuple[SliceKey, ...]:
        """Returns the slices of a service; only where there is a judge."""
        return self._of.get(service, ())

    # -- what the judge decides --------------------------------------------------------------------------------

    def admit(self, key: ServiceKey) -> None:
        """Puts a service that has become global into the dataplane, with its slices."""
        service = self._services.pop(key, None)
        if service is not None:
            self.compiler.put_service(service)
        self.refresh(self.slices_of(key))

    def withdraw(self, key: ServiceKey) -> None:
        """Takes a service that is not global any more out of the dataplane, if only global ones belong there."""
        if not self.everything:
            service = self.compiler.services.get(key)
            self.compiler.drop_service(key)
            if service is not None and self._judge is not None and self._judge.declared(key):
                self._services[key] = service
        self.refresh(self.slices_of(key))

    def refresh(self, keys: Iterable[SliceKey]) -> None:
        """Puts slices where they belong, with what is known of their nodes now."""
        for key in keys:
            slice_ = self.slice(key)
            if slice_ is not None:
                self._place(slice_)

    def _place(self, slice_: Slice) -> None:
        if self._wanted(slice_.service):
            self._slices.pop(slice_.key, None)
            self.compiler.put_slice(slice_ if self._judge is None else self._judge.flagged(slice_))
        else:
            self.compiler.drop_slice(slice_.key)
            self._slices[slice_.key] = slice_

    def _wanted(self, key: ServiceKey) -> bool:
        return self.everything or (self._judge is not None and self._judge.used(key))
