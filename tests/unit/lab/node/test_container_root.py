"""What a container's root is made of."""

import os
from pathlib import Path

import pytest

from isthmus.lab.node.keeper.place import hold_place
from isthmus.lab.node.keeper.root import own_parents
from isthmus.lab.node.keeper.syscalls import KernelRefusal


def test_what_is_above_a_mount_point_belongs_to_the_container_and_hides_nothing(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "share").mkdir(parents=True)
    (lower / "link").symlink_to("share")
    (lower / "file").touch()
    upper.mkdir()
    for path in ("share/nginx/html", "share/other", "link/deep/x", "file/x/y", "top", "../out/x"):
        own_parents(str(lower), str(upper), path)
    assert sorted(str(path.relative_to(upper)) for path in upper.rglob("*")) == ["share", "share/nginx"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["/a/b/c", "/turn/b/c", "/a/../a/./b//c/", "/deep/turn/b/c"])
@pytest.mark.parametrize("directory", [True, False])
def test_a_mount_point_is_made_where_links_inside_the_root_lead(tmp_path: Path, target: str, directory: bool) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "turn").symlink_to("a")
    (root / "deep/turn").symlink_to("../turn")
    above, name = hold_place(str(root), target, directory=directory)
    try:
        assert (os.readlink(f"/proc/self/fd/{above}"), name) == (str(root / "a/b"), "c")
    finally:
        os.close(above)
    assert (root / "a/b/c").is_dir() == directory
    assert (root / "a/b/c").is_file() == (not directory)


@pytest.mark.parametrize("text", ["../outside", "../../../../outside", "{tmp}/outside", "loop"])
@pytest.mark.parametrize("target", ["/loop", "/loop/x"])
def test_a_link_that_leads_out_or_nowhere_is_no_mount_point(tmp_path: Path, text: str, target: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "loop").symlink_to(text.format(tmp=tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelRefusal, match=r"leads out|too many levels"):
        hold_place(str(root), target, directory=False)
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == ["root"]


def test_a_directory_exchanged_for_a_link_while_it_is_walked_makes_nothing_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "shared").mkdir(parents=True)
    outside.mkdir()
    readlink = os.readlink

    def exchange(name: str, *, dir_fd: int) -> str:
        try:
            return readlink(name, dir_fd=dir_fd)
        finally:
            # What a sibling may do at the worst moment: just after it was seen that this is no link.
            if name == "shared":
                (root / "shared").rmdir()
                (root / "shared").symlink_to(outside)

    monkeypatch.setattr(os, "readlink", exchange)
    with pytest.raises(NotADirectoryError):
        hold_place(str(root), "/shared/new/file", directory=False)
    assert os.listdir(outside) == []
