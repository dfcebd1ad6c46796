"""The lab's commands as far as they need no lab: help, usage errors, completion."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from isthmus.cli import main
from isthmus.lab.life.notes import Note, write_note
from isthmus.lab.plan import plan_cluster
from isthmus.lab.statedir import StateDir

COMMANDS = (
    "create", "delete", "down", "exec", "heal", "kubeconfig", "list", "logs", "partition", "ps", "start", "status",
    "stop", "up",
)  # fmt: skip


def run(directory: Path, *args: str, **environ: str) -> tuple[int, str]:
    done = CliRunner().invoke(
        main, list(args), env={"ISTHMUS_STATE": str(directory), "KUBEBUILDER_ASSETS": "", **environ}
    )
    return done.exit_code, done.output


def test_every_command_has_help(tmp_path: Path) -> None:
    listed = run(tmp_path, "lab", "--help")[1]
    for name in COMMANDS:
        code, text = run(tmp_path, "lab", name, "--help")
        assert code == 0
        assert f"lab {name}" in text
        assert f"  {name} " in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create"], "name the cluster: isthmus lab create NAME"),
        (["create", "a", "--name", "b"], 'two names: "a" and --name "b"'),
        (["create", "a", "--config", "/nowhere"], "'/nowhere' does not exist"),
        (["create", "a", "--ip-family", "ipv6"], "'ipv6' is not one of 'ipv4', 'dual'"),
        (["create", "a", "--api-port", "0"], "0 is not in the range"),
        (["create", "a", "--pod-subnet", "10.0.0.1/8"], "--pod-subnet 10.0.0.1/8: 10.0.0.1/8 has host bits set"),
        (["create", "a", "--apiserver-binaries", "/"], "--apiserver-binaries /: there is no program kube-apiserver"),
        (["create", "a", "--service-proxy", "kube-proxy"], "'kube-proxy' is not one of 'isthmus', 'none'"),
        (["create", "a", "--global-services", "on"], "'on' is not one of 'nftables', 'endpointslices', 'off'"),
        (
            ["create", "a", "--global-services", "endpointslices", "--policy", "standalone"],
            "--global-services endpointslices needs --policy tracker",
        ),
        (["create", "a", "--policy-scope", "cluster"], "'cluster' is not one of 'clusterset', 'local'"),
        (["create", "a", "--live-connections", "close"], "'close' is not one of 'cut', 'keep'"),
        (
            ["create", "a", "--policy-scope", "local", "--policy", "none"],
            "--policy-scope local is for agents, and with --policy none there are none",
        ),
        (
            ["up", "--live-connections", "keep", "--policy", "none"],
            "--live-connections keep is for agents, and with --policy none there are none",
        ),
        (["stop", "nothing"], "'nothing' is not one of"),
        (["stop", "node", "a"], "no lab is running; create a cluster with: isthmus lab create NAME"),
        (["partition", "a", "b"], "no lab is running"),
        (["heal", "a"], "name both ends of a partition, or none"),
        (["delete"], "name the clusters to delete, or say --all"),
        (["kubeconfig"], "there is no cluster"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, arguments: list[str], message: str) -> None:
    code, text = run(tmp_path, "lab", *arguments)
    assert code != 0
    assert message in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["start"], 0, "There is no cluster; create one with"),
        (["stop"], 0, "No lab is running."),
        (["down"], 0, "There is no cluster."),
        (["delete", "--all"], 0, "There is no cluster."),
        (["delete", "a"], 1, 'Error: no cluster "a"'),
    ],
)
def test_a_directory_that_holds_no_lab_is_left_as_it_is(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    mine = tmp_path / "there" / "images" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("x")
    for directory in ("there", "missing"):
        done = run(tmp_path, "lab", "--state-dir", str(tmp_path / directory), *arguments)
        assert (done[0], message in done[1]) == (code, True)
    assert {path.name for path in tmp_path.rglob("*")} == {"there", "images", "mine.png"}


def test_errors_of_a_file_name_the_file_and_the_field(tmp_path: Path) -> None:
    file = tmp_path / "kind.yaml"
    file.write_text("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking: {podSubnet: 10.0.0.1/16}\n")
    code, text = run(tmp_path / "lab", "lab", "create", "a", "--config", str(file))
    assert (code, "Error: networking.podSubnet 10.0.0.1/16: " in text) == (1, True)
    file.write_text("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworkin: {}\n")
    assert (
        f"Error: {file}: unknown field networkin"
        in run(tmp_path / "lab", "lab", "create", "a", "--config", str(file))[1]
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(tmp_path: Path, shell: str) -> None:
    code, text = run(tmp_path, "completion", shell)
    assert code == 0
    assert f"_ISTHMUS_COMPLETE={shell}_complete" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("isthmus lab partition k", ["koornacht", "koornacht-control-plane", "koornacht-worker"]),
        ("isthmus lab delete ", ["koornacht"]),
        ("isthmus lab exec koornacht koornacht-w", ["koornacht-worker"]),
        ("isthmus lab sta", ["start", "status"]),
        ("isthmus lab stop tr", ["tracker"]),
        ("isthmus lab create --service-proxy ", ["isthmus", "none"]),
        ("isthmus lab up --global-services e", ["endpointslices"]),
    ],
)
def test_names_are_completed(tmp_path: Path, words: str, expected: list[str]) -> None:
    state = StateDir(tmp_path)
    state.prepare()
    write_note(state, Note(plan=plan_cluster("koornacht", existing=[]), api_port=1, complete=True))
    done = CliRunner().invoke(
        main,
        [],
        prog_name="isthmus",
        env={
            "ISTHMUS_STATE": str(tmp_path),
            "_ISTHMUS_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
    )
    assert [line.partition(",")[2] for line in done.output.split()] == expected
