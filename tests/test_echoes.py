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


@pytest.mark.parametrize(("result", "event"), [(b"created", MADE), (b"evicted", REMOVED)])
def test_the_event_of_a_change_is_own_once(echoes: Echoes, result: bytes, event: int) -> None:
    echoes.expect(b"k", result)
    assert echoes.is_own(b"k", event)
    assert not echoes.is_own(b"k", event)


@pytest.mark.parametrize("event", [REMOVED, MOVED_HERE, MADE | IN_ISDIR])
def test_another_event_of_the_name_is_not_and_ends_the_waiting(echoes: Echoes, event: int) -> None:
    echoes.expect(b"k", b"created")
    assert not echoes.is_own(b"k", event)
    assert not echoes.is_own(b"k", MADE)


def test_the_event_of_another_name_is_not(echoes: Echoes) -> None:
    echoes.expect(b"k", b"created")
    assert not echoes.is_own(b"other", MADE)
    assert echoes.is_own(b"k", MADE)


def test_the_last_change_of_a_name_counts(echoes: Echoes) -> None:
    echoes.expect(b"k", b"created")
    echoes.expect(b"k", b"evicted")
    assert not echoes.is_own(b"k", MADE)  # that of the first one: it costs a look
    assert not echoes.is_own(b"k", REMOVED)


@pytest.mark.parametrize("result", [b"replaced", b"same", b"absent", b"kept", b""])
def test_of_any_other_result_nothing_is_awaited(echoes: Echoes, result: bytes) -> None:
    echoes.expect(b"k", result)
    assert not echoes.awaited


def test_nothing_is_awaited_where_the_kernel_may_not_tell_of_all() -> None:
    echoes = Echoes()
    echoes.expect(b"k", b"created")
    assert not echoes.awaited


def test_what_is_forgotten_is_not_own(echoes: Echoes) -> None:
    awaited = echoes.awaited
    echoes.expect(b"k", b"created")
    echoes.forget()
    assert not echoes.is_own(b"k", MADE)
    assert echoes.awaited is awaited  # the watcher holds it
