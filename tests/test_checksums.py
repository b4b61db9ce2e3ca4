"""checksums.py: the checksum of a file that is written in ranges is that of its bytes, in whatever order they came."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storekeeperd import checksums

SEEDS = 200


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield file
    os.close(file)


def write(running: checksums.Running, descriptor: int, offset: int, part: bytes) -> None:
    os.pwrite(descriptor, part, offset)
    running.wrote(descriptor, offset, part)


def test_a_known_value() -> None:
    assert checksums.of(b"") == 0x2D06800538D394C2
    assert checksums.of(b"storekeeper") == checksums.of(bytearray(b"storekeeper")) != checksums.of(b"storekeepes")


def test_ranges_in_any_order_twice_and_torn_give_the_checksum_of_the_whole(descriptor: int) -> None:
    for seed in range(SEEDS):
        chance = random.Random(seed)
        data = chance.randbytes(chance.randrange(1, 5000))
        os.ftruncate(descriptor, 0)
        running = checksums.Running()
        cuts = sorted({0, len(data), *(chance.randrange(len(data)) for _ in range(chance.randrange(12)))})
        ranges = list(itertools.pairwise(cuts))
        if chance.random() < 0.5:
            chance.shuffle(ranges)
        for start, end in ranges:
            if chance.random() < 0.1:  # other bytes first, written over afterwards
                write(running, descriptor, start, bytes(end - start))
            write(running, descriptor, start, data[start:end])
        assert running.finish(descriptor, len(data)) == checksums.of(data), f"seed {seed}"


def test_ranges_in_order_are_never_read_back(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(100_000)
    running = checksums.Running()
    monkeypatch.setattr(checksums.os, "pread", lambda *_: pytest.fail("read back"))
    for start in range(0, len(data), 10_000):
        write(running, descriptor, start, data[start : start + 10_000])
    assert running.finish(descriptor, len(data)) == checksums.of(data)


def test_two_threads_may_write_ranges_of_one_file(descriptor: int) -> None:
    data = os.urandom(4_000_000)
    running = checksums.Running()

    def every_second(first: int) -> None:
        for start in range(first * 100_000, len(data), 200_000):
            write(running, descriptor, start, data[start : start + 100_000])

    threads = [threading.Thread(target=every_second, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert running.finish(descriptor, len(data)) == checksums.of(data)


def test_what_lies_beyond_the_end_does_not_count(descriptor: int) -> None:
    running = checksums.Running()
    write(running, descriptor, 0, b"0123456789")
    assert running.finish(descriptor, 4) == checksums.of(b"0123")
    assert checksums.of_file(descriptor, 10) == checksums.of(b"0123456789")


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 300_000])
def test_a_short_file_is_read_in_parts(descriptor: int, size: int) -> None:
    data = os.urandom(size)
    os.pwrite(descriptor, data, 0)
    assert checksums.of_short_file(descriptor, size) == checksums.of(data)
    assert checksums.of_short_file(descriptor, size + 10) == checksums.of(data)  # it became shorter


def test_a_short_file_that_cannot_be_read_at_once_is_told(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    os.pwrite(descriptor, bytes(1000), 0)
    monkeypatch.setattr(os, "preadv", lambda *_: 999)
    with pytest.raises(BlockingIOError):
        checksums.of_short_file(descriptor, 1000, os.RWF_NOWAIT)
