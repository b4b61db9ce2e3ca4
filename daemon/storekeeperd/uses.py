"""When objects were used last, where that decides what goes first.

Pure. Owns the order of use of the objects of one namespace. What was used since the daemon started is in that order;
what was not, goes before it, oldest first. A use is also a short lease: for a while the object is not evicted, so that
who was told that it exists can fetch it.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable

from storekeeperd.sight import created_of


class Uses:
    """The uses of one namespace's objects.

    Attributes:
        news: objects that came and nobody has thought of yet, with their sights; whoever sees them come adds them. Most
            were just put, and are known to be used when it first matters.
    """

    def __init__(self) -> None:
        # Those whose first name is taken again and again: a dict would look for it from its beginning.
        self._read: OrderedDict[bytes, int] = OrderedDict()  # name -> when; leased for a while
        self._put: OrderedDict[bytes, int] = OrderedDict()  # the same, of those that were only put
        self._unused: list[tuple[int, bytes]] = []  # a heap, by when they came
        self.news: list[tuple[bytes, int]] = []

    def __len__(self) -> int:
        return len(self._read) + len(self._put) + len(self._unused) + len(self.news)

    def use(self, name: bytes, now_ms: int, *, lease: bool = True) -> None:
        """Takes that an object is used: read or said to be there, which is a lease, or put, which is none."""
        read, put = self._read, self._put
        if name in read:  # who was told that it is there fetches what took its place: a lease, too
            read[name] = now_ms
            read.move_to_end(name)
            return
        if name in put:
            del put[name]
        (read if lease else put)[name] = now_ms

    def restore(self, name: bytes, now_ms: int) -> None:
        """Takes back a name that was taken, unless its object was used since."""
        if name not in self._read and name not in self._put:
            self._put[name] = now_ms

    def _take_news(self) -> None:
        """Sorts in what came, and was not used since: it was found, not put."""
        for name, seen in self.news:
            if name not in self._read and name not in self._put:
                heapq.heappush(self._unused, (created_of(seen), name))
        self.news.clear()

    def is_leased(self, name: bytes, now_ms: int, lease_ms: int) -> bool:
        """Returns whether an object was used so short a time ago that it is not to be evicted."""
        used_ms = self._read.get(name)
        return used_ms is not None and now_ms - used_ms < lease_ms

    def take(self, now_ms: int, lease_ms: int) -> bytes | None:
        """Takes the least recently used name that is not leased, None if there is none.

        It is not known here any more then: who leaves the object alone for a reason that may pass has to `use` it.
        """
        if self.news:
            self._take_news()
        while self._unused:
            _, name = heapq.heappop(self._unused)
            if name not in self._read and name not in self._put:
                return name
        read = next(iter(self._read.items()), None)
        put = next(iter(self._put.items()), None)
        if read is not None and now_ms - read[1] >= lease_ms and (put is None or read[1] <= put[1]):
            del self._read[read[0]]
            return read[0]
        if put is not None:
            del self._put[put[0]]
            return put[0]
        return None

    def prune(self, is_there: Callable[[bytes], bool], at_most: int) -> None:
        """Forgets names of objects that went behind our back, if there are too many names."""
        if len(self) > at_most:
            self._take_news()
            self._read = OrderedDict(item for item in self._read.items() if is_there(item[0]))
            self._put = OrderedDict(item for item in self._put.items() if is_there(item[0]))
            known = self._read.keys() | self._put.keys()
            self._unused = [entry for entry in self._unused if is_there(entry[1]) and entry[1] not in known]
            heapq.heapify(self._unused)
