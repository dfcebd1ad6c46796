import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from isthmus.kube.errors import ConfigError
from isthmus.kube.kubeconfig import MAX_FILE, in_cluster, load


def config(**changes: Any) -> dict[str, Any]:
    """Returns a whole kubeconfig; `cluster`, `user` and `context` replace those parts."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c1", "cluster": {"server": "https://10.0.0.1:6443/", **changes.get("cluster", {})}}],
        "users": [{"name": "admin", "user": changes.get("user", {})}],
        "contexts": [{"name": "ctx", "context": {"cluster": "c1", "user": "admin", **changes.get("context", {})}}],
        "current-context": "ctx",
        "preferences": {},
    }


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_inline_data_is_decoded_and_wins_over_files(tmp_path: Path) -> None:
    path = write(
        tmp_path / "config",
        config(
            cluster={
                "certificate-authority-data": b64(b"CA"),
                "certificate-authority": "missing.crt",
                "tls-server-name": "api",
            },
            user={"client-certificate-data": b64(b"CERT"), "client-key-data": b64(b"KEY"), "token": "t0ken"},
            context={"namespace": "demo"},
        ),
    )

    access = load(path)

    assert access.server == "https://10.0.0.1:6443"
    assert (access.tls.ca, access.tls.server_name, access.tls.verify) == (b"CA", "api", True)
    assert (access.material.certificate, access.material.key, access.material.token) == (b"CERT", b"KEY", "t0ken")
    assert (access.namespace, access.context) == ("demo", "ctx")


def test_paths_are_relative_to_the_file_that_holds_them(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    for name in ("ca.crt", "user.crt", "user.key", "token"):
        write(tmp_path / "pki" / name, name)
    path = write(
        tmp_path / "config",
        config(
            cluster={"certificate-authority": "pki/ca.crt"},
            user={"client-certificate": "pki/user.crt", "client-key": "pki/user.key", "tokenFile": "pki/token"},
        ),
    )

    access = load(path)

    assert access.tls.ca == b"ca.crt"
    assert access.material.certificate_file == str(tmp_path / "pki" / "user.crt")
    assert access.material.token_file == str(tmp_path / "pki" / "token")


def test_listed_files_are_merged_and_the_first_to_name_a_thing_wins(tmp_path: Path) -> None:
    first = config(user={"token": "one"})
    del first["clusters"]
    second = config(user={"token": "two"})
    second["current-context"] = "other"
    paths = [tmp_path / "missing", write(tmp_path / "a", first), write(tmp_path / "b", second)]

    access = load(environ={"KUBECONFIG": os.pathsep.join(map(str, paths)) + os.pathsep})

    assert (access.material.token, access.context, access.server) == ("one", "ctx", "https://10.0.0.1:6443")


def test_the_home_directory_and_then_the_pod_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    with pytest.raises(ConfigError, match="no kubeconfig"):
        load(environ={"HOME": str(tmp_path)})
    write(tmp_path / ".kube" / "config", config())

    assert load(environ={"HOME": str(tmp_path)}).context == "ctx"


def test_a_context_can_be_chosen_and_an_unknown_one_lists_what_there_is(tmp_path: Path) -> None:
    value = config()
    value["contexts"].append({"name": "second", "context": {"cluster": "c1"}})
    path = write(tmp_path / "config", value)

    assert load(path, context="second").context == "second"
    with pytest.raises(ConfigError, match=r"there is no context 'nope' \(known: ctx, second\)"):
        load(path, context="nope")


def test_scalars_stay_the_text_that_they_are(tmp_path: Path) -> None:
    """A token of digits is a token."""
    path = write(tmp_path / "config", yaml.safe_dump(config(user={"token": "T"})).replace("token: T", "token: 12345"))

    assert load(path).material.token == "12345"


def test_null_lists_are_empty_lists_as_kubectl_writes_them(tmp_path: Path) -> None:
    path = write(tmp_path / "config", {"kind": "Config", "clusters": None, "users": None, "contexts": None})

    with pytest.raises(ConfigError, match="current-context is not set"):
        load(path)


def test_impersonation_and_proxy(tmp_path: Path) -> None:
    path = write(
        tmp_path / "config",
        config(
            cluster={"proxy-url": "http://proxy:3128"},
            user={"as": "jane", "as-uid": "7", "as-groups": ["dev"], "as-user-extra": {"scope": ["a", "b"]}},
        ),
    )

    access = load(path)

    assert access.proxy == "http://proxy:3128"
    assert (access.impersonation.user, access.impersonation.groups) == ("jane", ("dev",))
    assert access.impersonation.extra == (("scope", ("a", "b")),)


def test_an_exec_plugin_with_cluster_info(tmp_path: Path) -> None:
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    path = write(
        tmp_path / "config",
        config(
            cluster={"extensions": [extension]},
            user={
                "exec": {
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "command": "./bin/plugin",
                    "args": ["--get", "token"],
                    "env": [{"name": "PROFILE", "value": "p"}],
                    "provideClusterInfo": True,
                    "interactiveMode": "Never",
                }
            },
        ),
    )

    plugin = load(path).plugin

    assert plugin is not None
    assert plugin.command == str(tmp_path / "bin" / "plugin")
    assert (plugin.args, plugin.env) == (("--get", "token"), (("PROFILE", "p"),))
    assert (plugin.provide_cluster_info, plugin.cluster_config) == (True, b'{"audience":"x"}')


def test_no_secret_is_in_the_repr(tmp_path: Path) -> None:
    path = write(
        tmp_path / "config",
        config(user={"token": "hunter2", "client-key-data": b64(b"KEY"), "client-certificate-data": b64(b"C")}),
    )

    text = repr(load(path))

    assert "hunter2" not in text
    assert "KEY" not in text


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "x", "interactiveMode": "Never"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": {"server": "10.0.0.1"}}, r"clusters\[0\] 'c1'\.server: '10\.0\.0\.1' is not an http or https URL"),
        ({"cluster": {"server": "https://h:99999"}}, r"\.server: .* is not an http"),
        ({"cluster": {"server": "https://u:p@h"}}, r"\.server: only scheme"),
        ({"cluster": {"certificate-authority-data": "%%%"}}, r"\.certificate-authority-data: is not base64"),
        ({"cluster": {"certificate-authority": "no.crt"}}, r"\.certificate-authority: .*no\.crt: cannot read"),
        ({"cluster": {"insecure-skip-tls-verify": True, "certificate-authority-data": b64(b"x")}}, "insecure-skip-tls"),
        ({"cluster": {"proxy-url": "socks5://u:secret@h"}}, r"\.proxy-url: 'socks5'"),
        ({"cluster": {"insecure-skip-tls-verify": "maybe"}}, r"Expected `bool \| null`, got `str` - at `\$\.clusters"),
        ({"user": {"auth-provider": {"name": "gcp"}}}, r"users\[0\] 'admin'\.auth-provider: was removed"),
        ({"user": {"client-certificate-data": b64(b"x")}}, r"\.client-key: .* together"),
        ({"user": {"tokenFile": "gone"}}, r"\.tokenFile: .*gone"),
        ({"user": {"token": "a\nb: c"}}, r"\.token: holds characters"),
        ({"user": {"exec": {**EXEC, "apiVersion": "client.authentication.k8s.io/v1alpha1"}}}, r"\.exec\.apiVersion: "),
        ({"user": {"exec": {**EXEC, "interactiveMode": "Always"}}}, r"\.exec\.interactiveMode: .*terminal"),
        ({"user": {"exec": {**EXEC, "interactiveMode": ""}}}, r"\.exec\.interactiveMode: '' is not one of"),
        ({"user": {"exec": {**EXEC, "command": ""}}}, r"\.exec\.command: is empty"),
        ({"user": {"exec": {"command": "x"}}}, "missing required field `apiVersion`"),
        ({"context": {"cluster": "c9"}}, r"contexts\[0\] 'ctx'\.cluster: there is no cluster 'c9'"),
        ({"context": {"user": "u9"}}, r"contexts\[0\] 'ctx'\.user: there is no user 'u9'"),
        ({"cluster": {"server": "http://10.0.0.1"}, "user": {"token": "x"}}, "not sent over plain http"),
    ],
)
def test_errors_name_the_file_and_the_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "config", config(**changes))

    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "- 1",
        "just text",
        "\x00",
        "clusters: 7",
        BOMB,
        "[" * 200_000,
        "kind: Pod",
        "a: !!python/object:os.system x",
        "? [a]: b",
    ],
)
def test_files_that_are_no_kubeconfig_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "config", text)

    with pytest.raises(ConfigError, match="config"):
        load(path)


def test_random_bytes_too_large_files_and_directories_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="config"):
        load(path)
    with path.open("wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(ConfigError, match="larger than"):
        load(path)
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent")


def test_a_list_of_files_of_which_none_exists_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\$KUBECONFIG: none of these files exists"):
        load(environ={"KUBECONFIG": str(tmp_path / "a")})


def test_in_a_pod_the_service_account_is_used(tmp_path: Path) -> None:
    for name in ("token", "ca.crt", "namespace"):
        write(tmp_path / name, name)
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}

    access = in_cluster(environ=environ, directory=tmp_path)

    assert (access.server, access.namespace, access.tls.ca) == ("https://[fd00::1]:443", "namespace", b"ca.crt")
    assert access.material.token_file == str(tmp_path / "token")
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigError, match="token is missing"):
        in_cluster(environ=environ, directory=tmp_path)


def test_an_error_in_the_syntax_names_the_line_and_quotes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "config", "users:\n- user:\n    token: hunter2: {hunter3\n")

    with pytest.raises(ConfigError, match=r"not YAML: .*\(line 3\)") as caught:
        load(path)
    assert "hunter" not in str(caught.value)


def test_types_are_known_before_files_are_read_in_threads(tmp_path):
    """msgspec looks at a type when it is first used; another thread that uses it meanwhile ends the process."""
    path = tmp_path / "config"
    path.write_text(json.dumps({"clusters": [{"name": "a", "cluster": {"server": "https://h"}}]}))
    program = f"""
import pathlib, sys
from isthmus.kube import kubeconfig
looked = []
sys.setprofile(lambda frame, event, _: looked.append(1) if frame.f_code.co_name == "get_class_annotations" else None)
kubeconfig.context_names(pathlib.Path({str(path)!r}))
sys.setprofile(None)
sys.exit(len(looked))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
