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
    """A container's first process: number and start time, which no successor shares."""

    pid: int
    start_time: int


class Waiting(Enum):
    """Why a container does not run, in the API's words."""

    CREATING = "ContainerCreating"
    INITIALIZING = "PodInitializing"
    BACK_OFF = "CrashLoopBackOff"
    PULL_ERROR = "ErrImagePull"
    PULL_BACK_OFF = "ImagePullBackOff"
    NEVER_PULL = "ErrImageNeverPull"
    INVALID_IMAGE = "InvalidImageName"
    CONFIG_ERROR = "CreateContainerConfigError"
    RUN_ERROR = "RunContainerError"


class Record(msgspec.Struct, frozen=True):
    """One container of a pod.

    `attempt` counts runs from 1 and names their files. It runs if `process` is set; it is over if `ended` is set; it
    waits otherwise, for the reason in `waiting`. `started` is set when the startup probe has passed (at once without
    one), `ready` when it may be sent traffic. `failures` counts for the back-off, `not_before` (seconds since the
    epoch) is when the next run may begin.
    """

    name: str
    attempt: int = 0
    process: Process | None = None
    started_at: float = 0.0
    started: bool = False
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
    ip6: str = ""
    link: str = ""
    """The node's end of the pod's veth pair; empty with hostNetwork."""
    begun_at: float = 0.0
    """When this node took the pod on, seconds since the epoch."""
    failure: tuple[str, str] = ("", "")
    """(reason, message) of a pod that was ended by its node."""
    infra: Process | None = None
    """The first process of a shared process namespace."""
    containers: dict[str, Record] = {}
