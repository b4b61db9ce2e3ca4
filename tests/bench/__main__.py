"""`make bench`: what the store costs, beside what it is measured against, in one interleaved run.

Machines are noisy: every figure is the median of rounds in which all candidates take their turn, with the spread
beside it; compare within one run only. CPU per request is what noise moves least. What is measured on disk is
measured in TMPDIR; best a folder that little was made in.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

from bench.bounds import bounds, starts
from bench.commit import durable
from bench.many import evictions, owners
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
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()

    rows: list[Row] = []
    print(f"{platform.machine()}, {_processor()}, {platform.release()}, Python {platform.python_version()}\n")
    for title, measured in (
        ("ZeroMQ requests, 4 pipelining DEALERs (window 32)", lambda: pipelined(options.rounds, options.requests)),
        *((f"verbs on {place}", lambda folder=folder: verbs(folder, options.rounds)) for place, folder in _places()),
        ("durable puts, on disk", lambda: durable(tempfile.gettempdir(), options.rounds)),
        ("many users, a full store, on tmpfs", lambda: owners("/dev/shm", options.objects, options.rounds)),
        ("many users, evictions, on tmpfs", lambda: evictions("/dev/shm", options.rounds)),
        *(
            (
                f"many users, first put on a full store, on {place}",
                lambda folder=folder: starts(folder, options.objects, options.rounds),
            )
            for place, folder in _places()
        ),
        ("bounds, daemon's CPU per operation, on tmpfs", lambda: bounds("/dev/shm", options.rounds)),
        ("changes from outside, on tmpfs", lambda: changes("/dev/shm", options.rounds)),
        ("start on a full store, on tmpfs", lambda: start("/dev/shm", options.objects, options.rounds)),
    ):
        if options.only not in title:
            continue
        print(f"## {title}\n", flush=True)
        new = measured()
        print(table(new), flush=True)
        rows += new
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))


def _places() -> list[tuple[str, str]]:
    return [("tmpfs", "/dev/shm"), ("disk", tempfile.gettempdir())]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


if __name__ == "__main__":
    sys.exit(main())
