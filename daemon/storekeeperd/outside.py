"""What the service asks of the world around it, as functions: the driver gives them, or a simulation.

Pure. Owns the list of questions, and what is answered where nobody gives an answer: nothing has lifetimes, nobody makes
namespaces, the disk is endless.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from storekeeper.errors import BadRequest
from storekeeperd.access import Rules
from storekeeperd.answers import Peer
from storekeeperd.namespaces import Namespace


def _nobody(_: Peer) -> int:
    raise BadRequest("nothing can be tied to a process here")


def _nothing(_: str, __: Namespace | None) -> Rules:
    raise BadRequest("no namespaces can be made here")


@dataclass(slots=True)
class Outside:
    """Functions of the driver.

    Attributes:
        free: bytes and inodes that the file system has free.
        identify: the process of a peer (see deathwatch.py); raises if it cannot be told.
        lives: whether a process has not ended.
        keep_lives: notes that objects may have lifetimes; raises if the file system cannot keep any.
        found: makes the folder of a namespace and keeps its settings, or removes both (None), and returns its rules.
            Waits for the disk: called in a worker.
        fixed: names of namespaces that stand in the configuration.
        leaving: called in the loop before a namespace's folder is removed.
        founded: called in the loop after that, whatever came of it: see which directories are to be watched now.
        now_s: seconds of the epoch.
        wake: sees to it that there is another turn soon.
        make_shelf: returns the memory of a shelf with a table of so many bytes (see segment.py), or raises; takes some
            milliseconds: called in a worker. None where there are no shelves.
        monotonic_s: seconds of CLOCK_MONOTONIC.
    """

    free: Callable[[], tuple[int, int]] = lambda: (1 << 62, 1 << 62)
    identify: Callable[[Peer], int] = _nobody
    lives: Callable[[int], bool] = lambda _: True
    keep_lives: Callable[[], None] = lambda: None
    found: Callable[[str, Namespace | None], Rules] = _nothing
    fixed: Callable[[], Collection[str]] = tuple
    leaving: Callable[[str], None] = lambda _: None
    founded: Callable[[], None] = lambda: None
    now_s: Callable[[], float] = lambda: 0.0
    wake: Callable[[], None] = lambda: None
    make_shelf: Callable[[int], Any] | None = None
    monotonic_s: Callable[[], float] = lambda: 0.0
