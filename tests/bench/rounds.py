"""Rounds and rows: candidates take turns, medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table: what was done, by whom, and its figures over the rounds.

    With `paired` its ratio is the median of those of each round, with their middle half beside it.
    """

    work: str
    candidate: str
    unit: str
    figures: list[float]
    against: str = ""
    paired: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.figures)


def take_turns(
    rounds: int, candidates: dict[str, Callable[[], float]], work: str, unit: str, against: str = ""
) -> list[Row]:
    """Measures every candidate once per round; each returns a figure of `unit`."""
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            figures[name].append(measure())
    return [Row(work, name, unit, figures[name], against if name != against else "") for name in candidates]


def per_item(work: Callable[[], object], items: int) -> float:
    """Returns microseconds per item of one call."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / items * 1e6


def table(rows: list[Row]) -> str:
    """Returns the rows as a Markdown table, with the ratio to the row each is measured against."""
    found = {(row.work, row.candidate): row for row in rows}
    lines = ["| work | who | median | spread | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = f"{_ratio(row, found[row.work, row.against])} × {row.against}" if row.against else ""
        spread = f"{min(row.figures):,.1f}–{max(row.figures):,.1f}"
        lines.append(f"| {row.work} | {row.candidate} | {row.median:,.1f} {row.unit} | {spread} | {ratio} |")
    return "\n".join(lines) + "\n"


def _ratio(row: Row, other: Row) -> str:
    if not row.paired:
        return f"{row.median / other.median:.2f}"
    ratios = [mine / theirs for mine, theirs in zip(row.figures, other.figures, strict=True)]
    low, middle, high = statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else ratios * 3
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def cell(row: Row) -> str:
    """Returns a median in microseconds and its spread, in a unit that suits it."""
    unit, by = ("µs", 1.0) if row.median < 1e3 else ("ms", 1e3) if row.median < 1e6 else ("s", 1e6)
    low, high = min(row.figures) / by, max(row.figures) / by
    return f"{_short(row.median / by)} {unit} ({_short(low)}–{_short(high)})"


def _short(number: float) -> str:
    """Returns a number to three significant digits, or to two places."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def grid(what: str, heads: Sequence[str], lines: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> str:
    """Returns microseconds as a table: a line for each name and candidate, a column for each work of that name."""
    cells = {(row.work, row.candidate): cell(row) for row in rows}
    told = [f"| {what} | who | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for name, works in lines.items():
        for who in dict.fromkeys(row.candidate for row in rows if row.work in works):
            told.append(f"| {name} | {who} | {' | '.join(cells.get((work, who), '') for work in works)} |")
    return "\n".join(told) + "\n"
