"""spin.py: looking again for a moment before one waits."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from storekeeper import spin as spin_module
from storekeeper.spin import Spin


class Clock:
    """Goes on by 10 µs with every look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10e-6
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(spin_module, "perf_counter", clock)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return clock


def after(looks: int) -> Callable[[], str]:
    """Returns a look that finds something after so many."""
    made = 0

    def look() -> str:
        nonlocal made
        made += 1
        return "found" if made > looks else ""

    return look


def never() -> str:
    return ""


def tries_of(spin: Spin, calls: int) -> int:
    """Returns how many of so many calls looked at all."""
    looked: list[int] = []
    for number in range(calls):
        spin.until(lambda number=number: looked.append(number))  # type: ignore[misc]
    return len(set(looked))


def test_what_comes_in_time_is_found() -> None:
    spin = Spin(100e-6)
    assert spin.until(after(0)) == "found"
    assert spin.until(after(8)) == "found"


def test_it_ends_in_time(clock: Clock) -> None:
    began = clock.now
    assert not Spin(100e-6).until(never)
    assert clock.now - began < 130e-6


def test_who_looks_in_vain_stops_and_tries_ever_more_seldom() -> None:
    spin = Spin(100e-6)
    assert tries_of(spin, 10) < 8
    tries = [tries_of(spin, 1000) for _ in range(5)]
    assert tries == sorted(tries, reverse=True)
    assert tries[0] < 12
    assert tries[-1] <= 1


def test_one_success_makes_it_try_again() -> None:
    spin = Spin(100e-6)
    tries_of(spin, 5000)
    for _ in range(2000):
        if spin.until(after(1)):
            break
    assert all(spin.until(after(1)) for _ in range(100))


def test_one_that_is_late_now_and_then_does_not_end_it() -> None:
    spin = Spin(100e-6)
    found = 0
    for number in range(1000):
        found += bool(spin.until(never if number % 10 == 9 else after(1)))
    assert found > 800


@pytest.mark.parametrize("cores", [1, 2])
def test_on_one_core_or_if_told_so_it_never_looks(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    spin = Spin(100e-6 if cores == 1 else 0.0)
    looks: list[None] = []
    for _ in range(5):
        spin.until(lambda: looks.append(None))
    assert not looks
