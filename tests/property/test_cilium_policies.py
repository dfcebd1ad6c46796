"""Cilium policies drawn at random: our rules say what a second reading of the raw objects says, and why."""

from functools import cache
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.flow import Flow, Protocol
from isthmus.model.identity import FIRST_NODE, HOST, KUBE_APISERVER, Identity
from isthmus.model.labels import stamp
from isthmus.policy.context import CidrGroup, Context, Parsed
from isthmus.policy.evaluate import Reason, evaluate
from isthmus.policy.parsing import read
from isthmus.policy.rules import Grade, Scope
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from tests.support import cilium_reading as second
from tests.support.corpus import at, places, replaced

SPACES = {"prod": {"env": "prod"}, "default": {}}
GROUPS = {name: CidrGroup(name, labels, cidrs) for name, (cidrs, labels) in second.GROUPS.items()}
WHY = {Reason.DENIED: "explicit", Reason.DEFAULT_DENY: "default-deny"}
SEEDS = st.integers(0, 2**32)


@cache
def mesh() -> World:
    """Returns the world of the one node of the own cluster, without policies."""
    made = World(second.HERE)
    for count, pod in enumerate(second.PODS):
        number = (0x10100 if pod.cluster == second.HERE else 0x20100) + count
        space = SPACES[pod.namespace]
        named = tuple(NamedPort(name, port, Protocol(protocol).name) for name, (protocol, port) in pod.named.items())
        made.identities[number] = Identity(number, pod.cluster, pod.namespace, dict(pod.plain), space)
        made.endpoints[pod.ip] = Endpoint(pod.cluster, pod.ip, number, pod.namespace, str(count), named_ports=named)
        if pod.cluster == second.HERE:
            labels = stamp(pod.plain, cluster=pod.cluster)
            local = LocalPod(pod.namespace, str(count), "", labels, (pod.ip,), named, namespace_labels=space)
            made.pods[local.key] = local
    made.nodes[second.API_SERVER.ip] = KUBE_APISERVER
    for count, node in enumerate(second.NODES):
        words = tuple(sorted(label.removeprefix("reserved:") for label in node.labels))
        number = FIRST_NODE + count if "host" not in words else HOST
        made.identities[number] = Identity(number, node.cluster, "", dict(node.plain), {}, reserved=words)
        if number == HOST:
            made.node_addresses = frozenset({node.ip})
        else:
            made.nodes[node.ip] = number
    return made


def world(objects: list[dict[str, Any]], scope: Scope) -> World:
    """Returns the mesh with valid objects in force."""
    read_all = [read(obj, Context(second.HERE, scope, GROUPS)) for obj in objects]
    assert all(parsed.valid for parsed in read_all), [parsed.problems for parsed in read_all]
    return made_of(*read_all)


def made_of(*parsed: Parsed) -> World:
    """Returns the mesh with objects in force, as they were read."""
    old = mesh()
    return World(
        old.cluster,
        {policy.ref: policy for one in parsed for policy in one.policies},
        old.pods,
        old.identities,
        old.endpoints,
        old.node_addresses,
        nodes=old.nodes,
    )


def judged(made: World, asked: second.Asked) -> tuple[str, str]:
    halves = evaluate(made, Flow(asked.source.ip, asked.target.ip, asked.protocol, asked.port)).halves
    refused = [half for half in halves if not half.allowed]
    return (refused[0].direction.value, WHY[refused[0].reason]) if refused else ("allow", "")


@settings(max_examples=400, deadline=None)
@given(SEEDS, st.sampled_from(list(Scope)))
def test_two_readings_of_the_same_objects_say_the_same(seed: int, scope: Scope):
    rng = Random(seed)
    objects = [second.policy(rng, f"p{number}") for number in range(rng.randint(1, 4))]
    made = world(objects, scope)
    for _ in range(40):
        asked = second.asked(rng)

        assert judged(made, asked) == second.verdict(objects, asked, local=scope is Scope.LOCAL), (objects, asked)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_rules_of_one_object_mean_what_they_mean_as_objects_of_their_own(seed: int):
    rng = Random(seed)
    rules = [second.rule(rng) for _ in range(rng.randint(2, 4))]
    head = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}
    place = {"namespace": rng.choice(("default", "prod"))}
    apart = world(
        [{**head, "metadata": {"name": f"p{n}", **place}, "spec": one} for n, one in enumerate(rules)], Scope.LOCAL
    )
    rng.shuffle(rules)
    together = world([{**head, "metadata": {"name": "p", **place}, "spec": rules[0], "specs": rules[1:]}], Scope.LOCAL)

    for _ in range(40):
        asked = second.asked(rng)
        assert judged(apart, asked) == judged(together, asked), (rules, asked)


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from(list(Scope)))
def test_the_compiled_rules_say_the_same(seed: int, scope: Scope):
    rng = Random(seed)
    objects = [second.policy(rng, f"p{number}") for number in range(rng.randint(1, 4))]
    made = world(objects, scope)
    table = Compiler(made).table
    for _ in range(40):
        asked = second.asked(rng)
        flow = Flow(asked.source.ip, asked.target.ip, asked.protocol, asked.port)
        opened, reached = (ip in made.node_addresses for ip in (flow.source, flow.destination))
        answer, _ = second.verdict(objects, asked, local=scope is Scope.LOCAL)

        assert passes(table, Packet(flow, from_node=opened, to_node=reached)) is (answer == "allow"), (objects, asked)


UNSOUND: tuple[object, ...] = (-1, 3.5, True, "no such thing!", ["x"], {"unknown": 1}, [None], "10.0.0.0/99", 10**40)
NARROWER: tuple[tuple[str, object], ...] = (
    ("authentication", {"mode": "required"}),
    ("fromRequires", [{"matchLabels": {"app": "a"}}]),
    ("toRequires", [{"matchLabels": {"app": "a"}}]),
    ("rules", {"http": [{"path": "/"}]}),
    ("serverNames", ["example.com"]),
    ("listener", {"name": "proxy"}),
    ("unknown", {}),
)
RULES: dict[str | int, int] = {"spec": 1, "specs": 2}
"""How deep in an object its rules are."""
ALLOWING = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumClusterwideNetworkPolicy",
    "metadata": {"name": "all"},
    "spec": {"endpointSelector": {}, "ingress": [{"fromEntities": ["all"]}], "egress": [{"toEntities": ["all"]}]},
}


@settings(max_examples=400, deadline=None)
@given(SEEDS, st.sampled_from(list(Scope)), st.booleans())
def test_what_is_spoiled_or_not_enforced_lets_through_nothing_that_the_policy_drops(
    seed: int, scope: Scope, beside: bool
):
    """One thing in a valid policy is made unsound, or one condition more is added that we cannot keep.

    Where that is a problem of the object, and none that only warns, every connection that the policy drops is dropped
    still: alone (it isolates as it did), and beside a policy that allows everything (no denial is lost). What is left
    valid is another policy, of which nothing is said here; and a rule of which nothing can be read only isolates.
    """
    rng = Random(seed)
    obj = second.policy(rng, "p")
    inside = [place for place in places(obj) if place and len(place) > RULES.get(place[0], len(place))]
    place = rng.choice(inside)
    if rng.random() < 0.7 or not isinstance(at(obj, place), dict):
        spoiled = replaced(obj, place, rng.choice(UNSOUND))
    else:
        field, value = rng.choice(NARROWER)
        spoiled = replaced(obj, (*place, field), value)
    context = Context(second.HERE, scope, GROUPS)
    parsed = read(spoiled, context)
    if all(problem.grade is Grade.WARNING for problem in parsed.problems):
        return
    others = (ALLOWING,) if beside else ()
    sound, unsound = (made_of(one, *(read(other, context) for other in others)) for one in (read(obj, context), parsed))
    for _ in range(60):
        asked = second.asked(rng)
        if judged(sound, asked)[0] != "allow":
            assert judged(unsound, asked)[0] != "allow", (spoiled, asked, list(map(str, parsed.problems)))


def test_the_second_reading_finds_every_kind_of_answer():
    rng = Random(1)
    found: dict[tuple[str, str], int] = {}
    for _ in range(300):
        objects = [second.policy(rng, f"p{number}") for number in range(2)]
        for _ in range(10):
            answer = second.verdict(objects, second.asked(rng), local=True)
            found[answer] = found.get(answer, 0) + 1

    assert len(found) == 5
    assert min(found.values()) > 50
