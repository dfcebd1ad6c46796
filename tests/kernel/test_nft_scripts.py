"""Scripts through libnftables and through the nft program: the same result, the same words."""

import errno
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from isthmus.kernel.errors import KernelError, NftError
from isthmus.kernel.nftables import LIBRARY, Nft
from tests.support.netns import World


@pytest.fixture(params=[LIBRARY, "libnftables-that-is-not-there.so"], ids=["library", "program"])
def nft(request: pytest.FixtureRequest, node: World):
    with node.router.run(lambda: Nft(library=request.param)) as nft:
        yield nft


def test_a_script_takes_effect_in_the_namespace_the_instance_was_made_in(node: World, nft: Nft):
    nft.run("add table inet isthmus\nadd chain inet isthmus c\n")

    assert nft.run("list tables") == "table inet isthmus\n"
    assert node.router.command("nft", "list", "tables") == "table inet isthmus\n"
    assert nft.show("inet isthmus") == node.router.command("nft", "list", "table", "inet", "isthmus")


def test_elements_can_be_left_out_of_a_listing(nft: Nft):
    nft.run("add table inet t\nadd set inet t s { type ipv4_addr; }\nadd element inet t s { 10.0.0.1 }\n")
    assert "10.0.0.1" in nft.show("inet t")
    assert "10.0.0.1" not in nft.show("inet t", elements=False)
    assert "# handle" in nft.show("inet t", handles=True)


@pytest.mark.parametrize(
    ("script", "line", "number", "message"),
    [
        ("add table inet t\n\nadd chn inet t c\n", 3, 0, "line 3:9: syntax error.*: add chn inet t c"),
        (
            "add table inet t\nadd chain inet t c\n\tadd rule inet t c jump zz\n",
            3,
            errno.ENOENT,
            "line 3:.*No such file or directory: add rule inet t c jump zz",
        ),
        ("delete table inet absent\n", 1, errno.ENOENT, "line 1:.*: delete table inet absent"),
        ("table inet t {\n chain c {\n  ip saddr @absent drop\n }\n}\n", 3, errno.ENOENT, "line 3:.*ip saddr @absent"),
    ],
)
def test_an_error_names_line_and_column_and_quotes_the_line(
    nft: Nft, script: str, line: int, number: int, message: str
):
    with pytest.raises(NftError, match=message) as refused:
        nft.run(script)

    assert refused.value.line == line
    assert refused.value.errno == number
    assert nft.run("list tables") == ""


def test_a_refused_script_is_forgotten(nft: Nft):
    nft.run("add table inet t\nadd chain inet t c\n")
    before = nft.show("inet t")

    with pytest.raises(NftError):
        nft.run("delete chain inet t c\nadd chain inet t d\nadd rule inet t d jump zz\n")

    assert nft.show("inet t") == before
    nft.run("add rule inet t c accept\n")


def test_a_check_validates_in_the_kernel_and_commits_nothing(nft: Nft):
    nft.check("add table inet t\nadd chain inet t c\nadd rule inet t c accept\n")
    assert nft.run("list tables") == ""

    with pytest.raises(NftError, match="line 3"):
        nft.check("add table inet t\nadd chain inet t d\nadd rule inet t c accept\n")


def test_an_instance_may_be_used_from_several_threads(nft: Nft):
    nft.run("add table inet t\nadd set inet t s { type inet_service; }\n")
    errors: list[BaseException] = []

    def work(base: int) -> None:
        try:
            for port in range(base, base + 20):
                nft.run(f"add element inet t s {{ {port} }}\n")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(base,)) for base in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert nft.show("inet t").count(",") == 59


def test_a_closed_instance_says_so(nft: Nft):
    nft.close()
    nft.close()
    with pytest.raises(ValueError, match="closed"):
        nft.run("list tables")


def test_a_zero_byte_does_not_end_a_script_early(nft: Nft):
    with pytest.raises(NftError, match="zero byte"):
        nft.run("add table inet t\n\0add table inet u\n")
    assert nft.run("list tables") == ""


def test_without_library_and_program_the_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(KernelError, match="package nftables"):
        Nft(library="libnftables-that-is-not-there.so")


def without_capabilities(function: Callable[[], object]) -> object:
    """Runs `function` in a thread that has given up all capabilities, for good."""
    import ctypes

    results: list[object] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        assert libc.capset(header, (ctypes.c_uint32 * 6)()) == 0
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results[0]


def test_a_missing_privilege_is_told_as_such(node: World):
    def try_it() -> None:
        with Nft() as nft:
            nft.run("add table inet t\n")

    error = node.router.run(lambda: without_capabilities(try_it))

    assert isinstance(error, NftError)
    assert error.errno == errno.EPERM


LARGE = """
from isthmus.kernel.nftables import Nft
keys = ", ".join(f"10.0.{n >> 8}.{n & 255}" for n in range(12_000))
with Nft() as nft:
    nft.run("add table inet t\\nadd set inet t s { type ipv4_addr; }\\nadd element inet t s { " + keys + " }\\n")
    print(nft.run("list set inet t s").count(","))
"""


def test_a_large_script_needs_no_privilege_beyond_the_namespace():
    """Twelve thousand elements are more than `wmem_default` and less than any `wmem_max`."""
    sandbox = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", LARGE]
    done = subprocess.run(sandbox, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert int(done.stdout) > 11_000  # a listing of a table that the kernel is still growing lacks some
