from pathlib import Path

import msgspec
import pytest

from isthmus.lab.apiserver.access.auth import Authenticator, TokenFileError, User, certificate_user, read_token_file


def authenticator(tmp_path: Path, *, uid: str | None = "u1", key: bytes = b"k") -> Authenticator:
    path = tmp_path / "tokens"
    path.write_text('abc,alice,1,"g1, g2"\n\nxyz,bob,2\n')
    return Authenticator(tokens=read_token_file(path), key=key, uid_of=lambda plural, namespace, name: uid)


def test_tokens_of_the_file(tmp_path: Path) -> None:
    found = authenticator(tmp_path)
    alice = User("alice", "1", ("g1", "g2", "system:authenticated"))
    assert found.user(certificate=None, authorization="Bearer abc") == alice
    assert found.user(certificate=None, authorization="bearer xyz") == User("bob", "2", ("system:authenticated",))
    assert found.user(certificate=None, authorization="Bearer nope") is None
    assert found.user(certificate=None, authorization="Basic abc") is None
    assert found.user(certificate=None, authorization="") is None


def test_a_certificate_names_user_and_groups(tmp_path: Path) -> None:
    subject = ((("organizationName", "o1"),), (("organizationName", "o2"),), (("commonName", "carol"),))
    carol = User("carol", "", ("o1", "o2", "system:authenticated"))
    assert certificate_user({"subject": subject}) == carol
    assert certificate_user({"subject": ()}) is None
    found = authenticator(tmp_path)
    assert found.user(certificate={"subject": subject}, authorization="") == carol
    # A bad token is not made good by a certificate.
    assert found.user(certificate={"subject": subject}, authorization="Bearer nope") is None


def test_service_account_tokens_are_signed_fresh_and_bound_to_the_account(tmp_path: Path) -> None:
    found = authenticator(tmp_path)
    token = found.issue(namespace="n", name="a", uid="u1", seconds=600, audiences=[])
    user = found.user(certificate=None, authorization=f"Bearer {token}")
    assert user is not None and user.extra["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")
    assert msgspec.structs.replace(user, extra={}) == User(
        "system:serviceaccount:n:a",
        "u1",
        ("system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"),
    )
    expired = found.issue(namespace="n", name="a", uid="u1", seconds=-1, audiences=[])
    elsewhere = found.issue(namespace="n", name="a", uid="u1", seconds=600, audiences=["vault"])
    forged = authenticator(tmp_path, key=b"other").issue(namespace="n", name="a", uid="u1", seconds=600, audiences=[])
    for bad in (expired, elsewhere, forged, token[:-2], token + "x", "a.b.c", "..", "é.é.é"):
        assert found.user(certificate=None, authorization=f"Bearer {bad}") is None
    for uid in (None, "u2"):
        other = authenticator(tmp_path, uid=uid)
        assert other.user(certificate=None, authorization=f"Bearer {token}") is None


@pytest.mark.parametrize("text", ["abc\n", "abc,\n", ",alice,1\n", "abc,,1\n"])
def test_a_bad_line_of_the_token_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text("ok,user,1\n" + text)
    with pytest.raises(TokenFileError, match="line 2"):
        read_token_file(path)


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="nothing"):
        read_token_file(tmp_path / "nothing")
