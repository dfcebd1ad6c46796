"""The namespaces and the link of a pod, made and removed by a child of the keeper.

Namespaces are kept by mounts of their files, so no process has to hold them. A pod's link is a veth pair: `eth0` in the
pod, with its address as a host address and the node's link-local gateway as the only neighbour; on the node a host
route. So every packet from or to the pod passes the node's forwarding path, where policy is enforced, also between two
pods of one node. Rejected: a bridge per node, where packets between its pods are switched and seen only through
br_netfilter.
"""

from __future__ import annotations

import os
import socket

from isthmus.lab.node.keeper.rtnetlink import Routes
from isthmus.lab.node.keeper.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWUTS,
    KernelRefusal,
    bind,
    setns,
    unmount,
    unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not at run time: see the package's docstring.
    from typing import Any

KINDS = ("net", "uts", "ipc")
GATEWAY6 = "fe80::1"
"""The node's end of every pod's link; link-local, so each link can have it."""
_CONF = "/proc/sys/net"


def make(spec: dict[str, Any]) -> None:
    """Makes namespace files below `run` and the link; raises KernelRefusal, OSError.

    `spec` has run, hostname, link, ip, ip6 (or ""), host_ip, host_ip6, gateway (IPv4).
    """
    run = spec["run"]
    os.makedirs(run, mode=0o700, exist_ok=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)
    socket.sethostname(spec["hostname"])
    for kind in KINDS:
        path = f"{run}/{kind}"
        with open(path, "w"):
            pass
        bind(f"/proc/self/ns/{kind}", path)
    inner = os.open(f"{run}/net", os.O_RDONLY | os.O_CLOEXEC)
    # Before the link exists: what it gets from the defaults is there from its first moment on.
    _set("ipv6/conf/default/accept_dad", "0")
    _set("ipv4/ping_group_range", "0 2147483647")
    # As containerd sets it: a server that is not root may listen on port 80 of its own pod.
    _set("ipv4/ip_unprivileged_port_start", "0")
    setns(home, CLONE_NEWNET)
    _outside(spec, inner)
    setns(inner, CLONE_NEWNET)
    _inside(spec)


def remove(spec: dict[str, Any]) -> None:
    """Removes what `make` made; missing parts are no error."""
    if spec["link"]:
        routes = Routes()
        try:
            routes.delete_link(spec["link"])
        finally:
            routes.close()
    for kind in KINDS:
        path = f"{spec['run']}/{kind}"
        try:
            unmount(path)
        except KernelRefusal:
            pass  # not mounted
        try:
            os.unlink(path)
        except OSError:
            pass  # not there
    try:
        os.rmdir(spec["run"])
    except OSError:
        pass


def _outside(spec: dict[str, Any], inner: int) -> None:
    link = spec["link"]
    routes = Routes()
    try:
        # What a half-made sandbox left behind under this name.
        routes.delete_link(link)
        routes.add_veth(link, peer="eth0", namespace=inner)
        # A pod has one address and one way out: what comes with another source is forged. A forged packet of a policed
        # pod would open a connection in its name, and policy would take the forger's own packets for the answers.
        # (IPv6 has no such setting; see isthmus.lab.node.network.sources.)
        _set(f"ipv4/conf/{link}/rp_filter", "1", required=True)
        _set(f"ipv6/conf/{link}/accept_dad", "0")
        _set(f"ipv6/conf/{link}/accept_ra", "0")
        index = socket.if_nametoindex(link)
        routes.set_up(index, own_link_local=bool(spec["ip6"]))
        # The node speaks to its pods from its own address, which policy knows as this node's.
        routes.add_route(index, spec["ip"], 32, source=spec["host_ip"], on_link=True)
        if spec["ip6"]:
            routes.add_address(index, GATEWAY6, 64)
            routes.add_route(index, spec["ip6"], 128, source=spec["host_ip6"])
    finally:
        routes.close()


def _inside(spec: dict[str, Any]) -> None:
    routes = Routes()
    try:
        routes.set_up(1)  # the loopback's number in every network namespace
        index = socket.if_nametoindex("eth0")
        routes.add_address(index, spec["ip"], 32)
        routes.set_up(index)
        routes.add_route(index, spec["gateway"], 32, on_link=True)
        routes.add_route(index, "0.0.0.0", 0, gateway=spec["gateway"])
        if spec["ip6"]:
            routes.add_address(index, spec["ip6"], 128)
            routes.add_route(index, "::", 0, gateway=GATEWAY6)
    finally:
        routes.close()


def _set(name: str, value: str, *, required: bool = False) -> None:
    try:
        with open(f"{_CONF}/{name}", "w") as file:
            file.write(value)
    except OSError:
        if required:
            raise
