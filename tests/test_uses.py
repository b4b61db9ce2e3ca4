"""uses.py: when objects were used last."""

from __future__ import annotations

import random

import pytest

from storekeeperd import sight
from storekeeperd.uses import Uses

LEASE = 100


def come(uses: Uses, name: bytes, created_s: int) -> None:
    uses.news.append((name, sight.of(1, 0, created_s)))


def drain(uses: Uses, now_ms: int) -> list[bytes]:
    names = []
    while (name := uses.take(now_ms, LEASE)) is not None:
        names.append(name)
    return names


def test_nothing_was_used() -> None:
    uses = Uses()
    assert uses.take(0, LEASE) is None
    assert len(uses) == 0
    assert not uses.is_leased(b"k", 0, LEASE)


def test_the_least_recently_used_goes_first() -> None:
    uses = Uses()
    for moment, name in enumerate([b"a", b"b", b"c", b"a"]):
        uses.use(name, moment)
    assert drain(uses, 1000) == [b"b", b"c", b"a"]
    assert len(uses) == 0


def test_what_was_never_used_goes_before_that_oldest_first() -> None:
    uses = Uses()
    uses.use(b"used", 0)
    come(uses, b"young", 20)
    come(uses, b"old", 10)
    come(uses, b"used", 1)
    assert drain(uses, 1000) == [b"old", b"young", b"used"]


def test_what_was_found_and_is_used_is_used() -> None:
    uses = Uses()
    come(uses, b"a", 1)
    come(uses, b"b", 2)
    uses.use(b"a", 0)
    assert drain(uses, 1000) == [b"b", b"a"]


def test_what_was_read_is_leased_for_a_while() -> None:
    uses = Uses()
    uses.use(b"k", 1000)
    assert uses.is_leased(b"k", 1000 + LEASE - 1, LEASE)
    assert uses.take(1000 + LEASE - 1, LEASE) is None
    assert not uses.is_leased(b"k", 1000 + LEASE, LEASE)
    assert uses.take(1000 + LEASE, LEASE) == b"k"


def test_what_was_only_put_is_not_leased_and_does_not_wait_behind_a_lease() -> None:
    uses = Uses()
    uses.use(b"read", 1000)
    uses.use(b"put", 1010, lease=False)
    assert not uses.is_leased(b"put", 1010, LEASE)
    assert drain(uses, 1020) == [b"put"]
    assert drain(uses, 1000 + LEASE) == [b"read"]


def test_puts_and_reads_are_in_one_order() -> None:
    uses = Uses()
    uses.use(b"1", 1, lease=False)
    uses.use(b"2", 2)
    uses.use(b"3", 3, lease=False)
    uses.use(b"4", 4)
    uses.use(b"1", 5)
    assert drain(uses, 1000) == [b"2", b"3", b"4", b"1"]


def test_what_is_replaced_stays_leased_to_who_was_told_that_it_is_there() -> None:
    uses = Uses()
    uses.use(b"k", 1000)
    uses.use(b"k", 1010, lease=False)
    assert uses.is_leased(b"k", 1020, LEASE)
    assert uses.take(1020, LEASE) is None


def test_a_name_is_taken_once() -> None:
    uses = Uses()
    come(uses, b"k", 1)
    uses.use(b"k", 1)
    uses.use(b"k", 2, lease=False)
    assert drain(uses, 1000) == [b"k"]


def test_names_that_went_are_forgotten_when_there_are_too_many() -> None:
    uses = Uses()
    for number in range(10):
        uses.use(b"read-%d" % number, number)
        uses.use(b"put-%d" % number, number, lease=False)
        come(uses, b"found-%d" % number, number)
    uses.prune(lambda name: name.endswith(b"7"), 30)
    assert len(uses) == 30
    uses.prune(lambda name: name.endswith(b"7"), 29)
    assert drain(uses, 1000) == [b"found-7", b"read-7", b"put-7"]


@pytest.mark.parametrize("round_", range(10))
def test_the_same_order_as_in_a_naive_list_whatever_happens(seed: int, round_: int) -> None:
    chance = random.Random(seed + round_)
    uses = Uses()
    model: dict[bytes, tuple[int, int, bool]] = {}  # name -> (0 found, 1 used), when, leased
    names = [b"%d" % number for number in range(12)]
    now = 0
    for _ in range(2000):
        now += chance.randint(1, 20)
        name = chance.choice(names)
        what = chance.random()
        if what < 0.3:
            uses.use(name, now)
            model[name] = 1, now, True
        elif what < 0.6:
            uses.use(name, now, lease=False)
            model[name] = 1, now, name in model and model[name][2]
        elif what < 0.7:
            if name not in model:
                come(uses, name, now)
                model[name] = 0, now, False
        else:
            free = [(*told[:2], other) for other, told in model.items() if not told[2] or now - told[1] >= LEASE]
            taken = uses.take(now, LEASE)
            assert taken == (min(free)[2] if free else None)
            if taken is not None:
                del model[taken]
        for other in names:
            leased = other in model and model[other][2] and now - model[other][1] < LEASE
            assert uses.is_leased(other, now, LEASE) == leased
