"""What a node knows of its containers: small values, written to disk at each change, so that a killed node resumes."""

from enum import Enum

import msgspec


class Ended(msgspec.Struct, frozen=True):
    """How a run of a container ended; times are seconds since the epoch."""

    exit_code: int
    started_at: float
    finished_at: float
    reason: str = ""
    message: str = ""
    container_id: str = ""


class Process(msgspec.Struct, frozen=True):
    """The process that watches over a container (its shim): number and start time, which no successor shares."""

    pid: int
    start_time: int


class Waiting(Enum):
    """Why a container does not run, in the API's words."""

    CREATING = "ContainerCreating"
    INITIALIZING = "PodInitializing"
    BACK_OFF = "CrashLoopBackOff"
    PULL_ERROR = "ErrImagePull"
    PULL_BACK_OFF = "ImagePullBackOff"
    CONFIG_ERROR = "CreateContainerConfigError"


class Record(msgspec.Struct, frozen=True):
    """One container of a pod.

    `attempt` counts runs from 1 and names their files. It runs if `process` is set; it is over if `ended` is set; it
    waits otherwise, for the reason in `waiting`. `failures` counts for the back-off, `not_before` (seconds since the
    epoch) is when the next run may begin.
    """

    name: str
    attempt: int = 0
    process: Process | None = None
    started_at: float = 0.0
    ready: bool = False
    ended: Ended | None = None
    before: Ended | None = None
    waiting: Waiting = Waiting.CREATING
    message: str = ""
    failures: int = 0
    not_before: float = 0.0

    @property
    def running(self) -> bool:
        """Whether a process of it exists."""
        return self.process is not None

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(self.attempt - 1, 0)


class SandboxRecord(msgspec.Struct, frozen=True):
    """A pod on this node."""

    uid: str
    namespace: str
    name: str
    ip: str
    link: str = ""
    """The node's end of the pod's veth pair; empty with hostNetwork."""
    containers: dict[str, Record] = {}
