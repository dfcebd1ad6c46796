"""Asks the kernel at start whether it can do all that the table needs, and says in words what it cannot.

Every construct that the table uses is tried in a scratch table, validated by the kernel in full and never committed: a
killed probe leaves nothing behind, and nobody's packets are touched. All goes in one transaction; only when that is
refused is each construct tried alone, to name what is missing.

Rejected: reading the kernel's configuration or version. The first is often not there, and distributions carry features
back and leave modules out; what counts is what the kernel accepts now.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from isthmus.kernel.errors import KernelError

TABLE = "inet isthmus_probe"


class Construct(msgspec.Struct, frozen=True):
    """Something nf_tables must understand.

    `lines` stand on their own with `$T` for the table, and use names that no other construct uses. `options` are the
    kernel configuration options behind it.
    """

    name: str
    options: str
    lines: tuple[str, ...]


class Finding(msgspec.Struct, frozen=True):
    """What came of one construct; `reason` is a sentence for people, empty if all is well."""

    name: str
    reason: str = ""

    @property
    def well(self) -> bool:
        """Tells whether the kernel accepted the construct."""
        return not self.reason


class Checker(Protocol):
    """The part of `Nft` that is needed."""

    def check(self, script: str) -> None:
        """Validates without a commit; raises KernelError."""
        ...


CONSTRUCTS = (
    Construct("inet tables", "CONFIG_NF_TABLES_INET", ("add chain $T plain",)),
    Construct(
        "sets and verdict maps",
        "CONFIG_NF_TABLES",
        (
            "add set $T addresses { type ipv4_addr . ipv4_addr; }",
            "add map $T go4 { type ipv4_addr : verdict; }",
            "add map $T go6 { type ipv6_addr : verdict; }",
            "add chain $T header",
            "add rule $T header ip saddr vmap @go4",
            "add rule $T header ip6 daddr vmap @go6",
            "add chain $T target",
            "add element $T go4 { 192.0.2.1 : jump target }",
            "add element $T addresses { 192.0.2.1 . 192.0.2.2 }",
        ),
    ),
    Construct(
        "connection tracking in rules",
        "CONFIG_NF_CONNTRACK, CONFIG_NFT_CT",
        (
            "add chain $T tracked",
            "add rule $T tracked ct direction original ct state related return",
            "add rule $T tracked ct state established ct status ! dnat return",
            "add rule $T tracked ct state invalid,untracked return",
            "add chain $T opened",
            "add chain $T other",
            "add rule $T tracked ct state vmap { new : jump opened, invalid : jump other, untracked : jump other }",
            "add rule $T other meta nfproto ipv6 goto opened",
        ),
    ),
    Construct(
        "addresses of a connection",
        "CONFIG_NFT_CT, Linux 4.17",
        (
            "add map $T by4 { type ipv4_addr : verdict; }",
            "add map $T by6 { type ipv6_addr : verdict; }",
            "add set $T own { type ipv4_addr . ipv4_addr; }",
            "add chain $T tuples",
            "add rule $T tuples ct original ip saddr vmap @by4",
            "add rule $T tuples ct reply ip6 saddr vmap @by6",
            "add rule $T tuples ct original ip saddr . ct reply ip saddr @own return",
            "add rule $T tuples ct original ip saddr { 192.0.2.0/24, 198.51.100.1 } return",
            "add rule $T tuples ct reply ip saddr 192.0.2.0/24 ct original ip saddr . ct reply ip saddr != @own drop",
        ),
    ),
    Construct(
        "identities in the packet's priority",
        "CONFIG_NF_TABLES, CONFIG_NFT_CT",
        (
            "add map $T peers4 { type ipv4_addr : classid; }",
            "add map $T peers6 { type ipv6_addr : classid; }",
            "add chain $T scratch",
            "add rule $T scratch meta priority set 0:2",
            "add rule $T scratch meta priority set ct original ip saddr map @peers4",
            "add rule $T scratch meta priority set ct reply ip6 saddr map @peers6",
            "add rule $T scratch meta priority set none",
            "add rule $T scratch meta priority { 0:2, 0:7 } return",
            "add element $T peers4 { 192.0.2.1 : 1:101 }",
        ),
    ),
    Construct(
        "look-ups of identity, protocol and port",
        "CONFIG_NF_TABLES",
        (
            "add set $T exact { type classid . inet_proto . inet_service; }",
            "add set $T named { type ipv4_addr . inet_proto . inet_service; }",
            "add chain $T concatenated",
            "add rule $T concatenated ct direction original meta priority . meta l4proto . th dport @exact return",
            "add rule $T concatenated ct direction reply meta priority . meta l4proto . th sport @exact return",
            "add rule $T concatenated meta priority . meta l4proto . th dport & 65520 @exact return",
            "add rule $T concatenated ct original ip saddr . meta l4proto . th dport @named return",
            "add rule $T concatenated meta l4proto 6 th dport { 80, 1000-2000 } return",
            "add element $T exact { 1:101 . 6 . 80 }",
        ),
    ),
    Construct(
        "look-ups of ranges of addresses and ports",
        "CONFIG_NF_TABLES, Linux 5.6",
        (
            "add chain $T boxes",
            (
                "add rule $T boxes ct direction original ct reply ip saddr . meta l4proto . th dport "
                "{ 192.0.2.0-192.0.2.9 . 6 . 80-90, 198.51.100.1 . 17 . 53 } return"
            ),
        ),
    ),
    Construct(
        "the postrouting and input hooks",
        "CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_IPV4, CONFIG_NF_TABLES_IPV6",
        (
            "add chain $T inner",
            "add chain $T hooked { type filter hook postrouting priority srcnat - 5; policy accept; }",
            "add rule $T hooked jump inner",
            "add chain $T delivered { type filter hook input priority 110; policy accept; }",
            "add rule $T delivered jump inner",
        ),
    ),
    Construct(
        "addresses of the node itself",
        "CONFIG_NFT_FIB_INET, CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6",
        ("add chain $T local", "add rule $T local iif 0 fib saddr type local return"),
    ),
    Construct(
        "ICMP types",
        "CONFIG_NF_TABLES",
        (
            "add chain $T types",
            "add rule $T types meta l4proto { 1, 58 } return",
            "add rule $T types meta l4proto 58 icmpv6 type 133-137 return",
            "add rule $T types meta l4proto 1 ct original proto-dst 2048-2303 return",
        ),
    ),
    Construct(
        "counters and comments",
        "CONFIG_NF_TABLES, Linux 5.10 for comments on chains",
        (
            'add chain $T noted { comment "probe"; }',
            'add rule $T noted counter drop comment "probe"',
        ),
    ),
)

SERVICE_CONSTRUCTS = (
    Construct(
        "destination NAT in inet tables",
        "CONFIG_NFT_NAT, CONFIG_NF_NAT, Linux 5.2",
        (
            "add map $T backends4 { type ipv4_addr . inet_proto . inet_service . classid : ipv4_addr . inet_service; }",
            "add map $T backends6 { type ipv6_addr . inet_proto . inet_service . classid : ipv6_addr . inet_service; }",
            "add chain $T translated",
            "add rule $T translated dnat ip to ip daddr . meta l4proto . th dport . meta priority map @backends4",
            "add rule $T translated dnat ip6 to ip6 daddr . meta l4proto . th dport . meta priority map @backends6",
            "add chain $T nat_in { type nat hook prerouting priority dstnat - 5; policy accept; }",
            "add chain $T nat_out { type nat hook output priority -105; policy accept; }",
            "add rule $T nat_in jump translated",
            "add rule $T nat_out jump translated",
        ),
    ),
    Construct(
        "choices by chance",
        "CONFIG_NFT_NUMGEN",
        ("add chain $T chosen", "add rule $T chosen meta priority set numgen random mod 3"),
    ),
    Construct(
        "memory of clients",
        "CONFIG_NF_TABLES, CONFIG_NFT_HASH",
        (
            (
                "add map $T memory4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service : classid; size 65536; "
                "flags dynamic,timeout; }"
            ),
            "add map $T memory6 { type classid : classid; size 65536; flags dynamic,timeout; }",
            "add chain $T remembered",
            (
                "add rule $T remembered update @memory4 { ip saddr . ip daddr . meta l4proto . th dport timeout 10s "
                ": meta priority }"
            ),
            "add rule $T remembered delete @memory4 { ip saddr . ip daddr . meta l4proto . th dport : meta priority }",
            (
                "add rule $T remembered update @memory6 { jhash ip6 saddr . ip6 daddr . meta l4proto . th dport "
                "mod 4294967295 seed 0x69737468 timeout 10s : meta priority }"
            ),
        ),
    ),
    Construct(
        "rejection before routing",
        "CONFIG_NFT_REJECT_INET, Linux 5.9",
        (
            "add chain $T rejected",
            "add rule $T rejected meta l4proto 6 reject with tcp reset",
            "add rule $T rejected reject with icmpx type port-unreachable",
            "add chain $T reject_in { type nat hook prerouting priority dstnat - 5; policy accept; }",
            "add rule $T reject_in jump rejected",
        ),
    ),
    Construct(
        "masquerading",
        "CONFIG_NFT_MASQ, CONFIG_NF_NAT_MASQUERADE",
        (
            "add chain $T nat_leave { type nat hook postrouting priority srcnat - 1; policy accept; }",
            "add rule $T nat_leave ct status dnat masquerade",
        ),
    ),
)
"""What serving Services needs beyond `CONSTRUCTS`."""


def probe(nft: Checker, *, constructs: Sequence[Construct] = CONSTRUCTS) -> tuple[Finding, ...]:
    """Tries `constructs` in the kernel behind `nft`, and returns a finding for each, after one for access itself.

    Never raises for something missing: that is a finding. Nothing is left in the kernel.
    """
    denied = _refusal(nft, ())
    if denied is not None:
        return (Finding("access", _access(denied)),)
    access = Finding("access")
    if _refusal(nft, [line for construct in constructs for line in construct.lines]) is None:
        return (access, *(Finding(construct.name) for construct in constructs))
    findings = [access]
    for construct in constructs:
        refusal = _refusal(nft, construct.lines)
        reason = "" if refusal is None else f"kernel: nf_tables lacks {construct.name} ({construct.options}): {refusal}"
        findings.append(Finding(construct.name, reason))
    if all(finding.well for finding in findings):
        findings.append(Finding("all together", "kernel: nf_tables takes each construct alone but not all at once"))
    return tuple(findings)


def missing(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Returns the reasons of the findings that are not well."""
    return tuple(finding.reason for finding in findings if not finding.well)


def _refusal(nft: Checker, lines: Iterable[str]) -> KernelError | None:
    script = "".join(f"{line}\n".replace("$T", TABLE) for line in (f"add table {TABLE}", *lines))
    try:
        nft.check(script)
    except KernelError as error:
        return error
    return None


def _access(error: KernelError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"CAP_NET_ADMIN is missing in the user namespace that owns this network namespace: {error}"
    if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL):
        return f"kernel: no nf_tables with inet tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET): {error}"
    return f"kernel: nf_tables cannot be used: {error}"
