"""Lists of clusters: what is taken, and how what is wrong is named."""

import json
from pathlib import Path

import pytest

from isthmus.mesh.clusters import MAX_FILE, ClusterList, ClustersError, ClusterSpec, merge, parse_file, parse_flag
from isthmus.mesh.tracker_options import OptionsError, TrackerOptions
from isthmus.model.endpoint import Cluster

FILE = Path("/etc/isthmus/clusters.yaml")
OWN = ClusterSpec(Cluster("c1", 1))


def test_a_flag_names_a_cluster():
    assert parse_flag("name=c2,id=2,kubeconfig=/a/b,context=x") == ClusterSpec(Cluster("c2", 2), Path("/a/b"), "x")
    assert parse_flag("id=2, name=c2") == ClusterSpec(Cluster("c2", 2))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "expected name="),
        ("c2", "expected name="),
        ("name=c2", "id ''"),
        ("name=c2,id=x", "id 'x'"),
        ("name=c2,id=0", "not in 1-255"),
        ("name=c2,id=256", "not in 1-255"),
        ("name=c2,id=99999999999999999999", "not a number"),
        ("name=c2,id=2,id=3", "twice"),
        ("name=C2,id=2", "lower-case"),
        ("name=default,id=2", "reserved"),
        (f"name={'a' * 33},id=2", "longer than 32"),
        ("name=c2,id=2,server=x", "expected name="),
    ],
)
def test_a_flag_that_makes_no_sense_is_named(text, word):
    with pytest.raises(ClustersError, match=r"--cluster '.*") as caught:
        parse_flag(text)

    assert word in str(caught.value)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_file_names_clusters_and_relative_paths_count_from_it(wrap):
    entries = [
        {"name": "c2", "id": 2, "kubeconfig": "c2.conf"},
        {"name": "c3", "id": 3, "kubeconfig": "/x", "context": "y"},
    ]

    specs = parse_file(FILE, json.dumps({"clusters": entries} if wrap else entries).encode())

    assert specs == [
        ClusterSpec(Cluster("c2", 2), FILE.parent / "c2.conf"),
        ClusterSpec(Cluster("c3", 3), Path("/x"), "y"),
    ]
    assert parse_file(FILE, b"- {name: c2, id: 2}\n") == [ClusterSpec(Cluster("c2", 2))]
    assert parse_file(FILE, b"[]") == []


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "expected a list"),
        (b"a: [", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"hello", "expected a list"),
        (b"clusters: 5", "array"),
        (b"other: []", "clusters"),
        (b"- 5", "clusters[0]"),
        (b"- {name: c2}", "clusters[0]: Object missing required field `id`"),
        (b"- {name: c2, id: two}", "clusters[0].id"),
        (b"- {name: c2, id: 2, kubeconfg: x}", "kubeconfg"),
        (b"- {name: c2, id: 300}", "clusters[0].id: 300 is not in 1-255"),
        (b"- {name: a_b, id: 2}", "clusters[0].name"),
        (b'- {name: c2, id: 2, kubeconfig: "a\\0b"}', "clusters[0].kubeconfig"),
        (b"- {name: c2, id: 2, kubeconfig: ~nobody-of-that-name/x}", "clusters[0].kubeconfig"),
        (b"- &a {name: c2, id: 2}\n- *a", "aliases"),
        (b"[" * 100 + b"]" * 100, "nested"),
        (b"- {name: c2, id: 2, kubeconfig: !!python/object:os.system x}", "not YAML"),
    ],
)
def test_a_file_that_makes_no_sense_is_named_with_entry_and_field(data, word):
    with pytest.raises(ClustersError) as caught:
        parse_file(FILE, data)

    assert str(caught.value).startswith(str(FILE))
    assert word in str(caught.value)


def test_names_and_ids_are_unique_and_the_own_cluster_keeps_its_own():
    two = ClusterSpec(Cluster("c2", 2))
    known = ClusterSpec(Cluster("c1", 1), Path("/x"))

    assert merge(OWN, [two]) == [OWN, two]
    assert merge(OWN, [known, two]) == [known, two]
    for others, word in (
        ([two, two], "twice"),
        ([two, ClusterSpec(Cluster("c3", 2))], "same id 2"),
        ([ClusterSpec(Cluster("c2", 1))], "same id 1"),
        ([ClusterSpec(Cluster("c1", 5))], "by --cluster-id"),
    ):
        with pytest.raises(ClustersError, match=word):
            merge(OWN, others)


def test_new_credentials_make_a_new_specification(tmp_path):
    kubeconfig, file = tmp_path / "c2.conf", tmp_path / "clusters.yaml"
    file.write_text(json.dumps([{"name": "c2", "id": 2, "kubeconfig": "c2.conf"}]))
    clusters = ClusterList(OWN, file=file)
    without = clusters.read()
    kubeconfig.write_text("one")
    one = clusters.read()
    kubeconfig.write_text("two")

    assert clusters.read() != one != without
    kubeconfig.write_text("one")
    assert clusters.read() == one


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ClustersError, match="cannot read"):
        ClusterList(OWN, file=tmp_path / "none").read()
    with pytest.raises(ClustersError, match="cannot read"):
        ClusterList(OWN, file=tmp_path).read()
    (tmp_path / "big").write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(ClustersError, match="larger than"):
        ClusterList(OWN, file=tmp_path / "big").read()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "--cluster-name"),
        ({"cluster_name": "c1"}, "--cluster-id"),
        ({"cluster_name": "c1", "cluster_id": 1}, "--data-dir"),
        ({"cluster_name": "c1", "cluster_id": 1, "data_dir": Path("d"), "etcd_endpoints": ("a:1",)}, "exclude"),
        ({"cluster_name": "c1", "cluster_id": 1, "etcd_endpoints": ("nonsense",)}, "--etcd-endpoints"),
        ({"cluster_name": "c1", "cluster_id": 1, "data_dir": Path("d"), "etcd_listen": "x"}, "--etcd-listen"),
        ({"cluster_name": "c1", "cluster_id": 1, "data_dir": Path("d"), "etcd_cert": Path("c")}, "go together"),
        ({"cluster_name": "c1", "cluster_id": 1, "data_dir": Path("d"), "etcd_ca": Path("c")}, "https"),
        ({"cluster_name": "c1", "cluster_id": 1, "data_dir": Path("d"), "etcd_listen": "https://a:1"}, "--etcd-ca"),
        ({"cluster_name": "c1", "cluster_id": 1, "data_dir": Path("d"), "etcd_users": ("x",)}, "--etcd-user"),
        ({"cluster_name": "c1", "cluster_id": 1, "data_dir": Path("d"), "clusters": ("x",)}, "--cluster"),
    ],
)
def test_options_that_cannot_work_name_the_flag(given, word):
    with pytest.raises(OptionsError, match=word):
        TrackerOptions.check(given)


def test_options_that_work():
    tls = {"etcd_ca": Path("a"), "etcd_cert": Path("b"), "etcd_key": Path("c")}
    base = {"cluster_name": "c1", "cluster_id": 1}

    child = TrackerOptions.check({**base, **tls, "data_dir": Path("d"), "etcd_listen": "https://0.0.0.0:2379"})
    assert child.server_tls is not None
    assert child.client_tls is None
    outside = TrackerOptions.check({**base, **tls, "etcd_endpoints": ("https://a:1,https://b:1",)})
    assert outside.endpoints == ("https://a:1", "https://b:1")
    assert outside.client_tls is not None
    assert outside.server_tls is None
