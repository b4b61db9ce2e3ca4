"""Reads the store's directories from end to end, in a thread of its own, beside everything else.

Owns that thread. Hands over names in chunks through a short queue, so that it never runs far ahead of the loop.
Decides nothing: what a scan means is coherence.py's.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable

from storekeeperd.disk import Disk

log = logging.getLogger(__name__)

_QUEUE_CHUNKS = 16


class Scanner:
    """Scans when told to, one scan at a time.

    Args:
        disk: what is scanned.
        prefixes: the directories, as in Disk.scan.
        wake: called when there is something to `take`; quick and thread-safe.
    """

    def __init__(self, disk: Disk, prefixes: Iterable[bytes], wake: Callable[[], None]) -> None:
        self._disk = disk
        self._prefixes = tuple(prefixes)
        self._wake = wake
        self._chunks: queue.Queue[list[bytes] | bool] = queue.Queue(_QUEUE_CHUNKS)
        self._thread: threading.Thread | None = None
        self._closing = False
        self.foreign = 0

    def start(self) -> None:
        """Starts a scan; the one before must have ended."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._scan, name="storekeeperd-scanner", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether a scan was started whose end has not been taken."""
        return self._thread is not None

    def take(self) -> list[bytes] | bool | None:
        """Returns a chunk of names, or True for a complete end, False for a failed one; None if nothing is there."""
        try:
            chunk = self._chunks.get_nowait()
        except queue.Empty:
            return None
        if isinstance(chunk, bool):
            assert self._thread is not None
            self._thread.join()
            self._thread = None
        return chunk

    def close(self, timeout_s: float) -> None:
        """Ends a running scan; waits for its thread, but no longer than `timeout_s`."""
        self._closing = True
        deadline = time.monotonic() + timeout_s
        while self._thread is not None and time.monotonic() < deadline:
            if self.take() is None:
                self._thread.join(0.01)

    def _scan(self) -> None:
        complete = False
        foreign = 0
        try:
            for prefix in self._prefixes:
                for names, passed_over in self._disk.scan(prefix):
                    if self._closing:
                        return
                    foreign += passed_over
                    self._chunks.put(names)
                    self._wake()
            self.foreign = foreign - (len(self._prefixes) - 1)  # the namespaces' folders are ours
            complete = True
        except OSError as error:
            log.warning("scan failed: %s", error)
        finally:
            self._chunks.put(complete)
            self._wake()
