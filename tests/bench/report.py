"""Owns where figures go when they were measured: JSON, and a Markdown file that keeps a place for them.

Whatever is kept names the machine and the command, for figures of two machines cannot be compared.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.peers import versions
from bench.rounds import Row

_BEGIN, _END = "<!-- figures, written by `make bench`: not by hand -->", "<!-- end of the figures -->"


class Section(NamedTuple):
    """One part of the benchmark: its figures, and how they are shown."""

    title: str
    rows: Sequence[Row]
    shown: str


def machine() -> dict[str, str | int | float]:
    """Returns what the figures depend on; the load is that of others, if this comes first."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "load": round(os.getloadavg()[0], 1),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "peers": versions(),
    }


def named(of: dict[str, str | int | float]) -> str:
    """Returns a machine as a line."""
    return "{processor} ({machine}, {cores} cores, load {load} before), {kernel}, Python {python}; {peers}".format(**of)


def as_json(of: dict[str, str | int | float], command: str, sections: Sequence[Section]) -> str:
    """Returns all figures, of every round, as a JSON document."""
    rows = [
        {"section": section.title, **row._asdict(), "median": row.median}
        for section in sections
        for row in section.rows
    ]
    return json.dumps({"machine": of, "command": command, "rows": rows}, indent=1, ensure_ascii=False) + "\n"


def write_into(file: Path, of: dict[str, str | int | float], command: str, sections: Sequence[Section]) -> None:
    """Replaces what a Markdown file has between its marks by these figures; a file without them is left alone."""
    before, begin, rest = file.read_text("utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{file} has no place for figures: {_BEGIN} … {_END}")
    tables = "\n".join(section.shown for section in sections)
    figures = f"Measured by `{command}` on {named(of)}.\n\n{tables}"
    file.write_text(f"{before}{begin}\n{figures}{end}{after}", "utf-8")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"
