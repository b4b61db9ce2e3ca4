"""Plots of what was measured, as SVG: `--plots DIR`.

Owns how they look, in light and in dark, and that the same figures make the same file: no date, no chance in its names,
letters as letters. matplotlib is imported when it is needed, and not before: who only wants tables does without.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.peers import OURS, OURS_NO_SHELF, PEERS
from bench.plot import Panel, Plot

_LOOK = {
    "svg.hashsalt": "storekeeper",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_NAMES = (OURS, OURS_NO_SHELF, *(name for name in PEERS if name != OURS))
_COLOURS = (
    *("#c1121f", "#e07a5f", "#9c6644", "#1d4e89", "#2a9d8f", "#6a4c93"),
    *("#f4a261", "#00a5cf", "#8ab17d", "#3d3d3d", "#adb5bd"),
)
_MARKERS = "osv^D<>Pphx"


def canvas() -> Any:
    """Imports what draws; says what to install where it is not there."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("plots need matplotlib: pip install -e '.[bench]'") from error
    matplotlib.use("agg")
    return matplotlib


def draw(folder: Path, plots: Iterable[Plot]) -> list[Path]:
    """Writes a file for each plot; returns them."""
    with canvas().rc_context(_LOOK):
        folder.mkdir(parents=True, exist_ok=True)
        return [_draw(folder / f"{plot.name}.svg", plot) for plot in plots]


def _draw(file: Path, plot: Plot) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(plot.panels), figsize=(4.2 * len(plot.panels), 4.4), squeeze=False, sharey=True, layout="constrained"
    )
    shown: dict[str, Any] = {}
    for place, panel in zip(axes[0], plot.panels, strict=True):
        shown |= _panel(place, panel)
        place.set_xlabel(plot.along)
    axes[0][0].set_ylabel(plot.up)
    figure.suptitle(plot.title)
    names = sorted(shown, key=_rank)
    figure.legend([shown[name] for name in names], names, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return file


def _panel(axes: Any, panel: Panel) -> dict[str, Any]:
    """Draws the lines, ours last and widest; returns them by name."""
    from matplotlib.ticker import NullLocator

    axes.set_title(panel.title)
    axes.set_xscale("log")
    axes.set_yscale("log")
    drawn = {}
    for name in sorted(panel.lines, key=_rank, reverse=True):
        at = _rank(name) % len(_COLOURS)
        (drawn[name],) = axes.plot(
            *zip(*panel.lines[name], strict=True),
            color=_COLOURS[at],
            marker=_MARKERS[at % len(_MARKERS)],
            markersize=4,
            linewidth=2.4 if name == OURS else 1.2,
        )
    there = sorted({at for line in panel.lines.values() for at, _ in line})
    labels = [panel.marks[at] for at in there]
    axes.set_xticks(there, labels, rotation=45 if max(map(len, labels), default=0) > 3 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda figure, _at: f"{figure:,.12g}")
    return drawn


def _rank(name: str) -> int:
    """Returns the place of a candidate, the same in all plots: it gives colour and marker."""
    return _NAMES.index(name) if name in _NAMES else len(_NAMES)
