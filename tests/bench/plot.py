"""What a plot shows, as plain values: the parts of the benchmark make them, plots.py draws them.

Owns what all axes are labelled with, and the way from rows to lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bench.rounds import Row

Line = list[tuple[float, float]]


class Panel(NamedTuple):
    """One pair of axes, both logarithmic: a line for each candidate, and what stands at the marks below."""

    title: str
    lines: dict[str, Line]
    marks: dict[float, str]


class Plot(NamedTuple):
    """One file of panels side by side, that share what is along their axes."""

    name: str
    title: str
    along: str
    up: str
    panels: Sequence[Panel]


def panel(
    title: str,
    rows: Iterable[Row],
    works: dict[float, str],
    marks: dict[float, str],
    figure: Callable[[float], float] = float,
) -> Panel:
    """Makes a panel of medians: of each candidate those rows whose work is at a place along the axis."""
    places = {work: place for place, work in works.items()}
    lines: dict[str, Line] = {}
    for row in rows:
        if row.work in places:
            lines.setdefault(row.candidate, []).append((places[row.work], figure(row.median)))
    return Panel(title, {who: sorted(line) for who, line in lines.items()}, marks)
