"""Merging into somebody's kubeconfig, and out of it again."""

from pathlib import Path

import pytest

from isthmus.lab import kubeconfig


def ours(name: str = "lab-a") -> kubeconfig.Config:
    return kubeconfig.render(name, server="https://127.0.0.1:1", ca=b"ca", certificate=b"crt", key=b"key")


def test_merging_keeps_what_is_not_ours_and_replaces_what_is() -> None:
    base = {
        "clusters": [{"name": "mine", "cluster": {}}, {"name": "lab-a", "cluster": {"server": "old"}}],
        "contexts": None,
        "users": [],
        "current-context": "mine",
        "extensions": ["kept"],
    }
    merged = kubeconfig.merge(base, ours())
    assert [entry["name"] for entry in merged["clusters"]] == ["mine", "lab-a"]
    assert merged["clusters"][1]["cluster"]["server"] == "https://127.0.0.1:1"
    assert (merged["current-context"], merged["extensions"]) == ("mine", ["kept"])
    assert kubeconfig.merge(base, ours(), switch=True)["current-context"] == "lab-a"


def test_taking_out_removes_exactly_what_was_put_in() -> None:
    base = kubeconfig.merge(kubeconfig.empty(), ours("mine"))
    left = kubeconfig.without(kubeconfig.merge(base, ours(), switch=True), ["lab-a"])
    assert left["clusters"] == base["clusters"]
    assert left["users"] == base["users"]
    assert left["current-context"] == ""


def test_a_file_is_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config"
    kubeconfig.write(path, ours())
    assert path.stat().st_mode & 0o777 == 0o600
    assert kubeconfig.load(path)["current-context"] == "lab-a"
    assert [found.name for found in path.parent.iterdir()] == ["config"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("")
    link.symlink_to(target)
    kubeconfig.write(link, ours())
    assert link.is_symlink()
    assert "lab-a" in target.read_text()


@pytest.mark.parametrize("content", ["- a\n", "clusters: 5\n", "users: [1]\n", "a: [\n", "\x00"])
def test_a_file_that_is_no_kubeconfig_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(kubeconfig.KubeconfigError, match=str(path)):
        kubeconfig.load(path)
    assert path.read_text() == content
