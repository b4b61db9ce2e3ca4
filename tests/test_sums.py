"""index.py: sums by namespace and owner, and who is told of what comes."""

from __future__ import annotations

import random
from collections import Counter

from storekeeperd import sight
from storekeeperd.index import NOBODY, Index, Totals, charge_of
from storekeeperd.sight import ABSENT


def test_an_object_is_charged_for_whole_blocks() -> None:
    assert [charge_of(size) for size in (0, 1, 4095, 4096, 4097)] == [0, 4096, 4096, 4096, 8192]


def test_what_lives_on_simply_is_told_to_nobody() -> None:
    index = Index()
    told: list[tuple[bytes, int]] = []
    index.on_life = lambda name, seen, _was: told.append((name, seen))
    index.assign(b"k", sight.of(1 << 40, (1 << 32) - 1, (1 << 32) - 1))
    assert told == []
    lives = [{"pinned": True}, {"expires_ms": 5}, {"process": 7 << 22 | 1}]
    expected = [(b"k", sight.of(1, 1, 1, **life)) for life in lives]  # type: ignore[arg-type]
    for name, seen in expected:
        index.assign(name, seen)
    assert told == expected


def test_who_follows_a_namespace_is_told_of_what_is_new_there() -> None:
    index = Index()
    told: list[tuple[bytes, int]] = []
    index.assign(b"a/early", 1)
    index.followed = {b"a/": told}
    index.confirm([b"a/scanned"])
    for name in (b"k", b"b/k", b"a/early", b"a/k", b"a/k", b"a/scanned"):
        index.assign(name, 2)
    index.assign(b"a/k", ABSENT)
    index.assign(b"a/k", 3)
    assert told == [(b"a/k", 2), (b"a/scanned", 2), (b"a/k", 3)]


def test_the_sums_of_every_owner_and_namespace_stay_true_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    index = Index()
    there: dict[bytes, int] = {}
    names = [space + b"%d" % number for space in (b"", b"a/", b"b/") for number in range(8)]
    for _ in range(2000):
        name = chance.choice(names)
        if chance.random() < 0.1:
            index.confirm([name])
            there.setdefault(name, -1)
        else:
            seen = chance.choice((ABSENT, sight.of(chance.randint(0, 9000), chance.randrange(3), 0)))
            index.assign(name, seen)
            there.pop(name, None)
            if seen != ABSENT:
                there[name] = seen
        expected: dict[tuple[bytes, int], Totals] = {}
        for other, seen in there.items():
            prefix = other[: other.find(b"/") + 1]
            size = max(0, sight.size_of(seen))
            owner = NOBODY if seen < 0 else sight.owner_of(seen)
            expected.setdefault((prefix, owner), Totals()).add(Totals(1, int(seen < 0), size, charge_of(size)))
        assert {(prefix, owner): totals for prefix, owner, totals in index.cells()} == expected
        owners = Counter(owner for _, owner in expected)
        for owner in owners:
            of_owner = Totals()
            for (_, other_owner), totals in expected.items():
                if other_owner == owner:
                    of_owner.add(totals)
            assert index.of_owner(owner) == of_owner
            for prefix in (b"", b"a/", b"b/"):
                cell = expected.get((prefix, owner), Totals())
                assert index.cell(prefix, owner) == cell
                assert index.sums(prefix, owner) == (index.whole, index.totals(prefix), of_owner, cell)
