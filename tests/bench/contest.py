"""The contest: our client beside its peers (peers.py), in one interleaved run, held against the goals.

Owns what is done, the rounds, the goals, and the table with what was reached. Ratios are of medians. In every round all
candidates are set up anew and warmed up, and take their turns in another order.

Every candidate has a directory of its own, straight in the place that is measured, and a new one in each round: ext4
looks for free inodes near the directory, and passes over all that were freed in the last minutes, so that much depends
on where it happens to be. For the same reason small objects are evicted when everything else is done.

The largest objects are not for every run: one call of each in a round, not warmed up, and evicted at once, for all
candidates together would fill the memory. They are left out where they have no room.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from bench.peer import Candidate, Missing, Peer
from bench.peers import FILE_CONNECTOR, LMDB, OURS, PEERS, REDIS
from bench.plot import Plot, panel
from bench.rounds import Row, cell, per_item

BATCH = 1000
SIZES = {"100 B": 100, "1 KiB": 1 << 10, "64 KiB": 64 << 10, "1 MiB": 1 << 20, "16 MiB": 16 << 20, "64 MiB": 64 << 20}
LARGEST = {"256 MiB": 256 << 20, "1 GiB": 1 << 30}
_BYTES = SIZES | LARGEST
_ROOM = 10
"""So many times an object's size must be free in memory: clients and servers copy it, and caches keep some of it."""


class Work(NamedTuple):
    """So many calls of an operation, in every round, on objects of one size."""

    verb: str
    size: str
    calls: int

    @property
    def title(self) -> str:
        return f"{self.verb} {self.size}" if "batch" not in self.verb else f"{self.verb} {BATCH:,} × {self.size}, each"

    @property
    def puts(self) -> bool:
        return self.verb.startswith("put") or self.verb == "proxy"


class Goal(NamedTuple):
    """At most so many times what another one takes for a work, his own or another; where: "" for anywhere."""

    title: str
    most: float
    whom: str
    against: str = ""
    where: str = ""


WORK = (
    *(Work(verb, "100 B", 500) for verb in ("put", "get")),
    *(Work(verb, "1 KiB", 500) for verb in ("put", "get", "exists")),
    *(Work(verb, "1 KiB", BATCH) for verb in ("put_batch", "get_batch")),
    *(Work(verb, "64 KiB", 50) for verb in ("put", "get")),
    *(Work(verb, "1 MiB", 16) for verb in ("put", "get")),
    *(Work(verb, "16 MiB", 4) for verb in ("put", "get")),
    *(Work(verb, "64 MiB", 2) for verb in ("put", "get")),
    Work("view", "64 MiB", 20),
    Work("proxy", "1 KiB", 200),
    Work("proxy", "1 MiB", 16),
    Work("evict", "1 KiB", 500),
)
LARGEST_WORK = tuple(Work(verb, size, 1) for size in LARGEST for verb in ("put", "get"))
GOALS = (
    Goal("exists 1 KiB", 0.35, FILE_CONNECTOR),
    Goal("get 1 KiB", 0.25, FILE_CONNECTOR),
    Goal("get 1 KiB", 1.0, LMDB),
    Goal("view 64 MiB", 0.01, FILE_CONNECTOR, "get 64 MiB"),
    Goal("get 64 MiB", 1.0, FILE_CONNECTOR),
    Goal("put 1 KiB", 1.0, FILE_CONNECTOR, where="tmpfs"),
    Goal("put 1 KiB", 0.6, FILE_CONNECTOR, where="disk"),
    Goal("put_batch 1,000 × 1 KiB, each", 0.5, FILE_CONNECTOR),
    Goal("put 64 MiB", 1.05, FILE_CONNECTOR),
    *(Goal(f"{verb} 1 KiB", 0.7, REDIS) for verb in ("put", "get", "exists", "evict")),
)


def places() -> dict[str, str]:
    """Returns the directories that are measured in: in memory, and on a disk."""
    return {"tmpfs": "/dev/shm", "disk": "/" if os.access("/", os.W_OK) else "/var/tmp"}


def contest(
    place: str,
    rounds: int,
    full: bool = False,
    candidates: Mapping[str, Candidate] = PEERS,
    works: Sequence[Work] = WORK,
) -> list[Row]:
    """Measures all work of all peers that can be had; says which cannot."""
    figures: dict[tuple[str, str], list[float]] = {}
    names = list(candidates)
    largest = [size for size in LARGEST if full and _has_room(place, size)]
    for number in range(rounds):
        turn = number * 3 % len(names)
        with ExitStack() as stack:
            peers: dict[str, Peer] = {}
            for name in names[turn:] + names[:turn]:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="storekeeper-bench-", dir=place))
                try:
                    peers[name] = stack.enter_context(candidates[name].alone(folder))
                except Missing as why:
                    if not number:
                        print(f"{name} is left out: {why}\n", flush=True)
            for name, peer in peers.items():
                _warm_up(name, peer, works)
            _round(peers, works, figures)
            for size in largest:
                _largest(peers, size, figures)
    return [
        Row(work.title, name, "µs", figures[work.title, name], FILE_CONNECTOR if name != FILE_CONNECTOR else "")
        for work in (*works, *LARGEST_WORK)
        for name in names
        if (work.title, name) in figures
    ]


def _has_room(place: str, size: str) -> bool:
    """Returns whether objects of a size can be had without harm; says so if not."""
    available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) << 10
    free = os.statvfs(place)
    needed = _ROOM * LARGEST[size]
    if min(available, free.f_bavail * free.f_frsize) >= needed:
        return True
    print(f"objects of {size} are left out: they need {needed >> 20:,} MiB, in memory and in {place}\n", flush=True)
    return False


def _warm_up(name: str, peer: Peer, works: Sequence[Work]) -> None:
    """Lets a peer do everything once, and sees that it keeps what it is given."""
    for size in dict.fromkeys(work.size for work in works):
        data = os.urandom(_BYTES[size])
        if peer.proxy and Work("proxy", size, 0).title in {work.title for work in works}:
            assert peer.proxy(data) == data, f"{name} does not resolve proxies"
        key = peer.put(data)
        assert peer.get(key) == data, f"{name} does not keep what it is given"
        if peer.exists and peer.evict:
            assert peer.exists(key)
            if peer.view:
                assert peer.view(key) == (data[0], data[-1])
            peer.evict(key)
            assert not peer.exists(key)


def _round(peers: dict[str, Peer], works: Sequence[Work], figures: dict[tuple[str, str], list[float]]) -> None:
    """Lets everybody do all work, one after the other; adds what one call, or one item, took."""
    keys: dict[tuple[str, str], list[Any]] = {}
    for work in works:
        data = [os.urandom(_BYTES[work.size]) for _ in range(work.calls)] if work.puts else []
        for name, peer in peers.items():
            call: Callable[[Any], Any] | None = getattr(peer, work.verb)
            if call is None:
                continue
            mine = keys.setdefault((name, "batch" if "batch" in work.verb else work.size), [])
            took = per_item(_work(call, work, data, mine), work.calls)
            figures.setdefault((work.title, name), []).append(took)


def _work(call: Callable[[Any], Any], work: Work, data: Sequence[bytes], keys: list[Any]) -> Callable[[], None]:
    """Returns what is measured; puts add to the keys."""
    match work.verb:
        case "put":
            return lambda: keys.extend(map(call, data))
        case "put_batch":
            return lambda: keys.extend(call(data))
        case "get_batch":
            return lambda: call(keys)
    asked = data if work.puts else keys * (work.calls // len(keys))

    def each() -> None:
        for one in asked:
            call(one)

    return each


def _largest(peers: dict[str, Peer], size: str, figures: dict[tuple[str, str], list[float]]) -> None:
    """Lets everybody who takes an object of this size put it, get it and evict it."""
    data = os.urandom(LARGEST[size])
    for name, peer in peers.items():
        if len(data) <= peer.bytes_max:
            keys: list[Any] = []
            figures.setdefault((f"put {size}", name), []).append(per_item(lambda: keys.append(peer.put(data)), 1))  # noqa: B023
            figures.setdefault((f"get {size}", name), []).append(per_item(lambda: peer.get(keys[0]), 1))  # noqa: B023
            if peer.evict:
                peer.evict(keys[0])


def plot(where: str, rows: Sequence[Row]) -> Plot:
    """Returns what put and get cost by the size of an object."""
    marks = {float(size): name for name, size in _BYTES.items()}
    panels = [panel(verb, rows, {at: f"{verb} {name}" for at, name in marks.items()}, marks) for verb in ("put", "get")]
    return Plot(f"cost-by-size-{where}", f"One call by the size of its object, on {where}", "size", "µs a call", panels)


def standing(where: str, rows: Sequence[Row]) -> str:
    """Returns the rows as one table: a line for each work, medians with their spread, what was reached of the goals."""
    medians = {(row.work, row.candidate): row.median for row in rows}
    names = list(dict.fromkeys(row.candidate for row in rows))
    cells = {(row.work, row.candidate): cell(row) for row in rows}
    lines = [
        f"| {where} | {' | '.join(names)} | ours ÷ {FILE_CONNECTOR} | goals |",
        "|---" * (len(names) + 3) + "|",
    ]
    for title in dict.fromkeys(row.work for row in rows):
        theirs = medians.get((title, FILE_CONNECTOR))
        ratio = _ratio(medians[title, OURS] / theirs) if theirs else ""
        goals = [_verdict(goal, medians) for goal in GOALS if goal.title == title and goal.where in ("", where)]
        line = [title, *(cells.get((title, name), "") for name in names), ratio, "; ".join(goals)]
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines) + "\n"


def _verdict(goal: Goal, medians: dict[tuple[str, str], float]) -> str:
    against = goal.against or goal.title
    what = f"{goal.most:g} × {goal.whom}" + (f"’s {goal.against.split()[0]}" if goal.against else "")
    theirs = medians.get((against, goal.whom))
    if theirs is None:
        return f"{what}: not measured"
    ratio = medians[goal.title, OURS] / theirs
    return f"{what}: {'met' if ratio <= goal.most else '**missed**'} ({_ratio(ratio)})"


def _ratio(number: float) -> str:
    return f"{number:.2f}" if number >= 0.1 else f"{number:.3f}"
