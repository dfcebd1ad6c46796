"""The tracker's options, checked: what goes together, what is missing, and which flag to change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from isthmus.mesh.clusters import ClusterList, ClustersError, ClusterSpec, own_cluster, parse_flag
from isthmus.model.durations import seconds
from isthmus.store.child import ServerTls
from isthmus.store.errors import Refused
from isthmus.store.transport import Tls, endpoints_of

STALENESS = 600.0
MOST_STALENESS = 366 * 86400.0
"""Seconds."""

DEFAULT_LISTEN = "http://127.0.0.1:2379"


class OptionsError(Exception):
    """Options that cannot work; the message names the flag."""


class TrackerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `isthmus tracker` was asked to do; either `endpoints`, or `data_dir` and `listen` for a child etcd."""

    own: ClusterSpec
    clusters: tuple[ClusterSpec, ...] = ()
    clusters_file: Path | None = None
    data_dir: Path | None = None
    listen: str = DEFAULT_LISTEN
    server_tls: ServerTls | None = None
    endpoints: tuple[str, ...] = ()
    client_tls: Tls | None = None
    users: tuple[tuple[str, str], ...] = ()
    metrics_bind_address: str = "127.0.0.1:9090"
    global_services: str = "nftables"
    remote_staleness: float = STALENESS
    """Seconds; 0 is never."""

    def cluster_list(self) -> ClusterList:
        """The clusters that are configured."""
        return ClusterList(self.own, flags=self.clusters, file=self.clusters_file)

    @property
    def names_others(self) -> bool:
        """Whether other clusters are named by flags or a file, beside those that the own cluster knows."""
        return bool(self.clusters) or self.clusters_file is not None

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> "TrackerOptions":
        """Returns the options if they can work. Raises OptionsError."""
        try:
            own = own_cluster(given.get("cluster_name") or "", given.get("cluster_id") or 0)
            clusters = tuple(parse_flag(text) for text in given.get("clusters", ()))
        except ClustersError as error:
            raise OptionsError(str(error)) from None
        endpoints = tuple(url for text in given.get("etcd_endpoints", ()) for url in text.split(",") if url)
        listen = given.get("etcd_listen") or DEFAULT_LISTEN
        try:
            secure = endpoints_of(endpoints or [listen])[1]
        except Refused as error:
            raise OptionsError(f"{'--etcd-endpoints' if endpoints else '--etcd-listen'}: {error}") from None
        ca, cert, key = (given.get(f"etcd_{part}") for part in ("ca", "cert", "key"))
        if (cert is None) != (key is None):
            raise OptionsError("--etcd-cert and --etcd-key go together")
        if not secure and (ca or cert):
            raise OptionsError("--etcd-ca, --etcd-cert and --etcd-key need an https:// address")
        data_dir = given.get("data_dir")
        if endpoints and data_dir:
            raise OptionsError(
                "--data-dir and --etcd-endpoints exclude each other: either we run etcd or somebody does"
            )
        if not endpoints and data_dir is None:
            raise OptionsError("--data-dir is required (or --etcd-endpoints, for an etcd that runs already)")
        if not endpoints and secure and (ca is None or cert is None or key is None):
            raise OptionsError("--etcd-listen with https:// needs --etcd-ca, --etcd-cert and --etcd-key")
        server = cert is not None and key is not None and ca is not None and not endpoints
        return cls(
            own=ClusterSpec(own, given.get("kubeconfig"), given.get("context")),
            clusters=clusters,
            clusters_file=given.get("clusters_file"),
            data_dir=data_dir,
            listen=listen,
            server_tls=ServerTls(cert=cert, key=key, ca=ca) if server and cert and key and ca else None,
            endpoints=endpoints,
            client_tls=Tls(ca=ca, cert=cert, key=key) if endpoints and secure else None,
            users=tuple(_user(text) for text in given.get("etcd_users", ())),
            metrics_bind_address=given.get("metrics_bind_address") or "127.0.0.1:9090",
            global_services=given.get("global_services") or "nftables",
            remote_staleness=_staleness(given.get("remote_staleness")),
        )


def _staleness(text: str | None) -> float:
    if text is None:
        return STALENESS
    found = seconds(text)
    if found is None or found > MOST_STALENESS:
        raise OptionsError(f"--remote-staleness: {text!r} is not a duration as 90s or 10m (0 is never)")
    return found


def _user(text: str) -> tuple[str, str]:
    name, _, role = text.rpartition("=")
    if not name or role not in ("local", "remote"):
        raise OptionsError(f"--etcd-user {text!r}: expected NAME=local or NAME=remote")
    return name, role
