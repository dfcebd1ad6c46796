"""What the probe says about kernels that are not at hand."""

import errno

from isthmus.kernel.errors import KernelError, NftError
from isthmus.kernel.probe import CONSTRUCTS, missing, probe


class Kernel:
    """Refuses scripts that contain any of `words`."""

    def __init__(self, *words: str, number: int = errno.ENOENT) -> None:
        self.words = words
        self.number = number
        self.scripts = 0

    def check(self, script: str) -> None:
        self.scripts += 1
        for word in self.words:
            if word in script:
                raise NftError(f"nft: Could not process rule: {word}", errno=self.number)


def test_a_kernel_that_can_do_it_all_is_asked_twice():
    kernel = Kernel()
    assert missing(probe(kernel)) == ()
    assert kernel.scripts == 2


def test_each_missing_construct_is_named_with_the_option_behind_it():
    reasons = missing(probe(Kernel("fib", "classid")))
    assert [reason.partition(":")[0] for reason in reasons] == ["kernel"] * 3
    assert any("CONFIG_NFT_FIB_INET" in reason for reason in reasons)
    assert any("identities in the packet's priority" in reason for reason in reasons)


def test_a_kernel_without_connection_tracking():
    reasons = missing(probe(Kernel("ct ")))
    assert any(
        "lacks connection tracking in rules (CONFIG_NF_CONNTRACK, CONFIG_NFT_CT)" in reason for reason in reasons
    )


def test_a_missing_capability_is_the_only_finding():
    (reason,) = missing(probe(Kernel("add table", number=errno.EPERM)))
    assert reason.startswith("CAP_NET_ADMIN is missing")


def test_a_kernel_without_nf_tables_is_the_only_finding():
    (reason,) = missing(probe(Kernel("add table", number=errno.EAFNOSUPPORT)))
    assert "no nf_tables with inet tables" in reason


def test_any_other_refusal_of_the_table_is_told_as_it_is():
    (reason,) = missing(probe(Kernel("add table", number=errno.ENOMEM)))
    assert reason.startswith("kernel: nf_tables cannot be used")


def test_constructs_that_only_fail_together_are_a_finding():
    class Small(Kernel):
        def check(self, script: str) -> None:
            if script.count("\n") > 20:
                raise KernelError("too much")

    assert missing(probe(Small())) == ("kernel: nf_tables takes each construct alone but not all at once",)


def test_constructs_do_not_share_names():
    seen: set[str] = set()
    for construct in CONSTRUCTS:
        own = {line.split()[3] for line in construct.lines if line.split()[1] in ("chain", "set", "map")}
        assert not own & seen
        seen |= own
