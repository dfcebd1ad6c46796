"""The network of a lab: a bridge that joins the nodes, a namespace per node, and routes between all pod networks.

Invariants: nothing here touches the network the lab was started from, because it runs in the supervisor's own
namespaces; a node reaches every pod network of every cluster through the node that owns it, directly and without
translation, so that a packet arrives with the pod's own address; taking a cluster down leaves none of its routes on
others. The link-local GATEWAY sits on every node, so pods need no address of their node (what Calico does).
Rejected: routing through the bridge's namespace, one table instead of many, which adds a hop no real network has.
"""

import contextlib
import os
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

from isthmus.lab.plan import SEGMENT, SEGMENT6, ClusterPlan, NodePlan
from isthmus.lab.supervisor.commands import CommandError, enter, run

BRIDGE = "segment"
GATEWAY = "169.254.1.1"
_PREFIX = ip_network(SEGMENT).prefixlen
_PREFIX6 = ip_network(SEGMENT6).prefixlen

# Pods speak through a router (their node), whose paths may be asymmetric, and which must never suggest a shortcut.
_NODE_SETTINGS = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    # Nobody else is on the segment: an address is good at once, without asking for duplicates (RFC 4862, 5.4) first.
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
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


def set_up_cluster(plan: ClusterPlan, *, others: Iterable[ClusterPlan], run_dir: Path, down: frozenset[str]) -> None:
    """Makes the nodes of `plan` and routes between them and the nodes of `others`; raises CommandError.

    `run_dir` holds a directory of namespace files per cluster; nodes in `down` have no namespace now.
    """
    everyone = [*others, plan]
    for node in plan.nodes:
        set_up_node(plan, node, everyone=everyone, run_dir=run_dir)
    for other in everyone[:-1]:
        for node in other.nodes:
            if node.name not in down:
                _change_routes("replace", node, peers=plan.nodes, place=_place(run_dir, other, node))


def set_up_node(plan: ClusterPlan, node: NodePlan, *, everyone: Iterable[ClusterPlan], run_dir: Path) -> None:
    """Makes one node of `plan` with its routes to the nodes of `everyone`; raises CommandError."""
    place = _place(run_dir, plan, node)
    _set_up_node(plan, node, place=place)
    _change_routes("replace", node, peers=[peer for other in everyone for peer in other.nodes], place=place)


def take_down_cluster(plan: ClusterPlan, *, others: Iterable[ClusterPlan], run_dir: Path, down: frozenset[str]) -> None:
    """Removes what `set_up_cluster` made, as much of it as exists. The nodes' processes must be gone."""
    for other in others:
        for node in other.nodes:
            if node.name not in down:
                with contextlib.suppress(CommandError):
                    _change_routes("delete", node, peers=plan.nodes, place=_place(run_dir, other, node))
    for node in plan.nodes:
        unplug_node(plan, node)
    release_namespaces(run_dir / plan.name)


def unplug_node(plan: ClusterPlan, node: NodePlan) -> None:
    """Removes the link of a node, if it has one."""
    with contextlib.suppress(CommandError):
        run(["ip", "link", "delete", _link_name(plan, node)])


def take_down_node(plan: ClusterPlan, node: NodePlan, *, run_dir: Path) -> None:
    """Removes the namespaces of a node and of its pods. Their processes must be gone."""
    release_namespaces(run_dir / plan.name / "sandboxes" / node.name)
    release_namespaces(_place(run_dir, plan, node))


def cut_node(plan: ClusterPlan, node: NodePlan, *, addresses: Iterable[str], run_dir: Path) -> None:
    """Makes a node drop what comes from these hardware addresses, and from no others; raises CommandError."""
    run([*enter(_place(run_dir, plan, node) / "net"), "nft", "-f", "-"], text=cut_script(addresses))


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


def _set_up_node(plan: ClusterPlan, node: NodePlan, *, place: Path) -> None:
    link = _link_name(plan, node)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    net, uts = place / "net", place / "uts"
    net.touch()
    uts.touch()
    run(["unshare", f"--net={net}", f"--uts={uts}", "busybox", "hostname", node.name])
    run(
        ["ip", "-batch", "-"],
        text=_script(
            [
                f"link add {link} type veth peer name eth0 address {mac_address(node)} netns {net}",
                f"link set {link} master {BRIDGE}",
                f"link set {link} up",
            ]
        ),
    )
    inside = enter(net)
    writes = "".join(f"echo {value} >/proc/sys/{key} || :\n" for key, value in _NODE_SETTINGS)
    run([*inside, "busybox", "sh"], text=writes)
    lines = [
        "link set lo up",
        f"address add {node.address}/{_PREFIX} dev eth0",
        "link set eth0 up",
        f"address add {GATEWAY}/32 dev lo scope link",
    ]
    if node.address6:
        lines.append(f"address add {node.address6}/{_PREFIX6} dev eth0 nodad")
    # A Service's address must be routable for the node's own connections to get as far as the rules that translate it.
    lines += [f"route add {subnet} dev eth0" for subnet in plan.service_subnets]
    run([*inside, "ip", "-batch", "-"], text=_script(lines))
    # The lab works without nft as long as nobody enforces policies.
    with contextlib.suppress(CommandError):
        run([*inside, "nft", "-f", "-"], text=_TRACKING)


def _change_routes(verb: str, node: NodePlan, *, peers: Iterable[NodePlan], place: Path) -> None:
    lines = []
    for peer in peers:
        if peer.name == node.name:
            continue
        lines.append(f"route {verb} {peer.pod_cidr} via {peer.address} dev eth0")
        if node.address6 and peer.address6:
            lines.append(f"route {verb} {peer.pod_cidr6} via {peer.address6} dev eth0")
    if lines:
        run([*enter(place / "net"), "ip", "-batch", "-"], text=_script(lines))


def mac_address(node: NodePlan) -> str:
    """Returns the hardware address of a node's link: a locally administered one, made of its address."""
    return "02:00:" + ":".join(f"{byte:02x}" for byte in ip_address(node.address).packed)


def cut_script(addresses: Iterable[str]) -> str:
    """Returns what `cut_node` gives nft."""
    elements = ", ".join(sorted(addresses))
    return f"""
add table inet lab
add set inet lab cut {{ type ether_addr; }}
add chain inet lab partition {{ type filter hook prerouting priority -310; policy accept; }}
flush chain inet lab partition
flush set inet lab cut
add rule inet lab partition iifname "eth0" ether saddr @cut counter drop
{f"add element inet lab cut {{ {elements} }}" if elements else ""}
"""


def _place(run_dir: Path, plan: ClusterPlan, node: NodePlan) -> Path:
    return run_dir / plan.name / "nodes" / node.name


def _link_name(plan: ClusterPlan, node: NodePlan) -> str:
    """At most 15 characters (IFNAMSIZ), unique in the lab."""
    return f"node{plan.id}-{plan.nodes.index(node)}"


def _script(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
