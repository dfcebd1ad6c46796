"""The kubectl conformance list: reads groups of invocations from YAML and runs them against any cluster.

A file is a group with a namespace of its own (`$NS`), and these members:

    files     name -> text: files in the directory where the commands run
    steps     a list of invocations, run in order; later ones may need earlier ones

`$NS` in any text is the namespace of the group, which is also the default of every command; `$NODE` is the last node.

A step:

    run       the words after `kubectl`, as a shell would split them
    stdin     what the command reads
    env       variables of its environment
    code      the exit status that is expected (0); `any` for whatever comes
    out, err  regular expressions that must each be found in standard output, standard error (multi-line)
    not       regular expressions that must not be found in either
    lines     the number of lines of standard output
    json      JSONPath (as `.spec.replicas` or `.items[0].metadata.name`) -> value, in the standard output
    within    seconds within which it must come true: it is run again and again until then
    only      `embedded` or `real`: which kind of API server the step is about
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

LIST = Path(__file__).parent.parent / "e2e" / "conformance"
LIMIT = 60.0  # seconds of one invocation
PAUSE = 0.25  # seconds between two tries
SHOWN = 1500  # characters of output in a complaint
_KEYS = {"run", "stdin", "env", "code", "out", "err", "not", "lines", "json", "within", "only"}


@dataclass(frozen=True)
class Target:
    """A cluster: the words that kubectl needs to reach it, and what kind of API server it has."""

    kubectl: tuple[str, ...]
    environ: dict[str, str]
    kind: str = "embedded"
    node: str = ""

    def with_node(self) -> "Target":
        """Returns the target with the name of its last node."""
        command = [*self.kubectl, "get", "nodes", "-o", "name"]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=LIMIT, check=True)
        return replace(self, node=(done.stdout.split() or [""])[-1].removeprefix("node/"))


@dataclass
class Group:
    """One file of the list."""

    name: str
    files: dict[str, str] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)


def groups() -> list[Group]:
    """Returns the list; raises ValueError for a file that breaks the format."""
    found = []
    for path in sorted(LIST.glob("*.yaml")):
        held = yaml.safe_load(path.read_text())
        group = Group(path.stem, held.get("files", {}), held["steps"])
        for number, step in enumerate(group.steps, start=1):
            strange = step.keys() - _KEYS
            if strange or "run" not in step:
                raise ValueError(f"{path.name}: step {number}: {', '.join(sorted(strange)) or 'run is missing'}")
        found.append(group)
    return found


def find(value: Any, path: str) -> Any:
    """Returns what stands at `.a.b[0].c` or `.a["b.c"]`; None if nothing does."""
    for name, quoted, index in re.findall(r'\.([\w-]+)|\["([^"]+)"\]|\[(-?\d+)\]', path):
        try:
            value = value[int(index)] if index else value[name or quoted]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def problems(step: dict[str, Any], done: subprocess.CompletedProcess[str]) -> list[str]:
    """Returns what is not as the step wants it."""
    found = []
    code = step.get("code", 0)
    if code != "any" and done.returncode != code:
        found.append(f"exit status {done.returncode}, expected {code}")
    for name, text in (("out", done.stdout), ("err", done.stderr)):
        for pattern in _patterns(step, name):
            if not re.search(pattern, text, re.MULTILINE):
                found.append(f"nothing in std{name} matches {pattern!r}")
    for pattern in _patterns(step, "not"):
        if re.search(pattern, done.stdout + done.stderr, re.MULTILINE):
            found.append(f"something matches {pattern!r}")
    if "lines" in step and len(done.stdout.splitlines()) != step["lines"]:
        found.append(f"{len(done.stdout.splitlines())} lines, expected {step['lines']}")
    if "json" in step:
        try:
            value = json.loads(done.stdout)
        except ValueError:
            return [*found, "standard output is no JSON"]
        for path, wanted in step["json"].items():
            if find(value, path) != wanted:
                found.append(f"{path} is {find(value, path)!r}, expected {wanted!r}")
    return found


def _patterns(step: dict[str, Any], name: str) -> list[str]:
    held = step.get(name, [])
    return [held] if isinstance(held, str) else held


def filled(value: Any, words: dict[str, str]) -> Any:
    """Returns a part of the list with its placeholders replaced."""
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace(name, word)
        return value
    if isinstance(value, dict):
        return {filled(key, words): filled(item, words) for key, item in value.items()}
    return [filled(item, words) for item in value] if isinstance(value, list) else value


def run_step(step: dict[str, Any], target: Target, *, namespace: str, directory: Path) -> str:
    """Runs one invocation; returns a complaint, "" if all is as wanted."""
    command = [*target.kubectl, "--namespace", namespace, *shlex.split(step["run"])]
    environ = {**target.environ, **{name: str(text) for name, text in step.get("env", {}).items()}}
    deadline = time.monotonic() + step.get("within", 0)
    while True:
        try:
            done = subprocess.run(
                command,
                cwd=directory,
                env=environ,
                input=step.get("stdin", ""),
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"kubectl {step['run']}\n  no end within {LIMIT:g} s"
        found = problems(step, done)
        if not found or time.monotonic() >= deadline:
            break
        time.sleep(PAUSE)
    if not found:
        return ""
    told = "\n  ".join(found)
    return f"kubectl {step['run']}\n  {told}\n{done.stdout[-SHOWN:]}{done.stderr[-SHOWN:]}"


def run_group(group: Group, target: Target, *, suffix: str) -> list[str]:
    """Runs a group in a namespace of its own, which is deleted; returns the complaints."""
    namespace = f"c-{group.name}-{suffix}"[:63].rstrip("-")
    directory = Path(tempfile.mkdtemp(prefix="conformance-"))
    complaints = []
    try:
        words = {"$NS": namespace, "$NODE": target.node}
        for name, text in group.files.items():
            path = directory / name
            path.write_text(filled(text, words))
            if text.startswith("#!"):
                path.chmod(0o755)
        environ = {**target.environ, "PATH": f"{directory}{os.pathsep}{target.environ.get('PATH', os.defpath)}"}
        placed = Target(target.kubectl, environ, target.kind, target.node)
        made = run_step({"run": f"create namespace {namespace}"}, placed, namespace=namespace, directory=directory)
        if made:
            return [made]
        for step in group.steps:
            if step.get("only", target.kind) == target.kind:
                complaint = run_step(filled(step, words), placed, namespace=namespace, directory=directory)
                if complaint:
                    complaints.append(complaint)
        run_step(
            {"run": f"delete namespace {namespace} --wait=false"}, placed, namespace=namespace, directory=directory
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return complaints
