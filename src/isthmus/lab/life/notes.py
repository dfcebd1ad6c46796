"""What a cluster's directory says of it, so that it can be brought back after a stop, a crash or a reboot.

Invariant: a note says `complete` only after the cluster was ready once; what was never complete is swept and not
brought back.
"""

from collections.abc import Iterable

import msgspec

from isthmus.lab.plan import ClusterPlan
from isthmus.lab.statedir import StateDir, write_private


class Note(msgspec.Struct, frozen=True):
    """A cluster's plan, where its API server is on this machine, and whose kubeconfig knows of it."""

    plan: ClusterPlan
    api_port: int
    api_host: str = "127.0.0.1"
    merged_into: str = ""
    complete: bool = False

    @property
    def server(self) -> str:
        """The URL of the API server on this machine."""
        # An address that means all of the machine's is not one to connect to.
        host = "127.0.0.1" if self.api_host == "0.0.0.0" else self.api_host
        return f"https://{f'[{host}]' if ':' in host else host}:{self.api_port}"


def read_note(state: StateDir, name: str) -> Note | None:
    """Returns what a cluster's directory says; None if it says nothing that can be understood."""
    try:
        return msgspec.json.decode(state.cluster(name).plan.read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError):
        return None


def write_note(state: StateDir, note: Note) -> None:
    """Writes what a cluster's directory says; raises OSError."""
    write_private(state.cluster(note.plan.name).plan, msgspec.json.encode(note))


def noted(state: StateDir) -> list[Note]:
    """Returns the notes of all clusters that have files, complete or not, by ID."""
    if not state.clusters.is_dir():
        return []
    notes = (read_note(state, path.name) for path in sorted(state.clusters.iterdir()))
    return sorted((note for note in notes if note is not None), key=lambda note: note.plan.id)


def complete(notes: Iterable[Note]) -> list[Note]:
    """Returns the notes of the clusters that can be brought back."""
    return [note for note in notes if note.complete]
