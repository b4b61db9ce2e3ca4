"""sizing.py: sizes are looked at a few at a time, behind everything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.sight import ABSENT, UNSEEN
from storekeeperd.sizing import Sizing


class FakeLoop:
    """Timers that are due when a test says so."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))


class Bench:
    """Sizing over an index of its own; the sizes are those of a dictionary."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.index = Index()
        self.coherence = Coherence(self.index)
        self.behind = False
        self.sizing = Sizing(self.loop, self.index, self.coherence, lambda: self.behind)  # type: ignore[arg-type]
        self.sizes: dict[bytes, int] = {}
        self.recent: set[bytes] = set()
        self.looks = 0

    def scan(self, *names: bytes) -> None:
        self.coherence.begin_scan()
        self.coherence.scanned(names)
        self.coherence.end_scan(complete=True)
        self.coherence.sweep()

    def look(self) -> int:
        """Looks at all that was asked; returns how many names that were."""
        names = self.coherence.take_questions(1_000_000)
        number = self.coherence.start_looks(names)
        self.coherence.looked_at_all(names, number, [self.sizes.get(name, ABSENT) for name in names], self.recent)
        self.looks += len(names)
        return len(names)

    def turn(self) -> float:
        """Lets the one timer be due; returns how long it had been waiting."""
        ((delay_s, callback),) = self.loop.timers
        self.loop.timers.clear()
        callback()
        return delay_s

    def run(self) -> list[int]:
        """Runs until nothing is to be done; returns how many names were looked at in each turn that had any."""
        turns = []
        while self.loop.timers:
            self.turn()
            turns.append(self.look())
        return [looked for looked in turns if looked]

    def wait(self, seconds: float) -> int:
        """Lets time pass, in turns of the loop; returns how many names were looked at."""
        looks = self.looks
        left_s = seconds
        self.sizing.turn()
        while self.loop.timers and min(delay_s for delay_s, _ in self.loop.timers) <= left_s:
            delay_s, callback = first = min(self.loop.timers, key=lambda timer: timer[0])
            self.loop.timers.remove(first)
            left_s -= delay_s
            self.loop.timers = [(max(0.0, other_s - delay_s), other) for other_s, other in self.loop.timers]
            callback()
            self.look()
            self.sizing.turn()
        self.loop.timers = [(other_s - left_s, other) for other_s, other in self.loop.timers]
        return self.looks - looks


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- sizes that are not known


def test_every_object_of_a_scan_is_asked_about(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: number for number in range(1000)}
    bench.scan(*bench.sizes)
    assert bench.index.whole.unsized == 1000
    bench.sizing.begin()
    assert bench.coherence.questions == 0  # behind everything else
    turns = bench.run()
    assert max(turns) <= 256
    assert bench.looks == 1000
    assert (bench.index.whole.unsized, bench.index.whole.bytes) == (0, sum(range(1000)))


def test_it_pauses_between_its_turns(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: number for number in range(600)}
    bench.scan(*bench.sizes)
    bench.sizing.begin()
    looked = 0
    while bench.loop.timers:
        assert bench.turn() >= 0.005 or not looked
        looked = bench.look()


def test_a_measure_looks_at_every_object_without_a_pause(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: number for number in range(1000)}
    for name in bench.sizes:
        bench.coherence.ask(name)
    bench.look()
    bench.looks = 0
    bench.sizes = dict.fromkeys(bench.sizes, 7)  # nobody hears of that
    bench.coherence.growth.soon._new.clear()  # they came behind our back
    number = bench.coherence.measures.want()
    assert bench.sizing.wanted
    bench.sizing.turn()
    assert not bench.sizing.wanted
    later = bench.coherence.measures.want()
    while not bench.coherence.measures.is_complete(number):
        assert bench.turn() == 0
        assert bench.look() <= 256
    assert bench.looks == 1000
    assert bench.index.whole.bytes == 7000
    assert bench.sizing.wanted  # for him who came later
    assert not bench.coherence.measures.is_complete(later)


def test_a_measure_goes_on_in_any_storm(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: 1 for number in range(1000)}
    for name in bench.sizes:
        bench.coherence.ask(name)
    bench.look()
    bench.coherence.growth.soon._new.clear()
    number = bench.coherence.measures.want()
    bench.sizing.turn()
    bench.behind = True
    for turn in range(4):
        for busy in range(600):
            bench.coherence.ask(b"busy-%d" % busy)
        assert not bench.coherence.measures.is_complete(number), turn
        assert bench.turn() < 0.02
    assert bench.coherence.measures.is_complete(number)


def test_a_measure_of_nothing_is_complete(bench: Bench) -> None:
    number = bench.coherence.measures.want()
    bench.sizing.turn()
    bench.run()
    assert bench.coherence.measures.is_complete(number)


def test_it_goes_on_at_once_past_names_whose_size_is_known(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: number for number in range(1000)}
    bench.scan(*bench.sizes)
    for name in list(bench.sizes)[1:]:
        bench.coherence.ask(name)
    bench.look()
    bench.looks = 0
    bench.sizing.begin()
    delays = []
    while bench.loop.timers:
        delays.append(bench.turn())
        bench.look()
    assert bench.looks == 1
    assert delays[1:] == [0] * (len(delays) - 1)


def test_there_is_nothing_to_do_if_all_sizes_are_known(bench: Bench) -> None:
    bench.sizing.begin()
    bench.sizes = {b"k": 3}
    bench.coherence.ask(b"k")
    bench.look()
    bench.sizing.begin()
    assert bench.run() == []


def test_sizes_in_doubt_are_asked_about_and_others_are_not(bench: Bench) -> None:
    bench.sizes = {b"old": 3, b"new": 4}
    bench.coherence.ask(b"old")
    bench.look()
    bench.coherence.begin_scan()
    bench.coherence.ask(b"new")
    bench.look()
    bench.coherence.scanned([b"old", b"new"])
    bench.coherence.end_scan(complete=True)
    bench.coherence.sweep()
    bench.looks = 0
    bench.sizes[b"old"] = 30
    bench.sizing.begin()
    assert bench.run() == [1]
    assert bench.index.size(b"old") == 30


def test_names_that_went_meanwhile_are_not_asked_about(bench: Bench) -> None:
    bench.scan(b"a", b"b")
    bench.sizes = {b"b": 1}
    bench.sizing.begin()
    bench.coherence.ask(b"a")
    bench.look()
    bench.looks = 0
    bench.run()
    assert bench.looks == 1


def test_it_waits_while_others_have_more_to_look_at(bench: Bench) -> None:
    bench.sizes = {b"k": 3}
    bench.scan(b"k")
    bench.sizing.begin()
    for number in range(513):
        bench.coherence.ask(b"busy-%d" % number)
    bench.turn()
    assert bench.coherence.questions == 513
    assert bench.turn() > 0
    assert bench.coherence.questions == 513
    number = bench.coherence.start_looks(bench.coherence.take_questions(1000))
    assert bench.turn() > 0  # what is being looked at counts, too
    assert bench.coherence.questions == 0
    bench.coherence.looked_at_all([b"busy-%d" % busy for busy in range(513)], number, [ABSENT] * 513)
    assert bench.run() == [1]


def test_it_waits_while_more_is_heard_than_is_kept_up_with(bench: Bench) -> None:
    bench.sizes = {b"k": 3}
    bench.scan(b"k")
    bench.sizing.begin()
    bench.behind = True
    bench.turn()
    assert bench.turn() > 0
    assert bench.look() == 0
    bench.behind = False
    assert bench.run() == [1]


def test_a_scan_that_ends_meanwhile_begins_it_anew_but_only_once_at_a_time(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: 1 for number in range(600)}
    bench.scan(*bench.sizes)
    bench.sizing.begin()
    bench.turn()
    bench.look()
    bench.coherence.want_scan()
    bench.scan(*bench.sizes)
    bench.sizing.begin()
    assert len(bench.loop.timers) == 1
    bench.run()
    assert bench.index.whole.unsized == 0


def test_it_can_begin_again_after_its_end(bench: Bench) -> None:
    for number in range(3):
        bench.sizes = {b"k": number}
        bench.coherence.want_scan(doubt_sizes=True)
        bench.scan(b"k")
        bench.sizing.begin()
        bench.run()
        assert bench.index.size(b"k") == number
        assert bench.index.whole.unsized == 0


def test_a_look_that_fails_is_not_repeated_by_it(bench: Bench) -> None:
    bench.scan(b"k")
    bench.sizes = {b"k": UNSEEN}
    bench.sizing.begin()
    assert bench.run() == [1]  # coherence asks again, once a second
    bench.sizes = {b"k": 3}
    bench.coherence.retry_unanswered()
    bench.look()
    assert bench.index.size(b"k") == 3


# -- sizes that may still change


def write(bench: Bench, size: int) -> None:
    """A file appears and is heard of."""
    bench.sizes[b"k"] = size
    bench.coherence.hear({b"k": None}, {})
    bench.look()


def test_what_came_is_looked_at_again_soon_until_it_stays_the_same(bench: Bench) -> None:
    write(bench, 0)
    for size in (10, 20, 30):
        bench.sizes[b"k"] = size  # nobody hears of that
        assert bench.wait(0.6) == 1
        assert bench.index.size(b"k") == size
    assert bench.wait(60) == 1
    assert not bench.loop.timers  # an idle daemon sleeps


def test_what_came_is_not_looked_at_again_at_once(bench: Bench) -> None:
    write(bench, 0)
    assert bench.wait(0.24) == 0
    assert bench.wait(0.5) == 1


def test_what_was_written_to_a_moment_before_is_looked_at_once_more_for_its_writer_may_have_paused(
    bench: Bench,
) -> None:
    bench.recent = {b"k"}
    write(bench, 0)
    assert bench.wait(1) == 1
    bench.sizes[b"k"] = 10
    bench.recent = set()
    assert bench.wait(11) == 2  # later, and once more because it grew
    assert bench.index.size(b"k") == 10
    assert bench.wait(60) == 0


def test_what_went_again_is_looked_at_no_more(bench: Bench) -> None:
    write(bench, 0)
    bench.sizes.clear()
    bench.coherence.hear({b"k": None}, {b"k": None})
    bench.look()
    assert bench.wait(60) == 0
    assert not bench.coherence.growth.soon


def test_what_we_put_ourselves_is_not_looked_at_again(bench: Bench) -> None:
    bench.coherence.begin(b"k")
    bench.coherence.finish(b"k", 3)
    bench.recent = {b"k"}
    bench.sizes = {b"k": 3}
    bench.coherence.hear({b"k": None}, {})  # our own link
    bench.look()
    assert bench.wait(60) == 0


def test_what_grows_comes_before_what_a_scan_found(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: 1 for number in range(600)}
    bench.scan(*bench.sizes)
    write(bench, 0)
    for _ in range(2):
        bench.coherence.growth.soon.step()
    bench.sizing.begin()
    assert len(bench.loop.timers) == 1
    bench.turn()
    assert bench.coherence.take_questions(1000) == [b"k"]


def test_a_storm_of_new_files_is_looked_at_again_a_few_at_a_time(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: 1 for number in range(1000)}
    bench.coherence.hear(dict.fromkeys(bench.sizes), {})
    bench.look()
    bench.sizes = dict.fromkeys(bench.sizes, 7)
    for _ in range(2):
        bench.coherence.growth.soon.step()
    bench.sizing.run()
    assert max(bench.run()) <= 256
    assert bench.index.whole.bytes == 7000
