"""What `enable` and `connect` write: the least rights, flags that the programs take, text that stays text."""

import click
import pytest

from isthmus.cli.agent import command as agent_command
from isthmus.cli.tracker import command as tracker_command
from isthmus.kube.resources import NETWORK_POLICIES, POLICY_KINDS
from isthmus.mesh.joining import objects
from isthmus.mesh.membership import LAB, Configuration
from isthmus.model.endpoint import Cluster
from isthmus.policy.rules import Scope
from isthmus.store import access as store_access

OWN = Configuration(Cluster("koornacht", 1))


def made(image: str = "isthmus:1") -> tuple[objects.Manifest, objects.Manifest]:
    deployment, daemon_set = objects.workloads(OWN, image=image, certificates=b"")
    return deployment, daemon_set


@pytest.mark.parametrize("scope", list(Scope))
def test_agents_are_told_the_scope_that_the_cluster_says(scope: Scope) -> None:
    configuration = Configuration(OWN.cluster, scope=scope)
    _, daemon_set = objects.workloads(configuration, image="isthmus:1", certificates=b"")
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    assert f"--policy-scope={scope.value}" in container["command"]
    said = objects.config_map(configuration)["data"].get("policy-scope", "clusterset")
    assert said == scope.value


def rules(name: str, manifests: list[objects.Manifest]) -> list[dict[str, list[str]]]:
    (role,) = [item for item in manifests if item["kind"] == "ClusterRole" and item["metadata"]["name"] == name]
    return role["rules"]


def test_another_cluster_s_tracker_may_only_read_and_no_secrets() -> None:
    granted = objects.remote_role()["rules"]
    assert {verb for rule in granted for verb in rule["verbs"]} == {"get", "list", "watch"}
    resources = {resource for rule in granted for resource in rule["resources"]}
    assert resources == {
        "pods", "namespaces", "nodes", "services", "endpointslices", "networkpolicies", "serviceexports",
        "clusterproperties", "ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies",
        "clusternetworkpolicies", "adminnetworkpolicies", "baselineadminnetworkpolicies",
    }  # fmt: skip


def test_the_tracker_writes_the_status_of_policies_and_never_a_policy() -> None:
    granted: dict[str, set[str]] = {}
    for rule in rules("isthmus-tracker", objects.accounts()):
        for resource in rule["resources"]:
            granted.setdefault(resource, set()).update(rule["verbs"])
    for kind in POLICY_KINDS:
        assert granted[kind.plural] == {"get", "list", "watch"}
        if kind is not NETWORK_POLICIES:
            assert granted[f"{kind.plural}/status"] == {"get", "update", "patch"}
    for plural in ("ciliumcidrgroups", "clusterproperties", "meshnodes"):
        assert granted[plural] == {"get", "list", "watch"}


def test_agents_write_nothing_but_events_and_their_own_state() -> None:
    writable = {
        resource
        for rule in rules("isthmus-agent", objects.accounts())
        for resource in rule["resources"]
        if set(rule["verbs"]) - {"get", "list", "watch"}
    }
    assert writable == {"events", "meshnodes", "meshnodes/status"}


def test_the_tracker_reads_one_secret() -> None:
    accounts = objects.accounts()
    assert not any("secrets" in rule["resources"] for rule in rules("isthmus-tracker", accounts))
    (role,) = [item for item in accounts if item["kind"] == "Role"]
    (rule,) = [rule for rule in role["rules"] if "secrets" in rule["resources"]]
    assert rule["resourceNames"] == ["isthmus-clustermesh"]
    assert set(rule["verbs"]) == {"get", "list", "watch"}


@pytest.mark.parametrize(("index", "command"), [(0, tracker_command), (1, agent_command)])
def test_the_programs_take_the_flags_of_their_pods(index: int, command: click.Command) -> None:
    (container,) = made()[index]["spec"]["template"]["spec"]["containers"]
    words = container["command"][2:]
    context = command.make_context("x", list(words), resilient_parsing=True)
    assert context.args == []
    assert context.params["cluster_name"] == "koornacht"
    assert all(word.startswith("--") and "=" in word for word in words)


def test_an_agent_has_net_admin_and_nothing_else() -> None:
    spec = made()[1]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["hostNetwork"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "privileged" not in container["securityContext"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["tls"]["secret"]["defaultMode"] == 0o400


def test_what_an_agent_keeps_outlives_its_pod() -> None:
    spec = made()[1]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (place,) = [word.removeprefix("--state-dir=") for word in container["command"] if word.startswith("--state-dir=")]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == place]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mount["name"]]
    assert volume["hostPath"] == {"path": place, "type": "DirectoryOrCreate"}
    assert not mount.get("readOnly")


def test_agents_are_called_as_the_store_knows_them() -> None:
    assert objects.AGENT == store_access.AGENT


def test_the_tracker_is_nobody() -> None:
    spec = made()[0]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("image", ["a: b # c", 'x"]}, evil: {', "$IMAGE", "yes", "1.0"])
def test_an_image_is_text_whatever_it_is(image: str) -> None:
    deployment, daemon_set = made(image)
    for manifest in (deployment, daemon_set):
        assert manifest["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_new_certificates_make_new_pods() -> None:
    def template(certificates: bytes) -> object:
        return objects.workloads(OWN, image="x", certificates=certificates)[0]["spec"]["template"]

    assert template(b"a") == template(b"a")
    assert template(b"a") != template(b"b")


def test_the_service_selects_the_tracker_s_pods() -> None:
    (service,) = objects.service(OWN, service_type="NodePort")
    labels = made()[0]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["selector"].items() <= labels.items()


@pytest.mark.parametrize(
    ("address", "host", "family"), [("10.1.0.1:2379", "10.1.0.1", "IPv4"), ("[fd00::1]:2379", "fd00::1", "IPv6")]
)
def test_where_the_tracker_is_no_pod_the_service_leads_to_it_all_the_same(address: str, host: str, family: str) -> None:
    configuration = Configuration(OWN.cluster, tracker=LAB, address=address)
    service, slice_ = objects.service(configuration, service_type="ClusterIP")
    assert "selector" not in service["spec"]
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
    assert slice_["addressType"] == family
    assert slice_["endpoints"][0]["addresses"] == [host]


def test_every_object_is_of_a_kind_that_can_be_applied() -> None:
    configuration = Configuration(OWN.cluster, tracker=LAB, address="10.1.0.1:2379")
    everything = [
        *objects.definitions(),
        objects.remote_role(),
        *objects.accounts(),
        *made(),
        objects.config_map(OWN),
        *objects.service(configuration, service_type="ClusterIP"),
        objects.tls_secret("x", certificate=b"", key=b"", ca=b""),
        *objects.remote_account("tion"),
        objects.remote_token("tion"),
    ]
    for manifest in everything:
        resource = objects.resource_of(manifest)
        assert resource.api_version == manifest["apiVersion"]
        assert resource.namespaced == ("namespace" in manifest["metadata"])
