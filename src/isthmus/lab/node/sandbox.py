"""The namespaces and the network of a pod.

Namespaces are kept by mounts of their files, so no process has to hold them. A pod's link is a veth pair: `eth0` in the
pod, with its address as a /32 and the node's link-local gateway as the only neighbour; on the node a host route. So
every packet from or to the pod passes the node's forwarding path, where policy is enforced, also between two pods of
one node. Rejected: a bridge per node, where packets between its pods are switched and seen only through br_netfilter.
"""

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from isthmus.lab.node.paths import PodDir
from isthmus.lab.node.pod import Pod
from isthmus.lab.supervisor.commands import CommandError, enter, run
from isthmus.lab.supervisor.segment import GATEWAY, release_namespaces

_KINDS = ("net", "uts", "ipc")


class SandboxError(Exception):
    """The pod's sandbox cannot be made; the message is for an Event."""


def link_name(uid: str) -> str:
    """Returns the name of the node's end of a pod's link; at most 15 characters (IFNAMSIZ)."""
    return f"veth{hashlib.sha256(uid.encode()).hexdigest()[:10]}"


async def make_namespaces(place: PodDir, *, hostname: str, ip: str, link: str, host_ip: str) -> None:
    """Makes the pod's namespaces and link; raises SandboxError."""
    await asyncio.to_thread(_make, place, hostname, ip, link, host_ip)


async def remove_namespaces(place: PodDir, *, link: str) -> None:
    """Removes what `make_namespaces` made; missing parts are no error."""
    await asyncio.to_thread(_remove, place, link)


def exists(place: PodDir) -> bool:
    """Tells whether the pod's namespaces are still there: they are not after the lab was started anew."""
    net = place.namespace("net")
    # A namespace file is on nsfs, its mount point on the file system around it.
    return net.exists() and net.stat().st_dev != place.run.stat().st_dev


def words_into(place: PodDir, *, host_network: bool) -> list[str]:
    """Returns the words that put a program into the pod's namespaces."""
    if host_network:
        return []
    return ["nsenter", *(f"--{kind}={place.namespace(kind)}" for kind in _KINDS), "--"]


def write_etc(place: PodDir, pod: Pod, *, ip: str, nameserver: str) -> None:
    """Writes the pod's own hosts, hostname and resolv.conf, as the kubelet does; raises OSError."""
    place.etc("hosts").parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    names = [pod.hostname]
    if pod.spec.subdomain:
        names.insert(0, f"{pod.hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.cluster.local")
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        f"{ip}\t{' '.join(names)}",
        *(f"{alias.ip}\t{' '.join(alias.hostnames)}" for alias in pod.spec.hostAliases),
    ]
    place.etc("hosts").write_text("\n".join(lines) + "\n")
    place.etc("hostname").write_text(f"{pod.hostname}\n")
    search = f"{pod.metadata.namespace}.svc.cluster.local svc.cluster.local cluster.local"
    place.etc("resolv.conf").write_text(f"search {search}\nnameserver {nameserver}\noptions ndots:5\n")


def remove_files(place: PodDir) -> None:
    """Removes the pod's directory."""
    shutil.rmtree(place.root, ignore_errors=True)


def stray_links(known: Iterable[str]) -> list[str]:
    """Returns pod links of this node that belong to no known pod; raises CommandError."""
    keep = set(known)
    # Not from /sys, which shows the links of the namespace that mounted it.
    lines = run(["ip", "-brief", "link", "show", "type", "veth"]).splitlines()
    names = [line.split("@")[0] for line in lines]
    return [name for name in names if name.startswith("veth") and name not in keep]


def _make(place: PodDir, hostname: str, ip: str, link: str, host_ip: str) -> None:
    try:
        place.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        for kind in _KINDS:
            place.namespace(kind).touch()
        files = [f"--{kind}={place.namespace(kind)}" for kind in _KINDS]
        run(["unshare", *files, "busybox", "hostname", hostname])
        net = place.namespace("net")
        run(
            ["ip", "-batch", "-"],
            text=f"link add {link} type veth peer name eth0 netns {net}\n"
            f"link set {link} up\n"
            # The node speaks to its pods from its own address, which policy knows as this node's.
            f"route replace {ip}/32 dev {link} src {host_ip}\n",
        )
        # A pod has one address and one way out: what comes with another source is forged. A forged packet of a policed
        # pod would open a connection in its name, and policy would take the forger's own packets for the answers.
        Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter").write_text("1")
        run(
            [*enter(net), "ip", "-batch", "-"],
            text="link set lo up\n"
            f"address add {ip}/32 dev eth0\n"
            "link set eth0 up\n"
            f"route add {GATEWAY}/32 dev eth0 scope link\n"
            f"route add default via {GATEWAY} dev eth0\n",
        )
    except (CommandError, OSError) as error:
        _remove(place, link)
        raise SandboxError(str(error)) from error


def _remove(place: PodDir, link: str) -> None:
    if link:
        with contextlib.suppress(CommandError):
            run(["ip", "link", "delete", link])
    release_namespaces(place.run)
