"""What the watch is worth: how soon and how exactly outside changes are known; what a large store costs at start.

Every run ends with a comparison of what the daemon says and what the directory holds; a difference is a failure.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.rounds import Row, take_turns
from conftest import Daemon
from storekeeper import Client
from storekeeper.lines import somebody_listens

OUTSIDE = Path(__file__).with_name("outside.py")
FRESH_LOOKS = 12_000
STOPPED_CHANGES = 50_000
RATE = 50_000
RATE_SECONDS = 5


@contextmanager
def _daemon(place: str) -> Iterator[tuple[Daemon, Client]]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        daemon = Daemon(Path(folder) / "store", f"ipc://{folder}/s", "--log-level", "error").start()
        try:
            with daemon.client(timeout=120) as client:
                yield daemon, client
        finally:
            daemon.end()


def _outside(store: Path, work: str, *numbers: int, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(OUTSIDE), str(store), work, *map(str, numbers)]
    return subprocess.Popen(command, text=True, **options)


def _keys(store: Path) -> list[str]:
    return sorted(name for name in os.listdir(store) if name[0] != ".")


def _until_known(client: Client, keys: list[str]) -> float:
    """Returns the seconds until all the daemon says equals the directory."""
    started = time.perf_counter()
    while not client.status()["coherent"] or client.list() != keys or client.usage()["objects"] != len(keys):
        if time.perf_counter() - started > 60:
            raise SystemExit("the index never became what the directory is")
        time.sleep(0.01)
    return time.perf_counter() - started


def changes(place: str, rounds: int) -> list[Row]:
    """One file; bursts; a daemon that is stopped meanwhile; a steady stream; answers that must be fresh."""
    ours = "storekeeper"
    rows: list[Row] = []
    with _daemon(place) as (daemon, client):
        rows += take_turns(4 * rounds, {ours: lambda: _removed(daemon, client)}, "rm until exists says no", "ms")
        rows += take_turns(4 * rounds, {ours: lambda: _moved_in(daemon, client)}, "mv in until it says yes", "ms")
    quiet = min(rounds, 3)
    rows += take_turns(quiet, {ours: lambda: _burst(place)}, "200,000 created, 100,000 deleted: all known after", "ms")
    rows += take_turns(quiet, {ours: lambda: _stopped(place)}, "50,000 changes while stopped: all known after", "ms")
    with _daemon(place) as (daemon, client):
        lags: list[float] = []
        reached = [_stream(daemon, client, lags) for _ in range(quiet)]
        rows.append(Row("outside changes sustained", ours, "/s", reached))
        rows.append(Row("greatest lag meanwhile, by second", ours, "ms", lags))
        rows.append(Row(f"fresh answers wrong, of {FRESH_LOOKS:,}", ours, "", [_fresh(daemon, client)]))
    return rows


def _removed(daemon: Daemon, client: Client) -> float:
    client.put(b"bytes", key="k")
    started = time.perf_counter()
    (daemon.store / "k").unlink()
    while client.exists("k"):
        pass
    return (time.perf_counter() - started) * 1000


def _moved_in(daemon: Daemon, client: Client) -> float:
    outside = daemon.store.parent / "outside"
    outside.write_bytes(b"bytes")
    started = time.perf_counter()
    outside.rename(daemon.store / "m")
    while not client.exists("m"):
        pass
    took = (time.perf_counter() - started) * 1000
    client.evict("m")
    return took


def _burst(place: str) -> float:
    with _daemon(place) as (daemon, client):
        _outside(daemon.store, "burst", 200_000, 100_000).wait()
        return _until_known(client, _keys(daemon.store)) * 1000


def _stopped(place: str) -> float:
    with _daemon(place) as (daemon, client):
        os.kill(daemon.pid, signal.SIGSTOP)
        _outside(daemon.store, "burst", STOPPED_CHANGES * 2 // 3, STOPPED_CHANGES // 3).wait()
        keys = _keys(daemon.store)
        os.kill(daemon.pid, signal.SIGCONT)
        return _until_known(client, keys) * 1000


def _stream(daemon: Daemon, client: Client, lags: list[float]) -> float:
    with _outside(daemon.store, "churn", RATE, RATE_SECONDS, stdout=subprocess.PIPE) as outside:
        for _ in range(RATE_SECONDS):
            time.sleep(1)
            lags.append(client.status()["lag_ms"])
        assert outside.stdout is not None
        reached = float(outside.stdout.read())
    _until_known(client, _keys(daemon.store))
    for name in os.listdir(daemon.store):
        if name.startswith("churn"):
            (daemon.store / name).unlink()
    return reached


def _fresh(daemon: Daemon, client: Client) -> float:
    """Returns how many of so many fresh answers, asked the moment a change was made elsewhere, were wrong."""
    wrong = 0
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 1}
    with _outside(daemon.store, "steps", FRESH_LOOKS, **pipes) as outside:
        assert outside.stdin is not None
        assert outside.stdout is not None
        for number in range(FRESH_LOOKS):
            outside.stdin.write("\n")
            outside.stdin.flush()
            key, there = outside.stdout.readline().split()
            if number % 3:
                wrong += client.exists(key, fresh=True) != (there == "yes")
            else:
                wrong += (key in client.list("step-", fresh=True)) != (there == "yes")
    return wrong


def start(place: str, objects: int, rounds: int) -> list[Row]:
    """A daemon started on many objects, beside os.scandir of their directory."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        store = Path(folder) / "store"
        store.mkdir()
        _outside(store, "burst", objects, 0).wait()
        figures: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, figure in _start(folder, store, objects).items():
                figures.setdefault(name, []).append(figure)
    scan, ours = "os.scandir", "storekeeper"
    work = f"{objects:,} objects"
    return [
        Row(f"{work}: complete index", scan, "ms", figures["scandir"]),
        Row(f"{work}: complete index", ours, "ms", figures["complete"], scan),
        Row(f"{work}: first answer", ours, "ms", figures["first"]),
        Row(f"{work}: exists during the scan, p99", ours, "ms", figures["p99"]),
        Row(f"{work}: resident memory per object", ours, "B", figures["memory"]),
        Row(f"{work}: the same, all sizes known and all listed", ours, "B", figures["memory sized"]),
    ]


def _start(folder: str, store: Path, objects: int) -> dict[str, float]:
    clock: Callable[[], float] = time.perf_counter
    began = clock()
    with os.scandir(store) as entries:
        for _ in entries:
            pass
    scandir = clock() - began
    daemon = Daemon(store, f"ipc://{folder}/s", "--log-level", "error")
    key = f"burst-{objects // 2:030d}"
    latencies: list[float] = []
    began = clock()
    with open(os.devnull, "w") as log:
        command = [sys.executable, "-m", "storekeeperd", "serve", str(store), "--address", daemon.address]
        daemon.process = subprocess.Popen([*command, *daemon.options], stderr=log)
    try:
        while not somebody_listens(daemon.address):
            time.sleep(0.002)
        with daemon.client() as client:
            assert client.exists(key)
            first = clock() - began
            while not client.status()["coherent"]:
                for _ in range(10):
                    asked = clock()
                    client.exists(key)
                    latencies.append(clock() - asked)
                    time.sleep(0.002)
            complete = clock() - began
            resident = _resident_bytes(daemon.pid)
            told = client.usage(fresh=True)
            known = (told["objects"], told["bytes"], told["objects_not_sized"])
            if known != (objects, 0, 0) or len(client.list()) != objects:
                raise SystemExit(f"{told} is known of {objects} empty objects")
            resident_sized = _resident_bytes(daemon.pid)
    finally:
        daemon.stop()
    latencies.sort()
    return {
        "scandir": scandir * 1000,
        "first": first * 1000,
        "complete": complete * 1000,
        "p99": latencies[int(len(latencies) * 0.99)] * 1000,
        "memory": resident / objects,
        "memory sized": resident_sized / objects,
    }


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
