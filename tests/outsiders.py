"""What other processes do to a store's directory behind the daemon's back. A program of its own, quick to start.

    python outsiders.py churn STORE OUTSIDE SEED    changes keys at random until standard input ends
    python outsiders.py obey STORE OUTSIDE          reads a command a line, does it, answers with a line

OUTSIDE is a directory of the same file system, for what comes from elsewhere or goes there. Nothing here writes into a
file that has been complete before: nobody is told of that, neither the daemon nor anybody else.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

KEYS = [f"key-{number:02}" for number in range(40)]
_LONGEST_S = 100.0
"""A churn ends by itself after that, whoever forgot it."""


class Outsider:
    """One process that does as it likes."""

    def __init__(self, store: str, outside: str, seed: str = "0") -> None:
        self.store = store
        self.outside = outside
        self.chance = random.Random(seed)
        self.spare = os.path.join(outside, f"spare-{os.getpid()}")
        self.write(self.spare, b"spare")

    def path(self, name: str) -> str:
        return os.path.join(self.store, name)

    def any(self) -> str:
        return self.path(self.chance.choice(KEYS))

    def write(self, path: str, data: bytes, parts: int = 1) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            step = max(1, len(data) // parts)
            for start in range(0, len(data), step):
                os.write(descriptor, data[start : start + step])
        finally:
            os.close(descriptor)

    # -- single changes

    def create(self, name: str) -> None:
        self.write(self.path(name), name.encode())

    def unlink(self, name: str) -> None:
        os.unlink(self.path(name))

    def come(self, name: str) -> None:
        """Renames a file in from elsewhere."""
        self.write(f"{self.spare}-in", name.encode())
        os.rename(f"{self.spare}-in", self.path(name))

    def leave(self, name: str) -> None:
        """Renames a file to elsewhere."""
        os.rename(self.path(name), f"{self.spare}-out")

    def rename(self, name: str, other: str) -> None:
        os.rename(self.path(name), self.path(other))

    def link(self, name: str, other: str) -> None:
        os.link(self.path(name), self.path(other))

    def join(self, name: str) -> None:
        """Links a file from elsewhere."""
        os.link(self.spare, self.path(name))

    # -- many

    def files(self, first: str, count: str) -> None:
        """Creates numbered files of 0 to 9 bytes."""
        for number in range(int(first), int(first) + int(count)):
            self.write(self.path(f"file-{number:06}"), b"123456789"[: number % 10])

    def delete(self, first: str, count: str) -> None:
        """Deletes every other of the numbered files, until so many are gone."""
        for number in range(int(first), int(first) + 2 * int(count), 2):
            os.unlink(self.path(f"file-{number:06}"))

    def swap(self, first: str, count: str) -> None:
        """Renames numbered files: two events each."""
        for number in range(int(first), int(first) + int(count)):
            os.rename(self.path(f"file-{number:06}"), self.path(f"swap-{number:06}"))

    def flood(self, events: str) -> None:
        """Makes keys come and go until so many events were made."""
        made = 0
        while made < int(events):
            path = self.any()
            try:
                os.link(self.spare, path)
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                    made += 1
            else:
                made += 1

    def grow(self, count: str, steps: str, pause_s: str) -> None:
        """Writes files in place, all at the same time and slowly."""
        for step in range(int(steps)):
            for number in range(int(count)):
                with open(self.path(f"slow-{number}"), "ab") as file:
                    file.write(b"x" * (1000 + number))
            if step + 1 < int(steps):
                time.sleep(float(pause_s))

    # -- at random

    def churn(self) -> int:
        """Changes keys until standard input ends; returns how often."""
        os.set_blocking(0, False)
        deadline = time.monotonic() + _LONGEST_S
        done = 0
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                if not os.read(0, 1):
                    break
            for _ in range(20):
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    self.change()
                    done += 1
            if self.chance.random() < 0.1:
                time.sleep(self.chance.random() * 0.01)
        return done

    def change(self) -> None:
        path, other = self.any(), self.any()
        data = self.chance.randbytes(self.chance.randrange(200))
        inside = self.path(f"temporary-{os.getpid()}")
        kind = self.chance.randrange(10)
        if kind < 2:
            self.write(path, data, self.chance.choice((1, 2)))
        elif kind == 2:
            self.write(f"{self.spare}-in", data)
            os.rename(f"{self.spare}-in", path)
        elif kind == 3:
            self.write(inside, data)
            os.rename(inside, path)
        elif kind < 6:
            os.unlink(path)
        elif kind == 6:
            os.rename(path, other)
        elif kind == 7:
            os.rename(path, f"{self.spare}-out")
        elif kind == 8:
            os.link(path, other)
        else:
            os.link(self.spare, path)

    def obey(self) -> None:
        """Does what the lines of standard input say, and tells when it is done."""
        for line in iter(sys.stdin.readline, ""):
            verb, *arguments = line.split()
            method: Callable[..., Any] = getattr(self, verb)
            method(*arguments)
            print("done", flush=True)


def main() -> None:
    mode, *arguments = sys.argv[1:]
    outsider = Outsider(*arguments)
    if mode == "churn":
        print(outsider.churn(), flush=True)
    else:
        outsider.obey()


if __name__ == "__main__":
    main()
