import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.lab.apiserver.errors import ApiError
from isthmus.lab.apiserver.inputs.selectors import Selection, parse_fields, parse_labels


@pytest.mark.parametrize(
    ("text", "labels", "selected"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (b, c)", {"a": "c"}, True),
        ("a in (b,c)", {}, False),
        ("a notin (b,c)", {}, True),
        ("a notin (b)", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("!a,b", {"b": "1"}, True),
        ("a=", {"a": ""}, True),
        ("a in ()", {"a": ""}, True),
        ("a>3", {"a": "4"}, True),
        ("a<3", {"a": "4"}, False),
        ("a>3", {"a": "x"}, False),
        ("kubernetes.io/metadata.name=x", {"kubernetes.io/metadata.name": "x"}, True),
    ],
)
def test_label_selectors_select_as_kubectl_writes_them(text: str, labels: dict[str, str], selected: bool) -> None:
    assert Selection(parse_labels(text)).matches(labels, lambda path: "") is selected


@pytest.mark.parametrize(
    "text", ["a=b,", ",", "a b", "a in b", "a in (b", "=b", "a=b=c", "a>x", "a=b!", "-a=b", "a in ("]
)
def test_malformed_label_selectors_are_bad_requests(text: str) -> None:
    with pytest.raises(ApiError) as found:
        parse_labels(text)
    assert found.value.code == 400


@given(st.text(max_size=40))
def test_no_label_selector_breaks_the_parser(text: str) -> None:
    try:
        parse_labels(text)
    except ApiError as failure:
        assert failure.code == 400


def test_field_selectors_know_only_the_paths_of_the_kind() -> None:
    terms = parse_fields(
        "metadata.name=a,spec.nodeName!=b\\,c,status.phase==d", known=("spec.nodeName", "status.phase")
    )
    assert terms == (("metadata.name", "a", True), ("spec.nodeName", "b,c", False), ("status.phase", "d", True))
    with pytest.raises(ApiError, match=r"field label not supported: spec\.x"):
        parse_fields("spec.x=1", known=("spec.y",))
    with pytest.raises(ApiError, match=r'"spec\.x" is not a known field selector: only "metadata\.name"'):
        parse_fields("spec.x=1", known=())
    with pytest.raises(ApiError, match="can't understand"):
        parse_fields("spec.x", known=("spec.x",))
