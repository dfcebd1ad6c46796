"""IPv6 packets of pods come from the address that the node gave the pod, or they are dropped.

IPv4 has rp_filter for this, a setting of the pod's link. IPv6 has none, so the node looks each packet's source up in
its routes (nft fib): it must lead back over the link that the packet came by. Link-local and unspecified sources are
left alone, because neighbour discovery uses them and no router passes them on. One rule serves all pods, also those to
come. Rejected: a pair of policy-routing rules per pod, which the kernel walks one by one.
"""

from isthmus.lab.supervisor.commands import run

_RULES = """
table ip6 lab-sources
delete table ip6 lab-sources
table ip6 lab-sources {
    chain check {
        type filter hook prerouting priority raw; policy accept;
        ip6 saddr { ::, fe80::/10 } accept
        iifname "veth*" fib saddr . iif oif eq 0 counter drop
    }
}
"""


def guard_sources() -> None:
    """Sets the rule up in this process's network namespace, anew if it is there; raises CommandError."""
    run(["nft", "-f", "-"], text=_RULES)
