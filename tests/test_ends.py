"""Objects that end while something else happens to them: what was answered stays true."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Daemon, eventually
from seam import Rig, Setup, quick_folder
from storekeeperd import moments, processes, sight
from storekeeperd.index import Index
from storekeeperd.lifetimes import EXPIRED, Lifetimes
from storekeeperd.lifetimes import PROCESS as PROCESS_ENDED
from storekeeperd.sight import ABSENT

SOON_S = 0.05
OVER_S = 0.08


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with quick_folder(tmp_path) as quick:
        yield quick


@pytest.fixture
def rig(folder: Path) -> Iterator[Rig]:
    rig = start(folder)
    rig.scan()
    yield rig
    rig.close()


def start(folder: Path) -> Rig:
    rig = Rig(folder / "store", Setup(boot=moments.boot()))
    rig.service.keeps_lives = True
    return rig


def turn(rig: Rig) -> None:
    rig.service.turn(moments.now_ms())
    rig.settle()


def later(rig: Rig) -> None:
    for _ in range(3):
        rig.service.evictions.tick()
        turn(rig)


def test_what_is_replaced_while_it_expires_is_there(rig: Rig) -> None:
    rig.put((b"key", b"old"), ttl=SOON_S)
    request = rig.send(b"put", [b"key", b"new"], replace=True)
    time.sleep(OVER_S)
    rig.service.turn(moments.now_ms())  # it expires before its replacement is carried out
    rig.settle()
    assert rig.answer(request, b"put", [], {}).words in ([b"replaced"], [b"created"])
    assert rig.ask(b"get", b"key").payloads == [b"new"]
    later(rig)
    assert rig.ask(b"get", b"key").payloads == [b"new"]


def test_what_is_touched_while_it_expires_lives_on_until_its_new_end(rig: Rig) -> None:
    rig.put((b"key", b"bytes"), ttl=SOON_S)
    request = rig.send(b"touch", [b"key"], ttl=0.5)  # by less than what another boot's calendar may be wrong
    job = rig.service.jobs.popleft()
    rig._carry_out(job)
    time.sleep(OVER_S)
    rig.service.turn(moments.now_ms())
    rig.service.finished(job)
    rig.settle()
    assert rig.answer(request, b"touch", [], {}).words == [b"ok"]
    later(rig)
    assert rig.ask(b"get", b"key").words == [b"ok"]
    time.sleep(0.5)
    later(rig)
    assert rig.ask(b"exists", b"key").words == [b"no"]
    assert not (rig.store / "key").exists()
    assert not rig.service.lifetimes.ended


def test_what_ended_before_the_daemon_knows_of_it_is_not_there_to_any_verb(folder: Path) -> None:
    first = start(folder)
    first.scan()
    first.put(*((b"key%d" % number, b"bytes") for number in range(5)), ttl=SOON_S)
    first.close()
    time.sleep(OVER_S)
    rig = start(folder)
    try:
        assert rig.put((b"key0", b"bytes")).words == [b"created"]
        assert rig.put((b"key1", b"other")).words == [b"created"]
        assert rig.put((b"key2", b"bytes"), durability="disk").words == [b"created"]
        assert rig.ask(b"touch", b"key3", ttl=60).words == [b"absent"]
        assert rig.ask(b"pin", b"key3").words == [b"absent"]
        assert rig.ask(b"get", b"key4").words == [b"absent"]
        rig.scan()
        later(rig)
        there = [rig.ask(b"exists", b"key%d" % number, fresh=True).words[0] for number in range(5)]
        assert there == [b"yes", b"yes", b"yes", b"no", b"no"]
    finally:
        rig.close()


def test_what_is_tied_to_a_process_that_ended_without_a_daemon_is_never_there(folder: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = processes.find(child.pid)
    first = start(folder)
    first.service.outside.identify = lambda _: process
    first.scan()
    first.put((b"key", b"bytes"), (b"pinned", b"bytes"), (b"looked-at", b"bytes"), lifetime="process")
    first.ask(b"pin", b"pinned")
    assert first.ask(b"get", b"key").words == [b"ok"]
    first.close()
    child.kill()
    child.wait()
    rig = start(folder)
    rig.service.outside.lives = processes.lives
    try:
        assert rig.ask(b"get", b"key").words == [b"absent"]
        assert rig.ask(b"exists", b"looked-at").words == [b"no"]
        assert rig.ask(b"get", b"pinned").words == [b"ok"]
        assert rig.put((b"key", b"other")).words == [b"created"]
    finally:
        rig.close()


def test_an_object_that_is_put_where_one_ended_has_an_end_of_its_own(rig: Rig) -> None:
    lifetimes: Lifetimes = rig.service.lifetimes
    for _ in range(3):
        rig.put((b"key", os.urandom(8)), ttl=SOON_S)
        time.sleep(OVER_S)
        rig.service.turn(moments.now_ms())
        assert b"key" in lifetimes.ended
        assert rig.put((b"key", b"next"), ttl=SOON_S).words == [b"created"]
        assert b"key" not in lifetimes.ended
        time.sleep(OVER_S)
        later(rig)
        assert not (rig.store / "key").exists()
    assert not lifetimes.ended


PROCESS = 5 << 22 | 7


def life(*, expires_ms: int = 0, process: int = 0, pinned: bool = False) -> int:
    return sight.of(1, 1000, 1, expires_ms=expires_ms, process=process, pinned=pinned)


def test_ends_that_are_moved_or_of_objects_that_are_gone_leave_little_behind() -> None:
    index = Index()
    lifetimes = Lifetimes(index)
    for number in range(20_000):
        index.assign(b"touched", life(expires_ms=10_000_000 + number))
        name = b"short-lived-%d" % number
        index.assign(name, life(expires_ms=10_000_000, process=PROCESS))
        index.assign(name, ABSENT)
    assert sum(map(len, lifetimes._ends.values())) < 2000
    assert len(lifetimes._noted) == 1
    assert not lifetimes.is_tied(PROCESS)
    assert not lifetimes.expire(10_000_000 + 19_998, 10_000) or not lifetimes.ended
    lifetimes.expire(10_000_000 + 19_999, 10_000)
    assert lifetimes.ended == {b"touched": EXPIRED}


def test_a_process_that_ends_takes_any_number_of_objects_with_it_some_at_a_time() -> None:
    index = Index()
    lifetimes = Lifetimes(index)
    for number in range(5000):
        index.assign(b"key-%d" % number, life(process=PROCESS))
    index.assign(b"pinned", life(process=PROCESS, pinned=True))
    index.assign(b"put-anew", life(process=PROCESS))
    index.assign(b"put-anew", life())
    lifetimes.end_process(PROCESS)
    assert lifetimes.expire(1, 2000) == 2000
    assert len(lifetimes.ended) <= 3000  # the first thousand at once
    while lifetimes.expire(1, 2000):
        pass
    assert len(lifetimes.ended) == 5000
    assert set(lifetimes.ended.values()) == {PROCESS_ENDED}


def test_a_daemon_whose_store_is_away_waits_though_objects_are_due(daemon: Daemon) -> None:
    def busy_s() -> float:
        fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    away = daemon.store.with_name("away")
    with daemon.client() as client:
        client.put(b"bytes", key="key", ttl=0.5)
        daemon.store.rename(away)
        time.sleep(1.2)
        before = busy_s()
        time.sleep(0.5)
        assert busy_s() - before < 0.15
        away.rename(daemon.store)
        eventually(lambda: not (daemon.store / "key").exists())
