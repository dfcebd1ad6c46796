"""What a lab needs of the machine."""

from pathlib import Path

import pytest

from isthmus.lab.launch import LaunchError, check_programs, child_environment
from isthmus.lab.statedir import StateDir, StateError, default_root


def test_a_missing_program_is_named_with_its_package() -> None:
    check_programs({"sh": "dash"})
    with pytest.raises(LaunchError, match=r"not installed: no-such-program \(package nowhere\)"):
        check_programs({"sh": "dash", "no-such-program": "nowhere"})


def test_daemons_get_little_of_the_callers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("PATH", "/usr/bin")
    environment = child_environment()
    assert "SECRET_TOKEN" not in environment
    assert environment["PATH"].split(":") == ["/usr/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]


def test_the_state_directory_is_private_and_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_STATE", str(tmp_path / "x"))
    state = StateDir(default_root())
    state.prepare()
    assert state.root == tmp_path / "x"
    assert state.root.stat().st_mode & 0o777 == 0o700


def test_a_path_that_is_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="too long for a unix socket"):
        StateDir(tmp_path / ("x" * 100)).prepare()


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot use state directory"):
        StateDir(tmp_path / "file" / "x").prepare()


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "x")
    state.prepare()
    state.run.rmdir()
    state.run.write_text("")
    with pytest.raises(StateError, match=f"{state.run} is no directory"):
        state.prepare()


def test_what_is_in_somebody_elses_directory_is_never_taken_for_a_labs(tmp_path: Path) -> None:
    mine = tmp_path / "images" / "mine.png"
    mine.parent.mkdir()
    mine.write_text("x")
    mode = tmp_path.stat().st_mode
    with pytest.raises(StateError, match="it holds images and is no lab's"):
        StateDir(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert (mine.read_text(), tmp_path.stat().st_mode) == ("x", mode)


def test_sweeping_leaves_only_the_log_and_the_lock(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.prepare()
    for name in ("b", "a"):
        state.cluster(name).pki.mkdir(parents=True)
    for path in (state.socket, state.kubeconfig, state.roster, state.supervisor_log):
        path.touch()
    with state.lock():
        assert state.sweep() == ["a", "b"]
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "supervisor.log"}
