"""Packs of objects, and the file that holds them: what comes back, and what is refused whatever it is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.policies import kept
from isthmus.agent.policies.kept import FORMAT, MOST_BYTES, Spoiled, decode, encode, pack, unpack
from isthmus.kube.resources import POLICY_KINDS
from isthmus.policy.metadata import generation
from isthmus.policy.parsing import identify, read
from isthmus.policy.rules import ObjectRef
from tests.support.corpus import CONTEXT, MANIFESTS
from tests.unit.agent.policies.test_book import policy

VERSIONS = {resource.kind: resource.api_version for resource in POLICY_KINDS}
NODE = {"cluster": "east", "node": "n1"}


def packed(obj, kind="NetworkPolicy") -> bytes:
    return pack(obj, api_version=VERSIONS[kind], kind=kind)


def packs(*objects) -> dict[ObjectRef, bytes]:
    found = {}
    for obj in objects:
        ref = identify(obj, "NetworkPolicy")
        assert ref is not None
        found[ref] = packed(obj)
    return found


GOOD = encode(packs(policy("p"), policy("q", uid="2")), **NODE).content


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_a_version_that_is_unpacked_is_read_as_it_was_of_whatever_kind(manifest):
    kind = manifest["kind"]
    stored = {**manifest, "metadata": {**manifest["metadata"], "uid": "1", "managedFields": [{}]}, "status": {"x": 1}}
    item = {key: value for key, value in stored.items() if key not in ("kind", "apiVersion")}  # as in a list
    again = unpack(packed(stored, kind))

    assert read(again, CONTEXT) == read(stored, CONTEXT)
    assert read(unpack(packed(item, kind)), CONTEXT).policies == read(stored, CONTEXT).policies
    assert generation(again) == generation(stored)
    assert again.keys() <= {"apiVersion", "kind", "metadata", "spec", "specs"}
    assert "managedFields" not in again["metadata"]


def test_an_ordinary_policy_takes_little_memory():
    ingress = [{"from": [{"podSelector": {"matchLabels": {"app": "frontend"}}}], "ports": [{"port": 8080}]}]
    assert len(packed(policy("backend", ingress=ingress))) < 150


def test_what_json_cannot_say_has_no_pack():
    assert packed(policy(ingress=[{"ports": [{"port": "\ud800"}]}])) == b""


def test_a_file_gives_back_what_it_was_made_of_and_is_the_same_in_any_order():
    given_packs = packs(policy("p"), policy("q", uid="2"), policy("p", uid="3", namespace="y"))
    file = encode(given_packs, **NODE)
    assert decode(file.content, **NODE) == given_packs
    assert encode(dict(reversed(given_packs.items())), **NODE) == file


def test_what_there_is_no_room_for_is_left_out_and_named(monkeypatch):
    many = packs(*(policy(f"p{number}", uid=str(number)) for number in range(100)))
    many[ObjectRef("NetworkPolicy", "x", "none", "u")] = b""  # never had a pack
    monkeypatch.setattr(kept, "MOST_BYTES", 6000)
    file = encode(many, **NODE)
    assert 4000 < len(file.content) <= 6000
    assert len(file.left_out) > 50
    assert {*decode(file.content, **NODE), *file.left_out} == many.keys()


def changed(**fields: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(GOOD) | fields)


def signed(objects: bytes) -> bytes:
    """Returns a file that says what it likes, with the digest that belongs to it."""
    digest = kept._digest(objects)
    head = f'{{"format":"{FORMAT}","version":1,"cluster":"east","node":"n1","digest":"{digest}","objects":'
    return head.encode() + objects + b"}"


SPOILED = {
    "empty": (b"", "cannot be read"),
    "half": (GOOD[: len(GOOD) // 2], "cannot be read"),
    "all but the end": (GOOD[:-3], "cannot be read"),
    "twice": (GOOD + GOOD, "cannot be read"),
    "zeros": (bytes(4096), "cannot be read"),
    "no text": (b"\xff\xfe" * 100, "cannot be read"),
    "no object": (b"[]", "cannot be read"),
    "another file": (b'{"apiVersion": "v1", "kind": "List"}', "cannot be read"),
    "another format": (changed(format="x\ny"), "its format is"),
    "later version": (changed(version=2, more={}), "its version is 2; this program reads version 1"),
    "unknown field": (changed(more=1), "cannot be read"),
    "other cluster": (changed(cluster="west"), 'it is of cluster "west", and not of "east"'),
    "other node": (changed(node="n2"), 'it is of node "n2", and not of "n1"'),
    "flipped bit": (GOOD.replace(b'"podSelector":{}', b'"podSelectos":{}', 1), "its digest"),
    "too large": (GOOD + b" " * MOST_BYTES, "more than 4194304 bytes"),
    "deep": (b'{"format":' + b"[" * (MOST_BYTES - 100), "cannot be read"),
    "deep objects": (signed(b"[" * 100_000 + b"]" * 100_000), "cannot be read"),
    "deep in one": (signed(b'[{"a":' * 50_000 + b"1" + b"}]" * 50_000), "cannot be read"),
    "objects of no kind": (signed(b"[1]"), "objects[0] cannot be read"),
    "no name": (signed(b"[{}]"), "objects[0] is no policy"),
    "unknown kind": (signed(msgspec.json.encode([{**policy(), "kind": "Pod"}])), "objects[0] is no policy"),
    "no UID": (signed(msgspec.json.encode([unpack(packed(policy(uid="")))])), "objects[0] is no policy"),
    "one twice": (signed(b"[" + b",".join([msgspec.json.encode(unpack(packed(policy())))] * 2) + b"]"), "twice"),
}


@pytest.mark.parametrize(("content", "reason"), SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_file_is_refused_with_a_reason_of_one_line(content, reason):
    with pytest.raises(Spoiled) as refused:
        decode(content, **NODE)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_byte_changes_what_is_in_force(at, by):
    content = GOOD[:at] + bytes([GOOD[at] ^ by]) + GOOD[at + 1 :]
    try:
        found = decode(content, **NODE)
    except Spoiled:
        return
    assert found == decode(GOOD, **NODE), "white space"


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(content):
    with pytest.raises(Spoiled):
        decode(content, **NODE)
