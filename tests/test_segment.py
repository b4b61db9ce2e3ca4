"""segment.py: whether a shelf is believed, when its writer ends, however it does, and what is left of it."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
import random
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

import pytest

from storekeeper import shelf
from storekeeper.shelf import BUCKET_BYTES, HEADER_BYTES, SLOTS, Shelf
from storekeeperd.segment import Segment
from test_shelf import TABLE_BYTES, opened, read, written

__all__ = ["read", "written"]


def test_what_is_not_vouched_for_is_not_believed_until_it_is_again(written: Segment, read: Shelf) -> None:
    written.enter(b"k", b"x")
    for until_s in (0.0, time.monotonic() - 0.001):
        written.beat(until_s)
        assert (read.has("k"), read.get("k")) == (False, None)
    written.beat(time.monotonic() + 60)
    for _ in range(3):
        written.believe(False)
        assert (read.has("k"), read.get("k")) == (False, None)
        written.believe(True)
        assert (read.has("k"), read.get("k")) == (True, b"x")
    assert not read.is_retired


def test_what_is_retired_is_not_believed_takes_no_memory_and_can_be_read_without_harm(
    written: Segment, read: Shelf
) -> None:
    written.enter(b"k", b"x")
    kept = os.dup(written.descriptor)
    written.retire()
    assert (read.has("k"), read.get("k"), read.is_retired) == (False, None, True)
    written.retire()
    written.release()
    assert os.fstat(kept).st_blocks == 0
    assert os.fstat(kept).st_size == HEADER_BYTES + written.size_bytes
    os.close(kept)
    child = os.fork()
    if not child:  # whoever is sent SIGBUS tells
        sums = [sum(read._words), read.has("k"), read.get("k")]
        os._exit(0 if sums == [0, False, None] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_bytes_are_kept_until_the_ring_has_come_half_way_round(written: Segment) -> None:
    written.enter(b"k")
    assert not written.keeps(b"k")
    written.enter(b"k", b"x" * 100)
    assert written.keeps(b"k")
    assert not written.keeps(b"other")
    for number in range(2 * TABLE_BYTES // 1024):  # the ring is three times as long as the table
        written.enter(b"filler-%d" % (number % 3), bytes(1024))
    assert not written.keeps(b"k")


def test_two_hundred_that_were_retired_leave_nothing_though_a_reader_keeps_them_mapped() -> None:
    held = len(os.listdir("/proc/self/fd"))
    kept: list[int] = []
    readers: list[Shelf] = []
    for _ in range(200):
        with opened() as made:
            kept.append(os.dup(made.descriptor))
            readers.append(Shelf(made.descriptor))
    assert sum(os.fstat(one).st_blocks for one in kept) == 0
    deque(map(os.close, kept), 0)
    readers.clear()
    del made
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == held


def test_when_its_writer_is_killed_at_any_moment_nobody_believes_it_any_more(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        here, there = socket.socketpair()
        child = os.fork()
        if not child:
            made = Segment(TABLE_BYTES)
            made.believe(True)
            made.beat(time.monotonic() + 60)
            made.enter(b"k", b"x")
            socket.send_fds(there, [b"x"], [made.descriptor])
            while True:
                made.enter(b"k", b"x")
                made.believe(False)
                made.believe(True)
        try:
            descriptor = socket.recv_fds(here, 1, 1)[1][0]
            read = Shelf(descriptor)
            os.close(descriptor)
            deadline = time.monotonic() + 20
            while not read.has("k"):
                assert time.monotonic() < deadline
            time.sleep(chance.random() * 0.005)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            here.close()
            there.close()
        assert (read.has("k"), read.get("k")) == (False, None)


def test_threads_and_forks_read_what_the_writer_writes_meanwhile(written: Segment, read: Shelf) -> None:
    wrong: list[bytes] = []

    def look() -> int:
        """Reads until it has found a lot; returns what a process that did so ends with."""
        found = 0
        deadline = time.monotonic() + 20
        while found < 5000 and time.monotonic() < deadline:
            data = read.get("k")
            if data is not None:
                found += 1
                if data != data[:1] * len(data):
                    wrong.append(data)
        return 2 if wrong else 0 if found >= 5000 else 3

    children = set()
    for _ in range(2):
        child = os.fork()
        if not child:
            os._exit(look())
        children.add(child)
    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    ended: list[int] = []
    number = 0
    while children:  # each ends by its own deadline
        number += 1
        written.enter(b"k", bytes([number % 251]) * (number % 3000))
        if not number % 64:
            time.sleep(0)
            for child in list(children):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    children.remove(child)
                    ended.append(os.waitstatus_to_exitcode(status))
    for thread in threads:
        thread.join()
    assert ended == [0, 0]
    assert not wrong


def test_whoever_is_given_it_can_do_nothing_but_read(written: Segment) -> None:
    number = written.descriptor
    assert fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    tries: list[Callable[[], object]] = [
        lambda: os.ftruncate(number, 0),
        lambda: os.pwrite(number, b"x", 0),
        lambda: fcntl.fcntl(number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda: mmap.mmap(number, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        lambda: os.posix_fallocate(number, 0, 1 << 30),
    ]
    for attempt in tries:
        with pytest.raises(OSError) as refused:
            attempt()
        assert refused.value.errno in (errno.EBADF, errno.EACCES, errno.EPERM, errno.EINVAL)


def test_a_bucket_has_room_for_its_places_and_keys() -> None:
    assert BUCKET_BYTES - 8 < shelf.KEYS_AT + SLOTS * shelf.KEY_ROOM_BYTES <= BUCKET_BYTES
