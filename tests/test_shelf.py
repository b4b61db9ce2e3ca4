"""shelf.py and segment.py: what a reader makes of memory that a writer changes at any moment, and of one that ended."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from storekeeper import shelf
from storekeeper.shelf import HEADER_BYTES, SLOTS, Shelf
from storekeeperd import segment as segments
from storekeeperd.segment import Segment

TABLE_BYTES = 64 * 1024
RING_BYTES = 3 * TABLE_BYTES


@contextlib.contextmanager
def opened(table_bytes: int = TABLE_BYTES) -> Iterator[Segment]:
    """A segment that is believed, and ends with the block."""
    made = Segment(table_bytes)
    try:
        made.believe(True)
        made.beat(time.monotonic() + 60)
        yield made
    finally:
        if made.descriptor >= 0:
            made.retire()
            made.release()


@pytest.fixture
def written() -> Iterator[Segment]:
    with opened() as made:
        yield made


@pytest.fixture
def read(written: Segment) -> Iterator[Shelf]:
    made = Shelf(written.descriptor)
    yield made
    del made._words, made._locks, made.has, made.get  # pytest keeps it a while: not its memory, though


def neighbours(count: int) -> list[str]:
    """Keys that share one bucket."""
    found: list[str] = []
    wanted = None
    for number in range(200_000):
        key = f"k{number}"
        at = shelf.bucket_of(f"/{key}/".encode(), shelf.mask_of(TABLE_BYTES))
        wanted = at if wanted is None else wanted
        if at == wanted:
            found.append(key)
        if len(found) == count:
            return found
    raise AssertionError("not so many")


# -- what is put down is found, and nothing else


@pytest.mark.parametrize("key", ["k", "a b", "ü€😀", "a\0b", "\0", "k" * 67, "ü" * 33, ".", "\x7f", "\ud7ff"])
def test_a_key_is_found_with_its_bytes_and_gone_when_it_is_withdrawn(written: Segment, read: Shelf, key: str) -> None:
    assert not read.has(key)
    assert written.enter(key.encode(), b"bytes")
    assert read.has(key)
    assert read.get(key) == b"bytes"
    written.withdraw(key.encode())
    assert not read.has(key)
    assert read.get(key) is None


def test_a_key_that_is_too_long_is_not_put_down(written: Segment, read: Shelf) -> None:
    for key in ("k" * 68, "ü" * 34, "k" * 255):
        assert not written.enter(key.encode(), b"x")
        written.withdraw(key.encode())
        assert not read.has(key)
        assert read.get(key) is None


@pytest.mark.parametrize("key", [None, 5, b"k", ("k",), 1.5, "\udc80", "k\udfff", "", "/", "k/", "/k", "k/k", "a/k"])
def test_what_is_no_key_is_not_found_and_fails_nobody(written: Segment, read: Shelf, key: Any) -> None:
    written.enter(b"k", b"x")
    written.enter(b"a", b"y")
    assert read.has(key) is False
    assert read.get(key) is None


def test_parts_of_keys_are_no_keys_whatever_was_withdrawn_before(written: Segment, read: Shelf) -> None:
    keys = neighbours(SLOTS)
    for key in keys:
        written.enter(key.encode(), key.encode())
    for key in keys[::2]:
        written.withdraw(key.encode())
    for key in keys:
        for part in (key[1:], key[:-1], key + "\0", "\0" + key):
            assert not read.has(part)
            assert read.get(part) is None
    for key in keys[1::2]:
        assert read.get(key) == key.encode()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096, 65535, 65536, RING_BYTES])
def test_bytes_of_any_length_come_as_they_were_put_down(written: Segment, read: Shelf, size: int) -> None:
    for data in (os.urandom(size), bytes(size)):
        written.enter(b"k", data)
        assert read.get("k") == data
    assert type(read.get("k")) is bytes
    written.enter(b"k")  # that it exists is no news, and takes no bytes away
    assert read.get("k") == bytes(size)


def test_that_an_object_exists_says_nothing_of_its_bytes(written: Segment, read: Shelf) -> None:
    assert written.enter(b"k")
    assert not written.enter(b"k")
    assert read.has("k")
    assert read.get("k") is None
    assert written.enter(b"k", b"")
    assert read.get("k") == b""


def test_the_oldest_of_a_bucket_goes_for_others_and_the_others_stay(written: Segment, read: Shelf) -> None:
    keys = neighbours(4 * SLOTS)
    for place, key in enumerate(keys):
        written.enter(key.encode(), key.encode())
        stay = keys[max(0, place + 1 - SLOTS) : place + 1]
        assert [one for one in keys if read.has(one)] == stay
        assert all(read.get(one) == one.encode() for one in stay)
    assert written.displaced == 3 * SLOTS


def test_bytes_that_the_ring_has_lapped_are_not_found_but_their_key_is(written: Segment, read: Shelf) -> None:
    written.enter(b"old", b"old bytes")
    room = 8 + RING_BYTES - 8 - 16  # up to where the old ones begin, once round
    while room:
        part = min(room, 8192)
        written.enter(b"new", b"n" * part)
        room -= part
        assert read.get("new") == b"n" * part
        assert read.get("old") in (b"old bytes", None)
    written.enter(b"new", b"n" * 8192)
    written.enter(b"new", b"n" * 8192)
    assert read.get("old") is None
    assert read.has("old")


# -- the writer stops at any store


class Stores:
    """Memory of which somebody looks at every state between two stores; long ones are made byte by byte."""

    def __init__(self, under: Any, look: Callable[[], None]) -> None:
        self._under = under
        self._look = look

    def __getitem__(self, place: Any) -> Any:
        return self._under[place]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._under, name)

    def __setitem__(self, place: Any, value: Any) -> None:
        if not isinstance(place, slice):
            self._under[place] = value
            self._look()
            return
        for at, byte in zip(range(place.start, place.stop), bytes(value), strict=True):
            self._under[at] = byte
            self._look()


class Packing:
    """Stands in for `PLACE`, so that its stores are seen, too."""

    @staticmethod
    def pack_into(memory: Any, at: int, *values: int) -> None:
        data = shelf.PLACE.pack(*values)
        memory[at : at + len(data)] = data


def test_whatever_store_the_writer_stopped_at_a_reader_finds_what_was_or_what_is(
    seed: int, monkeypatch: pytest.MonkeyPatch, written: Segment, read: Shelf
) -> None:
    chance = random.Random(seed)
    keys = neighbours(SLOTS + 2)
    was: dict[str, bytes | None] = {}
    will: dict[str, bytes | None] = {}
    seen_new: set[str] = set()
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        for key in keys:
            found = read.get(key)
            if found is not None:
                assert found in (was.get(key), will.get(key)), key
                if found != was.get(key):
                    seen_new.add(key)
                elif key in seen_new:
                    assert found == will.get(key), "older bytes after newer ones"
            if read.has(key):
                assert key in was or key in will

    memory = written._memory
    monkeypatch.setattr(segments, "PLACE", Packing)
    written._memory, written._words = Stores(memory, look), Stores(written._words, look)
    for number in range(60):
        key = chance.choice(keys)
        seen_new.clear()
        will = dict(was)
        if chance.random() < 0.3:
            will.pop(key, None)
            written.withdraw(key.encode())
            assert not read.has(key)
        else:
            data = b"%s %d " % (key.encode(), number) * chance.randrange(4) if chance.random() < 0.8 else None
            will[key] = data if data is not None else was.get(key)
            written.enter(key.encode(), data)
            assert read.get(key) == will[key]
        was = {one: will.get(one) for one in keys if read.has(one)}
    written._memory, written._words = memory, written._words._under
    print(f"looked {looks} times")


# -- the writer goes on at any load


class Loads(mmap.mmap):
    """Memory whose reader is held up in the middle of every copy."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, slice):
            return super().__getitem__(place)
        middle = (place.start + place.stop) // 2
        first = super().__getitem__(slice(place.start, middle))
        self.meanwhile()
        return first + super().__getitem__(slice(middle, place.stop))


class Words:
    """The same of single words: something happens before each is loaded."""

    def __init__(self, under: memoryview, meanwhile: Callable[[], None]) -> None:
        self._under = under
        self._meanwhile = meanwhile

    def __getitem__(self, place: int) -> int:
        self._meanwhile()
        return int(self._under[place])


def test_whatever_the_writer_does_in_the_middle_of_a_read_it_is_of_one_moment(seed: int, written: Segment) -> None:
    chance = random.Random(seed)
    keys = neighbours(SLOTS + 1)
    size = HEADER_BYTES + written.size_bytes
    memory = Loads(written.descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
    true: dict[str, set[bytes | None]] = {key: {None} for key in keys}  # since the read began
    now: dict[str, bytes | None] = dict.fromkeys(keys)
    count = 0

    def meanwhile() -> None:
        nonlocal count
        for _ in range(chance.choice((0, 0, 1, 1, 2, 6))):
            count += 1
            key = chance.choice(keys)
            if chance.random() < 0.2:
                written.withdraw(key.encode())
                now[key] = None
            else:
                now[key] = (b"%d " % count * 20_000)[: chance.choice((0, 5, 700, 60_000))] + key.encode()
                written.enter(key.encode(), now[key])
            true[key].add(now[key])

    memory.meanwhile = meanwhile  # type: ignore[misc]
    words = Words(memoryview(written._memory).cast("Q"), meanwhile)
    locks = memoryview(written._memory).cast("I")
    has, get = shelf._readers(memory, words, locks, TABLE_BYTES, RING_BYTES)  # type: ignore[arg-type]
    found = 0
    for _ in range(1500):
        key = chance.choice(keys)
        true[key] = {now[key]}
        data = get(key)
        assert data is None or data in true[key]
        found += data is not None
        true[key] = {now[key]}
        assert not has(key) or true[key] != {None}
    assert found > 50
    words._under.release()
    locks.release()
    del has, get
    gc.collect()
