"""Credentials from files and from plugins; the plugins are real programs."""

import asyncio
import json
import os
import select
import stat
import textwrap
from pathlib import Path
from typing import Any

import pytest

from isthmus.kube.access import Access, Material, Plugin, Tls
from isthmus.kube.auth import CALM, FILE_PERIOD, SKEW, FileCredentials, PluginCredentials
from isthmus.kube.errors import CredentialError
from isthmus.kube.plugin import exec_info, parse_answer, run_plugin

V1 = "client.authentication.k8s.io/v1"
NOW = 1_800_000_000.0


def script(directory: Path, text: str, name: str = "plugin") -> str:
    path = directory / name
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def plugin(command: str, **more: Any) -> Plugin:
    return Plugin(api_version=V1, command=command, origin="config: users[0].exec", **more)


def credential(**fields: Any) -> str:
    return json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": fields})


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def counting(directory: Path, *, expires: str | None = None) -> str:
    """A plugin whose n-th run gives the token t<n>."""
    expiry = f',"expirationTimestamp":"{expires}"' if expires else ""
    return script(
        directory,
        f"""
        echo run >> {directory}/runs
        n=$(wc -l < {directory}/runs)
        printf '{{"apiVersion":"{V1}","kind":"ExecCredential","status":{{"token":"t%d"{expiry}}}}}' "$n"
        """,
    )


async def test_a_plugin_gets_its_environment_arguments_and_what_it_must_know(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        f"""
        echo "$1 $PROFILE" > {tmp_path}/seen
        echo "$KUBERNETES_EXEC_INFO" > {tmp_path}/info
        test -t 0 && exit 3
        echo '{credential(token="secret")}'
        """,
    )
    access = Access(server="https://h:1", tls=Tls(ca=b"CA", server_name="api"))
    wanted = plugin(
        command, args=("--x",), env=(("PROFILE", "p"),), provide_cluster_info=True, cluster_config=b'{"a":1}'
    )

    answer = await run_plugin(access, wanted)

    assert answer.token == "secret"
    assert (tmp_path / "seen").read_text() == "--x p\n"
    assert json.loads((tmp_path / "info").read_text()) == {
        "apiVersion": V1,
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {
                "server": "https://h:1",
                "tls-server-name": "api",
                "certificate-authority-data": "Q0E=",
                "config": {"a": 1},
            },
        },
    }


def test_without_provide_cluster_info_nothing_of_the_cluster_is_told() -> None:
    info = json.loads(exec_info(Access(server="https://h"), plugin("x")))

    assert info["spec"] == {"interactive": False}


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("hunter2 is not JSON", "did not print an ExecCredential"),
        ("[]", "did not print an ExecCredential"),
        ("[" * 50_000, "did not print an ExecCredential"),
        (credential(token="x").replace("/v1", "/v1beta1"), "answered in '.*v1beta1', configured is .*v1"),
        (credential(token="x").replace("ExecCredential", "Pod"), "printed kind 'Pod'"),
        (json.dumps({"apiVersion": V1, "kind": "ExecCredential"}), "has no status"),
        (credential(), "neither a token nor a client certificate"),
        (credential(clientCertificateData="x"), "only one of"),
        (credential(token="x", expirationTimestamp="tomorrow"), "did not print an ExecCredential"),
        (credential(token="a\r\nX-Evil: 1"), "cannot be sent in a header"),
    ],
)
def test_answers_that_cannot_be_used_are_refused_without_being_repeated(output: str, problem: str) -> None:
    with pytest.raises(CredentialError, match=problem) as caught:
        parse_answer(output.encode(), plugin("x"))
    assert "config: users[0].exec" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_client_certificate_and_an_expiry_are_understood() -> None:
    text = credential(clientCertificateData="CERT", clientKeyData="KEY", expirationTimestamp="2027-01-15T08:00:00Z")

    answer = parse_answer(text.encode(), plugin("x"))

    assert (answer.certificate, answer.key, answer.expires) == (b"CERT", b"KEY", 1_800_000_000.0)


async def test_a_failing_plugin_is_named_with_what_it_said(tmp_path: Path) -> None:
    command = script(tmp_path, "echo 'please log in' >&2; exit 4")

    with pytest.raises(CredentialError, match="failed with exit code 4: please log in"):
        await run_plugin(Access(server="https://h"), plugin(command))


async def test_a_missing_plugin_is_named_with_its_hint() -> None:
    with pytest.raises(
        CredentialError, match=r"cannot run 'no-such-plugin': (No such file|Permission denied).*; get it at X"
    ):
        await run_plugin(Access(server="https://h"), plugin("no-such-plugin", install_hint="get it at X"))


async def test_a_plugin_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    command = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait")

    with pytest.raises(CredentialError, match=r"did not finish in 0\.5 s"):
        await run_plugin(Access(server="https://h"), plugin(command), time_limit=0.5)
    assert not os.path.exists(f"/proc/{(tmp_path / 'self').read_text().strip()}")
    try:
        child = os.pidfd_open(int((tmp_path / "child").read_text()))
    except ProcessLookupError:
        return
    ended, _, _ = select.select([child], [], [], 10.0)  # killed it is, but on a busy machine not yet dead
    os.close(child)
    assert ended


async def test_a_plugin_that_prints_without_end_is_killed(tmp_path: Path) -> None:
    command = script(tmp_path, "exec yes")

    with pytest.raises(CredentialError, match="printed more than"):
        await run_plugin(Access(server="https://h"), plugin(command))


async def test_an_answer_is_used_until_shortly_before_it_expires(tmp_path: Path) -> None:
    clock = Clock()
    source = PluginCredentials(
        Access(server="https://h"), plugin(counting(tmp_path, expires="2027-01-15T09:00:00Z")), clock=clock
    )

    assert (await source.credential()).authorization == "Bearer t1"
    clock.now = NOW + 3600 - SKEW - 1
    assert (await source.credential()).authorization == "Bearer t1"
    clock.now = NOW + 3600 - SKEW
    assert (await source.credential()).authorization == "Bearer t2"


async def test_many_requests_cause_one_run_and_many_rejections_one_more(tmp_path: Path) -> None:
    source = PluginCredentials(Access(server="https://h"), plugin(counting(tmp_path)), clock=Clock())

    first = await asyncio.gather(*(source.credential() for _ in range(50)))
    second = await asyncio.gather(*(source.credential(rejected=first[0]) for _ in range(50)))

    assert {c.authorization for c in first} == {"Bearer t1"}
    assert {c.authorization for c in second} == {"Bearer t2"}
    assert source.runs == 2


async def test_a_server_that_refuses_everything_does_not_run_the_plugin_each_time(tmp_path: Path) -> None:
    clock = Clock()
    source = PluginCredentials(Access(server="https://h"), plugin(counting(tmp_path)), clock=clock)
    current = await source.credential()
    for _ in range(10):
        current = await source.credential(rejected=current)

    assert source.runs == 2
    clock.now += CALM
    await source.credential(rejected=current)
    assert source.runs == 3


async def test_a_failure_stands_for_a_moment_and_is_then_tried_again(tmp_path: Path) -> None:
    clock = Clock()
    source = PluginCredentials(Access(server="https://h"), plugin(script(tmp_path, "exit 1")), clock=clock)
    results = await asyncio.gather(*(source.credential() for _ in range(20)), return_exceptions=True)

    assert all(isinstance(result, CredentialError) for result in results)
    assert source.runs == 1
    clock.now += CALM
    with pytest.raises(CredentialError):
        await source.credential()
    assert source.runs == 2


async def test_within_its_last_minute_a_credential_is_better_than_a_failing_plugin(tmp_path: Path) -> None:
    clock = Clock()
    command = counting(tmp_path, expires="2027-01-15T09:00:00Z")
    source = PluginCredentials(Access(server="https://h"), plugin(command), clock=clock)
    await source.credential()
    script(tmp_path, "exit 1")

    clock.now = NOW + 3600 - 1
    assert (await source.credential()).authorization == "Bearer t1"
    clock.now = NOW + 3600 + CALM
    with pytest.raises(CredentialError):
        await source.credential()


async def test_a_plugins_token_may_stand_beside_a_certificate_of_the_kubeconfig(tmp_path: Path) -> None:
    access = Access(server="https://h", material=Material(certificate=b"C", key=b"K"))
    found = await PluginCredentials(access, plugin(counting(tmp_path)), clock=Clock()).credential()

    assert (found.authorization, found.certificate, found.key) == ("Bearer t1", b"C", b"K")


async def test_a_token_file_is_read_again_in_time_and_after_a_rejection(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "token"
    path.write_text("one\n")
    source = FileCredentials(Material(token_file=str(path)), clock=clock)

    first = await source.credential()
    path.write_text("two")
    assert (await source.credential()) == first
    second = await source.credential(rejected=first)
    assert (first.authorization, second.authorization) == ("Bearer one", "Bearer two")
    path.write_text("three")
    clock.now += FILE_PERIOD
    assert (await source.credential()).authorization == "Bearer three"


async def test_a_token_file_that_vanishes_leaves_the_last_token_until_it_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "token"
    path.write_text("one")
    source = FileCredentials(Material(token_file=str(path)), origin="config", clock=clock)
    first = await source.credential()
    path.unlink()

    clock.now += FILE_PERIOD
    assert (await source.credential()) == first
    with pytest.raises(CredentialError, match=r"token file .*No such file"):
        await source.credential(rejected=first)


async def test_inline_credentials() -> None:
    token = await FileCredentials(Material(token="t", username="u", password="p")).credential()
    basic = await FileCredentials(Material(username="u", password="p")).credential()
    none = await FileCredentials(Material()).credential()

    assert token.authorization == "Bearer t"
    assert basic.authorization == "Basic dTpw"
    assert none.authorization == ""
    assert "t" not in repr(token).removeprefix("Credential").replace("expires", "")


@pytest.mark.parametrize("content", [b"", b"a\nb", b"\xff\xfe", b"a\rb"])
async def test_a_token_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)

    with pytest.raises(CredentialError, match="token file"):
        await FileCredentials(Material(token_file=str(path))).credential()
