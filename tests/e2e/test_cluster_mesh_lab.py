"""The Cluster Mesh lab, typed as it is written: two clusters from kind's files, and the same application on both."""

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from tests.support.steady import PROGRAM

from .conftest import Lab, new_lab, remove_lab
from .terminals import EXAMPLES, Tab

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(300)]

FILES = EXAMPLES / "cluster-mesh-lab"
KOORNACHT = """{"Cluster": "Koornacht", "Planet": "N'Zoth"}"""
TION = """{"Cluster": "Tion", "Planet": "Foran Tutha"}"""
BOTH = {KOORNACHT, TION}
STEADY = PROGRAM.read_text().replace("'", "'\\''")
ASK = "kubectl exec -ti deployments/x-wing -- /bin/sh -c 'for i in $(seq 1 10); do curl rebel-base; done'"


class Tabs:
    """The three terminals of the lab."""

    def __init__(self, lab: Lab) -> None:
        self.koornacht, self.tion = Tab(lab, FILES, "koornacht"), Tab(lab, FILES, "tion")
        self.everything = Tab(lab, FILES)


def wait_until(tab: Tab, answers: set[str]) -> None:
    """Asks until, of ten answers, there is none but these and each of these: a change takes a moment to arrive."""
    shown: list[str] = []
    for _ in range(20):
        shown = tab.type(ASK.replace("curl ", "curl -s --max-time 5 ")).splitlines()
        if set(shown) == answers:
            return
    pytest.fail(f"answers were {shown}")


def ask_often(tab: Tab, times: int) -> dict[str, int]:
    """Asks by connections of their own and counts the clusters that answer."""
    shown = tab.type(
        f"kubectl exec -i deployments/x-wing -- python3 -u -c '{STEADY}' rebel-base 80 400 {times} < /dev/null"
    )
    return dict(Counter(line.split()[2] for line in shown.splitlines()))


@pytest.fixture(scope="module")
def tabs(kubectl_program: str) -> Iterator[Tabs]:
    lab = new_lab()
    try:
        for name in ("koornacht", "tion"):
            config = FILES / f"kind_{name}.yaml"
            words = ["--name", name, "--config", str(config), "--context-prefix", "kind-", "--no-connect"]
            lab.isthmus("lab", "create", *words)
        yield Tabs(lab)
    finally:
        remove_lab(lab)


@pytest.fixture(scope="module")
def meshed(tabs: Tabs) -> Tabs:
    """The clusters joined, as the second chapter joins them."""
    for tab in (tabs.koornacht, tabs.tion):
        tab.type("isthmus clustermesh enable --service-type NodePort")
        shown = tab.type("isthmus clustermesh status --wait --wait-duration 60s")
        assert '✅ Service "isthmus-tracker" of type "NodePort" found' in shown
        assert "🔌 No cluster connected" in shown
    shown = tabs.everything.type("isthmus clustermesh connect --context kind-koornacht --destination-context kind-tion")
    assert shown.splitlines()[-1] == "✅ Connected cluster koornacht <=> tion!"
    for tab, other in ((tabs.koornacht, "tion"), (tabs.tion, "koornacht")):
        shown = tab.type("isthmus clustermesh status --wait --wait-duration 60s")
        assert "✅ All 3 nodes are connected to all clusters [min:1 / avg:1.0 / max:1]" in shown
        assert f"  - {other}: 3/3 configured, 3/3 connected" in shown
    return tabs


@pytest.fixture(scope="module")
def applied(meshed: Tabs) -> Tabs:
    """The application on both clusters, each in the order in which its chapter applies the files."""
    tabs = meshed
    shown = tabs.koornacht.type("kubectl apply -f configmap_koornacht.yaml -f deployment.yaml -f service.yaml")
    assert shown.splitlines() == [
        "configmap/rebel-base-response created",
        "deployment.apps/rebel-base created",
        "deployment.apps/x-wing created",
        "service/rebel-base created",
    ]
    tabs.tion.type("kubectl apply -f deployment.yaml")
    assert "Foran Tutha" in tabs.tion.type("kubectl apply -f configmap_tion.yaml -o yaml")
    assert tabs.tion.type("kubectl apply -f service.yaml") == "service/rebel-base created\n"
    for tab in (tabs.koornacht, tabs.tion):
        for name in ("rebel-base", "x-wing"):
            assert "successfully rolled out" in tab.type(f"kubectl rollout status deployment/{name} --timeout=60s")
    return tabs


@pytest.mark.parametrize("name", ["koornacht", "tion"])
def test_a_cluster_from_kinds_file_has_its_nodes(tabs: Tabs, name: str) -> None:
    rows = getattr(tabs, name).table("kubectl get nodes")

    assert [(row["NAME"], row["STATUS"], row["ROLES"]) for row in rows] == [
        (f"{name}-control-plane", "Ready", "control-plane"),
        (f"{name}-worker", "Ready", "<none>"),
        (f"{name}-worker2", "Ready", "<none>"),
    ]
    assert all(re.fullmatch(r"v1\.\d+\.\d+\S*", row["VERSION"]) for row in rows)


def test_both_contexts_are_called_as_kind_calls_them(tabs: Tabs) -> None:
    assert tabs.everything.type("kubectl config get-contexts -o name").split() == ["kind-koornacht", "kind-tion"]


@pytest.mark.parametrize(("name", "number"), [("koornacht", 1), ("tion", 2)])
def test_the_four_pods_run_spread_over_the_workers(applied: Tabs, name: str, number: int) -> None:
    rows = getattr(applied, name).table("kubectl get pods -owide")

    assert list(rows[0]) == [
        "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"
    ]  # fmt: skip
    assert all((row["READY"], row["STATUS"]) == ("1/1", "Running") for row in rows)
    workers = {f"{name}-worker": f"10.{number}.1.0/24", f"{name}-worker2": f"10.{number}.2.0/24"}
    placed = []
    for row in rows:
        match = re.fullmatch(r"(rebel-base|x-wing)-[0-9a-z]{8,10}-[0-9a-z]{5}", row["NAME"])
        assert match, row["NAME"]
        placed.append((match[1], row["NODE"]))
        assert ip_address(row["IP"]) in ip_network(workers[row["NODE"]])
    assert sorted(placed) == sorted((app, node) for app in ("rebel-base", "x-wing") for node in workers)


def test_each_service_answers_with_its_own_cluster(applied: Tabs) -> None:
    assert applied.koornacht.type(ASK).splitlines() == [KOORNACHT] * 10
    assert applied.tion.type(ASK).splitlines() == [TION] * 10
    other = ASK.replace("kubectl", "kubectl --context kind-tion", 1)
    assert applied.everything.type(other).splitlines() == [TION] * 10


def test_a_changed_config_map_reaches_the_running_pods(applied: Tabs) -> None:
    change = """kubectl patch configmap rebel-base-response -p '{"data":{"message":"moved\\n"}}'"""
    until = (
        "kubectl exec -ti deployments/x-wing -- /bin/sh -c 'until curl -s rebel-base | grep moved; do sleep .1; done'"
    )
    try:
        applied.tion.type(change)
        assert applied.tion.type(until) == "moved\n"
    finally:
        applied.tion.type("kubectl apply -f configmap_tion.yaml")
    back = until.replace("moved", "Foran")
    assert applied.tion.type(back) == f"{TION}\n"


def test_scaling_to_nothing_and_back(applied: Tabs) -> None:
    tab = applied.koornacht
    assert tab.type("kubectl scale deployment rebel-base --replicas 0") == "deployment.apps/rebel-base scaled\n"
    tab.type("kubectl wait --for=delete pod -l name=rebel-base --timeout=60s")
    refused = tab.type(ASK.replace("curl", "curl --max-time 5"), code=7)
    assert refused.count("curl: (7) Failed to connect to rebel-base port 80") == 10

    assert tab.type("kubectl scale deployment rebel-base --replicas 2") == "deployment.apps/rebel-base scaled\n"
    *waiting, last = tab.type("kubectl rollout status deployment/rebel-base").splitlines()
    assert last == 'deployment "rebel-base" successfully rolled out'
    for line in waiting:
        assert re.fullmatch(
            'Waiting for deployment "rebel-base" rollout to finish: [01] (of 2 updated replicas are available'
            "|out of 2 new replicas have been updated)\\.\\.\\.",
            line,
        )
    assert tab.type(ASK).splitlines() == [KOORNACHT] * 10


def test_requests_to_a_global_service_are_answered_by_both_clusters(applied: Tabs) -> None:
    for tab in (applied.koornacht, applied.tion):
        shown = tab.type('kubectl annotate service rebel-base service.cilium.io/global="true"')
        assert shown == "service/rebel-base annotated\n"

    for tab in (applied.koornacht, applied.tion):
        wait_until(tab, BOTH)
        counts = ask_often(tab, 2000)
        # Two of four backends are in each cluster: 23.93 is exceeded by chance once in a million times.
        assert (counts["Koornacht"] - counts["Tion"]) ** 2 / 2000 < 23.93, counts
        assert counts["Koornacht"] + counts["Tion"] == 2000
    described = applied.koornacht.type("isthmus service describe rebel-base")
    for cluster in (r"koornacht \(this one\)", "tion"):
        row = rf"{cluster} +Synced +2 +2 +100 +50 % +yes +used: 2 ready backends"
        assert re.search(row, described), described


def test_a_cluster_that_does_not_share_still_uses_the_other(applied: Tabs) -> None:
    tab = applied.koornacht
    assert tab.type("kubectl scale deployment rebel-base --replicas 2") == "deployment.apps/rebel-base scaled\n"
    shown = tab.type('kubectl annotate service rebel-base service.cilium.io/shared="false"')
    assert shown == "service/rebel-base annotated\n"

    wait_until(applied.tion, {TION})
    assert applied.tion.type(ASK).splitlines() == [TION] * 10
    assert ask_often(applied.tion, 200) == {"Tion": 200}
    assert set(ask_often(tab, 200)) == {"Koornacht", "Tion"}


def test_local_backends_come_first_and_others_stand_in_for_them(applied: Tabs) -> None:
    tab = applied.koornacht
    shown = tab.type("kubectl annotate service rebel-base service.cilium.io/affinity=local")
    assert shown == "service/rebel-base annotated\n"
    wait_until(tab, {KOORNACHT})
    assert tab.type(ASK).splitlines() == [KOORNACHT] * 10

    assert tab.type("kubectl scale deployment rebel-base --replicas 0") == "deployment.apps/rebel-base scaled\n"
    wait_until(tab, {TION})
    assert tab.type(ASK).splitlines() == [TION] * 10

    assert tab.type("kubectl scale deployment rebel-base --replicas 2") == "deployment.apps/rebel-base scaled\n"
    assert tab.type("kubectl rollout status deployment/rebel-base").endswith("successfully rolled out\n")
    wait_until(tab, {KOORNACHT})
    assert tab.type(ASK).splitlines() == [KOORNACHT] * 10

    tab.type("kubectl annotate --overwrite service rebel-base service.cilium.io/affinity=remote")
    wait_until(tab, {TION})
    assert ask_often(tab, 200) == {"Tion": 200}


def test_without_affinity_both_clusters_answer_again(applied: Tabs) -> None:
    tab = applied.koornacht
    shown = tab.type("kubectl annotate service rebel-base service.cilium.io/affinity-")
    assert shown == "service/rebel-base annotated\n"
    wait_until(tab, BOTH)
    for other in (tab, applied.tion):
        for key in ("global", "shared"):
            other.type(f"kubectl annotate service rebel-base service.cilium.io/{key}-")
        wait_until(other, {KOORNACHT if other is tab else TION})
    twice = tab.type("kubectl annotate service rebel-base isthmus.dev/weight=1 && "
                     "kubectl annotate service rebel-base isthmus.dev/weight=2", code=1)  # fmt: skip
    assert "--overwrite is false but found the following declared annotation(s)" in twice
    tab.type("kubectl annotate service rebel-base isthmus.dev/weight-")


@pytest.mark.parametrize("name", ["default-deny", "x-wing-to-rebel-base", "rebel-base-from-x-wing"])
def test_the_policies_of_the_lab_are_valid_objects(tabs: Tabs, name: str) -> None:
    shown = tabs.koornacht.type(f"kubectl apply --dry-run=server -f {name}.yaml")

    assert shown == f"ciliumnetworkpolicy.cilium.io/{name} created (server dry run)\n"
