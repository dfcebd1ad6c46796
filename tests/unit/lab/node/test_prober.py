"""When a container is probed, in virtual time."""

import asyncio

import pytest

from isthmus.lab.node.pods.container import Container, ExecAction, Probe
from isthmus.lab.node.probes.machine import Kind, Verdict
from isthmus.lab.node.probes.perform import Answer
from isthmus.lab.node.probes.prober import Prober

pytestmark = pytest.mark.looptime


class World:
    """A container whose health is a variable; notes who asked when, and what was decided."""

    def __init__(self) -> None:
        self.healthy = {"startup": True, "liveness": True, "readiness": True}
        self.asked: list[tuple[float, str]] = []
        self.decided: list[tuple[float, Kind, Verdict]] = []
        self.told: list[str] = []

    async def ask(self, probe: Probe) -> Answer:
        assert probe.command is not None
        (name,) = probe.command.command
        self.asked.append((self.now(), name))
        return Answer(ok=self.healthy[name], text="no")

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def prober(self, **probes: Probe) -> Prober:
        return Prober(
            Container(name="c", **{f"{name}Probe": probe for name, probe in probes.items()}),
            began=self.now(),
            ask=self.ask,
            decide=lambda kind, verdict: self.decided.append((self.now(), kind, verdict)),
            tell=self.told.append,
            now=self.now,
        )


def probe(name: str, **settings: int) -> Probe:
    return Probe(command=ExecAction(command=(name,)), **settings)


async def test_others_wait_for_the_startup_probe_and_then_for_their_own_delay() -> None:
    world = World()
    world.healthy["startup"] = False
    prober = world.prober(
        startup=probe("startup", periodSeconds=2, failureThreshold=10),
        readiness=probe("readiness", periodSeconds=5, initialDelaySeconds=3),
    )
    began = world.now()
    prober.start(started=False, ready=False)
    await asyncio.sleep(3)
    world.healthy["startup"] = True
    await asyncio.sleep(4)
    prober.close()
    assert [(round(at - began), name) for at, name in world.asked] == [
        (0, "startup"), (2, "startup"), (4, "startup"), (4, "readiness"),
    ]  # fmt: skip
    assert [verdict for _at, _kind, verdict in world.decided] == [Verdict.STARTED, Verdict.READY]
    assert world.told == ["Startup probe failed: no", "Startup probe failed: no"]


async def test_a_sick_container_is_killed_once_and_asked_no_more() -> None:
    world = World()
    world.healthy["liveness"] = False
    prober = world.prober(liveness=probe("liveness", periodSeconds=1, failureThreshold=2))
    prober.start(started=False, ready=False)
    await asyncio.sleep(30)
    prober.close()
    assert [verdict for _at, _kind, verdict in world.decided] == [Verdict.KILL]
    assert len(world.asked) == 2


async def test_after_a_restart_of_the_node_what_was_ready_can_become_unready() -> None:
    world = World()
    world.healthy["readiness"] = False
    prober = world.prober(startup=probe("startup"), readiness=probe("readiness", periodSeconds=1, failureThreshold=1))
    prober.start(started=True, ready=True)
    await asyncio.sleep(0.5)
    prober.close()
    assert [(kind, verdict) for _at, kind, verdict in world.decided] == [(Kind.READINESS, Verdict.UNREADY)]
    assert [name for _at, name in world.asked] == ["readiness"]
