"""Keeps the index true to the directory, whatever happens to the directory.

Owns the watch and the judgement whether the store is still there; when it is scanned is scans.py's, and coherence.py
decides what follows from what they say. Runs in the loop and never waits. What it does:

* What the watcher hears becomes questions; every kind of loss is told, and repaired by a scan.
* Once a second, when a mount changes (/proc/self/mountinfo), and when a job was denied the directory, it checks that
  the directory at the path is the store. If not, the store is away: requests are refused until it is back.
* The check opens the store's marker. The watcher must hear of that before the next one, else the watch is deaf and made
  anew; how long it takes until all that was heard before is looked at is the `lag`.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Iterable
from io import FileIO
from typing import Any

from storekeeper.errors import StoreUnavailable
from storekeeperd.barriers import Barriers
from storekeeperd.coherence import Coherence
from storekeeperd.config import Config
from storekeeperd.filesystem import FileSystem, find, open_mounts
from storekeeperd.heartbeat import Heartbeat
from storekeeperd.home import Home
from storekeeperd.index import Index
from storekeeperd.loop import EXCEPTIONAL, READ, Loop, Timer
from storekeeperd.scanner import Scanner
from storekeeperd.scans import LATE_S, Scans
from storekeeperd.service import Service
from storekeeperd.sizing import Sizing
from storekeeperd.watcher import DEAF, GONE, MOVED, OVERFLOW, Heard, Watcher, WatchRefused

log = logging.getLogger(__name__)

AWAY = "store_away"
"""The loss of a directory that was gone, or another, for a while."""
REPLACED = "directory_replaced"
"""Another directory than the watched one stands at the path, and nothing was heard of it."""
RENEWED = "watch_renewed"
"""The watch was made anew: what happened between the old one and the new one is not known."""

_QUIET_S = 0.9
_NOISE_S = 30.0
"""A directory that is never quiet is healed after so long all the same."""
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN)
"""Failures that are this process's, and say nothing of the store: what was true a second ago is kept."""
_WATCH_AGAIN_S = 30.0
_UNREAD_S = 5.0
_SAID_S = 10.0
_DEAF_MAX = 3


class Reconciler:
    """Keeps one index true.

    Args:
        config: the store, and how to watch it.
        loop: where it takes its turns.
        home: whether the store is there.
        watcher, scanner: what they say is taken here.
        service: told whether the store is away; the barriers are its.
        index: what exists; coherence: told everything that was heard, lost and scanned.
        sizing: begins when a scan is complete.
    """

    def __init__(
        self,
        config: Config,
        loop: Loop,
        home: Home,
        watcher: Watcher,
        scanner: Scanner,
        service: Service,
        index: Index,
        coherence: Coherence,
        sizing: Sizing,
    ) -> None:
        self._config = config
        self._loop = loop
        self._home = home
        self._watcher = watcher
        self._scanner = scanner
        self._scans = Scans(config, loop, scanner, service, index, coherence, sizing, self.check)
        self._service = service
        self._barriers: Barriers = service.barriers
        self._coherence = coherence
        self._sizing = sizing
        self.file_system: FileSystem = find(config.store)
        self._listened = -1  # the watcher's descriptor in the loop
        self._armed: dict[str, tuple[int, int]] = {}  # devices and inodes of the watched directories; empty: watch anew
        self._known: dict[str, tuple[int, int]] = {}  # the same, kept while in doubt
        self._sound = False  # nothing was heard that ends the watch of those
        self._arms = 0  # how often it was made
        self._refused = ""
        self._watch_again_at = 0.0
        self._heartbeat = Heartbeat(coherence)
        self._mounts: FileIO | None = None
        self._heard_at = 0.0
        self._away_at = 0.0
        self._late_timer: Timer | None = None
        self._said: dict[tuple[str, object], tuple[float, int]] = {}  # when each line was logged; how often not since

    def start(self) -> None:
        """Begins to watch; the first scan begins with the next turn."""
        self._mounts = open_mounts()
        self._loop.watch(self._mounts.fileno(), EXCEPTIONAL, lambda _: self.check())
        self._arm()

    def follow(self, prefixes: Iterable[bytes]) -> None:
        """Watches and scans some directories more from now on, or less; the others as before."""
        prefixes = tuple(prefixes)
        come = set(prefixes) - set(self._watcher.prefixes)
        if self._watching:
            self._note(self._watcher.take(everything=True))  # the last that is said of one that was removed
        self._watcher.leaving = None
        self._home.follow(map(_folder, filter(None, prefixes)))
        self._watcher.prefixes = self._scanner.prefixes = prefixes
        if not self._watching or not self._armed:
            self._arm()
            return
        try:
            there = self._home.identities()
            self._armed = self._known = {name: self._armed.get(name, one) for name, one in there.items()}
            self._watcher.follow(prefixes)
            for prefix in come:
                for key in self._home.entries(_folder(prefix)):  # somebody was faster than the watch
                    self._coherence.ask(prefix + key)
        except (OSError, StoreUnavailable, WatchRefused):
            self._lose(RENEWED)
            self._arm()

    def release(self, name: str, prefixes: Iterable[bytes]) -> None:
        """Says that a namespace's folder is about to be removed by us; `follow` must say what came of it.

        It is not made again meanwhile, and that it goes is no loss.
        """
        self._home.follow(_folder(prefix) for prefix in prefixes if prefix and _folder(prefix) != name)
        self._armed.pop(name, None)
        self._watcher.leaving = name.encode() + b"/"

    def close(self, timeout_s: float) -> None:
        """Ends the watch, and the scan that runs. Waits for its thread, but no longer than `timeout_s`."""
        self._scans.close(timeout_s)
        self._unwatch()
        if self._mounts is not None:
            self._mounts.close()

    # -- its turns

    def turn(self) -> None:
        """Does what is due in this turn of the loop."""
        self._scans.turn()
        if self._barriers.unheard:
            self._take_in(self._watcher.take(everything=True))
            self._barriers.heard()
        if self._home.ground.denied and not self._service.store_away:
            self.check()
        self._heartbeat.turn()
        self._sizing.turn()

    def tick(self) -> None:
        """Does what is due every second."""
        if not self._service.store_away:
            self._coherence.retry_unanswered()
            self._barriers.tick()
        if self._is_deaf:
            self._take_for_deaf()
        arms, beats = self._arms, self._home.beats
        self.check()
        if self._home.beats > beats and self._arms == arms and self._watching:
            self._heartbeat.sent()  # else the watch is a new one, or none, and hears nothing of it
        self._scans.tick()

    # -- what is heard

    def listen(self) -> None:
        """Reads the events of our own changes while they are sure to be there: they wake nobody then.

        A turn of the loop less for each put and each evict that is alone, which is a fifth of its cost.
        """
        if self._coherence.echoes.awaited and self._watching:
            self._take_in(self._watcher.take())

    def _hear(self, _: int) -> None:
        self._take_in(self._watcher.take())

    def _take_in(self, heard: Heard) -> None:
        self._note(heard)
        if heard.losses and heard.losses != [OVERFLOW]:
            self._watch_again_at = 0.0
        if heard.losses or heard.moved_above:
            self.check()

    def _note(self, heard: Heard) -> None:
        if heard.names or heard.losses or heard.echoes:
            self._heard_at = time.monotonic()
        if heard.names:
            self._coherence.hear(heard.names, heard.deleted)
            if self._coherence.wants_second_looks and self._late_timer is None:
                self._late_timer = self._loop.call_later(LATE_S, self._look_again)
        if heard.beat:
            self._heartbeat.heard()
        for kind in dict.fromkeys(heard.losses):
            self._lose(kind)

    def _lose(self, kind: str) -> None:
        self._say(
            logging.WARNING,
            "changes may have gone unseen (%s): every answer is looked up until a scan is done",
            kind,
        )
        self._coherence.lost(kind)
        if kind in (MOVED, GONE, DEAF):
            self._sound = False
        if kind not in (OVERFLOW, RENEWED):
            self._armed = {}
        self._scans.put_off()
        self._heartbeat.may_be_lost()

    def _look_again(self) -> None:
        self._late_timer = None
        self._coherence.ask_second_looks()
        if self._coherence.wants_second_looks:
            self._late_timer = self._loop.call_later(LATE_S, self._look_again)

    @property
    def _is_deaf(self) -> bool:
        """Whether the last beat was not heard of, though nothing more is there to be heard, or nobody hears it."""
        overdue_s = self._heartbeat.overdue_s
        if not overdue_s or not self._watcher.waiting_bytes:
            return overdue_s > 0
        return overdue_s > _UNREAD_S and time.monotonic() - self._heard_at > _UNREAD_S

    def _take_for_deaf(self) -> None:
        """The last beat was not heard of, though nothing more is there to be heard."""
        self._heartbeat.missed()
        self._lose(DEAF)
        if self._heartbeat.in_vain >= _DEAF_MAX:
            self._serve_unwatched("the kernel says nothing of what happens there")

    # -- the directory

    def check(self) -> None:
        """Sees whether the store's directory is still there, and watched; watches it anew if not."""
        try:
            there = self._home.check(quiet=self._is_quiet())
            if not there and self._sound:
                # Only our own folder may be gone. What the kernel knows of the directory is heard first.
                self._note(self._watcher.take(everything=True))
                unmoved = self._sound and self._is_quiet() and self._home.stands_on(self._known[""])
                there = unmoved and self._home.check(quiet=True, unmoved=True)
            self._home.ground.denied = False
            if there == self._service.store_away:
                self._change_presence(there)
            if there:
                self._keep_watch()
        except OSError as error:
            log.debug("cannot check %s: %s", self._config.store, error)
            if error.errno not in _OURS and not self._service.store_away:
                self._change_presence(False)  # a dead disk or network is no store

    def _is_quiet(self) -> bool:
        """Whether nothing happens in the directory, so that what is missing there may be made again."""
        now = time.monotonic()
        away_s = now - self._away_at if self._service.store_away else 0.0
        return now - self._heard_at >= _QUIET_S or away_s >= _NOISE_S

    def _change_presence(self, there: bool) -> None:
        self._service.store_away = self._sizing.paused = not there
        if there:
            self._say(logging.WARNING, "%s is back", self._config.store)
            self._watch_again_at = 0.0
        else:
            self._away_at = time.monotonic()
            self._say(
                logging.ERROR,
                "%s is gone, or another directory stands there: refusing requests",
                self._config.store,
            )
            self._lose(AWAY)
            self._barriers.refuse_all(
                StoreUnavailable("the store's directory is not there; the daemon serves again when it is back")
            )

    def _keep_watch(self) -> None:
        if self._watching:
            if self._armed and (self._armed != self._home.identities() or not self._watcher.whole):
                self._lose(REPLACED)
            if not self._armed or not self._watcher.hears_beats:
                self._arm()
        elif self._config.watch != "scan" and time.monotonic() >= self._watch_again_at:
            self._arm()

    # -- the watch

    @property
    def _watching(self) -> bool:
        return self._coherence.watched

    def _arm(self) -> None:
        """Watches the directories. Without a watch the daemon serves on, and looks at the file for every answer."""
        self._unwatch()
        mode = self._config.watch
        if mode == "scan":
            self._serve_unwatched("")
            return
        try:
            self.file_system = find(self._config.store)
            self._armed = self._known = self._home.identities()
            self._watcher.arm()
            self._loop.watch(self._watcher.descriptor, READ, self._hear)
            self._listened = self._watcher.descriptor
        except FileNotFoundError as missing:  # a namespace's folder, which is made again when it is quiet
            self._serve_unwatched(f"{missing.filename} is not there")
            self._watch_again_at = 0.0
            return
        except (OSError, WatchRefused) as refused:
            self._serve_unwatched(str(refused))
            return
        self._refused = ""
        self._sound = True
        self._arms += 1
        self._coherence.watched = True
        self._barriers.exact = mode == "inotify" or self.file_system.local
        self._coherence.echoes.sure = self.file_system.local
        if self._scans.begun:
            self._lose(RENEWED)

    def _unwatch(self) -> None:
        self._heartbeat.forget()
        if self._listened >= 0:
            self._loop.unwatch(self._listened)
            self._listened = -1
        self._watcher.close()

    def _serve_unwatched(self, reason: str) -> None:
        self._unwatch()
        if self._coherence.watched and self._scans.begun:
            self._lose(RENEWED)  # what the kernel still had to tell is not heard any more
        self._sound = False
        self._armed = {}
        self._coherence.watched = False
        self._barriers.exact = self._coherence.echoes.sure = False
        self._watch_again_at = time.monotonic() + _WATCH_AGAIN_S
        if reason and reason != self._refused:
            log.error("not watching %s, every answer is looked up: %s", self._config.store, reason)
        self._refused = reason

    # -- what is told

    def _say(self, level: int, message: str, argument: object) -> None:
        """Logs a line, but the same one not again and again."""
        now = time.monotonic()
        said_at, unsaid = self._said.get((message, argument), (-math.inf, 0))
        if now - said_at < _SAID_S:
            self._said[message, argument] = said_at, unsaid + 1
            return
        self._said[message, argument] = now, 0
        log.log(level, message + (f" ({unsaid} times since it was said last)" if unsaid else ""), argument)

    def status(self) -> dict[str, Any]:
        """Returns what `status` tells of the watch and the scans."""
        return {
            "lag_ms": round(self._heartbeat.lag_s * 1000, 3),
            "watch": self._watch_state(),
            "file_system": self.file_system.kind,
            **self._scans.status(),
        }

    def summary(self) -> str:
        """Returns a few words for systemd's status line."""
        if self._service.store_away:
            return "store away"
        if self._coherence.scanning:
            return f"scanning, {self._scans.names} names so far"
        return "coherent" if self._coherence.coherent else "every answer is looked up"

    def _watch_state(self) -> str:
        if self._refused:
            return f"refused: {self._refused}"
        if not self._watching:
            return "scan"
        return "inotify" if self._barriers.exact else "inotify and scan"


def _folder(prefix: bytes) -> str:
    return prefix[:-1].decode()
