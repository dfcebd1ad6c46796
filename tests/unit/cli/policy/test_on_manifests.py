"""`isthmus policy` on directories of manifests: what people see, what programs get, exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from isthmus.cli import main

EXAMPLE = Path(__file__).parents[4] / "examples" / "cluster-mesh-lab"
BAD = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: bad}
spec: {podSelector: {}, ingress: [{ports: [{port: 99999}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: partly}
spec:
  endpointSelector: {}
  egress: [{toFQDNs: [{matchName: example.com}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: good}
spec: {podSelector: {}}
---
apiVersion: v1
kind: Secret
metadata: {name: other}
"""


@pytest.fixture
def clusters(tmp_path: Path) -> Path:
    """The example in the step where it works only in one cluster: the last policy is missing in Tion."""
    service = yaml.safe_load((EXAMPLE / "service.yaml").read_text())
    service["metadata"]["annotations"] = {"service.cilium.io/global": "true"}
    policies = {
        "koornacht": ("default-deny", "x-wing-to-rebel-base", "rebel-base-from-x-wing"),
        "tion": ("default-deny",),
    }
    for name, files in policies.items():
        directory = tmp_path / "clusters" / name
        directory.mkdir(parents=True)
        for file in ("deployment", *files):
            (directory / f"{file}.yaml").write_text((EXAMPLE / f"{file}.yaml").read_text())
        (directory / "service.yaml").write_text(yaml.safe_dump(service))
    return tmp_path / "clusters"


def run(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["policy", *words], input=stdin)


def explain(clusters: Path, *words: str) -> Result:
    return run("explain", "--manifests", str(clusters), *words)


STEP = ("--from", "koornacht:default/x-wing", "--to", "svc/rebel-base")


def test_the_step_that_works_only_partially_is_answered_by_one_run(clusters: Path) -> None:
    result = explain(clusters, *STEP)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert lines[0] == "service default/rebel-base: global, backends in koornacht, tion"
    assert "✅ koornacht:default/x-wing -> koornacht:default/rebel-base  80/TCP: allowed" in lines
    assert "❌ koornacht:default/x-wing -> tion:default/rebel-base  80/TCP: DENIED at ingress in tion" in lines
    assert any(line.startswith("   INGRESS  tion       DENIED   isolated by") for line in lines)
    assert "   apply CiliumNetworkPolicy default/rebel-base-from-x-wing in tion too, as it is in koornacht" in lines
    assert "   Judged again with this change: allowed." in lines
    assert lines[-1] == "1 of 2 allowed"


def test_a_sentence_is_one_line_where_nobody_looks_at_it_so_that_grep_finds_it(clusters: Path) -> None:
    lines = explain(clusters, *STEP).stdout.splitlines()
    (why,) = (line for line in lines if "INGRESS  tion" in line)
    assert why.endswith("isolated by CiliumNetworkPolicy default/default-deny; no rule allows this (scope clusterset)")
    assert len(why) > 100


def test_what_is_suggested_can_be_applied_as_it_is_printed(clusters: Path) -> None:
    lines = explain(clusters, *STEP).stdout.splitlines()
    start = lines.index("      apiVersion: cilium.io/v2")
    text = "\n".join(line for line in lines[start:] if line.startswith("      "))
    (clusters / "tion" / "suggested.yaml").write_text(text)
    result = explain(clusters, *STEP)
    assert result.exit_code == 0, result.stdout
    assert "DENIED" not in result.stdout


def test_programs_get_the_same_with_stable_keys(clusters: Path) -> None:
    result = explain(clusters, *STEP, "-o", "json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["allowed"]) == (2, False)
    near, far = found["answers"]
    assert near["remedies"] is None
    assert set(far) == {
        "from", "to", "protocol", "port", "ipFamilies", "allowed", "egress", "ingress", "remedies",
    }  # fmt: skip
    assert far["to"]["addresses"] == []  # they are made up
    half = far["ingress"]
    assert (half["reason"], half["cluster"], half["scope"]) == ("DefaultDeny", "tion", "clusterset")
    assert half["policy"] == {"kind": "CiliumNetworkPolicy", "namespace": "default", "name": "default-deny"}
    assert far["egress"]["field"] == "spec.egress[0]"
    (step,) = far["remedies"]["steps"]
    assert (step["action"], step["cluster"], step["copiedFrom"]) == ("apply", "tion", "koornacht")
    assert yaml.safe_load(explain(clusters, *STEP, "-o", "yaml").stdout) == found


def test_the_scope_can_be_said_for_one_cluster(clusters: Path) -> None:
    result = explain(clusters, *STEP, "--policy-scope", "koornacht=local")
    assert "with scope" in result.stdout
    assert "2. apply CiliumNetworkPolicy default/rebel-base-from-x-wing in tion too" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--from", "koornacht:none", "--to", "outside", "--port", "80"),
            "--from: 'koornacht:none': no pod or workload",
        ),
        (("--from", "x-wing", "--to", "outside", "--port", "80"), "--from: 'x-wing': say which cluster"),
        (("--from", "koornacht:x-wing", "--to", "tion:x-wing"), "--port: tion:default/x-wing declares no ports"),
        (
            ("--from", "koornacht:x-wing", "--to", "web.default.svc.clusterset.local", "--port", "80"),
            "--to: 'web.default.svc.clusterset.local': no cluster imports such a Service: it needs ServiceExport",
        ),
        (
            ("--from", "koornacht:x-wing", "--to", "pod-0.web.default.svc.cluster.local", "--port", "80"),
            "only NAME.NAMESPACE.svc and NAME.NAMESPACE.svc.clusterset.local are known",
        ),
        (("--from", "koornacht:x-wing", "--to", "tion:x-wing", "--port", "http"), "'http' is no port"),
        (("--from", "koornacht:x-wing", "--to", "tion:x-wing", "--icmp", "300"), "'300' is no type of message"),
        (("--from", "a", "--to", "b", "--policy-scope", "wide"), "'wide' is neither clusterset nor local"),
        (("--from", "a", "--to", "b", "--context", "x"), "--manifests cannot be used together with --context"),
        (("--from", "a"), "Missing option '--to'"),
    ],
)
def test_what_was_written_wrong_is_said(clusters: Path, words: tuple[str, ...], said: str) -> None:
    result = explain(clusters, *words)
    assert result.exit_code == 1  # 2 is an answer
    assert said in result.stderr


@pytest.mark.parametrize(
    "name", ["rebel-base.default", "rebel-base.default.svc", "rebel-base.default.svc.cluster.local"]
)
def test_a_name_that_pods_find_a_service_by_is_that_service_and_no_address_outside(clusters: Path, name: str) -> None:
    result = explain(clusters, "--from", "koornacht:default/x-wing", "--to", name)
    assert result.stdout == explain(clusters, *STEP).stdout
    other = explain(clusters, "--from", "koornacht:default/x-wing", "--to", "rebel-base.elsewhere", "--port", "80")
    assert "rebel-base.elsewhere: taken for an address outside" in other.stdout


def test_a_name_of_the_clusterset_is_what_clusters_export_under_it(clusters: Path) -> None:
    export = {
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceExport",
        "metadata": {"name": "rebel-base"},
    }
    (clusters / "tion" / "export.yaml").write_text(yaml.safe_dump(export))
    name = "rebel-base.default.svc.clusterset.local"
    result = explain(clusters, "--from", "koornacht:default/x-wing", "--to", name)
    assert result.exit_code == 2
    assert result.stdout.splitlines()[0] == "service default/rebel-base of the ClusterSet: backends in tion"
    assert "-> tion:default/rebel-base  80/TCP: DENIED at ingress in tion" in result.stdout
    assert "koornacht:default/rebel-base" not in result.stdout


def test_a_manifest_that_cannot_be_read_is_named(clusters: Path) -> None:
    (clusters / "tion" / "broken.yaml").write_text("a: [1")
    result = explain(clusters, *STEP)
    assert result.exit_code == 1
    assert "tion/broken.yaml: not YAML" in result.stderr


def test_an_object_that_is_no_policy_that_we_know_is_left_out_with_a_warning(clusters: Path) -> None:
    old = {"apiVersion": "cilium.io/v1", "kind": "CiliumNetworkPolicy", "metadata": {"name": "old"}, "spec": {}}
    (clusters / "tion" / "old.yaml").write_text(yaml.safe_dump(old))
    result = explain(clusters, *STEP)
    assert result.exit_code == 2
    assert "Warning: CiliumNetworkPolicy default/old of tion is left out: " in result.stderr


def test_ping_and_ports_by_protocol(clusters: Path) -> None:
    ends = ("--from", "koornacht:x-wing", "--to", "tion:rebel-base")
    assert "ICMP type 8: DENIED" in explain(clusters, *ends, "--icmp").stdout
    assert "53/UDP: DENIED" in explain(clusters, *ends, "--port", "53/udp").stdout


def what_if(clusters: Path, *words: str, stdin: str = "") -> Result:
    return run("what-if", "--manifests", str(clusters), *words, stdin=stdin)


def test_what_a_policy_would_open_is_listed_by_groups(clusters: Path) -> None:
    file = str(EXAMPLE / "rebel-base-from-x-wing.yaml")
    result = what_if(clusters, "-f", file, "--cluster", "tion")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "Newly allowed:",
        "  FROM                       TO                        PORTS",
        "  koornacht:default/x-wing   tion:default/rebel-base   all",
        "",
        "1 pair newly allowed, 0 pairs newly denied; all others stay as they are.",
    ]
    again = what_if(clusters, "-f", file, "--cluster", "koornacht")
    assert again.stdout == "Nothing changes: nobody gains or loses a connection.\n"


def test_what_a_policy_would_shut_is_listed_for_programs(clusters: Path) -> None:
    file = str(EXAMPLE / "rebel-base-from-x-wing.yaml")
    result = what_if(clusters, "-f", file, "--cluster", "koornacht", "--delete", "-o", "json")
    (change,) = json.loads(result.stdout)["changes"]
    assert (change["from"]["name"], change["to"]["name"]) == (
        "koornacht:default/x-wing",
        "koornacht:default/rebel-base",
    )
    assert (change["newlyAllowed"], "0-65535/TCP" in change["newlyDenied"]) == ([], True)


def test_problems_of_what_would_be_applied_come_first(clusters: Path) -> None:
    result = what_if(clusters, "-f", "-", "--cluster", "tion", stdin=BAD)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Invalid: NetworkPolicy default/bad in tion: spec.ingress[0].ports[0].port")


def test_an_invalid_update_changes_nothing_because_nodes_keep_the_version_before(clusters: Path) -> None:
    policy = yaml.safe_load((EXAMPLE / "default-deny.yaml").read_text())
    policy["spec"]["ingress"] = [{"fromEndpoints": [{}], "fromEntities": ["world"]}]
    result = what_if(clusters, "-f", "-", "--cluster", "koornacht", stdin=yaml.safe_dump(policy))
    named, why = "CiliumNetworkPolicy default/default-deny in koornacht", "combining fromEndpoints and fromEntities"
    assert result.stdout.splitlines() == [
        f"Invalid: {named}: spec.ingress[0]: {why} is not supported yet",
        f"Kept: {named} stays as it is in force now",
        "Nothing changes: nobody gains or loses a connection.",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-f", "{example}/rebel-base-from-x-wing.yaml"), "--cluster: say which cluster gets the policies"),
        (("-f", "{example}/rebel-base-from-x-wing.yaml", "--cluster", "none"), "there is no cluster 'none'"),
        (("-f", "{example}/service.yaml", "--cluster", "tion"), "no policy in it"),
        (("-f", "{example}/none.yaml", "--cluster", "tion"), "none.yaml: No such file"),
    ],
)
def test_a_change_that_cannot_be_told_is_refused(clusters: Path, words: tuple[str, ...], said: str) -> None:
    result = what_if(clusters, *(word.format(example=EXAMPLE) for word in words))
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_group_of_networks_that_changes_opens_what_policies_allow_it(clusters: Path) -> None:
    group = {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "branches"}}
    group["spec"] = {"externalCIDRs": ["198.51.100.0/24"]}
    rules = [{"toCIDRSet": [{"cidrGroupRef": "branches"}]}]
    policy = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "out"}}
    policy["spec"] = {"endpointSelector": {"matchLabels": {"name": "x-wing"}}, "egress": rules}
    (clusters / "tion" / "out.yaml").write_text(yaml.safe_dump(policy))
    text = yaml.safe_dump(group)
    result = what_if(clusters, "-f", "-", "--cluster", "tion", stdin=text)
    assert "tion:default/x-wing   outside 198.51.100.0/24   all" in result.stdout
    (clusters / "tion" / "group.yaml").write_text(text)
    result = what_if(clusters, "-f", "-", "--cluster", "tion", "--delete", stdin=text)
    assert "Newly denied:" in result.stdout


def test_deleting_what_is_not_there_is_a_warning(clusters: Path) -> None:
    file = str(EXAMPLE / "rebel-base-from-x-wing.yaml")
    result = what_if(clusters, "-f", file, "--cluster", "tion", "--delete")
    assert "Warning: CiliumNetworkPolicy default/rebel-base-from-x-wing is not in tion" in result.stderr
    assert "Nothing changes" in result.stdout


def test_a_small_matrix_is_a_grid_and_a_large_one_a_list(clusters: Path) -> None:
    result = run("matrix", "--manifests", str(clusters), "--no-outside", "--port", "80")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["FROM", "\\", "TO", "1", "2", "3", "4"]
    assert lines[2].split() == ["2", "koornacht:default/x-wing", "yes", "-", "-", "-"]
    for number in range(15):
        deployment = yaml.safe_load((clusters / "tion" / "deployment.yaml").read_text().split("---")[0] or "{}")
        deployment["metadata"]["name"] = f"extra-{number}"
        deployment["metadata"]["namespace"] = f"n{number}"
        (clusters / "tion" / f"extra-{number}.yaml").write_text(yaml.safe_dump(deployment))
    large = run("matrix", "--manifests", str(clusters), "--port", "80").stdout
    assert large.splitlines()[0].split() == ["FROM", "TO", "PORTS"]
    assert large.splitlines()[-1] == "Everything else is denied."
    assert max(map(len, large.splitlines())) <= 100


def test_a_matrix_has_nodes_where_they_are_asked_for_and_says_of_them_what_explain_does(clusters: Path) -> None:
    addresses = {"koornacht": "172.18.0.2", "tion": "172.19.0.2"}
    for name, ip in addresses.items():
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
        status = {"addresses": [{"type": "InternalIP", "address": ip}]}
        entity = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "nodes"},
            "spec": {
                "endpointSelector": {"matchLabels": {"name": "rebel-base"}},
                "ingress": [{"fromEntities": ["remote-node"], "toPorts": [{"ports": [{"port": "80"}]}]}],
            },
        }
        objects = [{**node, "status": status}, *([entity] if name == "tion" else [])]
        (clusters / name / "nodes.yaml").write_text(yaml.safe_dump_all(objects))
    words = ("matrix", "--manifests", str(clusters), "--no-outside", "--port", "80")
    lines = run(*words, "--nodes").stdout.splitlines()
    assert [line.split()[1] for line in lines[5:]] == ["koornacht:node/n1", "tion:node/n1"]
    assert [line.split()[2:] for line in lines[5:]] == [["-", "-", "yes", "-"]] * 2, "nothing is said of two nodes"
    assert len(run(*words).stdout.splitlines()) == 5
    found = json.loads(run(*words, "--nodes", "-o", "json").stdout)
    pairs = {(pair["from"], pair["to"]): pair["allowed"] for pair in found["pairs"]}
    assert not [pair for pair in pairs if all("node/" in end for end in pair)]
    for (source, destination), allowed in pairs.items():
        if "node/" in source or "node/" in destination:
            answer = explain(clusters, "--from", source, "--to", destination, "--port", "80", "-o", "json")
            assert json.loads(answer.stdout)["allowed"] is allowed, (source, destination)


def test_a_matrix_of_some_namespaces_for_programs(clusters: Path) -> None:
    found = json.loads(run("matrix", "--manifests", str(clusters), "-n", "default", "-o", "json").stdout)
    pairs = {(pair["from"], pair["to"]): pair["allowed"] for pair in found["pairs"]}
    assert "0-65535/TCP" in pairs["koornacht:default/x-wing", "koornacht:default/rebel-base"]
    assert pairs["koornacht:default/x-wing", "tion:default/rebel-base"] == []


def test_a_ping_that_passes_in_one_family_alone_is_told_by_its_family(tmp_path: Path) -> None:
    def pod(name: str, number: int) -> dict[str, Any]:
        ips = [{"ip": f"10.1.0.{number}"}, {"ip": f"fd00:1::{number}"}]
        meta = {"name": name, "namespace": "default", "labels": {"app": name}}
        status = {"podIP": ips[0]["ip"], "podIPs": ips, "phase": "Running"}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": "n"}, "status": status}

    echo = {"icmps": [{"fields": [{"family": "IPv6", "type": "EchoRequest"}]}]}
    policy = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "six", "namespace": "default"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "a"}}, "egress": [echo]},
    }
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([pod("a", 1), pod("b", 2), policy]))
    words = ("matrix", "--manifests", f"c={tmp_path}", "--icmp", "--no-outside")
    text = run(*words).stdout
    assert "ICMPv6 type 128" in text
    pairs = {(one["from"], one["to"]): one["allowed"] for one in json.loads(run(*words, "-o", "json").stdout)["pairs"]}
    assert len(pairs) >= 2
    assert pairs["c:default/b", "c:default/a"] is True
    assert pairs["c:default/a", "c:default/b"] == ["ICMPv6 type 128"]


def validate(*words: str, stdin: str = BAD) -> tuple[int, list[Any]]:
    result = run("validate", "-f", "-", *words, "-o", "json", stdin=stdin)
    return result.exit_code, json.loads(result.stdout)


def test_every_policy_is_valid_invalid_or_partly_enforced() -> None:
    code, found = validate()
    assert code == 2
    assert [(one["name"], one["verdict"]) for one in found] == [
        ("bad", "Invalid"),
        ("partly", "NotEnforced"),
        ("good", "Valid"),
    ]
    assert found[0]["problems"][0]["field"] == "spec.ingress[0].ports[0].port"
    text = run("validate", "-f", "-", stdin=BAD).stdout
    assert "⚠️  standard input: CiliumNetworkPolicy default/partly: NotEnforced" in text
    assert text.endswith("1 valid, 1 valid but not enforced as a whole, 1 invalid, 1 object of other kinds left out\n")


def test_a_name_that_no_api_server_would_store_is_invalid() -> None:
    code, found = validate(stdin=BAD.replace("name: good", "name: Not_Good").split("---")[2])
    assert (code, found[0]["verdict"]) == (2, "Invalid")
    assert found[0]["problems"] == [
        {"field": "metadata.name", "grade": "Invalid", "message": "'Not_Good' is not an RFC 1123 name"}
    ]


def test_policies_of_one_priority_that_disagree_are_valid_and_warned_of() -> None:
    text = "\n---\n".join(
        f"""
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: {name}}}
spec:
  tier: Admin
  priority: 10
  subject: {{namespaces: {{}}}}
  ingress:
  - action: {action}
    from: [{{namespaces: {{}}}}]
"""
        for name, action in (("a", "Accept"), ("b", "Deny"), ("c", "Deny"))
    )
    code, found = validate(stdin=text)
    assert (code, [one["verdict"] for one in found]) == (0, ["Valid"] * 3)
    assert [len(one["problems"]) for one in found] == [2, 1, 1]
    assert "ClusterNetworkPolicy a is asked first, by its name" in found[2]["problems"][0]["message"]


def test_directories_are_validated_file_by_file(clusters: Path) -> None:
    result = run("validate", "-f", str(clusters))
    assert result.exit_code == 0, result.stdout
    assert f"✅ {clusters}/tion/default-deny.yaml: CiliumNetworkPolicy default/default-deny: Valid" in result.stdout


def test_files_without_policies_are_an_error() -> None:
    result = run("validate", "-f", str(EXAMPLE / "service.yaml"))
    assert (result.exit_code, "no policy in it" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("why",),
        ("--wrong",),
        ("explain", "--from", "a", "--to", "b", "more"),
        ("explain", "--from", "a", "--to", "b", "-o", "xml"),
        ("what-if",),
        ("what-if", "-f", "-", "--policy-scope", "wide"),
        ("matrix", "--port", "http"),
        ("matrix", "--manifests", "a", "--context", "b"),
        ("validate",),
        ("status", "a", "b"),
        ("status", "--policy-scope", "wide"),
        ("inspect-scope", "--wrong"),
    ],
)
def test_what_is_written_wrong_is_no_answer(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Usage: " in result.stderr


def test_policies_that_depend_on_the_scope_are_told_with_whom_they_see(clusters: Path) -> None:
    text = run("inspect-scope", "--manifests", str(clusters)).stdout
    assert "⚠️  koornacht (scope clusterset): 2 of 3 policies depend on the scope" in text
    assert "       clusterset: koornacht: default/rebel-base; tion: default/rebel-base\n" in text
    assert "       local:      koornacht: default/rebel-base\n" in text
    found = json.loads(run("inspect-scope", "--manifests", str(clusters), "-o", "json").stdout)
    assert [one["cluster"] for one in found] == ["koornacht", "tion"]


def test_help_of_the_group_imports_nothing_heavy() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from isthmus.cli import main\n"
        "assert CliRunner().invoke(main, ['policy', '--help']).exit_code == 0\n"
        "heavy = {'aiohttp', 'yaml', 'grpc', 'msgspec', 'isthmus.policy.rules'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
