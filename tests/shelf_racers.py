"""Processes that race for the same objects: writers change them, readers hold what they find against what was told.

What writers have begun and what the daemon has acknowledged stands in memory that all share, a page of words: of every
key the number of the last change that was begun, and of the last that was acknowledged, with whether it left an object
there. A change is begun there before it is asked for, so a reader who looks at what was acknowledged, reads, and then
looks at what was begun knows all that he may have found.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import sys
import time
from pathlib import Path
from zlib import crc32

from storekeeper import Client
from storekeeper.errors import StorekeeperError

KEYS = 24
WRITERS = 2
HEAD = struct.Struct("<QII")


class Board:
    """What was begun and what was acknowledged, in shared memory."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4096)
        self.words = memoryview(self.memory).cast("Q")

    @property
    def ends(self) -> bool:
        return self.words[0] > 0

    def begun(self, key: int) -> int:
        return self.words[1 + 2 * key]

    def told(self, key: int) -> tuple[int, bool]:
        word = self.words[2 + 2 * key]
        return word >> 1, bool(word & 1)

    def begin(self, key: int) -> int:
        self.words[1 + 2 * key] += 1
        return self.words[1 + 2 * key]

    def tell(self, key: int, number: int, *, there: bool) -> None:
        self.words[2 + 2 * key] = number << 1 | there


def name(key: int) -> str:
    return f"key-{key}"


def data_of(key: int, number: int, size: int) -> bytes:
    body = random.Random(number * KEYS + key).randbytes(64) * (size // 64)
    return HEAD.pack(number, key, crc32(body, number)) + body


def number_of(key: int, data: bytes) -> int:
    """Returns which change brought some bytes; raises `AssertionError` if none did."""
    number, whose, checksum = HEAD.unpack_from(data)
    assert whose == key, "the bytes of another object"
    assert crc32(memoryview(data)[HEAD.size :], number) == checksum, "bytes of no object"
    return int(number)


def write(address: str, board: Board, seed: int, part: int) -> dict[str, object]:
    """Puts, replaces and evicts its part of the keys as fast as it can; nobody else writes them."""
    chance = random.Random(seed)
    done = retried = 0
    with Client(address, timeout=60) as client:
        while not board.ends:
            key = chance.randrange(KEYS // WRITERS) * WRITERS + part
            number = board.begin(key)
            evicts = chance.random() < 0.3
            data = data_of(key, number, chance.choice((0, 64, 1000, 4000, 20_000)))
            while True:
                try:
                    if evicts:
                        client.evict(name(key))
                    else:
                        client.put(data, key=name(key), replace=True)
                    break
                except StorekeeperError as error:
                    if not error.retry:
                        raise
                    retried += 1
            board.tell(key, number, there=not evicts)
            done += 1
            if chance.random() < 0.05:
                time.sleep(chance.random() * 0.02)  # so that there is something to be read
    return {"done": done, "retried": retried}


def read(address: str, board: Board, seed: int) -> dict[str, object]:
    """Reads until the end, in every way there is; returns what was wrong."""
    chance = random.Random(seed)
    wrong: list[str] = []
    newest = [0] * KEYS
    reads = hits = 0
    with Client(address, timeout=60) as client:
        while not board.ends and len(wrong) < 10:
            key = chance.randrange(KEYS)
            how = chance.choice(("get", "get", "has", "shelf", "exists", "fresh", "view"))
            least, there = board.told(key)
            found: bytes | bool | None
            try:
                if how == "get":
                    found = client.get(name(key))
                elif how == "has":
                    found = client._shortcut.has(name(key)) or None
                elif how == "shelf":
                    found = client._shortcut.get(name(key))
                elif how == "view":
                    view = client.view(name(key))
                    found = None if view is None else bytes(view)
                else:
                    found = client.exists(name(key), fresh=how == "fresh")
            except StorekeeperError as error:
                if not error.retry:
                    wrong.append(f"{how} of {key}: {error!r}")
                continue
            most = board.begun(key)
            reads += 1
            hits += how in ("has", "shelf") and found is not None
            said = f"{how} of {key}: told {least} {there}, begun {most}, newest seen {newest[key]}"
            if isinstance(found, bytes):
                try:
                    number = number_of(key, found)
                except AssertionError as error:
                    wrong.append(f"{said}: {error}")
                    continue
                if not least <= number <= most or (number == least and not there) or number < newest[key]:
                    wrong.append(f"{said}: bytes of {number}")
                newest[key] = max(newest[key], number)
            elif found and not there and most == least:
                wrong.append(f"{said}: false present")
            elif found in (None, False) and how not in ("has", "shelf") and there and most == least:
                wrong.append(f"{said}: false absent")
    return {"reads": reads, "hits": hits, "wrong": wrong}


def main(what: str, address: str, path: str, seed: str, part: str) -> None:
    board = Board(path)
    told = write(address, board, int(seed), int(part)) if what == "write" else read(address, board, int(seed))
    told["pid"] = os.getpid()
    print(json.dumps({"what": what, **told}))


def new_board(path: Path) -> Board:
    path.write_bytes(bytes(4096))
    return Board(str(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
