"""How the rate grows with the number of client processes, what the daemon's processor has of it, and who waits.

Owns what each of them does, and how many times: as often as takes all of them some while, judged by what a few take,
for beside calls of a microsecond the start of the last process is long. A figure is the time from the first start to
the last end, divided by the operations of all. Processor is that of the server, by the kernel; ours looks for the next
request for a moment before it waits (`spin_us_max`), and that is in it.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.party import SMALL, Party, Work, party
from bench.peer import Candidate, Missing, Peer
from bench.peers import FILE_CONNECTOR, LMDB, OURS, OURS_NO_SHELF, PEERS, REDIS
from bench.plot import Plot, panel
from bench.processor import ran_ns
from bench.rounds import Row, grid
from bench.servers import storekeeper

CROWDS = (1, 4, 16, 64)
NO_SHELF = storekeeper(shelf=False)
CANDIDATES: dict[str, Candidate] = {
    OURS: PEERS[OURS],
    OURS_NO_SHELF: NO_SHELF,
    **{name: PEERS[name] for name in (FILE_CONNECTOR, LMDB, REDIS)},
}
MIXED = "90 % get, 9 % put, 1 % evict"
_SETTLES_S = 0.02
_WRITERS = 16
_LARGE = 16 << 20
_LARGE_PUTS = 4
_PAUSE_S = 0.0005
_CALLS_MIN = 300
_IDLERS = 4
_IDLE_S = 2.0
_data = os.urandom(SMALL)
_large: list[bytes] = []


def _each(call: Any, keys: list[Any], operations: int) -> None:
    for number in range(operations):
        call(keys[number % len(keys)])


def _put(peer: Peer, _keys: list[Any], operations: int) -> None:
    for _ in range(operations):
        peer.put(_data)


def _mixed(peer: Peer, keys: list[Any], operations: int) -> None:
    assert peer.evict
    get, put, evict = peer.get, peer.put, peer.evict
    for number in random.choices(range(100), k=operations):
        if number < 90:
            get(keys[number % len(keys)])
        elif number < 99:
            keys.append(put(_data))
        elif len(keys) > 1:
            evict(keys.pop())


def _put_large(peer: Peer, _keys: list[Any], operations: int) -> None:
    assert peer.evict
    for _ in range(operations):
        peer.evict(peer.put(_large[0]))


_WORKS: dict[str, Work] = {
    "exists": lambda peer, keys, operations: _each(peer.exists, keys, operations),
    "get": lambda peer, keys, operations: _each(peer.get, keys, operations),
    "put": _put,
    MIXED: _mixed,
}
_LARGE_WORKS: dict[str, Work] = {"put": _put_large}
_FIRST, _TRIES, _OPERATIONS_MAX = 50, 3, 50_000


def clients(
    place: str,
    rounds: int,
    crowds: Sequence[int] = CROWDS,
    candidates: Mapping[str, Candidate] = CANDIDATES,
    seconds: float = 0.3,
) -> list[Row]:
    """Every operation by so many clients at once, for so long."""
    figures: dict[tuple[str, str], list[float]] = {}
    names = list(candidates)
    for number in range(rounds):
        turn = number % len(names)
        for members in crowds:
            for name in names[turn:] + names[:turn]:
                try:
                    found = _crowd(place, members, candidates[name], seconds)
                except Missing as why:
                    if not number and members == crowds[0]:
                        print(f"{name} is left out: {why}\n", flush=True)
                    continue
                for work, figure in found.items():
                    figures.setdefault((work, name), []).append(figure)
    works = [title for verb in _WORKS for members in crowds for title in (_title(verb, members), _cpu(verb, members))]
    return [
        Row(work, name, "µs", figures[work, name], FILE_CONNECTOR if (work, FILE_CONNECTOR) in figures else "")
        for work in works
        for name in names
        if (work, name) in figures
    ]


def _title(verb: str, members: int) -> str:
    return f"{verb}, {members} clients" if members > 1 else f"{verb}, 1 client"


def _cpu(verb: str, members: int) -> str:
    return f"{_title(verb, members)}: server’s CPU"


def _crowd(place: str, members: int, candidate: Candidate, seconds: float) -> dict[str, float]:
    """Returns microseconds per operation of all, and those of the server."""
    found: dict[str, float] = {}
    with _served(place, candidate) as (folder, pid), party(members, candidate, folder, _WORKS) as crowd:
        for verb in _WORKS:
            each = _enough(crowd, verb, seconds)
            time.sleep(_SETTLES_S)
            before_ns = ran_ns(pid) if pid else 0
            found[_title(verb, members)] = crowd.do(verb, each) * 1e6 / (each * members)
            if pid:
                time.sleep(_SETTLES_S)  # what it left for later is its own, too
                found[_cpu(verb, members)] = (ran_ns(pid) - before_ns) / 1000 / (each * members)
    return found


def _enough(crowd: Party, verb: str, seconds: float) -> int:
    """Returns how many operations of each take all of them about so long."""
    each = _FIRST
    for _ in range(_TRIES):
        took_s = crowd.do(verb, each)
        each = min(_OPERATIONS_MAX, max(1, int(each * seconds / took_s)))
        if took_s > seconds / 3:  # much less than that says more of the start than of the operations
            break
    return each


@contextmanager
def _served(place: str, candidate: Candidate) -> Iterator[tuple[str, int | None]]:
    with (
        tempfile.TemporaryDirectory(prefix="storekeeper-bench-", dir=place) as folder,
        candidate.serve(folder) as pid,
    ):
        yield folder, pid


def beside_writers(place: str, rounds: int, writers: int = _WRITERS, puts: int = _LARGE_PUTS) -> list[Row]:
    """What `exists` takes one client while others put large objects, and while nobody does."""
    alone, beside = "exists, p99, nobody else", f"exists, p99, while {writers} clients put 16 MiB"
    figures: dict[tuple[str, str], list[float]] = {}
    _large[:] = [os.urandom(_LARGE)]
    try:
        for _ in range(rounds):
            for name, candidate in {OURS: PEERS[OURS], OURS_NO_SHELF: NO_SHELF}.items():
                with _served(place, candidate) as (folder, _), party(writers, candidate, folder, _LARGE_WORKS) as crowd:
                    with candidate.join(folder) as peer:
                        key = peer.put(_data)
                        figures.setdefault((alone, name), []).append(_p99_us(peer, key, None))
                        crowd.start("put", puts)
                        figures.setdefault((beside, name), []).append(_p99_us(peer, key, crowd))
                    crowd.finish()
    finally:
        _large.clear()
    return [
        Row(work, name, "µs", found, OURS_NO_SHELF if name != OURS_NO_SHELF else "")
        for (work, name), found in sorted(figures.items(), reverse=True)
    ]


def _p99_us(peer: Peer, key: Any, crowd: Party | None) -> float:
    """Returns the p99 of calls with pauses between them, of some, and of as many as there are while others work."""
    assert peer.exists
    for _ in range(30):
        peer.exists(key)
    took: list[float] = []
    deadline_s = time.monotonic() + 60
    while len(took) < _CALLS_MIN or (crowd and crowd.is_busy and time.monotonic() < deadline_s):
        time.sleep(_PAUSE_S)
        started = time.perf_counter()
        peer.exists(key)
        took.append((time.perf_counter() - started) * 1e6)
    return statistics.quantiles(took, n=100)[98]


def idle(place: str, rounds: int, seconds: float = _IDLE_S) -> list[Row]:
    """The daemon's processor while clients are there that want nothing."""
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, candidate in {OURS: PEERS[OURS], OURS_NO_SHELF: NO_SHELF}.items():
            with _served(place, candidate) as (folder, pid), party(_IDLERS, candidate, folder, {}):
                assert pid
                time.sleep(_SETTLES_S * 10)
                before_ns = ran_ns(pid)
                time.sleep(seconds)
                figures.setdefault(name, []).append((ran_ns(pid) - before_ns) / 1e6 / seconds)
    return [Row(f"{_IDLERS} clients idle: daemon’s CPU a second", who, "ms", found) for who, found in figures.items()]


def shown(rows: Sequence[Row]) -> str:
    """Returns the rows as a table: a column for each number of clients."""
    crowds = [members for members in CROWDS if any(row.work == _title("put", members) for row in rows)]
    heads = [f"{members} client{'s' * (members > 1)}" for members in crowds]
    lines = {verb: [_title(verb, members) for members in crowds] for verb in _WORKS}
    lines |= {f"{verb}: server’s CPU": [_cpu(verb, members) for members in crowds] for verb in _WORKS}
    return grid("per operation", heads, lines, rows)


def plot(rows: Sequence[Row]) -> Plot:
    """Returns how many operations a second so many clients come to."""
    marks = {float(members): str(members) for members in CROWDS}
    panels = [
        panel(verb, rows, {at: _title(verb, int(at)) for at in marks}, marks, lambda each_us: 1e6 / each_us)
        for verb in ("exists", "get", "put")
    ]
    return Plot(
        "rate-by-clients", "Operations on 1 KiB, all clients together", "client processes", "operations/s", panels
    )
