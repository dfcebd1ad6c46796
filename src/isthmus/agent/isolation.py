"""Finds the gates that the kernel refuses, so that one policy cannot keep all others from being enforced.

A transaction is refused as a whole. When writing the whole table is refused again and again, the gates that nft names
(or, where it names none, those that were never accepted) are shut: their pods get nothing through them, which is how a
policy that cannot be enforced must fail. What turns out to be innocent is opened again. Invariants: the kernel only
ever holds tables in which every policy is enforced or shut; if shutting does not help, nothing stays shut.
Rejected: leaving the policy out, which would open the pods that it isolates.
"""

import re
from collections.abc import Iterable
from typing import Protocol

from isthmus.kernel.errors import KernelError
from isthmus.ruleset.compiler import Compiler
from isthmus.ruleset.table import Delta

_GATE = re.compile(r"\b(?:in|eg)_[0-9a-f]{12}")
_SHOWN = 400  # characters of a refused line: the name comes first, and then, perhaps, a million elements


class Writer(Protocol):
    """The part of the agent's writer that is needed."""

    async def replace(self, whole: Delta) -> None:
        """Puts `whole` in the place of everything. Raises KernelError."""

    async def apply(self, delta: Delta) -> None:
        """Makes a change. Raises KernelError."""


class Isolation:
    """The gates of one compiler, and what the kernel said of them."""

    def __init__(self, compiler: Compiler, writer: Writer) -> None:
        self._compiler = compiler
        self._writer = writer
        self._good: frozenset[str] = frozenset()
        self.reasons: dict[str, str] = {}
        """Why gates are shut, by name."""

    def accepted(self, gates: frozenset[str]) -> None:
        """Notes that the kernel holds `gates`."""
        shut = self._compiler.shut
        self._good = gates - shut.keys()
        self.reasons = {name: reason for name, reason in self.reasons.items() if name in shut}

    def reopen(self) -> None:
        """Opens every gate, to try it again."""
        for name in self._compiler.shut:
            self._compiler.open_gate(name)

    async def replace(self, error: KernelError, *, everything: bool) -> None:
        """Writes the whole table, which was refused with `error`, with as few gates shut as it takes.

        `everything` says to suspect, at last, also gates that were accepted before: they are shut for a moment.
        Raises KernelError, with no more gates shut than before, if that is not what the kernel minds.
        """
        before = set(self._compiler.shut)
        named: dict[str, str] = {}
        while culprits := [name for name in _named(error) if self._open(name)]:
            named.update(dict.fromkeys(culprits, str(error)[:_SHOWN]))
            self._shut(culprits)
            refusal = await self._try_whole()
            if refusal is None:
                self.reasons |= named
                return
            error = refusal
        for suspects in (self._compiler.gates - self._good, self._compiler.gates if everything else ()):
            group = list(filter(self._open, suspects))
            self._shut(group)
            if group and await self._try_whole() is None:
                self.reasons |= named
                await self._release(group)
                return
        for name in set(self._compiler.shut) - before:
            self._compiler.open_gate(name)
        raise error

    async def _release(self, names: Iterable[str]) -> None:
        """Opens gates one after another; those that the kernel refuses stay shut."""
        for name in names:
            self._compiler.open_gate(name)
            try:
                await self._writer.apply(self._compiler.table.take_delta())
            except KernelError as error:
                self.reasons[name] = str(error)[:_SHOWN]
                self._shut([name])
                await self._write_whole()

    def _open(self, name: str) -> bool:
        return name in self._compiler.gates and name not in self._compiler.shut

    def _shut(self, names: Iterable[str]) -> None:
        for name in names:
            self._compiler.shut_gate(name)

    async def _try_whole(self) -> KernelError | None:
        try:
            await self._write_whole()
        except KernelError as error:
            return error
        return None

    async def _write_whole(self) -> None:
        whole = self._compiler.table.whole()
        self._compiler.table.forget_journal()
        await self._writer.replace(whole)


def _named(error: KernelError) -> list[str]:
    return list(dict.fromkeys(_GATE.findall(f"{error.subject[:_SHOWN]} {str(error)[:_SHOWN]}")))
