"""How to reach one API server and as whom: what a kubeconfig says once it is read, merged and checked.

Plain values, so that anyone can build one without a file (the lab, discovery of managed clusters, tests). Secrets live
in `Material` alone, and its repr shows none of them.
"""

import msgspec


class Tls(msgspec.Struct, frozen=True):
    """How to check the server: `ca` is PEM (None: the system's roots); `server_name` overrides the URL's host."""

    ca: bytes | None = None
    verify: bool = True
    server_name: str | None = None


class Material(msgspec.Struct, frozen=True):
    """Credentials that are written down, inline or as files that may be replaced while we run.

    A `token_file` wins over `token`, inline certificate data over a file.
    """

    token: str = ""
    token_file: str = ""
    username: str = ""
    password: str = ""
    certificate: bytes = b""
    certificate_file: str = ""
    key: bytes = b""
    key_file: str = ""

    def __repr__(self) -> str:
        return f"Material({', '.join(field for field in self.__struct_fields__ if getattr(self, field))})"


class Plugin(msgspec.Struct, frozen=True):
    """An exec credential plugin (client.authentication.k8s.io v1 or v1beta1).

    `cluster_config` is the JSON of the cluster's extension for the plugin, None if there is none. `origin` says where
    it was configured, for errors.
    """

    api_version: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False
    cluster_config: bytes | None = None
    origin: str = ""

    def __repr__(self) -> str:
        # Arguments and environment may hold secrets.
        return f"Plugin({self.command!r}, {self.api_version})"


class Impersonation(msgspec.Struct, frozen=True):
    """Whom to act as, once authenticated."""

    user: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Access(msgspec.Struct, frozen=True):
    """One API server and the credentials for it.

    `server` is an http or https URL, perhaps with a path; `namespace` is the context's default; `context` is its name
    ("" in a cluster); `origin` says where all this was read, for errors and logs.
    """

    server: str
    tls: Tls = Tls()
    material: Material = Material()
    plugin: Plugin | None = None
    impersonation: Impersonation = Impersonation()
    proxy: str | None = None
    namespace: str = "default"
    context: str = ""
    origin: str = ""
