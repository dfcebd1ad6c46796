"""What a lab's directory says while nothing runs: nothing of it is lost by looking, or by creating."""

import json
from pathlib import Path

import pytest

from isthmus.lab.kubeconfig import KubeconfigError
from isthmus.lab.life.api import admin_api
from isthmus.lab.life.creating import Wishes, create_clusters, delete_clusters
from isthmus.lab.life.notes import Note, complete, noted, read_note, write_note
from isthmus.lab.life.raising import CreationError, Patience
from isthmus.lab.life.restarting import start_lab, stop_lab
from isthmus.lab.life.wellbeing import lab_health, lab_view
from isthmus.lab.plan import GlobalServices, Mode, PlanError, plan_cluster
from isthmus.lab.statedir import StateDir


def tell(_text: str, _good: bool = True, /) -> None:
    pass


@pytest.fixture
def stopped(tmp_path: Path) -> StateDir:
    """A lab that holds two clusters, and one that was never complete."""
    state = StateDir(tmp_path)
    state.prepare()
    plans = []
    for name in ("b", "a", "half"):
        plans.append(plan_cluster(name, existing=plans))
        write_note(state, Note(plan=plans[-1], api_port=20001, complete=name != "half"))
    (state.clusters / "broken").mkdir()
    (state.clusters / "broken" / "cluster.json").write_text("{")
    return state


def test_notes_survive_and_broken_ones_are_passed_over(stopped: StateDir) -> None:
    assert [note.plan.name for note in complete(noted(stopped))] == ["b", "a"]
    assert read_note(stopped, "broken") is None
    assert read_note(stopped, "nowhere") is None


def test_a_note_of_before_a_field_was_there_means_what_was_done_then(stopped: StateDir) -> None:
    path = stopped.cluster("a").plan
    note = json.loads(path.read_bytes())
    for field in ("service_proxy", "global_services", "policy_scope", "live_connections", "connect"):
        del note["plan"][field]
    path.write_text(json.dumps(note))

    found = read_note(stopped, "a")

    assert found is not None
    assert found.plan == plan_cluster("a", existing=[plan_cluster("b", existing=[])])
    assert (found.plan.serves, found.plan.global_services) == (True, GlobalServices.NFTABLES)


def test_creating_in_a_stopped_lab_is_refused_and_removes_nothing(stopped: StateDir) -> None:
    with pytest.raises(CreationError, match="it holds b, a: bring it back with `isthmus lab start`"):
        create_clusters(stopped, lambda _plans: [], wishes=Wishes(), patience=Patience(), tell=tell)
    assert len(noted(stopped)) == 3


def test_a_file_of_images_that_cannot_be_used_is_refused_before_anything_starts(tmp_path: Path) -> None:
    images = tmp_path / "images.yaml"
    images.write_text("images: []")
    state = StateDir(tmp_path / "state")
    with pytest.raises(CreationError, match=r"--images-file .*: expected a list of images"):
        create_clusters(
            state,
            lambda plans: [plan_cluster("a", existing=plans, mode=Mode.NONE)],
            wishes=Wishes(images_file=images),
            patience=Patience(),
            tell=tell,
        )
    assert noted(state) == []
    assert not state.socket.exists()


def test_a_stopped_lab_is_told_as_such(stopped: StateDir) -> None:
    health = lab_health(stopped)
    assert (health.running, health.healthy) == (False, False)
    assert [(cluster.name, cluster.state) for cluster in health.clusters] == [("b", "stopped"), ("a", "stopped")]
    assert [view.note.plan.name for view in lab_view(stopped)] == ["b", "a"]
    assert stop_lab(stopped) is None


def test_deleting_one_stopped_cluster_leaves_the_other(stopped: StateDir) -> None:
    with pytest.raises(PlanError, match='no cluster "c"; there are: b, a, half'):
        delete_clusters(stopped, ["a", "c"], tell=tell)
    assert delete_clusters(stopped, ["half"], tell=tell) == ["half"]
    assert [note.plan.name for note in noted(stopped)] == ["b", "a"]


def test_an_empty_lab_has_nothing_to_start(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.prepare()
    assert start_lab(state, patience=Patience(), tell=tell) == ([], [])
    assert delete_clusters(state, None, tell=tell) == []


def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "admin.conf"
    for text in ("", "clusters: [{}]\nusers: [{}]\n", "clusters: [{cluster: {server: x}}]\nusers: [{user: 1}]\n"):
        path.write_text(text)
        with pytest.raises(KubeconfigError, match="does not hold the credentials of a cluster"):
            admin_api(path)
