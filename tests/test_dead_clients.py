"""Clients are killed in the middle of something: what they held is there for the next one at once.

`--dead-clients` says how often; `--seed` repeats the same choices.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Daemon, eventually
from crew import Member
from mounts import TMPFS, Place, disagreement, needs_mounts, places
from storekeeper import Client
from workers import DEAD, DYING, LARGE_BYTES

LARGE = bytes(range(256)) * (LARGE_BYTES // 256)
CONFIG = """
[limits]
message_bytes_max = 1048576
handles_max = 4
peer_handles_max = 4
list_names = 50
"""


class Nursery:
    """Forks clients, and kills them."""

    def __init__(self, address: str) -> None:
        self._member = Member("nursery", address)

    def born(self, kind: str) -> int:
        """Returns the process id of a new client that does one thing without end."""
        self._member.say(f"{kind}\n".encode())
        return int(self._member.line())

    def killed(self, pid: int) -> None:
        """Kills a client; returns when it is gone, and all its descriptors with it."""
        os.kill(pid, signal.SIGKILL)
        self._member.say()
        assert int(self._member.line()) == -signal.SIGKILL

    def end(self) -> None:
        self._member.end()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path / "c.toml"


def unnamed_files(daemon: Daemon) -> list[str]:
    """Returns the files without a name that a daemon has open: uploads, and objects that were evicted meanwhile."""
    found = []
    for number in os.listdir(f"/proc/{daemon.pid}/fd"):
        try:
            target = os.readlink(f"/proc/{daemon.pid}/fd/{number}")
        except FileNotFoundError:
            continue
        if target.startswith(str(daemon.store)) and target.endswith("(deleted)"):
            found.append(target)
    return found


def nothing_held(daemon: Daemon, client: Client, descriptors: int) -> None:
    eventually(lambda: client.status()["connections"] == 1)
    eventually(lambda: not unnamed_files(daemon))
    eventually(lambda: daemon.descriptors <= descriptors)
    assert list((daemon.store / ".storekeeper" / "tmp").iterdir()) == []


def served(daemon: Daemon) -> None:
    """Sees that a new client gets all it asks for, and at the first time of asking."""
    with daemon.client(timeout=60) as client:
        client.put(LARGE, key="mine", replace=True)
        assert client.get("mine") == LARGE
        names = client.list()
        assert {"large", "small", "mine"} <= set(names)


@pytest.mark.timeout(3600)
def test_what_a_killed_client_held_is_there_for_the_next_one_at_once(
    start_daemon: Callable[..., Daemon],
    config: Path,
    seed: int,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    daemon = start_daemon("--config", str(config))
    chance = random.Random(seed)
    killed: Counter[str] = Counter()
    with daemon.client(timeout=60) as client:
        client.put(LARGE, key="large")
        client.put(b"small", key="small")
        client.put_batch([b"x"] * 600, keys=[f"name-{number}" for number in range(600)])
        served(daemon)
        descriptors = daemon.descriptors
        nursery = Nursery(daemon.address)
        try:
            while killed.total() < request.config.getoption("--dead-clients"):
                kind = chance.choice(list(DYING))
                pid = nursery.born(kind)
                # Most are killed as soon as they are known to be at work, some even before, some later.
                if chance.random() < 0.8:
                    eventually(lambda: client.status()["connections"] > 1)
                time.sleep(chance.random() * chance.choice((0.002, 0.02, 0.1)))
                nursery.killed(pid)
                served(daemon)
                killed[kind] += 1
                if killed.total() % 20 == 0:
                    nothing_held(daemon, client, descriptors)
        finally:
            nursery.end()
        nothing_held(daemon, client, descriptors)
        names = client.list()
        assert not disagreement(client, daemon.store, names)
        for name in names:
            if name.startswith(DEAD):  # whole, or not there
                assert set(client.get(name)) <= {0}
                assert len(client.get(name)) in (20_000, 20 << 20)
    with capsys.disabled():
        print(f"\n{killed.total()} clients killed: {dict(killed)}")
    assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def place() -> Iterator[Place]:
    yield from places(TMPFS)


@needs_mounts
def test_the_space_of_what_killed_clients_uploaded_comes_back_at_once(place: Place) -> None:
    """A file system of 48 MiB, clients that die with up to 20 MiB each, and then one object of 40 MiB."""
    place.store.mkdir()
    place.mounts.mount("tmpfs", place.store, "-o", "size=48m")
    daemon = place.start()
    client = place.client(daemon)
    client.status()
    nursery = Nursery(daemon.address)
    data = bytes(40 << 20)
    free = space(place)
    try:
        for number in range(15):
            pid = nursery.born("upload")
            wanted = free - (1 + number << 20)
            eventually(lambda wanted=wanted: space(place) < wanted, 60)  # type: ignore[misc]
            nursery.killed(pid)
            client.evict(f"{DEAD}upload")
            assert client.put(data, key="all of it") == "all of it"
            assert client.evict("all of it")
    finally:
        nursery.end()
    eventually(lambda: space(place) >= free)


def space(place: Place) -> int:
    """Returns how many bytes are free where the store lies."""
    told = os.statvfs(place.seen(place.store))
    return told.f_bavail * told.f_frsize
