"""The merge of exports: whatever comes in, in whatever order, one import that an API server would take."""

import re

from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.sharing import ServicePort, SharedExport
from isthmus.services.exports import merge

ports = st.builds(
    ServicePort,
    name=st.sampled_from(["", "http", "web", "tcp-80", "Bad_", "x" * 64]),
    protocol=st.sampled_from([6, 17, 132, 1]),
    port=st.sampled_from([0, 80, 81, 443, 65535, 65536]),
    app_protocol=st.sampled_from(["", "h2c"]),
)
few = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2)
exports = st.builds(
    SharedExport,
    cluster=st.sampled_from(["a", "b", "c", "d"]),
    namespace=st.just("shop"),
    name=st.just("web"),
    created=st.sampled_from(["", "x", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01T01:00:00+01:00"]),
    type=st.sampled_from(["ClusterSetIP", "Headless"]),
    ports=st.lists(ports, max_size=4).map(tuple),
    session_affinity=st.sampled_from(["", "None", "ClientIP"]),
    affinity_seconds=st.sampled_from([0, 60]),
    ip_families=st.sampled_from([(), ("IPv4",), ("IPv6", "IPv4")]),
    internal_traffic_policy=st.sampled_from(["", "Cluster", "Local"]),
    traffic_distribution=st.sampled_from(["", "PreferClose"]),
    labels=few,
    annotations=few,
)
of_a_service = st.lists(exports, max_size=4, unique_by=lambda export: export.cluster)


@given(of_a_service.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))))
def test_the_order_of_exports_does_not_matter(pair: tuple[list[SharedExport], list[SharedExport]]) -> None:
    assert merge(pair[0]) == merge(pair[1])


@given(of_a_service)
def test_ports_are_such_that_a_service_may_have_them(found: list[SharedExport]) -> None:
    result = merge(found)
    if result is None:
        assert not found
        return
    names = [port.name for port in result.ports]
    assert len(set(names)) == len(names)
    assert len({(port.port, port.protocol) for port in result.ports}) == len(names)
    assert len(names) == 1 or all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)
    assert all(0 < port.port < 65536 and port.protocol in (6, 17, 132) for port in result.ports)


@given(of_a_service)
def test_every_port_is_in_the_import_or_in_a_conflict(found: list[SharedExport]) -> None:
    result = merge(found)
    if result is None:
        return
    told = {cluster for conflict in result.conflicts for cluster in conflict.clusters}
    kept = {(port.port, port.protocol) for port in result.ports}
    for export in found:
        assert export.cluster in told or {(port.port, port.protocol) for port in export.ports} <= kept
    assert result.clusters == tuple(sorted(export.cluster for export in found))
    assert (result.reason == "NoConflicts") == (not result.conflicts)
