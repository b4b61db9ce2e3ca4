"""growth.py: which objects may still grow."""

from __future__ import annotations

from storekeeperd.growth import Cohorts, Growth


def due(growth: Growth) -> list[bytes]:
    return growth.take(100)


def waits(growth: Growth) -> bool:
    return bool(growth.soon or growth.later or growth.due or growth.asked)


def test_a_name_is_due_when_it_has_waited_for_a_whole_step() -> None:
    cohorts = Cohorts()
    cohorts.add([b"a"])
    cohorts.step()
    cohorts.add([b"b"])
    assert not cohorts.due
    cohorts.step()
    assert list(cohorts.due) == [b"a"]
    assert cohorts
    cohorts.step()
    assert list(cohorts.due) == [b"a", b"b"]
    assert not cohorts


def test_a_name_that_is_news_again_and_again_stands_there_a_few_times_at_most() -> None:
    growth = Growth()
    for _ in range(100):
        growth.seen(b"k", news=True, recent=True)
        growth.soon.step()
        growth.later.step()
    assert due(growth) == [b"k"]
    assert not growth.later


def test_a_size_that_was_news_is_due_soon_and_then_later_while_the_file_is_written_to() -> None:
    growth = Growth()
    growth.seen(b"k", news=True, recent=True)
    for _ in range(2):
        growth.soon.step()
    assert due(growth) == [b"k"]
    growth.seen(b"k", news=False, recent=True)
    for _ in range(3):
        for _ in range(2):
            growth.soon.step()
        assert not growth.due
        for _ in range(2):
            growth.later.step()
        assert due(growth) == [b"k"]
        growth.seen(b"k", news=False, recent=True)
    for _ in range(2):
        growth.later.step()
    assert due(growth) == [b"k"]
    growth.seen(b"k", news=False, recent=False)
    assert not waits(growth)


def test_looks_that_nobody_asked_for_here_bring_nothing_that_is_no_news() -> None:
    growth = Growth()
    growth.seen(b"k", news=False, recent=True)
    assert not waits(growth)


def test_only_so_many_are_taken_at_once_and_soon_comes_before_later() -> None:
    growth = Growth()
    growth.later.add([b"later"])
    for number in range(5):
        growth.soon.add([b"%d" % number])
    for _ in range(2):
        growth.soon.step()
        growth.later.step()
    assert growth.due == 6
    assert growth.take(3) == [b"0", b"1", b"2"]
    assert growth.take(3) == [b"3", b"4"]
    assert growth.take(3) == [b"later"]
    assert growth.due == 0


def test_what_is_gone_is_looked_at_no_more() -> None:
    growth = Growth()
    growth.soon.add([b"gone"])
    growth.later.add([b"gone"])
    growth.soon.add([b"there"])
    growth.go([b"gone"], ())
    for _ in range(2):
        growth.soon.step()
        growth.later.step()
    assert due(growth) == [b"there"]
    growth.go([b"there"], ())
    growth.go([b"there"], ())
    assert not waits(growth)


def test_an_empty_file_named_like_a_marker_is_looked_at_as_long_as_it_is_new() -> None:
    growth = Growth()
    growth.go([b"k.ready"], {b"k.ready"})
    for cohorts in (growth.soon, growth.later, growth.later):
        for _ in range(2):
            cohorts.step()
        assert due(growth) == [b"k.ready"]
        growth.go([b"k.ready"], {b"k.ready"})
    for _ in range(2):
        growth.later.step()
    assert due(growth) == [b"k.ready"]
    growth.go([b"k.ready"], ())
    assert not waits(growth)
