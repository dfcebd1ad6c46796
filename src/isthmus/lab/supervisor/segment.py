"""The network of a lab: a bridge that joins the nodes, a namespace per node, and routes between all pod networks.

Invariants: nothing here touches the network the lab was started from, because it runs in the supervisor's own
namespaces; a node reaches every pod network of every cluster through the node that owns it, directly and without
translation, so that a packet arrives with the pod's own address; taking a cluster down leaves none of its routes on
others. The link-local GATEWAY sits on every node, so pods need no address of their node (what Calico does).
Rejected: routing through the bridge's namespace, one table instead of many, which adds a hop no real network has.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path

from isthmus.lab.plan import SEGMENT, ClusterPlan, NodePlan
from isthmus.lab.supervisor.commands import CommandError, enter, run

BRIDGE = "segment"
GATEWAY = "169.254.1.1"
_PREFIX = ip_network(SEGMENT).prefixlen

# Pods speak through a router (their node), whose paths may be asymmetric, and which must never suggest a shortcut.
_NODE_SETTINGS = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
)

# Connections are tracked from a node's first packet on, also before an agent has any rule there.
_TRACKING = """
table inet lab {
    chain track {
        type filter hook prerouting priority mangle; policy accept;
        ct state invalid counter
    }
}
"""


def set_up_segment() -> None:
    """Makes the bridge; raises CommandError."""
    address = f"{ip_network(SEGMENT)[1]}/{_PREFIX}"
    lines = [
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"address add {address} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]
    run(["ip", "-batch", "-"], text=_script(lines))
    # Bridged frames must not pass a second time through somebody's IP hooks; absent without br_netfilter.
    for name in ("iptables", "ip6tables", "arptables"):
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}").write_text("0")


def set_up_cluster(plan: ClusterPlan, *, others: Iterable[ClusterPlan], run_dir: Path) -> None:
    """Makes the nodes of `plan` and routes between them and the nodes of `others`; raises CommandError.

    `run_dir` holds a directory of namespace files per cluster.
    """
    for index, node in enumerate(plan.nodes):
        _set_up_node(node, link=_link_name(plan, index), place=_place(run_dir, plan, node))
    everyone = [*others, plan]
    for other in everyone:
        for node in other.nodes:
            gained = plan.nodes if other is not plan else [n for peer in everyone for n in peer.nodes]
            _change_routes("replace", node, peers=gained, place=_place(run_dir, other, node))


def take_down_cluster(plan: ClusterPlan, *, others: Iterable[ClusterPlan], run_dir: Path) -> None:
    """Removes what `set_up_cluster` made, as much of it as exists. The nodes' processes must be gone."""
    for other in others:
        for node in other.nodes:
            with contextlib.suppress(CommandError):
                _change_routes("delete", node, peers=plan.nodes, place=_place(run_dir, other, node))
    for index in range(len(plan.nodes)):
        with contextlib.suppress(CommandError):
            run(["ip", "link", "delete", _link_name(plan, index)])
    release_namespaces(run_dir / plan.name)


def release_namespaces(directory: Path) -> None:
    """Unmounts every namespace file below `directory` and removes the directory."""
    for base, _directories, files in os.walk(directory, topdown=False):
        for name in files:
            path = Path(base) / name
            with contextlib.suppress(CommandError):
                run(["umount", "--lazy", path])
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            Path(base).rmdir()


def namespace_inodes(directory: Path) -> set[int]:
    """Returns the inode numbers of the network namespaces below `directory`: which processes are of this cluster."""
    found = set()
    for path in directory.rglob("net"):
        with contextlib.suppress(OSError):
            found.add(path.stat().st_ino)
    return found


def _set_up_node(node: NodePlan, *, link: str, place: Path) -> None:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    net, uts = place / "net", place / "uts"
    net.touch()
    uts.touch()
    run(["unshare", f"--net={net}", f"--uts={uts}", "busybox", "hostname", node.name])
    run(
        ["ip", "-batch", "-"],
        text=_script(
            [
                f"link add {link} type veth peer name eth0 netns {net}",
                f"link set {link} master {BRIDGE}",
                f"link set {link} up",
            ]
        ),
    )
    inside = enter(net)
    writes = "".join(f"echo {value} >/proc/sys/{key} || :\n" for key, value in _NODE_SETTINGS)
    run([*inside, "busybox", "sh"], text=writes)
    run(
        [*inside, "ip", "-batch", "-"],
        text=_script(
            [
                "link set lo up",
                f"address add {node.address}/{_PREFIX} dev eth0",
                "link set eth0 up",
                f"address add {GATEWAY}/32 dev lo scope link",
            ]
        ),
    )
    # The lab works without nft as long as nobody enforces policies.
    with contextlib.suppress(CommandError):
        run([*inside, "nft", "-f", "-"], text=_TRACKING)


def _change_routes(verb: str, node: NodePlan, *, peers: Sequence[NodePlan], place: Path) -> None:
    lines = [f"route {verb} {peer.pod_cidr} via {peer.address} dev eth0" for peer in peers if peer.name != node.name]
    if lines:
        run([*enter(place / "net"), "ip", "-batch", "-"], text=_script(lines))


def _place(run_dir: Path, plan: ClusterPlan, node: NodePlan) -> Path:
    return run_dir / plan.name / "nodes" / node.name


def _link_name(plan: ClusterPlan, index: int) -> str:
    """At most 15 characters (IFNAMSIZ), unique in the lab."""
    return f"node{plan.id}-{index}"


def _script(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
