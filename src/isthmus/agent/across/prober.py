"""Probing of nodes at work: `liveness` decides, sockets of `kernel.connects` try. Nothing runs while nobody is watched.

Invariant: what the kernel has is collected before anyone is judged, so a loop that was busy sees the answers that came
meanwhile. No answer is waited for by anyone: outcomes wake the loop, and a timer ticks.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from isthmus.agent.across.liveness import Health, Liveness, Place
from isthmus.agent.metrics import ProbeMetrics
from isthmus.kernel.connects import Connects, Outcome

MOST_SAID = 20  # different reasons why probes are not possible; the metric counts on

UNABLE = "nodes cannot be probed"

_log = structlog.get_logger()


class Prober:
    """Probes TCP `port` of nodes for an agent of cluster `own`. `on_changes` hears of changes, all of a turn at once.

    Run `serve` in a task.
    """

    def __init__(
        self,
        *,
        port: int,
        own: str,
        on_changes: Callable[[Sequence[tuple[Place, Health]]], None],
        metrics: ProbeMetrics | None = None,
    ) -> None:
        self.liveness = Liveness(lambda place, health: self._changes.append((place, health)), own=own)
        self._changes: list[tuple[Place, Health]] = []
        self._on_changes = on_changes
        self._port = port
        self._metrics = metrics
        self._connects: Connects | None = None
        self._wake = asyncio.Event()
        self._said: set[str] = set()

    def watch(self, wanted: Mapping[Place, str], *, crowd: int) -> None:
        """Watches these places at these addresses and no others; `crowd` agents may do the same."""
        self.liveness.crowd = crowd
        for number in self.liveness.watch(wanted, now=asyncio.get_running_loop().time()):
            if self._connects is not None:
                self._connects.drop(number)
        self._wake.set()
        self._deliver()

    def recall(self, nodes: Iterable[tuple[str, str]]) -> None:
        """Says which nodes an earlier run knew to answer."""
        self.liveness.recall(nodes)
        self._deliver()

    async def serve(self) -> None:
        """Probes until cancelled; leaves no descriptor open."""
        loop = asyncio.get_running_loop()
        self._connects = Connects()
        try:
            loop.add_reader(self._connects.fileno(), self._on_readable)
            while True:
                due = self.liveness.next_tick
                if due is None:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                await asyncio.sleep(due - loop.time())
                self._turn(loop.time)
                self._deliver()
        finally:
            loop.remove_reader(self._connects.fileno())
            self._connects.close()
            self._connects = None

    def _turn(self, clock: Callable[[], float]) -> None:
        self._harvest()
        turn = self.liveness.tick(clock())
        connects = self._connects
        if connects is None:
            return
        for number in turn.drop:
            connects.drop(number)
        if self._metrics is not None and turn.drop:
            self._metrics.probes.labels(Outcome.MISSED.value).inc(len(turn.drop))
        for probe in turn.start:
            outcome = connects.start(probe.number, probe.address, self._port)
            if outcome is not None:
                self._tell(probe.number, outcome, clock())

    def _on_readable(self) -> None:
        self._harvest()
        self._deliver()

    def _deliver(self) -> None:
        if self._changes:
            changes, self._changes = self._changes, []
            self._on_changes(changes)

    def _harvest(self) -> None:
        if self._connects is None:
            return
        found = self._connects.harvest()
        if found:
            now = asyncio.get_running_loop().time()
            for number, outcome in found:
                self._tell(number, outcome, now)

    def _tell(self, number: int, outcome: Outcome, now: float) -> None:
        if self._metrics is not None:
            self._metrics.probes.labels(outcome.value).inc()
        match outcome:
            case Outcome.ANSWERED:
                self.liveness.answered(number, now=now)
            case Outcome.MISSED:
                self.liveness.missed(number, now=now)
            case Outcome.UNABLE:
                self.liveness.unable(number)
                trouble = self._connects.error if self._connects is not None else ""
                if trouble not in self._said and len(self._said) < MOST_SAID:
                    self._said.add(trouble)
                    _log.warning(UNABLE, error=trouble)
