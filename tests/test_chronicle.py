"""chronicle.py: the last events of each namespace, their numbers, and the marks by which a reader goes on."""

from __future__ import annotations

import sys

import pytest

from storekeeper.errors import BadRequest
from storekeeperd import sight
from storekeeperd.chronicle import ASKED, EVICTED, REPLACED, Chronicle, Event, Mark, parse_mark

SEEN = sight.of(5, 1000, 1)


class Clock:
    """Seconds of the epoch, as a test says."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def made(events_max: int = 12, *, clock: Clock | None = None) -> Chronicle:
    chronicle = Chronicle(events_max, clock or Clock())
    for prefix in (b"", b"team/", b"closed/"):
        chronicle.set_space(prefix)
    return chronicle


def keys(chronicle: Chronicle, prefix: bytes, mark: Mark | None = None) -> list[bytes]:
    book = chronicle.book(prefix)
    return [event.key for event in book.read(book.begin(mark)[0])]


def test_an_event_says_what_became_of_an_object_and_by_whom() -> None:
    clock = Clock()
    chronicle = made(clock=clock)
    chronicle.note(b"k", EVICTED, "expired", SEEN)
    clock.now_s = 101.5
    chronicle.note(b"k", REPLACED, ASKED, SEEN, 1001)
    book = chronicle.book(b"")
    assert list(book.read(book.start)) == [
        Event(1, 100.0, b"k", "evicted", "expired", SEEN, None),
        Event(2, 101.5, b"k", "replaced", "asked", SEEN, 1001),
    ]


def test_every_namespace_has_its_own_numbers() -> None:
    chronicle = made()
    for name in (b"k", b"closed/a", b"closed/b", b"team/t", b"closed/c", b"l"):
        chronicle.note(name, EVICTED, "expired", SEEN)
    for prefix, expected in ((b"", [(1, b"k"), (2, b"l")]), (b"team/", [(1, b"t")])):
        book = chronicle.book(prefix)
        assert [(event.number, event.key) for event in book.read(book.start)] == expected


def test_events_elsewhere_drive_out_none() -> None:
    chronicle = made(12)
    chronicle.note(b"team/t", EVICTED, "expired", SEEN)
    for number in range(100):
        chronicle.note(b"closed/%d" % number, EVICTED, "room", SEEN, 1001)
    assert keys(chronicle, b"team/") == [b"t"]
    assert keys(chronicle, b"closed/") == [b"96", b"97", b"98", b"99"]  # a third of twelve


def test_a_part_is_smaller_where_there_are_more_namespaces_and_larger_again() -> None:
    chronicle = made(12)
    for number in range(4):
        chronicle.note(b"%d" % number, EVICTED, "expired", SEEN)
    chronicle.set_space(b"fourth/")
    assert keys(chronicle, b"") == [b"1", b"2", b"3"]
    chronicle.drop_space(b"fourth/")
    chronicle.note(b"4", EVICTED, "expired", SEEN)
    assert keys(chronicle, b"") == [b"1", b"2", b"3", b"4"]
    for number in range(20):
        chronicle.set_space(b"more-%d/" % number)
    assert keys(chronicle, b"") == [b"4"]  # one in any case


def test_setting_a_namespace_once_more_keeps_its_book() -> None:
    chronicle = made()
    chronicle.note(b"team/t", EVICTED, "expired", SEEN)
    chronicle.set_space(b"team/")
    assert keys(chronicle, b"team/") == [b"t"]


def test_a_reader_goes_on_from_his_mark() -> None:
    chronicle = made()
    book = chronicle.book(b"")
    begun = book.begin(None)
    assert begun == (book.start, False)
    chronicle.note(b"a", EVICTED, "expired", SEEN)
    mark = book.end
    chronicle.note(b"b", EVICTED, "expired", SEEN)
    assert keys(chronicle, b"", begun[0]) == [b"a", b"b"]
    assert book.begin(mark) == (mark, False)
    assert keys(chronicle, b"", mark) == [b"b"]
    assert keys(chronicle, b"", book.end) == []


def test_a_reader_who_is_too_late_is_told_so() -> None:
    chronicle = made(12)
    book = chronicle.book(b"")
    mark = book.end
    for number in range(4):
        chronicle.note(b"%d" % number, EVICTED, "expired", SEEN)
    assert book.begin(mark) == (mark, False)
    chronicle.note(b"4", EVICTED, "expired", SEEN)
    assert book.begin(mark) == (book.start, True)
    assert keys(chronicle, b"", mark) == [b"1", b"2", b"3", b"4"]
    assert book.begin(None) == (book.start, False)  # who has no mark has missed nothing


def test_a_mark_of_another_book_is_a_place_in_none_however_far_this_one_has_come() -> None:
    clock = Clock()
    first = made(clock=clock)
    first.note(b"k", EVICTED, "expired", SEEN)
    mark = first.book(b"").end
    clock.now_s += 0.001
    second = made(clock=clock)  # the daemon was started anew
    for _ in range(3):
        second.note(b"k", EVICTED, "expired", SEEN)
    assert second.book(b"").begin(mark) == (second.book(b"").start, True)


def test_a_namespace_that_is_made_anew_tells_nothing_of_the_one_before() -> None:
    clock = Clock()
    chronicle = made(clock=clock)
    chronicle.note(b"team/secret", EVICTED, "expired", SEEN)
    mark = chronicle.book(b"team/").end
    chronicle.drop_space(b"team/")
    chronicle.note(b"team/late", EVICTED, "expired", SEEN)  # of what was under way
    clock.now_s += 1
    chronicle.set_space(b"team/")
    assert keys(chronicle, b"team/") == []
    assert chronicle.book(b"team/").end.number == 0
    assert chronicle.book(b"team/").begin(mark) == (chronicle.book(b"team/").start, True)


def test_a_mark_with_a_number_that_never_was_is_no_place() -> None:
    book = made().book(b"")
    assert book.begin(Mark(book.end.began, 7)) == (book.start, True)


@pytest.mark.parametrize("namespace", ["default", "ä b", "1.2 3"])
def test_a_mark_is_a_text_on_the_wire(namespace: str) -> None:
    assert parse_mark(Mark(123, 4).to_text(namespace)) == (namespace, Mark(123, 4))


@pytest.mark.parametrize(
    "text",
    ["", "x", "1.2", "1.2 ", "1 default", ".2 default", "1. default", "1.-2 default", "1.²  d", "1" * 99 + ".1 d"],
)
def test_what_is_no_mark_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="as the daemon told it"):
        parse_mark(text)


def test_an_event_takes_little() -> None:
    chronicle = made(3)
    chronicle.note(b"k" * 40, EVICTED, "expired", SEEN, 1001)
    (entry,) = chronicle.book(b"")._entries
    assert type(entry) is tuple
    assert sys.getsizeof(entry) + sum(sys.getsizeof(entry[place]) for place in (0, 1, 4, 5)) < 300
