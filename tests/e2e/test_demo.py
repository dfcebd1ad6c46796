"""The demo as users run it, with a tracker per cluster and with agents that need none."""

from collections.abc import Iterator

import pytest

from .conftest import Lab, new_lab, remove_lab

pytestmark = [pytest.mark.kubectl, pytest.mark.timeout(300)]


@pytest.fixture
def own_lab(kubectl_program: str) -> Iterator[Lab]:
    made = new_lab()
    yield made
    remove_lab(made)


def test_the_demo_creates_its_clusters_sees_what_it_expects_and_can_be_run_again(own_lab: Lab) -> None:
    for _ in range(2):
        shown = own_lab.isthmus("demo", "--nodes", "1", timeout=200).stdout
        table = shown[shown.index("connection to web-c2") :]
        assert table.count("  ok\n") == 5
        assert "DIFFERENT" not in table
        assert "isthmus lab delete --all" in table


def test_the_demo_passes_on_standalone_agents(own_lab: Lab) -> None:
    for number, name in enumerate(("cluster-1", "cluster-2"), start=1):
        own_lab.isthmus("lab", "create", name, "--id", str(number), "--nodes", "1", "--policy", "standalone")

    shown = own_lab.isthmus("demo", timeout=200).stdout

    assert shown.count("  ok\n") == 5


def test_the_demo_says_how_to_get_kubectl(own_lab: Lab) -> None:
    own_lab.environ["PATH"] = str(own_lab.directory)
    done = own_lab.isthmus("demo", check=False)

    assert done.returncode == 1
    assert "install-kubectl-linux" in done.stderr
