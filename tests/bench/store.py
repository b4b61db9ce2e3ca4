"""The verbs through `Client`, beside ProxyStore's FileConnector on the same file system."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from proxystore.connectors.file import FileConnector

from bench.rounds import Row, per_item
from conftest import Daemon
from storekeeper import Client

SMALL = 1024
LARGE = 64 << 20
CALLS = 300
BATCH = 1000


def verbs(place: str, rounds: int) -> list[Row]:
    """Single calls, batches and a large object."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        daemon = Daemon(Path(folder) / "store", f"ipc://{folder}/s", "--log-level", "error").start()
        try:
            with daemon.client(timeout=120) as client:
                return _verbs(client, FileConnector(f"{folder}/files"), rounds)
        finally:
            daemon.end()


def _verbs(client: Client, files: Any, rounds: int) -> list[Row]:
    small = [os.urandom(SMALL) for _ in range(CALLS)]
    many = [os.urandom(SMALL) for _ in range(BATCH)]
    large = os.urandom(LARGE)
    ours, theirs = "storekeeper", "FileConnector"
    state: dict[str, Any] = {}

    def put(store: Any, name: str) -> float:
        state[name] = []
        return per_item(lambda: state[name].extend(store.put(data) for data in small), CALLS)

    def put_batch(store: Any, name: str) -> float:
        return per_item(lambda: state.__setitem__(name + "batch", store.put_batch(many)), BATCH)

    def put_large(store: Any, name: str) -> float:
        return per_item(lambda: state.__setitem__(name + "large", store.put(large)), 1000)

    def get_large(store: Any, name: str) -> float:
        took = per_item(lambda: store.get(state[name + "large"]), 1000)
        store.evict(state[name + "large"])
        return took

    def each(store: Any, name: str, verb: str, keys: str = "") -> float:
        call = getattr(store, verb)
        return per_item(lambda: [call(key) for key in state[name + keys]], len(state[name + keys]))

    work = [
        ("put 1 KiB", "µs", put),
        ("exists", "µs", lambda s, n: each(s, n, "exists")),
        ("get 1 KiB", "µs", lambda s, n: each(s, n, "get")),
        ("evict", "µs", lambda s, n: each(s, n, "evict")),
        ("put_batch 1,000 × 1 KiB, each", "µs", put_batch),
        ("get_batch 1,000 × 1 KiB, each", "µs", lambda s, n: per_item(lambda: s.get_batch(state[n + "batch"]), BATCH)),
    ]
    rows: list[Row] = []
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for title, _unit, measure in work:
            for name, store in ((theirs, files), (ours, client)):
                figures.setdefault((title, name), []).append(measure(store, name))
        client.evict_batch(state[ours + "batch"])
    for title, unit, _ in work:
        rows += [
            Row(title, name, unit, figures[title, name], theirs if name == ours else "") for name in (theirs, ours)
        ]
    for _ in range(min(rounds, 3)):
        for title, measure in (("put 64 MiB", put_large), ("get 64 MiB", get_large)):
            for name, store in ((theirs, files), (ours, client)):
                figures.setdefault((title, name), []).append(measure(store, name))
    for title in ("put 64 MiB", "get 64 MiB"):
        rows += [
            Row(title, name, "ms", figures[title, name], theirs if name == ours else "") for name in (theirs, ours)
        ]
    return rows
