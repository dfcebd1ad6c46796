"""Any JSON at all as a NetworkPolicy: never an exception, never an opening that a sound policy would not have had."""

from copy import deepcopy

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.model.endpoint import Endpoint
from isthmus.model.flow import Flow
from isthmus.model.identity import Identity
from isthmus.policy.evaluate import evaluate
from isthmus.policy.networkpolicy import parse
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.interpreter import Packet, passes
from isthmus.ruleset.text import replacement
from tests.support import worlds as w

json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 70000)
    | st.text(max_size=8)
    | st.sampled_from(["Ingress", "10.0.0.0/8"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["podSelector", "ingress", "egress", "from", "to", "ports", "port", "ipBlock", "cidr", "x"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)

SOUND = {
    "podSelector": {},
    "policyTypes": ["Ingress"],
    "ingress": [
        {
            "from": [{"podSelector": {"matchLabels": {"app": "a"}}}],
            "ports": [{"port": 80}, {"port": 90, "endPort": 92}],
        },
        {"from": [{"ipBlock": {"cidr": "10.2.0.0/24", "except": ["10.2.0.10/32"]}}], "ports": [{"port": 81}]},
    ],
}


@settings(max_examples=200, deadline=None)
@given(json)
def test_any_spec_is_read_and_compiles_to_text(spec):
    policy = parse({"metadata": {"name": "p", "namespace": "x"}, "spec": spec}, cluster="east")
    world = w.World("east", policies={policy.ref: policy})
    world.pods["x/a"] = w.LocalPod("x", "a", "", {}, ("10.1.0.10",))

    assert replacement(Compiler(world).table.whole()).isascii()


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


# One that the sound policy means and one that it does not, for each of its peers.
SOURCES = ("10.1.0.11", "10.1.0.12", "10.2.0.20", "10.2.0.10", "198.51.100.7")
PORTS = (80, 81, 82, 91)

# What selects peers more widely when it is emptied is a sound policy again: only unsound values are put in.
UNSOUND = st.sampled_from([0, -1, 3.5, True, "no such thing", ["x"], {"unknown": 1}, [None], "10.0.0.0/99"])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([p for p in _places(SOUND) if p and p[0] != "podSelector"]), UNSOUND)
def test_one_unsound_value_never_lets_through_what_the_sound_policy_drops(place, value):
    spec = deepcopy(SOUND)
    target = spec
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    verdicts = []
    for one in (SOUND, spec):
        policy = parse({"metadata": {"name": "p", "namespace": "x"}, "spec": one}, cluster="east")
        world = w.World("east", policies={policy.ref: policy})
        world.pods["x/a"] = w.LocalPod("x", "a", "", {}, ("10.1.0.10",))
        for number, (ip, app) in enumerate({"10.1.0.11": "a", "10.1.0.12": "b"}.items(), start=0x10100):
            world.identities[number] = Identity(number, "east", "x", {"app": app}, {})
            world.endpoints[ip] = Endpoint("east", ip, number, "x", app)
        flows = [Flow(ip, "10.1.0.10", protocol, port) for ip in SOURCES for protocol in (6, 17) for port in PORTS]
        table = Compiler(world).table
        for flow in flows:
            assert passes(table, Packet(flow)) is evaluate(world, flow).allowed
        verdicts.append([evaluate(world, flow).allowed for flow in flows])

    assert any(verdicts[0]) and not all(verdicts[0])
    opened = [flow for flow, before, after in zip(flows, *verdicts, strict=True) if after and not before]
    assert not opened, (place, value)
