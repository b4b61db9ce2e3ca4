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

from bench.bounds import bounds, starts
from bench.commit import durable
from bench.contest import contest, places, standing
from bench.many import evictions, owners
from bench.report import Section, as_json, machine, named, write_into
from bench.rounds import Row, table
from bench.store import verbs
from bench.watch import changes, start
from bench.wire import pipelined


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
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was made is removed

    rounds, of = options.rounds, machine()
    peers: list[tuple[str, Callable[[], list[Row]], Callable[[Sequence[Row]], str]]] = [
        (f"peers, on {where}", partial(contest, place, rounds), partial(standing, where))
        for where, place in places().items()
    ]
    others: list[tuple[str, Callable[[], list[Row]]]] = [
        ("ZeroMQ requests, 4 pipelining DEALERs (window 32)", lambda: pipelined(rounds, options.requests)),
        *((f"verbs on {place}", partial(verbs, folder, rounds)) for place, folder in _places()),
        ("durable puts, on disk", lambda: durable(tempfile.gettempdir(), rounds)),
        ("many users, a full store, on tmpfs", lambda: owners("/dev/shm", options.objects, rounds)),
        ("many users, evictions, on tmpfs", lambda: evictions("/dev/shm", rounds)),
        *(
            (f"many users, first put on a full store, on {place}", partial(starts, folder, options.objects, rounds))
            for place, folder in _places()
        ),
        ("bounds, daemon's CPU per operation, on tmpfs", lambda: bounds("/dev/shm", rounds)),
        ("changes from outside, on tmpfs", lambda: changes("/dev/shm", rounds)),
        ("start on a full store, on tmpfs", lambda: start("/dev/shm", options.objects, rounds)),
    ]
    print(f"{named(of)}\n")
    sections = []
    for title, measured, show in [*peers, *((title, measured, table) for title, measured in others)]:
        if options.only not in title:
            continue
        print(f"## {title}\n", flush=True)
        rows = measured()
        sections.append(Section(title, rows, show(rows)))
        print(sections[-1].shown, flush=True)
    if options.json:
        options.json.write_text(as_json(of, _command(), sections), "utf-8")
    if options.into:
        write_into(options.into, of, _command(), sections)


def _command() -> str:
    """Returns how this run is made again; where its figures went does not matter for that."""
    given = iter(sys.argv[1:])
    kept: list[str] = []
    for word in given:
        if word in ("--json", "--into"):
            next(given)
        elif not word.startswith(("--json=", "--into=")):
            kept.append(word)
    words = " ".join(f'"{word}"' if " " in word else word for word in kept)
    return f"make bench BENCH='{words}'" if kept else "make bench"


def _places() -> list[tuple[str, str]]:
    return [("tmpfs", "/dev/shm"), ("disk", tempfile.gettempdir())]


if __name__ == "__main__":
    main()
