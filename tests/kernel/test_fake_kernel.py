"""The fake kernel agrees with the real one: the same steps, the same refusals, the same elements."""

from collections.abc import Callable

import pytest

from isthmus.kernel.errors import KernelError
from isthmus.ruleset.sets import ElementChange, Field, Holds, Jump, SetSpec
from tests.support.fake_kernel import FakeKernel
from tests.support.netns import World

PEERS = SetSpec("peers4", (Field.IPV4,), Holds.IDENTITY)
GO = SetSpec("ingress4", (Field.IPV4,), Holds.VERDICT)
PORT = SetSpec("in_1_port", (Field.IDENTITY, Field.PROTOCOL, Field.PORT))
TABLE = """add table inet isthmus
add map inet isthmus peers4 { type ipv4_addr : classid; }
add map inet isthmus ingress4 { type ipv4_addr : verdict; }
add set inet isthmus in_1_port { type classid . inet_proto . inet_service; }
add chain inet isthmus in_1 { comment "ingress: a/b"; }
add chain inet isthmus in_1_rules
add rule inet isthmus in_1 jump in_1_rules
add rule inet isthmus in_1_rules meta priority . meta l4proto . th dport @in_1_port return
add chain inet isthmus postrouting { type filter hook postrouting priority srcnat - 5; policy accept; }
add rule inet isthmus postrouting ct reply ip saddr vmap @ingress4
add element inet isthmus ingress4 { 10.0.0.1 : jump in_1 }
add element inet isthmus peers4 { 10.0.0.1 : 1:101, 10.0.0.2 : 0:2 }
"""


def script(*lines: str) -> Callable[[FakeKernel | World], object]:
    text = "".join(f"{line}\n" for line in lines)
    return lambda kernel: kernel.run(text) if isinstance(kernel, FakeKernel) else kernel.nft(text)


def change(*changes: ElementChange) -> Callable[[FakeKernel | World], object]:
    return lambda kernel: kernel.apply(changes) if isinstance(kernel, FakeKernel) else kernel.apply(*changes)


STEPS = {
    "element-again-by-netlink": change(ElementChange(PEERS, add=((("10.0.0.1",), 0x10101),))),
    "element-again-by-text": script("add element inet isthmus peers4 { 10.0.0.1 : 1:101 }"),
    "element-elsewhere-by-text": script("add element inet isthmus peers4 { 10.0.0.1 : 1:102 }"),
    "element-replaced": change(ElementChange(PEERS, (("10.0.0.1",),), ((("10.0.0.1",), 0x10102),))),
    "element-missing": change(ElementChange(PEERS, (("10.0.0.9",),))),
    "element-missing-by-text": script("delete element inet isthmus peers4 { 10.0.0.9 }"),
    "second-of-two-missing": change(
        ElementChange(PORT, add=(((257, 6, 80), None),)), ElementChange(PEERS, (("10.0.0.1",), ("10.0.0.9",)))
    ),
    "set-missing": change(ElementChange(SetSpec("nope", (Field.IPV4,)), add=((("10.0.0.1",), None),))),
    "jump-nowhere": change(ElementChange(GO, add=((("10.0.0.2",), Jump("nowhere")),))),
    "jump-to-base": change(ElementChange(GO, add=((("10.0.0.2",), Jump("postrouting")),))),
    "chain-used-by-element": script("delete chain inet isthmus in_1"),
    "chain-used-by-rule": script("delete chain inet isthmus in_1_rules"),
    "chain-freed-first": script(
        "delete element inet isthmus ingress4 { 10.0.0.1 }",
        "flush chain inet isthmus in_1",
        "flush chain inet isthmus in_1_rules",
        "delete chain inet isthmus in_1",
        "delete chain inet isthmus in_1_rules",
        "delete set inet isthmus in_1_port",
    ),
    "chain-freed-too-late": script("delete chain inet isthmus in_1_rules", "flush chain inet isthmus in_1"),
    "set-used": script("delete set inet isthmus in_1_port"),
    "map-used": script("delete map inet isthmus ingress4"),
    "set-declared-again": script("add set inet isthmus in_1_port { type classid . inet_proto . inet_service; }"),
    "rule-without-set": script("add rule inet isthmus in_1_rules meta priority @nope return"),
    "rule-without-chain": script("add rule inet isthmus nope counter drop"),
    "circle": script("add rule inet isthmus in_1_rules jump in_1"),
    "circle-by-element": script(
        "add rule inet isthmus in_1_rules ct reply ip saddr vmap @ingress4",
    ),
    "table-replaced": script("add table inet isthmus", "delete table inet isthmus", "add table inet isthmus"),
    "long-comment": script(f'add rule inet isthmus in_1_rules counter drop comment "{"x" * 129}"'),
    "longest-comment": script(f'add rule inet isthmus in_1_rules counter drop comment "{"x" * 128}"'),
}


def outcome(step: Callable[[FakeKernel | World], object], kernel: FakeKernel | World) -> str:
    try:
        step(kernel)
    except KernelError:
        return "refused"
    return "done"


@pytest.mark.parametrize("name", STEPS)
def test_the_fake_refuses_what_the_kernel_refuses(node: World, name: str):
    fake = FakeKernel()
    for kernel in (fake, node):
        script(TABLE)(kernel)

    real_outcome = outcome(STEPS[name], node)

    assert outcome(STEPS[name], fake) == real_outcome
    listing = node.nft("list table inet isthmus")
    assert sorted(fake.chains) == sorted(line.split()[1] for line in listing.splitlines() if "\tchain " in line)
    for spec in fake.sets.values():
        assert fake.elements[spec.name] == node.elements.read(spec)


def test_errors_carry_the_numbers_of_the_kernel(node: World):
    fake = FakeKernel()
    for kernel in (fake, node):
        script(TABLE)(kernel)
    for name in ("element-again-by-netlink", "element-missing", "set-missing", "jump-nowhere", "second-of-two-missing"):
        numbers = []
        for kernel in (fake, node):
            with pytest.raises(KernelError) as refused:
                STEPS[name](kernel)
            numbers.append(refused.value.errno)
        assert numbers[0] == numbers[1], name
