"""Policy across clusters, from `kubectl apply` in one to a packet dropped in the kernel because of a pod in another."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ONE, TWO, Lab
from .test_lab_pods import web

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(300)]

PATIENCE = 20.0  # seconds for something to come true; tens of milliseconds on an idle machine

DENY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
"""


def allow_from(cluster: str, namespace: str) -> str:
    return (
        DENY
        + f"""\
  ingress:
  - from:
    - namespaceSelector:
        matchLabels: {{cluster.clusterset.k8s.io: {cluster}, kubernetes.io/metadata.name: {namespace}}}
"""
    )


def eventually(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(f"still not so after {PATIENCE:.0f} s: {what}")
        time.sleep(0.1)


def client(lab: Lab, cluster: str, namespace: str, name: str = "client") -> None:
    """Starts a pod to fetch from."""
    lab.kubectl(cluster, "-n", namespace, "run", name, "--image=busybox", "--restart=Never", "--", "sleep", "3600")
    lab.kubectl(cluster, "-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")


def reaches(lab: Lab, cluster: str, namespace: str, address: str, name: str = "client") -> bool:
    """Fetches once; while the way to the pod (API server, node) is being restarted, tries again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        fetch = ("wget", "-qO-", "-T", "1", f"http://{address}/hostname")
        done = lab.kubectl(cluster, "-n", namespace, "exec", name, "--", *fetch, check=False)
        if done.returncode == 0 or "timed out" in done.stderr:
            return done.returncode == 0
        assert time.monotonic() < deadline, done
        time.sleep(0.1)


def apply(lab: Lab, cluster: str, namespace: str, text: str) -> None:
    lab.kubectl(cluster, "-n", namespace, "apply", "-f", "-", input=text)


def test_a_policy_is_enforced_by_the_origin_cluster_and_followed_when_it_changes(lab: Lab, namespace: str) -> None:
    address = web(lab, TWO, namespace, "web")
    client(lab, ONE, namespace)
    client(lab, TWO, namespace)
    assert reaches(lab, ONE, namespace, address)

    apply(lab, TWO, namespace, DENY)
    eventually(lambda: not reaches(lab, ONE, namespace, address), "denied from the other cluster")
    assert not reaches(lab, TWO, namespace, address)

    apply(lab, TWO, namespace, allow_from(ONE, namespace))
    eventually(lambda: reaches(lab, ONE, namespace, address), "allowed from the named cluster")
    assert not reaches(lab, TWO, namespace, address), "the same namespace of another cluster is not meant"

    lab.kubectl(TWO, "-n", namespace, "delete", "networkpolicy", "web")
    eventually(lambda: reaches(lab, TWO, namespace, address), "open again without the policy")


def test_a_namespace_cannot_claim_to_be_of_another_cluster(lab: Lab, namespace: str) -> None:
    address = web(lab, TWO, namespace, "web")
    lab.kubectl(TWO, "label", "namespace", namespace, f"cluster.clusterset.k8s.io={ONE}")
    client(lab, TWO, namespace)
    client(lab, ONE, namespace)
    apply(lab, TWO, namespace, allow_from(ONE, namespace))

    eventually(lambda: not reaches(lab, TWO, namespace, address), "the pretender is denied")
    assert reaches(lab, ONE, namespace, address)


def test_a_label_of_a_remote_pod_and_of_its_namespace_are_followed(lab: Lab, namespace: str) -> None:
    address = web(lab, TWO, namespace, "web")
    client(lab, ONE, namespace)
    peer = "podSelector: {matchLabels: {role: reader}}, namespaceSelector: {matchLabels: {team: a}}"
    apply(lab, TWO, namespace, f"{DENY}  ingress: [{{from: [{{{peer}}}]}}]\n")
    eventually(lambda: not reaches(lab, ONE, namespace, address), "not labelled yet")

    lab.kubectl(ONE, "-n", namespace, "label", "pod", "client", "role=reader")
    lab.kubectl(ONE, "label", "namespace", namespace, "team=a")
    eventually(lambda: reaches(lab, ONE, namespace, address), "both labels are there")

    lab.kubectl(ONE, "label", "namespace", namespace, "team=b", "--overwrite")
    eventually(lambda: not reaches(lab, ONE, namespace, address), "the namespace's label changed")


def test_egress_is_enforced_at_the_source(lab: Lab, namespace: str) -> None:
    address = web(lab, TWO, namespace, "web")
    client(lab, ONE, namespace)
    apply(lab, ONE, namespace, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: out}\n"
          "spec: {podSelector: {}, policyTypes: [Egress]}\n")  # fmt: skip
    eventually(lambda: not reaches(lab, ONE, namespace, address), "no egress")

    apply(lab, ONE, namespace, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: out}\n"
          "spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}],"
          " ports: [{port: 80}]}]}\n")  # fmt: skip
    eventually(lambda: reaches(lab, ONE, namespace, address), "egress to the pods of the other cluster")


def test_the_rules_can_be_read_on_the_node_and_name_the_policy(lab: Lab, namespace: str) -> None:
    address = web(lab, TWO, namespace, "web")
    apply(lab, TWO, namespace, DENY)
    node = lab.kubectl(TWO, "-n", namespace, "get", "pod", "web", "-o", "jsonpath={.spec.nodeName}").stdout

    def listing() -> str:
        return lab.isthmus("lab", "exec", TWO, node, "--", "nft", "list", "table", "inet", "isthmus").stdout

    eventually(lambda: f'comment "ingress: {namespace}/web"' in listing(), "the gate names the policy")
    assert f"{address} : jump in_" in listing()
    assert "counter packets" in listing()


def _etcd_of(tracker: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"PPid:\t{tracker}\n" in (entry / "status").read_text() and (entry / "comm").read_text() == "etcd\n":
                    return int(entry.name)
            except OSError:
                continue  # it ended while we looked
    raise LookupError(f"no etcd under process {tracker}")


@pytest.mark.parametrize("component", ["tracker", "etcd", "agent", "apiserver", "node", "controllers"])
def test_a_killed_process_disturbs_no_traffic_and_catches_up(lab: Lab, namespace: str, component: str) -> None:
    address = web(lab, TWO, namespace, "web")
    client(lab, ONE, namespace)
    client(lab, TWO, namespace)
    apply(lab, TWO, namespace, allow_from(ONE, namespace))
    eventually(lambda: not reaches(lab, TWO, namespace, address), "the policy is enforced")
    assert reaches(lab, ONE, namespace, address)
    loop = f"while true; do wget -qO- -T 2 http://{address}/hostname >/dev/null && echo + || echo -; done"
    lab.kubectl(ONE, "-n", namespace, "run", "traffic", "--image=busybox", "--restart=Never", "--", "sh", "-c", loop)
    # A new pod's first connection may come before the other cluster has heard of it: that is not what this is about.
    traffic = ("-n", namespace, "logs", "traffic")
    eventually(lambda: lab.kubectl(ONE, *traffic, check=False).stdout.endswith("+\n+\n"), "traffic runs")
    before = lab.kubectl(ONE, *traffic).stdout.count("-")

    node = lab.kubectl(TWO, "-n", namespace, "get", "pod", "web", "-o", "jsonpath={.spec.nodeName}").stdout
    name = {"agent": f"agent-{node}", "node": f"node-{node}", "etcd": "tracker"}.get(component, component)
    victim = lab.processes()[TWO, name]
    os.kill(_etcd_of(victim) if component == "etcd" else victim, signal.SIGKILL)

    assert not reaches(lab, TWO, namespace, address), "what was denied stays denied"
    lab.kubectl(ONE, "-n", namespace, "run", "late", "--image=busybox", "--restart=Never", "--", "sleep", "3600")
    lab.kubectl(ONE, "-n", namespace, "wait", "--for=condition=Ready", "pod/late", "--timeout=30s")
    eventually(lambda: reaches(lab, ONE, namespace, address, "late"), "a new remote pod is known")
    eventually(lambda: lab.kubectl(TWO, "get", "ns", check=False).returncode == 0, "the API server answers")
    apply(lab, TWO, namespace, DENY)
    eventually(lambda: not reaches(lab, ONE, namespace, address, "late"), "a new policy is enforced")
    assert lab.kubectl(ONE, *traffic).stdout.rstrip("-\n").count("-") == before, (
        "no request failed before the new policy"
    )
