"""The daemon is killed at any moment, under clients that never stop: nothing acknowledged is lost, no call fails.

`--kills` says how often; `--seed` repeats the same load (the kernel's part of the chance stays its own).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Daemon, eventually
from crew import HANG_S, crew
from histories import Belief, Call, inexplicable
from mounts import contents, disagreement
from storekeeper import Client, StorekeeperError
from storekeeper.directory import directory_client
from workers import SHARED_KEYS, digest, tag_of

BELIEVED = Belief.PUT_AGAIN
"""What must explain the answers on shared keys: what the README says of calls that are made again, and no more."""

CHECK_EVERY = 5
"""Kills between two times at which everything is looked at."""

Moments = list[tuple[int, int]]


def kill_and_start(daemon: Daemon, chance: random.Random) -> Moments:
    """Kills a daemon a moment from now and starts the next one; kills that too, now and then, while it is starting.

    Returns:
        When each kill was, at the earliest and the latest.
    """
    moments = []
    time.sleep(chance.random() * chance.choice((0.05, 0.5, 1.0)))
    for _ in range(chance.choice((1, 1, 1, 2))):
        began = time.monotonic_ns()
        daemon.kill()
        moments.append((began, time.monotonic_ns()))
        daemon.launch()
        time.sleep(chance.random() * 0.3)
    if len(moments) == 2:
        began = time.monotonic_ns()
        daemon.kill()
        moments.append((began, time.monotonic_ns()))
        daemon.start()
    else:
        daemon.wait()
    return moments


def kill_often(daemon: Daemon, kills: int, chance: random.Random, between: Callable[[], None]) -> Moments:
    """Kills a daemon so many times, and has everything looked at now and then, and at the end."""
    moments: Moments = []
    looked = 0
    while len(moments) < kills:
        moments += kill_and_start(daemon, chance)
        if len(moments) - looked >= CHECK_EVERY or len(moments) >= kills:
            looked = len(moments)
            time.sleep(chance.random() * 0.3)
            between()
    return moments


def nothing_else_is_left(daemon: Daemon) -> None:
    """Sees that a running daemon's folders have nothing in them that it does not need."""
    assert sorted(path.name for path in (daemon.store / ".storekeeper").iterdir()) == [
        "address",
        "lock",
        "store",
        "tmp",
    ]
    eventually(lambda: not list((daemon.store / ".storekeeper" / "tmp").iterdir()))
    beside = {path.name for path in daemon.store.parent.iterdir()}
    assert beside == {"store", "store.log", "store.socket", "store.socket.lock"}


def held_no_more(reports: list[dict[str, Any]]) -> None:
    """Sees that no client has more descriptors or threads than before the first kill, but for a shelf."""
    for report in reports:
        first, now = report["first"], report["now"]
        assert now["descriptors"] <= first["descriptors"] + 1, (first, now)  # its shelf
        assert now["threads"] <= first["threads"], (first, now)


@pytest.mark.timeout(6 * 3600)
def test_a_daemon_killed_at_any_moment_loses_nothing_acknowledged_and_no_call_fails(
    daemon: Daemon, client: Client, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = request.config.getoption("--kills")
    reports: list[dict[str, Any]] = []

    def look() -> None:
        reports[:] = workers.stand()
        ledger = {key: there for report in reports for key, there in report["ledger"].items()}
        expected = {key: there for key, there in ledger.items() if there is not None}
        found = {key: digest(data) for key, data in contents(daemon.store).items()}
        assert found == expected, {key for key in {*found, *expected} if found.get(key) != expected.get(key)}
        assert not disagreement(client, daemon.store, ledger, fresh=False)
        assert not disagreement(client, daemon.store, ledger)
        nothing_else_is_left(daemon)
        workers.go()

    client.status()
    with crew(*(("own", daemon.address, f"c{number}", seed) for number in range(3))) as workers:
        look()
        moments = kill_often(daemon, kills, random.Random(seed), look)
    calls = sum((Counter(report["calls"]) for report in reports), Counter())
    again = sum(report["false_evicts"] for report in reports)
    with capsys.disabled():
        print(f"\n{len(moments)} kills, {calls.total()} calls, {again} evicts said False of what they removed: {calls}")
    held_no_more(reports)
    assert again <= 3 * 8 * len(moments)
    assert daemon.stop() == 0
    assert not Path(daemon.address.removeprefix("ipc://")).exists()


@pytest.mark.timeout(6 * 3600)
def test_what_several_clients_do_to_the_same_keys_is_explained_over_any_kills(
    daemon: Daemon, client: Client, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = request.config.getoption("--kills")
    reports: list[dict[str, Any]] = []

    def look() -> None:
        nonlocal reports
        reports = workers.stand()
        finals.append({key: final(key) for key in SHARED_KEYS})
        assert not disagreement(client, daemon.store, SHARED_KEYS)
        nothing_else_is_left(daemon)
        workers.go()

    def final(key: str) -> Call:
        """Reads a key while nobody changes it."""
        invoked = time.monotonic_ns()
        found = client.get(key)
        return Call(invoked, time.monotonic_ns(), "get", None if found is None else tag_of(found), True)

    finals: list[dict[str, Call]] = []
    client.status()
    with crew(*(("shared", daemon.address, f"c{number}", seed) for number in range(4))) as workers:
        look()
        moments = kill_often(daemon, kills, random.Random(seed), look)
    made = [call for report in reports for call in report["history"]]
    judged = dict.fromkeys(Belief, 0)
    wrong: list[Call] = []
    for key in SHARED_KEYS:
        calls = [
            Call(invoked, returned, verb, value, answer, killed_under(moments, invoked, returned))
            for invoked, returned, on, verb, value, answer in made
            if on == key
        ]
        calls += [told[key] for told in finals]
        for belief in Belief:
            bad = inexplicable(calls, belief)
            judged[belief] += len(bad)
            wrong += bad if belief == BELIEVED else []
    under = sum(killed_under(moments, invoked, returned) for invoked, returned, *_ in made)
    with capsys.disabled():
        print(f"\n{len(moments)} kills, {len(made)} calls on {len(SHARED_KEYS)} keys, {under} with a kill under them")
        print(", ".join(f"{belief.name} does not explain {count}" for belief, count in judged.items()))
    assert not wrong, wrong[:5]
    held_no_more(reports)
    assert daemon.stop() == 0


@pytest.mark.timeout(6 * 3600)
def test_a_daemon_that_its_clients_start_is_started_again_by_them_and_only_once(
    tmp_path: Path, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = request.config.getoption("--kills")
    chance = random.Random(seed)
    store = tmp_path / "store"
    owners: set[int] = set()
    with crew(*(("own", store, f"c{number}", seed) for number in range(3))) as workers:
        try:
            while len(owners) < kills:
                workers.stand()  # each has had an answer, so that none is starting a daemon
                workers.go()
                time.sleep(chance.random() * chance.choice((0.05, 0.5, 1.0)))
                owners.add(killed_owner(store))
            reports = workers.stand()
            with directory_client(store) as client:
                ledger = {key: there for report in reports for key, there in report["ledger"].items()}
                expected = {key: there for key, there in ledger.items() if there is not None}
                assert {key: digest(data) for key, data in contents(store).items()} == expected
                assert not disagreement(client, store, ledger)
                assert client.status()["pid"] == int(owner(store))
            eventually(lambda: daemons_of(store) == {int(owner(store))})
            assert list((store / ".storekeeper" / "tmp").iterdir()) == []
        finally:
            if owner(store):
                killed_owner(store)
    eventually(lambda: not daemons_of(store))
    calls: Counter[str] = sum((Counter(report["calls"]) for report in reports), Counter())
    with capsys.disabled():
        print(f"\n{len(owners)} daemons killed that clients had started, {calls.total()} calls")
    held_no_more(reports)


def test_a_daemon_killed_while_a_client_starts_it_is_started_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    failures: list[BaseException] = []
    with directory_client(store) as client:

        def put() -> None:
            try:
                client.put(b"bytes", key="k")
            except StorekeeperError as error:
                failures.append(error)

        thread = threading.Thread(target=put)
        thread.start()
        try:
            killed_owner(store)
        finally:
            thread.join(HANG_S)
            if not failures:
                killed_owner(store)
    assert not failures, failures


def owner(store: Path) -> str:
    """Returns the process id of the daemon that owns a store, empty if none does."""
    try:
        words = (store / ".storekeeper" / "lock").read_text().split()
    except OSError:
        return ""
    return words[1] if words[:1] == ["pid"] else ""


def daemons_of(store: Path) -> set[int]:
    """Returns the process ids of all daemons of a store."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in words and os.fsencode(store) in words and b"/bin/sh" not in words:
            found.add(int(folder.name))
    return found


def killed_owner(store: Path) -> int:
    """Kills the daemon that owns a store, as soon as there is one that lives; returns its process id."""
    deadline = time.monotonic() + HANG_S
    while True:
        assert time.monotonic() < deadline, "no daemon came up"
        pid = owner(store)
        if pid and int(pid) in daemons_of(store):
            os.kill(int(pid), signal.SIGKILL)
            return int(pid)
        time.sleep(0.005)


def killed_under(moments: Moments, invoked: int, returned: int) -> bool:
    """Whether a daemon was killed between two moments."""
    return any(invoked < ended and began < returned for began, ended in moments)
