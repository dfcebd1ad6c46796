"""Peers as a Secret names them: good entries, hostile ones, and how they are put beside those of flags and file."""

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isthmus.kube.access import Access, Material, Tls
from isthmus.mesh.clusters import ClusterSpec
from isthmus.mesh.membership import (
    LAB,
    MAX_ENTRY,
    Configuration,
    Membership,
    MembershipError,
    Peer,
    Refused,
    configuration_data,
    merge_peers,
    peer_entry,
    read_configuration,
    read_peers,
)
from isthmus.model.endpoint import Cluster
from isthmus.policy.rules import Scope

TION, ALDERAAN = Cluster("tion", 2), Cluster("alderaan", 3)
OWN = ClusterSpec(Cluster("koornacht", 1))


def entry(cluster: Cluster = TION, **changes: object) -> bytes:
    tree = yaml.safe_load(peer_entry(cluster, server="https://10.0.0.2:6443", token="t0ken", ca=b"PEM"))
    return yaml.safe_dump({**tree, **changes}).encode()


def only_refusal(data: dict[str, bytes]) -> str:
    membership = read_peers(data, own="koornacht")
    assert membership.peers == ()
    (refused,) = membership.refused
    return refused.reason


def peers(*clusters: Cluster) -> Membership:
    return Membership(tuple(Peer(cluster, Access(f"https://{cluster.name}")) for cluster in clusters))


def test_an_entry_is_read_as_it_was_written() -> None:
    content = peer_entry(TION, server="https://10.0.0.2:6443", token="1e3", ca=b"PEM", server_name="kubernetes")
    membership = read_peers({"tion": content}, own="koornacht")
    (peer,) = membership.peers
    assert membership.refused == ()
    assert peer.cluster == TION
    assert peer.access.server == "https://10.0.0.2:6443"
    assert peer.access.tls == Tls(ca=b"PEM", server_name="kubernetes")
    assert peer.access.material == Material(token="1e3")


def test_a_kubeconfig_may_be_a_block_of_text_too() -> None:
    tree = yaml.safe_load(entry())
    text = entry(kubeconfig=yaml.safe_dump(tree["kubeconfig"]))
    assert read_peers({"tion": text}, own="koornacht") == read_peers({"tion": entry()}, own="koornacht")


def test_the_own_entry_means_nothing_and_a_bad_one_costs_only_itself() -> None:
    data = {"koornacht": b"nonsense: [", "tion": entry(), "alderaan": b"name: [", "zeta": entry()}
    membership = read_peers(data, own="koornacht")
    assert [peer.cluster.name for peer in membership.peers] == ["tion"]
    assert [item.name for item in membership.refused] == ["alderaan", "zeta"]
    assert membership.refused[1].reason == "name: 'tion' is not the name of the entry"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "got `null`"),
        (b"[]", "got `array`"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: &a [1]\nb: *a", "aliases"),
        (b"[" * 5000, "nested deeper"),
        (b"x" * (MAX_ENTRY + 1), "longer than"),
        (b"id: !!bool maybe", "a value does not fit its tag"),
        (b"id: !!timestamp now", "a value does not fit its tag"),
        (b"id: !!int ''", "a value does not fit its tag"),
        (entry(id=0), "id: 0 is not in 1-255"),
        (entry(id=256), "id: 256 is not in 1-255"),
        (entry(id="many"), "$.id"),
        (entry(id=None), "$.id"),
        (entry(name="Tion"), "name:"),
        (entry(name="default"), "reserved"),
        (entry(extra=1), "extra"),
        (entry(kubeconfig={}), "current-context is not set"),
        (entry(kubeconfig="server: ["), "not YAML"),
        (entry(kubeconfig=7), "Secret kube-system/isthmus-clustermesh tion"),
    ],
)
def test_a_hostile_entry_is_refused_with_the_field(content: bytes, says: str) -> None:
    assert says in only_refusal({"tion": content})


@given(st.binary(max_size=200) | st.text(alphabet="!&*<>{}[]?:-|%@`'\"\n abyte019.", max_size=60).map(str.encode))
def test_no_entry_does_more_than_be_refused(content: bytes) -> None:
    assert only_refusal({"tion": content})


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("cluster", "certificate-authority", "/etc/shadow"),
        ("user", "client-certificate", "/etc/shadow"),
        ("user", "client-key", "/etc/shadow"),
        ("user", "tokenFile", "/var/run/secrets/kubernetes.io/serviceaccount/token"),
        (
            "user",
            "exec",
            {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never"},
        ),
    ],
)
def test_an_entry_reads_no_file_and_runs_no_program(section: str, field: str, value: object) -> None:
    tree = yaml.safe_load(entry())
    tree["kubeconfig"][f"{section}s"][0][section][field] = value
    reason = only_refusal({"tion": yaml.safe_dump(tree).encode()})
    assert field in reason
    assert "inside" in reason
    assert "shadow" not in reason


def test_no_reason_repeats_a_token() -> None:
    broken = entry().replace(b"token: t0ken", b"token: t0ken\n      : [")
    assert "t0ken" not in only_refusal({"tion": broken})


def test_peers_come_beside_the_listed_clusters_by_name() -> None:
    accepted, refused = merge_peers([OWN], peers(TION, ALDERAAN), before={})
    assert [spec.cluster for spec in accepted] == [ALDERAAN, TION]
    assert accepted[1].access == Access("https://tion")
    assert refused == ()


def test_a_number_that_is_there_twice_refuses_the_newcomer_only() -> None:
    twice = Cluster("aaa", TION.id)
    accepted, _ = merge_peers([OWN], peers(TION), before={})
    accepted, refused = merge_peers([OWN], peers(twice, TION, ALDERAAN), before={s.cluster.name: s for s in accepted})
    assert [spec.cluster for spec in accepted] == [ALDERAAN, TION]
    assert refused == (Refused("aaa", "id 2 is that of cluster tion"),)


def test_the_own_number_and_listed_names_stay_with_their_owners() -> None:
    listed = [OWN, ClusterSpec(Cluster("file", 7))]
    accepted, refused = merge_peers(listed, peers(Cluster("one", 1), Cluster("file", 9)), before={})
    assert accepted == []
    assert [item.name for item in refused] == ["file", "one"]
    assert "--clusters-file" in refused[0].reason


def test_an_entry_that_became_unreadable_keeps_its_last_access() -> None:
    accepted, _ = merge_peers([OWN], peers(TION), before={})
    before = {spec.cluster.name: spec for spec in accepted}
    broken = Membership(refused=(Refused("tion", "not YAML"), Refused("never", "not YAML")))
    again, refused = merge_peers([OWN], broken, before=before)
    assert again == accepted
    assert {item.name for item in refused} == {"tion", "never"}


def test_a_removed_entry_is_a_removed_peer() -> None:
    accepted, _ = merge_peers([OWN], peers(TION), before={})
    assert merge_peers([OWN], Membership(), before={s.cluster.name: s for s in accepted}) == ([], ())


def test_a_configuration_is_read_as_it_was_written() -> None:
    plain = Configuration(TION, max_connected=255, tracker=LAB, address="10.0.0.1:2379")
    for configuration in (plain, msgspec.structs.replace(plain, scope=Scope.LOCAL)):
        assert read_configuration(configuration_data(configuration)) == configuration


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "cluster-name"),
        ({"cluster-name": "default", "cluster-id": "1"}, "reserved"),
        ({"cluster-name": "tion"}, "cluster-id: 0 is not in 1-255"),
        ({"cluster-name": "tion", "cluster-id": "two"}, "cluster-id: 'two' is not a number"),
        ({"cluster-name": "tion", "cluster-id": "2", "max-connected-clusters": "-1"}, "max-connected-clusters"),
        ({"cluster-name": "tion", "cluster-id": "2", "tracker": "me"}, "not one of deployment, lab"),
        (
            {"cluster-name": "tion", "cluster-id": "2", "policy-scope": "Local"},
            "'Local' is neither clusterset nor local",
        ),
    ],
)
def test_a_bad_configuration_names_the_field(data: dict[str, str], says: str) -> None:
    with pytest.raises(MembershipError, match="ConfigMap kube-system/isthmus-config") as caught:
        read_configuration(data)
    assert says in str(caught.value)
