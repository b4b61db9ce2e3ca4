"""What runs for long stays as it was: memory, descriptors, connections.

`--minutes` lets a mixed load run for so long; `--clients` is the number of clients that come and go.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

import outsiders
from conftest import Daemon, eventually
from crew import crew, descriptors, memory
from histories import Belief, Call, inexplicable
from mounts import settle
from storekeeper import Client
from workers import SHARED_KEYS

SLACK_BYTES = 8 << 20
SAMPLE_S = 0.5


def flat(samples: list[int], slack: float) -> tuple[float, float]:
    """Returns the medians of the second and of the last third; fails if the last one is greater."""
    third = len(samples) // 3
    second, last = statistics.median(samples[third : 2 * third]), statistics.median(samples[-third:])
    assert last <= second + slack, f"grew from {second} to {last}"
    return second, last


def test_growth_is_told_from_ups_and_downs() -> None:
    assert flat([1, 9, 9, 5, 6, 5, 7, 5, 6], 1) == (5, 6)
    with pytest.raises(AssertionError, match="grew"):
        flat(list(range(90)), 10)


class Churn:
    """Outside processes that change files without end; each ends by itself after a while, and another one begins."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.store, self.outside = daemon.store, daemon.store.parent / "outside"
        self.outside.mkdir()
        self.seed = seed
        self.begin()

    def begin(self) -> None:
        command = [sys.executable, "-I", "-S", outsiders.__file__, "churn", str(self.store), str(self.outside)]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*command, str(self.seed)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def renew(self) -> None:
        if time.monotonic() - self.began > 20:
            self.end()
            self.seed += 1
            self.begin()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(120) == 0


@pytest.mark.timeout(24 * 3600)
def test_memory_and_descriptors_stay_as_they_are_under_a_mixed_load(
    daemon: Daemon, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = request.config.getoption("--minutes")
    if not minutes:
        pytest.skip("a soak takes --minutes")
    churn = Churn(daemon, seed)
    commands = [(kind, daemon.address, f"{kind}{n}", seed) for kind, n in (("own", 0), ("own", 1), ("shared", 0))]
    commands += [("shared", daemon.address, "shared1", seed), ("brief", daemon.address, "brief0", seed)]
    with crew(*commands) as workers:
        watched = {"daemon": daemon.pid} | {
            str(command[2]): member.process.pid for command, member in zip(commands, workers.members, strict=True)
        }
        memories: dict[str, list[int]] = {name: [] for name in watched}
        held: dict[str, list[int]] = {name: [] for name in watched}
        workers.stand()
        workers.go()
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            churn.renew()
            for name, pid in watched.items():
                memories[name].append(memory(pid))
                held[name].append(descriptors(pid))
            assert all(member.process.poll() is None for member in workers.members)
            time.sleep(SAMPLE_S)
        churn.end()
        reports = workers.stand()
        with daemon.client(timeout=60) as client:
            settle(client, daemon.store)
            eventually(lambda: client.status()["connections"] <= len(commands) + 1)
        workers.go()
    calls: Counter[str] = sum((Counter(report["calls"]) for report in reports), Counter())
    with capsys.disabled():
        print(f"\n{minutes} minutes, {calls.total()} calls and short-lived clients: {dict(calls)}")
        for name in watched:
            sizes, counts = memories[name], held[name]
            tenth = max(1, len(sizes) // 10)
            medians = [statistics.median(sizes[n * tenth : (n + 1) * tenth]) / 2**20 for n in range(10)]
            print(f"{name}: MiB by the tenth {' '.join(f'{median:.1f}' for median in medians)}, at most ", end="")
            print(f"{max(sizes) / 2**20:.1f}; {min(counts)} to {max(counts)} descriptors")
    for name in watched:
        # A `shared` worker keeps its history, so that it grows.
        if not name.startswith("shared"):
            flat(memories[name], statistics.median(memories[name]) / 10 + SLACK_BYTES)
        third = len(held[name]) // 3
        second, last = held[name][third : 2 * third], held[name][-third:]
        # Clients in cycles have some until they are collected: of those the most must not grow.
        if name.startswith("brief"):
            assert max(last) <= 2 * max(second), name
        else:
            assert min(last) <= min(second) + 3, name
    for report in reports:
        assert report["now"]["threads"] <= report["first"]["threads"]
    for key in SHARED_KEYS:
        made = [call for report in reports for call in report.get("history", []) if call[2] == key]
        assert not inexplicable(
            (Call(at, to, verb, value, answer) for at, to, _, verb, value, answer in made), Belief.ONCE
        )


def come_and_go(daemon: Daemon, number: int) -> None:
    """Makes a client, uses it, and leaves it in one of the ways in which clients are left."""
    client: Any = daemon.client()
    assert client.exists("k")
    if number % 3 == 0:
        client.close()
    elif number % 3 == 1:
        client.me = client


@pytest.mark.timeout(24 * 3600)
def test_short_lived_clients_leave_nothing(
    daemon: Daemon, client: Client, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    count = request.config.getoption("--clients")
    client.put(b"x", key="k")
    sizes: dict[str, list[int]] = {"daemon": [], "clients": []}
    come_and_go(daemon, 0)
    gc.collect()
    ours, its = len(os.listdir("/proc/self/fd")), daemon.descriptors
    threads = len(os.listdir("/proc/self/task"))
    began = time.monotonic()
    for number in range(count):
        come_and_go(daemon, number)
        if number % max(1, count // 60) == 0:
            gc.collect()
            sizes["daemon"].append(memory(daemon.pid))
            sizes["clients"].append(memory(os.getpid()))
    took_s = time.monotonic() - began
    gc.collect()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= ours)
    eventually(lambda: daemon.descriptors <= its)
    eventually(lambda: client.status()["connections"] == 1)
    assert len(os.listdir("/proc/self/task")) <= threads
    assert client.status()["accepted"] >= count
    told = {}
    for name, samples in sizes.items():
        second, last = flat(samples, statistics.median(samples) / 10 + SLACK_BYTES)
        told[name] = f"{second / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB"
    with capsys.disabled():
        print(f"\n{count} clients in {took_s:.0f} s: {told}")
