"""Whether to look again and again for a moment before one waits: a wake-up costs more than most answers take.

Owns the judgement, the same for both ends of a line. A spin is short, and is only begun while
what is waited for has lately come within it: each success is credit for more, each failure takes twice as much, and who
has none left waits as everybody does, but for a try now and then. So it ends by itself where answers take long, and
where others want the processor: then answers take long.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

_CREDIT_MAX = 16
_FAILURE_COSTS = 4
_TRIES_APART_MAX = 1024


class Spin:
    """The judgement of one end. Not locked.

    Args:
        spin_s: how long to look again and again, at most; 0: never.
    """

    __slots__ = ("_apart", "_credit", "_skipped", "spin_s")

    def __init__(self, spin_s: float) -> None:
        self.spin_s = spin_s if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._credit = _CREDIT_MAX
        self._apart = 8
        self._skipped = 0

    def until(self, look: Callable[[], Any]) -> Any:
        """Looks until something is there; returns that, or something false if it is time to wait.

        Args:
            look: returns at once what is there, else something false.
        """
        if not self.spin_s:
            return None
        if self._credit <= 0:
            self._skipped += 1
            if self._skipped < self._apart:
                return None
            self._skipped = 0
        ends = perf_counter() + self.spin_s
        while not (found := look()):
            if perf_counter() >= ends:
                self._fail()
                return None
        if self._credit < _CREDIT_MAX:
            self._credit += 1
        self._apart = 8
        return found

    def _fail(self) -> None:
        if self._credit <= 0:
            self._apart = min(2 * self._apart, _TRIES_APART_MAX)
        self._credit = max(0, self._credit - _FAILURE_COSTS)
