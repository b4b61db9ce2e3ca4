"""When objects were used last, where that decides what goes first.

Pure. Owns the order of use of the objects of one namespace. What was used since the daemon started is in that order;
what was not, goes before it, oldest first. A use is also a short lease: for a while the object is not evicted, so that
who was told that it exists can fetch it.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable


class Uses:
    """The uses of one namespace's objects."""

    def __init__(self) -> None:
        self._used: OrderedDict[bytes, int] = OrderedDict()  # name -> when; a dict is slow to begin with its first
        self._unused: list[tuple[int, bytes]] = []  # a heap, by when they came

    def __len__(self) -> int:
        return len(self._used) + len(self._unused)

    def use(self, name: bytes, now_ms: int) -> None:
        """Takes that an object is used."""
        self._used[name] = now_ms
        self._used.move_to_end(name)

    def come(self, name: bytes, created_s: int) -> None:
        """Takes an object that was found, not put: nothing is known of its use."""
        if name not in self._used:
            heapq.heappush(self._unused, (created_s, name))

    def forget(self, name: bytes) -> None:
        """Takes that an object is no more."""
        self._used.pop(name, None)

    def is_leased(self, name: bytes, now_ms: int, lease_ms: int) -> bool:
        """Returns whether an object was used so short a time ago that it is not to be evicted."""
        used_ms = self._used.get(name)
        return used_ms is not None and now_ms - used_ms < lease_ms

    def take(self, now_ms: int, lease_ms: int) -> bytes | None:
        """Takes the least recently used name that is not leased, None if there is none.

        It is not known here any more then: who leaves the object alone for a reason that may pass has to `use` it.
        """
        while self._unused:
            _, name = heapq.heappop(self._unused)
            if name not in self._used:
                return name
        for name, used_ms in self._used.items():
            if now_ms - used_ms < lease_ms:
                return None
            del self._used[name]
            return name
        return None

    def prune(self, is_there: Callable[[bytes], bool], at_most: int) -> None:
        """Forgets names of objects that went behind our back, if there are too many names."""
        if len(self._used) + len(self._unused) > at_most:
            self._used = OrderedDict((name, used_ms) for name, used_ms in self._used.items() if is_there(name))
            self._unused = [entry for entry in self._unused if is_there(entry[1]) and entry[1] not in self._used]
            heapq.heapify(self._unused)
