"""What files volumes have, and how they are written."""

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.node.environment.fields import Facts
from isthmus.lab.node.pods.spec import Meta, Pod, PodSpec
from isthmus.lab.node.pods.volume import TokenSource, Volume
from isthmus.lab.node.volumes.projection import File, VolumeError, payload, references, token_sources
from isthmus.lab.node.volumes.writing import write_files

OBJECTS = {
    ("ConfigMap", "config"): {"a.conf": b"A", "b.conf": b"B"},
    ("Secret", "keys"): {"tls.key": b"K"},
}
POD = Pod(
    metadata=Meta(name="p", namespace="n", uid="u", labels={"b": 'say "hi"', "a": "1"}), spec=PodSpec(nodeName="node")
)


def token(source: TokenSource) -> str:
    return f"token for {source.audience}"


def files(volume: dict[str, object], pod: Pod = POD) -> dict[str, File] | None:
    typed = msgspec.convert({"name": "v", **volume}, Volume)
    found = payload(typed, pod, facts=Facts(), find=lambda kind, name: OBJECTS.get((kind, name)), token=token)
    return None if found is None else dict(found)


def test_a_config_map_is_a_file_per_key() -> None:
    assert files({"configMap": {"name": "config"}}) == {"a.conf": File(b"A", 0o644), "b.conf": File(b"B", 0o644)}


def test_items_choose_paths_and_modes() -> None:
    items = [{"key": "a.conf", "path": "deep/x", "mode": 0o600}]
    assert files({"configMap": {"name": "config", "items": items, "defaultMode": 0o400}}) == {
        "deep/x": File(b"A", 0o600)
    }


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "config", "items": [{"key": "x", "path": "x"}]}},
            "configmap references non-existent config key: x",
        ),
        (
            {"persistentVolumeClaim": {"claimName": "data"}},
            "persistentVolumeClaim volumes are not supported",
        ),
        ({"csi": {"driver": "x"}}, "which has emptyDir, configMap"),
        ({}, "unknown volumes are not supported"),
        ({"configMap": {"name": "config", "items": [{"key": "a.conf", "path": "../x"}]}}, "invalid path"),
    ],
)
def test_what_cannot_be_had_is_named(volume: dict[str, object], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        files(volume)


def test_what_is_optional_may_be_missing() -> None:
    assert files({"configMap": {"name": "none", "optional": True}}) == {}


def test_the_content_of_an_empty_directory_is_its_users_own() -> None:
    assert files({"emptyDir": {"medium": "Memory"}}) is None


def test_sources_are_projected_into_one_directory() -> None:
    volume = {
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}},
                {"configMap": {"name": "config", "items": [{"key": "a.conf", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                {"secret": {"name": "keys"}},
            ]
        }
    }
    found = files(volume)
    assert found is not None
    assert {path: file.data for path, file in found.items()} == {
        "token": b"token for vault",
        "ca.crt": b"A",
        "namespace": b"n",
        "tls.key": b"K",
    }
    typed = msgspec.convert({"name": "v", **volume}, Volume)
    assert references([typed]) == {("ConfigMap", "config"), ("Secret", "keys")}
    assert token_sources([typed])[0].expirationSeconds == 600


def test_labels_are_a_file_of_quoted_values() -> None:
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    found = files({"downwardAPI": {"items": items}})
    assert found == {"labels": File(b'a="1"\nb="say \\"hi\\""', 0o644)}


def read(volume: Path) -> dict[str, bytes]:
    """Returns what a user of the volume sees."""
    found = {}
    for base, _directories, names in os.walk(volume, followlinks=True):
        if "/.." not in base:
            found |= {os.path.relpath(os.path.join(base, n), volume): Path(base, n).read_bytes() for n in names}
    return {path: data for path, data in found.items() if not path.startswith("..")}


PATHS = st.sampled_from(["a", "b", "c/d", "c/e", "f/g/h"])
STATES = st.lists(st.dictionaries(PATHS, st.binary(max_size=4)), min_size=1, max_size=5)


@given(states=STATES)
def test_a_volume_holds_exactly_what_was_written_last(states: list[dict[str, bytes]], tmp_path_factory) -> None:
    volume = tmp_path_factory.mktemp("volume")
    before: dict[str, bytes] | None = None
    for state in states:
        changed = write_files(volume, {path: File(data, 0o644) for path, data in state.items()})
        assert changed == (state != before)
        assert read(volume) == state
        before = state
    # What is of no use any more is gone: one directory of data, and the links to it.
    assert len([name for name in os.listdir(volume) if name.startswith("..2")]) == 1


def test_readers_keep_the_old_files_until_the_new_ones_are_complete(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": File(b"1", 0o644)})
    old = os.open(tmp_path / "..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        write_files(tmp_path, {"a": File(b"2", 0o444)})
        assert (tmp_path / "a").read_bytes() == b"2"
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o444
    finally:
        os.close(old)
