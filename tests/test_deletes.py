"""deletes.py: names that were reported deleted, but were not seen to be gone."""

from __future__ import annotations

from storekeeperd.deletes import Deletes


def test_a_name_has_its_second_look_when_it_has_waited_for_a_whole_step() -> None:
    deletes = Deletes()
    deletes.report({b"a": None})
    assert deletes.step() == []
    deletes.report({b"b": None})
    assert deletes.step() == [b"a"]
    assert deletes.step() == [b"b"]
    assert not deletes


def test_what_was_seen_to_be_gone_needs_none() -> None:
    deletes = Deletes()
    deletes.report(dict.fromkeys([b"old", b"stays"]))
    deletes.step()
    deletes.report({b"new": None})
    deletes.seen([b"old", b"new", b"never reported"])
    assert deletes.step() == [b"stays"]
    assert not deletes


def test_a_name_that_is_reported_again_waits_anew() -> None:
    deletes = Deletes()
    for _ in range(5):
        deletes.report({b"k": None})
        deletes.step()
    assert deletes
    assert deletes.step() == [b"k"]
    assert not deletes
