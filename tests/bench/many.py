"""What many users cost: sums and listings over a large store of many owners, and what others wait for evictions."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from bench.rounds import Row
from conftest import Daemon
from storekeeper import Client
from storekeeperd import checksums, moments
from storekeeperd.metadata import ATTRIBUTE, Metadata

OWNERS = 50
EVICTED = 10_000
_DATA = b"x" * 100


def owners(place: str, objects: int, rounds: int) -> list[Row]:
    """A store of so many objects of 50 users: `usage`, and listings that are filtered, sorted and paged."""
    rows = []
    with tempfile.TemporaryDirectory(dir=place) as folder:
        store = Path(folder) / "store"
        fill(store, objects)
        daemon = Daemon(store, f"ipc://{folder}/s", "--log-level", "error").start()
        try:
            with daemon.client(timeout=600) as client:
                client.usage(fresh=True)  # all are looked at
                kinds: dict[str, Callable[[], object]] = {
                    "usage": client.usage,
                    "usage by user": lambda: client.usage(by="user"),
                    "list_info, first 100 by name": lambda: client.list_info(limit=100),
                    "list_info, largest 100": lambda: client.list_info(sort="size", reverse=True, limit=100),
                    "list_info, oldest 100 of one user": lambda: client.list_info(
                        owner=1007, sort="created", limit=100
                    ),
                    "list_info, a page of 1,000 by name": lambda: client.list_info(after="8", limit=1000),
                }
                for kind, ask in kinds.items():
                    figures = [_ms(ask) for _ in range(4 * rounds)]
                    rows.append(Row(f"{kind}, {objects:,} objects", "storekeeper", "ms", figures))
        finally:
            daemon.end()
    return rows


def evictions(place: str, rounds: int) -> list[Row]:
    """What another client waits for `get` and `exists` while 10,000 objects are evicted to make room."""
    figures: dict[str, list[float]] = {"idle": [], "beside evictions": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            config = Path(folder) / "config.toml"
            bound = EVICTED * 5 // 4
            config.write_text(f'[namespace.lru]\nobjects_max = {bound}\neviction = "lru"\nlow_mark = 0.2\n')
            address = f"ipc://{folder}/s"
            daemon = Daemon(Path(folder) / "store", address, "--config", str(config), "--log-level", "error").start()
            try:
                with daemon.client() as client, Client(address, "lru") as full:
                    client.put(_DATA, key="k")
                    full.put_batch([_DATA] * (bound * 19 // 20 - 1))
                    figures["idle"].append(_p99(client, lambda: False, 2000))
                    full.put(_DATA)  # the high mark
                    done = lambda: client.status()["evictions"].get("room", 0) < EVICTED * 9 // 10  # noqa: E731
                    figures["beside evictions"].append(_p99(client, done, 0))
            finally:
                daemon.end()
    work = f"p99 of get and exists, {EVICTED:,} evictions"
    return [Row(work, name, "ms", found, "idle" if name != "idle" else "") for name, found in figures.items()]


def _p99(client: Client, goes_on: Callable[[], bool], least: int) -> float:
    """Returns the p99 of calls in milliseconds, of `least` calls, and as long as it goes on."""
    took: list[float] = []
    while len(took) < least or goes_on():
        for call in (client.get, client.exists):
            took += [_ms(lambda call=call: call("k")) for _ in range(10)]  # type: ignore[misc]
    return statistics.quantiles(took, n=100)[98]


def _ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def fill(store: Path, objects: int) -> None:
    """Makes objects as a daemon does, of 50 users, each a second older than the one before."""
    store.mkdir()
    now_us, boot, moment = time.time_ns() // 1000, moments.boot(), moments.now_ns()
    folder = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(objects):
        file = os.open(str(uuid.uuid4()), os.O_WRONLY | os.O_CREAT, 0o400, dir_fd=folder)
        data = _DATA[: 1 + number % 100]
        os.write(file, data)
        kept = Metadata(1000 + number % OWNERS, now_us - number * 1_000_000, boot, moment, checksums.of(data), False)
        os.setxattr(file, ATTRIBUTE, kept.pack())
        os.close(file)
    os.close(folder)
