"""lifetimes.py: when objects end of themselves."""

from __future__ import annotations

import random
from typing import Any

import pytest

from storekeeperd import sight
from storekeeperd.index import Index
from storekeeperd.lifetimes import EXPIRED, NEVER, PROCESS, Lifetimes

P1, P2 = 5 << 22 | 11, 6 << 22 | 12


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def lifetimes(index: Index) -> Lifetimes:
    return Lifetimes(index)


def of(**life: Any) -> int:
    return sight.of(1, 1000, 0, **life)


def test_what_does_not_end_is_not_noted(index: Index, lifetimes: Lifetimes) -> None:
    index.assign(b"k", of())
    index.confirm([b"scanned"])
    assert lifetimes.alarm_ms == NEVER
    assert lifetimes.expire(1 << 43, 100) == 0
    assert lifetimes.ended == {}
    assert lifetimes.begun == []


def test_an_object_ends_at_its_moment(index: Index, lifetimes: Lifetimes) -> None:
    index.assign(b"k", of(expires_ms=100))
    index.assign(b"a/k", of(expires_ms=90))
    assert lifetimes.alarm_ms == 90
    assert lifetimes.expire(89, 10) == 0
    assert lifetimes.expire(99, 10) == 1
    assert lifetimes.ended == {b"a/k": EXPIRED}
    assert lifetimes.alarm_ms == 100
    lifetimes.expire(100, 10)
    assert list(lifetimes.fresh) == [b"a/k", b"k"]
    assert lifetimes.alarm_ms == NEVER


def test_an_end_that_was_moved_counts_as_it_is_now(index: Index, lifetimes: Lifetimes) -> None:
    index.assign(b"later", of(expires_ms=100))
    index.assign(b"later", of(expires_ms=200))
    index.assign(b"sooner", of(expires_ms=300))
    index.assign(b"sooner", of(expires_ms=50))
    index.assign(b"never", of(expires_ms=100))
    index.assign(b"never", of())
    index.assign(b"gone", of(expires_ms=100))
    index.assign(b"gone", sight.ABSENT)
    index.assign(b"pinned", of(expires_ms=100))
    index.assign(b"pinned", of(expires_ms=100, pinned=True))
    lifetimes.expire(100, 100)
    assert list(lifetimes.ended) == [b"sooner"]
    lifetimes.expire(1000, 100)
    assert list(lifetimes.ended) == [b"sooner", b"later"]


def test_an_end_that_went_back_and_forth_is_noted_again(index: Index, lifetimes: Lifetimes) -> None:
    for expires_ms in (100, 200, 100):
        index.assign(b"k", of(expires_ms=expires_ms))
    lifetimes.expire(100, 100)
    assert list(lifetimes.ended) == [b"k"]


def test_what_is_unpinned_ends_when_it_should_have(index: Index, lifetimes: Lifetimes) -> None:
    index.assign(b"k", of(expires_ms=100))
    index.assign(b"k", of(expires_ms=100, pinned=True))
    lifetimes.expire(150, 100)
    assert lifetimes.ended == {}
    index.assign(b"k", of(expires_ms=100))
    lifetimes.expire(150, 100)
    assert lifetimes.ended == {b"k": EXPIRED}


def test_only_so_many_notes_are_read_at_once(index: Index, lifetimes: Lifetimes) -> None:
    for number in range(10):
        index.assign(b"%d" % number, of(expires_ms=100))
        index.assign(b"a/%d" % number, of(expires_ms=100))
    assert lifetimes.expire(100, 15) == 15
    assert len(lifetimes.ended) == 15
    assert lifetimes.expire(100, 15) == 5
    assert len(lifetimes.ended) == 20


def test_an_object_ends_with_its_process(index: Index, lifetimes: Lifetimes) -> None:
    index.assign(b"one", of(process=P1))
    index.assign(b"a/one", of(process=P1))
    index.assign(b"two", of(process=P2))
    assert lifetimes.begun == [P1, P2]
    lifetimes.end_process(P1)
    assert lifetimes.ended == {b"one": PROCESS, b"a/one": PROCESS}
    assert sorted(lifetimes.fresh) == [b"a/one", b"one"]
    lifetimes.end_process(P1)
    assert len(lifetimes.fresh) == 2


def test_what_is_tied_to_another_process_by_now_stays(index: Index, lifetimes: Lifetimes) -> None:
    for name, now in ((b"other", of(process=P2)), (b"none", of()), (b"gone", sight.ABSENT), (b"pin", 0)):
        index.assign(name, of(process=P1))
        index.assign(name, now or of(process=P1, pinned=True))
    lifetimes.end_process(P1)
    assert lifetimes.ended == {}


def test_who_puts_after_the_end_of_a_process_is_seen_to_again(index: Index, lifetimes: Lifetimes) -> None:
    index.assign(b"k", of(process=P1))
    lifetimes.begun.clear()
    lifetimes.end_process(P1)
    index.assign(b"l", of(process=P1))
    assert lifetimes.begun == [P1]


def test_a_process_is_tied_as_long_as_an_object_is(index: Index, lifetimes: Lifetimes) -> None:
    assert not lifetimes.is_tied(P1)
    index.assign(b"k", of(process=P1))
    index.assign(b"l", of(process=P1))
    assert lifetimes.is_tied(P1)
    index.assign(b"k", sight.ABSENT)
    index.assign(b"l", of(process=P2))
    assert not lifetimes.is_tied(P1)
    assert lifetimes.is_tied(P2)
    lifetimes.begun.clear()
    index.assign(b"k", of(process=P1))
    assert lifetimes.begun == [P1]  # it was forgotten


def test_what_has_ended_is_so_once_until_it_is_settled(index: Index, lifetimes: Lifetimes) -> None:
    index.assign(b"k", of(expires_ms=100, process=P1))
    lifetimes.end_process(P1)
    lifetimes.expire(100, 10)
    assert (lifetimes.ended, list(lifetimes.fresh)) == ({b"k": PROCESS}, [b"k"])
    lifetimes.settle(b"k")
    lifetimes.settle(b"k")
    assert lifetimes.ended == {}


def test_the_soonest_of_a_namespace_come_first_and_are_noted_again_by_who_leaves_them(
    index: Index, lifetimes: Lifetimes
) -> None:
    for name, expires_ms in ((b"a/3", 300), (b"a/1", 100), (b"a/2", 200), (b"0", 50)):
        index.assign(name, of(expires_ms=expires_ms))
    index.assign(b"a/1", of(expires_ms=250))
    index.assign(b"a/never", of())
    taken = list(lifetimes.soonest(b"a/"))
    assert taken == [b"a/2", b"a/1", b"a/3"]
    assert list(lifetimes.soonest(b"a/")) == []
    assert list(lifetimes.soonest(b"nobody/")) == []
    lifetimes.expire(1000, 100)
    assert list(lifetimes.ended) == [b"0"]
    for name in taken:
        lifetimes.note(name, index.seen(name) or 0)
    lifetimes.expire(1000, 100)
    assert set(lifetimes.ended) == {b"0", b"a/1", b"a/2", b"a/3"}


@pytest.mark.parametrize("round_", range(20))
def test_the_same_end_as_in_a_naive_list_whatever_happens(seed: int, round_: int) -> None:
    chance = random.Random(seed + round_)
    index = Index()
    lifetimes = Lifetimes(index)
    names = [space + b"%d" % number for space in (b"", b"a/") for number in range(6)]
    processes = [number << 22 | number for number in range(1, 5)]
    there: dict[bytes, dict[str, Any]] = {}
    ended: dict[bytes, str] = {}
    alive = set(processes)
    now = 1000

    def end(name: bytes, cause: str) -> None:
        ended.setdefault(name, cause)

    def watch() -> None:
        """As the driver does: who is gone by the time an object is tied to him ends it at once."""
        while lifetimes.begun:
            process = lifetimes.begun.pop()
            if process not in alive:
                lifetimes.end_process(process)

    for _ in range(800):
        name = chance.choice(names)
        what = chance.randrange(8)
        if what == 0 or (what < 4 and name not in there):  # put or replace
            there[name] = {
                "expires_ms": chance.choice((0, now + chance.randint(1, 50))),
                "process": chance.choice((0, chance.choice(processes))),
                "pinned": False,
            }
        elif what == 1:
            there[name]["expires_ms"] = chance.choice((0, now + chance.randint(1, 50)))  # touch
        elif what == 2:
            there[name]["pinned"] = not there[name]["pinned"]
        elif what == 3:
            del there[name]
        elif what == 4 and alive and chance.random() < 0.2:
            process = chance.choice(sorted(alive))
            alive.discard(process)
            lifetimes.end_process(process)
        elif what == 5 and ended:  # removed by the daemon
            name = chance.choice(list(ended))
            there.pop(name, None)
        else:
            now += chance.randint(0, 20)
        index.assign(name, of(**there[name]) if name in there else sight.ABSENT)
        if name not in there and name in lifetimes.ended:
            lifetimes.settle(name)
            del ended[name]
        watch()
        lifetimes.expire(now, 1000)
        for other, life in there.items():
            if life["pinned"]:
                continue
            if life["process"] and life["process"] not in alive:
                end(other, PROCESS)
            if life["expires_ms"] and life["expires_ms"] <= now:
                end(other, EXPIRED)
        assert set(lifetimes.ended) == set(ended)
        for process in processes:
            tied = any(life["process"] == process for life in there.values())
            if process in alive:
                assert lifetimes.is_tied(process) == tied
        times = [life["expires_ms"] for name, life in there.items() if life["expires_ms"] and not life["pinned"]]
        waited = [moment for moment in times if moment > now]
        if waited:
            assert lifetimes.alarm_ms <= min(waited)
