"""The one thread that writes to the kernel.

A netlink write blocks until the kernel has committed, so it must not happen on the event loop; and libnftables and the
element writer belong to the thread that made them. Element changes alone go as raw netlink (tens of microseconds);
anything with structure in it goes as text: what is new first, then what leads there. Of what is new, nothing leads
there yet: so many elements of new sets follow the text of those as netlink, in several transactions.

Invariant: after an error the content of the kernel is unknown, and only `replace` may follow. The table is left as it
is when the process ends, however it ends (fail static).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import msgspec
import structlog

from isthmus.kernel.elements import ElementWriter, in_transactions
from isthmus.kernel.errors import KernelError
from isthmus.kernel.memory import trim
from isthmus.kernel.nftables import Nft
from isthmus.kernel.probe import CONSTRUCTS, SERVICE_CONSTRUCTS, missing, probe
from isthmus.ruleset.layout import BASE
from isthmus.ruleset.table import Delta
from isthmus.ruleset.text import removal, replacement, script

FEW = 32
"""Elements of new sets that go with the text of these: more of them are faster by netlink."""
MOST_KEPT = 1 << 16
"""Clients of a family whose backend is still known after the table was written anew; more would delay that."""

T = TypeVar("T")
_log = structlog.get_logger()


class UnfitKernel(Exception):
    """The kernel lacks what the ruleset needs; the message lists what, a line each."""


class KernelWriter:
    """Writes table `inet isthmus` in the network namespace of the process; an async context manager."""

    def __init__(self, *, services: bool = False) -> None:
        """`services` says that the table will hold chains of theirs, which the kernel must be able to."""
        self._services = services
        self._hooked: frozenset[str] = frozenset()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="nftables")
        self._nft: Nft | None = None
        self._elements: ElementWriter | None = None
        self._signature: tuple[bytes, ...] = ()
        self._checked = -1  # the generation at which the table was last found as we left it

    async def __aenter__(self) -> "KernelWriter":
        await self._run(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._run(self._close)
        self._pool.shutdown()

    def _open(self) -> None:
        try:
            self._nft = Nft()
            self._elements = ElementWriter()
        except KernelError as error:
            raise UnfitKernel(str(error)) from error
        wanted = CONSTRUCTS + SERVICE_CONSTRUCTS if self._services else CONSTRUCTS
        lacking = missing(probe(self._nft, constructs=wanted))
        if lacking:
            raise UnfitKernel("\n".join(lacking))

    def _close(self) -> None:
        for part in (self._elements, self._nft):
            if part is not None:
                part.close()

    @property
    def _opened(self) -> tuple[Nft, ElementWriter]:
        if self._nft is None or self._elements is None:
            raise KernelError("the kernel writer is not open")
        return self._nft, self._elements

    async def replace(self, whole: Delta) -> None:
        """Puts `whole` in the place of whatever the table holds, in one transaction. Raises KernelError.

        Only what the packet path remembers of clients is taken over.
        """
        await self._run(lambda: self._replace(whole))

    def _replace(self, whole: Delta) -> None:
        nft, elements = self._opened
        kept = [elements.remembered(spec, most=MOST_KEPT) for spec in whole.new_sets if spec.room]
        nft.run(replacement(whole, kept))
        trim()  # the text of a whole table, and what nft made of it: 3 MB for an agent of a small cluster
        self._hooked = frozenset(chain.name for chain in whole.new_chains if chain.hook)
        self._signature = self._read_base()

    async def apply(self, delta: Delta) -> None:
        """Makes the changes of `delta`, with no moment of anything but before and after. Raises KernelError.

        After an error `replace` must follow.
        """
        await self._run(lambda: self._apply(delta))

    def _apply(self, delta: Delta) -> None:
        nft, elements = self._opened
        if not delta.structural:
            elements.apply(delta.changes)
            return
        steps = delta.steps
        for step in steps:
            filling = step.changes if len(steps) > 1 and step is steps[0] else ()
            if sum(len(change.add) for change in filling) <= FEW:
                nft.run(script(step))
                continue
            nft.run(script(msgspec.structs.replace(step, changes=())))
            for group in in_transactions(filling):
                elements.apply(group)
        hooked = self._hooked.difference(delta.dead_chains) | {one.name for one in delta.new_chains if one.hook}
        if delta.changed_chains or hooked != self._hooked:
            self._hooked = hooked
            self._signature = self._read_base()

    async def intact(self) -> bool:
        """Tells whether the base chains are as we left them: someone may have flushed the ruleset.

        Next to nothing where nobody, this program included, has committed anything since the last time.
        """
        return await self._run(self._intact)

    def _intact(self) -> bool:
        generation = self._opened[1].generation()
        if generation == self._checked:
            return True
        well = self._read_base() == self._signature != ()
        self._checked = generation if well else -1
        return well

    async def present(self) -> bool:
        """Tells whether a table of ours (of an earlier run) is in the kernel."""
        return await self._run(lambda: self._opened[1].chain(BASE) != b"")

    def _read_base(self) -> tuple[bytes, ...]:
        """Returns what the kernel holds of the chains that are hooked; empty if one is not there, or none is known."""
        told = tuple(self._opened[1].chain(name) for name in sorted(self._hooked))
        return told if all(told) else ()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def remove_table() -> None:
    """Removes the table from the kernel, whether it is there or not. Raises KernelError."""
    with Nft() as nft:
        nft.run(removal())
