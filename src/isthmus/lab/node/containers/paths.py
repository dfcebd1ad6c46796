"""Where a node keeps its pods: `pods/UID/` with a record, volumes, and a directory per container."""

import contextlib
import os
from pathlib import Path

import msgspec

from isthmus.lab.node.pods.record import SandboxRecord


class PodDir:
    """The files of one pod; `run` holds its namespace files."""

    def __init__(self, root: Path, *, run: Path) -> None:
        self.root = root
        self.run = run
        self.record = root / "record.json"

    def namespace(self, kind: str) -> Path:
        """Returns the namespace file; `kind` is net, uts or ipc."""
        return self.run / kind

    def etc(self, name: str) -> Path:
        """Returns the pod's own /etc/NAME."""
        return self.root / "etc" / name

    def volume(self, name: str) -> Path:
        """Returns the directory of a volume."""
        return self.root / "volumes" / name

    def container(self, name: str, attempt: int) -> "RunFiles":
        """Returns the files of one run of a container."""
        return RunFiles(self.root / "containers" / name, attempt)

    def save(self, record: SandboxRecord) -> None:
        """Writes the record; raises OSError."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.record.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(record))
        os.replace(draft, self.record)

    def load(self) -> SandboxRecord | None:
        """Returns the record; None if it is missing or damaged."""
        try:
            return msgspec.json.decode(self.record.read_bytes(), type=SandboxRecord)
        except (OSError, msgspec.DecodeError):
            return None


class RunFiles:
    """The files of one run of a container."""

    def __init__(self, directory: Path, attempt: int) -> None:
        self.directory = directory
        self.log = directory / f"{attempt}.log"
        self.exit = directory / f"{attempt}.exit"
        self.message = directory / f"{attempt}.message"
        """What the program writes to its terminationMessagePath."""
        self.stdout = directory / f"{attempt}.out"
        self.stderr = directory / f"{attempt}.err"

    def exit_code(self) -> int | None:
        """Returns the exit code that the keeper wrote; None if it could not."""
        try:
            return int(self.exit.read_text())
        except (OSError, ValueError):
            return None

    def tidy(self) -> None:
        """Removes what is of no use after the run; what cannot be removed goes with the pod."""
        for path in (self.stdout, self.stderr, self.message):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the run altogether."""
        self.tidy()
        for path in (self.exit, self.log, self.log.with_name(f"{self.log.name}.1")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
