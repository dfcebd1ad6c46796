"""kubectl against the lab, invocation by invocation: exit status, output and error texts as from any cluster.

The list is in `conformance/*.yaml`; its format is told in `tests/support/conformance.py`. Any cluster can be asked:
`ISTHMUS_CONFORMANCE_KUBECONFIG=FILE pytest tests/e2e/test_kubectl_conformance.py` takes the current context of FILE,
and `ISTHMUS_CONFORMANCE_KIND=real` leaves out what only the lab's own API server says.
"""

import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support import conformance
from tests.support.conformance import Target

from .conftest import ONE

pytestmark = pytest.mark.kubectl

GROUPS = conformance.groups()
WORKERS = int(os.environ.get("ISTHMUS_CONFORMANCE_WORKERS", "4"))
LEAST = 120  # invocations

Results = Callable[[str], list[str]]


def target_of(request: pytest.FixtureRequest) -> Target:
    """The cluster that the environment names, else the first one of the lab."""
    kubeconfig = os.environ.get("ISTHMUS_CONFORMANCE_KUBECONFIG")
    kind = os.environ.get("ISTHMUS_CONFORMANCE_KIND", "embedded")
    if kubeconfig:
        program = request.getfixturevalue("kubectl_program")
        return Target((program,), {**os.environ, "KUBECONFIG": kubeconfig}, kind)
    lab = request.getfixturevalue("lab")
    return Target(("kubectl", "--context", f"lab-{ONE}"), lab.environ, kind)


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Results:
    """Begins all groups at once, WORKERS at a time; gives the complaints of one when it has ended."""
    target, suffix = target_of(request).with_node(), secrets.token_hex(3)
    # Only what was asked for with -k is run.
    wanted = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")} & {
        group.name for group in GROUPS
    }
    pool = ThreadPoolExecutor(WORKERS)
    request.addfinalizer(lambda: pool.shutdown(cancel_futures=True))
    chosen = sorted((group for group in GROUPS if group.name in wanted), key=lambda group: -len(group.steps))
    running: dict[str, Future[list[str]]] = {
        group.name: pool.submit(conformance.run_group, group, target, suffix=suffix) for group in chosen
    }
    return lambda name: running[name].result()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [group.name for group in GROUPS])
def test_group(results: Results, name: str) -> None:
    complaints = results(name)
    if complaints:
        pytest.fail(f"{len(complaints)} of the group {name}:\n" + "\n".join(complaints), pytrace=False)


def test_the_list_is_long_enough() -> None:
    assert sum(len(group.steps) for group in GROUPS) >= LEAST
