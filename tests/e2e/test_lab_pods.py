"""Pods of the lab through real kubectl: they start, speak, say how they end, and go away."""

import json
import os
import pty
import re
import subprocess

import pytest

from .conftest import ONE, TWO, Lab

pytestmark = pytest.mark.kubectl

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.39"


def web(lab: Lab, cluster: str, namespace: str, name: str) -> str:
    """Starts a web server and returns its address."""
    lab.kubectl(
        cluster, "-n", namespace, "run", name, f"--image={AGNHOST}", "--labels=app=web", "--expose", "--port=80",
        "--", "netexec", "--http-port=80",
    )  # fmt: skip
    lab.kubectl(cluster, "-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")
    return lab.kubectl(cluster, "-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.podIP}").stdout


def one_off(lab: Lab, cluster: str, namespace: str, *command: str, image: str = "busybox", check: bool = True):
    """Runs a program in a pod that is removed afterwards."""
    return lab.kubectl(
        cluster, "-n", namespace, "run", "one-off", "--rm", "-i", "--restart=Never", f"--image={image}",
        "--", *command, check=check,
    )  # fmt: skip


def test_a_pod_reaches_a_pod_of_another_cluster_under_its_own_address(lab: Lab, namespace: str) -> None:
    address = web(lab, TWO, namespace, "web")
    answer = one_off(lab, ONE, namespace, "wget", "-qO-", "--timeout=5", f"http://{address}/clientip").stdout
    assert re.match(r"10\.1\.\d+\.\d+:\d+", answer), answer


def test_the_temporary_client_of_the_documentation_prints_what_it_got(lab: Lab, namespace: str) -> None:
    address = web(lab, TWO, namespace, "web-c2")
    command = f"wget -qO- --timeout=2 http://{address}/hostname"
    done = lab.kubectl(
        ONE, "-n", namespace, "run", "tmp-client", "--rm", "-it", "--image=busybox", "--", "sh", "-c", command
    )
    assert done.stdout.count("web-c2") == 1
    assert 'pod "tmp-client" deleted' in done.stdout


def test_it_prints_the_same_on_a_terminal(lab: Lab, namespace: str) -> None:
    address = web(lab, ONE, namespace, "web-c1")
    ours, theirs = pty.openpty()
    words = [
        "kubectl",
        "--context",
        f"lab-{ONE}",
        "-n",
        namespace,
        "run",
        "tmp-client",
        "--rm",
        "-it",
        "--image=busybox",
    ]
    process = subprocess.Popen(
        [*words, "--", "sh", "-c", f"wget -qO- --timeout=2 http://{address}/hostname"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=lab.environ,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:
        pass  # the terminal's other end is closed
    finally:
        os.close(ours)
    assert process.wait(timeout=30) == 0
    assert b"web-c1" in seen


def test_the_exit_code_of_a_pod_is_kubectls(lab: Lab, namespace: str) -> None:
    assert one_off(lab, ONE, namespace, "sh", "-c", "exit 7", check=False).returncode == 7


def test_standard_input_reaches_the_pod_and_ends(lab: Lab, namespace: str) -> None:
    done = lab.kubectl(
        ONE, "-n", namespace, "run", "cat", "--rm", "-i", "--restart=Never", "--image=busybox", "--", "cat",
        input="first\nsecond\n",
    )  # fmt: skip
    assert "first\nsecond\n" in done.stdout


def test_exec_passes_streams_and_exit_codes(lab: Lab, namespace: str) -> None:
    web(lab, ONE, namespace, "web")
    run = ("-n", namespace, "exec", "-i", "web", "--")
    assert lab.kubectl(ONE, *run, "hostname").stdout == "web\n"
    assert lab.kubectl(ONE, *run, "cat", input="x" * 200_000).stdout == "x" * 200_000
    done = lab.kubectl(ONE, *run, "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "out\n")
    assert done.stderr.startswith("err\n")
    assert lab.kubectl(ONE, *run, "no-such-program", check=False).returncode == 127


def test_a_pod_sees_neither_the_machines_network_nor_its_processes_nor_writes_its_files(
    lab: Lab, namespace: str
) -> None:
    web(lab, ONE, namespace, "web")
    run = ("-n", namespace, "exec", "web", "--")
    links = lab.kubectl(ONE, *run, "ip", "-o", "link").stdout
    assert len(links.splitlines()) == 2
    assert "isthmus.lab" not in lab.kubectl(ONE, *run, "ps").stdout
    lab.kubectl(ONE, *run, "touch", "/usr/written-in-a-pod", check=False)
    assert not os.path.exists("/usr/written-in-a-pod")
    assert lab.kubectl(ONE, *run, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward", check=False).returncode == 1
    assert lab.kubectl(ONE, *run, "mount", "-t", "tmpfs", "x", "/mnt", check=False).returncode != 0


def test_logs_have_times_tail_and_previous(lab: Lab, namespace: str) -> None:
    run = ("-n", namespace)
    lab.kubectl(
        ONE, *run, "run", "talker", "--image=busybox", "--", "sh", "-c", "for i in 1 2 3; do echo $i; done; sleep 60"
    )
    lab.kubectl(ONE, *run, "wait", "--for=condition=Ready", "pod/talker", "--timeout=30s")
    assert lab.kubectl(ONE, *run, "logs", "talker").stdout == "1\n2\n3\n"
    assert lab.kubectl(ONE, *run, "logs", "talker", "--tail=1").stdout == "3\n"
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z 1\n", lab.kubectl(ONE, *run, "logs", "talker", "--timestamps").stdout)
    lab.kubectl(
        ONE, *run, "run", "failing", "--image=busybox", "--restart=OnFailure", "--", "sh", "-c", "echo boom; exit 1"
    )
    restarted = "jsonpath={.status.containerStatuses[0].restartCount}=1"
    lab.kubectl(ONE, *run, "wait", f"--for={restarted}", "pod/failing", "--timeout=30s")
    assert lab.kubectl(ONE, *run, "logs", "failing", "--previous").stdout == "boom\n"


def test_following_a_log_ends_with_the_container(lab: Lab, namespace: str) -> None:
    run = ("-n", namespace)
    lab.kubectl(
        ONE, *run, "run", "brief", "--image=busybox", "--restart=Never", "--", "sh", "-c", "echo a; sleep 1; echo b"
    )
    lab.kubectl(ONE, *run, "wait", "--for=jsonpath={.status.phase}=Running", "pod/brief", "--timeout=30s")
    assert lab.kubectl(ONE, *run, "logs", "-f", "brief").stdout == "a\nb\n"


def test_an_unknown_image_says_which_ones_exist(lab: Lab, namespace: str) -> None:
    run = ("-n", namespace)
    lab.kubectl(ONE, *run, "run", "typo", "--image=docker.io/library/busibox:1.36")
    waiting = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff"
    lab.kubectl(ONE, *run, "wait", f"--for={waiting}", "pod/typo", "--timeout=30s")
    described = lab.kubectl(ONE, *run, "describe", "pod", "typo").stdout
    assert "not among the images of the lab, which are" in described
    assert "busybox" in described
    assert lab.kubectl(ONE, *run, "logs", "typo", check=False).returncode == 1


def test_a_program_that_does_not_exist_says_so_in_the_status(lab: Lab, namespace: str) -> None:
    run = ("-n", namespace)
    lab.kubectl(ONE, *run, "run", "wrong", "--image=busybox", "--restart=Never", "--", "no-such-program")
    lab.kubectl(ONE, *run, "wait", "--for=jsonpath={.status.phase}=Failed", "pod/wrong", "--timeout=30s")
    pod = json.loads(lab.kubectl(ONE, *run, "get", "pod", "wrong", "-o", "json").stdout)
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "StartError"
    assert 'exec: "no-such-program": executable file not found' in ended["message"]


def test_a_graceful_end_is_waited_for(lab: Lab, namespace: str) -> None:
    run = ("-n", namespace)
    script = "trap 'echo bye; exit 0' TERM; echo here; while :; do sleep 0.1; done"
    lab.kubectl(ONE, *run, "run", "polite", "--image=busybox", "--", "sh", "-c", script)
    lab.kubectl(ONE, *run, "wait", "--for=condition=Ready", "pod/polite", "--timeout=30s")
    follower = subprocess.Popen(
        ["kubectl", "--context", f"lab-{ONE}", *run, "logs", "-f", "polite"],
        env=lab.environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stdout is not None
    assert follower.stdout.readline() == "here\n"
    lab.kubectl(ONE, *run, "delete", "pod", "polite")
    said, _ = follower.communicate(timeout=30)
    assert said == "bye\n"


def test_a_service_names_the_pods_behind_it(lab: Lab, namespace: str) -> None:
    address = web(lab, ONE, namespace, "web")
    run = ("-n", namespace)
    slices = lab.kubectl(
        ONE, *run, "get", "endpointslices", "-l", "kubernetes.io/service-name=web",
        "-o", "jsonpath={.items[*].endpoints[*].addresses[*]}",
    )  # fmt: skip
    assert slices.stdout == address
    assert f"{address}:80" in lab.kubectl(ONE, *run, "describe", "service", "web").stdout


def test_deleting_a_namespace_takes_its_pods_along(lab: Lab) -> None:
    lab.kubectl(ONE, "create", "namespace", "shortlived")
    web(lab, ONE, "shortlived", "web")
    lab.kubectl(ONE, "delete", "namespace", "shortlived")
    assert lab.kubectl(ONE, "get", "namespace", "shortlived", check=False).returncode == 1


def test_a_pod_with_several_containers_init_and_shared_files(lab: Lab, namespace: str) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "team"},
        "spec": {
            "restartPolicy": "Never",
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "initContainers": [
                {
                    "name": "prepare",
                    "image": "busybox",
                    "command": ["sh", "-c", "echo from $(NODE) >/data/note"],
                    "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "volumeMounts": [{"name": "shared", "mountPath": "/data"}],
                }
            ],
            "containers": [
                {
                    "name": "reader",
                    "image": "busybox",
                    "command": ["cat", "/data/note"],
                    "volumeMounts": [{"name": "shared", "mountPath": "/data"}],
                },
                {"name": "other", "image": "busybox", "command": ["true"]},
            ],
        },
    }
    run = ("-n", namespace)
    lab.kubectl(ONE, *run, "apply", "-f", "-", input=json.dumps(manifest))
    lab.kubectl(ONE, *run, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/team", "--timeout=30s")
    node = lab.kubectl(ONE, *run, "get", "pod", "team", "-o", "jsonpath={.spec.nodeName}").stdout
    assert lab.kubectl(ONE, *run, "logs", "team", "-c", "reader").stdout == f"from {node}\n"


def test_a_pod_cannot_send_from_another_address(lab: Lab, namespace: str) -> None:
    address = web(lab, TWO, namespace, "web")
    node = lab.kubectl(TWO, "-n", namespace, "get", "pod", "web", "-o", "jsonpath={.spec.nodeName}").stdout

    route = lab.isthmus("lab", "exec", TWO, node, "--", "ip", "route", "get", address).stdout
    link = re.search(r"dev (veth\S+)", route)
    assert link is not None, route
    setting = f"/proc/sys/net/ipv4/conf/{link[1]}/rp_filter"
    assert lab.isthmus("lab", "exec", TWO, node, "--", "cat", setting).stdout.strip() == "1"
