"""orders.py: operations on their way out, outcomes on their way back."""

from __future__ import annotations

import pytest

from storekeeper.errors import DiskFailed
from storekeeperd import orders as orders_module
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.operations import (
    Close,
    Evict,
    Job,
    Look,
    Operation,
    Origin,
    Outcome,
    Put,
    Survey,
    failed,
)
from storekeeperd.orders import Orders
from storekeeperd.sight import ABSENT, UNSEEN


def evict(name: bytes) -> Evict:
    return Evict(name, True, Origin(1))


class Bench:
    """Orders of three operations per job, over an index of its own; notes the outcomes in the order they come."""

    def __init__(self) -> None:
        self.index = Index()
        self.coherence = Coherence(self.index)
        self.orders = Orders(self.index, self.coherence, 3)
        self.came: list[tuple[Operation, Outcome]] = []

    def note(self, operation: Operation, outcome: Outcome) -> None:
        self.came.append((operation, outcome))

    def take(self) -> Job:
        return self.orders.jobs.popleft()

    def do(self, job: Job, *seen: int) -> None:
        job.outcomes = [Outcome(b"done", size) for size in seen]
        self.orders.finished(job)

    def survey(self, job: Job, *seen: int) -> None:
        """Carries out the one survey of a job."""
        job.outcomes = [Outcome(b"ok", payload=list(seen))]
        self.orders.finished(job)

    def evict(self, *names: bytes) -> None:
        self.orders.change((evict(name), self.note) for name in names)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- jobs


def test_nothing_ordered_is_no_job(bench: Bench) -> None:
    bench.orders.order([], [])
    bench.orders.order_in_parts([], [])
    bench.orders.change([])
    assert not bench.orders.jobs
    assert bench.orders.under_way == 0


def test_what_is_ordered_together_is_one_job(bench: Bench) -> None:
    operations: list[Operation] = [Close(number) for number in range(10)]
    bench.orders.order(operations, [None] * 10)
    assert bench.take().operations == operations


def test_jobs_wait_in_the_order_of_coming(bench: Bench) -> None:
    for number in range(3):
        bench.orders.order([Close(number)], [None])
    assert [job.operations for job in bench.orders.jobs] == [[Close(0)], [Close(1)], [Close(2)]]


def test_jobs_are_under_way_until_they_come_back(bench: Bench) -> None:
    bench.orders.order([Close(1)], [None])
    bench.orders.order([Close(2)], [None])
    assert bench.orders.under_way == 2
    bench.do(bench.take(), UNSEEN)
    assert bench.orders.under_way == 1
    bench.do(bench.take(), UNSEEN)
    assert bench.orders.under_way == 0


def test_many_operations_become_several_jobs(bench: Bench) -> None:
    operations: list[Operation] = [Close(number) for number in range(7)]
    bench.orders.order_in_parts(operations, [bench.note] * 7)
    assert [len(job.operations) for job in bench.orders.jobs] == [3, 3, 1]
    assert [operation for job in bench.orders.jobs for operation in job.operations] == operations
    assert all(len(job.tickets) == len(job.operations) for job in bench.orders.jobs)


def test_every_ticket_gets_its_own_operation_and_outcome(bench: Bench) -> None:
    bench.orders.order([Close(1), Close(2), Close(3)], [bench.note, None, bench.note])
    bench.do(bench.take(), 10, 20, 30)
    assert bench.came == [(Close(1), Outcome(b"done", 10)), (Close(3), Outcome(b"done", 30))]


def test_a_job_without_all_its_outcomes_is_refused(bench: Bench) -> None:
    bench.orders.order([Close(1), Close(2)], [None, None])
    with pytest.raises(ValueError, match="shorter"):
        bench.do(bench.take(), UNSEEN)


# -- looks


def test_a_look_is_registered_before_it_is_made(bench: Bench) -> None:
    ticket = bench.orders.look_ticket(b"k")
    assert bench.coherence.in_doubt == 1
    bench.orders.order([Look(b"k")], [ticket])
    bench.do(bench.take(), 5)
    assert bench.index.size(b"k") == 5
    assert bench.coherence.in_doubt == 0


def test_a_look_is_taken_in_before_anybody_is_told(bench: Bench) -> None:
    sizes: list[int | None] = []
    ticket = bench.orders.look_ticket(b"k", lambda operation, outcome: sizes.append(bench.index.size(b"k")))
    bench.orders.order([Look(b"k")], [ticket])
    bench.do(bench.take(), 5)
    assert sizes == [5]


def test_an_older_look_is_told_but_not_believed(bench: Bench) -> None:
    tickets = [bench.orders.look_ticket(b"k", bench.note) for _ in range(2)]
    for ticket in tickets:
        bench.orders.order([Look(b"k")], [ticket])
    older, newer = bench.take(), bench.take()
    bench.do(newer, 5)
    bench.do(older, ABSENT)
    assert bench.index.size(b"k") == 5
    assert len(bench.came) == 2


def test_questions_become_surveys_one_for_a_job(bench: Bench) -> None:
    for number in range(5):
        bench.coherence.ask(b"%d" % number)
    assert bench.orders.ask(100) == 5
    assert [job.operations for job in bench.orders.jobs] == [
        [Survey([b"0", b"1", b"2"], [None] * len([b"0", b"1", b"2"]))],
        [Survey([b"3", b"4"], [None] * len([b"3", b"4"]))],
    ]
    bench.survey(bench.take(), 0, 1, 2)
    bench.survey(bench.take(), 3, 4)
    assert {name: bench.index.size(name) for name in bench.index.names()} == {b"%d" % n: n for n in range(5)}
    assert bench.orders.ask(100) == 0


@pytest.mark.parametrize(("names_max", "asked"), [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5)])
def test_no_more_questions_are_turned_than_wanted(bench: Bench, names_max: int, asked: int) -> None:
    for number in range(5):
        bench.coherence.ask(b"%d" % number)
    assert bench.orders.ask(names_max) == asked
    assert bench.coherence.questions == 5 - asked
    assert bench.coherence.in_doubt == 5  # those under way count too
    assert sum(len(job.operations[0].names) for job in bench.orders.jobs) == asked  # type: ignore[union-attr]


def test_only_so_many_names_are_surveyed_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders_module, "_SURVEYED_MAX", 4)
    for number in range(10):
        bench.coherence.ask(b"%d" % number)
    assert bench.orders.ask(100) == 4
    assert bench.orders.ask(100) == 0
    bench.survey(bench.take(), 0, 1, 2)
    assert bench.orders.ask(100) == 3
    assert bench.coherence.questions == 3
    while bench.orders.jobs:
        job = bench.take()
        bench.survey(job, *range(len(job.operations[0].names)))  # type: ignore[union-attr]
    assert bench.orders.ask(100) == 3


def test_a_survey_is_registered_before_it_is_made(bench: Bench) -> None:
    bench.coherence.ask(b"a")
    bench.coherence.ask(b"b")
    bench.orders.ask(100)
    older = bench.take()
    ticket = bench.orders.look_ticket(b"a")
    bench.orders.order([Look(b"a")], [ticket])
    bench.do(bench.take(), 7)
    bench.survey(older, ABSENT, 2)
    assert (bench.index.size(b"a"), bench.index.size(b"b")) == (7, 2)


def test_what_is_asked_during_a_survey_is_surveyed_again(bench: Bench) -> None:
    bench.coherence.ask(b"a")
    bench.coherence.ask(b"b")
    bench.orders.ask(100)
    bench.coherence.ask(b"b")
    assert bench.orders.ask(100) == 0
    bench.survey(bench.take(), 1, 2)
    assert bench.orders.ask(100) == 1
    assert bench.take().operations == [Survey([b"b"], [2])]


def test_a_survey_that_fails_tells_nothing_and_is_made_again(bench: Bench) -> None:
    for name, size in ((b"a", 1), (b"b", ABSENT)):
        bench.coherence.looked(name, bench.coherence.start_look(name), size)
        bench.coherence.ask(name)
    bench.orders.ask(100)
    job = bench.take()
    job.outcomes = [failed(DiskFailed("a fault"))]
    bench.orders.finished(job)
    assert (bench.index.size(b"a"), bench.index.size(b"b")) == (1, None)
    assert bench.coherence.in_doubt == 2
    assert bench.orders.ask(100) == 0
    bench.coherence.retry_unanswered()
    assert bench.orders.ask(100) == 2


def test_one_name_that_a_survey_cannot_tell_of_does_not_spoil_the_others(bench: Bench) -> None:
    for name in (b"a", b"b", b"c"):
        bench.coherence.ask(name)
    bench.orders.ask(100)
    bench.survey(bench.take(), 1, UNSEEN, 3)
    assert sorted(bench.index.names()) == [b"a", b"c"]
    assert bench.coherence.in_doubt == 1


# -- changes


def test_changes_of_different_names_go_out_together(bench: Bench) -> None:
    bench.evict(b"a", b"b", b"c", b"d")
    assert [[operation.name for operation in job.operations] for job in bench.orders.jobs] == [  # type: ignore[union-attr]
        [b"a", b"b", b"c"],
        [b"d"],
    ]


def test_one_change_of_a_name_at_a_time(bench: Bench) -> None:
    for number in range(3):
        bench.orders.change([(Put(b"k", b"%d" % number, Origin(1), True, False), bench.note)])
    for number in range(3):
        (job,) = bench.orders.jobs
        assert job.operations[0].payload == b"%d" % number  # type: ignore[union-attr]
        bench.do(bench.take(), number)
        assert bench.index.size(b"k") == number
    assert not bench.orders.jobs
    assert [outcome.seen for _, outcome in bench.came] == [0, 1, 2]


def test_the_same_name_twice_in_one_request_is_changed_in_order(bench: Bench) -> None:
    bench.evict(b"k", b"other", b"k")
    job = bench.take()
    assert job.operations == [evict(b"k"), evict(b"other")]
    assert not bench.orders.jobs
    bench.do(job, ABSENT, ABSENT)
    assert bench.take().operations == [evict(b"k")]


def test_who_waits_for_a_name_does_not_hold_up_others(bench: Bench) -> None:
    bench.evict(b"k")
    bench.evict(b"k", b"free")
    assert [job.operations for job in bench.orders.jobs] == [
        [evict(b"k")],
        [evict(b"free")],
    ]


def test_a_change_is_in_the_index_before_anybody_is_told(bench: Bench) -> None:
    sizes: list[int | None] = []
    put = Put(b"k", b"abc", Origin(1), False, False)
    bench.orders.change([(put, lambda operation, outcome: sizes.append(bench.index.size(b"k")))])
    bench.do(bench.take(), 3)
    assert sizes == [3]


def test_a_change_may_have_no_ticket(bench: Bench) -> None:
    bench.orders.change([(evict(b"k"), None)])
    bench.do(bench.take(), ABSENT)
    assert bench.orders.under_way == 0


def test_questions_about_a_name_being_changed_wait(bench: Bench) -> None:
    bench.evict(b"k")
    bench.coherence.ask(b"k")
    assert bench.orders.ask(100) == 0
    bench.do(bench.take(), ABSENT)
    assert bench.orders.ask(100) == 1


def test_the_next_change_is_ordered_before_the_last_one_is_told(bench: Bench) -> None:
    waiting: list[int] = []
    bench.orders.change([(evict(b"k"), lambda *_: waiting.append(len(bench.orders.jobs)))])
    bench.evict(b"k")
    bench.do(bench.take(), ABSENT)
    assert waiting == [1]


# -- what reads find in passing


@pytest.mark.parametrize(
    ("known", "seen", "asks"),
    [
        (None, ABSENT, False),
        (None, 3, True),
        (3, 3, False),
        (3, 4, True),
        (3, ABSENT, True),
        (None, UNSEEN, False),
        (3, UNSEEN, False),
    ],
)
def test_what_a_read_finds_is_a_question_if_the_index_says_otherwise(
    bench: Bench, known: int | None, seen: int, asks: bool
) -> None:
    if known is not None:
        bench.coherence.looked(b"k", bench.coherence.start_look(b"k"), known)
    bench.orders.observe(b"k", seen)
    assert bench.coherence.questions == asks
    assert bench.index.size(b"k") == known


@pytest.mark.parametrize(("known", "seen", "believed"), [(3, ABSENT, False), (3, 4, True), (None, 3, True)])
def test_after_a_read_that_found_nothing_no_hit_is_believed_until_somebody_looked(
    bench: Bench, known: int | None, seen: int, believed: bool
) -> None:
    bench.coherence.begin_scan()
    bench.coherence.end_scan(complete=True)
    bench.coherence.sweep()
    if known is not None:
        bench.coherence.looked(b"k", bench.coherence.start_look(b"k"), known)
    bench.orders.observe(b"k", seen)
    assert bench.coherence.coherent is believed
    assert bench.orders.ask(100) == 1
    bench.survey(bench.take(), seen)
    assert bench.coherence.coherent
