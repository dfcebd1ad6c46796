"""What a container's root is made of."""

from pathlib import Path

from isthmus.lab.node.keeper.root import own_parents


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
