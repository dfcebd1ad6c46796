"""The namespaces and the network of a pod, as the node asks its keeper for them."""

import hashlib
import shutil
from pathlib import Path

import msgspec

from isthmus.lab.node.containers.paths import PodDir
from isthmus.lab.node.keeper.client import Keeper, KeeperError
from isthmus.lab.supervisor.commands import run
from isthmus.lab.supervisor.segment import GATEWAY


class SandboxError(Exception):
    """The pod's sandbox cannot be made; the message is for an Event."""


class PodLink(msgspec.Struct, frozen=True):
    """What a pod's network is made from; the second family's addresses may be empty."""

    name: str
    hostname: str
    ip: str
    host_ip: str
    ip6: str = ""
    host_ip6: str = ""


def link_name(uid: str) -> str:
    """Returns the name of the node's end of a pod's link; at most 15 characters (IFNAMSIZ)."""
    return f"veth{hashlib.sha256(uid.encode()).hexdigest()[:10]}"


async def make_namespaces(keeper: Keeper, place: PodDir, link: PodLink) -> None:
    """Makes the pod's namespaces and link; raises SandboxError."""
    body = {
        "run": str(place.run),
        "hostname": link.hostname,
        "link": link.name,
        "ip": link.ip,
        "ip6": link.ip6,
        "host_ip": link.host_ip,
        "host_ip6": link.host_ip6,
        "gateway": GATEWAY,
    }
    try:
        if (await keeper.do("sandbox", body)).get("done") is not True:
            raise SandboxError("the process that makes it was killed")
    except KeeperError as error:
        raise SandboxError(str(error)) from error


async def remove_namespaces(keeper: Keeper, place: PodDir, *, link: str) -> None:
    """Removes what `make_namespaces` made; missing parts are no error. Raises SandboxError."""
    try:
        await keeper.do("remove", {"run": str(place.run), "link": link})
    except KeeperError as error:
        raise SandboxError(str(error)) from error


def exists(place: PodDir) -> bool:
    """Tells whether the pod's namespaces are still there: they are not after the lab was started anew."""
    net = place.namespace("net")
    # A namespace file is on nsfs, its mount point on the file system around it.
    return net.exists() and net.stat().st_dev != place.run.stat().st_dev


def remove_files(place: PodDir) -> None:
    """Removes the pod's directory."""
    shutil.rmtree(place.root, ignore_errors=True)


def stray_links(known: set[str]) -> list[str]:
    """Returns pod links of this node that belong to no known pod; raises CommandError."""
    # Not from /sys, which shows the links of the namespace that mounted it.
    lines = run(["ip", "-brief", "link", "show", "type", "veth"]).splitlines()
    names = [line.split("@")[0] for line in lines]
    return [name for name in names if name.startswith("veth") and name not in known]


def directories(run_dir: Path) -> list[Path]:
    """Returns the directories of namespace files below a node's run directory."""
    return sorted(run_dir.glob("pods/*"))
