"""Where a lab keeps its files: one directory per lab, with fixed places in it.

Invariants: the directory is private to its owner (0700: it holds private keys); everything in it belongs to the lab
and may be removed when no supervisor runs; `run` is only a mount point, its contents live in the supervisor's mount
namespace and die with it. Rejected: /run and /tmp, which other programs clean up under a running lab.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STATE_VARIABLE = "ISTHMUS_STATE"


class StateError(Exception):
    """The state directory cannot be used; the message says why."""


class StateDir:
    """The paths of one lab."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clusters = root / "clusters"
        self.images = root / "images"
        self.run = root / "run"
        self.socket = root / "supervisor.sock"
        self.supervisor_log = root / "supervisor.log"
        self.kubeconfig = root / "kubeconfig"
        self.roster = root / "clusters.yaml"
        """Name, ID and credentials of every cluster, for stand-alone agents."""
        self.failed = root / "failed"
        """Logs of clusters that did not come up."""
        self._lock = root / "lock"
        """Never removed, so it also marks the directory as a lab's."""

    @property
    def known(self) -> bool:
        """Whether this is the directory of a lab, or was: anything else in the world is not the lab's to touch."""
        try:
            self._lock.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass  # cannot be told; whoever goes on to use it says why
        return True

    @property
    def _swept(self) -> tuple[Path, ...]:
        return (self.clusters, self.images, self.run, self.failed)

    def cluster(self, name: str) -> "ClusterDir":
        """Returns the paths of one cluster."""
        return ClusterDir(self.clusters / name, run=self.run / name)

    def prepare(self) -> None:
        """Makes the directory if it is missing; raises StateError, also for one with files that are not a lab's."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Looked for before the mark, which another command may set meanwhile, and sets before it makes these.
            foreign = [path.name for path in (*self._swept, self.kubeconfig, self.roster) if os.path.lexists(path)]
            if foreign and not self.known:
                raise StateError(
                    f"cannot use state directory {self.root}: it holds {', '.join(foreign)} and is no lab's; "
                    "choose a directory that is empty or new"
                )
            self.root.chmod(0o700)
            self._lock.touch(mode=0o600)
            for path in (self.clusters, self.images, self.run):
                path.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError as error:
            raise StateError(f"cannot use state directory {self.root}: {error.filename} is no directory") from error
        except OSError as error:
            raise StateError(f"cannot use state directory {self.root}: {error.strerror or error}") from error
        # A path in sockaddr_un has 108 bytes (unix(7)).
        if len(os.fsencode(self.socket)) > 107:
            raise StateError(f"the path of state directory {self.root} is too long for a unix socket")

    @contextmanager
    def lock(self, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Holds the lab's lock: one command at a time may change a lab. Waits, after `on_wait` was called.

        Raises StateError if it cannot.
        """
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot use state directory {self.root}: {error.strerror or error}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                # Ends when the other command does; people can interrupt it.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def sweep(self) -> list[str]:
        """Removes what a lab that no longer runs left; returns the names of the clusters that were there."""
        stale = sorted(path.name for path in self.clusters.iterdir()) if self.clusters.is_dir() else []
        for path in self._swept:
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.socket, self.kubeconfig, self.roster):
            path.unlink(missing_ok=True)
        return stale


class ClusterDir:
    """The paths of one cluster; `run` holds namespace files and is visible inside the lab only."""

    def __init__(self, root: Path, *, run: Path) -> None:
        self.root = root
        self.run = run
        self.plan = root / "cluster.json"
        self.pki = root / "pki"
        self.kubeconfigs = root / "kubeconfigs"
        self.logs = root / "logs"
        self.data = root / "data"

    def node_namespace(self, node: str, kind: str) -> Path:
        """Returns the namespace file of a node; `kind` is net or uts."""
        return self.run / "nodes" / node / kind

    def kubeconfig(self, who: str) -> Path:
        """Returns the kubeconfig of a component: `admin`, `node-NAME`, `controllers`, `tracker`, `agent-NAME`."""
        return self.kubeconfigs / f"{who}.conf"

    def node(self, node: str) -> Path:
        """Returns the directory in which a node keeps its pods."""
        return self.root / "nodes" / node

    def agent(self, node: str) -> Path:
        """Returns the directory in which a node's agent keeps what the next one has to know."""
        return self.root / "agents" / node

    def log(self, component: str) -> Path:
        """Returns the log of a component."""
        return self.logs / f"{component}.log"


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only its owner may read, never for a moment with wider permissions."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)


def default_root() -> Path:
    """Returns the state directory that commands use unless told otherwise."""
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/isthmus/lab")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "isthmus" / "lab"
