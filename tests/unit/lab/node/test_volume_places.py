"""Places in volumes whose pods put links there."""

import os
from pathlib import Path

import pytest

from isthmus.lab.node.volumes.places import OutsideError, find, make


def test_what_is_missing_is_made_below_the_links_of_the_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "real").mkdir(parents=True)
    (volume / "link").symlink_to("real")
    place = find(volume, "link/deep/new")
    make(volume, place, directory=True, mode=0o777)
    assert place == volume / "real/deep/new"
    assert place.stat().st_mode & 0o7777 == 0o777
    file = find(volume, "link/file")
    make(volume, file, directory=False, mode=0o644)
    assert file.is_file()
    assert file.stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize("text", ["..", "../..", "/", "link"])
def test_a_link_out_of_the_volume_or_in_a_circle_leads_nowhere(tmp_path: Path, text: str) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "link").symlink_to(text)
    with pytest.raises(OutsideError):
        make(volume, find(volume, "link/new"), directory=True, mode=0o755)
    assert os.listdir(tmp_path) == ["volume"]
    assert os.listdir(volume) == ["link"]


@pytest.mark.parametrize("directory", [True, False])
def test_a_link_that_comes_after_the_place_was_found_is_not_followed(tmp_path: Path, directory: bool) -> None:
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    (volume / "shared").mkdir(parents=True)
    outside.mkdir()
    place = find(volume, "shared/deep/new")
    (volume / "shared").rmdir()
    (volume / "shared").symlink_to(outside)
    with pytest.raises(OutsideError, match="leads out"):
        make(volume, place, directory=directory, mode=0o777)
    assert os.listdir(outside) == []
