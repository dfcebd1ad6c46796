"""Policy by origin cluster, typed as it is written: three clusters, one application, one manifest on one of them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import new_lab, remove_lab
from .terminals import EXAMPLES, Tab

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(300)]

FILES = EXAMPLES / "origin-cluster"
CLUSTERS = ("cluster1", "cluster2", "cluster3")
LOCAL = "cluster3"
"""The cluster in which a selector that names no cluster means its own."""
FORMS = {
    "allow-cross-cluster.yaml": "ciliumnetworkpolicy.cilium.io",
    "networkpolicy.yaml": "networkpolicy.networking.k8s.io",
    "clusternetworkpolicy.yaml": "clusternetworkpolicy.policy.networking.k8s.io",
}
PATIENCE = 20.0  # seconds for a policy to be enforced; tens of milliseconds on an idle machine

Answers = dict[tuple[str, str], str]
"""(cluster of the frontend, cluster of the backend) -> what curl got."""

OPEN: Answers = {(one, two): f"backend of {two}" for one in CLUSTERS for two in CLUSTERS}
OTHERS: Answers = {("cluster2", "cluster2"): "28", ("cluster3", "cluster2"): "28"}
"""The pairs that the policy on cluster2 forbids: curl (28) is a time-out."""


class Application:
    """The application on three clusters, asked from everywhere."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        words = "get pod -l app=backend -o jsonpath='{.items[0].status.podIP}'"
        self.addresses = {name: tab.type(f"kubectl --context {name} {words}") for name in CLUSTERS}

    def asked(self) -> Answers:
        """Every frontend asks every backend once."""
        with ThreadPoolExecutor(len(CLUSTERS)) as pool:
            rows = pool.map(self._asked_by, CLUSTERS)
        return {pair: answer for row in rows for pair, answer in row.items()}

    def _asked_by(self, frontend: str) -> Answers:
        urls = " ".join(f"{address}:8080" for address in self.addresses.values())
        loop = f"for url in {urls}; do curl -s --max-time 0.7 $url || echo $?; done"
        shown = self.tab.type(f"kubectl --context {frontend} exec deployment/frontend -- sh -c '{loop}'").splitlines()
        return dict(zip(((frontend, backend) for backend in self.addresses), shown, strict=True))

    def eventually(self, expected: Answers) -> None:
        """Asks until the answers are these."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.asked()) != expected:
            if time.monotonic() > deadline:
                wrong = {pair: answer for pair, answer in found.items() if answer != expected[pair]}
                pytest.fail(f"after {PATIENCE:.0f} s still: {wrong}")


@pytest.fixture(scope="module")
def application(kubectl_program: str) -> Iterator[Application]:
    lab = new_lab()
    try:
        for name in CLUSTERS:
            scope = "local" if name == LOCAL else "clusterset"
            lab.isthmus("lab", "create", name, "--nodes", "1", "--context-prefix", "", "--policy-scope", scope)
        tab = Tab(lab, FILES)
        for name in CLUSTERS:
            tab.type(f"kubectl --context={name} create configmap cluster --from-literal=name={name}")
            tab.type(f"kubectl --context={name} apply -f app.yaml")
        for name in CLUSTERS:
            for app in ("backend", "frontend"):
                tab.type(f"kubectl --context={name} rollout status deployment/{app} --timeout=60s")
        made = Application(tab)
        made.eventually(OPEN)
        yield made
    finally:
        remove_lab(lab)


@pytest.fixture(params=FORMS)
def form(application: Application, request: pytest.FixtureRequest) -> Iterator[str]:
    """One of the manifests, gone from all clusters afterwards."""
    name: str = request.param
    yield name
    for cluster in CLUSTERS:
        application.tab.type(f"kubectl --context={cluster} delete -f {name} --ignore-not-found --wait=false")
    application.eventually(OPEN)


def test_only_frontends_of_the_named_cluster_reach_backends_of_the_cluster_that_holds_it(
    application: Application, form: str
) -> None:
    tab = application.tab
    assert tab.type(f"kubectl apply -f {form} --context=cluster2") == f"{FORMS[form]}/allow-cross-cluster created\n"

    application.eventually({**OPEN, **OTHERS})
    for backend in ("cluster1", "cluster3"):
        url = f"{application.addresses[backend]}:8080"
        shown = tab.type(f"kubectl --context=cluster2 exec deployment/backend -- curl -s --max-time 2 {url}")
        assert shown == f"backend of {backend}\n", "what the policed backend itself asks is nobody's concern"

    for frontend in ("cluster1", "cluster3"):
        ends = f"--from {frontend}:default/frontend --to cluster2:default/backend --port 8080/TCP"
        shown = tab.type(f"isthmus policy explain {ends}", code=0 if frontend == "cluster1" else 2)
        assert "allow-cross-cluster" in shown, "what allowed it, or what kept others out"


@pytest.mark.parametrize("form", ["allow-cross-cluster.yaml"], indirect=True)
def test_the_same_manifest_on_every_cluster_admits_the_named_cluster_everywhere(
    application: Application, form: str
) -> None:
    application.tab.type(f"for c in {' '.join(CLUSTERS)}; do kubectl apply -f {form} --context=$c; done")

    application.eventually({pair: answer if pair[0] == "cluster1" else "28" for pair, answer in OPEN.items()})


def test_clusters_are_chosen_by_what_they_say_of_themselves_and_followed(application: Application) -> None:
    tab = application.tab
    closed = {pair: "28" if pair[1] == "cluster2" else answer for pair, answer in OPEN.items()}
    try:
        tab.type("kubectl apply -f by-property.yaml --context=cluster2")
        application.eventually(closed)

        for name in ("cluster1", "cluster3"):
            tab.type(f"kubectl apply -f production.yaml --context={name}")
        application.eventually(
            {**closed, **{(name, "cluster2"): "backend of cluster2" for name in ("cluster1", "cluster3")}}
        )

        change = """kubectl patch clusterproperty environment --type=merge -p '{"spec":{"value":"test"}}'"""
        tab.type(f"{change} --context=cluster1")
        application.eventually({**closed, ("cluster3", "cluster2"): "backend of cluster2"})
    finally:
        tab.type("kubectl delete -f by-property.yaml --context=cluster2")
        for name in ("cluster1", "cluster3"):
            tab.type(f"kubectl delete clusterproperty environment --context={name} --ignore-not-found")


FROM_FRONTENDS = """{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: from-frontends}, spec:
  {endpointSelector: {matchLabels: {app: backend}}, ingress: [{fromEndpoints: [{matchLabels: {app: frontend}}]}]}}"""


def test_who_is_meant_where_no_cluster_is_named_depends_on_the_scope(application: Application) -> None:
    tab = application.tab
    apply, name = (
        f"kubectl --context={LOCAL} apply -f - <<'EOF'\n{FROM_FRONTENDS}\nEOF",
        "ciliumnetworkpolicy from-frontends",
    )
    explain = f"isthmus policy explain --from cluster1:frontend --to {LOCAL}:backend --port 8080"
    try:
        tab.type(apply)
        application.eventually(
            {pair: "28" if pair[1] == LOCAL and pair[0] != LOCAL else answer for pair, answer in OPEN.items()}
        )
        assert "(scope local)" in tab.type(explain, code=2)
        assert "default/from-frontends" in tab.run(f"isthmus policy inspect-scope --context {LOCAL}")[1]

        tab.type(f"kubectl --context={LOCAL} annotate {name} isthmus.dev/policy-scope=clusterset")
        application.eventually(OPEN)
        assert "(scope clusterset)" in tab.type(explain)
    finally:
        tab.type(f"kubectl --context={LOCAL} delete {name} --ignore-not-found")
