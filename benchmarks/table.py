"""Results as tables: one title, one head, rows of text, and notes on how to read them."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """`rows` may hold numbers: they are shown with three significant digits."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append(cells)

    def __str__(self) -> str:
        """Is a Markdown table, aligned so that it reads well in a terminal too."""
        cells = [list(map(str, self.columns)), *([show(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([f"## {self.title}", "", *lines, *([""] if self.notes else []), *self.notes, ""])


def show(value: object) -> str:
    """Returns a number with three significant digits and thousands separators, anything else as it is."""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def ratio(new: Iterable[float], baseline: Iterable[float]) -> str:
    """Returns the median of the pairwise ratios of two interleaved series, with the quartiles: `0.97 (0.96-0.98)`."""
    pairs = sorted(a / b for a, b in zip(new, baseline, strict=True))
    if len(pairs) < 4:
        return f"{statistics.median(pairs):.2f}"
    low, middle, high = statistics.quantiles(pairs, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def quantile(values: Sequence[float], part: float) -> float:
    """Returns the value below which `part` (0-1) of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
