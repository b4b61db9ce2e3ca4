"""The shelf: memory that the daemon writes and clients only read, with what exists and the bytes of small objects.

Owns the layout, and how it is read. Who writes it is the daemon's segment.py; when it is fetched is shortcut.py's.

    header     what it is, whether it may be believed, how far the ring has been written
    table      buckets of 256 bytes: a version, 3 places in the ring with lengths, 3 keys
    ring       bytes of objects, one after the other, round and round

A key stands in the bucket that its CRC says, as `/key/`, so that it is found by one search: no key has a slash in it.
Longer ones than 67 bytes are not on the shelf. The CRC decides only where to look: what is compared are the keys.

There is one writer, and it waits for nobody. A reader must not believe what is being written meanwhile:

* A bucket is copied between two looks at its version. The writer makes that odd, changes the bucket, makes it even; so
  a copy between two equal, even versions is of one moment.
* The writer announces how far it is about to write in the ring before it overwrites anything there. A reader copies an
  object's bytes, and only then looks how far that is: if it has come round to where the bytes began, it is a miss.
* Last of all it looks whether the shelf may be believed: `trust` holds the number of the writer's thread, and the
  heartbeat is not over. The writer takes the trust away when it cannot vouch for what stands here. When it dies,
  however it dies, the kernel does: the word is the lock of a robust mutex (set_robust_list(2)), and is changed before
  the dying process lets go of the lock of its store; so nobody else can have served that store by then.

What a shelf does not have is asked of the daemon: it never says that something is not there.

On x86-64 stores are seen in the order in which they were made, and loads are made in order: nothing more is needed. On
other processors a lock is released and taken between them: a release store followed by an acquire load is a barrier on
arm64, and an aligned word of 8 bytes is loaded and stored in one piece on both.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import platform
import stat
import struct
import threading
from collections.abc import Callable
from time import monotonic
from zlib import crc32

MAGIC = int.from_bytes(b"SKSHELF1", "little")
HEADER_BYTES = 4096
BUCKET_BYTES = 256
SLOTS = 3
PATTERN_BYTES_MAX = 69
"""Bytes of a key on the shelf, with its slashes; the last byte of its room is `ROOM_ENDS`."""
KEY_ROOM_BYTES = PATTERN_BYTES_MAX + 1
ROOM_ENDS = 0xFF
"""Stands in no key, so that none is found across two rooms."""
PLACES_AT, PLACE_BYTES = 8, 12
KEYS_AT = PLACES_AT + SLOTS * PLACE_BYTES
PLACE = struct.Struct("<QI")
"""Where an object's bytes begin in the ring, counted from the first that was ever written; their number plus one.

0 for the latter: only that the object exists.
"""

# Words of the header.
_WORD_BYTES = 8
MAGIC_WORD, TABLE_WORD, RING_WORD, OWNER_WORD = 0, 1, 2, 3
"""What it is, nothing when an end is made of it; bytes of the table and of the ring; the number of the thread that
writes."""
MUTEX_WORD = 8
TRUST_HALF = 2 * MUTEX_WORD
"""The mutex, of 40 bytes, and its lock, which is half a word."""
HEAD_WORD, UNTIL_WORD = 16, 17
"""How far the ring is written, or about to be; until when it is believed, in seconds of CLOCK_MONOTONIC."""
OWNER_DIED = 0x40000000
"""What the kernel leaves in the lock: FUTEX_OWNER_DIED of linux/futex.h."""

IN_ORDER = platform.machine() in ("x86_64", "AMD64")
"""Whether the processor's loads and stores are seen in the order of the program."""
_lock = threading.local()


def barrier() -> None:
    """Keeps loads and stores before it from being made after those behind it."""
    try:
        lock = _lock.lock
    except AttributeError:
        lock = _lock.lock = threading.Lock()
        lock.acquire()
    lock.release()
    lock.acquire()


def bucket_of(pattern: bytes, mask: int) -> int:
    """Returns where the bucket of a key begins in the memory; `mask` is that of `mask_of`."""
    return HEADER_BYTES + (crc32(pattern) & mask)


def mask_of(table_bytes: int) -> int:
    """Returns which bits of a CRC choose a bucket."""
    return table_bytes - BUCKET_BYTES


class Shelf:
    """A shelf, as this process sees it. Any thread may read it, and any fork.

    Args:
        descriptor: of its memory; not needed any more afterwards.

    Attributes:
        has: returns whether it has that an object of that key exists.
        get: returns the bytes of an object, None if it does not have them.

    Raises:
        ValueError, OSError: it is none, or could be taken away while it is read.
    """

    __slots__ = ("_locks", "_words", "get", "has")

    def __init__(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        if not stat.S_ISREG(found.st_mode) or not seals & fcntl.F_SEAL_SHRINK:
            raise ValueError("memory that may become shorter: to read it could be fatal")
        if found.st_size <= HEADER_BYTES or found.st_size % _WORD_BYTES:
            raise ValueError("no shelf: there is no room for one, or a part of a word")
        memory = mmap.mmap(descriptor, found.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._words = memoryview(memory).cast("Q")
        self._locks = memoryview(memory).cast("I")
        table, ring = self._words[TABLE_WORD], self._words[RING_WORD]
        whole = HEADER_BYTES + table + ring == found.st_size
        if self._words[MAGIC_WORD] != MAGIC or not whole or table & (table - 1) or table < BUCKET_BYTES or not ring:
            raise ValueError("no shelf, or one of another version")
        self.has, self.get = _readers(memory, self._words, self._locks, table, ring)

    @property
    def is_retired(self) -> bool:
        """Whether it will not be believed any more: its writer has made an end of it, or died."""
        return self._words[MAGIC_WORD] != MAGIC or bool(self._locks[TRUST_HALF] & OWNER_DIED)


def _readers(
    memory: mmap.mmap, words: memoryview, locks: memoryview, table: int, ring: int
) -> tuple[Callable[[str], bool], Callable[[str], bytes | None]]:
    """Returns the two functions that read. All they need is theirs: these are a microsecond each.

    The lengths are those that were found right: who writes there could change them a moment later.
    """
    moments = memoryview(memory).cast("d")
    mask = mask_of(table)
    ring_at = HEADER_BYTES + table
    owner = words[OWNER_WORD]
    place_of = PLACE.unpack_from
    between = None if IN_ORDER else barrier

    def has(key: str) -> bool:
        try:
            pattern = ("/" + key + "/").encode()
        except (TypeError, UnicodeEncodeError):  # no key; whoever is asked next says so
            return False
        at = HEADER_BYTES + (crc32(pattern) & mask)
        word = at >> 3
        version = words[word]
        if between:
            between()
        bucket = memory[at : at + BUCKET_BYTES]
        if between:
            between()
        return (
            bucket.find(pattern, KEYS_AT) >= 0
            and words[word] == version
            and not version & 1
            and locks[TRUST_HALF] == owner
            and moments[UNTIL_WORD] > monotonic()
        )

    def get(key: str) -> bytes | None:
        try:
            pattern = ("/" + key + "/").encode()
        except (TypeError, UnicodeEncodeError):
            return None
        at = HEADER_BYTES + (crc32(pattern) & mask)
        word = at >> 3
        version = words[word]
        if between:
            between()
        bucket = memory[at : at + BUCKET_BYTES]
        found = bucket.find(pattern, KEYS_AT)
        if found < 0:
            return None
        if between:
            between()
        if words[word] != version or version & 1:
            return None
        place, length = place_of(bucket, PLACES_AT + (found - KEYS_AT) // KEY_ROOM_BYTES * PLACE_BYTES)
        if not length:
            return None
        start = ring_at + place % ring
        data = memory[start : start + length - 1]
        if between:
            between()
        if words[HEAD_WORD] - place > ring or locks[TRUST_HALF] != owner or moments[UNTIL_WORD] <= monotonic():
            return None
        return data

    return has, get
