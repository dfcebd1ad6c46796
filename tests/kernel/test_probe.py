"""The capability probe on the real kernel."""

from isthmus.kernel.probe import CONSTRUCTS, Construct, missing, probe
from tests.support.netns import World


def test_this_kernel_can_do_all_that_the_table_needs(node: World):
    findings = probe(node.nftables)
    assert missing(findings) == ()
    assert len(findings) == len(CONSTRUCTS) + 1


def test_the_probe_leaves_nothing_behind(node: World):
    probe(node.nftables)
    assert node.nft("list ruleset") == ""


def test_a_construct_the_kernel_lacks_is_named_and_the_others_are_not(node: World):
    absent = Construct(
        "teleportation", "CONFIG_NFT_TELEPORT", ("add chain $T t", "add rule $T t ip saddr @nowhere drop")
    )

    findings = probe(node.nftables, constructs=(*CONSTRUCTS, absent))

    (reason,) = missing(findings)
    assert reason.startswith("kernel: nf_tables lacks teleportation (CONFIG_NFT_TELEPORT): nft: line 3")
    assert node.nft("list ruleset") == ""
