"""Names and images of the lab through real kubectl: what pods can call each other, and what well-known images do."""

import json
import re
from collections.abc import Iterator

import pytest

from .conftest import ONE, Lab

pytestmark = pytest.mark.kubectl

OBJECTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: pages}
data:
  index.html: |
    {"Cluster": "one"}
  extra.conf: |
    server { listen 8081; location / { return 200 "extra $host\\n"; } }
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec:
  hostname: web-0
  subdomain: web-headless
  containers:
  - name: nginx
    image: docker.io/library/nginx:1.27
    ports: [{name: http, containerPort: 80}]
    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
    volumeMounts:
    - {name: pages, mountPath: /usr/share/nginx/html}
    - {name: pages, mountPath: /etc/nginx/conf.d/extra.conf, subPath: extra.conf}
  volumes: [{name: pages, configMap: {name: pages}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.NAMESPACE.svc.cluster.local}
---
apiVersion: v1
kind: Pod
metadata: {name: deathstar, labels: {app: deathstar}}
spec: {containers: [{name: deathstar, image: "quay.io/cilium/starwars:v2.1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: client, image: "quay.io/cilium/json-mock:v1.3.8"}]}
"""


@pytest.fixture(scope="module")
def world(lab: Lab) -> Iterator["World"]:
    name = "names"
    lab.kubectl(ONE, "create", "namespace", name)
    world = World(lab, name)
    world.kubectl("apply", "-f", "-", input=OBJECTS.replace("NAMESPACE", name))
    world.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=40s")
    yield world
    lab.kubectl(ONE, "delete", "namespace", name, check=False)


class World:
    """The objects above in a namespace of cluster `one`."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self.lab = lab
        self.namespace = namespace

    def kubectl(self, *args: str, input: str | None = None) -> str:
        return self.lab.kubectl(ONE, "-n", self.namespace, *args, input=input).stdout

    def client(self, *command: str, check: bool = True) -> str:
        """Runs a program in the client's pod."""
        return self.lab.kubectl(ONE, "-n", self.namespace, "exec", "client", "--", *command, check=check).stdout

    def field(self, what: str, path: str) -> str:
        return self.kubectl("get", *what.split("/"), "-o", f"jsonpath={{{path}}}")


@pytest.mark.parametrize(
    "name", ["web", "web.names", "web.names.svc", "web.names.svc.cluster.local", "alias", "web-headless"]
)
def test_a_service_answers_to_all_its_names(world: World, name: str) -> None:
    assert world.client("curl", "-sS", "--max-time", "5", name) == '{"Cluster": "one"}\n'


def test_lookups_say_what_there_is(world: World) -> None:
    address, pod = world.field("service/web", ".spec.clusterIP"), world.field("pod/web-0", ".status.podIP")
    assert f"Address: {address}\n" in world.client("nslookup", "web")
    assert f"Address: {pod}\n" in world.client("nslookup", "web-headless")
    assert f"Address: {pod}\n" in world.client("nslookup", "web-0.web-headless")
    assert f"Address: {pod}\n" in world.client("nslookup", f"{pod.replace('.', '-')}.names.pod")
    found = world.client("nslookup", "-type=srv", "_http._tcp.web-headless.names.svc.cluster.local")
    assert re.search(r"service = 0 100 80 web-0\.web-headless\.names\.svc\.cluster\.local\.\n", found), found
    assert "name = web.names.svc.cluster.local." in world.client("nslookup", address)
    assert "can't find nope.names.svc.cluster.local: NXDOMAIN" in world.client(
        "nslookup", "nope.names.svc.cluster.local", check=False
    )
    assert "REFUSED" in world.client("nslookup", "example.com", check=False)


def test_one_dns_pod_is_enough(world: World) -> None:
    system = ("-n", "kube-system")
    pods = world.lab.kubectl(ONE, *system, "get", "pods", "-l", "k8s-app=kube-dns", "-o", "name").stdout.split()
    assert len(pods) == 2
    world.lab.kubectl(ONE, *system, "delete", "--now", pods[0])
    assert world.client("curl", "-sS", "--max-time", "10", "web") == '{"Cluster": "one"}\n'
    world.lab.kubectl(ONE, *system, "rollout", "status", "deployment/coredns", "--timeout=40s")


def test_nginx_reads_its_configuration_and_writes_its_log(world: World) -> None:
    pod = world.field("pod/web-0", ".status.podIP")
    assert world.client("curl", "-sS", f"http://{pod}:8081/x") == f"extra {pod}\n"
    assert "GET /x HTTP/1.1" in world.kubectl("logs", "web-0")
    world.kubectl("exec", "web-0", "--", "nginx", "-t")


def test_the_death_star_lets_ships_land(world: World) -> None:
    address = world.field("pod/deathstar", ".status.podIP")
    assert world.client("curl", "-s", "-XPOST", f"{address}/v1/request-landing") == "Ship landed\n"
    assert world.client("curl", "-s", "-XPUT", f"{address}/v1/exhaust-port").startswith("Panic: deathstar exploded\n")


def test_json_mock_keeps_a_document(world: World) -> None:
    assert json.loads(world.client("curl", "-s", "localhost/public/1")) == {"id": 1, "body": "public information"}
    assert json.loads(world.client("curl", "-s", "-XPOST", "-d", "{}", "localhost/private"))["id"] == 2


def test_an_unknown_image_says_which_there_are(world: World) -> None:
    world.kubectl("run", "unknown", "--image=redis:7")
    reason = "{.status.containerStatuses[0].state.waiting.reason}"
    world.kubectl("wait", f"--for=jsonpath={reason}=ImagePullBackOff", "pod/unknown", "--timeout=30s")
    message = world.field("pod/unknown", ".status.containerStatuses[0].state.waiting.message")
    assert 'Back-off pulling image "redis:7"' in message and "nginx" in message
    world.kubectl("delete", "pod", "unknown", "--now")
