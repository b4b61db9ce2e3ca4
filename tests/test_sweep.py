"""sweep.py: what a scan has yet to make sure before it counts."""

from __future__ import annotations

import pytest

from storekeeperd import sweep as sweep_module
from storekeeperd.index import Index
from storekeeperd.sight import ABSENT
from storekeeperd.sweep import Sweep


@pytest.fixture
def index() -> Index:
    index = Index()
    for name in (b"a", b"b", b"c"):
        index.assign(name, 1)
    return index


@pytest.fixture
def sweep(index: Index) -> Sweep:
    sweep = Sweep(index)
    sweep.begin(1, [], doubt_sizes=False)
    return sweep


def test_what_a_scan_did_not_see_is_left_until_it_is_looked_at(sweep: Sweep) -> None:
    sweep.see([b"a", b"c", b"new"])
    assert not sweep.complete
    sweep.end()
    assert sweep.unchecked
    assert sweep.leave() == [b"b"]
    assert not sweep.unchecked
    assert not sweep.complete
    sweep.looked(b"b")
    assert sweep.complete


def test_names_are_checked_some_at_a_time(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "_NAMES", 2)
    sweep.end()
    left = sweep.leave()
    assert len(left) == 2
    assert sweep.unchecked
    left += sweep.leave()
    assert sorted(left) == [b"a", b"b", b"c"]
    assert sweep.leave() == []
    for name in left:
        assert not sweep.complete
        sweep.looked(name)
    assert sweep.complete


def test_a_name_that_was_seen_to_go_is_not_entered_again(sweep: Sweep, index: Index) -> None:
    index.assign(b"a", ABSENT)
    sweep.gone([b"a"])
    sweep.see([b"a", b"b", b"c"])
    assert not index.has(b"a")
    sweep.end()
    assert sweep.leave() == []
    assert sweep.complete


def test_what_goes_while_no_scan_runs_is_of_no_concern_to_the_next(index: Index) -> None:
    sweep = Sweep(index)
    sweep.gone([b"new"])
    sweep.begin(1, [], doubt_sizes=False)
    sweep.see([b"new"])
    assert index.has(b"new")


def test_a_scan_of_an_empty_index_has_nothing_to_check() -> None:
    index = Index()
    sweep = Sweep(index)
    sweep.begin(1, [], doubt_sizes=False)
    sweep.see([b"a", b"b"])
    sweep.end()
    assert not sweep.unchecked
    assert sweep.complete


def test_a_change_that_is_older_than_the_scan_is_waited_for_and_looked_at(index: Index) -> None:
    sweep = Sweep(index)
    sweep.begin(1, [b"a"], doubt_sizes=False)
    sweep.see([b"a", b"b", b"c"])
    sweep.end()
    sweep.leave()
    sweep.looked(b"a")  # by another look; the change is still to come
    assert not sweep.complete
    sweep.changed(b"a")
    assert not sweep.complete
    sweep.looked(b"a")
    assert sweep.complete


def test_a_scan_that_was_stopped_leaves_nothing(sweep: Sweep, index: Index) -> None:
    sweep.gone([b"a"])
    sweep.end()
    sweep.leave()
    sweep.stop()
    assert (sweep.number, sweep.leftovers, sweep.unchecked, sweep.complete) == (0, set(), False, False)
    sweep.begin(2, [], doubt_sizes=True)
    sweep.see([b"a"])
    assert index.unsized([b"a", b"b"]) == [b"a"]
