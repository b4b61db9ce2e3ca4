"""echoes.py: the one event of an own change that need not be looked after.

That nothing is lost by it in any order of things is shown by test_model.py and test_simulation.py; what the
kernel says, by test_watcher.py.
"""

from __future__ import annotations

import pytest

from storekeeperd.echoes import MADE, REMOVED, Echoes

IN_ISDIR = 0x40000000
MOVED_HERE = 0x80


@pytest.fixture
def echoes() -> Echoes:
    echoes = Echoes()
    echoes.sure = True
    return echoes


def change(echoes: Echoes, name: bytes, result: bytes) -> bool:
    echoes.begin(name)
    return echoes.finish(name, result)


@pytest.mark.parametrize(("result", "event"), [(b"created", MADE), (b"evicted", REMOVED)])
def test_the_event_of_a_change_is_own_once(echoes: Echoes, result: bytes, event: int) -> None:
    assert not change(echoes, b"k", result)
    assert echoes.is_own(b"k", event)
    assert not echoes.is_own(b"k", event)


@pytest.mark.parametrize("event", [REMOVED, MOVED_HERE, MADE | IN_ISDIR])
def test_another_event_of_the_name_is_not_and_ends_the_waiting(echoes: Echoes, event: int) -> None:
    change(echoes, b"k", b"created")
    assert not echoes.is_own(b"k", event)
    assert not echoes.is_own(b"k", MADE)


def test_the_event_of_another_name_is_not(echoes: Echoes) -> None:
    change(echoes, b"k", b"created")
    assert not echoes.is_own(b"other", MADE)
    assert echoes.is_own(b"k", MADE)


def test_the_last_change_of_a_name_counts(echoes: Echoes) -> None:
    change(echoes, b"k", b"created")
    change(echoes, b"k", b"evicted")
    assert not echoes.is_own(b"k", MADE)  # that of the first one: it costs a look
    assert not echoes.is_own(b"k", REMOVED)


@pytest.mark.parametrize("result", [b"replaced", b"same", b"absent", b"kept", b""])
def test_of_any_other_result_nothing_is_awaited(echoes: Echoes, result: bytes) -> None:
    change(echoes, b"k", result)
    assert not echoes.awaited
    assert not echoes.held


def test_an_event_that_is_read_too_early_is_held_and_is_the_echo_if_it_is_of_that_kind(echoes: Echoes) -> None:
    echoes.begin(b"k")
    assert echoes.is_own(b"k", MADE)
    assert not echoes.finish(b"k", b"created")
    assert not echoes.awaited


@pytest.mark.parametrize(("event", "result"), [(REMOVED, b"created"), (MADE, b"evicted"), (MADE, b"same"), (MADE, b"")])
def test_if_it_is_of_another_kind_it_is_anothers(echoes: Echoes, event: int, result: bytes) -> None:
    echoes.begin(b"k")
    assert echoes.is_own(b"k", event)
    assert echoes.finish(b"k", result)
    assert not echoes.awaited


def test_only_the_first_one_is_held(echoes: Echoes) -> None:
    echoes.begin(b"k")
    assert echoes.is_own(b"k", MADE)
    assert not echoes.is_own(b"k", MADE)


def test_nothing_is_awaited_where_the_kernel_may_not_tell_of_all() -> None:
    echoes = Echoes()
    echoes.begin(b"k")
    assert not echoes.is_own(b"k", MADE)
    assert not echoes.finish(b"k", b"created")
    assert not echoes.awaited


def test_when_all_is_read_only_what_is_under_way_stays_awaited(echoes: Echoes) -> None:
    change(echoes, b"done", b"created")
    echoes.begin(b"under way")
    echoes.drained()
    assert not echoes.is_own(b"done", MADE)
    assert echoes.is_own(b"under way", MADE)


def test_what_is_forgotten_is_not_own(echoes: Echoes) -> None:
    awaited, held = echoes.awaited, echoes.held
    change(echoes, b"done", b"created")
    echoes.begin(b"under way")
    echoes.forget()
    assert not echoes.is_own(b"done", MADE)
    assert not echoes.is_own(b"under way", MADE)
    echoes.finish(b"under way", b"created")
    assert not echoes.awaited
    assert (echoes.awaited, echoes.held) == (awaited, held) == ({}, {})  # the watcher has these very ones


def test_what_is_read_during_the_next_change_is_awaited_no_more(echoes: Echoes) -> None:
    change(echoes, b"k", b"created")
    echoes.begin(b"k")
    assert echoes.is_own(b"k", MADE)  # of the first change: it is held for the second one
    assert not echoes.is_own(b"k", REMOVED)
    assert echoes.finish(b"k", b"evicted")
    assert not echoes.is_own(b"k", MADE)  # another's


def test_nor_if_the_next_change_changes_nothing(echoes: Echoes) -> None:
    change(echoes, b"k", b"created")
    echoes.begin(b"k")
    assert echoes.is_own(b"k", MADE)
    assert echoes.finish(b"k", b"same")
    echoes.begin(b"k")
    assert echoes.is_own(b"k", REMOVED)
    assert not echoes.finish(b"k", b"evicted")
    assert not echoes.is_own(b"k", MADE)
