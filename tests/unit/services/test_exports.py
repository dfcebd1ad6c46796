"""What exports of several clusters come to, and what each is told of the others."""

from typing import Any

import pytest

from isthmus.model.sharing import ServicePort, SharedExport
from isthmus.services.exports import MAX_PORTS, Merged, merge, port_text

HTTP = ServicePort("http", 6, 80)
OLD, YOUNG, YOUNGEST = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"


def export(cluster: str = "tion", created: str = OLD, **given: Any) -> SharedExport:
    return SharedExport(
        cluster=cluster, namespace="shop", name="web", **{"created": created, "ports": (HTTP,), **given}
    )


def merged(*exports: SharedExport) -> Merged:
    found = merge(exports)
    assert found is not None
    return found


def test_no_export_is_no_import() -> None:
    assert merge(()) is None


def test_one_export_is_taken_as_it_is() -> None:
    found = merged(
        export(
            type="ClusterSetIP",
            session_affinity="ClientIP",
            affinity_seconds=60,
            ip_families=("IPv4", "IPv6"),
            internal_traffic_policy="Local",
            traffic_distribution="PreferClose",
            labels={"team": "red"},
            annotations={"note": "x"},
        )
    )
    assert found == Merged(
        type="ClusterSetIP",
        ports=(HTTP,),
        session_affinity="ClientIP",
        affinity_seconds=60,
        ip_families=("IPv4", "IPv6"),
        internal_traffic_policy="Local",
        traffic_distribution="PreferClose",
        labels={"team": "red"},
        annotations={"note": "x"},
        clusters=("tion",),
        oldest="tion",
    )
    assert (found.reason, found.message) == ("NoConflicts", "")


def test_equal_exports_have_no_conflict() -> None:
    found = merged(export("koornacht", YOUNG), export("tion"), export("corellia", YOUNGEST))
    assert found.clusters == ("corellia", "koornacht", "tion")
    assert (found.oldest, found.conflicts) == ("tion", ())


def test_ports_are_the_union_of_all() -> None:
    metrics = ServicePort("metrics", 6, 9090)
    found = merged(export("koornacht", YOUNG, ports=(metrics, HTTP)), export("tion"))
    assert found.ports == (HTTP, metrics)
    assert found.reason == "NoConflicts"


@pytest.mark.parametrize(
    ("younger", "ports", "words"),
    [
        pytest.param(ServicePort("http", 6, 8080), [HTTP], ["http 80/TCP", "http 8080/TCP"], id="number"),
        pytest.param(ServicePort("http", 17, 80), [HTTP], ["http 80/TCP", "http 80/UDP"], id="protocol"),
        pytest.param(ServicePort("web", 6, 80), [HTTP], ["http 80/TCP", "web 80/TCP"], id="name"),
        pytest.param(ServicePort("", 6, 80), [HTTP], ["http 80/TCP", "not 80/TCP of"], id="no name"),
        pytest.param(ServicePort("http", 6, 80, "h2c"), [HTTP], ["http 80/TCP (h2c)"], id="application protocol"),
        pytest.param(ServicePort("Http!", 6, 81), [HTTP], ["not a DNS label"], id="a name that is none"),
        pytest.param(ServicePort("a" * 64, 6, 81), [HTTP], ["not a DNS label"], id="a name that is too long"),
        pytest.param(ServicePort("x\n", 6, 81), [HTTP], ["not a DNS label"], id="a name with a new line"),
        pytest.param(ServicePort("x", 6, 0), [HTTP], ["0 is not a port"], id="no port"),
        pytest.param(ServicePort("x", 6, 65536), [HTTP], ["65536 is not a port"], id="a port that is too large"),
        pytest.param(ServicePort("x", 1, 7), [HTTP], ["protocol 1"], id="a protocol of no Service"),
        pytest.param(
            ServicePort("dns", 17, 80), [HTTP, ServicePort("dns", 17, 80)], [], id="another protocol of that number"
        ),
    ],
)  # fmt: skip
def test_of_conflicting_ports_the_older_one_is_used(
    younger: ServicePort, ports: list[ServicePort], words: list[str]
) -> None:
    found = merged(export("koornacht", YOUNG, ports=(younger,)), export("tion", OLD))
    assert list(found.ports) == ports
    if words:
        assert found.reason == "PortConflict"
        assert found.conflicts[0].clusters == ("koornacht",)
        assert "1 of 2 clusters (koornacht)" in found.message
    else:
        assert found.conflicts == ()
    for word in words:
        assert word in found.message


def test_a_port_without_a_name_gets_one_when_there_are_others() -> None:
    bare = ServicePort("", 6, 80)
    assert merged(export(ports=(bare,))).ports == (bare,)
    other = ServicePort("metrics", 6, 9090)
    taken = ServicePort("tcp-80", 6, 81)
    found = merged(export(ports=(bare,)), export("koornacht", YOUNG, ports=(other, taken)))
    assert [port_text(port) for port in found.ports] == ["tcp-80-x 80/TCP", "metrics 9090/TCP", "tcp-80 81/TCP"]
    assert found.conflicts == ()


def test_the_number_of_ports_is_bounded() -> None:
    many = tuple(ServicePort(f"p{number}", 6, number) for number in range(1, MAX_PORTS + 50))
    found = merged(export(ports=many))
    assert len(found.ports) == MAX_PORTS
    assert "more than" in found.message


@pytest.mark.parametrize(
    ("older", "younger", "reason", "field", "shown"),
    [
        ({"type": "ClusterSetIP"}, {"type": "Headless"}, "TypeConflict", "type", '"ClusterSetIP"'),
        ({"type": "Headless"}, {"type": "ClusterSetIP"}, "TypeConflict", "type", '"Headless"'),
        ({}, {"session_affinity": "ClientIP"}, "SessionAffinityConflict", "sessionAffinity", '"None"'),
        (
            {"session_affinity": "ClientIP", "affinity_seconds": 60},
            {"session_affinity": "ClientIP"},
            "SessionAffinityConfigConflict",
            "sessionAffinityConfig.clientIP.timeoutSeconds",
            '"60"',
        ),
        ({"annotations": {"a": "1"}}, {}, "AnnotationsConflict", "exportedAnnotations", '"a=1"'),
        ({}, {"labels": {"a": "1"}}, "LabelsConflict", "exportedLabels", '"none"'),
        (
            {}, {"internal_traffic_policy": "Local"}, "InternalTrafficPolicyConflict", "internalTrafficPolicy",
            '"Cluster"',
        ),
        (
            {"traffic_distribution": "PreferClose"}, {}, "TrafficDistributionConflict", "trafficDistribution",
            '"PreferClose"',
        ),
        (
            {"ip_families": ("IPv4",)}, {"ip_families": ("IPv6", "IPv4")}, "IPFamilyConflict", "ipFamilies", '"IPv4"',
        ),
    ],
)  # fmt: skip
def test_of_values_that_cannot_be_merged_the_oldest_is_used(
    older: dict[str, Any], younger: dict[str, Any], reason: str, field: str, shown: str
) -> None:
    found = merged(export("koornacht", YOUNG, **younger), export("tion", OLD, **older))
    assert found.reason == reason
    assert [conflict.clusters for conflict in found.conflicts] == [("koornacht",)]
    assert field in found.message and shown in found.message and "cluster tion" in found.message
    alone = merged(export("tion", OLD, **older))
    for name in ("type", "session_affinity", "affinity_seconds", "internal_traffic_policy", "traffic_distribution",
                 "labels", "annotations"):  # fmt: skip
        assert getattr(found, name) == getattr(alone, name), name


@pytest.mark.parametrize(
    ("older", "younger"),
    [
        pytest.param({"session_affinity": ""}, {"session_affinity": "None"}, id="no affinity, said twice"),
        pytest.param({"internal_traffic_policy": ""}, {"internal_traffic_policy": "Cluster"}, id="the default"),
        pytest.param(
            {"session_affinity": "ClientIP"},
            {"session_affinity": "ClientIP", "affinity_seconds": 10800},
            id="the default of affinity",
        ),
        pytest.param({"ip_families": ("IPv4",)}, {"ip_families": ()}, id="families that nobody told"),
        pytest.param({"ip_families": ("IPv4", "IPv6")}, {"ip_families": ("IPv6", "IPv4")}, id="families in any order"),
        pytest.param(
            {"type": "Headless", "session_affinity": "ClientIP"}, {"type": "Headless"}, id="affinity without an address"
        ),
    ],
)  # fmt: skip
def test_what_means_the_same_is_no_conflict(older: dict[str, Any], younger: dict[str, Any]) -> None:
    assert merged(export("koornacht", YOUNG, **younger), export("tion", OLD, **older)).conflicts == ()


def test_values_that_the_api_does_not_have_count_as_its_defaults() -> None:
    found = merged(
        export(
            type="Else",
            session_affinity="Else",
            internal_traffic_policy="Else",
            traffic_distribution="Else",
            ip_families=("IPv5", "IPv6"),
        ),
        export("koornacht", YOUNG),
    )
    assert (found.type, found.session_affinity, found.internal_traffic_policy) == ("ClusterSetIP", "None", "Cluster")
    assert (found.traffic_distribution, found.ip_families, found.conflicts) == ("", ("IPv6",), ())


def test_reasons_are_put_together_and_families_joined() -> None:
    found = merged(
        export("tion", OLD, ip_families=("IPv6",)),
        export("koornacht", YOUNG, type="Headless", ports=(ServicePort("http", 6, 8080),), ip_families=("IPv4",)),
        export("corellia", YOUNGEST, labels={"a": "b"}),
    )
    assert found.reason == "PortConflict,TypeConflict,LabelsConflict,IPFamilyConflict"
    assert found.ip_families == ("IPv6", "IPv4")


@pytest.mark.parametrize(
    ("one", "two", "first"),
    [
        pytest.param(OLD, YOUNG, "one", id="older"),
        pytest.param(YOUNG, OLD, "two", id="younger"),
        pytest.param(OLD, OLD, "one", id="same time: by name"),
        pytest.param("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:01Z", "one", id="time zones"),
        pytest.param("", OLD, "two", id="no time"),
        pytest.param("yesterday", OLD, "two", id="garbage"),
        pytest.param("2026-01-01T00:00:00", "2026-01-01T00:00:01Z", "one", id="no zone"),
    ],
)  # fmt: skip
def test_the_oldest_export_is_right_then_the_first_cluster_by_name(one: str, two: str, first: str) -> None:
    assert merged(export("two", two), export("one", one)).oldest == first


def test_messages_stay_short_in_a_large_mesh() -> None:
    others = [export(f"c{number}", YOUNG, labels={f"k{key}": "v" * 63 for key in range(50)}) for number in range(200)]
    message = merged(export("tion", OLD, annotations={"a": "x" * 100_000}), *others).message
    assert "200 of 201 clusters (c0, c1, c10, ...)" in message
    assert len(message) < 1024
