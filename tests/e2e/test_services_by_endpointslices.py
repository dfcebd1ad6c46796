"""Global services by a proxy that knows EndpointSlices alone: the tracker writes the other cluster's, it follows.

The proxy is the lab's own agents, told to leave global services to EndpointSlices, so what answers is what a kube-proxy
would use too.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import Lab, new_lab, remove_lab
from .test_policy import eventually

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(180)]

ONE, TWO = "koornacht", "tion"
GLOBAL, AFFINITY = "service.cilium.io/global", "service.cilium.io/affinity"
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.47"
OURS = "endpointslice.kubernetes.io/managed-by=endpointslice-controller.isthmus.dev"
OBJECTS = f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-CLUSTER}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: web, image: "{AGNHOST}", args: [netexec, --http-port=8080]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, annotations: {{{GLOBAL}: "true"}}}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
"""
CLIENT = """\
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: client, image: busybox, command: [sleep, "3600"]}]}
"""


@pytest.fixture(scope="module")
def mirrored(kubectl_program: str) -> Iterator[Lab]:
    """Two clusters with a global service each."""
    lab = new_lab()
    try:
        lab.isthmus("lab", "up", "--nodes", "1", "--global-services", "endpointslices")
        for cluster in (ONE, TWO):
            lab.kubectl(cluster, "apply", "-f", "-", input=OBJECTS.replace("CLUSTER", cluster) + CLIENT)
        for cluster in (ONE, TWO):
            lab.kubectl(cluster, "rollout", "status", f"deployment/web-{cluster}", "--timeout=40s")
            lab.kubectl(cluster, "wait", "--for=condition=Ready", "pod/client", "--timeout=40s")
        yield lab
    finally:
        remove_lab(lab)


def answering(lab: Lab, times: int = 12) -> set[str]:
    """Which clusters answer a pod of ONE; "" stands for a request that failed."""
    loop = f"for i in $(seq {times}); do wget -qO- -T 1 http://web/hostname || true; echo; done"
    lines = lab.kubectl(ONE, "exec", "client", "--", "sh", "-c", loop).stdout.splitlines()
    return {line.partition("-")[2].partition("-")[0] for line in lines}


def mirrors(lab: Lab) -> list[dict[str, Any]]:
    """The EndpointSlices in ONE that stand for those of other clusters."""
    return list(json.loads(lab.kubectl(ONE, "get", "endpointslices", "-l", OURS, "-o", "json").stdout)["items"])


def annotate(lab: Lab, *words: str) -> None:
    lab.kubectl(ONE, "annotate", "--overwrite", "service", "web", *words)


def only(lab: Lab, *clusters: str) -> Callable[[], bool]:
    return lambda: answering(lab) == set(clusters)


def test_backends_of_the_other_cluster_answer_by_way_of_its_mirrored_slices(mirrored: Lab) -> None:
    eventually(only(mirrored, ONE, TWO), "both clusters answer")

    (found,) = mirrors(mirrored)
    assert found["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"] == TWO
    pods = json.loads(mirrored.kubectl(TWO, "get", "pods", "-l", "app=web", "-o", "json").stdout)["items"]
    assert [endpoint["addresses"] for endpoint in found["endpoints"]] == [[pod["status"]["podIP"]] for pod in pods]


def test_clients_stay_local_fall_over_when_the_last_local_pod_goes_and_come_back(mirrored: Lab) -> None:
    annotate(mirrored, f"{AFFINITY}=local")
    eventually(lambda: not mirrors(mirrored), "nothing is mirrored while there is a local backend")
    eventually(only(mirrored, ONE), "the own cluster alone answers")

    for replicas, who in ((0, TWO), (1, ONE)):
        mirrored.kubectl(ONE, "scale", "deployment", f"web-{ONE}", f"--replicas={replicas}")
        eventually(only(mirrored, who), f"{who} alone answers")

    annotate(mirrored, f"{AFFINITY}-")
    eventually(only(mirrored, ONE, TWO), "both clusters answer again")


def test_mirrored_slices_are_collected_with_the_annotation_and_with_the_service(mirrored: Lab) -> None:
    collected = "mirrored slices are gone"
    eventually(lambda: bool(mirrors(mirrored)), "there is a mirrored slice")
    annotate(mirrored, f"{GLOBAL}-")
    eventually(lambda: not mirrors(mirrored), collected)
    eventually(only(mirrored, ONE), "the own cluster alone answers")

    annotate(mirrored, f"{GLOBAL}=true")
    eventually(lambda: bool(mirrors(mirrored)), "there is a mirrored slice again")
    mirrored.kubectl(ONE, "delete", "service", "web")
    eventually(lambda: not mirrors(mirrored), collected)
