"""The probes of one run of a container, each in a task: asks when the machine says so, tells what follows.

A task sleeps between two questions, so a hundred probed pods cost what their answers cost.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from isthmus.lab.node.pods.container import Container, Probe
from isthmus.lab.node.probes.machine import Kind, ProbeMachine, Verdict
from isthmus.lab.node.probes.perform import Answer

Ask = Callable[[Probe], Awaitable[Answer]]
Decide = Callable[[Kind, Verdict], None]
Tell = Callable[[str], None]
"""Takes the message of an `Unhealthy` event."""


class Prober:
    """Probes a container until `close`; `began` is when its run began (in the seconds of `now`)."""

    def __init__(
        self,
        container: Container,
        *,
        began: float,
        ask: Ask,
        decide: Decide,
        tell: Tell,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._container = container
        self._began = began
        self._ask = ask
        self._decide = decide
        self._tell = tell
        self._now = now
        self._started = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, started: bool, ready: bool) -> None:
        """Begins; `started` says that the startup probe has passed already, `ready` that the readiness probe has."""
        if started or self._container.startupProbe is None:
            self._started.set()
        for kind, probe in (
            (Kind.STARTUP, None if started else self._container.startupProbe),
            (Kind.LIVENESS, self._container.livenessProbe),
            (Kind.READINESS, self._container.readinessProbe),
        ):
            if probe is not None:
                self._tasks.append(asyncio.create_task(self._probe(kind, probe, ready=ready)))

    def close(self) -> None:
        """Ends all probes."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    async def _probe(self, kind: Kind, probe: Probe, *, ready: bool) -> None:
        if kind is not Kind.STARTUP:
            # Until the startup probe has passed; its failure ends the run, and us with it.
            await self._started.wait()
        machine = ProbeMachine(kind, probe, began=self._began, ready=ready)
        while not machine.over:
            await asyncio.sleep(max(machine.due - self._now(), 0.0))
            asked_at = self._now()
            answer = await self._ask(probe)
            if not answer.ok:
                self._tell(_said(kind, answer))
            verdict = machine.answered(answer.ok, now=asked_at)
            if verdict is Verdict.STARTED:
                self._started.set()
            if verdict is not Verdict.NOTHING:
                self._decide(kind, verdict)


def _said(kind: Kind, answer: Answer) -> str:
    if answer.error:
        return f"{kind.value} probe errored and resulted in unknown state: {answer.text}"
    return f"{kind.value} probe failed: {answer.text}"
