"""Whether a history of calls on one key can be explained: each call took effect once between its begin and its end.

The search goes along the begins and ends of the calls and keeps all pairs of a state of the key and of the calls under
way that have taken effect in it. At an end the call must have. There are never more calls under way than clients, so
that the pairs are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

State = str | None
"""What is under the key; None if nothing is."""


class Belief(IntEnum):
    """What a call may have been whose daemon was killed under it, so that it was perhaps made again."""

    ONCE = 0
    """Nothing: it took effect once, and its answer is the true one."""
    ANSWER_LOST = 1
    """It took effect once, but the answer is that of a second time: evict says False though it was this call that
    removed the object, put without replace is refused though it was this call that stored these bytes."""
    PUT_AGAIN = 2
    """The same; and a put took effect twice: somebody evicted the object in between, or put a new one after that."""
    AGAIN = 3
    """It took effect once or several times, the last time with its answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        invoked, returned: nanoseconds of the clock that all processes share.
        verb: `put` (with replace), `new` (a put without), `evict`, `get` or `exists`.
        value: what is put, or was got.
        answer: of `evict` and `exists`; of `new` whether it was not refused.
        perhaps_again: whether the daemon was killed under it.
    """

    invoked: int
    returned: int
    verb: str
    value: State
    answer: bool
    perhaps_again: bool = False


def effects(call: Call, state: State, belief: Belief) -> Iterator[State]:
    """Yields the states after a call that took effect in a state and has this answer; none if it cannot have it."""
    lost = belief >= Belief.ANSWER_LOST and call.perhaps_again
    if call.verb == "put":
        yield call.value
    elif call.verb == "new":
        if call.answer:
            if state in (None, call.value):
                yield call.value
        elif state is not None:
            yield state
        elif lost:
            yield call.value
    elif call.verb == "evict":
        if call.answer == (state is not None) or (lost and not call.answer):
            yield None
    elif call.verb == "get":
        if call.value == state:
            yield state
    elif call.answer == (state is not None):
        yield state


def earlier_effect(call: Call, state: State) -> State:
    """Returns the state after a call that took effect in a state, and whose answer nobody heard."""
    if call.verb == "put":
        return call.value
    if call.verb == "new":
        return call.value if state is None else state
    return None if call.verb == "evict" else state


def inexplicable(calls: Iterable[Call], belief: Belief, first: State = None) -> list[Call]:
    """Returns the calls that nothing explains; after each of them the search goes on as if it had been right.

    Args:
        calls: on one key.
        belief: what is thought possible.
        first: what was under the key before.
    """
    history = list(calls)
    moments = sorted(
        [(call.invoked, 0, number) for number, call in enumerate(history)]
        + [(call.returned, 1, number) for number, call in enumerate(history)]
    )
    possible: set[tuple[State, frozenset[int]]] = {(first, frozenset())}
    under_way: set[int] = set()
    found = []
    for _, ends, number in moments:
        if not ends:
            under_way.add(number)
            continue
        reached = _reached(history, possible, under_way, belief)
        possible = {(state, done - {number}) for state, done in reached if number in done}
        under_way.remove(number)
        if not possible:
            call = history[number]
            found.append(call)
            possible = {(state, done - {number}) for state, done in _as_if(call, reached)}
    return found


def _reached(
    history: list[Call], possible: set[tuple[State, frozenset[int]]], under_way: set[int], belief: Belief
) -> set[tuple[State, frozenset[int]]]:
    """Returns all that can have come of it, whatever of the calls under way took effect, in whatever order."""
    reached = set(possible)
    left = list(possible)
    while left:
        state, done = left.pop()
        following: list[tuple[State, frozenset[int]]] = []
        for number in under_way - done:
            call = history[number]
            following += [(after, done | {number}) for after in effects(call, state, belief)]
            again = belief == Belief.AGAIN or (belief == Belief.PUT_AGAIN and call.verb in ("new", "put"))
            if again and call.perhaps_again:
                following.append((earlier_effect(call, state), done))
        for pair in following:
            if pair not in reached:
                reached.add(pair)
                left.append(pair)
    return reached


def _as_if(call: Call, reached: set[tuple[State, frozenset[int]]]) -> Iterator[tuple[State, frozenset[int]]]:
    for state, done in reached:
        if call.verb in ("put", "get") or (call.verb == "new" and call.answer):
            yield call.value, done
        elif call.verb == "evict":
            yield None, done
        else:
            yield state, done
