"""The memory of one shelf, as the daemon writes it; the layout, and why that is right, stands in storekeeper/shelf.py.

Owns the memory and every store into it. What is entered, and when, is shelves.py's. All of it is allocated before
anybody sees it, and cannot be taken away (fcntl(2), F_SEAL_SHRINK): so a reader meets no SIGBUS. The descriptor that is
handed out is for reading only, and the memory's mode lets nobody open it anew.

The lock that says whether it may be believed is a robust mutex of the C library, kept locked: the kernel unlocks it
when the thread that has locked it dies (pthread_mutexattr_setrobust(3)). So one thread opens and retires a shelf, and
writes to it.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import threading
from typing import Any

from storekeeper import shelf
from storekeeper.shelf import (
    BUCKET_BYTES,
    HEADER_BYTES,
    KEY_ROOM_BYTES,
    KEYS_AT,
    PATTERN_BYTES_MAX,
    PLACE,
    PLACE_BYTES,
    PLACES_AT,
    SLOTS,
)

_PROCESS_SHARED = _ROBUST = 1
_ATTRIBUTE_BYTES = 64
"""Room for a pthread_mutexattr_t, which has 4 bytes or 8."""
_PLACES = struct.Struct("<" + SLOTS * "QI")
_NO_KEY = bytes(PATTERN_BYTES_MAX) + bytes([shelf.ROOM_ENDS])
_EMPTY = (bytes(KEYS_AT) + _NO_KEY * SLOTS).ljust(BUCKET_BYTES, b"\0") * 128
"""So much of a table that nothing stands in; the least table is as long."""
_FREED_BYTES = 1024 * 1024
_ALIGNED = 8
_libc = ctypes.CDLL(None)


class Segment:
    """The memory of one shelf. Made by any thread; all else is the loop's.

    Args:
        table_bytes: of the table, a power of two; the ring is three times as long.

    Attributes:
        size_bytes: all of it, but for a page.
        descriptor: for reading, to be handed out; -1 once it is retired.
        displaced: keys that were on the shelf and had to go for others.

    Raises:
        OSError: there is no memory, or the system has no such memory.
    """

    def __init__(self, table_bytes: int) -> None:
        self._table_bytes, self._ring_bytes = table_bytes, 3 * table_bytes
        self.size_bytes = self._table_bytes + self._ring_bytes
        whole_bytes = HEADER_BYTES + self.size_bytes
        self.displaced = 0
        self.descriptor = -1
        self._ring_at = HEADER_BYTES + table_bytes
        self._mask = shelf.mask_of(table_bytes)
        self._head = _ALIGNED  # 0 is no place
        made = os.memfd_create("storekeeper-shelf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(made, 0, whole_bytes)
            self._memory = mmap.mmap(made, whole_bytes)
            os.fchmod(made, 0o400)
            fcntl.fcntl(made, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self.descriptor = os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(made)
        self._words = memoryview(self._memory).cast("Q")
        self._moments = memoryview(self._memory).cast("d")
        for at in range(HEADER_BYTES, self._ring_at, len(_EMPTY)):  # in parts: the loop wants to go on, too
            self._memory[at : at + len(_EMPTY)] = _EMPTY
        self._words[shelf.TABLE_WORD], self._words[shelf.RING_WORD] = self._table_bytes, self._ring_bytes
        self._words[shelf.HEAD_WORD] = self._head
        self._words[shelf.MAGIC_WORD] = shelf.MAGIC
        self._mutex: Any = ctypes.c_char.from_buffer(self._memory, 8 * shelf.MUTEX_WORD)
        self._is_believed = False
        attributes = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        _check(_libc.pthread_mutexattr_init(attributes))
        _check(_libc.pthread_mutexattr_setpshared(attributes, _PROCESS_SHARED))
        _check(_libc.pthread_mutexattr_setrobust(attributes, _ROBUST))
        _check(_libc.pthread_mutex_init(ctypes.byref(self._mutex), attributes))

    # -- whether it is believed

    def believe(self, believed: bool) -> None:
        """Says whether what stands here is true; of what does not stand here it says nothing.

        Raises:
            OSError: the C library's locks are not as we know them: nothing is believed then.
        """
        if believed == self._is_believed:
            return
        if not believed:
            self._is_believed = False
            _check(_libc.pthread_mutex_unlock(ctypes.byref(self._mutex)))
            return
        _check(_libc.pthread_mutex_lock(ctypes.byref(self._mutex)))
        self._is_believed = True
        number = threading.get_native_id()
        if self._words[shelf.MUTEX_WORD] & 0xFFFFFFFF != number:
            self.believe(False)
            raise OSError("a lock of this C library does not begin with the number of its owner")
        self._words[shelf.OWNER_WORD] = number

    def beat(self, until_s: float) -> None:
        """Says until when it is believed, if nothing more is heard; in seconds of CLOCK_MONOTONIC."""
        self._moments[shelf.UNTIL_WORD] = until_s

    def retire(self) -> None:
        """Makes an end of it: nobody believes it any more, nor gets it. What it takes is free after `release`.

        To do so again changes nothing.
        """
        if self.descriptor < 0:
            return
        self.believe(False)
        self._words[shelf.MAGIC_WORD] = 0
        os.close(self.descriptor)
        self.descriptor = -1

    def release(self) -> None:
        """Frees its memory, though readers may keep it mapped: they find nothing in it. To be called once, retired."""
        del self._mutex
        self._words.release()
        self._moments.release()
        whole_bytes = len(self._memory)
        for at in range(0, whole_bytes, _FREED_BYTES):  # in parts: the loop, which waits for this call, wants to go on
            self._memory.madvise(mmap.MADV_REMOVE, at, min(_FREED_BYTES, whole_bytes - at))
        self._memory.close()

    # -- what stands on it

    @property
    def is_small(self) -> bool:
        """Whether a larger one would be of use: keys have to go for others, or bytes long before their turn."""
        slots = self._table_bytes // BUCKET_BYTES * SLOTS
        return self.displaced > slots // 8 or self._head > self._ring_bytes

    def enter(self, key: bytes, data: Any = None, *, spare: bool = False) -> bool:
        """Puts down that an object exists, with its bytes if they are given; returns whether that was news.

        `spare`: only if no other has to go for it.
        """
        pattern = b"/%b/" % key
        if len(pattern) > PATTERN_BYTES_MAX:
            return False
        memory = self._memory
        at = shelf.bucket_of(pattern, self._mask)
        bucket = memory[at : at + BUCKET_BYTES]
        found = bucket.find(pattern, KEYS_AT)
        if found >= 0:
            if data is None:
                return False
            slot = (found - KEYS_AT) // KEY_ROOM_BYTES
        else:
            places = _PLACES.unpack_from(bucket, PLACES_AT)[::2]
            slot = places.index(min(places))  # one that is free, else the oldest
            if spare and places[slot]:
                return False
            self.displaced += places[slot] > 0
        place, length = (self._head, 0) if data is None else self._keep(data)
        version = self._begin(at)
        if found < 0:
            key_at = at + KEYS_AT + slot * KEY_ROOM_BYTES
            memory[key_at : key_at + PATTERN_BYTES_MAX] = pattern.ljust(PATTERN_BYTES_MAX, b"\0")
        PLACE.pack_into(memory, at + PLACES_AT + slot * PLACE_BYTES, place, length)
        self._end(at, version)
        return True

    def keeps(self, key: bytes) -> bool:
        """Returns whether an object is on with its bytes, and these will not be overwritten soon."""
        pattern = b"/%b/" % key
        at = shelf.bucket_of(pattern, self._mask)
        found = self._memory.find(pattern, at + KEYS_AT, at + BUCKET_BYTES)
        if found < 0:
            return False
        slot = (found - at - KEYS_AT) // KEY_ROOM_BYTES
        place, length = PLACE.unpack_from(self._memory, at + PLACES_AT + slot * PLACE_BYTES)
        return bool(length and self._head - place < self._ring_bytes // 2)

    def withdraw(self, key: bytes) -> None:
        """Takes an object off, if it is on."""
        pattern = b"/%b/" % key
        memory = self._memory
        at = shelf.bucket_of(pattern, self._mask)
        found = memory.find(pattern, at + KEYS_AT, at + BUCKET_BYTES)
        if found < 0:
            return
        slot = (found - at - KEYS_AT) // KEY_ROOM_BYTES
        version = self._begin(at)
        memory[found] = 0
        PLACE.pack_into(memory, at + PLACES_AT + slot * PLACE_BYTES, 0, 0)
        self._end(at, version)

    # -- parts

    def _keep(self, data: Any) -> tuple[int, int]:
        """Writes bytes into the ring; returns their place, and their number plus one."""
        size, ring = len(data), self._ring_bytes
        place = self._head
        if place % ring + size > ring:
            place += ring - place % ring  # in one piece, at the beginning
        self._head = self._words[shelf.HEAD_WORD] = place + size + -size % _ALIGNED
        if not shelf.IN_ORDER:
            shelf.barrier()  # whoever finds other bytes than he looks for has to find the new head, too
        start = self._ring_at + place % ring
        self._memory[start : start + size] = data
        return place, size + 1

    def _begin(self, at: int) -> int:
        """Says that a bucket is about to change; returns its version."""
        version: int = self._words[at >> 3]
        self._words[at >> 3] = version + 1
        if not shelf.IN_ORDER:
            shelf.barrier()
        return version

    def _end(self, at: int, version: int) -> None:
        if not shelf.IN_ORDER:
            shelf.barrier()
        self._words[at >> 3] = version + 2


def _check(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))
