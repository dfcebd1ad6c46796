"""Reading kubeconfig files: the same files, found and merged the same way, as kubectl.

Invariants: the first file that names a cluster, user, context or current-context wins; relative paths are relative to
the file that holds them; every error names the file and the field; nothing is executed here. Files are hostile:
bounded in size, YAML without aliases (a few hundred bytes of them can stand for gigabytes). Reading blocks, so call
`load` before the event loop starts, or in a thread. Rejected: taking unknown authentication (`auth-provider`) as "no
credentials", which would send anonymous requests where the user expects to be known.
"""

import base64
import binascii
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

from isthmus.kube.access import Access, Impersonation, Material, Plugin, Tls
from isthmus.kube.errors import DECODE_ERRORS, ConfigError, clip

MAX_FILE = 8 << 20
"""Bytes of a kubeconfig, certificate or token file; far above any real one."""

MAX_DEPTH = 64
"""Levels of nesting; a kubeconfig has eight."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
EXEC_EXTENSION = "client.authentication.k8s.io/exec"
BAD_VALUES = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)
"""What PyYAML raises, beside its own errors, for a value with a tag that it does not fit (`!!bool maybe`)."""
_NO_FILES = "would use a file or program of this machine; here everything must be inside (...-data, token)"


class _Named(msgspec.Struct, rename="kebab"):
    name: str


class _Extension(_Named):
    extension: Any = None


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str = ""
    tls_server_name: str | None = None
    insecure_skip_tls_verify: bool | None = False
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    proxy_url: str | None = None
    extensions: list[_Extension] | None = None


class _EnvVar(msgspec.Struct):
    name: str
    value: str = ""


class _Exec(msgspec.Struct, rename="camel"):
    api_version: str
    command: str
    args: list[str] | None = None
    env: list[_EnvVar] | None = None
    install_hint: str | None = ""
    provide_cluster_info: bool | None = False
    interactive_mode: str | None = ""


class _User(msgspec.Struct, rename="kebab"):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = msgspec.field(name="tokenFile", default=None)
    username: str | None = None
    password: str | None = None
    as_user: str | None = msgspec.field(name="as", default=None)
    as_uid: str | None = None
    as_groups: list[str] | None = None
    as_user_extra: dict[str, list[str]] | None = None
    auth_provider: dict[str, Any] | None = None
    exec: _Exec | None = None


class _Context(msgspec.Struct, rename="kebab"):
    cluster: str = ""
    user: str = ""
    namespace: str | None = None


class _NamedCluster(_Named):
    cluster: _Cluster | None = None


class _NamedUser(_Named):
    user: _User | None = None


class _NamedContext(_Named):
    context: _Context | None = None


class _File(msgspec.Struct, rename="kebab"):
    kind: str | None = "Config"
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None
    current_context: str | None = ""


# Types are looked at when they are first used, and a thread that comes meanwhile crashes the process. Files are read in
# threads, several at once when a tracker starts, so it is done here, where there is one.
msgspec.json.Decoder(_File)


def _plain_loader() -> Any:
    """Returns a loader for plain data that leaves `1e3` or `2024-01-01` the text that they are in a token or a name."""
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag.endswith((":null", ":bool"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return type("PlainLoader", (base,), {"yaml_implicit_resolvers": resolvers})


_LOADER = _plain_loader()


def _check_shape(data: bytes) -> None:
    """Raises YAMLError for aliases and for nesting that would exhaust the stack of the real parser."""
    depth = 0
    for event in yaml.parse(data, Loader=_LOADER):
        match event:
            case yaml.AliasEvent():
                raise yaml.YAMLError("aliases (*name) are not supported")
            case yaml.CollectionStartEvent():
                depth += 1
                if depth > MAX_DEPTH:
                    raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
            case yaml.CollectionEndEvent():
                depth -= 1


class _Place(msgspec.Struct):
    """Where an entry came from, to resolve its paths and to speak of it."""

    file: Path
    path: str

    def error(self, field: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.file}: {self.path}.{field}: {problem}")

    def resolve(self, text: str) -> str:
        return str(self.file.parent / text)


def load(path: Path | None = None, *, context: str | None = None, environ: Mapping[str, str] = os.environ) -> Access:
    """Returns the access that a kubeconfig describes.

    `path` None means the files of $KUBECONFIG, else ~/.kube/config, else the service account of the pod that we run
    in. `context` None means the current context. Raises ConfigError.
    """
    if path is not None:
        return _from_files([path], context, required=True)
    listed = [Path(entry) for entry in environ.get("KUBECONFIG", "").split(os.pathsep) if entry]
    if listed:
        return _from_files(listed, context, required=False)
    home = Path(environ.get("HOME") or Path.home()) / ".kube" / "config"
    if home.exists():
        return _from_files([home], context, required=True)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(environ=environ)
    raise ConfigError(f"no kubeconfig: $KUBECONFIG is not set, {home} does not exist, and this is not a pod")


def context_names(path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Returns the names of all contexts of the files that `load` would read, in their order. Raises ConfigError."""
    listed = [Path(entry) for entry in environ.get("KUBECONFIG", "").split(os.pathsep) if entry]
    home = Path(environ.get("HOME") or Path.home()) / ".kube" / "config"
    paths = [path] if path is not None else [entry for entry in listed if entry.exists()] or [home]
    return tuple(dict.fromkeys(named.name for found in paths for named in _parse(found).contexts or ()))


def in_cluster(*, environ: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT) -> Access:
    """Returns the access of the pod that this process runs in. Raises ConfigError."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError("not in a pod: $KUBERNETES_SERVICE_HOST is not set")
    token_file, namespace_file = directory / "token", directory / "namespace"
    if not token_file.is_file():
        raise ConfigError(f"{token_file}: the service account token is missing")
    namespace = _read(namespace_file, "namespace").decode("utf-8", "replace").strip() if namespace_file.exists() else ""
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        tls=Tls(ca=_read(directory / "ca.crt", "ca.crt")),
        material=Material(token_file=str(token_file)),
        namespace=namespace or "default",
        origin=str(directory),
    )


def inline(tree: Any, *, origin: str, context: str | None = None) -> Access:
    """Returns the access that a kubeconfig describes which is no file, as plain data (`plain_data`).

    It may have been written by somebody who has no rights on this machine: what would read a file here or run a program
    is refused. `origin` says where it comes from, for errors. Raises ConfigError.
    """
    place = Path(origin)
    parsed = _converted(tree, place)
    for i, c in enumerate(parsed.clusters or ()):
        if c.cluster is not None and c.cluster.certificate_authority:
            raise _Place(place, f"clusters[{i}] {c.name!r}").error("certificate-authority", _NO_FILES)
    for i, u in enumerate(parsed.users or ()):
        user = u.user or _User()
        for field, value in (
            ("client-certificate", user.client_certificate),
            ("client-key", user.client_key),
            ("tokenFile", user.token_file),
            ("exec", user.exec),
        ):
            if value:
                raise _Place(place, f"users[{i}] {u.name!r}").error(field, _NO_FILES)
    return _chosen([(place, parsed)], context, names=origin)


def _from_files(paths: list[Path], context: str | None, *, required: bool) -> Access:
    """Merges `paths` as kubectl does: a listed file that does not exist is no error, the only one is."""
    found = [(path, _parse(path)) for path in paths if required or path.exists()]
    names = os.pathsep.join(map(str, paths))
    if not found:
        raise ConfigError(f"$KUBECONFIG: none of these files exists: {names}")
    return _chosen(found, context, names=names)


def _chosen(files: list[tuple[Path, _File]], context: str | None, *, names: str) -> Access:
    """Returns the access of the chosen context of `files`, merged."""
    clusters: dict[str, tuple[_Cluster, _Place]] = {}
    users: dict[str, tuple[_User, _Place]] = {}
    contexts: dict[str, tuple[_Context, _Place]] = {}
    current = ""
    for path, parsed in files:
        for i, c in enumerate(parsed.clusters or ()):
            clusters.setdefault(c.name, (c.cluster or _Cluster(), _Place(path, f"clusters[{i}] {c.name!r}")))
        for i, u in enumerate(parsed.users or ()):
            users.setdefault(u.name, (u.user or _User(), _Place(path, f"users[{i}] {u.name!r}")))
        for i, x in enumerate(parsed.contexts or ()):
            contexts.setdefault(x.name, (x.context or _Context(), _Place(path, f"contexts[{i}] {x.name!r}")))
        current = current or parsed.current_context or ""
    wanted = context or current
    if not wanted:
        raise ConfigError(f"{names}: current-context is not set, and no context was asked for")
    if wanted not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        raise ConfigError(f"{names}: contexts: there is no context {wanted!r} (known: {known})")
    chosen, place = contexts[wanted]
    if chosen.cluster not in clusters:
        raise place.error("cluster", f"there is no cluster {chosen.cluster!r}")
    if chosen.user and chosen.user not in users:
        raise place.error("user", f"there is no user {chosen.user!r}")
    cluster, cluster_place = clusters[chosen.cluster]
    user, user_place = users[chosen.user] if chosen.user else (_User(), place)
    server = _server(cluster, cluster_place)
    access = Access(
        server=server,
        tls=_tls(cluster, cluster_place),
        material=_material(user, user_place),
        plugin=_plugin(user, user_place, cluster),
        impersonation=_impersonation(user),
        proxy=_proxy(cluster, cluster_place),
        namespace=chosen.namespace or "default",
        context=wanted,
        origin=f"{place.file} context {wanted!r}",
    )
    if server.startswith("http:") and not _loopback(server) and (access.plugin or access.material != Material()):
        raise cluster_place.error("server", f"{server}: credentials are not sent over plain http to another machine")
    return access


def plain_data(data: bytes, *, origin: str) -> Any:
    """Returns what a YAML document holds, everything but null and booleans as text. Raises ConfigError."""
    try:
        _check_shape(data)
        return yaml.load(data, Loader=_LOADER)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML: {_spoken(error)}") from None  # its context may quote a secret
    except RecursionError:
        raise ConfigError(f"{origin}: not YAML that can be read: nested too deep") from None
    except BAD_VALUES:
        raise ConfigError(f"{origin}: not YAML that can be read: a value does not fit its tag") from None


def _parse(path: Path) -> _File:
    return _converted(plain_data(_read(path, "kubeconfig"), origin=str(path)), path)


def _converted(tree: Any, path: Path) -> _File:
    if tree is None:
        return _File()
    try:
        parsed = msgspec.convert(tree, _File)
    except DECODE_ERRORS as error:
        raise ConfigError(f"{path}: {clip(str(error))}") from error
    if parsed.kind not in (None, "", "Config"):
        raise ConfigError(f"{path}: kind: expected Config, got {clip(parsed.kind)!r}")
    return parsed


def _spoken(error: yaml.YAMLError) -> str:
    """Returns what is wrong and where, without the text around it."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        return f"{error.problem or error.context}" + (f" (line {mark.line + 1})" if mark is not None else "")
    return clip(str(error))


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the {what}: {error.strerror or error}") from error
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path}: the {what} is larger than {MAX_FILE} bytes")
    return data


def _server(cluster: _Cluster, place: _Place) -> str:
    server = cluster.server.rstrip("/")
    try:
        parts = urlsplit(server)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or not server.isascii() or not server.isprintable() or " " in server:
        raise place.error("server", f"{clip(cluster.server)!r} is not an http or https URL")
    if parts.query or parts.fragment or parts.username:
        raise place.error("server", "only scheme, host, port and path are allowed")
    return server


def _loopback(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy(cluster: _Cluster, place: _Place) -> str | None:
    if not cluster.proxy_url:
        return None
    if not cluster.proxy_url.startswith(("http://", "https://")):
        # Not the address itself, which may hold a password.
        scheme = cluster.proxy_url.partition("://")[0] if "://" in cluster.proxy_url else ""
        raise place.error("proxy-url", f"{clip(scheme)!r}: only http and https proxies are supported")
    return cluster.proxy_url


def _tls(cluster: _Cluster, place: _Place) -> Tls:
    ca: bytes | None = None
    if cluster.certificate_authority_data:
        ca = _decoded(cluster.certificate_authority_data, place, "certificate-authority-data")
    elif cluster.certificate_authority:
        ca = _referenced(cluster.certificate_authority, place, "certificate-authority")
    verify = not cluster.insecure_skip_tls_verify
    if ca is not None and not verify:
        raise place.error("insecure-skip-tls-verify", "cannot be combined with a certificate authority")
    return Tls(ca=ca, verify=verify, server_name=cluster.tls_server_name or None)


def _material(user: _User, place: _Place) -> Material:
    if user.auth_provider is not None:
        raise place.error("auth-provider", "was removed from Kubernetes in 1.26; use exec with a credential plugin")
    certificate = key = b""
    certificate_file = key_file = token_file = ""
    if user.client_certificate_data:
        certificate = _decoded(user.client_certificate_data, place, "client-certificate-data")
    elif user.client_certificate:
        certificate_file = place.resolve(user.client_certificate)
        _referenced(user.client_certificate, place, "client-certificate")
    if user.client_key_data:
        key = _decoded(user.client_key_data, place, "client-key-data")
    elif user.client_key:
        key_file = place.resolve(user.client_key)
        _referenced(user.client_key, place, "client-key")
    if bool(certificate or certificate_file) != bool(key or key_file):
        raise place.error("client-key", "a client certificate and its key must be given together")
    if user.token_file:
        token_file = place.resolve(user.token_file)
        _referenced(user.token_file, place, "tokenFile")
    token = (user.token or "").strip()
    for field, value in (("token", token), ("username", user.username or ""), ("password", user.password or "")):
        if not value.isprintable():
            raise place.error(field, "holds characters that cannot be sent in a header")
    return Material(
        token=token,
        token_file=token_file,
        username=user.username or "",
        password=user.password or "",
        certificate=certificate,
        certificate_file=certificate_file,
        key=key,
        key_file=key_file,
    )


def _plugin(user: _User, place: _Place, cluster: _Cluster) -> Plugin | None:
    spec = user.exec
    if spec is None:
        return None
    if spec.api_version not in EXEC_VERSIONS:
        raise place.error("exec.apiVersion", f"{clip(spec.api_version)!r} is not one of {', '.join(EXEC_VERSIONS)}")
    if not spec.command:
        raise place.error("exec.command", "is empty")
    mode = spec.interactive_mode or ("" if spec.api_version == EXEC_VERSIONS[0] else "IfAvailable")
    if mode == "Always":
        raise place.error("exec.interactiveMode", "the plugin wants a terminal (Always), and there is none here")
    if mode not in ("Never", "IfAvailable"):
        raise place.error("exec.interactiveMode", f"{clip(mode)!r} is not one of Never, IfAvailable, Always")
    config: bytes | None = None
    for extension in cluster.extensions or ():
        if extension.name == EXEC_EXTENSION:
            config = msgspec.json.encode(extension.extension)
    return Plugin(
        api_version=spec.api_version,
        # As in a shell: a bare word is looked up in PATH, anything with a slash is a path, here beside the file.
        command=place.resolve(spec.command) if "/" in spec.command else spec.command,
        args=tuple(spec.args or ()),
        env=tuple((item.name, item.value) for item in spec.env or ()),
        install_hint=clip(spec.install_hint or ""),
        provide_cluster_info=bool(spec.provide_cluster_info),
        cluster_config=config,
        origin=f"{place.file}: {place.path}.exec",
    )


def _impersonation(user: _User) -> Impersonation:
    return Impersonation(
        user=user.as_user or "",
        uid=user.as_uid or "",
        groups=tuple(user.as_groups or ()),
        extra=tuple((key, tuple(values)) for key, values in sorted((user.as_user_extra or {}).items())),
    )


def _decoded(text: str, place: _Place, field: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise place.error(field, "is not base64") from error


def _referenced(text: str, place: _Place, field: str) -> bytes:
    try:
        return _read(Path(place.resolve(text)), "file")
    except (ConfigError, ValueError) as error:
        raise place.error(field, str(error)) from error
