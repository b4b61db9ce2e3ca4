"""Readers of shelves against writers, a daemon that is killed and stopped, and stops of their own: see shelf_racers.py.

`--shelf-seconds` says for how long; `--seed` repeats the same choices.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shelf_racers
from conftest import Daemon

pytestmark = pytest.mark.usefixtures("by_plain_socket")

READERS = 3


class Race:
    """Writers and readers on one daemon, until `end`."""

    def __init__(self, address: str, path: Path, seed: int) -> None:
        self.board = shelf_racers.new_board(path)
        roles = [("write", part) for part in range(shelf_racers.WRITERS)] + [("read", part) for part in range(READERS)]
        self.processes = {
            role: subprocess.Popen(
                [sys.executable, shelf_racers.__file__, role[0], address, path, str(seed * 100 + place), str(role[1])],
                stdout=subprocess.PIPE,
                text=True,
            )
            for place, role in enumerate(roles)
        }

    def stop_one(self, chance: random.Random, for_s: float) -> None:
        """Stops a reader for a while, wherever it is."""
        process = self.processes["read", chance.randrange(READERS)]
        process.send_signal(signal.SIGSTOP)
        time.sleep(for_s)
        process.send_signal(signal.SIGCONT)

    def end(self) -> list[dict[str, Any]]:
        """Lets them end; returns what each has to say."""
        self.board.words[0] = 1
        told = []
        for role, process in self.processes.items():
            said, _ = process.communicate(timeout=90)
            assert process.returncode == 0, role
            told.append(json.loads(said))
        return told

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self.board.words.release()
        self.board.memory.close()


Trouble = Callable[[Daemon, Race, random.Random], None]


def nothing(_: Daemon, __: Race, chance: random.Random) -> None:
    time.sleep(0.1)


def kills(daemon: Daemon, _: Race, chance: random.Random) -> None:
    time.sleep(0.2 + chance.random() * 0.5)
    daemon.kill()
    daemon.start()


def stops(daemon: Daemon, race: Race, chance: random.Random) -> None:
    time.sleep(chance.random() * 0.2)
    race.stop_one(chance, chance.random() * 0.5)
    os.kill(daemon.pid, signal.SIGSTOP)
    time.sleep(chance.random() * 0.3)
    os.kill(daemon.pid, signal.SIGCONT)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("trouble", [nothing, kills, stops])
def test_nobody_reads_wrong_bytes_or_what_is_gone_whatever_happens(
    daemon: Daemon,
    tmp_path: Path,
    seed: int,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    trouble: Trouble,
) -> None:
    chance = random.Random(seed)
    seconds = request.config.getoption("--shelf-seconds")
    race = Race(daemon.address, tmp_path / "board", seed)
    times = 0
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            trouble(daemon, race, chance)
            times += 1
        told = race.end()
    finally:
        race.close()
    readers = [one for one in told if one["what"] == "read"]
    writes = sum(one["done"] for one in told if one["what"] == "write")
    reads, hits = (sum(one[what] for one in readers) for what in ("reads", "hits"))
    with capsys.disabled():
        print(f"\n{trouble.__name__} {times} times: {writes} writes, {reads} reads, {hits} of them hits of a shelf")
    assert [wrong for one in readers for wrong in one["wrong"]] == []
    assert hits > 0
