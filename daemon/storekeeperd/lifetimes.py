"""When objects end of themselves: they expire, or the process that they are tied to is gone.

Pure. Owns who ends when. What an object's lifetime is stands in its sight, which the index has; here is only the order
of the ends. An end that was moved (touch, a new object, a pin) leaves an old note behind, which is held against the
index when its time comes; there are never many more of them than of the others. From the moment it ends an object is
no more to any reader, though its file may be there for a while: `ended` has its name until it is removed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from storekeeperd.index import Index
from storekeeperd.sight import ABSENT, TIED, expires_of, is_pinned, process_of

EXPIRED, PROCESS = "expired", "process"
"""Why an object ended."""
NEVER = 1 << 62

_OLD_MIN = 1000
_TIED_AT_ONCE = 1000


class Lifetimes:
    """The ends of one index's objects.

    Args:
        index: what is there; its `on_life` is taken.

    Attributes:
        ended: why each object that is no more has ended, until it is removed.
        fresh: names of those that nobody has taken yet, to remove them.
        alarm_ms: when the next object may expire, in milliseconds of CLOCK_BOOTTIME; NEVER if none does.
        begun: processes that objects were tied to since this was emptied last: somebody has to see when they end.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._ends: dict[bytes, list[tuple[int, bytes]]] = {}  # heaps, by namespace
        self._noted: dict[bytes, int] = {}  # the end that a heap has of each name
        self._old: dict[bytes, int] = {}  # how many notes of a heap are not so any more, about
        self._tied: dict[int, dict[bytes, None]] = {}  # by process
        self._ending: deque[tuple[int, dict[bytes, None]]] = deque()  # the same, of processes that have ended
        self.ended: dict[bytes, str] = {}
        self._ended_as: dict[bytes, int] = {}  # their sights, where the end was of themselves
        self.fresh: deque[bytes] = deque()
        self.alarm_ms = NEVER
        self.begun: list[int] = []
        index.on_life = self.note

    def note(self, name: bytes, seen: int, was: int = ABSENT) -> None:
        """Takes the sight of an object that expires, is tied to a process, or is pinned; or was, by the sight before.

        What was noted of it before, and is not so any more, is forgotten.
        """
        expires_ms = expires_of(seen) if seen >= 0 else 0
        noted = self._noted.get(name, 0)
        if noted != expires_ms:
            prefix = name[: name.index(b"/") + 1] if b"/" in name else b""
            heap = self._ends.get(prefix)
            if heap is None:
                heap = self._ends[prefix] = []
            if expires_ms:
                self._noted[name] = expires_ms
                heapq.heappush(heap, (expires_ms, name))
                self.alarm_ms = min(self.alarm_ms, expires_ms)
            else:
                del self._noted[name]
            if noted:
                self._tidy(prefix, heap)
        if seen < TIED and was < TIED:
            return
        process, before = process_of(seen), process_of(was)
        if before != process and before in self._tied:
            self._tied[before].pop(name, None)
        if process:
            if process not in self._tied:
                self._tied[process] = {}
                self.begun.append(process)
            self._tied[process][name] = None

    def _tidy(self, prefix: bytes, heap: list[tuple[int, bytes]]) -> None:
        """Takes one old note more; forgets all of a namespace when they are as many as the others."""
        old = self._old[prefix] = self._old.get(prefix, 0) + 1
        if old > _OLD_MIN + len(heap) // 2:
            noted = self._noted
            heap[:] = {entry for entry in heap if noted.get(entry[1]) == entry[0]}
            heapq.heapify(heap)
            self._old[prefix] = 0

    def expire(self, now_ms: int, limit: int) -> int:
        """Takes the time: what expires by now has ended, and what was tied to processes that have.

        At most `limit` notes at once; returns how many it read.
        """
        read = 0
        for heap in self._ends.values():
            while heap and heap[0][0] <= now_ms and read < limit:
                expires_ms, name = heapq.heappop(heap)
                read += 1
                if self._noted.get(name) == expires_ms:
                    del self._noted[name]
                seen = self._index.seen(name)
                if seen is not None and seen >= 0 and expires_of(seen) == expires_ms:
                    self._end(name, seen, EXPIRED)
        read += self._end_tied(limit - read)
        soonest = min((heap[0][0] for heap in self._ends.values() if heap), default=NEVER)
        self.alarm_ms = 0 if self._ending else soonest
        return read

    def end_process(self, process: int) -> None:
        """Takes that a process has ended, and with it what was tied to it; `expire` goes through that."""
        names = self._tied.pop(process, None)
        if names:
            self._ending.append((process, names))
            self.alarm_ms = 0
            self._end_tied(_TIED_AT_ONCE)

    def _end_tied(self, limit: int) -> int:
        """Goes through some of what was tied to processes that have ended; returns how many names it read."""
        read = 0
        while self._ending and read < limit:
            process, names = self._ending[0]
            if not names:
                self._ending.popleft()
                continue
            name, _ = names.popitem()
            read += 1
            seen = self._index.seen(name)
            if seen is not None and process_of(seen) == process and not is_pinned(seen):
                self._end(name, seen, PROCESS)
        return read

    def is_tied(self, process: int) -> bool:
        """Returns whether anything is tied to a process. Forgets it if not."""
        if self._tied.get(process):
            return True
        self._tied.pop(process, None)
        return False

    def settle(self, name: bytes, seen: int | None = None) -> None:
        """Takes that an object which had ended was removed; with its sight, not if another one ended there since."""
        if seen is None or self._ended_as.get(name, seen) == seen:
            self.ended.pop(name, None)
            self._ended_as.pop(name, None)

    def revise(self, name: bytes) -> None:
        """Takes that what stands under a name may be another object by now, or the same with another lifetime.

        Then what has ended is not this one; when this one ends is noted anew.
        """
        was = self._ended_as.get(name)
        if was is None:
            return
        seen = self._index.seen(name)
        if seen != was:
            self.settle(name)
            if seen is not None and seen >= 0:
                self.note(name, seen)

    def soonest(self, prefix: bytes) -> Iterator[bytes]:
        """Yields names of a namespace that expire, soonest first; each is not noted any more.

        Who takes a name and leaves its object alone has to `note` it again.
        """
        heap = self._ends.get(prefix, [])
        while heap:
            expires_ms, name = heapq.heappop(heap)
            if self._noted.get(name) == expires_ms:
                del self._noted[name]
            if self._expires(name) == expires_ms:
                yield name

    def _end(self, name: bytes, seen: int, cause: str) -> None:
        if name not in self.ended:
            self.ended[name] = cause
            self._ended_as[name] = seen
            self.fresh.append(name)

    def _expires(self, name: bytes) -> int:
        seen = self._index.seen(name)
        return expires_of(seen) if seen is not None and seen >= 0 else 0
