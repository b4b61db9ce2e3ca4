"""sizing.py: sizes are looked at a few at a time, behind everything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.operations import ABSENT, UNSEEN
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
        self.sizing = Sizing(self.loop, self.index, self.coherence)  # type: ignore[arg-type]
        self.sizes: dict[bytes, int] = {}
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
        self.coherence.looked_at_all(names, number, [self.sizes.get(name, ABSENT) for name in names])
        self.looks += len(names)
        return len(names)

    def turn(self) -> float:
        """Lets the one timer be due; returns how long it had been waiting."""
        ((delay_s, callback),) = self.loop.timers
        self.loop.timers.clear()
        callback()
        return delay_s

    def run(self) -> list[int]:
        """Runs until nothing is to be done; returns how many names were looked at in each turn."""
        turns = []
        while self.loop.timers:
            self.turn()
            turns.append(self.look())
        return turns


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
    while bench.loop.timers:
        assert bench.turn() >= 0.005
        bench.look()


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
    assert not bench.loop.timers


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
    assert bench.turn() >= 0.05
    assert bench.coherence.questions == 513
    bench.look()
    bench.turn()
    assert bench.look() == 1
    assert not bench.loop.timers


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
        bench.coherence.want_scan()
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


def test_what_came_is_looked_at_again_a_second_later_until_it_stays_the_same(bench: Bench) -> None:
    write(bench, 0)
    for size in (10, 20, 30):
        bench.sizing.tick()  # it may have come just now
        bench.run()
        bench.sizes[b"k"] = size  # nobody hears of that
        bench.sizing.tick()
        bench.run()
        assert bench.index.size(b"k") == size
    bench.looks = 0
    for _ in range(5):
        bench.sizing.tick()
        bench.run()
    assert bench.looks == 1


def test_what_came_is_not_looked_at_again_before_a_second_has_passed(bench: Bench) -> None:
    write(bench, 0)
    bench.looks = 0
    bench.sizing.tick()
    assert not bench.loop.timers
    assert bench.run() == []
    bench.sizing.tick()
    assert bench.run() == [1]


def test_what_went_again_is_looked_at_no_more(bench: Bench) -> None:
    write(bench, 0)
    bench.sizes.clear()
    bench.coherence.hear({b"k": None}, {b"k": None})
    bench.look()
    for _ in range(3):
        bench.sizing.tick()
        bench.run()
    bench.looks = 0
    for _ in range(3):
        bench.sizing.tick()
        bench.run()
    assert bench.looks == 0


def test_what_we_put_ourselves_is_not_looked_at_again(bench: Bench) -> None:
    bench.coherence.begin(b"k")
    bench.coherence.finish(b"k", 3)
    for _ in range(3):
        bench.sizing.tick()
    assert not bench.loop.timers


def test_what_grows_comes_before_what_a_scan_found(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: 1 for number in range(600)}
    bench.scan(*bench.sizes)
    write(bench, 0)
    bench.sizing.begin()
    bench.sizing.tick()
    bench.sizing.tick()
    assert len(bench.loop.timers) == 1
    bench.turn()
    assert bench.coherence.take_questions(1000) == [b"k"]


def test_a_storm_of_new_files_is_looked_at_again_a_few_at_a_time(bench: Bench) -> None:
    bench.sizes = {b"%d" % number: 1 for number in range(1000)}
    bench.coherence.hear(dict.fromkeys(bench.sizes), {})
    bench.look()
    bench.sizes = dict.fromkeys(bench.sizes, 7)
    bench.sizing.tick()
    bench.sizing.tick()
    assert max(bench.run()) <= 256
    assert bench.index.whole.bytes == 7000
