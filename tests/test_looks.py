"""looks.py: names that wait for a look, and which of the looks under way count."""

from __future__ import annotations

import itertools
import random

import pytest

from storekeeperd.looks import Looks, Questions


def start(looks: Looks, name: bytes = b"k") -> int:
    return looks.start((name,))


# -- questions


def test_names_are_taken_in_the_order_in_which_they_came_each_once() -> None:
    questions = Questions()
    for name in (b"a", b"b", b"a", b"c", b"d"):
        questions.add(name)
    assert questions.take(2) == [b"a", b"b"]
    questions.add(b"c")
    questions.add_all({b"d": None, b"a": None})
    assert len(questions) == 3
    assert list(questions) == [b"c", b"d", b"a"]
    assert [name in questions for name in (b"a", b"b", b"c")] == [True, False, True]
    assert questions.take(2) + questions.take(2) == [b"c", b"d", b"a"]
    assert questions.take(2) == []


@pytest.mark.parametrize("limit", [0, -1])
def test_nothing_is_taken_if_nothing_is_wanted(limit: int) -> None:
    questions = Questions()
    for number in range(5):
        questions.add(b"%d" % number)
    questions.take(1)
    assert questions.take(limit) == []
    assert len(questions) == 4


def test_whatever_is_added_is_taken_once() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    questions, waiting = Questions(), []
    for _ in range(5000):
        if rng.random() < 0.6:
            name = b"%d" % rng.randrange(30)
            questions.add(name)
            if name not in waiting:
                waiting.append(name)
        else:
            taken = questions.take(rng.randrange(4))
            assert taken == waiting[: len(taken)]
            del waiting[: len(taken)]
        assert len(questions) == len(waiting)
        assert questions.without({b"1", b"2"}) == {b"1", b"2"} - set(waiting)


# -- which looks count


def test_a_look_alone_settles_everything() -> None:
    looks = Looks()
    looks.ask(b"k")
    assert looks.questions.take(1) == [b"k"]
    assert looks.told(b"k", start(looks)) == (True, True, False, True)
    assert not looks


def test_a_question_during_a_look_is_asked_again() -> None:
    looks = Looks()
    number = start(looks)
    looks.ask(b"k")
    assert not looks.questions
    assert looks.told(b"k", number) == (True, False, True, False)


def test_a_look_that_was_started_after_the_question_answers_it() -> None:
    looks = Looks()
    old = start(looks)
    looks.ask(b"k")
    young = start(looks)
    assert looks.told(b"k", old) == (True, False, False, False)
    assert looks.told(b"k", young) == (True, True, False, False)


def test_void_looks_do_not_count_and_the_newest_is_made_again() -> None:
    looks = Looks()
    old, new = start(looks), start(looks)
    looks.void(b"k")
    assert looks.told(b"k", old) == (False, False, False, False)
    assert looks.told(b"k", new) == (False, False, True, False)
    assert not looks


def test_looks_that_are_started_after_all_were_void_count() -> None:
    looks = Looks()
    old = start(looks)
    looks.void_all()
    young = start(looks)
    assert looks.told(b"k", young).settles
    assert looks.told(b"k", old) == (False, False, False, False)


def test_a_look_that_is_told_late_does_not_count_though_new_ones_were_started_meanwhile() -> None:
    looks = Looks()
    late, void = start(looks), start(looks)
    looks.void(b"k")
    assert looks.told(b"k", void).again
    start(looks)
    assert not looks.told(b"k", late).counts


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_last_that_counts_is_the_youngest(order: tuple[int, ...]) -> None:
    looks = Looks()
    numbers = [start(looks) for _ in range(4)]
    told = [position for position in order if looks.told(b"k", numbers[position]).counts]
    assert told == sorted(told)
    assert told[-1] == 3
    assert not looks


def test_looks_at_other_names_are_none_of_its_business() -> None:
    looks = Looks()
    number = looks.start((b"a", b"b"))
    other = looks.start((b"b", b"c"))
    looks.void(b"c")
    assert sorted(looks.names()) == [b"a", b"b", b"c"]
    assert looks.told(b"a", number).settles
    assert looks.told(b"b", number).settles
    assert looks.told(b"b", other).settles
    assert not looks.told(b"c", other).counts
    assert looks.told(b"never started", 1) == (False, False, False, False)
    assert looks.idle([b"a", b"b", b"c"]) == {b"a", b"b", b"c"}
