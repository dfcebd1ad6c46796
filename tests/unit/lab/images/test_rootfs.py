"""The files that pods find."""

import subprocess
import sys
from pathlib import Path

import pytest

import isthmus
from isthmus.lab.images.builtin import BUILTIN, CATALOG
from isthmus.lab.images.rootfs import LIBRARY, Rootfs

IMPORT_ALL = """
import sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    __import__(name)
found = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
bad = found - set(sys.stdlib_module_names) - {"isthmus", "__main__"}
sys.exit(str(bad) if bad else 0)
"""


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Rootfs:
    found = Rootfs(tmp_path_factory.mktemp("images"))
    found.prepare()
    return found


def test_every_image_finds_its_files(rootfs: Rootfs) -> None:
    for image in BUILTIN:
        binds = rootfs.binds(image)
        assert {"/bin", LIBRARY} <= {target for _source, target in binds}
        assert all(Path(source).exists() for source, _target in binds)
        program = (image.entrypoint or image.command)[0]
        if program.startswith("/bin/") or program in ("nginx", "sh"):
            assert (rootfs.applets / program.rpartition("/")[2]).exists()
        elif program.startswith("/"):
            assert program in {target for _source, target in binds}
    assert CATALOG.names


def test_programs_need_the_standard_library_only(rootfs: Rootfs) -> None:
    """Every module of the library can be imported as pods import it, and brings none of ours from elsewhere."""
    library = next(Path(source) for source, target in rootfs.binds(BUILTIN[0]) if target == LIBRARY)
    names = sorted(
        str(path.relative_to(library).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for path in library.rglob("*.py")
    )
    assert "isthmus.lab.dns.responder" in names and "isthmus.lab.images.programs.nginx.main" in names
    done = subprocess.run(
        [sys.executable, "-ISBc", IMPORT_ALL, str(library), *names],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["nginx.main", "jsonmock", "small", "agnhost", "agnhost.netexec", "agnhost.serving"])
def test_servers_of_pods_import_little(module: str) -> None:
    """There may be dozens of them: each of these modules is megabytes in every one."""
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); import isthmus.lab.images.programs.{module}; print(*sys.modules)"
    )
    words = [sys.executable, "-ISBc", code, str(Path(isthmus.__file__).parents[1])]
    loaded = set(subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout.split())
    assert not loaded & {"asyncio", "inspect", "typing", "dataclasses", "email", "http", "ssl", "subprocess", "urllib"}


def test_preparing_again_changes_nothing(rootfs: Rootfs) -> None:
    before = sorted(path.name for path in rootfs.mount_point.parent.iterdir())
    Rootfs(rootfs.mount_point.parent).prepare()
    assert sorted(path.name for path in rootfs.mount_point.parent.iterdir()) == before


def test_scripts_that_name_bin_bash_find_it(rootfs: Rootfs) -> None:
    """/bin of a container is not the machine's, and commands such as those of Kubernetes' own tests say /bin/bash."""
    bash = rootfs.applets / "bash"
    assert not bash.is_symlink()
    done = subprocess.run(
        [bash, "-c", "a=(1 2); echo ${#a[@]}"], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "2\n"
