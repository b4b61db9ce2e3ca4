"""Checksums of objects: XXH3, 64 bits. Tells torn and rotten bytes from whole ones; no protection against malice.

Owns which one it is: 17 µs for a MiB, 0.06 µs for a KiB, a tenth of zlib's crc32 (measured), so that it can be taken
of every put and looked at with every `get`.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import xxhash

_PART_BYTES = 1024 * 1024
_SCRATCH_BYTES = 128 * 1024
"""Read at once to be looked at only: it stays in the processor's cache until it is."""
_AHEAD_MAX = 64

of = xxhash.xxh3_64_intdigest
"""Returns the checksum of a buffer."""


class Scratch(threading.local):
    """What a thread reads files into that it only looks at."""

    def __init__(self) -> None:
        self.part = memoryview(bytearray(_SCRATCH_BYTES))


_scratch = Scratch()


def of_short_file(descriptor: int, size: int, flags: int = 0) -> int:
    """Returns the checksum of the first `size` bytes of a file, a part at a time: 60 µs for a MiB in the page cache.

    Args:
        descriptor: of the file.
        size: how many bytes; fewer are there if the file became shorter, and the checksum is that of those.
        flags: of preadv2(2).

    Raises:
        BlockingIOError: with RWF_NOWAIT, not all of them are in the page cache.
    """
    part, hasher = _scratch.part, xxhash.xxh3_64()
    place = 0
    while place < size:
        wanted = min(size - place, len(part))
        count = os.preadv(descriptor, [part[:wanted]], place, flags)
        if not count:
            break
        if count < wanted and flags & os.RWF_NOWAIT:
            raise BlockingIOError
        hasher.update(part[:count])
        place += count
    return hasher.intdigest()


def of_file(descriptor: int, size: int) -> int:
    """Returns the checksum of the first `size` bytes of a file. Reads them all."""
    running = Running()
    return running.finish(descriptor, size)


class Running:
    """The checksum of a file that is being written in ranges, by several threads, roughly in order.

    A range that comes when its turn is taken from memory. One that comes early is read back from the page cache as
    soon as those before it are there. What is written twice makes all of it be read once more at the end. The lock is
    held for no longer than it takes to read a range from the page cache.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hasher = xxhash.xxh3_64()
        self._end = 0
        self._ahead: dict[int, int] = {}
        self._spoilt = False

    def wrote(self, descriptor: int, offset: int, payload: Any) -> None:
        """Takes in a range that was just written."""
        if not len(payload):
            return
        with self._lock:
            if offset < self._end:
                self._spoilt = True
            elif offset == self._end:
                self._hasher.update(payload)
                self._end += len(payload)
                while (length := self._ahead.pop(self._end, 0)) and self._read(descriptor, self._end + length):
                    pass
            elif len(self._ahead) < _AHEAD_MAX:
                self._ahead[offset] = len(payload)

    def finish(self, descriptor: int, size: int) -> int:
        """Returns the checksum of the file, which has `size` bytes now; reads what was not taken in yet."""
        with self._lock:
            if self._spoilt or self._end > size:
                self._hasher.reset()
                self._end = 0
            while self._end < size and self._read(descriptor, min(size, self._end + _PART_BYTES)):
                pass
            return self._hasher.intdigest()

    def _read(self, descriptor: int, end: int) -> bool:
        """Takes in the bytes up to `end` from the file; returns whether there were any."""
        part, before = _scratch.part, self._end
        while self._end < end:
            count = os.preadv(descriptor, [part[: end - self._end]], self._end)
            if not count:
                break
            self._hasher.update(part[:count])
            self._end += count
        return self._end > before
