"""jobs.py: what the loop does itself, and what the pool does."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from conftest import eventually
from storekeeperd.answers import Peer
from storekeeperd.config import Limits
from storekeeperd.jobs import Jobs
from storekeeperd.operations import (
    Budget,
    Close,
    Commit,
    Evict,
    Get,
    Job,
    Look,
    Operation,
    Origin,
    Outcome,
    Put,
    Read,
    Survey,
    WouldWait,
)

US = Origin(1000)


class Staying:
    """A stay of a fake disk: notes when it begins and ends."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.inside = False

    def __enter__(self) -> Staying:
        self.inside = True
        self.disk.stays += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.inside = False


class FakeDisk:
    """Notes who asks for what; `behave` may raise, wait, or take time."""

    def __init__(self) -> None:
        self.performed: list[tuple[Operation, bool, str]] = []
        self.stays = 0
        self.groups: list[int] = []
        self.behave: Callable[[Operation, bool], None] = lambda operation, wait: None

    def stay(self) -> contextlib.AbstractContextManager[object]:
        return Staying(self)

    def perform(self, operation: Operation, stay: object, *, wait: bool = True) -> Outcome:
        assert isinstance(stay, Staying)
        assert stay.inside
        self.behave(operation, wait)
        self.performed.append((operation, wait, threading.current_thread().name))
        return Outcome(b"done", getattr(operation, "offset", 0))

    def put_together(self, puts: list[Put], stay: object) -> list[Outcome]:
        self.groups.append(len(puts))
        return [self.perform(put, stay) for put in puts]

    @property
    def waited(self) -> list[bool]:
        return [wait for _, wait, _ in self.performed]


class Clock:
    """Stands still unless told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def woken() -> threading.Event:
    return threading.Event()


@pytest.fixture
def jobs(disk: FakeDisk, clock: Clock, woken: threading.Event) -> Iterator[Jobs]:
    jobs = Jobs(disk, Limits(pool_threads=4), woken.set, clock)  # type: ignore[arg-type]
    yield jobs
    jobs.close(10)


def job(*operations: Operation) -> Job:
    return Job(list(operations), [None] * len(operations))


def put(*, durable: bool = False, payload: bytes = b"bytes") -> Put:
    return Put(b"k", payload, US, replace=False, durable=durable)


def evict(name: bytes = b"k", *, small: bool = False) -> Evict:
    return Evict(name, small, US)


def read(number: int) -> Read:
    return Read(3, number, 1)


def finish(jobs: Jobs, woken: threading.Event) -> list[Job]:
    assert woken.wait(10)
    return jobs.done()


@pytest.mark.parametrize(
    "operations",
    [
        [Look(b"k")],
        [put()],
        [evict(b"k", small=True)],
        [Close(3)],
        [Get(b"k", Budget(1, 1))],
        [Look(b"k")] * 16,
    ],
)
def test_a_short_job_is_done_at_once_and_never_waits(jobs: Jobs, disk: FakeDisk, operations: list[Operation]) -> None:
    short = job(*operations)
    assert jobs.start(short)
    assert len(short.outcomes) == len(operations)
    assert not any(disk.waited)
    assert {thread for _, _, thread in disk.performed} == {threading.current_thread().name}
    assert jobs.done() == []
    assert (jobs.inline_jobs, jobs.pool_jobs) == (1, 0)


@pytest.mark.parametrize(
    "long",
    [
        job(put(durable=True)),
        job(Commit(b"k", 3, 1, US, replace=False, durable=False)),
        job(evict(b"k", small=False)),
        job(Look(b"k"), put(durable=True)),
        job(put(payload=bytes(Limits().inline_bytes_max + 1))),
    ],
)
def test_a_long_job_goes_to_the_pool(jobs: Jobs, disk: FakeDisk, woken: threading.Event, long: Job) -> None:
    assert not jobs.start(long)
    assert finish(jobs, woken) == [long]
    assert len(long.outcomes) == len(long.operations)
    assert all(disk.waited)
    assert threading.current_thread().name not in {thread for _, _, thread in disk.performed}
    assert (jobs.inline_jobs, jobs.pool_jobs) == (0, 1)


def test_a_batch_goes_on_in_slices_and_others_wait_their_turn(jobs: Jobs, disk: FakeDisk, clock: Clock) -> None:
    def behave(operation: Operation, wait: bool) -> None:
        clock.now += 0.001

    disk.behave = behave
    batch, other = job(*[Look(b"k")] * 10), job(Look(b"l"))
    jobs.begin_turn()
    assert not jobs.start(batch)
    assert 0 < len(batch.outcomes) < 10
    assert not jobs.start(other)
    turns = 0
    finished: list[Job] = []
    while jobs.unfinished:
        jobs.begin_turn()
        while (one := jobs.go_on()) is not None:
            finished.append(one)
        turns += 1
    assert sorted(map(id, finished)) == sorted(map(id, (batch, other)))
    assert turns > 2
    assert len(batch.outcomes) == 10
    assert not any(disk.waited)


def test_a_job_is_handed_back_once(jobs: Jobs, woken: threading.Event) -> None:
    jobs.start(job(put(durable=True)))
    assert len(finish(jobs, woken)) == 1
    assert jobs.done() == []


def test_a_job_that_would_wait_goes_on_in_the_pool_where_it_stopped(
    jobs: Jobs, disk: FakeDisk, woken: threading.Event
) -> None:
    def behave(operation: Operation, wait: bool) -> None:
        if not wait and operation == read(2):
            raise WouldWait

    disk.behave = behave
    mixed = job(*map(read, range(4)))
    assert not jobs.start(mixed)
    assert finish(jobs, woken) == [mixed]
    assert [operation for operation, _, _ in disk.performed] == mixed.operations
    assert disk.waited == [False, False, True, True]
    assert [outcome.seen for outcome in mixed.outcomes] == [0, 1, 2, 3]


def test_a_slow_disk_sends_everything_to_the_pool_for_a_second(
    jobs: Jobs, disk: FakeDisk, clock: Clock, woken: threading.Event
) -> None:
    def crawl(operation: Operation, wait: bool) -> None:
        clock.now += 0.006

    disk.behave = crawl
    assert jobs.start(job(Look(b"k")))
    disk.behave = lambda operation, wait: None
    clock.now += 0.9
    assert not jobs.start(job(Look(b"k")))
    finish(jobs, woken)
    clock.now += 0.2
    assert jobs.start(job(Look(b"k")))
    assert (jobs.inline_jobs, jobs.pool_jobs) == (2, 1)


def test_a_long_survey_may_take_as_long_as_the_looks_it_stands_for(
    jobs: Jobs, disk: FakeDisk, clock: Clock, woken: threading.Event
) -> None:
    def crawl(operation: Operation, wait: bool) -> None:
        clock.now += 0.019

    disk.behave = crawl
    assert jobs.start(job(Survey([b"k"] * 32)))  # four times as long as one look may take
    assert jobs.start(job(Survey([b"k"] * 24)))  # that was too long for so few
    disk.behave = lambda operation, wait: None
    assert not jobs.start(job(Look(b"k")))
    finish(jobs, woken)


def test_a_short_survey_may_take_as_long_as_one_look(
    jobs: Jobs, disk: FakeDisk, clock: Clock, woken: threading.Event
) -> None:
    for names, seconds, quick in (([b"k"], 0.004, True), ([], 0.004, True), ([b"k"], 0.006, False)):

        def take(operation: Operation, wait: bool, seconds: float = seconds) -> None:
            clock.now += seconds

        disk.behave = take
        assert jobs.start(job(Survey(names)))
        disk.behave = lambda operation, wait: None
        assert jobs.start(job(Look(b"k"))) == quick
    finish(jobs, woken)


@pytest.mark.parametrize("operation", [Look(b"k"), Survey([b"k"]), put(), evict(b"k", small=True), read(0)])
def test_where_the_loop_may_do_nothing_itself_everything_goes_to_the_pool(
    disk: FakeDisk, clock: Clock, woken: threading.Event, operation: Operation
) -> None:
    jobs = Jobs(disk, Limits(pool_threads=2), woken.set, clock, inline=False)  # type: ignore[arg-type]
    try:
        for _ in range(2):
            woken.clear()
            short = job(operation)
            assert not jobs.start(short)
            assert finish(jobs, woken) == [short]
            clock.now += 1e9
        assert all(disk.waited)
        assert not jobs.unfinished
        assert (jobs.inline_jobs, jobs.pool_jobs) == (0, 2)
    finally:
        jobs.close(10)


def test_a_job_stays_in_the_directory_while_it_is_under_way(jobs: Jobs, disk: FakeDisk, woken: threading.Event) -> None:
    jobs.start(job(*[Look(b"k")] * 5))
    assert disk.stays == 1
    jobs.start(job(*[put(durable=True)] * 5))
    finish(jobs, woken)
    assert disk.stays == 2


def test_a_disk_that_is_quick_enough_is_used_on(jobs: Jobs, disk: FakeDisk, clock: Clock) -> None:
    def walk(operation: Operation, wait: bool) -> None:
        clock.now += 0.004

    disk.behave = walk
    assert all(jobs.start(job(Look(b"k"))) for _ in range(5))


def test_a_fault_is_an_outcome_and_the_rest_of_the_job_is_done(
    jobs: Jobs, disk: FakeDisk, woken: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    def behave(operation: Operation, wait: bool) -> None:
        if operation == read(1):
            raise ZeroDivisionError("oh")

    disk.behave = behave
    faulty = job(*map(read, range(3)))
    with caplog.at_level(logging.ERROR):
        if not jobs.start(faulty):
            finish(jobs, woken)
    assert [outcome.word for outcome in faulty.outcomes] == [b"done", b"internal", b"done"]
    assert "ZeroDivisionError" not in str(faulty.outcomes[1].error)
    assert "ZeroDivisionError" in caplog.text
    (number,) = re.findall(r"'(fault \w+)'", str(faulty.outcomes[1].error))
    assert f"{number} in Read" in caplog.text


def test_the_pool_works_side_by_side(jobs: Jobs, disk: FakeDisk) -> None:
    both = threading.Barrier(2)
    disk.behave = lambda operation, wait: both.wait(10) and None
    jobs.start(job(evict(b"k", small=False)))
    jobs.start(job(evict(b"l", small=False)))
    finished: list[Job] = []
    eventually(lambda: finished.extend(jobs.done()) or len(finished) == 2)  # type: ignore[func-returns-value]
    assert [each.outcomes[0].word for each in finished] == [b"done", b"done"]


def test_nobody_waits_behind_looks_that_no_client_asked_for(
    disk: FakeDisk, clock: Clock, woken: threading.Event
) -> None:
    jobs = Jobs(disk, Limits(), woken.set, clock, inline=False)  # type: ignore[arg-type]
    release = threading.Event()
    disk.behave = lambda operation, wait: isinstance(operation, Survey) and release.wait(10) and None
    try:
        for _ in range(50):
            jobs.start(job(Survey([b"k"] * 128)))
        get = job(Look(b"k"))
        jobs.start(get)
        assert finish(jobs, woken) == [get]
    finally:
        release.set()
        jobs.close(10)


def test_what_replaces_something_long_goes_to_the_pool(jobs: Jobs, woken: threading.Event) -> None:
    assert not jobs.start(job(Put(b"k", b"short", US, replace=True, durable=False, small=False)))
    finish(jobs, woken)
    assert jobs.start(job(Put(b"k", b"short", US, replace=True, durable=False, small=True)))


def test_closing_waits_for_the_jobs_it_has(disk: FakeDisk) -> None:
    jobs = Jobs(disk, Limits(pool_threads=1), lambda: None)  # type: ignore[arg-type]
    ordered = [job(put(durable=True)) for _ in range(20)]
    for each in ordered:
        jobs.start(each)
    jobs.close(10)
    assert jobs.done() == ordered
    assert all(each.outcomes for each in ordered)


def test_closing_does_not_wait_longer_than_it_is_told(disk: FakeDisk) -> None:
    release = threading.Event()
    disk.behave = lambda operation, wait: release.wait(10) and None
    jobs = Jobs(disk, Limits(pool_threads=3), lambda: None)  # type: ignore[arg-type]
    for _ in range(3):
        jobs.start(job(put(durable=True)))
    jobs.close(0.01)
    assert jobs.done() == []
    release.set()
    jobs.close(10)
    assert len(jobs.done()) == 3


# -- fair turns


class Owner:
    """An answer, as far as jobs look at it."""

    def __init__(self, uid: int) -> None:
        self.peer = Peer(uid, uid, 1)


def of(owner: Owner, *operations: Operation) -> Job:
    return Job(list(operations), [None] * len(operations), owner)


def test_who_asks_for_little_does_not_wait_for_all_that_a_flood_has_asked_for(
    jobs: Jobs, disk: FakeDisk, clock: Clock
) -> None:
    def behave(operation: Operation, wait: bool) -> None:
        clock.now += 0.0005

    disk.behave = behave
    flooder, victim = Owner(1), Owner(2)
    jobs.begin_turn()
    for _ in range(100):
        jobs.start(of(flooder, *[Look(b"k")] * 10))
    asked = of(victim, Look(b"v"))
    assert not jobs.start(asked)
    turns = 0
    while not asked.outcomes:
        jobs.begin_turn()
        while jobs.go_on() is not None:
            pass
        turns += 1
    assert turns <= 2


def test_threads_are_not_given_all_that_one_peer_has_asked_for(jobs: Jobs, disk: FakeDisk) -> None:
    release = threading.Event()
    disk.behave = lambda operation, wait: release.wait(10) and None
    flooder, victim = Owner(1), Owner(2)
    for _ in range(50):
        jobs.start(of(flooder, evict(b"k", small=False)))
    asked = of(victim, evict(b"v", small=False))
    jobs.start(asked)
    release.set()
    finished: list[Job] = []
    eventually(lambda: finished.extend(jobs.done()) or len(finished) == 51)  # type: ignore[func-returns-value]
    assert finished.index(asked) < 10


# -- group commit


def finished_in_time(jobs: Jobs, clock: Clock, count: int) -> list[Job]:
    """Returns so many jobs, with a clock that goes."""
    finished: list[Job] = []

    def are_there() -> bool:
        clock.now += 0.001
        finished.extend(jobs.done())
        return len(finished) >= count

    eventually(are_there)
    return finished


def test_durable_puts_that_wait_are_carried_out_together(jobs: Jobs, disk: FakeDisk, clock: Clock) -> None:
    first, release = threading.Event(), threading.Event()

    def behave(operation: Operation, wait: bool) -> None:
        first.set()
        assert release.wait(10)

    disk.behave = behave
    jobs.start(job(put(durable=True)))
    assert first.wait(10)
    for _ in range(8):
        jobs.start(job(put(durable=True)))
    release.set()
    finished = finished_in_time(jobs, clock, 9)
    assert disk.groups == [1, 8]
    assert all(len(each.outcomes) == 1 for each in finished)


def test_what_is_held_back_for_others_goes_out_when_it_is_due(
    jobs: Jobs, disk: FakeDisk, clock: Clock, woken: threading.Event
) -> None:
    for number in range(2):  # the second one comes while the first is under way: from now on two are expected
        jobs.start(job(put(durable=True)))
        assert jobs.due == math.inf, number
    finished: list[Job] = []
    eventually(lambda: finished.extend(jobs.done()) or len(finished) == 1)  # type: ignore[func-returns-value]
    assert jobs.due == clock.now + Limits().commit_delay_ms_max / 1000
    assert jobs.done() == []
    clock.now = jobs.due
    eventually(lambda: finished.extend(jobs.done()) or len(finished) == 2)  # type: ignore[func-returns-value]
    assert jobs.due == math.inf


def test_what_is_held_back_at_the_end_is_done_all_the_same(disk: FakeDisk, clock: Clock) -> None:
    jobs = Jobs(disk, Limits(), lambda: None, clock)  # type: ignore[arg-type]
    first, release = threading.Event(), threading.Event()

    def behave(operation: Operation, wait: bool) -> None:
        first.set()
        assert release.wait(10)

    disk.behave = behave
    ordered = [job(put(durable=True)) for _ in range(100)]
    for each in ordered:
        jobs.start(each)
    assert first.wait(10)
    release.set()
    jobs.close(10)
    assert sorted(map(id, jobs.done())) == sorted(map(id, ordered))
    assert disk.groups == [1, 32, 32, 32, 3]


def test_a_fault_in_a_group_is_an_outcome_of_every_put(
    jobs: Jobs, disk: FakeDisk, woken: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    def put_together(puts: list[Put], stay: object) -> list[Outcome]:
        raise ZeroDivisionError("oh")

    disk.put_together = put_together  # type: ignore[method-assign]
    both = job(put(durable=True), put(durable=True))
    jobs.start(both)
    assert finish(jobs, woken) == [both]
    assert [outcome.word for outcome in both.outcomes] == [b"internal", b"internal"]
    assert "fault" in caplog.text


# -- peers who left


@pytest.mark.parametrize("operation", [put(), put(durable=True), Look(b"k"), evict(b"k", small=False), read(0)])
def test_what_a_peer_has_ordered_who_left_is_not_done(
    jobs: Jobs, disk: FakeDisk, clock: Clock, operation: Operation
) -> None:
    owner = Owner(1)
    release = threading.Event()
    disk.behave = lambda _, wait: release.wait(10) and None
    if isinstance(operation, Evict) or getattr(operation, "durable", False):
        for _ in range(20):  # so that it has to wait, and its peer leaves meanwhile
            jobs.start(job(evict(b"k", small=False)) if isinstance(operation, Evict) else job(put(durable=True)))
    else:
        owner.peer.gone = True
    ordered = of(owner, operation)
    started = jobs.start(ordered)
    owner.peer.gone = True
    release.set()
    if not started:
        finished_in_time(jobs, clock, 21)
    assert [outcome.word for outcome in ordered.outcomes] == [b"timed_out"]
    assert operation not in [done for done, _, _ in disk.performed if done is operation]


def test_what_holds_a_descriptor_is_done_for_those_who_left_too(jobs: Jobs, disk: FakeDisk) -> None:
    owner = Owner(1)
    owner.peer.gone = True
    ordered = of(owner, Close(3))
    assert jobs.start(ordered)
    assert [outcome.word for outcome in ordered.outcomes] == [b"done"]
