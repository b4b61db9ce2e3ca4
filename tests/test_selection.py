"""selection.py: which objects a listing tells of, and in what order."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from storekeeper.errors import BadRequest
from storekeeperd import selection, sight
from storekeeperd.index import Index
from storekeeperd.selection import Filter, Listing, check_order, filter_of

NOW_S = 1_000_000


def listing(index: Index, chosen: Filter, ended: dict[bytes, str] | None = None, **more: Any) -> Listing:
    return Listing(index.names(), chosen, index, ended or {}, **more)


def whole(told: Listing, count: int = 100) -> list[bytes]:
    names = []
    while True:
        page = told.page(count)
        assert len(page) <= max(count, told.limit if told.order else 0)
        names += page
        if not told.more:
            return names


@pytest.fixture
def index() -> Index:
    index = Index()
    for number in range(10):
        index.assign(b"k%d" % number, sight.of(number * 100, 1000 + number % 2, NOW_S - number * 10))
        index.assign(b"a/k%d" % number, sight.of(7, 1000, NOW_S))
    return index


# -- filters


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, range(10)),
        ({"owner": 1001}, (1, 3, 5, 7, 9)),
        ({"owner": 5}, ()),
        ({"older_than": 50}, (6, 7, 8, 9)),
        ({"older_than": 0}, range(1, 10)),
        ({"larger_than": 500}, (6, 7, 8, 9)),
        ({"larger_than": 0}, range(1, 10)),
        ({"after": "k6"}, (7, 8, 9)),
        ({"after": "k6x"}, (7, 8, 9)),
        ({"after": "z"}, ()),
        ({"prefix": "k3"}, (3,)),
        ({"prefix": "a/"}, ()),
        ({"owner": 1001, "older_than": 20, "larger_than": 400, "after": "k5"}, (7, 9)),
    ],
)
def test_filters_hold_together(index: Index, options: dict[str, Any], numbers: Any) -> None:
    chosen = filter_of(b"", options, NOW_S)
    assert sorted(whole(listing(index, chosen))) == [b"k%d" % number for number in numbers]


def test_a_key_is_compared_without_its_namespace(index: Index) -> None:
    assert sorted(whole(listing(index, filter_of(b"a/", {"after": "k7"}, NOW_S)))) == [b"a/k8", b"a/k9"]
    assert len(whole(listing(index, filter_of(b"a/", {}, NOW_S)))) == 10
    assert whole(listing(index, filter_of(b"a/", {"prefix": "k3"}, NOW_S))) == [b"a/k3"]


def test_what_nobody_has_looked_at_may_be_one_of_them(index: Index) -> None:
    index.confirm([b"new", b"old"])
    chosen = filter_of(b"", {"owner": 5, "older_than": 5, "larger_than": 5}, NOW_S)
    assert sorted(whole(listing(index, chosen))) == [b"new", b"old"]
    assert whole(listing(index, filter_of(b"", {"owner": 5, "after": "o"}, NOW_S))) == [b"old"]


def test_what_has_ended_or_went_meanwhile_is_not_told(index: Index) -> None:
    told = listing(index, filter_of(b"", {"owner": 1000}, NOW_S), {b"k2": "expired"})
    index.assign(b"k4", sight.ABSENT)
    assert sorted(whole(told)) == [b"k0", b"k6", b"k8"]
    assert b"k2" not in whole(listing(index, filter_of(b"", {}, NOW_S), {b"k2": "expired"}))
    sorted_told = listing(index, filter_of(b"", {}, NOW_S), {b"k0": "room"}, order="name", limit=2)
    assert whole(sorted_told) == [b"k1", b"k2"]


def test_a_long_listing_describes_what_is_known(index: Index) -> None:
    index.confirm([b"new"])
    told = listing(index, filter_of(b"", {}, NOW_S), long=True)
    assert told.describe([b"k3", b"new", b"gone"]) == [b"300 1001 %d" % (NOW_S - 30), b"", b""]


# -- order


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 10, 50])
@pytest.mark.parametrize("order", ["name", "size", "created"])
def test_the_first_ones_by_name_size_or_age_are_told(index: Index, order: str, limit: int, reverse: bool) -> None:
    names = [b"k%d" % number for number in range(10)]
    if order == "created":
        names.reverse()
    if reverse:
        names.reverse()
    told = listing(index, filter_of(b"", {}, NOW_S), order=order, reverse=reverse, limit=limit)
    assert whole(told) == names[:limit]


def test_those_that_are_alike_are_told_by_name() -> None:
    index = Index()
    names = [b"%03d" % number for number in range(100)]
    for name in random.Random(1).sample(names, 100):
        index.assign(name, sight.of(1, 1, 1))
    for order in ("name", "size", "created"):
        assert whole(listing(index, Filter(b"", b""), order=order, limit=40)) == names[:40]
        assert whole(listing(index, Filter(b"", b""), order=order, limit=40, reverse=True)) == names[:-41:-1]


@pytest.mark.parametrize(
    ("options", "fine"),
    [
        ({}, True),
        ({"sort": "name", "limit": 1}, True),
        ({"sort": "size", "limit": 10, "reverse": True}, True),
        ({"limit": 1000}, True),
        ({"sort": "name"}, False),
        ({"sort": "name", "limit": 11}, False),
        ({"reverse": True}, False),
        ({"reverse": True, "limit": 5}, False),
    ],
)
def test_what_is_sorted_has_a_limit_and_what_is_reversed_an_order(options: dict[str, Any], fine: bool) -> None:
    if fine:
        expected = (options.get("sort", ""), options.get("reverse", False), options.get("limit", 0))
        assert check_order(options, 10) == expected
    else:
        with pytest.raises(BadRequest):
            check_order(options, 10)


def test_no_more_than_so_many_are_told_without_an_order(index: Index) -> None:
    for limit in (1, 4, 10, 50):
        for count in (1, 3, 100):
            names = whole(listing(index, filter_of(b"", {}, NOW_S), limit=limit), count)
            assert len(names) == len(set(names)) == min(limit, 10)


@pytest.mark.parametrize("reverse", [False, True])
def test_page_after_page_is_the_sorted_list(seed: int, reverse: bool) -> None:
    chance = random.Random(seed)
    index = Index()
    keys = {"".join(chance.choices("aé😀-~", k=chance.randint(1, 6))) for _ in range(500)}
    for key in keys:
        index.assign(key.encode(), sight.of(chance.randrange(9), chance.randrange(3), NOW_S))
        index.assign(b"a/" + key.encode(), sight.of(1, 1, NOW_S))
    expected = sorted(key for key in keys if key.startswith("a") and sight.owner_of(index.seen(key.encode()) or 0) == 1)
    found: list[str] = []
    after = ""
    while True:
        chosen = filter_of(b"", {"prefix": "a", "owner": 1, "after": after}, NOW_S)
        page = [name.decode() for name in whole(listing(index, chosen, order="name", limit=7))]
        found += page
        if len(page) < 7:
            break
        after = page[-1]
    assert found == expected
    backwards = listing(index, filter_of(b"", {}, NOW_S), order="name", limit=1000, reverse=reverse)
    assert [name.decode() for name in whole(backwards)] == sorted(keys, reverse=reverse)


# -- bounded work


@pytest.mark.parametrize(
    ("options", "more", "most"),
    [
        ({}, {}, selection._SKIM_NAMES),
        ({"prefix": "nothing"}, {}, selection._SKIM_NAMES),
        ({"owner": 5}, {}, selection._SIFT_NAMES),
        ({"owner": 1}, {}, selection._SIFT_NAMES),
        ({"after": "zzz"}, {}, selection._SKIM_NAMES),
        ({}, {"order": "size", "limit": 10_000}, selection._SIFT_NAMES),
        ({}, {"order": "name", "limit": 1, "reverse": True}, selection._SKIM_NAMES),
    ],
)
def test_no_page_looks_through_more_than_some_thousands_of_names(
    options: dict[str, Any], more: dict[str, Any], most: int
) -> None:
    index = Index()
    for number in range(200_000):
        index.assign(b"key-%06d" % number, number % 1000 | 1 << 48)
    told = listing(index, filter_of(b"", options, NOW_S), **more)
    pages, names, longest_s = 0, 0, 0.0
    while True:
        left = len(told.names)
        started = time.perf_counter()
        names += len(told.page(10_000))
        longest_s = max(longest_s, time.perf_counter() - started)
        pages += 1
        assert left - len(told.names) <= most
        if not told.more:
            break
    expected = {"prefix": 0, "owner": 200_000 if options.get("owner") == 1 else 0, "after": 0}
    assert names == more.get("limit", next((expected[name] for name in options), 200_000))
    assert pages <= 200_000 // selection._SIFT_NAMES + 1
    assert longest_s < 0.5
