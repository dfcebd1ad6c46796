"""The chapter on securing the Cluster Mesh lab, typed as it is written; each test goes on where the last one ended."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Lab, new_lab, remove_lab
from .test_cluster_mesh_lab import ASK, BOTH, FILES, KOORNACHT, Tabs, wait_until
from .test_policy import eventually

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(300)]

# curl has several ways to say that its time was up before the connection stood; the name was known, nothing was read.
TIMED_OUT = re.compile(r"curl: \(28\) (?!Resolving|Failed to resolve|Operation).*")
ENDED = "command terminated with exit code 28"
TEN = ASK.replace("curl", "curl --max-time 2")
IMPATIENT = ASK.replace("curl", "curl --max-time 0.5")
ALL_AT_ONCE = "for i in $(seq 1 24); do { curl -s --max-time 0.5 rebel-base || echo $?; } & done; wait"
TOGETHER = f"kubectl exec -ti deployments/x-wing -- /bin/sh -c '{ALL_AT_ONCE}'"

TALK = """
import http.client, sys, time
talk = http.client.HTTPConnection(sys.argv[1], timeout=2)
talk.connect()
talk.auto_open = False  # one connection, and no other
try:
    while True:
        talk.request("GET", "/")
        print("answered" if b"Planet" in talk.getresponse().read() else "something else", flush=True)
        time.sleep(0.02)
except TimeoutError:
    print("silence", flush=True)
"""


class Chapter(Tabs):
    """The lab of the chapter, with the application on both clusters."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.lab = lab

    def talk(self, address: str) -> subprocess.Popen[str]:
        """Begins a conversation of x-wing of Koornacht: one connection, one request after the other."""
        words = ["kubectl", "--context", "kind-koornacht", "exec", "deployments/x-wing", "--"]
        return subprocess.Popen(
            [*words, "python3", "-c", TALK, address], env=self.lab.environ, stdout=subprocess.PIPE, text=True
        )

    def explain(self, source: str, destination: str, *, code: int) -> str:
        """Asks why x-wing may, or may not, reach rebel-base."""
        ends = f"--from {source}:default/x-wing --to {destination}:default/rebel-base --port 80/TCP"
        return self.everything.type(f"isthmus policy explain {ends}", code=code)


def outcomes(shown: str) -> Counter[str]:
    """Returns how often each thing came: an answer of a cluster, `timed out`, or a line that is neither."""
    return Counter("timed out" if TIMED_OUT.fullmatch(line) or line == "28" else line for line in shown.splitlines())


@pytest.fixture(scope="module")
def chapter(kubectl_program: str) -> Iterator[Chapter]:
    lab = new_lab()
    try:
        for name in ("koornacht", "tion"):
            config = str(FILES / f"kind_{name}.yaml")
            lab.isthmus("lab", "create", "--name", name, "--config", config, "--context-prefix", "kind-")
        made = Chapter(lab)
        for name, tab in (("koornacht", made.koornacht), ("tion", made.tion)):
            tab.type(f"kubectl apply -f configmap_{name}.yaml -f deployment.yaml -f service.yaml")
            tab.type('kubectl annotate service rebel-base service.cilium.io/global="true"')
        for tab in (made.koornacht, made.tion):
            for app in ("rebel-base", "x-wing"):
                tab.type(f"kubectl rollout status deployment/{app} --timeout=60s")
        wait_until(made.koornacht, BOTH)
        yield made
    finally:
        remove_lab(lab)


def enforced(chapter: Chapter, name: str, *clusters: str) -> None:
    """Waits until every node of each cluster says that it has a policy in its kernel."""
    for cluster in clusters:
        command = f"isthmus policy status {name} --context kind-{cluster}"
        eventually(lambda: chapter.everything.run(command)[0] == 0, f"{name} is enforced in {cluster}")  # noqa: B023
        shown = chapter.everything.type(command)
        assert f"default/{name}: enforced on 3/3 nodes of {cluster} since " in shown


def test_a_default_deny_in_both_clusters_ends_what_was_open_and_lets_nothing_begin(chapter: Chapter) -> None:
    far = chapter.tion.type("kubectl get pod -l name=rebel-base -o jsonpath='{.items[0].status.podIP}'")
    with chapter.talk(far) as talk:
        assert talk.stdout is not None
        assert [talk.stdout.readline() for _ in range(20)] == ["answered\n"] * 20
        for tab in (chapter.koornacht, chapter.tion):
            shown = tab.type("kubectl apply -f default-deny.yaml")
            assert shown == "ciliumnetworkpolicy.cilium.io/default-deny created\n"
        rest = talk.stdout.read().splitlines()
        assert rest[-1] == "silence", "the open connection was cut, not closed"
        assert set(rest[:-1]) <= {"answered"}

    enforced(chapter, "default-deny", "koornacht", "tion")
    *lines, last = chapter.koornacht.type(IMPATIENT, code=28).splitlines()
    assert (outcomes("\n".join(lines)), last) == (Counter({"timed out": 10}), ENDED)


def test_kubectl_shows_that_the_policy_is_valid(chapter: Chapter) -> None:
    def valid() -> bool:
        # cnp is short for two kinds, of which kubectl takes Cilium's and says so.
        rows = chapter.koornacht.table("kubectl get cnp 2>/dev/null")
        return [(row["NAME"], row["VALID"]) for row in rows] == [("default-deny", "True")]

    eventually(valid, "the VALID column is True")


def test_names_are_still_resolved_by_the_clusters_own_dns(chapter: Chapter) -> None:
    address = chapter.koornacht.type("kubectl get service rebel-base -o jsonpath='{.spec.clusterIP}'")
    assert address in chapter.koornacht.type("kubectl exec deployments/x-wing -- getent hosts rebel-base")


def test_both_halves_of_a_denial_are_explained(chapter: Chapter) -> None:
    for destination in ("koornacht", "tion"):
        shown = chapter.explain("koornacht", destination, code=2)
        for half, cluster in (("EGRESS", "koornacht"), ("INGRESS", destination)):
            assert re.search(rf"{half} +{cluster} +DENIED +isolated by \S+ default/default-deny; no rule allows", shown)
        assert "Judged again with these 2 changes: allowed." in shown


def test_an_egress_rule_alone_does_not_open_the_ingress_of_the_other_side(chapter: Chapter) -> None:
    shown = chapter.koornacht.type("kubectl apply -f x-wing-to-rebel-base.yaml")
    assert shown == "ciliumnetworkpolicy.cilium.io/x-wing-to-rebel-base created\n"
    enforced(chapter, "x-wing-to-rebel-base", "koornacht")

    assert outcomes(chapter.koornacht.type(TOGETHER)) == Counter({"timed out": 24})
    shown = chapter.explain("koornacht", "tion", code=2)
    assert re.search(r"EGRESS +koornacht +allowed +CiliumNetworkPolicy default/x-wing-to-rebel-base", shown), shown
    assert re.search(r"INGRESS +tion +DENIED +isolated by \S+ default/default-deny", shown), shown


def test_an_ingress_rule_in_one_of_two_clusters_works_only_partially(chapter: Chapter) -> None:
    shown = chapter.koornacht.type("kubectl apply -f rebel-base-from-x-wing.yaml")
    assert shown == "ciliumnetworkpolicy.cilium.io/rebel-base-from-x-wing created\n"
    enforced(chapter, "rebel-base-from-x-wing", "koornacht")

    # One after the other, as it is written, and then many, so that they do not go to one cluster alone.
    code, shown = chapter.koornacht.run(IMPATIENT)
    seen = outcomes(shown.removesuffix(f"{ENDED}\n"))
    assert (code in (0, 28), set(seen) <= {KOORNACHT, "timed out"}, seen.total()) == (True, True, 10), shown
    seen = outcomes(chapter.koornacht.type(TOGETHER))
    assert set(seen) == {KOORNACHT, "timed out"}, "requests that go to Tion are dropped there"
    assert seen.total() == 24

    question = "isthmus policy explain --from koornacht:x-wing --to svc/rebel-base --port 80"
    shown = chapter.everything.type(question, code=2)
    assert "koornacht:default/x-wing -> koornacht:default/rebel-base  80/TCP: allowed" in shown
    assert "koornacht:default/x-wing -> tion:default/rebel-base  80/TCP: DENIED at ingress in tion" in shown
    assert "apply CiliumNetworkPolicy default/rebel-base-from-x-wing in tion too, as it is in koornacht" in shown
    shown = chapter.everything.type("isthmus policy what-if -f rebel-base-from-x-wing.yaml --cluster tion")
    assert re.search(r"Newly allowed:\n.*\n +koornacht:default/x-wing +tion:default/rebel-base +all\n", shown), shown


def test_with_the_same_rule_in_the_other_cluster_every_request_is_answered(chapter: Chapter) -> None:
    shown = chapter.tion.type("kubectl apply -f rebel-base-from-x-wing.yaml")
    assert shown == "ciliumnetworkpolicy.cilium.io/rebel-base-from-x-wing created\n"
    enforced(chapter, "rebel-base-from-x-wing", "tion")

    wait_until(chapter.koornacht, BOTH)
    seen = outcomes(chapter.koornacht.type(TEN))
    assert (set(seen) <= BOTH, seen.total()) == (True, 10)
    for destination in ("koornacht", "tion"):
        chapter.explain("koornacht", destination, code=0)


def test_the_other_clusters_x_wing_is_still_kept_out(chapter: Chapter) -> None:
    assert outcomes(chapter.tion.type(TOGETHER)) == Counter({"timed out": 24})
    for destination in ("koornacht", "tion"):
        chapter.explain("tion", destination, code=2)


def test_the_matrix_says_who_may_talk_to_whom(chapter: Chapter) -> None:
    shown = chapter.everything.type("isthmus policy matrix")
    head, *lines = shown.splitlines()
    rows = {line.split()[1]: line.split() for line in lines}
    numbers = {name: words[0] for name, words in rows.items()}
    columns = head.split()[3:]  # after FROM, a backslash, and TO
    may = {
        (source, destination): words[2 + columns.index(numbers[destination])]
        for source, words in rows.items()
        for destination in numbers
        if destination.endswith("rebel-base")
    }
    names = {f"{cluster}:default/{app}" for cluster in ("koornacht", "tion") for app in ("x-wing", "rebel-base")}
    assert {pair for pair, ports in may.items() if pair[0] in names and ports != "-"} == {
        ("koornacht:default/x-wing", "koornacht:default/rebel-base"),
        ("koornacht:default/x-wing", "tion:default/rebel-base"),
    }


def test_what_depends_on_the_scope_is_listed_as_cilium_lists_it(chapter: Chapter) -> None:
    command = "isthmus clustermesh inspect-policy-default-local-cluster --all-namespaces --context kind-koornacht"
    shown = chapter.everything.run(command)[1]
    assert "\t⚠️ default/x-wing-to-rebel-base" in shown
    assert "\t✅ default/rebel-base-from-x-wing" in shown


def test_an_update_that_is_not_valid_leaves_the_last_valid_version_in_force(chapter: Chapter) -> None:
    tab = chapter.tion
    both = [{"fromEndpoints": [{}], "fromCIDR": ["10.0.0.0/8"]}]
    patch = json.dumps({"spec": {"ingress": both}})
    tab.type(f"kubectl patch ciliumnetworkpolicy rebel-base-from-x-wing --type=merge -p '{patch}'")

    def condition() -> dict[str, Any]:
        words = "get ciliumnetworkpolicy rebel-base-from-x-wing -o json"
        found = json.loads(tab.type(f"kubectl {words}")).get("status", {}).get("conditions", [])
        return next((one for one in found if one["type"] == "Valid"), {})

    eventually(lambda: condition().get("status") == "False", "the object says that it is not valid")
    assert "spec.ingress[0]: combining fromEndpoints and fromCIDR is not supported" in condition()["message"]
    assert outcomes(chapter.koornacht.type(TEN)).keys() <= BOTH, "what was valid before is still enforced"
    shown = chapter.everything.type("isthmus policy status rebel-base-from-x-wing --context kind-tion", code=2)
    assert "combining fromEndpoints and fromCIDR" in shown
    told = "This is what the objects say. "  # packets pass; explain cannot know the version by which they do
    eventually(
        lambda: told in chapter.explain("koornacht", "tion", code=2), "explain names the nodes that keep a version"
    )
    tab.type("kubectl apply -f rebel-base-from-x-wing.yaml")
    eventually(lambda: condition().get("status") == "True", "and that it is again")


def test_without_the_policies_everything_is_open_again(chapter: Chapter) -> None:
    for tab in (chapter.koornacht, chapter.tion):
        tab.type("kubectl delete ciliumnetworkpolicies --all")
    for tab in (chapter.koornacht, chapter.tion):
        wait_until(tab, BOTH)
