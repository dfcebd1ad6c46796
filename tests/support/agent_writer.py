"""The kernel in memory behind the agent's writer interface."""

from isthmus.ruleset.table import Delta
from isthmus.ruleset.text import replacement, script
from tests.support.fake_kernel import FakeKernel


class FakeWriter:
    """`calls` says what was asked for; set `touched` to pretend that somebody else changed the table."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.calls: list[str] = []
        self.touched = False

    async def replace(self, whole: Delta) -> None:
        self.calls.append("replace")
        self.kernel.run(replacement(whole))
        self.touched = False

    async def apply(self, delta: Delta) -> None:
        self.calls.append("structure" if delta.structural else "elements")
        if delta.structural:
            for step in delta.steps:
                self.kernel.run(script(step))
        else:
            self.kernel.apply(delta.changes)

    async def intact(self) -> bool:
        return not self.touched

    async def present(self) -> bool:
        return self.kernel.exists
