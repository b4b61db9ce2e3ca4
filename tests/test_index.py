"""index.py: names and sizes in memory."""

from __future__ import annotations

import random

import pytest

from storekeeperd.index import Index
from storekeeperd.operations import ABSENT, UNSEEN


def test_an_empty_index_has_nothing() -> None:
    index = Index()
    assert len(index) == index.known_bytes == index.sized_objects == 0
    assert not index.has(b"k")
    assert index.size(b"k") is None
    assert index.names() == []


@pytest.mark.parametrize("size", [0, 1, 255, 256, 2**40])
def test_a_look_enters_a_name_with_its_size(size: int) -> None:
    index = Index()
    index.assign(b"k", size)
    assert index.has(b"k")
    assert index.size(b"k") == size
    assert (len(index), index.known_bytes, index.sized_objects) == (1, size, 1)


def test_a_later_look_replaces_the_size() -> None:
    index = Index()
    index.assign(b"k", 10)
    index.assign(b"k", 3)
    assert index.size(b"k") == 3
    assert (len(index), index.known_bytes, index.sized_objects) == (1, 3, 1)


def test_a_look_that_finds_nothing_removes_the_name() -> None:
    index = Index()
    index.assign(b"k", 10)
    index.assign(b"k", ABSENT)
    assert not index.has(b"k")
    assert (len(index), index.known_bytes, index.sized_objects) == (0, 0, 0)


def test_nothing_is_removed_twice() -> None:
    index = Index()
    index.assign(b"k", ABSENT)
    assert (len(index), index.known_bytes, index.sized_objects) == (0, 0, 0)


def test_a_look_that_saw_nothing_is_not_for_the_index() -> None:
    with pytest.raises(AssertionError):
        Index().assign(b"k", UNSEEN)


def test_a_scan_enters_names_without_sizes() -> None:
    index = Index()
    index.confirm([b"a", b"b"])
    assert index.has(b"a")
    assert index.size(b"a") == -1
    assert (len(index), index.known_bytes, index.sized_objects) == (2, 0, 0)
    assert sorted(index.unsized([b"a", b"b", b"c"])) == [b"a", b"b"]


def test_a_look_gives_a_scanned_name_its_size() -> None:
    index = Index()
    index.confirm([b"a", b"b"])
    index.assign(b"a", 4)
    index.assign(b"b", ABSENT)
    assert index.unsized([b"a", b"b"]) == []
    assert (len(index), index.known_bytes, index.sized_objects) == (1, 4, 1)


def test_a_scan_leaves_known_sizes_alone() -> None:
    index = Index()
    index.assign(b"k", 7)
    index.next_mark()
    index.confirm([b"k"])
    assert index.size(b"k") == 7
    assert index.known_bytes == 7


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
    assert (index.known_bytes, index.sized_objects) == (300, 1)


def test_a_scan_doubts_sizes_that_are_older_than_itself() -> None:
    index = Index()
    index.assign(b"old", 7)
    index.next_mark()
    index.assign(b"new", 7)
    index.confirm([b"old", b"new"])
    assert index.unsized([b"old", b"new"]) == [b"old"]
    index.assign(b"old", 8)
    assert index.unsized([b"old", b"new"]) == []
    assert (index.size(b"old"), index.known_bytes, index.sized_objects) == (8, 15, 2)


def test_a_doubted_size_is_counted_once_and_can_go() -> None:
    index = Index()
    index.assign(b"k", 7)
    index.next_mark()
    index.confirm([b"k"])
    index.confirm([b"k"])
    assert (index.size(b"k"), index.known_bytes, index.sized_objects) == (7, 7, 1)
    index.next_mark()
    assert index.unmarked([b"k"]) == [b"k"]
    assert index.unsized([b"k"]) == [b"k"]
    index.assign(b"k", ABSENT)
    assert (len(index), index.known_bytes, index.sized_objects) == (0, 0, 0)


def test_the_totals_stay_true_whatever_happens() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    index = Index()
    sizes: dict[bytes, int] = {}
    marks: dict[bytes, int] = {}
    doubted: set[bytes] = set()
    generation = 0
    names = [b"%d" % number for number in range(20)]
    for _ in range(3000):
        name = rng.choice(names)
        what = rng.randrange(4)
        if what == 0:
            index.next_mark()
            generation += 1
        elif what == 1:
            index.confirm([name])
            if sizes.setdefault(name, -1) >= 0 and marks[name] != generation:
                doubted.add(name)
            marks[name] = generation
        else:
            seen = rng.choice([ABSENT, 0, 1, 5000])
            index.assign(name, seen)
            sizes.pop(name, None)
            doubted.discard(name)
            if seen != ABSENT:
                sizes[name] = seen
                marks[name] = generation
        sized = [size for size in sizes.values() if size >= 0]
        assert (len(index), index.sized_objects, index.known_bytes) == (len(sizes), len(sized), sum(sized))
    assert {name: index.size(name) for name in index.names()} == sizes
    assert set(index.unsized(names)) == {name for name, size in sizes.items() if size < 0} | doubted
    assert set(index.unmarked(names)) == {name for name in sizes if marks[name] != generation}
