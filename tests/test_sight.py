"""sight.py: what a look saw, in one number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storekeeperd import sight
from storekeeperd.sight import ABSENT, EXPIRES_MS_MAX, LIFE_AT, PID_MAX, SIZE_BITS, SIZE_MAX, UNSEEN

SIZES = st.integers(0, SIZE_MAX)
WORDS = st.integers(0, 2**32 - 1)
MOMENTS = st.integers(0, EXPIRES_MS_MAX)
PROCESSES = st.integers(0, 2**64 - 1)


@given(SIZES, WORDS, WORDS, st.booleans(), MOMENTS, PROCESSES)
def test_what_is_put_in_comes_out(
    size: int, owner: int, created_s: int, pinned: bool, expires_ms: int, process: int
) -> None:
    seen = sight.of(size, owner, created_s, pinned=pinned, expires_ms=expires_ms, process=process)
    assert seen >= 0
    assert sight.size_of(seen) == size
    assert sight.owner_of(seen) == owner
    assert sight.created_of(seen) == created_s
    assert sight.is_pinned(seen) is pinned
    assert sight.expires_of(seen) == (0 if pinned else expires_ms)
    assert sight.process_of(seen) == process


@given(SIZES)
def test_a_plain_size_is_a_sight(size: int) -> None:
    assert size == sight.of(size, 0, 0)
    assert sight.size_of(size) == size
    assert (sight.owner_of(size), sight.created_of(size)) == (0, 0)
    assert (sight.is_pinned(size), sight.expires_of(size), sight.process_of(size)) == (False, 0, 0)


@given(SIZES, WORDS, WORDS)
def test_an_object_that_lives_on_has_nothing_in_the_bits_of_life(size: int, owner: int, created_s: int) -> None:
    assert sight.of(size, owner, created_s) < 1 << LIFE_AT


@given(SIZES, WORDS, WORDS)
def test_whatever_ends_a_life_or_prevents_it_stands_in_the_bits_of_life(size: int, owner: int, created_s: int) -> None:
    for life in ({"pinned": True}, {"expires_ms": 1}, {"process": 1}):
        assert sight.of(size, owner, created_s, **life) >= 1 << LIFE_AT  # type: ignore[arg-type]


def test_what_is_not_there_has_neither_size_nor_process() -> None:
    assert ABSENT != UNSEEN
    for nothing in (ABSENT, UNSEEN):
        assert nothing < 0
        assert sight.size_of(nothing) == nothing
        assert sight.process_of(nothing) == 0


def test_what_is_too_large_spills_over_into_no_other_field() -> None:
    most = sight.of(SIZE_MAX, 7, 2**32 - 1, expires_ms=EXPIRES_MS_MAX)
    assert sight.of(SIZE_MAX + 1, 7, 2**32, expires_ms=EXPIRES_MS_MAX + 1) == most
    assert sight.of(1 << 80, 7, 1 << 80, expires_ms=1 << 80) == most
    assert (sight.is_pinned(most), sight.process_of(most)) == (False, 0)


def test_a_user_id_of_minus_one_is_the_largest_one() -> None:  # as chown(2) has it
    assert sight.owner_of(sight.of(1, -1, 0)) == 2**32 - 1


def test_a_file_from_before_the_epoch_came_at_the_epoch() -> None:
    assert sight.of(5, 0, -1) == 5


def test_the_bits_are_where_they_are_said_to_be() -> None:
    assert (SIZE_BITS, LIFE_AT) == (48, 112)
    assert sight.of(0, 1, 0) == 1 << 48
    assert sight.of(0, 0, 1) == 1 << 80
    assert sight.of(0, 0, 0, pinned=True) == 1 << 112
    assert sight.of(0, 0, 0, expires_ms=1) == 1 << 113
    assert sight.of(0, 0, 0, process=1) == 1 << 157


def test_what_is_pinned_expires_when_it_is_released() -> None:
    pinned = sight.of(5, 1, 1, pinned=True, expires_ms=77)
    assert sight.expires_of(pinned) == 0
    assert sight.expires_of(pinned & ~(1 << LIFE_AT)) == 77


def test_a_process_is_a_pid_and_when_it_was_started() -> None:
    assert PID_MAX >= 4_194_304 - 1  # PID_MAX_LIMIT, proc_pid(5)
    assert sight.process_of(sight.of(5, 1, 1, process=(123_456 << 22) | 4711)) & PID_MAX == 4711
