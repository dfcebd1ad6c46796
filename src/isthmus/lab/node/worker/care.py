"""Care for running containers: their hooks, their probes, their ends.

Invariants: each run has one task that learns of its end; probes and hooks of a run end with it; a container is ready
when its program listens (what the lab's own programs need to begin), its postStart hook has succeeded, and its
readiness probe, if there is one, has too.
"""

import asyncio
import time
from collections.abc import Coroutine

import msgspec

from isthmus.lab.images.catalog import UnknownImage, served_ports
from isthmus.lab.node.containers.message import termination_message
from isthmus.lab.node.containers.process import listening_ports
from isthmus.lab.node.containers.run import UNKNOWN_EXIT, Run
from isthmus.lab.node.environment.variables import ConfigError
from isthmus.lab.node.pods.container import Container, Handler, Probe
from isthmus.lab.node.pods.lifecycle import after_exit
from isthmus.lab.node.pods.record import Ended, Record
from isthmus.lab.node.pods.status import container_id
from isthmus.lab.node.probes.machine import Kind, Verdict
from isthmus.lab.node.probes.perform import Answer, CommandFailed, handler_probe
from isthmus.lab.node.probes.prober import Prober
from isthmus.lab.node.sessions.command import CommandError, run_command
from isthmus.lab.node.worker.launch import FailedStart, Launched, command_spec
from isthmus.lab.node.worker.state import PodState

SERVE_LIMIT = 15.0
"""Seconds that a server program may take until it listens; after that it counts as ready all the same."""
EXPOSED_LIMIT = 3.0
"""The same for a program of which only the image says that it listens, somewhere."""
PROBED_LIMIT = 1.0
"""The same for a program that is probed: the probe decides in the end."""
_SERVE_PAUSE = 0.02
_KEPT_RUNS = 2
"""Logs of this many runs stay: the current one and the one before, for `kubectl logs --previous`."""
SHORTEST_GRACE = 2.0
"""Seconds that a container has after its preStop hook used up its grace period, as kubelets give it."""


class Care:
    """Cares for the containers of one pod; `close` lets go of them without ending them."""

    def __init__(self, state: PodState) -> None:
        self._state = state
        self._probers: dict[str, Prober] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Ends all tasks."""
        for prober in self._probers.values():
            prober.close()
        for task in self._tasks:
            task.cancel()

    def began(self, container: Container, launched: Launched) -> None:
        """Takes on a new run."""
        state = self._state
        self._follow(container, launched.run)
        self._spawn(self._begin(container, launched))
        state.place.container(container.name, state.records[container.name].attempt - _KEPT_RUNS).remove()

    def adopted(self, container: Container, run: Run) -> None:
        """Takes on a run that an earlier process of this node began."""
        self._follow(container, run)
        record = self._state.records[container.name]
        self._probe(container, run, record, started=record.started)
        if not record.started and container.startupProbe is None:
            self._started(container, run)

    def failed(self, container: Container, failure: FailedStart) -> None:
        """Notes a run that ended before it began."""
        self.ended(container, failure.record, code=128, reason="StartError", message=str(failure))

    def ended(
        self, container: Container, record: Record, *, code: int | None, reason: str = "", message: str = ""
    ) -> None:
        """Notes the end of a run; None is an end that nobody saw."""
        state = self._state
        now = time.time()
        if code is None:
            code, reason = UNKNOWN_EXIT, "ContainerStatusUnknown"
            message = "The container could not be located when the pod was terminated"
        ended = Ended(
            exit_code=code,
            started_at=record.started_at or now,
            finished_at=now,
            reason=reason,
            message=message,
            container_id=container_id(state.pod, container, record.attempt),
        )
        after = after_exit(state.pod, container, record, ended=ended)
        state.put(after)
        if after.failures > 1 and not state.ending:
            meta = state.pod.metadata
            where = f"{meta.name}_{meta.namespace}({meta.uid})"
            text = f"Back-off restarting failed container {container.name} in pod {where}"
            state.tell("BackOff", text, type="Warning", container=container)
        state.wake.set()

    async def stop(self, name: str, *, grace: float, message: str = "") -> None:
        """Ends a container: preStop hook, SIGTERM, SIGKILL when `grace` seconds are over. Returns when it has ended."""
        state = self._state
        run = state.runs.get(name)
        if run is None or run.stopping:
            return
        run.stopping = True
        container = state.container(name)
        if (prober := self._probers.pop(name, None)) is not None:
            prober.close()
        state.tell("Killing", message or f"Stopping container {name}", container=container)
        deadline = time.monotonic() + grace
        hook = container.lifecycle.preStop
        if hook is not None and grace > 0:
            if not await self._hook(container, run, hook, limit=grace):
                state.tell("FailedPreStopHook", "PreStopHook failed", type="Warning", container=container)
            await run.stop(grace=max(deadline - time.monotonic(), SHORTEST_GRACE))
        else:
            await run.stop(grace=grace)

    def _follow(self, container: Container, run: Run) -> None:
        self._state.runs[container.name] = run
        self._state.outputs[container.name] = run.output
        self._spawn(self._await_end(container, run))

    async def _await_end(self, container: Container, run: Run) -> None:
        code = await run.wait()
        state = self._state
        if state.runs.get(container.name) is run:
            del state.runs[container.name]
        if (prober := self._probers.pop(container.name, None)) is not None:
            prober.close()
        record = state.records[container.name]
        files = state.place.container(container.name, record.attempt)
        message = termination_message(container, files, exit_code=UNKNOWN_EXIT if code is None else code)
        files.tidy()
        self.ended(container, record, code=code, message=message)

    async def _begin(self, container: Container, launched: Launched) -> None:
        run = launched.run
        hook = container.lifecycle.postStart
        if hook is not None and not await self._hook(container, run, hook, limit=None):
            state = self._state
            state.tell("FailedPostStartHook", "PostStartHook failed", type="Warning", container=container)
            await self.stop(container.name, grace=self._grace(), message="FailedPostStartHook")
            return
        await self._until_serving(container, launched)
        record = self._current(container, run)
        if record is None:
            return
        self._probe(container, run, record, started=False)
        if container.startupProbe is None:
            self._started(container, run)

    async def _until_serving(self, container: Container, launched: Launched) -> None:
        """Waits until a server program listens.

        The lab's programs take a tenth of a second for what takes the real ones a millisecond: without this their
        first probe would come too early, and the second one only after its period.
        """
        ports, limit = _expected_ports(container, launched)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            pid = launched.run.pid
            if pid is None:
                return
            found = listening_ports(pid)
            if ports <= found and found:
                return
            await asyncio.sleep(_SERVE_PAUSE)

    def _started(self, container: Container, run: Run) -> None:
        record = self._current(container, run)
        if record is not None:
            ready = container.readinessProbe is None
            self._state.put(msgspec.structs.replace(record, started=True, ready=ready))
            self._state.wake.set()

    def _probe(self, container: Container, run: Run, record: Record, *, started: bool) -> None:
        async def ask(probe: Probe) -> Answer:
            return await self._ask(probe, container, run)

        prober = Prober(
            container,
            began=record.started_at,
            ask=ask,
            decide=lambda kind, verdict: self._decided(container, run, kind, verdict),
            tell=lambda text: self._state.tell("Unhealthy", text, type="Warning", container=container),
        )
        self._probers[container.name] = prober
        prober.start(started=started, ready=record.ready)

    def _decided(self, container: Container, run: Run, kind: Kind, verdict: Verdict) -> None:
        record = self._current(container, run)
        if record is None:
            return
        state = self._state
        match verdict:
            case Verdict.STARTED:
                self._started(container, run)
            case Verdict.READY | Verdict.UNREADY:
                state.put(msgspec.structs.replace(record, ready=verdict is Verdict.READY))
                state.wake.set()
            case Verdict.KILL:
                probe = container.startupProbe if kind is Kind.STARTUP else container.livenessProbe
                own = None if probe is None else probe.terminationGracePeriodSeconds
                text = f"Container {container.name} failed {kind.value.lower()} probe, will be restarted"
                state.put(msgspec.structs.replace(record, ready=False))
                self._spawn(self.stop(container.name, grace=self._grace() if own is None else own, message=text))

    async def _ask(self, probe: Probe, container: Container, run: Run) -> Answer:
        ips = self._state.ips

        async def command(words: tuple[str, ...], limit: float | None) -> tuple[int, str]:
            try:
                spec = await command_spec(self._state, container, words)
                return await run_command(self._state.context.keeper, run.process, spec, limit=limit)
            except (CommandError, ConfigError, UnknownImage) as error:
                raise CommandFailed(str(error)) from error

        return await self._state.context.asker.ask(probe, container, pod_ip=ips[0] if ips else "127.0.0.1", run=command)

    async def _hook(self, container: Container, run: Run, handler: Handler, *, limit: float | None) -> bool:
        """Performs a hook, at most `limit` seconds; tells whether it succeeded."""
        try:
            async with asyncio.timeout(limit):
                if handler.sleep is not None:
                    await asyncio.sleep(handler.sleep.seconds)
                    return True
                probe = handler_probe(handler)
                if limit is None or limit > 1:
                    # A hook has no time-out of its own: the grace period or the life of the run is its bound.
                    probe = msgspec.structs.replace(probe, timeoutSeconds=int(limit or 24 * 3600))
                answer = await self._ask(probe, container, run)
        except TimeoutError:
            return False
        if not answer.ok:
            self._state.log.info("hook failed", container=container.name, reason=answer.text[:500])
        return answer.ok

    def _grace(self) -> float:
        return float(self._state.pod.spec.terminationGracePeriodSeconds)

    def _current(self, container: Container, run: Run) -> Record | None:
        """The record of a run that is still the container's."""
        record = self._state.records.get(container.name)
        return record if record is not None and record.process == run.process and not run.stopping else None

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _expected_ports(container: Container, launched: Launched) -> tuple[set[int], float]:
    """Returns the TCP ports that a program will listen on (none: any), and how many seconds to wait for that."""
    probe = container.startupProbe or container.readinessProbe
    if probe is not None:
        wanted = [action.port for action in (probe.httpGet, probe.tcpSocket, probe.grpc) if action is not None]
        ports = {number for port in wanted if (number := container.port(port)) is not None}
        return ports, PROBED_LIMIT if ports else 0.0
    known = set(served_ports(launched.argv))
    if known:
        return known, SERVE_LIMIT
    return set(), EXPOSED_LIMIT if launched.image.ports and not container.command else 0.0
