"""What a cluster of the lab says of itself in the mesh, and when clusters count as acquainted."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.lab.addons.manifests import crds
from isthmus.lab.life.joining import _on_segment, configuration_of
from isthmus.lab.life.readiness import missing_acquaintance
from isthmus.lab.plan import (
    GlobalServices,
    LiveConnections,
    Mode,
    PolicyScope,
    ServiceProxy,
    plan_cluster,
    with_policy,
    with_services,
)
from isthmus.lab.statedir import StateDir
from isthmus.lab.supervisor.roster import write_roster
from isthmus.lab.units.members import other_units
from isthmus.mesh.membership import LAB, configuration_data, read_configuration

PLAN = plan_cluster("koornacht", existing=[], cluster_id=1, nodes=2)
OTHER = plan_cluster("tion", existing=[PLAN], cluster_id=2, nodes=1)


class Api:
    """Answers with MeshNodes."""

    def __init__(self, known: dict[str, dict[str, bool]]) -> None:
        self._known = known

    def read(self, path: str) -> dict[str, Any]:
        assert path == "/apis/isthmus.dev/v1alpha1/meshnodes"
        return {
            "items": [
                {
                    "metadata": {"name": node},
                    "status": {"clusters": [{"name": name, "ready": ready} for name, ready in clusters.items()]},
                }
                for node, clusters in self._known.items()
            ]
        }


def test_a_cluster_of_the_lab_says_where_its_tracker_listens() -> None:
    configuration = configuration_of(PLAN)
    assert configuration.tracker == LAB
    assert configuration.address == f"{PLAN.control_plane.address}:2379"
    assert read_configuration(configuration_data(configuration)) == configuration


def test_a_cluster_of_the_lab_says_the_scope_that_its_agents_were_told() -> None:
    local = with_policy(PLAN, scope=PolicyScope.LOCAL, live_connections=LiveConnections.CUT)
    assert configuration_data(configuration_of(local))["policy-scope"] == "local"
    assert "policy-scope" not in configuration_data(configuration_of(PLAN))


@pytest.mark.parametrize(
    ("server", "inside"),
    [
        ("https://172.30.2.1:6443", True),
        ("https://10.0.0.1:6443", False),
        ("https://api.example.org", False),
        ("nonsense", False),
    ],
)
def test_only_what_is_on_the_segment_is_the_lab_s_to_forget(server: str, inside: bool) -> None:
    assert _on_segment(server) is inside


def test_clusters_are_acquainted_when_every_agent_knows_all_of_the_other() -> None:
    one, two = (node.name for node in PLAN.nodes)
    assert missing_acquaintance(Api({one: {"tion": True}, two: {"tion": True, "x": False}}), PLAN, ["tion"]) == ""
    for known in ({}, {one: {"tion": True}}, {one: {"tion": True}, two: {"tion": False}}):
        assert "does not know all of tion yet" in missing_acquaintance(Api(known), PLAN, ["tion"])


def test_trackers_read_no_file_of_clusters_and_stand_alone_agents_do(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    alone = msgspec.structs.replace(PLAN, mode=Mode.STANDALONE)
    words = {unit.name: unit.argv for unit in other_units(state, PLAN)}
    assert "--clusters-file" not in words["tracker"]
    agents = [unit.argv for unit in other_units(state, alone) if unit.name.startswith("agent-")]
    assert agents
    assert all("--clusters-file" in argv for argv in agents)


def test_trackers_and_agents_are_told_who_serves_services(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    others = with_services(PLAN, proxy=ServiceProxy.NONE, global_services=GlobalServices.ENDPOINTSLICES)
    for plan, proxy, told in ((PLAN, True, False), (others, False, True)):
        assert plan.serves is proxy
        for unit in other_units(state, plan):
            if unit.name.startswith("agent-"):
                assert ("--kube-proxy-replacement" in unit.argv) is proxy
            if unit.name.startswith(("agent-", "tracker")):
                assert ("--global-services" in unit.argv) is told
                assert ("endpointslices" in unit.argv) is told


def test_agents_are_told_of_scope_and_live_connections_where_these_are_not_the_usual_ones(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    other = with_policy(PLAN, scope=PolicyScope.LOCAL, live_connections=LiveConnections.KEEP)
    for plan, told in ((PLAN, []), (other, ["--policy-scope", "local", "--live-connections", "keep"])):
        agents = [unit.argv for unit in other_units(state, plan) if unit.name.startswith("agent-")]
        assert agents
        for argv in agents:
            found = [
                word
                for flag in ("--policy-scope", "--live-connections")
                if flag in argv
                for word in argv[argv.index(flag) :][:2]
            ]
            assert found == told


def test_every_agent_has_a_directory_of_its_own_for_what_outlives_it(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    agents = [unit.argv for unit in other_units(state, PLAN) if unit.name.startswith("agent-")]
    places = [Path(argv[argv.index("--state-dir") + 1]) for argv in agents]
    assert len(set(places)) == len(PLAN.nodes)
    assert all(place.is_relative_to(state.cluster(PLAN.name).root) for place in places)


def test_a_cluster_that_is_left_alone_is_not_in_that_file(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    write_roster(state, [PLAN, msgspec.structs.replace(OTHER, connect=False)])
    assert [entry["name"] for entry in json.loads(state.roster.read_text())] == ["koornacht"]


def test_the_definitions_of_the_mesh_are_among_the_addons() -> None:
    names = {manifest["metadata"]["name"] for manifest in crds()}
    assert {"meshclusters.isthmus.dev", "meshnodes.isthmus.dev", "globalservices.isthmus.dev"} <= names
