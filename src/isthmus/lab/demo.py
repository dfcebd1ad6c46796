"""The demo: policy in one cluster, decided by where in the ClusterSet a connection comes from, with real packets.

Every step is a command that a user could type, shown before it runs, with its output as it comes. What was expected is
compared with what was seen; nothing is assumed. The lab stays up afterwards. Calling our own code instead of the
commands was rejected: it would show that the code works, not that the user's commands do.
"""

import os
import pty
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

CLUSTERS = ("cluster-1", "cluster-2")
C1, C2 = (f"lab-{name}" for name in CLUSTERS)
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.39"
WEB = ["--labels=app=web", "--expose", "--port=80", "--", "netexec", "--http-port=80"]
COMMAND_LIMIT = 180  # seconds for one command; the longest waits for a pod to start and a wget to time out

DENY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: default-deny-ingress
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Ingress
"""
ALLOW = (
    DENY
    + """\
  ingress:
  - from:
    - namespaceSelector:
        matchLabels:
          # Selects namespaces with this label
          cluster.clusterset.k8s.io: cluster-1
          # AND this label
          kubernetes.io/metadata.name: demo-c1
"""
)


class Outcome(msgspec.Struct, frozen=True):
    """One line of the final table."""

    what: str
    expected: str
    seen: str

    @property
    def well(self) -> bool:
        """Tells whether what was seen is what was expected."""
        return self.expected == self.seen


class Failed(Exception):
    """A command that must work did not; the message says which."""


class Stage:
    """Runs commands where the user can see them."""

    def __init__(self, *, environ: Mapping[str, str], write: Callable[[str], None]) -> None:
        self.environ = dict(environ)
        self._write = write

    def say(self, text: str) -> None:
        """Shows a heading."""
        self._write(f"\n\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"\n== {text}\n")

    def run(self, *command: str, text: str | None = None, check: bool = True) -> str:
        """Shows and runs a command; returns its standard output. Raises Failed if it must work and does not."""
        self._show(command, text)
        done = subprocess.run(
            command,
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=COMMAND_LIMIT,
            check=False,
        )
        self._write(done.stdout)
        self._write(done.stderr)
        if check and done.returncode:
            raise Failed(f"`{shlex.join(command)}` ended with exit code {done.returncode}")
        return done.stdout

    def terminal(self, *command: str) -> tuple[int, str]:
        """Shows and runs a command on a terminal of its own, as `-it` needs; returns exit code and all it printed."""
        self._show(command, None)
        ours, theirs = pty.openpty()
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=self.environ) as process:
            os.close(theirs)
            printed = bytearray()
            deadline = time.monotonic() + COMMAND_LIMIT
            try:
                while time.monotonic() < deadline:
                    if select.select([ours], [], [], 0.2)[0]:
                        try:
                            chunk = os.read(ours, 4096)
                        except OSError:  # EIO: the other end is closed
                            break
                        if not chunk:
                            break
                        printed += chunk
                        self._write(chunk.decode(errors="replace").replace("\r\n", "\n"))
                    elif process.poll() is not None:
                        break
                else:
                    process.kill()
            finally:
                os.close(ours)
            code = process.wait()
        text = printed.decode(errors="replace").replace("\r\n", "\n")
        if text and not text.endswith("\n"):
            self._write("\n")
        return code, text

    def _show(self, command: Sequence[str], text: str | None) -> None:
        line = " ".join(part if part.isprintable() and part else shlex.quote(part) for part in map(_quoted, command))
        self._write(f"$ {line}\n" if text is None else f"$ {line} <<EOF\n{text}EOF\n")


def _quoted(part: str) -> str:
    return f'"{part}"' if set(part) & set(" {}[]") and '"' not in part else part


class Demo:
    """The whole demo on two clusters of a lab that runs; `stage` shows it."""

    def __init__(self, stage: Stage, *, kubectl: str) -> None:
        self.stage = stage
        self.outcomes: list[Outcome] = []
        self._kubectl = kubectl

    def kubectl(self, context: str, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """Runs kubectl on one cluster."""
        return self.stage.run(self._kubectl, f"--context={context}", *arguments, text=text, check=check)

    def play(self) -> list[Outcome]:
        """Runs all of it and returns what was expected and seen. Raises Failed."""
        self.clean()
        self.set_up()
        web = self.kubectl(
            C2, "-n", "demo-c2", "get", "pod", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}"
        )
        self.stage.say("Before any policy, pods of cluster-1 reach pods of cluster-2")
        self.attempt("no policy: demo-c1 in cluster-1", C1, "demo-c1", web, "reached web-c2")

        self.stage.say("A policy in cluster-2 that denies all ingress to web-c2 holds for traffic from cluster-1 too")
        self.kubectl(C2, "-n", "demo-c2", "apply", "-f", "-", text=DENY)
        self.pause()
        self.attempt("default deny: demo-c1 in cluster-1", C1, "demo-c1", web, "timed out")

        self.stage.say("Allow pods of namespace demo-c1 that belong to cluster-1")
        self.kubectl(C2, "-n", "demo-c2", "apply", "-f", "-", text=ALLOW)
        self.pause()
        self.attempt("allowed: demo-c1 in cluster-1", C1, "demo-c1", web, "reached web-c2")

        self.stage.say("And nobody else: not another namespace of cluster-1, not a pretender in cluster-2")
        self.attempt("not allowed: default in cluster-1", C1, "default", web, "timed out")
        self.kubectl(C2, "create", "ns", "demo-c1")
        self.kubectl(C2, "label", "ns", "demo-c1", "cluster.clusterset.k8s.io=cluster-1")
        self.attempt("not believed: demo-c1 in cluster-2, labelled cluster-1", C2, "demo-c1", web, "timed out")
        return self.outcomes

    def clean(self) -> None:
        """Removes what an earlier run left."""
        for context, namespaces in ((C1, ["demo-c1"]), (C2, ["demo-c2", "demo-c1"])):
            subprocess.run(
                [self._kubectl, f"--context={context}", "delete", "ns", *namespaces, "--ignore-not-found"],
                env=self.stage.environ,
                capture_output=True,
                timeout=COMMAND_LIMIT,
                check=False,
            )

    def set_up(self) -> None:
        """Creates namespaces and a web server in each cluster."""
        self.stage.say("A namespace in each cluster, labelled with the cluster it belongs to, and a web server")
        for context, cluster, namespace, web in (
            (C1, "cluster-1", "demo-c1", "web-c1"),
            (C2, "cluster-2", "demo-c2", "web-c2"),
        ):
            self.kubectl(context, "create", "ns", namespace)
            self.kubectl(context, "label", "ns", namespace, f"cluster.clusterset.k8s.io={cluster}")
            self.kubectl(context, "-n", namespace, "run", web, f"--image={AGNHOST}", *WEB)
        for context, namespace, web in ((C1, "demo-c1", "web-c1"), (C2, "demo-c2", "web-c2")):
            self.kubectl(context, "-n", namespace, "wait", "--for=condition=Ready", f"pod/{web}", "--timeout=60s")

    def attempt(self, what: str, context: str, namespace: str, address: str, expected: str) -> None:
        """Fetches the web server's name from a pod that lives for just that."""
        fetch = f"wget -qO- --timeout=2 http://{address}/hostname"
        code, printed = self.stage.terminal(
            self._kubectl, f"--context={context}", "-n", namespace, "run", "tmp-client", "--rm", "-it",
            "--image=busybox", "--", "sh", "-c", fetch,
        )  # fmt: skip
        # kubectl's exit code says nothing here: it is 0 for whatever a pod that restarts always did.
        if "web-c2" in printed and "timed out" not in printed:
            seen = "reached web-c2"
        elif "timed out" in printed and "web-c2" not in printed:
            seen = "timed out"
        else:
            seen = f"exit code {code}: {' '.join(printed.split())[:60]}"
        self.outcomes.append(Outcome(what, expected, seen))

    def pause(self) -> None:
        """Waits a moment, as a person would; enforcement takes some tens of milliseconds."""
        self.stage.run("sleep", "1")


def environment(kubeconfig: Path) -> dict[str, str]:
    """Returns the environment of the demo's commands: ours, with the lab's kubeconfig."""
    return {**os.environ, "KUBECONFIG": str(kubeconfig)}
