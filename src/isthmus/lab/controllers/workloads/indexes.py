"""Completion indexes as the API writes them: `0-2,5,7-9`."""

from collections.abc import Iterable

MOST = 100_000
"""Indexes of a Job (the API's own limit for Jobs whose failures are counted per index)."""


def parse(text: str) -> set[int]:
    """Returns the indexes; parts that make no sense are left out."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            low, high = int(first), int(last or first)
            if high - low < MOST:
                found.update(range(low, high + 1))
    return found


def spell(indexes: Iterable[int]) -> str:
    """Returns the shortest text for indexes."""
    runs: list[list[int]] = []
    for index in sorted(set(indexes)):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    # Two in a row are written as a list, three and more as a range, as upstream does.
    return ",".join(
        str(low) if low == high else f"{low},{high}" if high == low + 1 else f"{low}-{high}" for low, high in runs
    )
