"""A service of two clusters under events of every kind, with a client that asks it 500 times a second.

Events come in groups. While a group happens, an answer may come from any cluster that may answer before, during or
after it, and a request may fail only if something in the group takes pods or the way to them. Then the clusters come to
rest, and for a while exactly the right clusters answer and nothing fails, except for a reason that is written down in
tests/support/expectations.py.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.expectations import HERE, THERE, Setting
from tests.support.steady import Request, Steady, inside_network

from .conftest import Lab, new_lab, remove_lab

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster-mesh-lab"
EVENTS = int(os.environ.get("ISTHMUS_TEST_EVENTS", "30"))
GROUP = 5
RATE = 500.0
REST = 1.5  # seconds in which nothing but the right answers may come
MARGIN = 2.5  # seconds from the last sign that a group is over until that holds: detection, propagation, slow machines
LONGEST = 3.0  # seconds that a request may take on a machine that stands still now and then; its own limit is 1

CLUSTERS = {HERE: "koornacht", THERE: "tion"}
HEALTH = "jsonpath={.items[*].status.clusters[*].health}"
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: no-strangers}
spec:
  podSelector: {matchLabels: {name: rebel-base}}
  policyTypes: [Ingress]
  ingress:
  - from: [{namespaceSelector: {matchLabels: {cluster.clusterset.k8s.io: tion}}}]
"""


class World:
    """The two clusters, and how they are set now."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.now = Setting()
        self.unheard = False
        """Whether pods of THERE changed while HERE could not hear of it."""
        self.bare: set[str] = set()
        """Clusters that may be without a pod for a moment, although their Deployment wants some."""

    def kubectl(self, side: str, *args: str, input: str | None = None, check: bool = True) -> str:
        """Runs kubectl against a cluster and returns what it prints."""
        return self.lab.kubectl(CLUSTERS[side], *args, input=input, check=check).stdout

    def come_to_rest(self) -> None:
        """Waits until every component and both Deployments are as they should be, and no pod is on its way out."""
        self.lab.isthmus("lab", "status", "--wait", check=not self.now.parted)
        for side, of in ((HERE, self.now.here), (THERE, self.now.there)):
            self.kubectl(side, "rollout", "status", "deployment/rebel-base", "--timeout=60s")
            end = time.monotonic() + 60
            while len(self.kubectl(side, "get", "pods", "-l", "name=rebel-base", "-o", "name").split()) != of.pods:
                assert time.monotonic() < end, f"{side} has not {of.pods} pods"
        # After a partition nodes are trusted again when they have answered for as long as they were silent.
        end = time.monotonic() + 90
        while not self.now.parted and "Unreachable" in self.kubectl(HERE, "get", "meshnodes", "-o", HEALTH):
            assert time.monotonic() < end, "the clusters do not find to each other again"
            time.sleep(0.2)


Event = tuple[str, Callable[[World, random.Random], tuple[Setting, str]]]
"""Its name, and what does it: returns how things stand afterwards, and why requests may fail meanwhile ("" if not)."""


def scale(world: World, dice: random.Random) -> tuple[Setting, str]:
    side, pods = dice.choice([HERE, THERE]), dice.choice([0, 1, 2, 2, 3])
    world.kubectl(side, "scale", "deployment", "rebel-base", f"--replicas={pods}")
    of = world.now.here if side == HERE else world.now.there
    why = "pods went away" if pods < of.pods else ""
    world.unheard |= world.now.parted and side == THERE
    if not of.pods:
        world.bare.add(side)
    return world.now.with_side(side, pods=pods), why


def delete_pods(world: World, dice: random.Random) -> tuple[Setting, str]:
    side = dice.choice([HERE, THERE])
    world.kubectl(side, "delete", "pod", "-l", "name=rebel-base", "--grace-period=0", "--force", "--wait=false")
    world.unheard |= world.now.parted and side == THERE
    world.bare.add(side)
    return world.now, "pods were killed"


def kill(world: World, dice: random.Random) -> tuple[Setting, str]:
    running = world.lab.processes()
    kinds = ("agent", "tracker", "apiserver", "controllers", "node")
    victims = [key for key in running if key[0] in CLUSTERS.values() and key[1].startswith(kinds)]
    cluster, name = dice.choice(sorted(victims))
    os.kill(running[cluster, name], signal.SIGKILL)
    return world.now, ""


def part(world: World, dice: random.Random) -> tuple[Setting, str]:
    if world.now.parted:
        world.lab.isthmus("lab", "heal")
        unheard, world.unheard = world.unheard, False
        return replace(world.now, parted=False), "pods of before the partition" if unheard else ""
    world.lab.isthmus("lab", "partition", *CLUSTERS.values())
    return replace(world.now, parted=True), "the clusters were cut off from each other"


def share(world: World, dice: random.Random) -> tuple[Setting, str]:
    shared = not world.now.there.shared
    value = "shared-" if shared else "shared=false"
    world.kubectl(THERE, "annotate", "service", "rebel-base", f"service.cilium.io/{value}")
    return world.now.with_side(THERE, shared=shared), ""


def localise(world: World, dice: random.Random) -> tuple[Setting, str]:
    side = dice.choice([HERE, THERE])
    of = world.now.here if side == HERE else world.now.there
    value = str(not of.is_global).lower()
    world.kubectl(side, "annotate", "--overwrite", "service", "rebel-base", f"service.cilium.io/global={value}")
    return world.now.with_side(side, is_global=not of.is_global), ""


def prefer(world: World, dice: random.Random) -> tuple[Setting, str]:
    affinity = dice.choice(["none", "local", "remote"])
    key = f"service.cilium.io/affinity={affinity}"
    world.kubectl(HERE, "annotate", "--overwrite", "service", "rebel-base", key)
    return replace(world.now, affinity=affinity), ""


def weigh(world: World, dice: random.Random) -> tuple[Setting, str]:
    weights = f"isthmus.dev/weight=tion={dice.choice([10, 50, 100, 300])}"
    world.kubectl(HERE, "annotate", "--overwrite", "service", "rebel-base", weights)
    return world.now, ""


def drain(world: World, dice: random.Random) -> tuple[Setting, str]:
    word = "undrain" if world.now.drained else "drain"
    world.lab.isthmus("service", word, "tion", "--context", "lab-koornacht")
    return replace(world.now, drained=not world.now.drained), ""


def deny(world: World, dice: random.Random) -> tuple[Setting, str]:
    if world.now.denied:
        world.kubectl(THERE, "delete", "networkpolicy", "no-strangers")
        return replace(world.now, denied=False), ""
    world.kubectl(THERE, "apply", "-f", "-", input=DENY)
    return replace(world.now, denied=True), "a policy denied what was sent"


EVENTS_BY_WEIGHT: dict[Callable[[World, random.Random], tuple[Setting, str]], int] = {
    scale: 5, delete_pods: 2, kill: 4, part: 3, share: 3, localise: 1, prefer: 4, weigh: 2, drain: 3, deny: 2
}  # fmt: skip


@pytest.fixture(scope="module")
def world(kubectl_program: str) -> Iterator[World]:
    lab = new_lab()
    try:
        for name in CLUSTERS.values():
            lab.isthmus("lab", "create", name, "--nodes", "3")
        made = World(lab)
        for side, name in CLUSTERS.items():
            files = [f"configmap_{name}.yaml", "deployment.yaml", "service.yaml"]
            made.kubectl(side, "apply", *(word for file in files for word in ("-f", str(EXAMPLES / file))))
            made.kubectl(side, "annotate", "service", "rebel-base", "service.cilium.io/global=true")
        made.come_to_rest()
        for side in CLUSTERS:
            made.kubectl(side, "rollout", "status", "deployment/x-wing", "--timeout=60s")
        yield made
    finally:
        remove_lab(lab)


def test_every_failed_request_has_a_reason_and_none_goes_where_it_must_not(world: World) -> None:
    seed = int(os.environ.get("ISTHMUS_TEST_SEED", "0")) or random.randrange(1, 1_000_000)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    dice = random.Random(seed)
    address = world.kubectl(HERE, "get", "service", "rebel-base", "-o", "jsonpath={.spec.clusterIP}")
    namespace = world.kubectl(HERE, "exec", "deployments/x-wing", "--", "readlink", "/proc/self/ns/net").strip()
    periods: list[tuple[float, float, list[Setting], list[str], list[str]]] = []
    with Steady(inside_network(namespace), address, rate=RATE) as steady:
        time.sleep(REST)
        end = time.time()
        for _ in range(EVENTS // GROUP):
            began, settings, reasons, names = end, [world.now], [], []
            world.bare.clear()
            for _ in range(GROUP):
                event = dice.choices(list(EVENTS_BY_WEIGHT), list(EVENTS_BY_WEIGHT.values()))[0]
                world.now, why = _patiently(event, world, dice)
                settings += _ways(world.now, world.bare)
                reasons += [why] * bool(why)
                names.append(event.__name__)
                time.sleep(dice.uniform(0.0, 0.4))
            world.come_to_rest()
            time.sleep(MARGIN)
            calm = time.time()
            periods.append((began, calm, settings, reasons, names))
            time.sleep(REST)
            end = time.time()
            periods.append((calm, end, [world.now], [], ["rest"]))
        requests = steady.finish()

    problems = [problem for period in periods for problem in _problems(requests, *period)]
    asked = Counter(request.result for request in requests)
    print(dict(asked))  # noqa: T201
    assert not problems, f"seed {seed}\n" + "\n".join(problems[:40])
    assert max(request.took for request in requests) < LONGEST
    assert asked[HERE] and asked[THERE]


def _patiently(
    event: Callable[[World, random.Random], tuple[Setting, str]], world: World, dice: random.Random
) -> tuple[Setting, str]:
    """Does an event; an API server that was killed a moment ago is back soon."""
    state = dice.getstate()
    for _ in range(40):
        try:
            return event(world, dice)
        except pytest.fail.Exception as error:
            if "refused" not in str(error) and "reset" not in str(error) and "EOF" not in str(error):
                raise
            dice.setstate(state)
            time.sleep(0.25)
    return event(world, dice)


def _ways(setting: Setting, bare: set[str]) -> list[Setting]:
    """Returns a setting as it is, and with each choice of the clusters in `bare` without their pods."""
    ways = [setting]
    for side in bare:
        ways += [way.with_side(side, pods=0) for way in ways]
    return ways


def _problems(
    requests: list[Request], began: float, ended: float, settings: list[Setting], reasons: list[str], names: list[str]
) -> Iterator[str]:
    allowed = {cluster for setting in settings for cluster in setting.may_answer}
    excuses = [*reasons, *(setting.may_fail for setting in settings if setting.may_fail)]
    for request in requests:
        if not began <= request.began < ended:
            continue
        where = f"{request.began - began:.2f} s into {names} at {settings[-1]}"
        if request.failed:
            if not excuses:
                yield f"{request.result} {where}"
        elif request.result not in allowed:
            yield f"answer from {request.result} {where}"
    answers = {request.result for request in requests if began <= request.began < ended}
    if len(settings) == 1 and not settings[0].may_fail and answers != settings[0].may_answer:
        yield f"answers from {sorted(answers)} during {names} at {settings[0]}"
