"""groups.py: which durable puts are made together, and when."""

from __future__ import annotations

import math
from typing import Any

import pytest

from storekeeperd.groups import Groups
from storekeeperd.operations import Job, Origin, Put

DELAY_S = 2.0


class Owner:
    """Whose job it is: a connection of its own."""

    def __init__(self, uid: int) -> None:
        self.peer = self
        self.uid = uid
        self.gone = False


ME = Owner(1)


@pytest.fixture
def groups() -> Groups:
    return Groups(4, DELAY_S)


def job(puts: int = 1, owner: Any = ME) -> Job:
    put = Put(b"k", b"x", Origin(1, any_owner=False), replace=False, durable=True)
    return Job([put] * puts, [None] * puts, owner=owner)


def test_one_that_is_alone_goes_at_once(groups: Groups) -> None:
    for now in range(3):
        alone = job()
        groups.add(alone, now)
        assert groups.take(now) == [alone]
        assert groups.due == math.inf
        groups.ended(1, now)


def test_those_that_come_meanwhile_go_together_when_it_is_back(groups: Groups) -> None:
    groups.add(job(), 0)
    assert len(groups.take(0)) == 1
    for _ in range(3):
        groups.add(job(), 1)
        assert groups.take(1) == []
    groups.ended(1, 2)
    assert groups.take(2) == []  # the fourth is waited for, who was just answered
    groups.add(job(), 3)
    assert len(groups.take(3)) == 4


def test_but_who_does_not_come_is_waited_for_no_longer_than_that(groups: Groups) -> None:
    groups.add(job(), 0)
    groups.take(0)
    groups.add(job(), 1)
    groups.ended(1, 10)
    assert groups.due == 10 + DELAY_S
    assert groups.take(groups.due - 0.001) == []
    assert len(groups.take(groups.due)) == 1
    groups.ended(1, 20)
    groups.add(job(), 30)  # and the next one that is alone is not held back for him any more
    assert len(groups.take(30)) == 1


def test_the_delay_counts_from_the_first_that_waits(groups: Groups) -> None:
    groups.add(job(), 0)
    groups.take(0)
    groups.add(job(), 0)
    groups.add(job(), 0)
    groups.ended(1, 1)
    assert len(groups.take(1 + DELAY_S)) == 2
    groups.ended(2, 5)
    groups.add(job(), 6)
    assert groups.due == 6 + DELAY_S


def test_a_group_has_no_more_puts_than_allowed_but_for_one_job(groups: Groups) -> None:
    sizes = []
    for size in (1, 1, 1, 1, 1, 1, 9, 1):
        groups.add(job(size), 0)
    for now in range(4):
        group = groups.take(now * 10)
        sizes.append([len(each.operations) for each in group])
        groups.ended(len(group), now * 10)
    assert sizes == [[1, 1, 1, 1], [1, 1, 9], [1], []]


def test_nobody_waits_behind_all_that_another_has_asked_for(groups: Groups) -> None:
    for _ in range(100):
        groups.add(job(), 0)
    late = job(owner=Owner(2))
    groups.add(late, 0)
    assert late in groups.take(10)


def test_at_the_end_all_that_waits_is_given(groups: Groups) -> None:
    groups.add(job(), 0)
    groups.take(0)
    for _ in range(6):
        groups.add(job(), 0)
    assert [len(groups.end()) for _ in range(3)] == [4, 2, 0]
