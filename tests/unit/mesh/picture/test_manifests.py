"""Repositories of manifests as clusters: whose they are, which pods they will have, what is an error."""

from pathlib import Path

import pytest
import yaml

from isthmus.mesh.picture import documents
from isthmus.mesh.picture.documents import DocumentError
from isthmus.mesh.picture.manifests import read_manifests
from isthmus.policy.explaining.facts import ClusterSeen
from isthmus.policy.rules import Scope

TEMPLATE = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "name": "http"}]}]},
}


def workload(kind: str = "Deployment", name: str = "web", **more: object) -> dict[str, object]:
    spec = {"selector": {"matchLabels": {"app": "web"}}, "template": TEMPLATE, **more}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def pod(name: str, ip: str = "", **meta: object) -> dict[str, object]:
    status = {"podIP": ip, "phase": "Running"} if ip else {}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **meta}, "spec": {}, "status": status}


def write(directory: Path, *objects: dict[str, object], name: str = "all.yaml") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(yaml.safe_dump_all(objects))
    return directory


def only(directory: Path, *objects: dict[str, object]) -> ClusterSeen:
    (cluster,) = read_manifests([str(write(directory, *objects))]).clusters
    return cluster


def test_every_directory_is_a_cluster_and_one_with_manifests_is_one(tmp_path: Path) -> None:
    write(tmp_path / "all" / "tion", pod("a"))
    write(tmp_path / "all" / "koornacht" / "deeper", pod("a"))
    both = read_manifests([str(tmp_path / "all")])
    assert [cluster.name for cluster in both.clusters] == ["koornacht", "tion"]
    assert both.current == ""
    one = read_manifests([f"west={tmp_path / 'all' / 'tion'}"])
    assert ([cluster.name for cluster in one.clusters], one.current) == (["west"], "west")
    assert [c.name for c in read_manifests([str(tmp_path / "all" / "tion")]).clusters] == ["tion"]


def test_the_configmap_says_the_name_and_the_scope(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "isthmus-config", "namespace": "kube-system"},
        "data": {"cluster-name": "named", "policy-scope": "local"},
    }
    cluster = only(tmp_path, config, pod("a"))
    assert (cluster.name, cluster.scope) == ("named", Scope.LOCAL)
    (told,) = read_manifests([str(tmp_path)], scopes={"": Scope.CLUSTERSET}).clusters
    assert told.scope is Scope.CLUSTERSET
    config["data"] = {"policy-scope": "wide"}
    with pytest.raises(DocumentError, match="policy-scope: 'wide' is neither clusterset nor local"):
        only(tmp_path, config)


@pytest.mark.parametrize(
    ("kind", "name"), [("Deployment", "web"), ("StatefulSet", "web-0"), ("DaemonSet", "web"), ("ReplicaSet", "web")]
)
def test_a_workload_without_pods_gets_one_that_is_made_up(tmp_path: Path, kind: str, name: str) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    service["spec"] = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}
    cluster = only(tmp_path, workload(kind), service)
    (made,) = cluster.pods
    assert (made.name, made.owner, made.imaginary, made.ports) == (name, "web", True, ((6, 80),))
    assert made.labels["app"] == "web"
    assert cluster.services[0].backends == made.ips
    assert cluster.namespaces == {"default": {}}


def test_a_cron_job_gets_a_pod_of_its_jobs(tmp_path: Path) -> None:
    spec = {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": TEMPLATE}}}
    cron = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly"}, "spec": spec}
    (made,) = only(tmp_path, cron).pods
    assert (made.workload, made.labels) == ("CronJob/nightly", {"app": "web"})


def test_a_workload_whose_pods_are_there_gets_none(tmp_path: Path) -> None:
    owner = {"kind": "ReplicaSet", "name": "web-abc", "controller": True, "apiVersion": "apps/v1", "uid": "u"}
    labels = {"app": "web", "pod-template-hash": "abc"}
    real = pod("web-abc-1", "10.0.0.1", labels=labels, ownerReferences=[owner])
    replica_set = workload("ReplicaSet", "web-abc")
    replica_set["metadata"] = {"name": "web-abc", "ownerReferences": [{"kind": "Deployment", "controller": True}]}
    (seen,) = only(tmp_path, workload(), replica_set, real).pods
    assert (seen.workload, seen.imaginary, seen.ips) == ("Deployment/web", False, ("10.0.0.1",))


def test_pods_that_never_ran_get_addresses_of_their_own_across_clusters(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, pod("a"), pod("b"), workload())
    picture = read_manifests([str(tmp_path)])
    ips = [ip for cluster in picture.clusters for seen in cluster.pods for ip in seen.ips]
    assert len(set(ips)) == len(ips) == 6


def test_finished_pods_are_left_out_and_those_of_the_hosts_network_are_their_node(tmp_path: Path) -> None:
    done = pod("done", "10.0.0.1") | {"status": {"phase": "Succeeded", "podIP": "10.0.0.1"}}
    hosted = pod("hosted", "172.18.0.1") | {"spec": {"hostNetwork": True, "nodeName": "n"}}
    (seen,) = only(tmp_path, done, hosted).pods
    assert (seen.name, seen.host_network, seen.ips) == ("hosted", True, ("172.18.0.1",))


def test_labels_that_claim_a_cluster_are_not_believed(tmp_path: Path) -> None:
    labels = {"app": "a", "io.cilium.k8s.policy.cluster": "other", "property.isthmus.dev/tier": "gold"}
    labels["io.cilium.k8s.policy.serviceaccount"] = "admin"
    (seen,) = only(tmp_path, pod("a", "10.0.0.1", labels=labels)).pods
    assert seen.labels == {"app": "a"}


def test_policies_groups_and_properties_are_found_and_other_kinds_left_out(tmp_path: Path) -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {}}
    foreign = policy | {"apiVersion": "crd.projectcalico.org/v1"}
    group = {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "g"}}
    group["spec"] = {"externalCIDRs": ["192.0.2.0/24"]}
    quality = {"apiVersion": "about.k8s.io/v1beta1", "kind": "ClusterProperty", "metadata": {"name": "tier.example"}}
    quality["spec"] = {"value": "gold"}
    chart = {"apiVersion": "v2", "kind": "Chart"}
    cluster = only(tmp_path, policy, foreign, group, quality, chart)
    assert [obj["metadata"] for obj in cluster.policies] == [{"name": "p", "namespace": "default"}]
    assert [found.name for found in cluster.cidr_groups] == ["g"]
    assert cluster.properties == {"tier.example": "gold"}


@pytest.mark.parametrize(
    ("obj", "said"),
    [
        ({"apiVersion": "v1", "kind": "Pod"}, "all.yaml: Pod: metadata.name: is missing"),
        (pod("a", labels=["x"]), "all.yaml: Pod default/a: Expected `object`, got `array`"),
        (workload(template={"metadata": {"labels": {"a": 1}}}), "all.yaml: Deployment default/web: Expected `str`"),
        (workload(template={"spec": {"containers": [{"ports": 7}]}}), "at `$.spec.template.spec.containers"),
        (pod("a", labels={"x": 1}), "all.yaml: Pod default/a: Expected `str`, got `int`"),
    ],
)
def test_an_object_that_cannot_be_read_is_an_error_that_names_file_and_field(
    tmp_path: Path, obj: dict[str, object], said: str
) -> None:
    with pytest.raises(DocumentError) as error:
        only(tmp_path, obj)
    assert said in str(error.value)


def test_a_cluster_of_too_much_yaml_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", pod("a"), name="a.yaml")
    write(tmp_path / "a", pod("b"), name="b.yaml")
    monkeypatch.setattr(documents, "MAX_TOTAL", (tmp_path / "a" / "a.yaml").stat().st_size)
    with pytest.raises(DocumentError, match="a: holds more than 0 MiB of manifests"):
        read_manifests([str(tmp_path / "a")])


def test_directories_that_hold_nothing_or_a_cluster_twice_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no such directory"):
        read_manifests([str(tmp_path / "none")])
    with pytest.raises(DocumentError, match="holds no manifests"):
        read_manifests([str(tmp_path)])
    write(tmp_path / "a", pod("a"))
    with pytest.raises(DocumentError, match="cluster a is given twice"):
        read_manifests([str(tmp_path / "a"), f"a={tmp_path / 'a'}"])
