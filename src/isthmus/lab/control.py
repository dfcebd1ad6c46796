"""How commands talk to the supervisor: one packet a message on a unix socket, descriptors attached where needed.

Invariants: SOCK_SEQPACKET keeps message boundaries, so there is no framing to get wrong; every message is decoded into
one of the structs below or refused; a message is at most MAX_MESSAGE bytes. A cluster belongs to the connection that
created it until that connection commits it: when the creator dies, the supervisor takes the cluster down again (and
keeps its files if it was only to be brought back).
Rejected: JSON lines on a stream, where a passed descriptor can end up attached to the wrong message.
"""

import socket
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec

from isthmus.lab.plan import ClusterPlan

MAX_MESSAGE = 160 * 1024
"""Bytes; below Linux's default socket buffer (net.core.wmem_default, 208 KiB), which bounds a packet."""

_TIMEOUT = 60.0
"""Seconds; the slowest answer is the delete of a cluster with many nodes."""


class ControlError(Exception):
    """The supervisor refused, failed or went away; the message is for people."""


class NoSupervisor(ControlError):
    """Nobody listens: no lab runs."""


class UnitSpec(msgspec.Struct, frozen=True):
    """A process to keep alive: `node` names the node whose network namespace it runs in."""

    name: str
    argv: tuple[str, ...]
    node: str
    listener: bool = False
    """The descriptor that came with the message is appended as `--listen-fd N`."""


class Create(msgspec.Struct, frozen=True, tag="create"):
    """Make the namespaces, links and routes of a cluster; with `keep` its files stay if it does not come up."""

    plan: ClusterPlan
    keep: bool = False


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Start processes of a cluster; at most one descriptor comes along."""

    cluster: str
    units: tuple[UnitSpec, ...]


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """The cluster is complete: it outlives this connection."""

    cluster: str


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    """Take a cluster down; after the last one the supervisor ends."""

    cluster: str


class Halt(msgspec.Struct, frozen=True, tag="halt"):
    """End every process and the supervisor; all files stay."""


class StopUnits(msgspec.Struct, frozen=True, tag="stop-units"):
    """End processes of a cluster until they are started again; those that do not run stay as they are."""

    cluster: str
    units: tuple[str, ...]


class StartUnits(msgspec.Struct, frozen=True, tag="start-units"):
    """Start processes that were stopped; those that run stay as they are."""

    cluster: str
    units: tuple[str, ...]


class StopNode(msgspec.Struct, frozen=True, tag="stop-node"):
    """Cut the power of a node: its processes, pods, namespaces and link are gone."""

    cluster: str
    node: str


class StartNode(msgspec.Struct, frozen=True, tag="start-node"):
    """Boot a node that was stopped."""

    cluster: str
    node: str


class Partition(msgspec.Struct, frozen=True, tag="partition"):
    """Drop every packet between two clusters or nodes."""

    one: str
    other: str


class Heal(msgspec.Struct, frozen=True, tag="heal"):
    """Undo a partition, or with empty names all of them."""

    one: str = ""
    other: str = ""


class Health(msgspec.Struct, frozen=True, tag="health"):
    """Ask the agents of a cluster whether they enforce."""

    cluster: str


class Describe(msgspec.Struct, frozen=True, tag="describe"):
    """Tell what there is."""


Request = (
    Create
    | Start
    | Commit
    | Delete
    | Halt
    | StopUnits
    | StartUnits
    | StopNode
    | StartNode
    | Partition
    | Heal
    | Health
    | Describe
)


class UnitState(msgspec.Struct, frozen=True):
    """A process as the supervisor sees it; `pid` is its number inside the lab, 0 while it has none.

    `state` is running, waiting (it ended and will be started again) or stopped (on purpose).
    """

    name: str
    node: str
    pid: int
    restarts: int
    state: str


class ClusterState(msgspec.Struct, frozen=True):
    """A cluster that the supervisor runs."""

    plan: ClusterPlan
    committed: bool
    units: tuple[UnitState, ...]
    stopped_nodes: tuple[str, ...] = ()


class AgentHealth(msgspec.Struct, frozen=True):
    """What the agent of a node answers: `missing` is empty if it enforces."""

    node: str
    missing: str


class Reply(msgspec.Struct, frozen=True):
    """The answer to every request: an error text, or none and what was asked for."""

    error: str = ""
    clusters: tuple[ClusterState, ...] = ()
    partitions: tuple[tuple[str, str], ...] = ()
    health: tuple[AgentHealth, ...] = ()


_encoder = msgspec.json.Encoder()
_request_decoder = msgspec.json.Decoder(Request)
_reply_decoder = msgspec.json.Decoder(Reply)


def decode_request(data: bytes) -> Request:
    """Raises msgspec.DecodeError."""
    request: Request = _request_decoder.decode(data)
    return request


def encode(message: Request | Reply) -> bytes:
    """Raises ControlError for a message that does not fit a packet."""
    data = _encoder.encode(message)
    if len(data) > MAX_MESSAGE:
        raise ControlError(f"a control message of {len(data)} bytes is too long")
    return data


class Connection:
    """A command's end of the socket, blocking; a context manager."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._socket.close()
            raise NoSupervisor("no lab is running") from error
        except OSError as error:
            self._socket.close()
            raise ControlError(f"cannot reach the lab's supervisor at {path}: {error.strerror or error}") from error

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    @property
    def supervisor_pid(self) -> int:
        """The supervisor's process number as seen from here."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def ask(self, request: Request, *, descriptors: Sequence[int] = ()) -> Reply:
        """Sends a request and returns the answer; raises ControlError."""
        try:
            socket.send_fds(self._socket, [encode(request)], list(descriptors))
            data = self._socket.recv(MAX_MESSAGE)
        except OSError as error:
            raise ControlError(f"the lab's supervisor does not answer: {error.strerror or error}") from error
        if not data:
            raise ControlError("the lab's supervisor went away")
        try:
            reply = _reply_decoder.decode(data)
        except msgspec.DecodeError as error:
            raise ControlError(f"the lab's supervisor gave an answer that makes no sense: {error}") from error
        if reply.error:
            raise ControlError(reply.error)
        return reply
