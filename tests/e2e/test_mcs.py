"""Multi-Cluster Services from `kubectl apply` in one cluster to an answer, by name, from a pod of another."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from .conftest import ONE, TWO, Lab
from .test_policy import DENY, allow_from, apply, client, eventually, reaches

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(300)]

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.47"
WEB = f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: web, image: "{AGNHOST}", args: [netexec, --http-port=8080]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
"""
DB = f"""\
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  replicas: 1
  serviceName: db
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      containers:
      - {{name: db, image: "{AGNHOST}", args: [netexec, --http-port=80]}}
---
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec:
  clusterIP: None
  selector: {{app: db}}
  ports: [{{name: http, port: 80}}]
"""


def export(name: str, version: str = "v1beta1") -> str:
    return f"apiVersion: multicluster.x-k8s.io/{version}\nkind: ServiceExport\nmetadata: {{name: {name}}}\n"


def resolved(lab: Lab, cluster: str, namespace: str, name: str) -> list[str]:
    """What the cluster's DNS tells a pod for a name of the set."""
    words = ("dig", "+short", f"{name}.{namespace}.svc.clusterset.local")
    return sorted(lab.kubectl(cluster, "-n", namespace, "exec", "client", "--", *words).stdout.split())


def answers(lab: Lab, cluster: str, namespace: str, name: str, times: int = 12) -> set[str]:
    """Which pods answer; "" stands for a request that failed."""
    fetch = f"wget -qO- -T 1 http://{name}.{namespace}.svc.clusterset.local/hostname || true; echo"
    loop = f"for i in $(seq {times}); do {fetch}; done"
    return set(lab.kubectl(cluster, "-n", namespace, "exec", "client", "--", "sh", "-c", loop).stdout.splitlines())


def pod_names(lab: Lab, cluster: str, namespace: str, label: str) -> set[str]:
    listed = lab.kubectl(cluster, "-n", namespace, "get", "pods", "-l", label, "-o", "name").stdout
    return {line.removeprefix("pod/") for line in listed.split()}


def get(lab: Lab, cluster: str, namespace: str, kind: str, name: str) -> dict[str, Any]:
    done = lab.kubectl(cluster, "-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found")
    return dict(json.loads(done.stdout)) if done.stdout.strip() else {}


def in_both(check: Callable[[str], bool], what: str) -> None:
    """Waits until something holds in both clusters."""
    for cluster in (ONE, TWO):
        eventually(partial(check, cluster), what)


def reasons(lab: Lab, cluster: str, namespace: str, name: str) -> set[str]:
    held = get(lab, cluster, namespace, "serviceexport", name).get("status", {}).get("conditions", [])
    return {one["reason"] for one in held}


def test_an_exported_service_answers_everywhere_by_one_name(lab: Lab, namespace: str) -> None:
    apply(lab, TWO, namespace, WEB + "---\n" + export("web"))
    client(lab, ONE, namespace)
    client(lab, TWO, namespace)
    eventually(lambda: "Exported" in reasons(lab, TWO, namespace, "web"), "the export is told that it is exported")
    in_both(lambda at: len(resolved(lab, at, namespace, "web")) == 1, "one address")
    for cluster in (ONE, TWO):
        found = get(lab, cluster, namespace, "serviceimport", "web")
        assert found["spec"]["ips"] == resolved(lab, cluster, namespace, "web")
        assert found["status"]["clusters"] == [{"cluster": TWO}]
    lab.kubectl(TWO, "-n", namespace, "rollout", "status", "deployment/web", "--timeout=60s")
    theirs = pod_names(lab, TWO, namespace, "app=web")
    eventually(lambda: answers(lab, ONE, namespace, "web") == theirs, "the other cluster's pod answers")

    # Both export it: both answer, wherever the client is; and one of them is enough.
    apply(lab, ONE, namespace, WEB + "---\n" + export("web", "v1alpha1"))
    lab.kubectl(ONE, "-n", namespace, "rollout", "status", "deployment/web", "--timeout=60s")
    both = theirs | pod_names(lab, ONE, namespace, "app=web")
    in_both(lambda at: answers(lab, at, namespace, "web", 30) == both, "both answer")
    lab.kubectl(TWO, "-n", namespace, "scale", "deployment", "web", "--replicas=0")
    eventually(lambda: answers(lab, TWO, namespace, "web") == both - theirs, "the cluster that has pods answers")

    for cluster in (ONE, TWO):
        lab.kubectl(cluster, "-n", namespace, "delete", "serviceexport", "web")
    in_both(lambda at: not get(lab, at, namespace, "serviceimport", "web"), "no import")
    in_both(lambda at: not resolved(lab, at, namespace, "web"), "no name")


def test_pods_of_stateful_sets_have_names_by_cluster(lab: Lab, namespace: str) -> None:
    for cluster in (ONE, TWO):
        apply(lab, cluster, namespace, DB + "---\n" + export("db"))
    client(lab, ONE, namespace)

    def named(cluster: str) -> bool:
        address = get(lab, cluster, namespace, "pod", "db-0").get("status", {}).get("podIP", "")
        return resolved(lab, ONE, namespace, f"db-0.{cluster}.db") == [address]

    in_both(named, "the pod has a name that tells its cluster")
    for cluster in (ONE, TWO):
        lab.kubectl(cluster, "-n", namespace, "rollout", "status", "statefulset/db", "--timeout=60s")
        assert reaches(lab, ONE, namespace, f"db-0.{cluster}.db.{namespace}.svc.clusterset.local")
    eventually(lambda: len(resolved(lab, ONE, namespace, "db")) == 2, "the service stands for the pods of both")


def test_policy_holds_for_what_comes_through_a_clusterset_address(lab: Lab, namespace: str) -> None:
    apply(lab, TWO, namespace, WEB + "---\n" + export("web"))
    client(lab, ONE, namespace)
    client(lab, TWO, namespace)
    name = f"web.{namespace}.svc.clusterset.local"
    eventually(lambda: reaches(lab, ONE, namespace, name), "open without a policy")
    eventually(lambda: reaches(lab, TWO, namespace, name), "open in its own cluster")

    apply(lab, TWO, namespace, allow_from(TWO, namespace))
    eventually(lambda: not reaches(lab, ONE, namespace, name), "denied by the cluster that it comes from")
    assert reaches(lab, TWO, namespace, name), "the pod's own cluster is allowed"
    for cluster, code in ((ONE, 2), (TWO, 0)):
        words = ("policy", "explain", "--from", f"{cluster}:{namespace}/client", "--to", name, "-o", "json")
        done = lab.isthmus(*words, check=False)
        found = json.loads(done.stdout)
        assert (done.returncode, found["allowed"]) == (code, code == 0), done.stdout + done.stderr
        assert [(end["to"]["cluster"], end["port"]) for end in found["answers"]] == [(TWO, 8080)]
    apply(lab, TWO, namespace, allow_from(ONE, namespace))
    eventually(lambda: reaches(lab, ONE, namespace, name), "allowed by the cluster that it comes from")
    assert not reaches(lab, TWO, namespace, name)
    apply(lab, TWO, namespace, DENY)
    eventually(lambda: not reaches(lab, ONE, namespace, name), "denied for all")


def test_conflicts_are_seen_on_both_sides(lab: Lab, namespace: str) -> None:
    apply(lab, TWO, namespace, WEB + "---\n" + export("web"))
    eventually(lambda: "NoConflicts" in reasons(lab, TWO, namespace, "web"), "alone there is no conflict")
    eventually(lambda: bool(get(lab, ONE, namespace, "serviceimport", "web")), "the import is there")
    apply(lab, ONE, namespace, WEB.replace("port: 80,", "port: 8000,") + "---\n" + export("web"))
    in_both(lambda at: "PortConflict" in reasons(lab, at, namespace, "web"), "told")
    told = lab.kubectl(ONE, "-n", namespace, "describe", "serviceexport", "web").stdout
    assert "1 of 2 clusters" in told and "http 8000/TCP" in told
    lab.kubectl(ONE, "-n", namespace, "delete", "serviceexport", "web")
    eventually(lambda: "NoConflicts" in reasons(lab, TWO, namespace, "web"), "resolved")
