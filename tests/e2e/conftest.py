"""A lab of two clusters for all end-to-end tests of a session, and kubectl to speak to it."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ONE, TWO = "one", "two"
"""The clusters: `one` has three nodes and `two` has two; both in policy mode `tracker`."""

TIMEOUT = 60.0


class Lab:
    """A lab in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            **os.environ,
            "ISTHMUS_STATE": str(directory),
            "KUBECONFIG": str(directory / "kubeconfig"),
            "HOME": str(directory.parent),
        }

    def isthmus(self, *args: str, check: bool = True, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs `isthmus ARGS`."""
        return _run([sys.executable, "-m", "isthmus", *args], self.environ, check=check, timeout=timeout)

    def kubectl(
        self, cluster: str, *args: str, input: str | None = None, check: bool = True, timeout: float = TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Runs `kubectl --context lab-CLUSTER ARGS`."""
        words = ["kubectl", "--context", f"lab-{cluster}", *args]
        return _run(words, self.environ, input=input, check=check, timeout=timeout)

    def processes(self) -> dict[tuple[str, str], int]:
        """Returns (cluster, component) -> process number of everything that is kept alive."""
        import json

        rows = json.loads(self.isthmus("lab", "ps", "-o", "json").stdout)
        return {(row["cluster"], row["name"]): row["pid"] for row in rows}


def _run(
    words: list[str], environ: dict[str, str], *, input: str | None = None, check: bool, timeout: float
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, env=environ, input=input or "", capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(words)}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def new_lab() -> Lab:
    """Returns a lab in a new directory; a short path, because a unix socket lives in it."""
    return Lab(Path(tempfile.mkdtemp(prefix="isthmus-e2e-")) / "lab")


def remove_lab(lab: Lab) -> None:
    """Takes a lab down and removes its directory."""
    lab.isthmus("lab", "delete", "--all", check=False)
    shutil.rmtree(lab.directory.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def kubectl_program() -> str:
    """The real kubectl; without one the test is skipped, except in CI."""
    found = shutil.which("kubectl")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("kubectl is not installed")
        pytest.skip("kubectl is not installed")
    return found


@pytest.fixture(scope="session")
def lab(kubectl_program: str) -> Iterator[Lab]:
    """The session's lab with the clusters ONE and TWO; tests make namespaces of their own in it."""
    made = new_lab()
    try:
        made.isthmus("lab", "create", ONE, "--nodes", "3")
        made.isthmus("lab", "create", TWO, "--nodes", "2")
        yield made
    finally:
        remove_lab(made)


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace in both clusters, deleted afterwards."""
    name = f"t-{secrets.token_hex(4)}"
    for cluster in (ONE, TWO):
        lab.kubectl(cluster, "create", "namespace", name)
    yield name
    for cluster in (ONE, TWO):
        lab.kubectl(cluster, "delete", "namespace", name, "--wait=false")
