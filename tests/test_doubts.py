"""doubts.py: names of which nothing sure can be said, and who waits until something can."""

from __future__ import annotations

import pytest

from storekeeperd import doubts as doubts_module
from storekeeperd.doubts import Doubts


@pytest.fixture
def doubts() -> Doubts:
    return Doubts()


def test_a_set_empties_as_its_names_are_settled(doubts: Doubts) -> None:
    one, other = doubts.hand_out({b"a", b"b"}), doubts.hand_out({b"b"})
    assert doubts.sets == 2
    doubts.settle(b"b")
    assert (one, other) == ({b"a"}, set())
    doubts.give_back(one)
    doubts.settle(b"a")
    assert one == {b"a"}
    assert doubts.sets == 1


def test_an_empty_set_is_not_kept(doubts: Doubts) -> None:
    assert doubts.hand_out(set()) == set()
    assert doubts.sets == 0


def test_sets_of_the_same_names_are_told_apart(doubts: Doubts) -> None:
    one, other = doubts.hand_out({b"a"}), doubts.hand_out({b"a"})
    doubts.give_back(other)
    doubts.settle(b"a")
    assert (one, other) == (set(), {b"a"})


@pytest.mark.parametrize("told", [True, False])
def test_a_change_settles_what_was_in_doubt_before_it_began_and_only_if_its_look_could_tell(
    doubts: Doubts, told: bool
) -> None:
    before = doubts.hand_out({b"k", b"other"})
    doubts.begin(b"k")
    after = doubts.hand_out({b"k"})
    doubts.finish(b"k", told=told)
    assert before == ({b"other"} if told else {b"k", b"other"})
    assert after == {b"k"}
    doubts.finish(b"never begun", told=True)


def test_names_are_unanswered_until_they_are_answered(doubts: Doubts) -> None:
    doubts.miss(b"missed")
    doubts.fail(b"failed")
    assert set(doubts.unanswered) == {b"missed", b"failed"}
    assert doubts.are_stuck({b"failed"})
    assert not doubts.are_stuck({b"missed", b"failed"})  # of the missed one a look may well tell
    assert not doubts.are_stuck(set())
    doubts.answer(b"failed")
    doubts.answer(b"missed")
    assert not doubts.unanswered
    assert not doubts.are_stuck({b"failed"})


def test_all_unanswered_names_have_their_turn_to_be_asked_about_again(
    doubts: Doubts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts_module, "_RETRY_NAMES", 3)
    names = {b"%d" % number for number in range(7)}
    for name in names:
        doubts.fail(name)
    turns = [doubts.retries() for _ in range(3)]
    assert [len(turn) for turn in turns] == [3, 3, 1]
    assert {name for turn in turns for name in turn} == names
    again = doubts.retries()
    assert len(again) == 3
    for name in names - set(again):
        doubts.answer(name)
    assert doubts.retries() + doubts.retries() == []
    assert set(doubts.retries()) == set(again)
