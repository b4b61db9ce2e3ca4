"""coherence.py: when the index may be believed."""

from __future__ import annotations

import pytest

from storekeeperd import doubts as doubts_module
from storekeeperd import sweep as sweep_module
from storekeeperd.coherence import Coherence
from storekeeperd.echoes import MADE
from storekeeperd.index import Index
from storekeeperd.sight import ABSENT, UNSEEN


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


def look(coherence: Coherence, name: bytes, seen: int, *, recent: bool = False) -> None:
    coherence.looked(name, coherence.start_look(name), seen, recent=recent)


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


def test_names_under_a_look_are_in_doubt_but_no_questions(coherence: Coherence) -> None:
    coherence.ask(b"a")
    assert (coherence.questions, coherence.in_doubt) == (1, 1)
    (name,) = coherence.take_questions(1)
    assert coherence.questions == 0
    number = coherence.start_look(name)
    assert (coherence.questions, coherence.in_doubt) == (0, 1)
    coherence.looked(name, number, 3)
    assert (coherence.questions, coherence.in_doubt) == (0, 0)


@pytest.mark.parametrize("busy", ["nothing under way", "a look at another name", "a change of another name"])
def test_what_the_watcher_heard_of_is_asked_once(index: Index, coherence: Coherence, busy: str) -> None:
    if busy == "a look at another name":
        coherence.start_look(b"other")
    elif busy == "a change of another name":
        coherence.begin(b"other")
    for _ in range(3):
        coherence.hear(dict.fromkeys([b"a", b"b"]), {})
    assert coherence.take_questions(10) == [b"a", b"b"]
    assert index.names() == []


def test_what_the_watcher_heard_of_a_name_under_way_waits_for_its_end(coherence: Coherence) -> None:
    number = coherence.start_look(b"looked")
    coherence.begin(b"changed")
    coherence.hear(dict.fromkeys([b"looked", b"changed", b"free"]), {})
    assert coherence.take_questions(10) == [b"free"]
    coherence.looked(b"looked", number, 3)
    coherence.finish(b"changed", 4)
    assert coherence.take_questions(10) == [b"looked", b"changed"]


def test_what_a_read_missed_is_a_question_and_no_hit_is_believed_until_it_is_answered(
    index: Index, coherence: Coherence
) -> None:
    scan(coherence, b"k")
    coherence.missed(b"k")
    assert index.has(b"k")  # the read may be older than what is known
    assert not coherence.coherent
    assert coherence.take_questions(10) == [b"k"]
    number = coherence.start_look(b"k")
    assert not coherence.coherent
    coherence.looked(b"k", number, ABSENT)
    assert coherence.coherent
    assert not index.has(b"k")
    assert not coherence.wants_scan


def test_what_a_read_missed_during_a_change_is_looked_at_after_it(index: Index, coherence: Coherence) -> None:
    scan(coherence, b"k")
    coherence.begin(b"k")
    coherence.missed(b"k")
    assert not coherence.coherent
    assert coherence.take_questions(10) == []
    coherence.finish(b"k", 4)
    assert index.size(b"k") == 4
    assert coherence.take_questions(10) == [b"k"]


# In this test and in the one that says the same of a look, what is assigned may be older than the read: it is asked
# about again, and does not end the doubt.
def test_a_change_does_not_make_believed_what_a_read_missed_meanwhile(coherence: Coherence) -> None:
    # The change is made, an outsider removes the object, a read misses it and is answered; then the change comes back.
    scan(coherence, b"k")
    coherence.begin(b"k")
    coherence.missed(b"k")
    coherence.finish(b"k", 4)
    assert not coherence.coherent
    look(coherence, coherence.take_questions(1)[0], ABSENT)
    assert coherence.coherent


def test_no_scan_makes_believed_what_a_read_missed(coherence: Coherence) -> None:
    # The scan may have read that part of the directory before the object went.
    scan(coherence, b"k")
    coherence.want_scan()
    coherence.begin_scan()
    assert coherence.coherent
    coherence.missed(b"k")
    coherence.scanned([b"k"])
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert not coherence.coherent
    look(coherence, coherence.take_questions(1)[0], ABSENT)
    assert coherence.coherent


def test_a_look_that_is_older_than_a_read_does_not_make_believed_what_it_missed(coherence: Coherence) -> None:
    # A look sees the object, an outsider removes it, a read misses it and is answered; then the look comes back.
    scan(coherence, b"k")
    number = coherence.start_look(b"k")
    coherence.missed(b"k")
    coherence.looked(b"k", number, 3)
    assert not coherence.coherent
    look(coherence, coherence.take_questions(1)[0], ABSENT)
    assert coherence.coherent


@pytest.mark.parametrize("doubt", ["missed", "asked", "a look failed", "a look failed and is made again"])
def test_a_name_is_in_doubt_once(coherence: Coherence, doubt: str) -> None:
    look(coherence, b"k", 3)
    if doubt == "missed":
        coherence.missed(b"k")
    elif doubt == "asked":
        coherence.ask(b"k")
    else:
        look(coherence, b"k", UNSEEN)
        if "again" in doubt:
            coherence.retry_unanswered()
    assert coherence.in_doubt == 1


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


def test_looks_without_end_that_overlap_do_not_keep_a_name_from_being_known(index: Index, coherence: Coherence) -> None:
    # Many clients ask for the same name again and again, and every look is overtaken by the next before it is told.
    coherence.ask(b"k")
    doubts = coherence.take_doubts()
    number = coherence.start_look(coherence.take_questions(1)[0])
    for size in range(1, 6):
        overtaking = coherence.start_look(b"k")
        coherence.looked(b"k", number, size)
        assert index.size(b"k") == size
        assert doubts == set()
        number = overtaking


def test_a_look_that_is_told_after_a_younger_one_assigns_nothing(index: Index, coherence: Coherence) -> None:
    numbers = [coherence.start_look(b"k") for _ in range(3)]
    coherence.looked(b"k", numbers[1], 5)
    coherence.looked(b"k", numbers[0], 4)
    assert index.size(b"k") == 5
    coherence.looked(b"k", numbers[2], 6)
    assert index.size(b"k") == 6
    assert coherence.in_doubt == 0


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
    assert index.size(b"k") == 5  # better than what was known, and not the last word
    assert coherence.take_questions(10) == [b"k"]
    look(coherence, b"k", 6)
    assert index.size(b"k") == 6


def test_questions_without_end_do_not_keep_a_name_from_being_known(index: Index, coherence: Coherence) -> None:
    coherence.ask(b"k")
    for size in range(5):
        (name,) = coherence.take_questions(10)
        number = coherence.start_look(name)
        coherence.ask(b"k")
        coherence.looked(name, number, size)
        assert index.size(b"k") == size
    assert coherence.questions == 1


def test_one_look_at_many_names_assigns_each(index: Index, coherence: Coherence) -> None:
    look(coherence, b"c", 1)
    names = [b"a", b"b", b"c"]
    number = coherence.start_looks(names)
    assert coherence.in_doubt == 3
    coherence.looked_at_all(names, number, [10, 11, ABSENT])
    assert {name: index.size(name) for name in names} == {b"a": 10, b"b": 11, b"c": None}
    assert coherence.in_doubt == 0


def test_of_a_look_at_many_names_those_do_not_count_that_were_looked_at_since(
    index: Index, coherence: Coherence
) -> None:
    number = coherence.start_looks([b"a", b"b"])
    look(coherence, b"a", 5)
    coherence.looked_at_all([b"a", b"b"], number, [1, 2])
    assert (index.size(b"a"), index.size(b"b")) == (5, 2)
    assert coherence.in_doubt == 0


def test_of_a_look_at_many_names_those_are_looked_at_again_that_were_asked_about(
    index: Index, coherence: Coherence
) -> None:
    number = coherence.start_looks([b"a", b"b", b"c"])
    coherence.ask(b"b")
    coherence.looked_at_all([b"a", b"b", b"c"], number, [1, 2, UNSEEN])
    assert (index.size(b"a"), index.size(b"b"), index.size(b"c")) == (1, 2, None)
    assert coherence.take_questions(10) == [b"b"]
    coherence.retry_unanswered()
    assert coherence.take_questions(10) == [b"c"]


def test_a_look_at_many_names_must_tell_of_each(coherence: Coherence) -> None:
    number = coherence.start_looks([b"a", b"b"])
    with pytest.raises(ValueError, match="shorter"):
        coherence.looked_at_all([b"a", b"b"], number, [1])


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


@pytest.mark.parametrize("known", [3, None])
def test_what_a_look_cannot_tell_stays_as_it_is_and_is_asked_later(
    index: Index, coherence: Coherence, known: int | None
) -> None:
    scan(coherence)
    if known is not None:
        look(coherence, b"k", known)
    assert coherence.coherent
    look(coherence, b"k", UNSEEN)
    assert index.size(b"k") == known
    assert not coherence.coherent
    assert coherence.in_doubt == 1
    assert coherence.take_questions(10) == []
    coherence.retry_unanswered()
    assert coherence.take_questions(10) == [b"k"]


@pytest.mark.parametrize("seen", [3, 4, ABSENT])
def test_it_is_coherent_again_when_every_name_was_looked_at(index: Index, coherence: Coherence, seen: int) -> None:
    scan(coherence)
    look(coherence, b"a", UNSEEN)
    look(coherence, b"b", UNSEEN)
    look(coherence, b"a", seen)
    assert not coherence.coherent
    look(coherence, b"b", UNSEEN)
    assert not coherence.coherent
    look(coherence, b"b", seen)
    assert coherence.coherent
    assert coherence.in_doubt == 0
    assert not coherence.wants_scan


def test_an_own_operation_answers_for_a_name_that_no_look_could_tell_of(coherence: Coherence) -> None:
    scan(coherence)
    look(coherence, b"k", UNSEEN)
    coherence.begin(b"k")
    coherence.finish(b"k", 3)
    assert coherence.coherent


def test_a_look_of_an_own_operation_that_failed_ends_coherence(coherence: Coherence) -> None:
    scan(coherence)
    coherence.begin(b"k")
    coherence.finish(b"k", UNSEEN)
    assert not coherence.coherent
    look(coherence, coherence.take_questions(1)[0], 3)
    assert coherence.coherent


def test_a_loss_is_not_repaired_by_looking_at_what_was_in_doubt(coherence: Coherence) -> None:
    scan(coherence)
    look(coherence, b"k", UNSEEN)
    coherence.lost("overflow")
    look(coherence, b"k", 3)
    assert not coherence.coherent
    scan(coherence, b"k")
    assert coherence.coherent


def test_a_scan_does_not_make_believed_what_no_look_could_tell(coherence: Coherence) -> None:
    scan(coherence)
    look(coherence, b"k", UNSEEN)
    coherence.lost("overflow")
    scan(coherence, b"k")
    assert coherence.clean == coherence.epoch
    assert not coherence.coherent
    look(coherence, b"k", 3)
    assert coherence.coherent


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
    assert index.size(b"k") == 3  # nothing is known of it: it stays, and is not believed
    assert not coherence.coherent
    assert coherence.take_questions(10) == [b"k"]


def test_what_looks_cannot_tell_is_asked_about_again_some_names_at_a_time(
    coherence: Coherence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts_module, "_RETRY_NAMES", 2)
    names = [b"%d" % number for number in range(5)]
    for name in names:
        look(coherence, name, UNSEEN)
    coherence.take_questions(10)
    asked: list[bytes] = []
    for count in (2, 2, 1):
        coherence.retry_unanswered()
        again = coherence.take_questions(10)
        assert len(again) == count
        asked += again
    assert sorted(asked) == names
    look(coherence, names[0], 3)
    for _ in range(3):
        coherence.retry_unanswered()
    assert sorted(coherence.take_questions(10)) == names[1:]


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


def test_a_leftover_that_cannot_be_looked_at_stays_and_keeps_it_incoherent_but_the_scan_counts(
    index: Index, coherence: Coherence
) -> None:
    look(coherence, b"k", 3)
    scan(coherence)
    look(coherence, b"k", UNSEEN)
    assert index.size(b"k") == 3
    assert not coherence.coherent
    assert (coherence.clean, coherence.scans) == (1, 1)
    assert not coherence.wants_scan
    coherence.retry_unanswered()
    assert coherence.take_questions(10) == [b"k"]
    look(coherence, b"k", ABSENT)
    assert coherence.coherent
    assert not index.has(b"k")


def test_another_name_that_cannot_be_looked_at_does_not_fail_the_scan(coherence: Coherence) -> None:
    coherence.begin_scan()
    look(coherence, b"k", UNSEEN)
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert (coherence.clean, coherence.scans) == (1, 1)
    assert not coherence.coherent
    look(coherence, b"k", 3)
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


def test_a_change_that_began_before_a_scan_is_looked_at_before_the_scan_counts(
    index: Index, coherence: Coherence
) -> None:
    # Its own look saw the object; then an outsider removed it, and that event was lost; then the scan began.
    coherence.begin(b"k")
    coherence.begin_scan()
    coherence.scanned([])
    coherence.finish(b"k", 3)
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert not coherence.coherent
    look(coherence, coherence.take_questions(1)[0], ABSENT)
    assert coherence.coherent
    assert not index.has(b"k")


def test_a_leftover_whose_change_began_before_the_scan_is_looked_at_after_it(
    index: Index, coherence: Coherence
) -> None:
    scan(coherence, b"k")
    coherence.lost("overflow")
    coherence.begin(b"k")
    scan(coherence)
    coherence.finish(b"k", 3)
    assert not coherence.coherent
    look(coherence, coherence.take_questions(1)[0], ABSENT)
    assert coherence.coherent
    assert not index.has(b"k")


def test_an_evict_that_began_before_a_scan_is_seen_at_once_though_the_scan_saw_the_object(
    index: Index, coherence: Coherence
) -> None:
    scan(coherence, b"k")
    coherence.want_scan()
    coherence.begin(b"k")
    coherence.begin_scan()
    coherence.finish(b"k", ABSENT)
    coherence.scanned([b"k"])
    assert not index.has(b"k")


def test_changes_without_end_do_not_hold_a_scan_up(coherence: Coherence) -> None:
    coherence.begin(b"k")
    coherence.begin_scan()
    coherence.finish(b"k", 1)
    coherence.begin(b"k")
    scan_ended = False
    coherence.scanned([b"k"])
    coherence.end_scan(complete=True)
    coherence.sweep()
    for size in range(2, 5):
        coherence.finish(b"k", size)
        scan_ended = scan_ended or not coherence.scanning
        coherence.begin(b"k")
    assert scan_ended


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
    monkeypatch.setattr(sweep_module, "_NAMES", 2)
    names = [b"a", b"b", b"c", b"d", b"e"]
    look(coherence, b"a", 1)  # else the scan finds an empty table, and there is nothing to check
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
    monkeypatch.setattr(sweep_module, "_NAMES", 1)
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


def test_a_failed_leftover_does_not_end_the_sweep(
    index: Index, coherence: Coherence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "_NAMES", 1)
    for name in (b"a", b"b"):
        look(coherence, name, 1)
    coherence.begin_scan()
    coherence.end_scan(complete=True)
    assert coherence.sweep()
    (failing,) = coherence.take_questions(10)
    look(coherence, failing, UNSEEN)
    assert coherence.scans == 0
    assert not coherence.sweep()
    (other,) = coherence.take_questions(10)
    look(coherence, other, ABSENT)
    assert (coherence.scans, coherence.clean) == (1, 1)
    assert index.names() == [failing]
    assert not coherence.coherent


def test_a_scan_of_an_empty_table_has_nothing_to_check(coherence: Coherence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "_NAMES", 2)
    coherence.begin_scan()
    coherence.scanned([b"a", b"b", b"c", b"d", b"e"])
    look(coherence, b"f", 3)
    coherence.end_scan(complete=True)
    assert not coherence.sweep()
    assert coherence.coherent
    assert coherence.questions == 0


@pytest.mark.parametrize("seen", [3, ABSENT])
def test_a_look_under_way_when_a_scan_begins_is_made_again(index: Index, coherence: Coherence, seen: int) -> None:
    look(coherence, b"k", 1)
    number = coherence.start_look(b"k")
    coherence.begin_scan()
    coherence.looked(b"k", number, seen)
    assert index.size(b"k") == 1
    coherence.scanned([b"k"])
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert index.has(b"k")
    assert coherence.take_questions(10) == [b"k"]


def test_a_name_looked_at_during_the_scan_that_it_did_not_see_is_no_leftover(
    index: Index, coherence: Coherence
) -> None:
    look(coherence, b"k", 1)
    coherence.begin_scan()
    look(coherence, b"k", 2)
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert coherence.coherent
    assert coherence.questions == 0


# -- scans for their own sake


def test_a_scan_may_be_wanted_though_nothing_is_lost(coherence: Coherence) -> None:
    scan(coherence)
    assert not coherence.wants_scan
    number = coherence.want_scan()
    assert coherence.wants_scan
    assert coherence.coherent
    assert not coherence.has_scanned(number)
    scan(coherence)
    assert coherence.has_scanned(number)
    assert not coherence.wants_scan
    assert (coherence.epoch, coherence.scans) == (1, 2)


def test_a_scan_that_is_wanted_keeps_hits_believed_while_it_runs(coherence: Coherence) -> None:
    scan(coherence, b"k")
    coherence.want_scan()
    coherence.begin_scan()
    assert coherence.coherent
    coherence.end_scan(complete=False)
    assert coherence.coherent
    assert coherence.wants_scan


def test_the_scan_that_runs_is_not_the_one_wanted(coherence: Coherence) -> None:
    coherence.begin_scan()
    number = coherence.want_scan()
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert not coherence.has_scanned(number)
    assert coherence.wants_scan
    scan(coherence)
    assert coherence.has_scanned(number)


def test_a_failed_scan_is_not_the_one_wanted_but_the_next_one_is(coherence: Coherence) -> None:
    scan(coherence)
    number = coherence.want_scan()
    coherence.begin_scan()
    coherence.end_scan(complete=False)
    assert not coherence.has_scanned(number)
    assert coherence.wants_scan
    scan(coherence)
    assert coherence.has_scanned(number)
    assert not coherence.wants_scan


def test_all_who_want_a_scan_before_it_begins_want_the_same_one(coherence: Coherence) -> None:
    scan(coherence)
    assert coherence.want_scan() == coherence.want_scan()
    scan(coherence)
    assert not coherence.wants_scan


def test_a_scan_runs_until_what_it_did_not_see_is_looked_at(coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    assert not coherence.scanning
    coherence.begin_scan()
    assert coherence.scanning
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert coherence.scanning
    assert not coherence.wants_scan
    look(coherence, b"k", ABSENT)
    assert not coherence.scanning


@pytest.mark.parametrize("seen", [0, 5, ABSENT, UNSEEN])
def test_what_a_scan_saw_and_cannot_tell_is_looked_at_before_it_counts(
    index: Index, coherence: Coherence, seen: int
) -> None:
    coherence.begin_scan()
    coherence.scanned([b"k"])
    coherence.scanned_doubtful([b"k.ready"])
    assert not index.has(b"k.ready")
    coherence.end_scan(complete=True)
    assert not coherence.sweep()
    assert (coherence.scans, coherence.clean) == (0, 0)
    assert coherence.take_questions(10) == [b"k.ready"]
    look(coherence, b"k.ready", seen)
    assert (coherence.scans, coherence.clean) == (1, 1)
    assert coherence.coherent == (seen != UNSEEN)
    assert index.size(b"k.ready") == (seen if seen >= 0 else None)


def test_what_is_doubtful_may_be_looked_at_before_the_scan_ends(coherence: Coherence) -> None:
    coherence.begin_scan()
    coherence.scanned_doubtful([b"k.ready"])
    look(coherence, b"k.ready", ABSENT)
    assert coherence.scanning
    coherence.end_scan(complete=True)
    coherence.sweep()
    assert coherence.coherent


def test_what_is_doubtful_of_a_failed_scan_does_not_hold_up_the_next_one(coherence: Coherence) -> None:
    coherence.begin_scan()
    coherence.scanned_doubtful([b"k.ready"])
    coherence.end_scan(complete=False)
    scan(coherence)
    assert coherence.coherent


# -- what was deleted


def test_a_name_that_was_deleted_is_looked_at_a_second_time_unless_it_was_seen_to_be_gone(
    coherence: Coherence,
) -> None:
    coherence.hear(dict.fromkeys([b"late", b"gone"]), dict.fromkeys([b"late", b"gone"]))
    assert coherence.wants_second_looks
    for name in coherence.take_questions(10):
        look(coherence, name, 3 if name == b"late" else ABSENT)
    coherence.ask_second_looks()  # the turn of those that were heard of 50 ms ago has not come
    assert coherence.take_questions(10) == []
    assert coherence.wants_second_looks
    coherence.ask_second_looks()
    assert coherence.take_questions(10) == [b"late"]
    assert not coherence.wants_second_looks


def test_a_deleted_name_that_is_there_again_is_looked_at_a_second_time_and_no_more(coherence: Coherence) -> None:
    coherence.hear({b"k": None}, {b"k": None})
    looks = 0
    for _ in range(6):
        for name in coherence.take_questions(10):
            look(coherence, name, 3)
            looks += 1
        coherence.ask_second_looks()
    assert looks == 2
    assert not coherence.wants_second_looks


@pytest.mark.parametrize("rounds", [0, 1])
def test_who_was_seen_to_be_gone_needs_no_second_look(coherence: Coherence, rounds: int) -> None:
    coherence.hear({b"k": None}, {b"k": None})
    for _ in range(rounds):
        coherence.ask_second_looks()
    look(coherence, b"k", ABSENT)
    assert not coherence.wants_second_looks


def test_a_delete_reported_during_a_look_that_saw_the_name_gone_is_looked_at_again(coherence: Coherence) -> None:
    number = coherence.start_look(b"k")
    coherence.hear({b"k": None}, {b"k": None})
    coherence.looked(b"k", number, ABSENT)  # it may have been there again since, and deleted again
    assert coherence.wants_second_looks
    assert coherence.take_questions(10) == [b"k"]
    look(coherence, b"k", ABSENT)
    assert not coherence.wants_second_looks


def test_names_that_came_need_no_second_look(coherence: Coherence) -> None:
    coherence.hear({b"k": None}, {})
    assert not coherence.wants_second_looks


# -- what may still grow


def grown(coherence: Coherence) -> list[bytes]:
    """Lets some time pass; returns the names that are asked about because their size was news."""
    for _ in range(2):
        coherence.growth.soon.step()
    coherence.ask_grown(100)
    return coherence.take_questions(100)


def test_what_came_or_grew_behind_our_back_is_looked_at_again_once(coherence: Coherence) -> None:
    look(coherence, b"k", 0)
    assert grown(coherence) == [b"k"]
    assert grown(coherence) == []
    look(coherence, b"k", 0)
    assert grown(coherence) == []
    look(coherence, b"k", 5)
    assert grown(coherence) == [b"k"]
    look(coherence, b"k", ABSENT)
    assert grown(coherence) == []


def test_what_we_made_ourselves_does_not_grow(coherence: Coherence) -> None:
    coherence.begin(b"k")
    coherence.finish(b"k", 5)
    look(coherence, b"k", 5)
    assert grown(coherence) == []


def test_what_a_scan_found_is_looked_at_again_only_if_it_was_written_to_a_moment_before(
    coherence: Coherence,
) -> None:
    scan(coherence, b"old", b"recent")
    look(coherence, b"old", 5)
    look(coherence, b"recent", 5, recent=True)
    assert grown(coherence) == [b"recent"]
    look(coherence, b"recent", 5, recent=True)
    assert grown(coherence) == []


def test_a_file_that_a_scan_finds_before_it_is_heard_of_is_looked_at_again(coherence: Coherence) -> None:
    coherence.begin_scan()
    coherence.scanned([b"k"])
    coherence.hear({b"k": None}, {})
    number = coherence.start_looks(coherence.take_questions(1))
    coherence.looked_at_all([b"k"], number, [0], {b"k"})
    assert grown(coherence) == [b"k"]


def test_a_doubted_size_is_news_only_if_it_is_another(coherence: Coherence) -> None:
    look(coherence, b"same", 3)
    look(coherence, b"other", 3)
    assert sorted(grown(coherence)) == [b"other", b"same"]
    scan(coherence, b"same", b"other")
    look(coherence, b"same", 3, recent=True)
    look(coherence, b"other", 4)
    assert grown(coherence) == [b"other"]


def test_an_empty_file_named_like_a_marker_may_become_an_object(index: Index, coherence: Coherence) -> None:
    look(coherence, b"k.ready", ABSENT, recent=True)
    assert grown(coherence) == [b"k.ready"]
    coherence.ask_empty()
    assert coherence.take_questions(10) == [b"k.ready"]
    look(coherence, b"k.ready", 4, recent=True)
    assert index.has(b"k.ready")
    coherence.ask_empty()
    assert coherence.take_questions(10) == []
    look(coherence, b"other.ready", ABSENT)
    assert grown(coherence) == [b"k.ready"]


# -- measures


def test_a_measure_asks_about_what_is_being_looked_at_when_it_begins(coherence: Coherence) -> None:
    wanted = coherence.measures.want()
    number = coherence.start_look(b"k")
    assert coherence.begin_measure() == wanted
    coherence.looked(b"k", number, 0)  # it may have grown since that look was made
    assert coherence.take_questions(10) == [b"k"]
    coherence.measures.complete(wanted)
    assert coherence.measures.is_complete(wanted)


def test_what_is_gone_is_not_asked_about(coherence: Coherence) -> None:
    look(coherence, b"there", 3)
    coherence.ask_unless_gone([b"gone", b"there"])
    assert coherence.take_questions(10) == [b"there"]


def test_a_scan_that_follows_no_loss_leaves_sizes_alone_unless_it_is_to_doubt_them(
    index: Index, coherence: Coherence
) -> None:
    look(coherence, b"k", 3)
    scan(coherence, b"k")  # the unknown state at start is a loss
    assert index.unsized([b"k"]) == [b"k"]
    look(coherence, b"k", 3)
    coherence.want_scan()
    scan(coherence, b"k")
    assert index.unsized([b"k"]) == []
    coherence.want_scan(doubt_sizes=True)
    coherence.want_scan()
    scan(coherence, b"k")
    assert index.unsized([b"k"]) == [b"k"]


# -- looks that cannot tell


def test_what_a_client_asked_for_and_nobody_could_tell_is_not_kept_in_mind(coherence: Coherence) -> None:
    scan(coherence, b"known")
    for number in range(5):
        name = b"unknown-%d" % number
        look_number = coherence.start_look(name)
        doubts = coherence.take_doubts()
        coherence.looked(name, look_number, UNSEEN, idle=True)
        assert doubts == set()
    assert coherence.coherent
    assert coherence.in_doubt == 0
    coherence.looked(b"known", coherence.start_look(b"known"), UNSEEN, idle=True)
    assert not coherence.coherent


def test_a_question_is_not_lost_with_a_clients_look_that_could_not_tell(coherence: Coherence) -> None:
    scan(coherence)
    coherence.ask(b"k")
    asked = coherence.start_looks(coherence.take_questions(1))
    clients = coherence.start_look(b"k")
    coherence.looked(b"k", clients, UNSEEN, idle=True)
    coherence.looked_at_all([b"k"], asked, [3])
    assert not coherence.coherent
    assert coherence.in_doubt == 1


# -- names in doubt, for those who wait


def test_doubts_are_the_names_asked_about_and_empty_as_they_are_looked_at(coherence: Coherence) -> None:
    coherence.ask(b"asked")
    number = coherence.start_look(b"looking")
    coherence.begin(b"changing")
    coherence.begin(b"changing, asked")
    coherence.ask(b"changing, asked")
    doubts = coherence.take_doubts()
    assert doubts == {b"asked", b"looking", b"changing, asked"}
    coherence.looked(b"looking", number, 3)
    assert doubts == {b"asked", b"changing, asked"}
    look(coherence, coherence.take_questions(1)[0], ABSENT)
    assert doubts == {b"changing, asked"}
    coherence.finish(b"changing, asked", 3)
    assert doubts == {b"changing, asked"}  # its look may be older than the question
    look(coherence, coherence.take_questions(1)[0], 3)
    assert doubts == set()


def test_later_questions_are_not_among_earlier_doubts(coherence: Coherence) -> None:
    coherence.ask(b"a")
    doubts = coherence.take_doubts()
    coherence.ask(b"b")
    assert doubts == {b"a"}
    assert coherence.take_doubts() == {b"a", b"b"}


def test_nothing_in_doubt_is_no_doubt(coherence: Coherence) -> None:
    look(coherence, b"k", 3)
    assert coherence.take_doubts() == set()


def test_a_look_that_is_older_than_a_question_leaves_the_name_in_doubt(coherence: Coherence) -> None:
    number = coherence.start_look(b"k")
    coherence.ask(b"k")
    doubts = coherence.take_doubts()
    coherence.looked(b"k", number, 3)
    assert doubts == {b"k"}
    look(coherence, coherence.take_questions(1)[0], 3)
    assert doubts == set()


def test_a_look_that_does_not_count_leaves_the_name_in_doubt(coherence: Coherence) -> None:
    coherence.ask(b"k")
    doubts = coherence.take_doubts()
    number = coherence.start_look(coherence.take_questions(1)[0])
    coherence.begin_scan()
    coherence.looked(b"k", number, 3)
    assert doubts == {b"k"}


def test_the_look_of_an_own_change_answers_a_question_from_before_it(coherence: Coherence) -> None:
    coherence.ask(b"k")
    doubts = coherence.take_doubts()
    coherence.begin(b"k")
    coherence.finish(b"k", 3)
    assert doubts == set()


def test_a_look_that_is_older_than_a_question_during_a_change_leaves_the_name_in_doubt(coherence: Coherence) -> None:
    # An evict of ours is under way, and a look at the same name; an outsider removes the file after that look was
    # made, and before the outcomes are back. Whoever asks now for a fresh answer must not get it from that look.
    coherence.begin(b"k")
    number = coherence.start_look(b"k")
    coherence.hear({b"k": None}, {b"k": None})
    doubts = coherence.take_doubts()
    assert doubts == {b"k"}
    coherence.looked(b"k", number, 3)
    assert doubts == {b"k"}


def test_changes_of_one_name_without_end_do_not_keep_it_in_doubt(coherence: Coherence) -> None:
    coherence.begin(b"k")
    coherence.hear({b"k": None}, {})  # its own event
    doubts = coherence.take_doubts()
    assert doubts == {b"k"}
    coherence.finish(b"k", 1)
    assert doubts == {b"k"}  # this change may be older than the question
    coherence.begin(b"k")  # at once the next one: its look is younger than all that was asked before it began
    coherence.hear({b"k": None}, {})
    younger = coherence.take_doubts()
    coherence.finish(b"k", 2)
    assert doubts == set()
    assert younger == {b"k"}
    coherence.begin(b"k")
    coherence.finish(b"k", UNSEEN)
    assert younger == {b"k"}


def test_doubts_are_stuck_when_looks_can_tell_of_nothing_that_is_left(coherence: Coherence) -> None:
    coherence.ask(b"good")
    coherence.ask(b"bad")
    doubts = coherence.take_doubts()
    look(coherence, b"bad", UNSEEN)
    assert not coherence.doubts.are_stuck(doubts)
    look(coherence, b"good", 3)
    assert coherence.doubts.are_stuck(doubts)
    assert coherence.take_unanswered() == {b"bad"}
    look(coherence, b"bad", 3)
    assert not coherence.doubts.are_stuck(doubts)
    assert coherence.take_unanswered() == set()


def test_forgotten_doubts_are_left_alone(coherence: Coherence) -> None:
    coherence.ask(b"k")
    forgotten, kept = coherence.take_doubts(), coherence.take_doubts()
    assert forgotten is not kept
    coherence.doubts.give_back(forgotten)
    look(coherence, coherence.take_questions(1)[0], 3)
    assert (forgotten, kept) == ({b"k"}, set())


def test_a_look_that_fails_leaves_the_name_in_doubt_for_who_waits(coherence: Coherence) -> None:
    coherence.ask(b"k")
    doubts = coherence.take_doubts()
    look(coherence, b"k", UNSEEN)
    assert doubts == {b"k"}
    coherence.retry_unanswered()
    look(coherence, b"k", 3)
    assert doubts == set()


# -- echoes of own changes


@pytest.fixture
def sure(coherence: Coherence) -> Coherence:
    """One whose watch hears of every change."""
    scan(coherence)
    coherence.echoes.sure = True
    return coherence


def test_the_event_of_an_own_change_is_awaited_when_it_is_answered(sure: Coherence) -> None:
    sure.begin(b"k")
    assert not sure.echoes.awaited
    sure.finish(b"k", 3, b"created")
    assert sure.echoes.awaited == {b"k": MADE}


def test_it_is_not_if_something_was_heard_of_the_name_meanwhile(sure: Coherence) -> None:
    sure.begin(b"k")
    sure.hear({b"k": None}, {})
    sure.finish(b"k", 3, b"created")
    assert not sure.echoes.awaited
    assert sure.take_questions(10) == [b"k"]


def test_an_event_that_was_held_is_a_question_at_the_end_unless_it_was_the_changes_own(sure: Coherence) -> None:
    for name in (b"own", b"other"):
        sure.begin(name)
        assert sure.echoes.is_own(name, MADE)
    sure.finish(b"own", 3, b"created")
    sure.finish(b"other", 3, b"replaced")
    assert sure.take_questions(10) == [b"other"]
    assert sure.wants_second_looks  # it may have been a delete


def test_a_name_of_which_an_event_is_held_is_in_doubt(sure: Coherence) -> None:
    sure.begin(b"k")
    assert sure.take_doubts() == set()
    assert sure.echoes.is_own(b"k", MADE)
    doubts = sure.take_doubts()
    assert doubts == {b"k"}
    sure.finish(b"k", 3, b"created")
    assert doubts == set()


def test_it_is_not_if_the_look_failed(sure: Coherence) -> None:
    sure.begin(b"k")
    sure.finish(b"k", UNSEEN, b"created")
    assert not sure.echoes.awaited


def test_at_a_loss_nothing_is_awaited_any_more_nor_of_what_is_under_way(sure: Coherence) -> None:
    sure.begin(b"done")
    sure.finish(b"done", 3, b"created")
    sure.begin(b"under way")
    sure.lost("overflow")
    assert not sure.echoes.awaited
    sure.finish(b"under way", 3, b"created")
    assert not sure.echoes.awaited
    assert sure.take_questions(10) == [b"under way"]
