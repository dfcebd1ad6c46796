"""The agent's options, checked: what goes together, what is missing, and which flag to change."""

import re
from enum import Enum
from pathlib import Path

import msgspec

from isthmus.agent.services.serving import ServiceSettings
from isthmus.model.durations import seconds
from isthmus.policy.rules import Scope

_CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


MOST_STALENESS = 365 * 86400.0


class GlobalServices(Enum):
    """Who leads to other clusters' backends: the agents, EndpointSlices that a tracker writes, or nobody."""

    NFTABLES = "nftables"
    ENDPOINTSLICES = "endpointslices"
    OFF = "off"


class LiveConnections(Enum):
    """What a change of policy does to connections that are there already."""

    CUT = "cut"
    KEEP = "keep"


class OptionsError(Exception):
    """Options that cannot work; the message names the flag."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `isthmus agent` was asked to do; `sync_timeout` and `remote_staleness` (0 is never) in seconds."""

    node_name: str
    cluster_name: str
    cluster_id: int | None = None
    kubeconfig: Path | None = None
    context: str | None = None
    etcd_endpoints: tuple[str, ...] = ()
    etcd_ca: Path | None = None
    etcd_cert: Path | None = None
    etcd_key: Path | None = None
    standalone: bool = False
    clusters_file: Path | None = None
    policy_scope: Scope = Scope.CLUSTERSET
    live_connections: LiveConnections = LiveConnections.CUT
    state_dir: Path | None = None
    metrics_bind_address: str = "127.0.0.1:9080"
    sync_timeout: float = 30.0
    kube_proxy_replacement: bool = False
    global_services: GlobalServices = GlobalServices.NFTABLES
    remote_health: bool = True
    remote_health_port: int = 10250
    remote_staleness: float = 600.0

    @property
    def services(self) -> ServiceSettings | None:
        """What is served, None if nothing is."""
        across = self.global_services is GlobalServices.NFTABLES
        if not across and not self.kube_proxy_replacement:
            return None
        return ServiceSettings(
            everything=self.kube_proxy_replacement,
            across=across,
            probe_port=self.remote_health_port if self.remote_health else None,
            staleness=self.remote_staleness,
        )

    @classmethod
    def check(cls, given: dict[str, object]) -> "Options":
        """Returns the options if they can work. Raises OptionsError."""
        name = given.get("cluster_name")
        if not isinstance(name, str) or not _CLUSTER_NAME.fullmatch(name):
            raise OptionsError(
                f"--cluster-name: {name!r} is not a cluster name: 1-32 lower-case letters, digits and dashes"
                if name
                else "--cluster-name is required"
            )
        if given.get("standalone"):
            if given.get("etcd_endpoints"):
                raise OptionsError("--standalone and --etcd-endpoint exclude each other")
            if given.get("cluster_id") is None:
                raise OptionsError("--standalone needs --cluster-id")
        elif not given.get("etcd_endpoints"):
            raise OptionsError("--etcd-endpoint is required (or --standalone, to work without a tracker)")
        if (given.get("etcd_cert") is None) != (given.get("etcd_key") is None):
            raise OptionsError("--etcd-cert and --etcd-key go together")
        return msgspec.convert({**given, **_remote(given)}, cls, strict=False)


def _remote(given: dict[str, object]) -> dict[str, object]:
    """Returns the options about other clusters that are not as msgspec reads them."""
    read: dict[str, object] = {}
    if "remote_health" in given:
        read["remote_health"] = given["remote_health"] in ("on", True)
    staleness = given.get("remote_staleness")
    if isinstance(staleness, str):
        found = seconds(staleness)
        if found is None or found > MOST_STALENESS:
            raise OptionsError(f"--remote-staleness: {staleness!r} is not a duration as 90s or 10m (0 is never)")
        read["remote_staleness"] = found
    return read
