"""What one call costs by how many objects there are already.

Owns how a store is filled, step by step, and what is asked for: some objects, chosen at random of all there are. Our
client has on its shelf only what was put or read lately, so they are asked for twice: the first time is one figure,
the second another one.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from bench.peer import Candidate, Missing, Peer
from bench.peers import FILE_CONNECTOR, LMDB, OURS, PEERS
from bench.plot import Plot, panel
from bench.rounds import Row, grid, per_item

STEPS = (1000, 10_000, 100_000)
CANDIDATES: dict[str, Candidate] = {name: PEERS[name] for name in (OURS, FILE_CONNECTOR, LMDB)}
_VERBS = ("exists, first time", "exists", "get", "put")
_DRAWN = ("exists", "get", "put")
_CALLS = 500
_SMALL = 1 << 10
_BATCH = 1000
_SETTLES_S = 1.2
"""Until a shelf that has become too small has made way for a larger one: our daemon sees to it once a second."""


def stock(
    place: str, rounds: int, steps: Sequence[int] = STEPS, candidates: Mapping[str, Candidate] = CANDIDATES
) -> list[Row]:
    """Calls on objects of 1 KiB."""
    figures: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        with ExitStack() as stack:
            peers: dict[str, tuple[Peer, list[Any]]] = {}
            for name, candidate in candidates.items():
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="storekeeper-bench-", dir=place))
                try:
                    peers[name] = stack.enter_context(candidate.alone(folder)), []
                except Missing as why:
                    if not number:
                        print(f"{name} is left out: {why}\n", flush=True)
            for objects in steps:
                for peer, keys in peers.values():
                    _fill(peer, keys, objects)
                time.sleep(_SETTLES_S)
                for name, (peer, keys) in peers.items():
                    for verb, took in _took(peer, keys).items():
                        figures.setdefault((_title(verb, objects), name), []).append(took)
    return [
        Row(work, name, "µs", figures[work, name], FILE_CONNECTOR if name != FILE_CONNECTOR else "")
        for work in (_title(verb, objects) for verb in _VERBS for objects in steps)
        for name in candidates
        if (work, name) in figures
    ]


def _title(verb: str, objects: int) -> str:
    return f"{verb}, of {objects:,} objects"


def _fill(peer: Peer, keys: list[Any], objects: int) -> None:
    assert peer.put_batch
    while len(keys) < objects:
        keys += peer.put_batch([os.urandom(_SMALL) for _ in range(min(_BATCH, objects - len(keys)))])


def _took(peer: Peer, keys: list[Any]) -> dict[str, float]:
    """Returns what calls took on average; what is put is evicted, so that there are as many as before."""
    assert peer.exists and peer.evict
    for key in random.choices(keys, k=_CALLS):  # by then our client has its shelf
        peer.exists(key)
    asked = random.choices(keys, k=_CALLS)
    took = {"exists, first time": _each(peer.exists, asked), "exists": _each(peer.exists, asked)}
    _each(peer.get, asked)
    took["get"] = _each(peer.get, asked)
    made: list[Any] = []
    data = [os.urandom(_SMALL) for _ in range(_CALLS)]
    took["put"] = per_item(lambda: made.extend(map(peer.put, data)), _CALLS)
    for key in made:
        peer.evict(key)
    return took


def _each(call: Callable[[Any], Any], keys: list[Any]) -> float:
    return per_item(lambda: [call(key) for key in keys], len(keys))


def shown(rows: Sequence[Row]) -> str:
    """Returns the rows as a table: a column for each number of objects."""
    steps = [objects for objects in STEPS if any(row.work == _title("put", objects) for row in rows)]
    lines = {verb: [_title(verb, objects) for objects in steps] for verb in _VERBS}
    return grid("1 KiB", [f"{objects:,} objects" for objects in steps], lines, rows)


def plot(rows: Sequence[Row]) -> Plot:
    """Returns what a call costs by the number of objects."""
    marks = {float(objects): f"{objects:,}" for objects in STEPS}
    panels = [panel(verb, rows, {at: _title(verb, int(at)) for at in marks}, marks) for verb in _DRAWN]
    return Plot(
        "cost-by-objects", "One call on 1 KiB by how many objects there are, on tmpfs", "objects", "µs a call", panels
    )
