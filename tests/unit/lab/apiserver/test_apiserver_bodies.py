"""Bodies of requests: whatever comes, an object or a clear refusal."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.inputs import bodies
from tests.support.apihttp import Api

MAPS = "/api/v1/namespaces/default/configmaps"
NESTED = [b"[" * 100_000, b"- " * 100_000, b"{a: " * 50_000, b"? " * 100_000, b'{"a":' * 300 + b"1" + b"}" * 300]
BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n".encode() for n in range(1, 12)
)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'"x"', *NESTED])
@pytest.mark.parametrize("yaml", [False, True])
def test_bodies_that_are_no_objects_are_bad_requests(body: bytes, yaml: bool) -> None:
    with pytest.raises(ApiError) as found:
        bodies.parse_object(body, yaml=yaml)
    assert found.value.code == 400


def test_yaml_bodies_are_read() -> None:
    body = b"kind: Pod\nmetadata: &m {name: a}\nother: *m\nmerged: {<<: *m, b: 2}\n"
    found = bodies.parse_object(body, yaml=True)
    held = {"name": "a"}
    assert found == {"kind": "Pod", "metadata": held, "other": held, "merged": {"name": "a", "b": 2}}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (BOMB, "excessive aliasing"),
        (b"a: &a [*a]", "anchor contains itself"),
        (b"a: 1\na: 2\n", 'key "a" already set in map'),
        (b"a: [", "error parsing YAML"),
        (b"a: !!python/object:os.system {}", "could not determine a constructor"),
        (b"a: *b", "undefined alias"),
    ],
)
def test_hostile_yaml_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(ApiError, match=told) as found:
        bodies.parse_object(body, yaml=True)
    assert found.value.code == 400


def test_big_yaml_is_refused_before_it_is_read() -> None:
    with pytest.raises(ApiError) as found:
        bodies.parse(b"a: " + b"x" * bodies.MAX_YAML, yaml=True)
    assert found.value.code == 413


@given(st.binary(max_size=64))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    try:
        bodies.parse(body, yaml=True)
    except ApiError as failure:
        assert failure.code == 400


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_has_no_key_twice_is_not_told_to(value: Any) -> None:
    assert bodies.repeated(json.dumps(value).encode()) == []


async def test_a_field_that_is_there_twice_is_refused_told_or_ignored(api: Api) -> None:
    body = b'{"metadata":{"name":"a"},"data":{"k":"1","k":"2"},"data":{"k":"3","k":"4"}}'
    code, found = await api.send("POST", f"{MAPS}?fieldValidation=Strict", body)
    assert (code, found["message"].partition(": ")[2]) == (
        400,
        'strict decoding error: duplicate field "data", duplicate field "data.k"',
    )
    code, found = await api.send("POST", f"{MAPS}?fieldValidation=Ignore", body)
    assert (code, found["data"]) == (201, {"k": "4"})
