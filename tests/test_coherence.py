"""coherence.py: when the index may be believed."""

from __future__ import annotations

import pytest

from storekeeperd import coherence as coherence_module
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.operations import ABSENT, UNSEEN


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def coherence(index: Index) -> Coherence:
    return Coherence(index)


def scan(coherence: Coherence, *names: bytes) -> None:
    """A whole scan that saw these names, and all the turns after it."""
    coherence.begin_scan()
    coherence.scanned(names)
    coherence.end_scan(complete=True)
    while coherence.sweep():
        pass


def look(coherence: Coherence, name: bytes, seen: int) -> None:
    coherence.looked(name, coherence.start_look(name), seen)


# -- questions


def test_a_question_alone_changes_nothing(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    coherence.ask(b"k")
    assert index.size(b"k") == 3
    assert coherence.questions == 1


def test_questions_about_one_name_are_one_question(coherence: Coherence) -> None:
    for _ in range(5):
        coherence.ask(b"k")
    assert coherence.take_questions(10) == [b"k"]
    assert coherence.take_questions(10) == []


def test_questions_are_taken_oldest_first_and_no_more_than_wanted(coherence: Coherence) -> None:
    for name in (b"a", b"b", b"c", b"d", b"e"):
        coherence.ask(name)
    assert coherence.take_questions(2) == [b"a", b"b"]
    assert coherence.take_questions(2) == [b"c", b"d"]
    assert coherence.take_questions(2) == [b"e"]


def test_no_question_is_lost_if_none_is_wanted(coherence: Coherence) -> None:
    coherence.ask(b"k")
    assert coherence.take_questions(0) == []
    assert coherence.questions == 1


def test_names_under_a_look_count_as_questions(coherence: Coherence) -> None:
    coherence.ask(b"a")
    (name,) = coherence.take_questions(1)
    assert coherence.questions == 0
    number = coherence.start_look(name)
    assert coherence.questions == 1
    coherence.looked(name, number, 3)
    assert coherence.questions == 0


# -- looks


def test_a_look_assigns_what_it_saw(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    assert index.size(b"k") == 3
    look(coherence, b"k", ABSENT)
    assert index.size(b"k") is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_of_several_looks_only_the_one_started_last_assigns(
    index: Index, coherence: Coherence, order: tuple[int, ...]
) -> None:
    numbers = [coherence.start_look(b"k") for _ in range(3)]
    for position in order:
        coherence.looked(b"k", numbers[position], 10 + position)
    assert index.size(b"k") == 12
    assert coherence.questions == 0


def test_an_older_look_assigns_nothing_at_all(index: Index, coherence: Coherence) -> None:
    old = coherence.start_look(b"k")
    coherence.start_look(b"k")
    coherence.looked(b"k", old, 7)
    assert index.size(b"k") is None


def test_looks_at_different_names_do_not_meet(index: Index, coherence: Coherence) -> None:
    first, second = coherence.start_look(b"a"), coherence.start_look(b"b")
    coherence.looked(b"b", second, 2)
    coherence.looked(b"a", first, 1)
    assert (index.size(b"a"), index.size(b"b")) == (1, 2)


def test_a_question_during_a_look_makes_it_look_again(index: Index, coherence: Coherence) -> None:
    number = coherence.start_look(b"k")
    coherence.ask(b"k")
    assert coherence.take_questions(10) == []  # it waits for the end of this look
    coherence.looked(b"k", number, 5)
    assert index.size(b"k") is None
    assert coherence.take_questions(10) == [b"k"]
    look(coherence, b"k", 6)
    assert index.size(b"k") == 6


def test_a_newer_look_answers_a_question_that_came_during_an_older_one(index: Index, coherence: Coherence) -> None:
    coherence.start_look(b"k")
    coherence.ask(b"k")
    look(coherence, b"k", 6)
    assert index.size(b"k") == 6
    assert coherence.questions == 0


# -- own operations


def test_the_look_of_an_own_operation_is_assigned_at_once(index: Index, coherence: Coherence) -> None:
    coherence.begin(b"k")
    coherence.finish(b"k", 4)
    assert index.size(b"k") == 4
    assert coherence.questions == 0


def test_questions_about_a_name_being_changed_wait_for_the_end(index: Index, coherence: Coherence) -> None:
    coherence.begin(b"k")
    coherence.ask(b"k")
    assert coherence.take_questions(10) == []
    coherence.finish(b"k", 4)
    assert index.size(b"k") == 4
    assert coherence.take_questions(10) == [b"k"]


def test_other_names_do_not_wait_for_a_change(coherence: Coherence) -> None:
    coherence.begin(b"k")
    coherence.ask(b"other")
    assert coherence.take_questions(10) == [b"other"]


def test_a_look_under_way_when_a_change_ends_is_made_again(index: Index, coherence: Coherence) -> None:
    number = coherence.start_look(b"k")
    coherence.begin(b"k")
    coherence.finish(b"k", 4)
    coherence.looked(b"k", number, ABSENT)  # older than the change
    assert index.size(b"k") == 4
    assert coherence.take_questions(10) == [b"k"]


def test_a_look_that_assigns_during_a_change_is_made_again_after_it(index: Index, coherence: Coherence) -> None:
    coherence.begin(b"k")
    look(coherence, b"k", 9)
    assert index.size(b"k") == 9
    coherence.finish(b"k", 4)
    assert index.size(b"k") == 4
    assert coherence.take_questions(10) == [b"k"]


# -- what a look could not tell


def test_what_a_look_cannot_tell_is_left_out_and_asked_later(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    look(coherence, b"k", UNSEEN)
    assert index.size(b"k") is None
    assert coherence.questions == 1
    assert coherence.take_questions(10) == []
    coherence.retry_unanswered()
    assert coherence.take_questions(10) == [b"k"]


def test_unanswered_names_are_asked_once_per_retry(coherence: Coherence) -> None:
    look(coherence, b"k", UNSEEN)
    coherence.retry_unanswered()
    look(coherence, coherence.take_questions(1)[0], 3)
    coherence.retry_unanswered()
    assert coherence.questions == 0


def test_an_own_operation_that_could_not_look_is_looked_at_at_once(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    coherence.begin(b"k")
    coherence.finish(b"k", UNSEEN)
    assert index.size(b"k") is None
    assert coherence.take_questions(10) == [b"k"]


def test_a_look_that_saw_nothing_but_was_asked_meanwhile_only_looks_again(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    number = coherence.start_look(b"k")
    coherence.ask(b"k")
    coherence.looked(b"k", number, UNSEEN)
    assert index.size(b"k") == 3
    assert coherence.take_questions(10) == [b"k"]


# -- losses and scans


def test_the_start_is_the_first_loss(coherence: Coherence) -> None:
    assert (coherence.epoch, coherence.clean, coherence.scans) == (1, 0, 0)
    assert not coherence.coherent
    assert coherence.wants_scan
    assert not coherence.losses


def test_a_complete_scan_makes_it_coherent(index: Index, coherence: Coherence) -> None:
    scan(coherence, b"a", b"b")
    assert coherence.coherent
    assert not coherence.wants_scan
    assert (coherence.epoch, coherence.clean, coherence.scans) == (1, 1, 1)
    assert sorted(index.names()) == [b"a", b"b"]
    assert index.size(b"a") == -1


def test_a_loss_ends_coherence_and_is_counted_by_reason(coherence: Coherence) -> None:
    scan(coherence)
    coherence.lost("overflow")
    coherence.lost("overflow")
    coherence.lost("watch gone")
    assert not coherence.coherent
    assert coherence.wants_scan
    assert coherence.epoch == 4
    assert coherence.losses == {"overflow": 2, "watch gone": 1}


def test_no_second_scan_is_wanted_while_one_runs(coherence: Coherence) -> None:
    coherence.begin_scan()
    assert not coherence.wants_scan
    coherence.lost("overflow")
    assert not coherence.wants_scan
    with pytest.raises(AssertionError):
        coherence.begin_scan()


def test_a_scan_that_never_began_cannot_end(coherence: Coherence) -> None:
    with pytest.raises(AssertionError):
        coherence.end_scan(complete=True)


def test_a_loss_during_a_scan_needs_another_scan(coherence: Coherence) -> None:
    coherence.begin_scan()
    coherence.lost("overflow")
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert not coherence.coherent
    assert (coherence.clean, coherence.epoch) == (1, 2)
    assert coherence.wants_scan
    scan(coherence)
    assert coherence.coherent


@pytest.mark.parametrize("when", ["between end and sweep", "while leftovers are looked at"])
def test_a_loss_after_the_reading_but_before_the_end_needs_another_scan(coherence: Coherence, when: str) -> None:
    look(coherence, b"k", 3)
    coherence.begin_scan()
    coherence.end_scan(complete=True)
    if when == "between end and sweep":
        coherence.lost("overflow")
    coherence.sweep()
    if when != "between end and sweep":
        coherence.lost("overflow")
    look(coherence, b"k", ABSENT)
    assert coherence.clean == 1
    assert not coherence.coherent
    assert coherence.wants_scan


def test_a_failed_scan_counts_for_nothing(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    coherence.begin_scan()
    coherence.end_scan(complete=False)
    assert not coherence.sweep()
    assert (coherence.clean, coherence.scans, coherence.questions) == (0, 0, 0)
    assert not coherence.coherent
    assert coherence.wants_scan
    assert index.size(b"k") == 3


def test_without_a_watch_nothing_is_ever_coherent(coherence: Coherence) -> None:
    coherence.watched = False
    scan(coherence)
    assert coherence.clean == coherence.epoch
    assert not coherence.coherent
    assert not coherence.wants_scan


def test_what_a_scan_did_not_see_is_looked_at_before_it_is_believed_gone(index: Index, coherence: Coherence) -> None:
    look(coherence, b"gone", 3)
    look(coherence, b"there", 4)
    scan(coherence, b"there")
    assert index.size(b"gone") == 3
    assert not coherence.coherent
    assert coherence.take_questions(10) == [b"gone"]
    look(coherence, b"gone", ABSENT)
    assert coherence.coherent
    assert index.names() == [b"there"]


def test_what_a_scan_did_not_see_but_a_look_does_stays(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    scan(coherence)
    look(coherence, b"k", 5)
    assert coherence.coherent
    assert index.size(b"k") == 5


def test_every_leftover_must_be_looked_at(coherence: Coherence) -> None:
    for name in (b"a", b"b", b"c"):
        look(coherence, name, 1)
    scan(coherence)
    for name in (b"a", b"b", b"c"):
        assert not coherence.coherent
        look(coherence, name, ABSENT)
    assert coherence.coherent
    assert coherence.scans == 1


def test_an_own_operation_answers_for_a_leftover(coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    scan(coherence)
    coherence.begin(b"k")
    coherence.finish(b"k", 8)
    assert coherence.coherent


def test_a_leftover_that_cannot_be_looked_at_fails_the_scan(coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    scan(coherence)
    look(coherence, b"k", UNSEEN)
    assert not coherence.coherent
    assert (coherence.clean, coherence.scans) == (0, 0)
    assert coherence.wants_scan


def test_another_name_that_cannot_be_looked_at_does_not_fail_the_scan(coherence: Coherence) -> None:
    coherence.begin_scan()
    look(coherence, b"k", UNSEEN)
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert coherence.coherent


def test_a_name_seen_to_go_since_the_scan_began_is_not_entered(index: Index, coherence: Coherence) -> None:
    coherence.begin_scan()
    look(coherence, b"k", ABSENT)
    coherence.scanned([b"k", b"other"])
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert index.names() == [b"other"]
    assert coherence.coherent


def test_a_name_seen_to_go_before_the_scan_is_entered(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k", ABSENT)
    scan(coherence, b"k")
    assert index.names() == [b"k"]


def test_the_names_seen_to_go_are_those_of_this_scan_alone(index: Index, coherence: Coherence) -> None:
    coherence.begin_scan()
    look(coherence, b"k", ABSENT)
    coherence.end_scan(complete=False)
    scan(coherence, b"k")
    assert index.has(b"k")


def test_a_name_that_came_during_the_scan_is_no_leftover(index: Index, coherence: Coherence) -> None:
    coherence.begin_scan()
    look(coherence, b"new", 2)
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert coherence.coherent
    assert index.size(b"new") == 2


def test_a_look_older_than_the_scan_does_not_assign(index: Index, coherence: Coherence) -> None:
    number = coherence.start_look(b"k")
    coherence.begin_scan()
    coherence.looked(b"k", number, 3)
    assert index.size(b"k") is None
    assert coherence.take_questions(10) == [b"k"]


def test_an_own_operation_older_than_the_scan_is_looked_at_again(coherence: Coherence) -> None:
    coherence.begin(b"k")
    coherence.begin_scan()
    coherence.finish(b"k", 3)
    assert coherence.take_questions(10) == [b"k"]


def test_a_scan_makes_old_sizes_doubtful_and_keeps_young_ones(index: Index, coherence: Coherence) -> None:
    look(coherence, b"old", 1)
    coherence.begin_scan()
    look(coherence, b"young", 2)
    coherence.scanned([b"old", b"young"])
    assert index.unsized([b"old", b"young"]) == [b"old"]


def test_a_sweep_without_a_scan_does_nothing(coherence: Coherence) -> None:
    assert not coherence.sweep()
    coherence.begin_scan()
    assert not coherence.sweep()
    assert coherence.clean == 0


def test_a_sweep_takes_several_turns(index: Index, coherence: Coherence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coherence_module, "_SWEEP_NAMES", 2)
    names = [b"a", b"b", b"c", b"d", b"e"]
    coherence.begin_scan()
    coherence.scanned(names)
    coherence.end_scan(complete=True)
    turns = 1
    while coherence.sweep():
        assert not coherence.coherent
        turns += 1
    assert turns == 3
    assert coherence.coherent
    assert sorted(index.names()) == names


def test_leftovers_answered_between_turns_do_not_end_the_scan_early(
    coherence: Coherence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coherence_module, "_SWEEP_NAMES", 1)
    for name in (b"a", b"b"):
        look(coherence, name, 1)
    coherence.begin_scan()
    coherence.end_scan(complete=True)
    for more in (True, False):
        assert coherence.sweep() is more
        (name,) = coherence.take_questions(10)
        assert not coherence.coherent
        look(coherence, name, ABSENT)
    assert coherence.coherent


def test_a_failed_leftover_ends_the_sweep(coherence: Coherence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coherence_module, "_SWEEP_NAMES", 1)
    for name in (b"a", b"b"):
        look(coherence, name, 1)
    coherence.begin_scan()
    coherence.end_scan(complete=True)
    assert coherence.sweep()
    (name,) = coherence.take_questions(10)
    look(coherence, name, UNSEEN)
    assert not coherence.sweep()
    assert coherence.wants_scan
