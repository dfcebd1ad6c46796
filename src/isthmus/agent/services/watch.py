"""The service part of the agent at work: says what is wrong with Services, and has stale connections forgotten.

A UDP client keeps its port and sends on, so conntrack keeps it with the backend that it was given first: after that
backend has gone, and also without any where there was none yet. A TCP connection ends with its backend, but one that
nobody has answered, or that its backend broke off, is what the next one from the same port is taken for. Such entries
are looked for after the kernel took the change, and a few times more: a backend ends after it was taken out, at once or
when its grace period is over, and breaks off then what it had. What has no answer at a later look will not get one, so
then only the targets are right that a new connection might be given: others may answer, but are not to be used now.
Invariants: the agent's writes never wait for this; what changes while entries are looked through is looked for
afterwards, and never without a pause.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog
from prometheus_client import CollectorRegistry

from isthmus.agent.metrics import ServiceMetrics
from isthmus.agent.policies.reports import Report
from isthmus.agent.services.view import ServiceView
from isthmus.kernel.errors import KernelError
from isthmus.kube.events import EventRecorder
from isthmus.kube.reflector import Change
from isthmus.kube.schema import EndpointSlice, ObjectReference, Service
from isthmus.model.flow import Protocol
from isthmus.model.service import ServiceKey, Target
from isthmus.services.frontends import FrontendKey

MOST_NAMED = 20  # problems of one object in the log or in one Event
PAUSE = 0.1  # seconds between two look-throughs at least: what changes together is looked for together
AGAIN = (1.0, 8.0, 32.0)  # seconds from each look to the next: a process that is killed, a short grace, the usual one
REST = 4  # times as long as the last one took, so that a large conntrack table takes a fifth of one CPU at most

PROBLEM = "service has a problem"
MENDED = "service is well again"
FLUSHED = "stale connections forgotten"
NOT_FLUSHED = "stale connections cannot be looked for"

Stale = Mapping[FrontendKey, frozenset[Target]]
"""Frontends, and the targets that connections to them may have."""

Flush = Callable[[Stale], int]
"""Makes conntrack forget what leads astray, and returns how many entries; blocks. Raises KernelError."""

_log = structlog.get_logger()


class ServiceWatch:
    """Takes in what the watches say of Services, and does what follows from it besides the table."""

    def __init__(self, view: ServiceView, *, events: EventRecorder, registry: CollectorRegistry, flush: Flush) -> None:
        self.view = view
        self._events = events
        self._metrics = ServiceMetrics(registry)
        self._flush = flush
        self._due: set[FrontendKey] = set()  # not in the kernel yet
        self._next: dict[FrontendKey, frozenset[Target]] = {}
        self._stale: dict[FrontendKey, frozenset[Target]] = {}  # in the kernel, to be looked for
        self._looks: dict[FrontendKey, int] = {}  # how often each of those was looked for since it last changed
        self._wake = asyncio.Event()
        self._refusal = ""

    def on_services(self, change: Change[Service]) -> None:
        """Takes in a change of Services."""
        self._report(self.view.services(change))

    def on_slices(self, change: Change[EndpointSlice]) -> None:
        """Takes in a change of EndpointSlices."""
        self._report(self.view.slices(change))

    def recount(self, services: Iterable[ServiceKey]) -> None:
        """Takes in that other clusters' backends of these services came or went."""
        self._report(self.view.recount(services))

    def taken(self) -> None:
        """Says that the table, as it is now, is about to be written."""
        self._due |= self.view.compiler.take_stale()
        self._next = {key: self.view.compiler.rightful(key) for key in self._due}

    def written(self) -> None:
        """Says that the kernel holds what the table held at `taken`."""
        compiler = self.view.compiler
        self._metrics.services.set(len(compiler.services))
        self._metrics.frontends.set(len(compiler.frontends))
        self._metrics.backends.set(compiler.backends)
        self._metrics.faulty.set(self.view.faulty)
        if self._next:
            self._stale.update(self._next)
            self._looks.update(dict.fromkeys(self._next, 0))
            self._wake.set()
        self._due.clear()
        self._next = {}

    async def serve(self) -> None:
        """Looks for stale connections whenever there may be some; runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            stale, self._stale = self._stale, {}
            looks, self._looks = self._looks, {}
            began = loop.time()
            await self._forget(stale)
            for count, wait in enumerate(AGAIN):
                if keys := [key for key, before in looks.items() if before == count]:
                    loop.call_later(wait, self._look_again, keys, count + 1)
            await asyncio.sleep(max(PAUSE, REST * (loop.time() - began)))

    def _look_again(self, keys: list[FrontendKey], count: int) -> None:
        compiler = self.view.compiler
        for key in keys:
            if key not in self._stale:
                self._stale[key] = compiler.rightful(key) if key[1] == Protocol.UDP else compiler.chosen(key)
                self._looks[key] = count
        self._wake.set()

    async def _forget(self, stale: Stale) -> None:
        try:
            count = await asyncio.to_thread(self._flush, stale)
        except KernelError as error:
            self._metrics.flush_errors.inc()
            if str(error) != self._refusal:
                self._refusal = str(error)
                _log.error(NOT_FLUSHED, error=str(error))
            return
        self._refusal = ""
        self._metrics.flushed.inc(count)
        if count:
            _log.info(FLUSHED, connections=count, frontends=len(stale))

    def _report(self, reports: list[Report]) -> None:
        for report in reports:
            ref = report.ref
            about = ObjectReference(ref.kind, ref.namespace, ref.name, ref.uid)
            name = f"{ref.namespace}/{ref.name}"
            if not report.problems:
                _log.info(MENDED, kind=ref.kind, name=name)
                continue
            more = len(report.problems) - MOST_NAMED
            shown = [str(problem) for problem in report.problems[:MOST_NAMED]] + [f"and {more} more"] * (more > 0)
            _log.warning(PROBLEM, kind=ref.kind, name=name, problems=shown)
            self._events.emit(about, reason="NotServed", message="Left out: " + "; ".join(shown))
