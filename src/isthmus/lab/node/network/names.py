"""How a pod finds names: its hosts file, its host name, its resolv.conf. Pure text, as the kubelet writes it."""

from collections.abc import Sequence

import msgspec

from isthmus.lab.node.pods.spec import Pod

MAX_NAMESERVERS = 3
MAX_SEARCH = 32
MAX_SEARCH_LENGTH = 2048


class Resolution(msgspec.Struct, frozen=True):
    """What the node knows of names: its cluster's DNS, and its own resolv.conf."""

    domain: str
    nameservers: tuple[str, ...]
    node_nameservers: tuple[str, ...] = ()
    node_search: tuple[str, ...] = ()


def fqdn(pod: Pod, domain: str) -> str:
    """Returns the pod's full name; empty without a subdomain."""
    if not pod.spec.subdomain:
        return ""
    return f"{pod.hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{domain}"


def kernel_hostname(pod: Pod, domain: str) -> str:
    """Returns what `hostname` prints; raises ValueError for a name that the kernel does not take."""
    name = fqdn(pod, domain) if pod.spec.setHostnameAsFQDN else ""
    name = name or pod.hostname
    if len(name) > 64:
        raise ValueError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long "
            f"(64 characters is the max, {len(name)} characters requested)"
        )
    return name


def hosts_file(pod: Pod, *, domain: str, ips: Sequence[str], node_name: str) -> str:
    """Returns /etc/hosts."""
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ]
    name = fqdn(pod, domain)
    names = f"{name}\t{pod.hostname}" if name else pod.hostname
    lines += [f"{ip}\t{node_name if pod.spec.hostNetwork else names}" for ip in ips]
    if pod.spec.hostAliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join((alias.ip, *alias.hostnames)) for alias in pod.spec.hostAliases]
    return "\n".join(lines) + "\n"


def resolv_conf(pod: Pod, resolution: Resolution) -> str:
    """Returns /etc/resolv.conf for the pod's dnsPolicy and dnsConfig."""
    policy = pod.spec.dnsPolicy
    if policy == "ClusterFirst" and pod.spec.hostNetwork:
        policy = "Default"
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str | None] = {}
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        domain = resolution.domain
        servers = list(resolution.nameservers)
        searches = [f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain]
        options = {"ndots": "5"}
    elif policy == "Default":
        servers, searches = list(resolution.node_nameservers), list(resolution.node_search)
    config = pod.spec.dnsConfig
    servers = _unique([*servers, *config.nameservers])[:MAX_NAMESERVERS]
    searches = _fitting(_unique([*searches, *config.searches]))
    for option in config.options:
        options[option.name] = option.value
    lines = []
    if searches:
        lines.append(f"search {' '.join(searches)}")
    lines += [f"nameserver {server}" for server in servers]
    if options:
        words = [name if value in (None, "") else f"{name}:{value}" for name, value in options.items()]
        lines.append(f"options {' '.join(words)}")
    return "".join(f"{line}\n" for line in lines)


def read_resolv_conf(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (nameservers, search) of a resolv.conf."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            servers.append(words[1])
        elif words[:1] == ["search"]:
            search = tuple(words[1:])
    return tuple(servers), search


def _unique(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _fitting(searches: list[str]) -> list[str]:
    kept: list[str] = []
    for name in searches[:MAX_SEARCH]:
        if sum(map(len, kept)) + len(kept) + len(name) > MAX_SEARCH_LENGTH:
            break
        kept.append(name)
    return kept
