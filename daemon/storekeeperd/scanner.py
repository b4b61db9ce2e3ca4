"""Reads the store's directories from end to end, in a thread of its own, beside everything else.

Owns that thread, which only waits for the kernel: what it read goes through a short queue, so that it never runs far
ahead, and is taken apart by the loop. Decides nothing: what a scan means is coherence.py's.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from storekeeper.errors import StoreUnavailable
from storekeeperd import entries
from storekeeperd.disk import Disk
from storekeeperd.entries import Sorted

_QUEUE_CHUNKS = 8


@dataclass(slots=True)
class Report:
    """What a scan was like, once it has ended.

    Attributes:
        complete: the directories were read to their end.
        seconds: how long it took.
        names: objects seen.
        foreign: entries that are no objects, by kind (see entries.py).
        doubtful: names seen that take a look.
        error: why it is not complete.
        unread: namespaces that cannot be read to their end, and why; it can be complete all the same, for the others.
    """

    complete: bool = False
    seconds: float = 0.0
    names: int = 0
    foreign: Counter[str] = field(default_factory=Counter)
    doubtful: list[bytes] = field(default_factory=list)
    error: str = ""
    unread: dict[bytes, str] = field(default_factory=dict)


WENT_AWAY = "the store went away"
"""The error of a scan whose directory was not there."""


class Scanner:
    """Scans when told to, one scan at a time.

    Args:
        disk: what is scanned.
        prefixes: the directories, as in Disk.scan.
        wake: called when there is something to `take`; quick and thread-safe.

    Attributes:
        prefixes: the directories that the next scan reads.
        report: of the scan that is running, as far as it came, or of the last one.
    """

    def __init__(self, disk: Disk, prefixes: Iterable[bytes], wake: Callable[[], None]) -> None:
        self._disk = disk
        self.prefixes = tuple(prefixes)
        self._wake = wake
        self._chunks: queue.Queue[tuple[bytes, bytes] | tuple[str, float]] = queue.Queue(_QUEUE_CHUNKS)
        self._prefix = b""
        self._pieces: list[bytes] = []  # of the buffer that is being taken apart, the next one last
        self._thread: threading.Thread | None = None
        self._closing = False
        self._unread: dict[bytes, str] = {}  # filled in by the thread, and taken when it has ended
        self.report = Report()

    def start(self) -> None:
        """Starts a scan; the one before must have ended."""
        assert self._thread is None
        self.report = Report()
        self._unread = {}
        self._thread = threading.Thread(target=self._scan, name="storekeeperd-scanner", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system allows no more threads now
            self._chunks.put((str(error), 0.0))
            self._wake()

    @property
    def running(self) -> bool:
        """Whether a scan was started whose end has not been taken."""
        return self._thread is not None

    def take(self) -> Sorted | Report | None:
        """Returns some entries, or the report at the end; None if nothing is there yet. About a millisecond."""
        if not self._pieces:
            try:
                chunk = self._chunks.get_nowait()
            except queue.Empty:
                return None
            if isinstance(chunk[0], str):
                return self._end(*chunk)
            self._prefix, self._pieces = chunk[0], entries.split(chunk[1])[::-1]
        found = entries.sort(*entries.take_apart(self._pieces.pop()))
        prefix, report = self._prefix, self.report
        if prefix:
            found.objects = [prefix + name for name in found.objects]
            found.doubtful = [prefix + name for name in found.doubtful]
        report.names += len(found.objects)
        report.foreign.update(found.foreign)
        report.doubtful += found.doubtful
        return found

    def _end(self, error: str, seconds: float) -> Report:
        assert self._thread is not None
        if self._thread.ident is not None:
            self._thread.join()
        self._thread = None
        report = self.report
        report.error, report.seconds, report.unread = error, seconds, self._unread
        report.complete = not error
        report.foreign["directory"] -= len(self.prefixes) - 1  # the namespaces' folders are ours
        return report

    def close(self, timeout_s: float) -> None:
        """Ends a running scan; waits for its thread, but no longer than `timeout_s`."""
        self._closing = True
        deadline = time.monotonic() + timeout_s
        while self._thread is not None and time.monotonic() < deadline:
            if self.take() is None and self._thread is not None and self._thread.ident is not None:
                self._thread.join(0.01)

    def _scan(self) -> None:
        error = "stopped"
        started = time.monotonic()
        try:
            for prefix in self.prefixes:
                try:
                    self._read(prefix)
                except FileNotFoundError:  # a folder that is not there is no empty one
                    raise
                except OSError as failure:
                    if not prefix:
                        raise
                    self._unread[prefix] = failure.strerror or str(failure)
            if self._closing:
                return
            error = ""
        except OSError as failure:
            error = failure.strerror or str(failure)
        except StoreUnavailable:
            error = WENT_AWAY
        finally:
            self._chunks.put((error, time.monotonic() - started))
            self._wake()

    def _read(self, prefix: bytes) -> None:
        for data in self._disk.scan(prefix):
            if self._closing:
                return
            self._chunks.put((prefix, data))
            self._wake()
