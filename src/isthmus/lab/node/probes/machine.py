"""One probe of one run of a container, as a state machine: answers and times go in, verdicts come out. No clock.

The kubelet's rules: a result counts only after as many equal ones in a row as its threshold says; liveness and
readiness wait for the startup probe; a liveness or startup probe that has failed asks nothing more of this run, which
is about to be ended; a startup probe that has succeeded is over.
"""

from enum import Enum

from isthmus.lab.node.pods.container import Probe


class Kind(Enum):
    """Which probe; the value is how events spell it."""

    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"


class Verdict(Enum):
    """What follows from an answer."""

    NOTHING = "nothing"
    READY = "ready"
    UNREADY = "unready"
    STARTED = "started"
    KILL = "kill"


class ProbeMachine:
    """Decides for `probe`; `began` is when the run began, in any clock's seconds that is used throughout.

    `ready` is what is known of readiness already, after a restart of the node.
    """

    def __init__(self, kind: Kind, probe: Probe, *, began: float, ready: bool = False) -> None:
        self._kind = kind
        self._probe = probe
        self._last: bool | None = None
        self._in_a_row = 0
        self._ready = ready
        self.over = False
        """Whether no more answers are needed."""
        self.due = began + max(probe.initialDelaySeconds, 0)
        """When to ask next."""

    def answered(self, ok: bool, *, now: float) -> Verdict:
        """Takes an answer and sets when to ask again."""
        self.due = now + max(self._probe.periodSeconds, 1)
        if ok == self._last:
            self._in_a_row += 1
        else:
            self._last, self._in_a_row = ok, 1
        needed = self._probe.successThreshold if ok else self._probe.failureThreshold
        if self._in_a_row < max(needed, 1):
            return Verdict.NOTHING
        if self._kind is Kind.READINESS:
            if ok == self._ready:
                return Verdict.NOTHING
            self._ready = ok
            return Verdict.READY if ok else Verdict.UNREADY
        if not ok:
            self.over = True
            return Verdict.KILL
        if self._kind is Kind.STARTUP:
            self.over = True
            return Verdict.STARTED
        return Verdict.NOTHING
