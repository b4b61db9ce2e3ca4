"""index.py: names in memory, what was seen of each, and the sums of it."""

from __future__ import annotations

import random

import pytest

from storekeeperd import sight
from storekeeperd.index import NOBODY, Index, Totals, charge_of
from storekeeperd.sight import ABSENT, UNSEEN


def sums(objects: int, unsized: int, *sizes: int) -> Totals:
    """The sums over so many objects, of which these sizes are known; they are charged for in blocks of 4096 bytes."""
    return Totals(objects, unsized, sum(sizes), sum((size + 4095) // 4096 for size in sizes) * 4096)


def test_an_empty_index_has_nothing() -> None:
    index = Index()
    assert len(index) == 0
    assert index.whole == index.totals(b"") == index.totals(b"team/") == sums(0, 0)
    assert not index.has(b"k")
    assert index.size(b"k") is None
    assert index.names() == []


@pytest.mark.parametrize("size", [0, 1, 255, 256, 2**40])
def test_a_look_enters_a_name_with_its_size(size: int) -> None:
    index = Index()
    index.assign(b"k", size)
    assert index.has(b"k")
    assert index.size(b"k") == size
    assert (len(index), index.whole) == (1, sums(1, 0, size))


def test_a_later_look_replaces_the_size() -> None:
    index = Index()
    index.assign(b"k", 10)
    index.assign(b"k", 3)
    assert index.size(b"k") == 3
    assert (len(index), index.whole) == (1, sums(1, 0, 3))


def test_a_look_that_finds_nothing_removes_the_name() -> None:
    index = Index()
    index.assign(b"k", 10)
    index.assign(b"k", ABSENT)
    assert not index.has(b"k")
    assert (len(index), index.whole) == (0, sums(0, 0))


def test_nothing_is_removed_twice() -> None:
    index = Index()
    index.assign(b"k", ABSENT)
    assert (len(index), index.whole) == (0, sums(0, 0))


@pytest.mark.parametrize("known", [True, False])
def test_a_look_that_saw_nothing_is_not_for_the_index(known: bool) -> None:
    index = Index()
    if known:
        index.assign(b"k", 3)
    with pytest.raises(AssertionError):
        index.assign(b"k", UNSEEN)


def test_every_namespace_has_totals_of_its_own() -> None:
    index = Index()
    index.assign(b"k", 1)
    index.assign(b"team/k", 10)
    index.assign(b"team/l", 20)
    index.assign(b"other/k", 400)
    index.confirm([b"u"])
    index.confirm([b"team/u", b"team/k"])
    assert index.whole == sums(6, 2, 1, 10, 20, 400)
    assert index.totals(b"") == sums(2, 1, 1)
    assert index.totals(b"team/") == sums(3, 1, 10, 20)
    assert index.totals(b"other/") == sums(1, 0, 400)
    assert index.totals(b"nobody/") == sums(0, 0)
    index.assign(b"team/l", ABSENT)
    index.assign(b"team/u", 5)
    assert index.totals(b"team/") == sums(2, 0, 10, 5)
    assert index.totals(b"") == sums(2, 1, 1)


def test_totals_are_a_copy() -> None:
    index = Index()
    index.assign(b"team/k", 1)
    before = index.totals(b""), index.totals(b"team/")
    index.assign(b"k", 1)
    index.assign(b"team/l", 1)
    assert before == (sums(0, 0), sums(1, 0, 1))


def test_a_scan_enters_names_without_sizes() -> None:
    index = Index()
    index.confirm([b"a", b"b"])
    assert index.has(b"a")
    assert index.size(b"a") == -1
    assert (len(index), index.whole) == (2, sums(2, 2, 0))
    assert sorted(index.unsized([b"a", b"b", b"c"])) == [b"a", b"b"]


def test_a_look_gives_a_scanned_name_its_size() -> None:
    index = Index()
    index.confirm([b"a", b"b"])
    index.assign(b"a", 4)
    index.assign(b"b", ABSENT)
    assert index.unsized([b"a", b"b"]) == []
    assert (len(index), index.whole) == (1, sums(1, 0, 4))


def test_a_scan_leaves_known_sizes_alone() -> None:
    index = Index()
    index.assign(b"k", 7)
    index.next_mark()
    index.confirm([b"k"])
    assert index.size(b"k") == 7
    assert index.whole == sums(1, 0, 7)


def test_what_a_scan_did_not_see_is_unmarked() -> None:
    index = Index()
    index.assign(b"sized", 1)
    index.confirm([b"unsized", b"seen"])
    index.next_mark()
    assert sorted(index.unmarked(index.names())) == [b"seen", b"sized", b"unsized"]
    index.confirm([b"seen"])
    index.assign(b"looked", 1)
    assert sorted(index.unmarked(index.names())) == [b"sized", b"unsized"]
    assert index.unmarked([b"never heard of"]) == []


def test_sizes_survive_any_number_of_scans() -> None:
    index = Index()
    index.assign(b"k", 300)
    index.confirm([b"u"])
    for _ in range(600):
        index.next_mark()
        assert sorted(index.unmarked(index.names())) == [b"k", b"u"]
        index.confirm([b"k", b"u"])
        assert index.unmarked(index.names()) == []
    assert (index.size(b"k"), index.size(b"u")) == (300, -1)
    assert index.whole == sums(2, 1, 300)


def test_a_scan_doubts_sizes_that_are_older_than_itself() -> None:
    index = Index()
    index.assign(b"old", 7)
    index.next_mark(doubt_sizes=True)
    index.assign(b"new", 7)
    index.confirm([b"old", b"new"])
    assert index.unsized([b"old", b"new"]) == [b"old"]
    assert index.whole == sums(2, 1, 7, 7)
    index.assign(b"old", 8)
    assert index.unsized([b"old", b"new"]) == []
    assert (index.size(b"old"), index.whole) == (8, sums(2, 0, 8, 7))


def test_a_doubted_size_is_counted_once_and_can_go() -> None:
    index = Index()
    index.assign(b"k", 7)
    index.next_mark(doubt_sizes=True)
    index.confirm([b"k"])
    index.confirm([b"k"])
    assert (index.size(b"k"), index.whole) == (7, sums(1, 1, 7))
    index.next_mark(doubt_sizes=True)
    index.confirm([b"k"])
    assert index.whole == sums(1, 1, 7)
    index.next_mark()
    assert index.unmarked([b"k"]) == [b"k"]
    assert index.unsized([b"k"]) == [b"k"]
    index.assign(b"k", ABSENT)
    assert (len(index), index.whole) == (0, sums(0, 0))


@pytest.mark.parametrize("chunk", [[], [b"a"], [b"a", b"b", b"a", b"b"]])
def test_a_first_scan_enters_what_it_sees_however_often_it_sees_it(chunk: list[bytes]) -> None:
    index = Index()
    index.next_mark()
    for _ in range(2):
        index.confirm(chunk)
    assert sorted(index.names()) == sorted(set(chunk))
    assert index.whole == sums(len(set(chunk)), len(set(chunk)), 0)
    assert index.unmarked(index.names()) == []


def test_a_first_scan_leaves_alone_what_was_looked_at_meanwhile() -> None:
    index = Index()
    index.next_mark()
    index.confirm([b"a"])
    index.assign(b"b", 3)
    index.confirm([b"b", b"c"])
    assert index.whole == sums(3, 2, 3)
    assert index.unsized([b"a", b"b", b"c"]) == [b"a", b"c"]


def test_a_later_scan_that_sees_only_new_names_enters_them() -> None:
    index = Index()
    index.assign(b"old", 3)
    index.next_mark()
    index.confirm([b"a", b"b"])
    assert index.unmarked([b"old", b"a", b"b"]) == [b"old"]
    assert index.whole == sums(3, 2, 3)


@pytest.mark.parametrize(("size", "charge"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192), (2**40 + 1, 2**40 + 4096)])
def test_an_object_is_charged_for_in_whole_blocks(size: int, charge: int) -> None:
    index = Index()
    index.assign(b"k", size)
    assert charge_of(size) == index.whole.charged_bytes == charge
    index.assign(b"k", ABSENT)
    assert index.whole.charged_bytes == 0


def test_sums_are_added_field_by_field() -> None:
    totals = sums(1, 1, 5)
    totals.add(sums(2, 0, 5000, 7))
    assert totals == sums(3, 1, 5, 5000, 7)


def test_what_was_seen_is_kept_whole() -> None:
    index = Index()
    seen = sight.of(5, 1000, 1_700_000_000, pinned=True, expires_ms=77, process=(9 << 22) + 4)
    assert index.seen(b"k") is None
    index.confirm([b"k"])
    assert index.seen(b"k") == -1
    index.assign(b"k", seen)
    assert (index.seen(b"k"), index.size(b"k")) == (seen, 5)
    index.next_mark(doubt_sizes=True)
    index.confirm([b"k"])
    assert (index.seen(b"k"), index.size(b"k"), index.unsized([b"k"])) == (seen, 5, [b"k"])


def test_an_assignment_tells_the_size_before() -> None:
    index = Index()
    assert index.assign(b"k", ABSENT) is None
    assert index.assign(b"k", sight.of(5, 1000, 1)) is None
    assert index.assign(b"k", sight.of(6, 1001, 2)) == 5
    assert index.assign(b"k", ABSENT) == 6
    index.confirm([b"k"])
    assert index.assign(b"k", 7) == -1


def test_every_owner_has_sums_of_his_own() -> None:
    index = Index()
    index.assign(b"k", sight.of(1, 1000, 0))
    index.assign(b"team/k", sight.of(10, 1000, 0))
    index.assign(b"team/l", sight.of(5000, 2**32 - 1, 0))
    index.confirm([b"team/u"])
    assert index.of_owner(1000) == sums(2, 0, 1, 10)
    assert index.of_owner(2**32 - 1) == sums(1, 0, 5000)
    assert index.of_owner(NOBODY) == sums(1, 1)
    assert index.of_owner(7) == sums(0, 0)
    assert index.cell(b"team/", 1000) == sums(1, 0, 10)
    assert index.cell(b"", 7) == sums(0, 0)
    assert sorted((prefix, owner, totals.objects) for prefix, owner, totals in index.cells()) == [
        (b"", 1000, 1), (b"team/", NOBODY, 1), (b"team/", 1000, 1), (b"team/", 2**32 - 1, 1),
    ]  # fmt: skip


def test_an_object_that_changes_hands_is_counted_for_its_new_owner() -> None:
    index = Index()
    index.assign(b"k", sight.of(5, 1000, 0))
    index.assign(b"k", sight.of(5, 1001, 0))
    assert (index.of_owner(1000), index.of_owner(1001), index.whole) == (sums(0, 0), sums(1, 0, 5), sums(1, 0, 5))
    assert [owner for _, owner, _ in index.cells()] == [1001]


def test_a_doubted_size_is_in_doubt_for_its_owner_too() -> None:
    index = Index()
    index.assign(b"k", sight.of(5, 1000, 0))
    index.next_mark(doubt_sizes=True)
    index.confirm([b"k"])
    assert index.of_owner(1000) == index.cell(b"", 1000) == sums(1, 1, 5)
    index.assign(b"k", ABSENT)
    assert index.of_owner(1000) == index.cell(b"", 1000) == sums(0, 0)


@pytest.mark.parametrize("life", [{"pinned": True}, {"expires_ms": 1}, {"process": 1}])
def test_an_object_that_does_not_simply_live_on_is_told_of(life: dict[str, int]) -> None:
    index = Index()
    told: list[tuple[bytes, int]] = []
    index.on_life = lambda name, seen, _was: told.append((name, seen))
    index.assign(b"lives on", sight.of(sight.SIZE_MAX, 2**32 - 1, 2**32 - 1))
    index.confirm([b"k"])
    assert told == []
    seen = sight.of(5, 1000, 1, **life)  # type: ignore[arg-type]
    index.assign(b"k", seen)
    assert told == [(b"k", seen)]
    index.assign(b"k", ABSENT)  # that it is no more, too
    assert told == [(b"k", seen), (b"k", ABSENT)]


def test_the_totals_stay_true_whatever_happens() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    index = Index()
    sizes: dict[bytes, int] = {}
    marks: dict[bytes, int] = {}
    doubted: set[bytes] = set()
    generation = 0
    doubting = False
    names = [b"%s%d" % (space, number) for number in range(10) for space in (b"", b"team/", b"other/")]

    def totals(prefix: bytes | None) -> Totals:
        chosen = {
            name: size
            for name, size in sizes.items()
            if prefix is None or name.rpartition(b"/")[0] == prefix.rstrip(b"/")
        }
        known = [size for name, size in chosen.items() if size >= 0]
        unsized = sum(size < 0 or name in doubted for name, size in chosen.items())
        return sums(len(chosen), unsized, *map(sight.size_of, known))

    def owned(owner: int) -> Totals:
        chosen = {name: size for name, size in sizes.items() if size >= 0 and sight.owner_of(size) == owner}
        return sums(len(chosen), len(doubted & chosen.keys()), *map(sight.size_of, chosen.values()))

    for _ in range(3000):
        name = rng.choice(names)
        what = rng.randrange(5)
        if what == 0:
            doubting = rng.random() < 0.5
            index.next_mark(doubt_sizes=doubting)
            generation += 1
        elif what == 1:
            space = name.rpartition(b"/")[0]
            seen_names = rng.sample([other for other in names if other.rpartition(b"/")[0] == space], rng.randint(0, 5))
            index.confirm(seen_names)
            for other in seen_names:
                if sizes.setdefault(other, -1) >= 0 and marks[other] != generation and doubting:
                    doubted.add(other)
                marks[other] = generation
        else:
            seen = rng.choice([ABSENT, ABSENT, 0, 1, 5000])
            if seen > 0:
                seen = sight.of(seen, rng.choice([0, 1000]), generation, pinned=rng.random() < 0.1)
            index.assign(name, seen)
            sizes.pop(name, None)
            doubted.discard(name)
            if seen != ABSENT:
                sizes[name] = seen
                marks[name] = generation
        assert (len(index), index.whole) == (len(sizes), totals(None))
        for prefix in (b"", b"team/", b"other/"):
            assert index.totals(prefix) == totals(prefix)
        for owner in (0, 1000):
            assert index.of_owner(owner) == owned(owner)
        cells = Totals()
        for _, _, cell in index.cells():
            cells.add(cell)
        assert cells == index.whole
    assert {name: index.seen(name) for name in index.names()} == sizes
    assert {name: index.size(name) for name in index.names()} == {n: sight.size_of(seen) for n, seen in sizes.items()}
    assert set(index.unsized(names)) == {name for name, size in sizes.items() if size < 0} | doubted
    assert set(index.unmarked(names)) == {name for name in sizes if marks[name] != generation}
