"""reconciler.py: what follows from what the watcher, the scanner, the directory and the clock say."""

from __future__ import annotations

import errno
import logging
import os
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storekeeper import wire
from storekeeperd import reconciler as reconciler_module
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.config import Config, Limits
from storekeeperd.entries import Sorted
from storekeeperd.filesystem import FileSystem
from storekeeperd.heartbeat import Heartbeat
from storekeeperd.index import Index
from storekeeperd.reconciler import AWAY, RENEWED, REPLACED, Reconciler
from storekeeperd.scanner import Report
from storekeeperd.service import Service
from storekeeperd.sight import ABSENT, UNSEEN
from storekeeperd.watcher import DEAF, FOLDER_GONE, GONE, MOVED, OVERFLOW, Heard, WatchRefused

LOCAL = FileSystem("ext4", local=True, network=False)
REMOTE = FileSystem("nfs4", local=False, network=True)
WATCH = 1_000_077
"""What the fake watcher says is its descriptor."""


class FakeTimer:
    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback


class FakeLoop:
    """Timers by the clock of the world, and callbacks by descriptor."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.timers: list[FakeTimer] = []
        self.callbacks: dict[int, Callable[[int], None]] = {}
        self.woken = False

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        assert descriptor not in self.callbacks
        self.callbacks[descriptor] = callback

    def unwatch(self, descriptor: int) -> None:
        del self.callbacks[descriptor]

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        self.timers.append(FakeTimer(self.world.now + delay_s, callback))
        return self.timers[-1]

    def wake(self) -> None:
        self.woken = True


class FakeHome:
    """A store that is there or not; every look at it opens the marker."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ground = types.SimpleNamespace(denied=False)
        self.there = True
        self.folder = True
        self.beats = 0
        self.error: OSError | None = None
        self.checks: list[bool] = []

    def identities(self) -> dict[str, tuple[int, int]]:
        config = self.world.config
        found = {name: (config.store / name).stat() for name in ("", *config.namespaces)}
        return {name: (one.st_dev, one.st_ino) for name, one in found.items()}

    def stands_on(self, identity: tuple[int, int]) -> bool:
        try:
            return self.identities()[""] == identity
        except OSError:
            return False

    def check(self, *, quiet: bool, unmoved: bool = False) -> bool:
        self.checks.append(unmoved)
        if self.error is not None:
            raise self.error
        self.folder = self.folder or (unmoved and self.there)
        if self.there and self.folder:
            self.beats += 1
            self.world.watcher.marker_opened()
        return self.there and self.folder


class FakeWatcher:
    """Tells what a test says, and of the marker unless it is deaf."""

    def __init__(self) -> None:
        self.armed = False
        self.arms = 0
        self.deaf = False
        self.refusal = ""
        self.hears_beats = True
        self.leaving: bytes | None = None
        self.whole = True
        self.queued: list[Heard] = []
        self.dropped: list[Heard] = []  # what nobody read in time

    def arm(self) -> None:
        self.close()
        if self.refusal:
            raise WatchRefused(self.refusal)
        self.armed = True
        self.arms += 1

    @property
    def descriptor(self) -> int:
        return WATCH if self.armed else -1

    @property
    def waiting_bytes(self) -> int:
        return 64 * len(self.queued)

    def take(self, *, everything: bool = False) -> Heard:
        told = Heard()
        taken = len(self.queued) if everything else 1
        for heard in self.queued[:taken]:
            told.names.update(heard.names)
            told.deleted.update(heard.deleted)
            told.losses += heard.losses
            told.beat |= heard.beat
        del self.queued[:taken]
        return told

    def close(self) -> None:
        self.armed = False
        self.dropped += self.queued
        self.queued = []

    def say(self, *names: bytes, deleted: tuple[bytes, ...] = (), losses: tuple[str, ...] = ()) -> None:
        assert self.armed
        self.queued.append(Heard(dict.fromkeys(names), dict.fromkeys(deleted), list(losses)))

    def marker_opened(self) -> None:
        if self.armed and not self.deaf:
            self.queued.append(Heard(beat=True))


class FakeScanner:
    """A scan that brings what a test says."""

    def __init__(self) -> None:
        self.running = False
        self.starts = 0
        self.report = Report()
        self.chunks: deque[Sorted | Report] = deque()
        self.closed_s: float | None = None

    def start(self) -> None:
        assert not self.running
        self.running = True
        self.starts += 1
        self.report = Report()

    def take(self) -> Sorted | Report | None:
        if not self.chunks:
            return None
        chunk = self.chunks.popleft()
        if isinstance(chunk, Report):
            self.running = False
            self.report = chunk
        return chunk

    def close(self, timeout_s: float) -> None:
        self.closed_s = timeout_s


class FakeSizing:
    def __init__(self) -> None:
        self.begun = 0
        self.turns = 0

    def begin(self) -> None:
        self.begun += 1

    def turn(self) -> None:
        self.turns += 1


class World:
    """A reconciler among fakes, with a clock of its own; only coherence, index and service are real."""

    def __init__(self, store: Path, **settings: Any) -> None:
        self.now = 1000.0
        self.file_system = LOCAL
        self.loop = FakeLoop(self)
        self.home = FakeHome(self)
        self.watcher = FakeWatcher()
        self.scanner = FakeScanner()
        self.sizing = FakeSizing()
        self.index = Index()
        self.coherence = Coherence(self.index)
        self.service = Service(Limits(), self.index, self.coherence, namespaces=settings.get("namespaces", ()))
        self.config = Config(store, "ipc:///nowhere", **settings)
        self.reconciler = Reconciler(
            self.config,
            self.loop,  # type: ignore[arg-type]
            self.home,  # type: ignore[arg-type]
            self.watcher,  # type: ignore[arg-type]
            self.scanner,  # type: ignore[arg-type]
            self.service,
            self.index,
            self.coherence,
            self.sizing,  # type: ignore[arg-type]
        )

    def turn(self) -> None:
        """A turn of the loop: what is heard, then the rest; questions are answered by "not there"."""
        while self.watcher.queued and WATCH in self.loop.callbacks:
            self.loop.callbacks[WATCH](1)
        self.reconciler.turn()
        self.service.ask_disk(0)

    def look(self, seen: int = ABSENT) -> list[bytes]:
        """Looks at all that is asked."""
        names = self.coherence.take_questions(1000)
        for name in names:
            self.coherence.looked(name, self.coherence.start_look(name), seen)
        return names

    def advance(self, seconds: float) -> None:
        """Lets time pass: timers when they are due, and a turn after each."""
        end = self.now + seconds
        while due := [timer for timer in self.loop.timers if timer.due <= end]:
            timer = min(due, key=lambda each: each.due)
            self.loop.timers.remove(timer)
            self.now = max(self.now, timer.due)
            timer.callback()
            self.turn()
        self.now = end

    def second(self) -> None:
        """A second with its tick, and what follows from it at once."""
        self.advance(1.0)
        self.reconciler.tick()
        self.turn()

    def end_scan(
        self, *objects: bytes, doubtful: tuple[bytes, ...] = (), seconds: float = 0.01, complete: bool = True
    ) -> None:
        """Lets the scan that runs bring names, and end."""
        assert self.scanner.running
        self.scanner.chunks.append(Sorted(list(objects), list(doubtful)))
        foreign = Counter({"directory": 2, "link": 0})
        self.scanner.chunks.append(Report(complete, seconds, len(objects), foreign, list(doubtful)))
        while self.scanner.chunks:
            self.turn()
        while due := [timer for timer in self.loop.timers if timer.due <= self.now]:
            self.loop.timers.remove(due[0])
            due[0].callback()

    def scan(self, *objects: bytes, **how: Any) -> None:
        """Waits for the scan that is wanted, and lets it end."""
        for _ in range(200):
            if self.scanner.running:
                break
            self.advance(0.01)
            self.turn()
        self.end_scan(*objects, **how)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Gives a function that makes a world that has begun to watch; closed with the test."""
    made: list[World] = []
    clock = types.SimpleNamespace(monotonic=lambda: made[-1].now if made else 1000.0, time=lambda: 1_700_000_000.0)
    monkeypatch.setattr(reconciler_module, "time", clock)
    monkeypatch.setattr("storekeeperd.scans.time", clock)
    monkeypatch.setattr(reconciler_module, "Heartbeat", lambda coherence: Heartbeat(coherence, clock.monotonic))
    file_systems: list[FileSystem] = [LOCAL]
    monkeypatch.setattr(reconciler_module, "find", lambda _: file_systems[0])

    def make_one(file_system: FileSystem = LOCAL, refusal: str = "", **settings: Any) -> World:
        file_systems[0] = file_system
        for name in ("", *settings.get("namespaces", ())):
            (tmp_path / "store" / name).mkdir(exist_ok=True)
        world = World(tmp_path / "store", **settings)
        made.append(world)
        world.watcher.refusal = refusal
        world.reconciler.start()
        return world

    yield make_one
    for world in made:
        world.reconciler.close(0.1)


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    """A world at rest: watched, scanned, coherent, and heard of."""
    world = make()
    world.turn()
    world.end_scan()
    world.second()
    assert world.coherence.coherent
    assert world.service.store_away is False
    world.scanner.starts = world.watcher.arms = 0
    return world


# -- the start


def test_it_watches_before_it_scans(make: Callable[..., World]) -> None:
    world = make()
    assert world.watcher.arms == 1
    assert world.scanner.starts == 0
    world.turn()
    assert world.scanner.starts == 1
    assert not world.coherence.coherent
    world.end_scan(b"a", b"b")
    assert world.coherence.coherent
    assert sorted(world.index.names()) == [b"a", b"b"]
    assert world.sizing.begun == 1
    assert not world.coherence.losses


def test_what_is_heard_during_the_first_scan_is_no_loss(make: Callable[..., World]) -> None:
    world = make()
    world.turn()
    world.watcher.say(b"k")
    world.turn()
    assert world.coherence.take_questions(10) == [b"k"]
    assert world.coherence.epoch == 1


def test_a_second_at_rest_brings_nothing_but_a_check(world: World) -> None:
    for _ in range(100):
        world.second()
    assert world.coherence.coherent
    assert not world.coherence.losses
    assert (world.watcher.arms, world.scanner.starts) == (0, 0)
    assert world.sizing.turns > 100
    assert len(world.home.checks) >= 100


def test_closing_ends_the_watch_and_the_scan(world: World) -> None:
    world.reconciler.close(0.3)
    assert world.scanner.closed_s == 0.3
    assert not world.watcher.armed
    assert WATCH not in world.loop.callbacks
    world.reconciler.close(0.3)


# -- what is heard


def test_names_that_are_heard_are_questions(world: World) -> None:
    world.watcher.say(b"a", b"b")
    world.turn()
    assert world.coherence.take_questions(10) == [b"a", b"b"]
    assert world.index.names() == []


def test_a_deleted_name_is_looked_at_again_after_50_ms_if_it_is_still_there(world: World) -> None:
    world.watcher.say(b"k", deleted=(b"k",))
    world.turn()
    assert world.look(3) == [b"k"]
    world.advance(0.049)
    assert world.look(3) == []
    world.advance(0.06)
    assert world.look(3) == [b"k"]
    world.advance(1.0)
    assert world.look(3) == []


def test_a_deleted_name_that_is_seen_to_be_gone_is_not_looked_at_again(world: World) -> None:
    world.watcher.say(b"k", deleted=(b"k",))
    world.turn()
    assert world.look() == [b"k"]
    world.advance(1.0)
    assert world.look() == []
    assert not world.loop.timers


def test_a_delete_is_given_at_least_50_ms_however_many_are_heard_of(world: World) -> None:
    world.watcher.say(b"a", deleted=(b"a",))
    world.turn()
    world.look(3)
    world.advance(0.04)
    world.watcher.say(b"b", deleted=(b"b",))
    world.turn()
    assert world.look(3) == [b"b"]
    asked: dict[bytes, float] = {}
    heard_at = world.now
    for _ in range(30):
        world.advance(0.01)
        asked.update(dict.fromkeys(world.look(3), world.now - heard_at))
    assert set(asked) == {b"a", b"b"}
    assert asked[b"b"] >= 0.05
    assert not world.loop.timers


# -- losses


@pytest.mark.parametrize("kind", [OVERFLOW, MOVED, GONE, FOLDER_GONE])
def test_every_kind_of_loss_raises_the_epoch_and_is_repaired_by_a_scan(world: World, kind: str) -> None:
    world.index.assign(b"k", 3)
    world.watcher.say(b"other", losses=(kind,))
    world.turn()
    assert world.coherence.epoch > 1
    assert world.coherence.losses[kind] == 1
    assert not world.coherence.coherent
    world.scan(b"k")
    world.look()
    assert world.coherence.coherent


def test_an_overflow_leaves_the_watch_itself_intact(world: World) -> None:
    world.watcher.say(losses=(OVERFLOW, OVERFLOW))
    world.turn()
    assert world.watcher.arms == 0
    assert world.coherence.losses == {OVERFLOW: 1}  # one reading, one loss of a kind


@pytest.mark.parametrize("kind", [MOVED, GONE, FOLDER_GONE])
def test_a_loss_of_the_watch_makes_it_anew_at_once(world: World, kind: str) -> None:
    world.watcher.say(losses=(kind,))
    world.turn()
    assert world.watcher.arms == 1
    assert world.watcher.armed
    assert WATCH in world.loop.callbacks
    assert world.coherence.losses == {kind: 1, RENEWED: 1}
    world.scan()
    assert world.coherence.coherent
    for _ in range(5):
        world.second()
    assert world.watcher.arms == 1
    assert world.coherence.losses == {kind: 1, RENEWED: 1}


def test_a_loss_is_said_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        world.watcher.say(losses=(OVERFLOW,))
        world.turn()
    (record,) = caplog.records
    assert record.message.startswith("changes may have gone unseen (overflow): ")


def test_the_scan_after_a_loss_begins_50_ms_later(world: World) -> None:
    world.advance(10)
    world.watcher.say(losses=(OVERFLOW,))
    world.turn()
    world.advance(0.049)
    world.turn()
    assert world.scanner.starts == 0
    world.advance(0.002)
    assert world.scanner.starts == 1


def test_losses_without_end_make_scans_now_and_then(world: World) -> None:
    world.advance(10)
    for _ in range(100):
        world.watcher.say(losses=(OVERFLOW,))
        world.turn()
        if world.scanner.running:
            world.end_scan()
        world.advance(0.01)
    assert 1 <= world.scanner.starts <= 10


def test_between_two_scans_there_is_a_pause_of_half_the_length_of_the_last(world: World) -> None:
    world.coherence.want_scan()
    world.scan(seconds=8.0)
    world.coherence.want_scan()
    world.turn()
    world.advance(3.99)
    world.turn()
    assert world.scanner.starts == 1
    world.advance(0.02)
    assert world.scanner.starts == 2


def test_a_scan_that_fails_is_made_again_a_second_later_and_the_directory_checked(world: World) -> None:
    world.watcher.say(losses=(OVERFLOW,))
    world.turn()
    before = len(world.home.checks)
    world.scan(b"k", complete=False)
    assert len(world.home.checks) > before
    assert not world.coherence.coherent
    world.advance(0.99)
    world.turn()
    assert world.scanner.starts == 1
    world.advance(0.02)
    assert world.scanner.starts == 2
    world.end_scan()
    world.look()
    assert world.coherence.coherent


# -- the heartbeat


def test_a_beat_that_is_not_heard_by_the_next_tick_makes_the_watch_deaf(world: World) -> None:
    world.watcher.deaf = True
    world.second()  # the beat before was heard
    assert not world.coherence.losses
    world.second()
    assert world.coherence.losses[DEAF] == 1
    assert not world.coherence.coherent
    assert world.watcher.arms == 1


# In this test and in four below tick() makes the watch anew (deaf, replaced, back, refused before): the marker was
# opened before the new watch was there, so that beat must not be expected of it.


def test_a_watch_that_was_deaf_and_is_made_anew_hears_again(world: World) -> None:
    world.watcher.deaf = True
    world.second()
    world.second()
    world.watcher.deaf = False
    losses = dict(world.coherence.losses)
    world.scan()
    for _ in range(10):
        world.second()
    assert world.coherence.losses == losses
    assert world.watcher.arms == 1
    assert world.coherence.coherent


def test_a_watch_that_is_deaf_three_times_is_no_watch(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.watcher.deaf = True
    with caplog.at_level(logging.ERROR):
        for _ in range(10):
            world.second()
            if world.scanner.running:
                world.end_scan()
    assert world.coherence.losses[DEAF] == 3
    assert not world.coherence.watched
    assert not world.coherence.coherent
    assert not world.service.barriers.exact
    assert [record.message for record in caplog.records] == [
        f"not watching {world.config.store}, every answer is looked up: the kernel says nothing of what happens there"
    ]
    assert "the kernel says nothing" in world.reconciler.status()["watch"]


def test_a_beat_heard_in_between_begins_the_counting_anew(world: World) -> None:
    for _ in range(4):
        world.watcher.deaf = True
        for _ in range(10):
            if world.coherence.losses[DEAF] % 3 == 2:
                break
            world.second()
        world.watcher.deaf = False
        for _ in range(4):
            world.second()
        world.coherence.losses.clear()
    assert world.coherence.watched


def test_who_has_not_read_what_was_said_does_not_find_the_watch_deaf(world: World) -> None:
    world.watcher.deaf = True
    world.advance(1.0)
    world.reconciler.tick()
    world.watcher.say(b"k")
    world.advance(1.0)
    world.reconciler.tick()  # the loop had no turn: there is something to be read yet
    assert not world.coherence.losses


def test_a_beat_may_be_among_what_was_lost(world: World) -> None:
    world.watcher.deaf = True
    world.second()
    world.watcher.say(losses=(OVERFLOW,))
    world.turn()
    world.watcher.deaf = False
    world.second()
    assert world.coherence.losses == {OVERFLOW: 1}


def test_the_lag_is_the_time_until_all_that_was_heard_before_is_looked_at(world: World) -> None:
    world.watcher.say(b"k")
    world.advance(1.0)
    world.reconciler.tick()
    world.advance(0.2)
    world.turn()  # hears of the name, then of the beat
    assert world.reconciler.status()["lag_ms"] == pytest.approx(200)
    world.advance(0.1)
    world.watcher.say(b"later")
    world.turn()
    assert world.reconciler.status()["lag_ms"] == pytest.approx(300)  # so far
    assert b"k" in world.look()
    world.turn()
    world.advance(0.5)
    assert world.reconciler.status()["lag_ms"] == pytest.approx(300)
    assert not world.coherence.doubts.sets


def test_no_second_beat_is_expected_while_the_first_one_s_names_wait(world: World) -> None:
    world.watcher.say(b"k")
    for _ in range(3):
        world.second()
    assert world.reconciler.status()["lag_ms"] == pytest.approx(2000)
    assert not world.coherence.losses
    world.look()
    world.turn()
    assert world.reconciler.status()["lag_ms"] == pytest.approx(2000)


# -- the directory


def test_a_store_that_is_gone_is_refused_and_served_again_when_it_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.home.there = False
    with caplog.at_level(logging.WARNING):
        world.second()
        assert world.service.store_away
        assert world.coherence.losses == {AWAY: 1}
        assert world.reconciler.summary() == "store away"
        for _ in range(5):
            world.second()
        assert world.scanner.starts == 0  # nothing is scanned while it is away
        assert world.coherence.losses == {AWAY: 1}
        world.home.there = True
        world.second()
    assert not world.service.store_away
    assert world.watcher.arms == 1
    world.scan(b"k")
    assert world.coherence.coherent
    losses = dict(world.coherence.losses)
    for _ in range(5):
        world.second()
    assert world.coherence.losses == losses
    told = [record.message for record in caplog.records]
    assert sum("is gone" in line for line in told) == 1
    assert sum("is back" in line for line in told) == 1


def test_a_store_that_is_gone_with_a_directory_above_it_is_refused_though_no_watch_tells_of_it(world: World) -> None:
    # Nor is there anything to be told of the directories' identities: that is no failure of the check.
    above = world.config.store.parent
    away = above.parent / f"{above.name}-away"
    above.rename(away)
    world.home.there = False
    try:
        world.second()
        assert world.service.store_away
        assert world.coherence.losses == {AWAY: 1}
    finally:
        away.rename(above)


def test_a_store_that_was_away_is_not_believed_before_it_is_scanned(world: World) -> None:
    world.index.assign(b"k", 3)
    world.home.there = False
    world.second()
    world.home.there = True
    world.second()
    assert not world.coherence.coherent
    world.scan()
    assert not world.coherence.coherent  # what it did not see is looked at first
    world.look()
    assert world.coherence.coherent
    assert not world.index.has(b"k")


def test_a_scan_that_ran_when_the_store_went_repairs_nothing(world: World) -> None:
    world.coherence.want_scan()
    world.turn()
    world.advance(1)
    assert world.scanner.running
    world.home.there = False
    world.reconciler.tick()
    world.end_scan(b"k")
    world.home.there = True
    world.second()
    assert not world.coherence.coherent
    world.scan()
    world.look()
    assert world.coherence.coherent


def test_a_job_that_was_denied_the_directory_has_it_checked_at_once(world: World) -> None:
    world.home.there = False
    world.home.ground.denied = True
    world.turn()
    assert world.service.store_away
    assert world.home.ground.denied is False
    checks = len(world.home.checks)
    world.home.ground.denied = True
    world.turn()  # it is known to be away: the ticks look for it
    assert len(world.home.checks) == checks


def test_a_change_of_the_mounts_has_it_checked_at_once(world: World) -> None:
    (mounts,) = (descriptor for descriptor in world.loop.callbacks if descriptor != WATCH)
    world.home.there = False
    world.loop.callbacks[mounts](0)
    assert world.service.store_away


def test_a_loss_of_the_directory_has_it_checked_at_once(world: World) -> None:
    world.home.there = False
    world.watcher.say(losses=(MOVED,))
    world.turn()
    assert world.service.store_away
    assert world.watcher.arms == 0


def test_what_cannot_be_told_at_the_moment_changes_nothing(world: World) -> None:
    world.home.error = OSError(24, "Too many open files")
    for _ in range(5):
        world.second()
    assert not world.service.store_away
    assert world.coherence.coherent
    assert not world.coherence.losses
    world.home.error = None
    world.second()
    assert world.coherence.coherent


def test_our_own_folder_is_made_again_if_the_watch_says_that_the_directory_is_the_same(world: World) -> None:
    world.home.folder = False
    world.home.checks.clear()
    world.second()
    assert world.home.checks[:2] == [False, True]
    assert not world.service.store_away


def test_a_directory_whose_watch_said_that_it_moved_is_not_the_same(world: World) -> None:
    world.home.folder = False
    world.watcher.say(losses=(MOVED,))
    world.home.checks.clear()
    world.reconciler.tick()  # the loss is not read yet: what the kernel knows is heard first
    assert True not in world.home.checks
    assert world.service.store_away
    assert world.coherence.losses[MOVED] == 1


def test_another_directory_at_the_path_is_not_the_same(world: World) -> None:
    world.home.folder = False
    world.config.store.rename(world.config.store.parent / "moved")
    world.config.store.mkdir()
    world.home.checks.clear()
    world.second()
    assert True not in world.home.checks
    assert world.service.store_away


@pytest.mark.parametrize("which", ["", "team"])
def test_another_directory_that_is_the_store_is_watched_anew(make: Callable[..., World], which: str) -> None:
    world = make(namespaces=("team",))
    world.turn()
    world.end_scan()
    world.second()
    directory = world.config.store / which
    moved = world.config.store.parent / "moved"
    directory.rename(moved)
    directory.mkdir()
    if not which:
        (directory / "team").mkdir()
    world.second()
    assert world.coherence.losses == {REPLACED: 1, RENEWED: 1}
    assert world.watcher.arms == 2
    assert not world.service.store_away
    world.scan()
    for _ in range(5):
        world.second()
    assert world.coherence.losses == {REPLACED: 1, RENEWED: 1}
    assert world.coherence.coherent


# -- a watch that is refused, or not wanted


def test_a_refused_watch_is_said_once_and_every_answer_is_looked_up(
    make: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        world = make(refusal="uid 7 has no inotify watches left")
        world.turn()
        world.end_scan(b"k")
        for _ in range(100):  # it is tried again every 30 s
            world.second()
            if world.scanner.running:
                world.end_scan(b"k")
    assert [record.message for record in caplog.records] == [
        f"not watching {world.config.store}, every answer is looked up: uid 7 has no inotify watches left"
    ]
    assert not world.coherence.watched
    assert not world.coherence.coherent
    assert world.coherence.clean == world.coherence.epoch
    status = world.reconciler.status()
    assert status["watch"] == "refused: uid 7 has no inotify watches left"
    assert status["scan_every_s"] == 2.0
    assert DEAF not in world.coherence.losses


def test_a_watch_that_was_refused_is_tried_again_after_30_s(make: Callable[..., World]) -> None:
    world = make(refusal="no")
    world.turn()
    world.end_scan()
    for _ in range(28):
        world.second()
        if world.scanner.running:
            world.end_scan()
    world.watcher.refusal = ""
    assert world.watcher.arms == 0
    for _ in range(4):
        world.second()
    assert world.watcher.arms == 1
    assert world.coherence.watched
    assert not world.coherence.coherent  # what happened meanwhile is not known
    for _ in range(3):
        if world.scanner.running:
            world.end_scan()
        world.second()
    assert world.coherence.coherent
    assert world.reconciler.status()["watch"] == "inotify"
    losses = dict(world.coherence.losses)
    for _ in range(5):
        world.second()
    assert world.coherence.losses == losses


def test_a_store_that_comes_back_is_watched_at_once_though_its_watch_was_refused(make: Callable[..., World]) -> None:
    world = make(refusal="no")
    world.turn()
    world.end_scan()
    world.home.there = False
    world.second()
    world.watcher.refusal = ""
    world.home.there = True
    world.second()
    assert world.watcher.arms == 1
    assert world.coherence.watched


def test_scans_alone_need_no_watch(make: Callable[..., World], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        world = make(watch="scan")
        world.turn()
        world.end_scan(b"k")
        for _ in range(60):
            world.second()
            if world.scanner.running:
                world.end_scan(b"k")
    assert not caplog.records
    assert world.watcher.arms == 0
    assert world.reconciler.status()["watch"] == "scan"
    assert world.reconciler.summary() == "every answer is looked up"
    assert not world.coherence.losses
    assert 20 <= world.scanner.starts <= 31  # every 2 s


# -- scans by the clock


@pytest.mark.parametrize(
    ("file_system", "watch", "state", "every_s"),
    [
        (LOCAL, "auto", "inotify", 600.0),
        (LOCAL, "inotify", "inotify", 600.0),
        (REMOTE, "auto", "inotify and scan", 2.0),
        (REMOTE, "inotify", "inotify", 600.0),
        (LOCAL, "scan", "scan", 2.0),
    ],
)
def test_the_file_system_and_the_setting_say_how_often_it_is_scanned(
    make: Callable[..., World], file_system: FileSystem, watch: str, state: str, every_s: float
) -> None:
    world = make(file_system, watch=watch)
    world.turn()
    world.end_scan()
    status = world.reconciler.status()
    assert (status["watch"], status["scan_every_s"], status["file_system"]) == (state, every_s, file_system.kind)
    assert world.service.barriers.exact == (state == "inotify")
    world.scanner.starts = 0
    for _ in range(int(every_s) - 1):
        world.second()
    assert world.scanner.starts == 0
    for _ in range(2):
        world.second()
    assert world.scanner.starts == 1
    assert world.coherence.epoch == 1  # nothing is known to be lost


def test_a_scan_by_the_clock_keeps_what_is_believed(world: World) -> None:
    world.index.assign(b"k", 3)
    for _ in range(601):
        world.second()
    assert world.scanner.running
    assert world.coherence.coherent
    world.end_scan(b"k")
    assert world.coherence.coherent
    assert world.index.size(b"k") == 3


def test_long_scans_are_made_no_oftener_than_20_times_their_length(make: Callable[..., World]) -> None:
    world = make(REMOTE, limits=Limits(scan_interval_s=5.0))
    world.turn()
    world.end_scan(seconds=1.5)
    assert world.reconciler.status()["scan_every_s"] == 30.0
    for _ in range(29):
        world.second()
    assert world.scanner.starts == 1
    world.second()
    world.second()
    assert world.scanner.starts == 2
    world.end_scan(seconds=0.1)
    assert world.reconciler.status()["scan_every_s"] == 5.0


def test_no_scan_by_the_clock_is_wanted_while_one_runs(make: Callable[..., World]) -> None:
    world = make(REMOTE)
    world.turn()
    world.end_scan()
    for _ in range(20):
        world.second()  # the second one never ends
    assert world.scanner.starts == 2
    world.end_scan()
    assert not world.coherence.wants_scan


# -- fresh answers


def fresh_list(world: World) -> None:
    world.service.request(Peer(1, 1, 1), wire.encode_request(b"list", b"id", {"fresh": True}, []))


def names_told(world: World) -> list[bytes]:
    ((_, frames),) = world.service.replies
    names: list[bytes] = wire.decode_reply(frames).payloads[0].split(b"\0")[:-1]
    return names


def test_a_fresh_answer_has_all_read_that_the_kernel_has(world: World) -> None:
    for number in range(5):
        world.watcher.say(b"%d" % number)
    fresh_list(world)
    world.reconciler.turn()
    assert not world.watcher.queued
    assert not world.service.replies
    assert len(world.look(3)) == 5
    world.service.barriers.proceed()
    assert sorted(names_told(world)) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("kind", [OVERFLOW, MOVED])
def test_a_fresh_answer_waits_for_the_repair_of_what_was_lost_before(world: World, kind: str) -> None:
    world.watcher.say(losses=(kind,))
    fresh_list(world)
    world.reconciler.turn()
    world.service.barriers.proceed()
    assert not world.service.replies
    world.scan(b"k")
    world.turn()
    assert names_told(world) == [b"k"]


@pytest.mark.parametrize("how", [{"file_system": REMOTE}, {"watch": "scan"}])
def test_a_fresh_answer_takes_a_scan_where_changes_go_unheard(make: Callable[..., World], how: dict[str, Any]) -> None:
    world = make(**how)
    world.turn()
    world.end_scan()
    fresh_list(world)
    world.turn()
    assert not world.service.replies
    world.scan(b"k")
    world.turn()
    assert names_told(world) == [b"k"]
    assert world.scanner.starts == 2


# -- what is told


def test_what_is_no_object_is_counted_by_kind_as_of_the_last_scan(world: World) -> None:
    assert world.reconciler.status()["foreign_kinds"] == {"directory": 2}
    world.coherence.want_scan()
    world.scan(b"k", doubtful=(b"k.ready", b"real.ready", b"unknown"))
    for name in world.coherence.take_questions(10):
        seen = 3 if name == b"real.ready" else ABSENT
        world.coherence.looked(name, world.coherence.start_look(name), seen)
    status = world.reconciler.status()
    assert status["foreign_kinds"] == {"directory": 2, "marker": 1, "unknown": 1}
    assert status["foreign"] == 4
    assert sorted(world.index.names()) == [b"k", b"real.ready"]
    world.index.assign(b"real.ready", ABSENT)
    assert world.reconciler.status()["foreign"] == 4


def test_it_tells_of_the_scan_that_runs_and_of_the_last_one(world: World) -> None:
    assert world.reconciler.status()["scanning"] is False
    assert world.reconciler.status()["last_scan"] == {"at": 1_700_000_000.0, "seconds": 0.01, "names": 0}
    assert world.reconciler.summary() == "coherent"
    world.coherence.want_scan()
    world.turn()
    world.advance(1)
    world.scanner.report.names = 7
    assert world.reconciler.status()["scanning"] is True
    assert world.reconciler.status()["scan_names"] == 7
    assert world.reconciler.summary() == "scanning, 7 names so far"
    world.end_scan(b"a", b"b", seconds=0.5)
    assert world.reconciler.status()["last_scan"]["names"] == 2


# -- what must not be missed


def test_a_watch_that_an_overflow_took_along_is_made_anew(world: World) -> None:
    world.watcher.whole = False  # another directory of the same inode number stands there
    world.watcher.say(losses=(OVERFLOW,))
    world.turn()
    assert world.watcher.arms == 1
    assert world.coherence.losses[REPLACED] == 1
    assert not world.coherence.coherent


def test_a_deaf_watch_is_noticed_though_a_name_cannot_be_looked_at(world: World) -> None:
    world.watcher.say(b"bad")
    world.turn()
    for _ in range(3):
        world.look(UNSEEN)
        world.second()
    assert world.reconciler.status()["lag_ms"] >= 2000
    assert DEAF not in world.coherence.losses
    world.watcher.deaf = True
    for _ in range(3):
        world.look(UNSEEN)
        world.second()
    assert world.coherence.losses[DEAF] >= 1


def test_a_watch_that_nobody_reads_is_deaf_too(world: World) -> None:
    del world.loop.callbacks[WATCH]
    world.loop.unwatch = lambda _: None  # type: ignore[method-assign]
    world.watcher.say(b"k")
    for _ in range(10):
        world.second()
    assert world.coherence.losses[DEAF] == 1


def test_a_watch_that_the_loop_cannot_take_is_none(world: World) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    watch = world.loop.watch
    world.loop.watch = refuse  # type: ignore[method-assign]
    world.watcher.say(losses=(MOVED,))
    world.turn()
    assert not world.coherence.watched
    assert not world.coherence.coherent
    world.loop.watch = watch  # type: ignore[method-assign]
    world.advance(31)
    world.second()
    assert world.coherence.watched
    world.scan()  # that one began before
    world.scan()
    assert world.coherence.coherent


def test_what_a_watch_still_had_to_tell_when_it_was_given_up_is_a_loss(world: World) -> None:
    epoch = world.coherence.epoch
    world.watcher.refusal = "no more watches"
    world.watcher.hears_beats = False  # so it is to be made anew
    world.second()
    assert not world.coherence.watched
    assert world.coherence.epoch > epoch


def test_who_waits_when_the_store_goes_away_is_told_at_once(world: World) -> None:
    world.coherence.ask(b"k")
    peer = Peer(1, 1, 1)
    for request_id, verb in ((b"1", b"list"), (b"2", b"usage")):
        world.service.request(peer, wire.encode_request(verb, request_id, {"fresh": True}, []))
    world.turn()
    assert not world.service.replies
    world.home.there = False
    world.second()
    assert [bytes(frames[2]) for _, frames in world.service.replies] == [b"store_away"] * 2
    assert peer.owed_requests == 0


def test_a_line_is_not_logged_again_and_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        world.watcher.say(losses=(OVERFLOW,))
        world.turn()
    assert len(caplog.records) == 1
    world.advance(11)
    world.watcher.say(losses=(OVERFLOW,))
    world.turn()
    assert len(caplog.records) == 2
    assert "99 times" in caplog.records[-1].message
