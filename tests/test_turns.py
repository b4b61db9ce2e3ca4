"""turns.py: one change of a name at a time."""

from __future__ import annotations

import pytest

from storekeeperd.turns import Turns


def test_a_free_name_is_taken() -> None:
    turns = Turns()
    assert turns.take(b"k", "first")
    assert len(turns) == 1
    assert turns.release(b"k") is None
    assert len(turns) == 0


def test_a_released_name_is_free_again() -> None:
    turns = Turns()
    for claimant in range(3):
        assert turns.take(b"k", claimant)
        assert turns.release(b"k") is None


def test_whoever_waits_has_a_turn_in_the_order_of_coming() -> None:
    turns = Turns()
    assert turns.take(b"k", 0)
    assert not any(turns.take(b"k", claimant) for claimant in (1, 2, 3))
    assert [turns.release(b"k") for _ in range(4)] == [1, 2, 3, None]
    assert len(turns) == 0


def test_the_name_stays_taken_while_somebody_waits() -> None:
    turns = Turns()
    turns.take(b"k", 0)
    turns.take(b"k", 1)
    assert turns.release(b"k") == 1
    assert not turns.take(b"k", 2)
    assert turns.release(b"k") == 2
    assert turns.release(b"k") is None
    assert turns.take(b"k", 3)


def test_other_names_never_wait() -> None:
    turns = Turns()
    assert turns.take(b"a", 0)
    assert turns.take(b"b", 0)
    assert not turns.take(b"a", 1)
    assert turns.release(b"b") is None
    assert len(turns) == 1


def test_a_name_that_nobody_took_cannot_be_released() -> None:
    with pytest.raises(KeyError):
        Turns().release(b"k")
