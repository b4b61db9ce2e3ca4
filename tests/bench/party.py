"""Processes that use one store at the same time: forked, each with its own access, told what to do by pipes.

Owns how they begin together, at a moment they are all told of, and how they end, whatever happens to one of them. Wants
the process that forks to have no access of its own meanwhile: LMDB cannot be carried over a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from bench.peer import Candidate, Peer

_FORK = multiprocessing.get_context("fork")
_WAITS_S = 120.0
_LEAVES_S = 5.0
OBJECTS = 30
"""What each puts before anything is measured, and reads from; when all have put, each reads all of its own.

By then our client has its shelf, and many of them do not yet outgrow it.
"""
SMALL = 1 << 10


class Took(NamedTuple):
    """When a process began and ended what it was told to do."""

    began_s: float
    ended_s: float


Work = Callable[[Peer, list[Any], int], object]
"""Does so many operations, on keys that nobody else has."""


class Party:
    """So many processes, each of which has joined, and is warm.

    Attributes:
        members: how many.
    """

    def __init__(self, members: int, candidate: Candidate, folder: str, works: dict[str, Work]) -> None:
        self.members = members
        self._lines: list[Connection] = []
        self._processes: list[Any] = []
        try:
            for number in range(members):
                line, theirs = _FORK.Pipe()
                self._lines.append(line)
                process = _FORK.Process(target=_member, args=(theirs, number, candidate, folder, works), daemon=True)
                process.start()
                self._processes.append(process)
                theirs.close()  # so that the end of the process is the end of the line
            self._answers()
            for line in self._lines:
                line.send("all are there")
            self._answers()
        except BaseException:
            self.end()
            raise

    def do(self, work: str, operations: int) -> float:
        """Lets each do so many operations; returns the seconds from the first start to the last end."""
        self.start(work, operations)
        took = self.finish()
        return max(one.ended_s for one in took) - min(one.began_s for one in took)

    def start(self, work: str, operations: int) -> None:
        """Lets each do so many operations from one moment on."""
        at_s = time.monotonic() + 0.01 + 0.001 * self.members
        for line in self._lines:
            line.send((work, operations, at_s))

    def finish(self) -> list[Took]:
        """Waits until all have done what was started."""
        return self._answers()

    @property
    def is_busy(self) -> bool:
        """Whether somebody has not yet told that he is done."""
        return not all(line.poll() for line in self._lines)

    def _answers(self) -> list[Any]:
        deadline_s = time.monotonic() + _WAITS_S
        answers = []
        for line in self._lines:
            if not line.poll(max(0.0, deadline_s - time.monotonic())):
                raise TimeoutError("a process of the benchmark does not answer")
            answers.append(line.recv())  # EOFError: it has died, and said why
        return answers

    def end(self) -> None:
        """Lets them leave, and ends those that do not."""
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.send(None)
        until_s = time.monotonic() + _LEAVES_S
        for process in self._processes:
            process.join(max(0.0, until_s - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
            process.close()
        for line in self._lines:
            line.close()
        self._processes, self._lines = [], []


@contextlib.contextmanager
def party(members: int, candidate: Candidate, folder: str, works: dict[str, Work]) -> Iterator[Party]:
    """Gives processes that have joined a store; they end with the block."""
    made = Party(members, candidate, folder, works)
    try:
        yield made
    finally:
        made.end()


def _member(line: Connection, number: int, candidate: Candidate, folder: str, works: dict[str, Work]) -> None:
    with candidate.join(folder) as peer, line:
        random.seed(number)
        keys = [peer.put(os.urandom(SMALL)) for _ in range(OBJECTS)]
        line.send("there")
        if not line.poll(_WAITS_S) or not line.recv():
            return
        for key in keys:
            peer.get(key)
            assert peer.exists is None or peer.exists(key)
        line.send("ready")
        while line.poll(_WAITS_S) and (told := line.recv()):
            work, operations, at_s = told
            time.sleep(max(0.0, at_s - time.monotonic()))
            began_s = time.monotonic()
            works[work](peer, keys, operations)
            line.send(Took(began_s, time.monotonic()))
