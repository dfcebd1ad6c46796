"""A version of a policy object that an earlier run of the agent kept, read anew. Pure.

It is used only in the place of a later version: a file that names as the last valid version what the API server calls
invalid, or something newer than that, is not believed. Rejected: comparing contents with what the object's managed
fields say of its past, which tell who wrote a field and not what was in it.
"""

from collections.abc import Mapping

from isthmus.agent.policies.kept import unpack
from isthmus.policy.context import Context
from isthmus.policy.metadata import generation
from isthmus.policy.parsing import read
from isthmus.policy.rules import Grade, Problem


class EarlierVersion:
    """The object of a pack, and what reading it gives today."""

    def __init__(self, packed: bytes, context: Context) -> None:
        self.source = unpack(packed)
        self.parsed = read(self.source, context)

    def fault(self, latest: Mapping[str, object]) -> Problem | None:
        """Returns why it cannot be in force instead of the latest version; None if it can."""
        before, now = self.parsed.generation, generation(latest)
        if now < before or (now == before and version_of(latest) == version_of(self.source)):
            reason = f"is no earlier one than {now}"
        elif not self.parsed.valid:
            worst = next(problem for problem in self.parsed.problems if problem.grade is Grade.INVALID)
            reason = f"is not valid now: {worst}"
        else:
            return None
        return Problem(
            "metadata.generation",
            f"generation {before}, which was in force before the agent was started anew, {reason}",
            Grade.WARNING,
        )


def version_of(obj: Mapping[str, object]) -> str:
    """Returns the resourceVersion, "" if there is none."""
    metadata = obj.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
    return version if isinstance(version, str) else ""
