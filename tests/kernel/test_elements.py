"""Element changes on the real kernel: same result as text, all or nothing, refusals by name."""

import errno

import pytest

from isthmus.kernel.elements import ElementWriter, in_transactions
from isthmus.kernel.errors import KernelError
from isthmus.ruleset.sets import ElementChange, Field, Holds, Jump, SetSpec
from tests.support.netns import World

PEERS4 = SetSpec("peers4", (Field.IPV4,), Holds.IDENTITY)
PEERS6 = SetSpec("peers6", (Field.IPV6,), Holds.IDENTITY)
INGRESS6 = SetSpec("ingress6", (Field.IPV6,), Holds.VERDICT)
EXACT = SetSpec("exact", (Field.IDENTITY, Field.PROTOCOL, Field.PORT))
WHOLE = SetSpec("whole", (Field.IDENTITY, Field.PROTOCOL))
ANY = SetSpec("any", (Field.IDENTITY,))
NAMED = SetSpec("named4", (Field.IPV4, Field.PROTOCOL, Field.PORT))
SELF = SetSpec("self6", (Field.IPV6, Field.IPV6))
SPECS = (PEERS4, PEERS6, INGRESS6, EXACT, WHOLE, ANY, NAMED, SELF)


def structure(table: str) -> str:
    lines = [f"add table inet {table}", f"add chain inet {table} one", f"add chain inet {table} two"]
    for spec in SPECS:
        kind = " . ".join(field.value for field in spec.key)
        if spec.holds:
            lines.append(f"add map inet {table} {spec.name} {{ type {kind} : {spec.holds.value}; }}")
        else:
            lines.append(f"add set inet {table} {spec.name} {{ type {kind}; }}")
    return "\n".join(lines) + "\n"


def test_a_table_filled_by_netlink_lists_the_same_as_one_filled_by_text(node: World):
    node.nft(structure("isthmus") + structure("text"))
    node.apply(
        ElementChange(PEERS4, add=((("10.0.0.1",), 0x10101), (("10.0.0.2",), 2))),
        ElementChange(PEERS6, add=((("fd00::1",), 0xFF0102),)),
        ElementChange(INGRESS6, add=((("fd00::1",), Jump("one")),)),
        ElementChange(EXACT, add=(((0x10101, 6, 8080), None), ((2, 132, 65535), None))),
        ElementChange(WHOLE, add=(((0x10101, 17), None),)),
        ElementChange(ANY, add=(((0x10101,), None),)),
        ElementChange(NAMED, add=((("10.0.0.1", 6, 443), None),)),
        ElementChange(SELF, add=((("fd00::1", "fd00::1"), None),)),
    )
    node.nft(
        """
        add element inet text peers4 { 10.0.0.1 : 1:101, 10.0.0.2 : 0:2 }
        add element inet text peers6 { fd00::1 : ff:102 }
        add element inet text ingress6 { fd00::1 : jump one }
        add element inet text exact { 1:101 . tcp . 8080, 0:2 . sctp . 65535 }
        add element inet text whole { 1:101 . udp }
        add element inet text any { 1:101 }
        add element inet text named4 { 10.0.0.1 . tcp . 443 }
        add element inet text self6 { fd00::1 . fd00::1 }
        """
    )

    for spec in SPECS:
        kind = "map" if spec.holds else "set"
        by_text = node.nft(f"list {kind} inet text {spec.name}")
        by_netlink = node.nft(f"list {kind} inet isthmus {spec.name}")
        assert sorted(by_netlink.replace("inet isthmus", "inet text").split()) == sorted(by_text.split())
        with node.router.run(lambda: ElementWriter(table="text")) as writer:
            assert writer.read(spec) == node.elements.read(spec)


def test_a_changed_value_is_a_removal_and_an_addition_in_one_transaction(node: World):
    node.nft(structure("isthmus"))
    node.apply(ElementChange(PEERS4, add=((("10.0.0.1",), 300), (("10.0.0.2",), 301))))

    node.apply(ElementChange(PEERS4, remove=(("10.0.0.1",), ("10.0.0.2",)), add=((("10.0.0.1",), 302),)))

    assert node.elements.read(PEERS4) == {("10.0.0.1",): 302}


@pytest.mark.parametrize(
    ("change", "number", "message"),
    [
        (
            ElementChange(PEERS4, add=((("10.9.9.9",), 1), (("10.0.0.1",), 7))),
            errno.EEXIST,
            "add to inet isthmus peers4 { 10.0.0.1 }: the element exists already",
        ),
        (
            ElementChange(PEERS4, remove=(("10.0.0.1",), ("10.0.0.7",))),
            errno.ENOENT,
            "remove from inet isthmus peers4 { 10.0.0.7 }: there is no such element",
        ),
        (
            ElementChange(INGRESS6, add=((("fd00::3",), Jump("nowhere")),)),
            errno.ENOENT,
            "add to inet isthmus ingress6 { fd00::3 }: the chain to jump to does not exist",
        ),
        (
            ElementChange(SetSpec("absent", (Field.IPV4,)), add=((("10.0.0.1",), None),)),
            errno.ENOENT,
            "add to inet isthmus absent: there is no such table or set",
        ),
        (
            ElementChange(SetSpec("exact", (Field.IDENTITY,)), add=(((5,), None),)),
            errno.EINVAL,
            "add to inet isthmus exact { 5 }: EINVAL",
        ),
    ],
)
def test_a_refusal_names_set_and_key_and_leaves_nothing_of_its_transaction(
    node: World, change: ElementChange, number: int, message: str
):
    node.nft(structure("isthmus"))
    node.apply(ElementChange(PEERS4, add=((("10.0.0.1",), 300),)))

    with pytest.raises(KernelError) as refused:
        node.apply(ElementChange(ANY, add=(((1,), None),)), change)

    assert refused.value.errno == number
    assert str(refused.value).startswith(message)
    assert message.startswith(f"add to {refused.value.subject}") or message.startswith(
        f"remove from {refused.value.subject}"
    )
    assert node.elements.read(PEERS4) == {("10.0.0.1",): 300}
    assert node.elements.read(ANY) == {}


def test_a_refusal_is_over_when_it_is_told(node: World):
    """Whatever else the kernel had to say about the failed batch is not taken for an answer to the next."""
    node.nft(structure("isthmus"))
    many = ElementChange(PEERS4, add=tuple(((f"10.1.{n >> 8}.{n & 255}",), 300) for n in range(20_000)))
    node.apply(many)

    with pytest.raises(KernelError, match=r"10\.1\.0\.0 .*exists already \(and 8 more\)"):
        node.apply(many)

    node.apply(ElementChange(ANY, add=(((1,), None),)))
    assert node.elements.read(ANY) == {(1,): None}
    assert len(node.elements.read(PEERS4)) == 20_000


def test_a_large_load_is_one_transaction_or_many_as_the_caller_says(node: World):
    node.nft(structure("isthmus"))
    change = ElementChange(PEERS4, add=tuple(((f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",), 300) for n in range(50_000)))

    parts = list(in_transactions([change], elements=4096))
    for part in parts:
        node.apply(*part)

    assert len(parts) == 13
    assert len(node.elements.read(PEERS4)) == 50_000
    node.apply(ElementChange(PEERS4, remove=tuple(key for key, _ in change.add)))
    assert node.elements.read(PEERS4) == {}


def test_nothing_to_do_needs_no_table(node: World):
    node.apply()
    node.apply(ElementChange(PEERS4))


def test_a_missing_set_cannot_be_read(node: World):
    with pytest.raises(KernelError, match="inet isthmus peers4") as refused:
        node.elements.read(PEERS4)
    assert refused.value.errno == errno.ENOENT
