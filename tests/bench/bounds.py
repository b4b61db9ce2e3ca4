"""What all of 'many users' costs where it is configured: processor per operation, and the wait for puts after a start.

Owns the daemons of the same code that are compared, side by side, and what the bounded one is told. Processor is what
all threads of a daemon ran, by the kernel; the clock says little on a machine that others use, too. A third daemon is
like the first: how far those two are apart is noise. Every round has daemons of its own, for two of the same can differ
as long as they live. None looks for the next request before it waits (`spin_us_max`): that would count as work what is
only waiting. Callers are the daemon's own user: what it takes to look up the rights of others is not in it.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.many import fill
from bench.processor import ran_ns
from bench.rounds import Row, take_turns
from conftest import Daemon
from storekeeper import Client

OPERATIONS = 1000
TURNS = 4
PLAIN, AGAIN, BOUNDED = "nothing configured", "nothing, another one", "all bounds"
_DATA = b"x" * 1000
_SETTLES_S = 0.02
_LIMITS = """
[limits]
spin_us_max = 0
"""
_BOUNDS = """
creators = ["1"]

[quota]
bytes_max = 1000000000000
objects_max = 100000000
user_bytes_max = 1000000000000
user_objects_max = 100000000
object_bytes_max = 1000000000
keep_free_bytes = 1000000
keep_free_inodes = 1000

[namespace.default]
bytes_max = 1000000000000
objects_max = 100000000
user_bytes_max = 1000000000000
user_objects_max = 100000000
ttl_s = 86400.0
eviction = "lru"
high_mark = 0.95
low_mark = 0.85
"""
_WORK: dict[str, Callable[[Client, list[str]], object]] = {
    "put": lambda client, keys: [client.put(_DATA, key) for key in keys],
    "exists": lambda client, keys: [client.exists(key) for key in keys],
    "get": lambda client, keys: [client.get(key) for key in keys],
    "get of an absent key": lambda client, keys: [client.get(f"{key}-no") for key in keys],
    "evict": lambda client, keys: [client.evict(key) for key in keys],
    "put_batch, per object": lambda client, keys: client.put_batch([_DATA] * len(keys), keys),
    "get_batch, per object": lambda client, keys: client.get_batch(keys),
    "evict_batch, per object": lambda client, keys: client.evict_batch(keys),
}


def bounds(place: str, rounds: int) -> list[Row]:
    """Processor of the daemon per small operation: with quotas, a ttl, eviction and lives to mind, and without."""
    told = {PLAIN: "", AGAIN: "", BOUNDED: _BOUNDS}
    figures: dict[tuple[str, str], list[float]] = {(work, who): [] for work in _WORK for who in told}
    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            sides = [(who, *stack.enter_context(_started(place, settings))) for who, settings in told.items()]
            sides[-1][2].put(_DATA, "tied", lifetime="process")
            for turn in range(-1, TURNS):  # one more, first, that does not count
                _turn(turn, sides, figures if turn >= 0 else None)
                sides = sides[1:] + sides[:1]
    return [
        Row(f"daemon's CPU, {work}", who, "µs", figures[work, who], PLAIN if who != PLAIN else "", paired=True)
        for work, who in figures
    ]


def _turn(
    number: int, sides: list[tuple[str, Daemon, Client]], figures: dict[tuple[str, str], list[float]] | None
) -> None:
    keys = [f"{number}-{key}" for key in range(OPERATIONS)]
    for work, call in _WORK.items():
        for who, daemon, client in sides:
            before_ns = ran_ns(daemon.pid)
            call(client, keys)
            time.sleep(_SETTLES_S)  # what it left for later is its own, too
            if figures is not None:
                figures[work, who].append((ran_ns(daemon.pid) - before_ns) / 1000 / OPERATIONS)


def starts(place: str, objects: int, rounds: int) -> list[Row]:
    """A daemon started on many objects: how long until the first put is accepted, with a bound and without."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        store = Path(folder) / "store"
        fill(store, objects)
        (Path(folder) / "bounds.toml").write_text("[quota]\nbytes_max = 1000000000000\n")
        bound = ("--config", f"{folder}/bounds.toml")
        _first_put_ms(store)  # founds what the daemon keeps beside the objects
        candidates = {PLAIN: lambda: _first_put_ms(store), "[quota] bytes_max": lambda: _first_put_ms(store, *bound)}
        rows = take_turns(min(rounds, 3), candidates, f"start on {objects:,} objects: first put", "ms", PLAIN)
    looked = [objects / ms * 1000 for ms in rows[1].figures]
    return [*rows, Row("objects looked at, the start included", rows[1].candidate, "/s", looked)]


def _first_put_ms(store: Path, *options: str) -> float:
    """Returns how long after the daemon's process began a put was done that was tried again while it was `busy`."""
    daemon = Daemon(store, f"ipc://{store.parent}/s", "--log-level", "error", *options)
    began = time.perf_counter()
    daemon.launch()
    try:
        daemon.wait()
        with daemon.client(timeout=600) as client:
            client.put(_DATA, "first")  # the client tries again, every 20 ms
            took_ms = (time.perf_counter() - began) * 1000
            client.evict("first")
        daemon.stop()
    finally:
        daemon.end()
    return took_ms


@contextlib.contextmanager
def _started(place: str, settings: str) -> Iterator[tuple[Daemon, Client]]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        config = Path(folder) / "config.toml"
        config.write_text(settings + _LIMITS)
        daemon = Daemon(Path(folder) / "store", f"ipc://{folder}/s", "--config", str(config), "--log-level", "error")
        try:
            with daemon.start().client(timeout=120, shelf=False) as client:
                yield daemon, client
        finally:
            daemon.end()
