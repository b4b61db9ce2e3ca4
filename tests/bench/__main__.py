"""`make bench`: what the store costs, beside what it is measured against, in one interleaved run.

Machines are noisy: every figure is the median of rounds in which all candidates take their turn, with the spread
beside it; compare within one run only. CPU per request is what noise moves least. What is measured on disk is
measured in TMPDIR; best a folder that little was made in.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import clients, contest, plots, stock
from bench.bounds import bounds, starts
from bench.commit import durable
from bench.many import evictions, owners
from bench.plot import Plot
from bench.report import Section, as_json, machine, named, write_into
from bench.rounds import Row, table
from bench.store import verbs
from bench.watch import changes, start
from bench.wire import pipelined


class Part(NamedTuple):
    """What is measured under one title, and how it is shown; the plot is None for what says enough as a table."""

    title: str
    measure: Callable[[], list[Row]]
    show: Callable[[list[Row]], str] = table
    plot: Callable[[Sequence[Row]], Plot] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each candidate once in each (default 5)")
    parser.add_argument("--requests", type=int, default=20_000, help="pipelined requests per client and round")
    parser.add_argument("--objects", type=int, default=1_000_000, help="objects of the store that is started on")
    parser.add_argument("--only", default="", help="run only the parts whose title has this in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too, as JSON")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="and the tables into this Markdown file, at its marks"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the figures of the peers, as SVG, there")
    parser.add_argument("--full", action="store_true", help="peers also with objects of 256 MiB and 1 GiB, on tmpfs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was made is removed
    if options.plots:
        plots.canvas()  # if it is missing that is known before anything is measured

    of = machine()
    print(f"{named(of)}\n")
    sections: list[Section] = []
    drawn: list[Plot] = []
    for part in _parts(options):
        if options.only not in part.title:
            continue
        print(f"## {part.title}\n", flush=True)
        rows = part.measure()
        sections.append(Section(part.title, rows, part.show(rows)))
        print(sections[-1].shown, flush=True)
        if part.plot:
            drawn.append(part.plot(rows))
    if options.json:
        options.json.write_text(as_json(of, _command(), sections), "utf-8")
    if options.into:
        write_into(options.into, of, _command(), sections)
    if options.plots:
        plots.draw(options.plots, drawn)


def _parts(options: argparse.Namespace) -> list[Part]:
    rounds, objects = options.rounds, options.objects
    return [
        *(
            Part(
                f"peers, on {where}",
                partial(contest.contest, place, rounds, options.full and where == "tmpfs"),
                partial(contest.standing, where),
                partial(contest.plot, where),
            )
            for where, place in contest.places().items()
        ),
        Part(
            "peers by number of clients, on tmpfs",
            lambda: clients.clients("/dev/shm", rounds),
            clients.shown,
            clients.plot,
        ),
        Part(
            "peers by number of objects, on tmpfs",
            lambda: stock.stock("/dev/shm", min(rounds, 3)),
            stock.shown,
            stock.plot,
        ),
        Part("clients beside writers, on tmpfs", lambda: clients.beside_writers("/dev/shm", rounds)),
        Part("clients that are idle, on tmpfs", lambda: clients.idle("/dev/shm", rounds)),
        Part("ZeroMQ requests, 4 pipelining DEALERs (window 32)", lambda: pipelined(rounds, options.requests)),
        *(Part(f"verbs on {place}", partial(verbs, folder, rounds)) for place, folder in _places()),
        Part("durable puts, on disk", lambda: durable(tempfile.gettempdir(), rounds)),
        Part("many users, a full store, on tmpfs", lambda: owners("/dev/shm", objects, rounds)),
        Part("many users, evictions, on tmpfs", lambda: evictions("/dev/shm", rounds)),
        *(
            Part(f"many users, first put on a full store, on {place}", partial(starts, folder, objects, rounds))
            for place, folder in _places()
        ),
        Part("bounds, daemon's CPU per operation, on tmpfs", lambda: bounds("/dev/shm", rounds)),
        Part("changes from outside, on tmpfs", lambda: changes("/dev/shm", rounds)),
        Part("start on a full store, on tmpfs", lambda: start("/dev/shm", objects, rounds)),
    ]


def _command() -> str:
    """Returns how this run is made again; where its figures went does not matter for that."""
    given = iter(sys.argv[1:])
    kept: list[str] = []
    for word in given:
        if word in ("--json", "--into", "--plots"):
            next(given)
        elif not word.startswith(("--json=", "--into=", "--plots=")):
            kept.append(word)
    words = " ".join(f'"{word}"' if " " in word else word for word in kept)
    return f"make bench BENCH='{words}'" if kept else "make bench"


def _places() -> list[tuple[str, str]]:
    return [("tmpfs", "/dev/shm"), ("disk", tempfile.gettempdir())]


if __name__ == "__main__":
    main()
