"""`python -m benchmarks.churn [--pods N] [--cycles N] [--every SECONDS]`: pods come and go; nothing may stay behind.

Each cycle makes pods on all nodes of a lab of its own (six nodes in two clusters by default), waits until they are
ready, deletes them, waits until they are gone, and prints what the lab holds of the machine. The first cycle warms up;
from the second one on the counts must stay the same, which is what the last line says.
"""

import argparse
import asyncio
import sys
import time

from benchmarks.enforcement import FAR, NEAR, Lab
from benchmarks.footprint import Footprint, measure
from benchmarks.pods import NAMESPACE, PAUSE, WEB, Watched, pod, together
from isthmus.cli import logs
from isthmus.kube.client import Client
from isthmus.kube.resources import PODS

CLUSTERS = (NEAR, FAR)
SLACK = {"processes": 0, "network_namespaces": 0, "mounts": 0, "descriptors": 24, "files": 24, "pss": 40.0}
"""What may come and go by itself: kept connections, rotated logs, and memory (Events are held for an hour)."""


class SixNodes(Lab):
    """A lab of two clusters with `nodes` nodes each."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self._nodes = nodes

    def __enter__(self) -> "SixNodes":
        for name in CLUSTERS:
            self.isthmus("lab", "create", name, "--nodes", str(self._nodes))
        return self


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.churn", description=__doc__)
    parser.add_argument("--pods", type=int, default=100, help="pods of a cycle, over both clusters")
    parser.add_argument("--cycles", type=int, default=21)
    parser.add_argument("--nodes", type=int, default=3, help="nodes of each of the two clusters")
    parser.add_argument("--every", type=float, default=0.0, help="seconds from one cycle's beginning to the next's")
    options = parser.parse_args()
    logs.configure(level="warning")
    with SixNodes(options.nodes) as lab:
        states = asyncio.run(_churn(lab, pods=options.pods, cycles=options.cycles, every=options.every))
    leaks = _leaks(states)
    print("leaks: " + (", ".join(leaks) if leaks else "none"))
    return 1 if leaks else 0


async def _churn(lab: Lab, *, pods: int, cycles: int, every: float) -> list[Footprint]:
    states = []
    print("cycle  seconds  " + "  ".join(Footprint.__struct_fields__))
    async with lab.client(NEAR) as near, lab.client(FAR) as far:
        for cycle in range(cycles):
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for client in (near, far):
                    group.create_task(_cycle(client, cycle, pods // 2))
            state = await asyncio.to_thread(measure, lab.environ["ISTHMUS_STATE"])
            states.append(state)
            shown = "  ".join(f"{getattr(state, name):>{len(name)}.0f}" for name in Footprint.__struct_fields__)
            took = time.monotonic() - began
            print(f"{cycle:5}  {took:7.1f}  {shown}", flush=True)
            if cycle + 1 < cycles:
                await asyncio.sleep(max(every - took, 0.0))
    return states


async def _cycle(client: Client, cycle: int, count: int) -> None:
    watched = Watched()
    serving = asyncio.create_task(watched.serve(client))
    names = [f"churn-{cycle}-{number}" for number in range(count)]
    try:
        # Every tenth serves and is probed.
        await together(
            client.create(PODS, pod(name, WEB if index % 10 == 0 else PAUSE), type=dict, namespace=NAMESPACE)
            for index, name in enumerate(names)
        )
        await watched.wait(watched.ready, names, limit=300)
        await together(client.delete(PODS, name, namespace=NAMESPACE) for name in names)
        await watched.wait(watched.gone, names, limit=300)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def _leaks(states: list[Footprint]) -> list[str]:
    if len(states) < 3:
        return []
    first, last = states[1], states[-1]
    found = []
    for name, slack in SLACK.items():
        before, after = getattr(first, name), getattr(last, name)
        if after > before + slack:
            found.append(f"{name} {before:.0f} -> {after:.0f}")
    return found


if __name__ == "__main__":
    sys.exit(main())
