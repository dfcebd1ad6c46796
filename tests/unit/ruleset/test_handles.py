"""Filing selectors and identities by handles finds every match."""

from hypothesis import event, given, settings
from hypothesis import strategies as st

from isthmus.model.endpoint import Endpoint, NamedPort
from isthmus.model.identity import Identity
from isthmus.model.labels import (
    CILIUM_CLUSTER,
    CILIUM_NAMESPACE_LABELS,
    CILIUM_SERVICE_ACCOUNT,
    CLUSTERSET_CLUSTER,
    NAMESPACE_NAME,
    POD_NAMESPACE,
)
from isthmus.model.selector import Operator, Selector, Term
from isthmus.policy.networkpolicy import parse
from isthmus.policy.rules import EndpointPeer, IdentityPeer, NodePeer, PodPeer
from isthmus.policy.world import LocalPod, World
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.handles import of_identity, of_peer

_values = st.sampled_from(["a", "b", "east"])
_keys = st.sampled_from(["app", "tier", NAMESPACE_NAME, CLUSTERSET_CLUSTER, "property.isthmus.dev/region"])
_cilium_keys = st.sampled_from(
    [
        "app",
        POD_NAMESPACE,
        CILIUM_CLUSTER,
        CILIUM_SERVICE_ACCOUNT,
        "io.cilium.k8s.other",
        *(CILIUM_NAMESPACE_LABELS + key for key in ("tier", NAMESPACE_NAME, CLUSTERSET_CLUSTER)),
        *(f"reserved:{word}" for word in ("host", "remote-node", "world", "kube-apiserver")),
    ]
)


def _selectors(keys, values=_values):
    terms = st.one_of(
        st.builds(lambda k, v: Term(k, Operator.IN, tuple(sorted(v))), keys, st.sets(values, min_size=1)),
        st.builds(lambda k, v: Term(k, Operator.NOT_IN, (v,)), keys, values),
        st.builds(Term, keys, st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])),
    )
    return st.lists(terms, max_size=2).map(lambda made: Selector.of(*made))


_plain = _selectors(_keys)
_peers = st.one_of(
    st.builds(PodPeer, _plain, _plain, st.sampled_from(["", "a"]), st.sampled_from(["", "east"])),
    st.builds(EndpointPeer, _selectors(_cilium_keys, st.sampled_from(["a", "b", "east", ""]))),
    st.builds(NodePeer, _plain, st.sampled_from(["", "east"]), st.booleans()),
)
_labels = st.dictionaries(st.sampled_from(["app", "tier"]), _values, max_size=2)
_reserved = st.sampled_from([(), (), ("host",), ("remote-node",), ("kube-apiserver", "remote-node"), ("world",)])


@settings(max_examples=1000)
@given(
    _peers,
    st.builds(
        Identity,
        st.just(256),
        st.sampled_from(["east", "west"]),
        _values,
        _labels,
        _labels,
        st.sampled_from(["", "a"]),
        st.dictionaries(st.just("region"), _values),
        _reserved,
    ),
)
def test_whoever_match_share_a_handle(peer: IdentityPeer, identity: Identity):
    event(f"{type(peer).__name__} {'matches' if peer.matches(identity) else 'does not match'}")
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
