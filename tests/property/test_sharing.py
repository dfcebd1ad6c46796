"""Whatever the order of events, what was told step by step is what a fresh look at the final state tells."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.kube.reflector import Gone, Put, Snapshot
from isthmus.kube.schema import EndpointSlice, Namespace, ObjectMeta, Service
from isthmus.mesh.mcs.api import ServiceExport
from isthmus.mesh.source.sharing import Sharing
from isthmus.model.mesh import MeshEvent
from isthmus.services.settings import AFFINITY, ALIASES, GLOBAL, NAMESPACE_GLOBAL, SHARED, WEIGHT
from tests.support.mesh import Consumer
from tests.unit.mesh.source.test_sharing import a_namespace, a_service, a_slice, an_export

values = st.sampled_from(["true", "True", "false", "maybe", "", "local", "20", "-1", "c2=5", "é" * 100])
annotations = st.dictionaries(st.sampled_from([GLOBAL, ALIASES[GLOBAL], SHARED, AFFINITY, WEIGHT]), values, max_size=4)
shared = st.one_of(annotations, st.just({GLOBAL: "true"}))
services = st.builds(
    lambda name, said, kind: a_service(name, annotations=said, type=kind),
    st.sampled_from(["web", "db"]),
    shared,
    st.sampled_from(["ClusterIP", "ClusterIP", "ClusterIP", "ExternalName"]),
)
slices = st.builds(
    lambda name, of, addresses, labels, kind: a_slice(
        name, of=of, addresses=addresses, labels=labels, addressType=kind
    ),
    st.sampled_from(["s1", "s2", "s3"]),
    st.sampled_from(["web", "web", "db", ""]),
    st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "nonsense", "fd00::1"]), max_size=3),
    st.sampled_from([{}, {}, {}, {"multicluster.kubernetes.io/source-cluster": "c2"}]),
    st.sampled_from(["IPv4", "IPv4", "IPv6", "FQDN"]),
)
namespaces = st.sampled_from([a_namespace(), a_namespace(), a_namespace(**{NAMESPACE_GLOBAL: "false"})])
exports = st.builds(an_export, st.sampled_from(["web", "db"]))
moves = st.one_of(
    st.tuples(st.sampled_from(["put", "put", "gone"]), st.one_of(services, slices, namespaces, exports)),
    st.tuples(st.just("snapshot"), st.sampled_from([Service, EndpointSlice, Namespace, ServiceExport])),
)


def feed(sharing: Sharing, kind: type, change: Any) -> list[MeshEvent]:
    methods = {
        Service: sharing.services,
        EndpointSlice: sharing.slices,
        Namespace: sharing.namespaces,
        ServiceExport: sharing.exports,
    }
    return methods[kind](change)


def place(item: Any) -> tuple[str, str]:
    meta: ObjectMeta = item.metadata
    return meta.namespace, meta.name


@settings(max_examples=200)
@given(st.lists(moves, max_size=30))
def test_step_by_step_is_the_same_as_all_at_once(history: list[tuple[str, Any]]) -> None:
    state: dict[type, dict[tuple[str, str], Any]] = {Service: {}, EndpointSlice: {}, Namespace: {}, ServiceExport: {}}
    sharing, consumer = Sharing("c1"), Consumer()
    for move, value in history:
        if move == "snapshot":
            consumer.take(feed(sharing, value, Snapshot(tuple(state[value].values()))))
        elif move == "put":
            state[type(value)][place(value)] = value
            consumer.take(feed(sharing, type(value), Put(value)))
        else:
            state[type(value)].pop(place(value), None)
            consumer.take(feed(sharing, type(value), Gone(value)))
        told = {(name, *key) for name, *key in consumer.services if consumer.services[(name, *key)].shared}
        assert all((part.cluster, *part.service_key) in told for part in consumer.slices.values())

    fresh, other = Sharing("c1"), Consumer()
    for kind in (EndpointSlice, ServiceExport, Namespace, Service):
        other.take(feed(fresh, kind, Snapshot(tuple(state[kind].values()))))
    assert consumer == other
    assert sharing.counts == fresh.counts
    assert sharing._slices_of.keys() == fresh._slices_of.keys()
