"""What must be said about an object, as the pure parts of the agent put it; `isthmus.agent.policies.telling` says it.

Invariant: a report is made when what is to be said changes, and not each time that it is found again. Rejected: reports
as log lines of the parts that find the problems: they would need a clock, a client, and tests that read logs.
"""

import msgspec

from isthmus.policy.rules import Grade, ObjectRef, Problem


class Report(msgspec.Struct, frozen=True):
    """All problems of an object as it is now (none = they are mended).

    `kept` is the generation that stays in force because this one is invalid, None if nothing is kept; `generation` is
    that of the object. `api_version` is known for policies.
    """

    ref: ObjectRef
    problems: tuple[Problem, ...]
    api_version: str = ""
    generation: int = 0
    kept: int | None = None

    @property
    def grade(self) -> Grade | None:
        """Returns the worst grade among the problems; None without problems."""
        found = {problem.grade for problem in self.problems}
        return next((grade for grade in Grade if grade in found), None)
