"""What a node does with the containers of a pod, through real kubectl."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from isthmus.lab.node.containers.run import set_size

from .conftest import ONE, Lab

pytestmark = pytest.mark.kubectl

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.39"


class Pods:
    """kubectl in one namespace."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self.lab = lab
        self.namespace = namespace

    def __call__(self, *args: str, check: bool = True, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.lab.kubectl(ONE, "-n", self.namespace, *args, check=check, input=input)

    def apply(self, *objects: dict[str, Any]) -> None:
        self("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def wait(self, name: str, condition: str) -> None:
        self("wait", f"--for={condition}", f"pod/{name}", "--timeout=30s")

    def ready(self, name: str) -> None:
        self.wait(name, "condition=Ready")

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", "pod", name, "-o", "json").stdout)
        return found

    def exec(self, name: str, *command: str, container: str = "c", check: bool = True) -> str:
        return self("exec", name, "-c", container, "--", *command, check=check).stdout

    def events(self, name: str) -> str:
        return self("get", "events", "--field-selector", f"involvedObject.name={name}").stdout

    def event(self, name: str, text: str) -> None:
        """Waits for an Event that contains `text`."""
        eventually(lambda: text in self.events(name), lambda: self.events(name))


def eventually(holds: Any, said: Any = lambda: "") -> None:
    """Waits until `holds()` is true, at most 20 seconds."""
    deadline = time.monotonic() + 20
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen in 20 s: {said()}")
        time.sleep(0.1)


def pod(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    spec.setdefault("terminationGracePeriodSeconds", 1)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": list(containers), **spec},
    }


def shell(script: str, name: str = "c", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "busybox", "command": ["sh", "-c", script], **more}


SLEEPER = {"name": "c", "image": "busybox", "command": ["sleep", "3600"]}


@pytest.fixture
def pods(lab: Lab, namespace: str) -> Pods:
    return Pods(lab, namespace)


def test_sidecars_start_in_order_keep_running_and_end_last(pods: Pods) -> None:
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    loop = "trap 'echo %s ends >>/shared/log; exit 0' TERM; echo %s >>/shared/log; while :; do sleep 0.05; done"
    pods.apply(
        pod(
            "team",
            shell("echo main >>/shared/log; sleep 1; echo main ends >>/shared/log", **mount),
            initContainers=[
                shell(loop % ("one", "one"), "one", restartPolicy="Always", **mount),
                shell("echo init >>/shared/log", "init", **mount),
                shell(
                    loop % ("two", "two"), "two", restartPolicy="Always",
                    startupProbe={"exec": {"command": ["true"]}, "periodSeconds": 1}, **mount,
                ),
            ],
            volumes=[{"name": "shared", "hostPath": {"path": f"/{pods.namespace}", "type": "DirectoryOrCreate"}}],
            restartPolicy="Never", nodeName="one-worker", terminationGracePeriodSeconds=10,
        )
    )  # fmt: skip
    pods.wait("team", "jsonpath={.status.phase}=Succeeded")
    reader = shell("cat /shared/log", volumeMounts=[{"name": "shared", "mountPath": "/shared"}])
    volume = {"name": "shared", "hostPath": {"path": f"/{pods.namespace}", "type": "Directory"}}
    pods.apply(pod("reader", reader, volumes=[volume], restartPolicy="Never", nodeName="one-worker"))
    pods.wait("reader", "jsonpath={.status.phase}=Succeeded")
    said = pods("logs", "reader").stdout.split("\n")
    assert said == ["one", "init", "two", "main", "main ends", "two ends", "one ends", ""]


def test_probes_decide_about_traffic_and_restarts(pods: Pods) -> None:
    server = {
        "name": "c",
        "image": AGNHOST,
        "args": ["netexec", "--http-port=8080"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "startupProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
        "readinessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/busy"]}, "periodSeconds": 1,
                           "failureThreshold": 1},
        "livenessProbe": {"httpGet": {"path": "/hostname", "port": "http",
                                      "httpHeaders": [{"name": "X-Probe", "value": "1"}]}, "periodSeconds": 1},
    }  # fmt: skip
    dying = shell(
        "touch /tmp/alive; sleep 3600",
        livenessProbe={"exec": {"command": ["cat", "/tmp/gone"]}, "periodSeconds": 1, "failureThreshold": 1},
    )
    slow = shell(
        "sleep 3600",
        startupProbe={"httpGet": {"path": "/", "port": 81}, "periodSeconds": 1, "failureThreshold": 1},
    )
    pods.apply(pod("server", server), pod("dying", dying), pod("slow", slow))
    pods.ready("server")
    pods.exec("server", "touch", "/tmp/busy")
    pods.wait("server", "condition=Ready=false")
    pods.exec("server", "rm", "/tmp/busy")
    pods.ready("server")
    assert pods.get("server")["status"]["containerStatuses"][0]["restartCount"] == 0
    pods.wait("dying", "jsonpath={.status.containerStatuses[0].restartCount}=1")
    pods.event("dying", "Liveness probe failed: cat: can't open '/tmp/gone'")
    pods.event("dying", "Container c failed liveness probe, will be restarted")
    pods.event("slow", "Startup probe failed: Get")
    pods.event("slow", "connect: connection refused")


def test_readiness_gates_are_honoured(pods: Pods) -> None:
    pods.apply(pod("gated", SLEEPER, readinessGates=[{"conditionType": "example.org/open"}]))
    pods.wait("gated", "condition=ContainersReady")
    conditions = {c["type"]: c for c in pods.get("gated")["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == "ReadinessGatesNotReady"
    opened = {"status": {"conditions": [{"type": "example.org/open", "status": "True"}]}}
    pods("patch", "pod", "gated", "--subresource=status", "--type=strategic", "-p", json.dumps(opened))
    pods.ready("gated")


def test_hooks_run_and_what_a_container_says_at_its_end_is_shown(pods: Pods) -> None:
    said = shell(
        "trap 'echo stopped >/dev/termination-log; exit 4' TERM; while :; do sleep 0.05; done",
        lifecycle={"postStart": {"exec": {"command": ["touch", "/tmp/begun"]}}},
    )
    failing = shell("sleep 3600", lifecycle={"postStart": {"exec": {"command": ["false"]}}})
    talker = shell("echo the reason; exit 3", terminationMessagePolicy="FallbackToLogsOnError")
    late = pod("late", shell("trap '' TERM; sleep 3600"), activeDeadlineSeconds=1, terminationGracePeriodSeconds=0)
    pods.apply(pod("said", said, restartPolicy="Never"), pod("failing", failing), late)
    pods.apply(pod("talker", talker, restartPolicy="Never"))
    pods.wait("talker", "jsonpath={.status.phase}=Failed")
    ended = pods.get("talker")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "the reason\n")
    pods.event("failing", "FailedPostStartHook")
    pods.wait("late", "jsonpath={.status.phase}=Failed")
    assert pods.get("late")["status"]["reason"] == "DeadlineExceeded"
    pods.ready("said")
    pods.exec("said", "test", "-e", "/tmp/begun")
    pods.exec("said", "kill", "1")
    pods.wait("said", "jsonpath={.status.phase}=Failed")
    assert pods.get("said")["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "stopped\n"


def test_a_container_that_cannot_be_configured_says_why_and_starts_when_it_can(pods: Pods) -> None:
    waiting = {**SLEEPER, "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "x"}}}]}
    wrong = {**SLEEPER, "securityContext": {"runAsNonRoot": True}}
    volume = {"name": "v", "configMap": {"name": "later"}}
    mounting = {**SLEEPER, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    claim = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}
    pods.apply(
        pod("waiting", waiting), pod("wrong", wrong), pod("mounting", mounting, volumes=[volume]),
        pod("claiming", mounting, volumes=[claim], nodeName="one-worker"),
        pod("lost", {"name": "c", "image": "busybox", "command": ["/no/such"]}),
    )  # fmt: skip
    for name in ("waiting", "wrong"):
        pods.wait(name, "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError")
    message = pods.get("waiting")["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    assert message == 'configmap "later" not found'
    pods.event("wrong", "container has runAsNonRoot and image will run as root")
    pods.event("mounting", 'MountVolume.SetUp failed for volume "v" : configmap "later" not found')
    pods.event("claiming", "persistentVolumeClaim volumes are not supported by the lab, which has emptyDir")
    pods.wait("lost", "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff")
    pods.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "data": {"x": "1"}})
    pods.ready("waiting")
    pods.ready("mounting")
    assert pods.exec("mounting", "cat", "/v/x") == "1"
    assert pods.exec("waiting", "printenv", "X") == "1\n"


def test_volumes_follow_their_objects_in_running_pods(pods: Pods) -> None:
    mounts = [
        {"name": "all", "mountPath": "/all"},
        {"name": "all", "mountPath": "/one.txt", "subPath": "one.txt"},
        {"name": "scratch", "mountPath": "/scratch"},
    ]
    sources = [
        {"configMap": {"name": "config"}},
        {"secret": {"name": "secret", "items": [{"key": "word", "path": "deep/word", "mode": 0o400}]}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    pods.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}, "data": {"one.txt": "1"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "stringData": {"word": "sesame"}},
        pod(
            "reader", {**SLEEPER, "volumeMounts": mounts},
            volumes=[{"name": "all", "projected": {"sources": sources}},
                     {"name": "scratch", "emptyDir": {"medium": "Memory"}}],
        ),
    )  # fmt: skip
    pods.ready("reader")
    assert pods.exec("reader", "cat", "/all/one.txt", "/all/deep/word", "/one.txt") == "1sesame1"
    assert pods.exec("reader", "touch", "/all/x", check=False) == ""
    pods.exec("reader", "touch", "/scratch/x")
    pods("patch", "configmap", "config", "-p", '{"data": {"one.txt": "2", "two.txt": "3"}}')
    pods("label", "pod", "reader", "new=label")
    eventually(lambda: pods.exec("reader", "sh", "-c", "cat /all/*.txt") == "23")
    eventually(lambda: 'new="label"' in pods.exec("reader", "cat", "/all/labels"))
    # What was mounted as a file stays as it was when the container started.
    assert pods.exec("reader", "cat", "/one.txt") == "1"


def test_a_pod_knows_its_service_account_the_api_server_and_itself(pods: Pods) -> None:
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
        {"name": "BOTH", "value": "$(IP)-$(CPU)"},
    ]
    container = {**SLEEPER, "env": env, "resources": {"requests": {"cpu": "250m"}}}
    pods.apply(
        pod("aware", container, hostname="me", subdomain="here", hostAliases=[{"ip": "10.9.9.9", "hostnames": ["x"]}])
    )
    pods.ready("aware")
    pods("create", "service", "clusterip", "early", "--tcp=80")
    address = pods.get("aware")["status"]["podIP"]
    assert pods.exec("aware", "printenv", "BOTH") == f"{address}-250\n"
    assert "KUBERNETES_SERVICE_HOST=172.20.1.1\n" in pods.exec("aware", "env")
    hosts = pods.exec("aware", "cat", "/etc/hosts")
    assert f"{address}\tme.here.{pods.namespace}.svc.cluster.local\tme\n" in hosts
    assert "10.9.9.9\tx\n" in hosts
    place = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = (
        f'curl -sS --cacert {place}/ca.crt -H "Authorization: Bearer $(cat {place}/token)" '
        f"https://$KUBERNETES_SERVICE_HOST/api/v1/namespaces/$(cat {place}/namespace)/pods/aware"
    )
    assert json.loads(pods.exec("aware", "sh", "-c", script))["metadata"]["name"] == "aware"


def test_links_in_volumes_do_not_lead_to_the_machine(pods: Pods) -> None:
    data = {"name": "data", "mountPath": "/data"}
    through = {"name": "data", "mountPath": "/through", "subPath": "link"}
    below = {"name": "other", "mountPath": "/data/link/isthmus"}
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "other", "emptyDir": {}}]
    prepare = [shell("ln -s /etc /data/link", "prepare", volumeMounts=[data])]
    for name, mounts in (("through", [through]), ("below", [data, below])):
        pods.apply(pod(name, {**SLEEPER, "volumeMounts": mounts}, volumes=volumes, initContainers=prepare))
    pods.event("through", 'volumeMount "data": subPath leaves the volume')
    pods.event("below", "leads out of the container")
    assert not os.path.exists("/etc/isthmus")


def test_the_security_context_decides_who_runs(pods: Pods) -> None:
    container = {
        **SLEEPER,
        "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    context = {"runAsUser": 0, "fsGroup": 2000, "supplementalGroups": [3000]}
    pods.apply(pod("limited", container, securityContext=context, volumes=[{"name": "data", "emptyDir": {}}]))
    pods.ready("limited")
    assert "3000" in pods.exec("limited", "id")
    assert pods("exec", "limited", "--", "touch", "/x", check=False).returncode == 1
    pods.exec("limited", "touch", "/data/x")
    assert pods.exec("limited", "stat", "-c", "%g", "/data/x") == "2000\n"
    assert "CapEff:\t0000000000000000" in pods.exec("limited", "cat", "/proc/self/status")


def test_containers_of_a_pod_may_share_their_processes(pods: Pods) -> None:
    pods.apply(pod("shared", shell("sleep 3601"), shell("sleep 3602", "d"), shareProcessNamespace=True))
    pods.ready("shared")
    seen = pods.exec("shared", "ps", container="d")
    assert "sleep 3601" in seen
    assert "sleep 3602" in seen


def test_a_terminal_has_a_name_and_a_size(pods: Pods) -> None:
    pods.apply(pod("screen", SLEEPER))
    pods.ready("screen")
    ours, theirs = pty.openpty()
    set_size(theirs, columns=91, rows=33)
    # As under a shell: only the terminal that controls it tells kubectl of a new size.
    words = ["setsid", "--ctty", "kubectl", "--context", f"lab-{ONE}", "-n", pods.namespace]
    words += ["exec", "-it", "screen", "--"]
    script = "tty; while :; do stty size; sleep 0.1; done"
    process = subprocess.Popen(
        [*words, "sh", "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, env=pods.lab.environ
    )
    os.close(theirs)
    seen = b""
    try:
        while b"33 91" not in seen:
            seen += os.read(ours, 4096)
        set_size(ours, columns=50, rows=20)
        while b"20 50" not in seen:
            seen += os.read(ours, 4096)
    finally:
        process.kill()
        process.wait(timeout=10)
        os.close(ours)
    assert b"/dev/pts/0" in seen


def test_clients_that_still_speak_spdy_are_served(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    # A real API server asks its nodes over SPDY, whatever its own clients speak.
    monkeypatch.setitem(pods.lab.environ, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
    pods.apply(pod("old", shell("cat; sleep 3600", stdin=True)))
    pods.ready("old")
    done = pods("exec", "-i", "old", "--", "sh", "-c", "cat; echo bad >&2; exit 6", input="in\n" * 50_000, check=False)
    assert (done.returncode, done.stdout) == (6, "in\n" * 50_000)
    assert done.stderr.startswith("bad\n")
    assert pods("exec", "old", "--", "no-such-program", check=False).returncode == 127


def test_files_are_copied_both_ways(pods: Pods, tmp_path: Path) -> None:
    pods.apply(pod("box", SLEEPER))
    pods.ready("box")
    (tmp_path / "there").write_bytes(bytes(range(256)) * 1000)
    pods("cp", f"{tmp_path}/there", "box:/tmp/there")
    pods("cp", "box:/tmp/there", f"{tmp_path}/back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()


def test_a_port_of_a_pods_loopback_is_forwarded(pods: Pods) -> None:
    serve = shell("mkdir /www; echo inside >/www/index.html; httpd -f -p 127.0.0.1:8080 -h /www")
    pods.apply(pod("inner", serve))
    pods.ready("inner")
    process = subprocess.Popen(
        ["kubectl", "--context", f"lab-{ONE}", "-n", pods.namespace, "port-forward", "pod/inner", ":8080"],
        env=pods.lab.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        match = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match is not None
        url = f"http://127.0.0.1:{match[1]}/"
        ask = ["curl", "-sS", "--noproxy", "*", "--retry", "20", "--retry-all-errors", "--retry-delay", "1", url]
        assert subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60).stdout == "inside\n"
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_pods_survive_their_nodes_process(pods: Pods) -> None:
    pods.apply(
        pod("steady", shell("while :; do date +%s; sleep 0.2; done"), nodeName="one-worker2"),
        pod("brief", shell("sleep 2; exit 5"), nodeName="one-worker2", restartPolicy="Never"),
    )
    pods.ready("steady")
    pods.ready("brief")
    before = pods.get("steady")["status"]
    node = pods.lab.processes()[ONE, "node-one-worker2"]
    os.kill(node, signal.SIGKILL)
    pods.wait("brief", "jsonpath={.status.phase}=Failed")
    assert pods.get("brief")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 5
    after = pods.get("steady")["status"]
    assert after["containerStatuses"][0]["containerID"] == before["containerStatuses"][0]["containerID"]
    assert after["podIP"] == before["podIP"]
    assert pods.exec("steady", "echo", "here") == "here\n"


def keeper_of(lab: Lab, node: str) -> int:
    """Returns the process that is the parent of a node's containers."""
    place = f"{lab.directory}/run/{ONE}/sandboxes/{node}/keeper".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            if place in words:
                return int(entry)
    pytest.fail(f"{node} has no keeper")


def test_containers_survive_their_keeper_and_new_ones_get_another(pods: Pods) -> None:
    pods.apply(pod("old", SLEEPER, nodeName="one-worker2"))
    pods.ready("old")
    keeper = keeper_of(pods.lab, "one-worker2")
    os.kill(keeper, signal.SIGKILL)
    pods.apply(pod("new", SLEEPER, nodeName="one-worker2"))
    pods.ready("new")
    assert keeper_of(pods.lab, "one-worker2") != keeper
    assert pods.exec("old", "echo", "still", "here") == "still here\n"
    assert pods.get("old")["status"]["containerStatuses"][0]["restartCount"] == 0
    # Nobody was there to hear how it ended.
    pods.exec("old", "sh", "-c", "kill -9 -1", check=False)
    pods("delete", "pod", "old", "new", "--now")


def test_a_pod_deleted_while_it_starts_leaves_nothing(pods: Pods) -> None:
    names = [f"hasty-{number}" for number in range(12)]
    pods.apply(*(pod(name, SLEEPER, nodeName="one-worker") for name in names))
    pods("delete", "pods", *names, "--now")
    links = pods.lab.isthmus("lab", "exec", ONE, "one-worker", "--", "ip", "-brief", "link", "show", "type", "veth")
    addresses = pods.lab.kubectl(
        ONE, "get", "pods", "-A", "--field-selector=spec.nodeName=one-worker", "-o", "name"
    ).stdout.split()
    assert len([line for line in links.stdout.splitlines() if line.startswith("veth")]) <= len(addresses)
