"""Filing selectors and identities by handles finds every match."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.identity import Identity
from isthmus.model.labels import CLUSTERSET_CLUSTER, NAMESPACE_NAME
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.networkpolicy import parse
from isthmus.policy.rules import PodPeer
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.handles import of_identity, of_peer

_values = st.sampled_from(["a", "b", "east"])
_keys = st.sampled_from(["app", "tier", NAMESPACE_NAME, CLUSTERSET_CLUSTER])
_terms = st.one_of(
    st.builds(lambda k, v: Term(k, Operator.IN, tuple(sorted(v))), _keys, st.sets(_values, min_size=1)),
    st.builds(lambda k, v: Term(k, Operator.NOT_IN, (v,)), _keys, _values),
    st.builds(Term, _keys, st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])),
)
_selectors = st.lists(_terms, max_size=2).map(lambda terms: Selector.of(*terms))
_labels = st.dictionaries(_keys, _values, max_size=3)


@given(
    st.builds(PodPeer, _selectors, _selectors, st.sampled_from(["", "a"]), st.sampled_from(["", "east"])),
    st.builds(Identity, st.just(256), st.sampled_from(["east", "west"]), _values, _labels, _labels),
)
def test_whoever_match_share_a_handle(peer: PodPeer, identity: Identity):
    if peer.matches(identity):
        assert set(of_peer(peer)) & set(of_identity(identity))


def test_a_selector_is_tried_on_those_identities_only_that_share_a_label(monkeypatch):
    tried = []
    matches = PodPeer.matches
    monkeypatch.setattr(PodPeer, "matches", lambda peer, identity: tried.append(1) or matches(peer, identity))
    compiler = Compiler(World("east"))
    for n in range(100):
        compiler.put_identity(Identity(0x10100 + n, "east", "x", {"app": f"a{n}"}, {}))
    compiler.put_pod(LocalPod("x", "p", "", {}, ("10.1.0.1",)))
    peers = [{"podSelector": {"matchLabels": {"app": f"a{n}"}}} for n in range(100)]
    spec = {"podSelector": {}, "ingress": [{"from": peers}]}
    compiler.put_policy(parse({"metadata": {"namespace": "x", "name": "p"}, "spec": spec}, cluster="east"))
    compiler.put_identity(Identity(0x10100, "east", "x", {"app": "a1"}, {}))

    assert len(tried) == 100 + 2 + 2  # and the subject of the policy, on the pod


def test_port_names_are_resolved_for_those_addresses_only_that_a_selector_could_mean(monkeypatch):
    compiler = Compiler(World("east"))
    for n in range(100):
        compiler.put_identity(Identity(0x10100 + n, "east", "x", {"app": f"a{n}"}, {}))
        ip = f"10.2.0.{n}"
        compiler.put_endpoint(Endpoint("east", ip, 0x10100 + n, "x", "p", named_ports=(NamedPort("http", 80),)))
    compiler.put_pod(LocalPod("x", "p", "", {}, ("10.1.0.1",)))
    tried = []
    matches = PodPeer.matches
    monkeypatch.setattr(PodPeer, "matches", lambda peer, identity: tried.append(1) or matches(peer, identity))
    peers = [{"podSelector": {"matchLabels": {"app": f"a{n}"}}} for n in range(100)]
    spec = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers, "ports": [{"port": "http"}]}]}
    compiler.put_policy(parse({"metadata": {"namespace": "x", "name": "p"}, "spec": spec}, cluster="east"))

    (gate,) = compiler.gates
    assert len(compiler.table.elements[f"{gate}_named4"]) == 100
    assert len(tried) <= 200
