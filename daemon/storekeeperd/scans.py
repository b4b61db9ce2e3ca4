"""When the store is scanned, and what comes of it.

Owns the calendar: a scan follows a loss, but not sooner than a moment later, and not right after another scan; by the
clock the store is scanned though nothing is known to be lost, rarely where the watch hears of everything, often where
other nodes or layers change the files (filesystem.py). scanner.py reads, coherence.py concludes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from storekeeper.errors import DiskFailed, StoreUnavailable
from storekeeperd.coherence import Coherence
from storekeeperd.config import Config
from storekeeperd.entries import MARKER
from storekeeperd.index import Index
from storekeeperd.loop import Loop, Timer
from storekeeperd.scanner import WENT_AWAY, Report, Scanner
from storekeeperd.service import Service
from storekeeperd.sizing import Sizing

log = logging.getLogger(__name__)

LATE_S = 0.05
"""Some kernels (5.3 to 5.16) report a delete before lstat(2) and readdir(3) see it; that long is looked again."""

_PUT_OFF_S = 10 * LATE_S
"""Losses that never end put a scan off no longer."""

_FAILED_S = 1.0
_TIMES_SCAN = 20
"""A scan by the clock comes no oftener than this many times its own length: at most a twentieth of a core."""


class Scans:
    """The scans of one store.

    Args:
        config: how often it is scanned.
        loop: where the turns are taken.
        scanner: reads the directories.
        service: whether the store is away, and the requests that wait for a scan.
        index: what exists; coherence: told what was scanned.
        sizing: begins when a scan is complete.
        failed: called when a scan came to no end.
    """

    def __init__(
        self,
        config: Config,
        loop: Loop,
        scanner: Scanner,
        service: Service,
        index: Index,
        coherence: Coherence,
        sizing: Sizing,
        failed: Callable[[], None],
    ) -> None:
        self._config = config
        self._loop = loop
        self._scanner = scanner
        self._service = service
        self._index = index
        self._coherence = coherence
        self._sizing = sizing
        self._failed = failed
        self._next_at = 0.0
        self._lost_at = 0.0  # the first loss since the last scan began; 0: none
        self._timed_at = 0.0
        self._audit_at = time.monotonic() + config.limits.audit_interval_s
        self._timer: Timer | None = None
        self._last: dict[str, Any] = {}
        self._report = Report()
        self._error = ""
        self._foreign: dict[str, int] = {}
        self._foreign_of = 0  # the scan that they were counted after

    def close(self, timeout_s: float) -> None:
        """Ends the scan that runs. Waits for its thread, but no longer than `timeout_s`."""
        self._scanner.close(timeout_s)

    def turn(self) -> None:
        """Takes some of what a scan read; starts the next one if it is time."""
        if self._scanner.running:
            self._take()
        elif self._coherence.wants_scan and not self._service.store_away:
            self._start()

    def tick(self) -> None:
        """Asks for the scans by the clock. To be called every second."""
        now = time.monotonic()
        if self._last and now >= self._timed_at and not self._coherence.scanning:
            self._timed_at = now + self._every_s
            # Where scans are frequent, most leave the sizes alone: to look at every object takes much longer.
            audit = now >= self._audit_at
            if audit:
                self._audit_at = now + self._config.limits.audit_interval_s
            self._coherence.want_scan(doubt_sizes=audit)

    def put_off(self) -> None:
        """Lets a moment pass between a loss and its scan."""
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        self._next_at = max(self._next_at, min(now + LATE_S, self._lost_at + _PUT_OFF_S))

    @property
    def begun(self) -> bool:
        """Whether there was a scan, or one runs."""
        return bool(self._last) or self._coherence.scanning

    @property
    def names(self) -> int:
        """How many objects the running scan has seen, or the last one saw."""
        return self._scanner.report.names

    def status(self) -> dict[str, Any]:
        """Returns what `status` tells of the scans."""
        foreign = self._count_foreign()
        return {
            "scanning": self._coherence.scanning,
            "scan_names": self.names,
            "last_scan": self._last,
            "scan_every_s": round(self._every_s, 3),
            "foreign": sum(foreign.values()),
            "foreign_kinds": foreign,
        }

    @property
    def _every_s(self) -> float:
        limits = self._config.limits
        every_s = limits.audit_interval_s if self._service.barriers.exact else limits.scan_interval_s
        return max(every_s, _TIMES_SCAN * self._report.seconds)

    def _start(self) -> None:
        now = time.monotonic()
        if now < self._next_at:
            if self._timer is None:
                self._timer = self._loop.call_later(self._next_at - now, self._wake)
            return
        self._lost_at = 0.0
        self._coherence.begin_scan()
        self._scanner.start()

    def _wake(self) -> None:
        self._timer = None  # the turn that follows starts it

    def _take(self) -> None:
        chunk = self._scanner.take()
        if chunk is None:
            return
        if isinstance(chunk, Report):
            self._end(chunk)
            return
        self._coherence.scanned(chunk.objects)
        if chunk.doubtful:
            self._coherence.scanned_doubtful(chunk.doubtful)
        self._loop.wake()  # others have their turn, then more of it

    def _end(self, report: Report) -> None:
        pause_s = max(self._config.limits.rescan_delay_s, report.seconds / 2)
        self._next_at = max(self._next_at, time.monotonic() + pause_s)
        self._coherence.end_scan(complete=report.complete)
        if report.complete:
            self._report = report
            self._tell_unread(report.unread)
            self._sweep()
        else:
            self._fail(report.error)

    def _tell_unread(self, unread: dict[bytes, str]) -> None:
        """Lets nobody believe what is known of namespaces that could not be read; the others are not concerned."""
        error = ", ".join(f"{prefix.decode()}: {why}" for prefix, why in unread.items())
        if error and error != self._error:
            log.error("%s: some namespaces cannot be scanned: %s", self._config.store, error)
        self._error = error
        self._service.barriers.take_unread(unread)

    def _fail(self, error: str) -> None:
        self._next_at = time.monotonic() + _FAILED_S
        if error != self._error:
            log.error("%s cannot be scanned, nothing is concluded from that: %s", self._config.store, error)
        self._error = error
        self._failed()
        if self._service.store_away:
            self._service.barriers.refuse_unrepaired(StoreUnavailable("the store's directory is not there"))
        elif error != WENT_AWAY:  # else it is back already: who waits has what he asked for in a moment
            sentence = f"the store's directory cannot be read: {error}; exists, get and put go on"
            self._service.barriers.refuse_unrepaired(DiskFailed(sentence))

    def _sweep(self) -> None:
        if self._coherence.sweep():
            self._loop.call_later(0, self._sweep)
            return
        report = self._report
        self._last = {"at": round(time.time(), 3), "seconds": round(report.seconds, 3), "names": report.names}
        every_s = max(_FAILED_S, _TIMES_SCAN * report.seconds) if report.unread else self._every_s
        self._timed_at = time.monotonic() + every_s
        self._sizing.begin()

    def _count_foreign(self) -> dict[str, int]:
        """Returns how many entries are no objects, by kind, as of the last scan."""
        if self._foreign_of != self._coherence.scans:
            self._foreign_of = self._coherence.scans
            foreign = self._report.foreign.copy()
            foreign.update(
                "marker" if name.endswith(MARKER) else "unknown"
                for name in self._report.doubtful
                if not self._index.has(name)
            )
            self._foreign = {kind: count for kind, count in foreign.items() if count > 0}
        return self._foreign
