"""histories.py: what can be explained, and what cannot."""

from __future__ import annotations

import random

import pytest

from histories import Belief, Call, State, effects, inexplicable


def put(invoked: int, returned: int, value: str, *, again: bool = False) -> Call:
    return Call(invoked, returned, "put", value, True, again)


def new(invoked: int, returned: int, value: str, answer: bool, *, again: bool = False) -> Call:
    return Call(invoked, returned, "new", value, answer, again)


def evict(invoked: int, returned: int, answer: bool, *, again: bool = False) -> Call:
    return Call(invoked, returned, "evict", None, answer, again)


def get(invoked: int, returned: int, value: State) -> Call:
    return Call(invoked, returned, "get", value, value is not None)


def exists(invoked: int, returned: int, answer: bool) -> Call:
    return Call(invoked, returned, "exists", None, answer)


def explained_from(*calls: Call) -> Belief | None:
    """Returns the least that must be believed to explain a history; None if nothing does."""
    return next((belief for belief in Belief if not inexplicable(calls, belief)), None)


def test_calls_one_after_the_other_are_explained_in_their_order_alone() -> None:
    assert explained_from(put(1, 2, "a"), get(3, 4, "a"), evict(5, 6, True), get(7, 8, None)) is Belief.ONCE
    assert explained_from(put(1, 2, "a"), put(3, 4, "b"), get(5, 6, "a")) is None
    assert explained_from(put(1, 2, "a"), evict(3, 4, False)) is None
    assert explained_from(evict(1, 2, True)) is None
    assert explained_from(put(1, 2, "a"), exists(3, 4, False)) is None
    assert explained_from(put(1, 2, "a"), new(3, 4, "b", True)) is None
    assert explained_from(new(1, 2, "b", False)) is None
    assert explained_from(new(1, 2, "b", True), new(3, 4, "b", True), new(5, 6, "c", False)) is Belief.ONCE


def test_calls_at_the_same_time_are_explained_in_any_order() -> None:
    for value in ("a", "b"):
        assert explained_from(put(1, 4, "a"), put(2, 3, "b"), get(5, 6, value)) is Belief.ONCE
    assert explained_from(put(1, 4, "a"), get(2, 3, None), get(2, 3, "a")) is Belief.ONCE
    assert explained_from(put(1, 4, "a"), get(2, 3, "a"), evict(2, 3, True), get(5, 6, "a")) is None


def test_bytes_that_nobody_put_are_never_explained() -> None:
    assert inexplicable([put(1, 9, "a", again=True), get(2, 3, "x")], Belief.AGAIN) == [get(2, 3, "x")]


def test_a_value_that_was_superseded_does_not_come_back() -> None:
    history = [put(1, 2, "a"), put(3, 4, "b"), get(5, 6, "b"), get(7, 8, "a"), get(9, 10, "a")]
    assert inexplicable(history, Belief.AGAIN) == [get(7, 8, "a")]


def test_an_answer_may_be_lost_only_where_the_daemon_was_killed() -> None:
    assert explained_from(put(1, 2, "a"), evict(3, 4, False, again=True), get(5, 6, None)) is Belief.ANSWER_LOST
    assert explained_from(new(1, 4, "a", False, again=True), get(2, 3, "a")) is Belief.ANSWER_LOST
    assert explained_from(put(1, 2, "a"), evict(3, 4, False), get(5, 6, None)) is None


def test_a_call_that_was_made_again_hits_what_came_between() -> None:
    between = [put(3, 4, "b"), get(5, 6, "b")]
    assert explained_from(put(1, 8, "a", again=True), get(1, 2, "a"), *between, get(9, 10, "a")) is Belief.PUT_AGAIN
    gone = [put(-1, 0, "a"), evict(1, 8, True, again=True), get(1, 2, None), *between, get(9, 10, None)]
    assert explained_from(*gone) is Belief.AGAIN
    assert explained_from(new(1, 8, "a", True, again=True), evict(2, 3, True), get(9, 10, "a")) is Belief.PUT_AGAIN


def test_after_a_call_that_nothing_explains_the_others_are_judged_on() -> None:
    history = [put(1, 2, "a"), get(3, 4, "x"), get(5, 6, "x"), evict(7, 8, False), get(9, 10, None)]
    assert inexplicable(history, Belief.ONCE) == [get(3, 4, "x"), evict(7, 8, False)]


@pytest.mark.parametrize("seed", range(30))
def test_what_really_happened_is_always_explained(seed: int) -> None:
    """Calls of four clients that take effect at a moment each, chosen at random, on a real value."""
    chance = random.Random(seed)
    moments = []
    for client in range(4):
        now = 0
        for number in range(60):
            invoked = now + chance.randrange(1, 20)
            effect = invoked + chance.randrange(1, 20)
            now = effect + chance.randrange(1, 20)
            verb = chance.choice(("put", "new", "evict", "get", "exists"))
            moments.append((effect, invoked, now, verb, f"{client}-{number}"))
    state: State = None
    history = []
    for _, invoked, returned, verb, value in sorted(moments):
        answers = [Call(invoked, returned, verb, state if verb == "get" else value, answer) for answer in (True, False)]
        call, after = next((call, after) for call in answers for after in effects(call, state, Belief.ONCE))
        state = after
        history.append(call)
    chance.shuffle(history)
    assert inexplicable(history, Belief.ONCE) == []
    reads = [call for call in history if call.verb == "get" and call.value is not None]
    wrong = chance.choice(reads)
    history[history.index(wrong)] = get(wrong.invoked, wrong.returned, "nobody's")
    assert inexplicable(history, Belief.ONCE)
