"""The shelves: memory that clients read by themselves, so that they need not ask (storekeeper/shelf.py).

Pure. Owns which namespaces have one, who is given it, how large it is, whether it is believed, and when it ends. What
stands on it is stock.py's, how it is written segment.py's.

While hits are not believed no shelf is; when something was lost an end is made of all, and of that of a namespace whose
rules change. A shelf is a cache: when keys or bytes have to go too early, a larger one takes its place. When nobody has
been there for a while who was given it, its memory is free.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from storekeeper import wire
from storekeeperd.access import READ
from storekeeperd.answers import Answer, Peer
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.operations import Outcome, Task
from storekeeperd.stock import Memory, Shelf

if TYPE_CHECKING:
    from storekeeperd.service import Service

log = logging.getLogger(__name__)

TABLE_BYTES_MIN = 64 * 1024
TABLE_BYTES_FIRST = 4 * 1024 * 1024
PARTS = 4
"""A shelf is so many times as long as its table, but for a page."""
TABLE_BYTES_PER_OBJECT = 2 * 256 // 3
"""A bucket has room for three; half of it may be taken by what exists already."""
_FILLED_MOST = 4
"""Where there are over so many times as many objects as there is room for, to go through them is of little use."""
_GROWTH = 4
_BELIEVED_S = 3.0
"""How long a shelf is believed if nothing more is heard of the daemon; it tells once a second."""
_SHELVES_MAX = 1000
"""The kernel unlocks no more than 2048 locks of a thread that dies: ROBUST_LIST_LIMIT of linux/futex.h."""
_LEFT_ALONE_TICKS = 60
_AGAIN_TICKS = 60
"""How long after there was no memory it is tried again."""
_NONE, _THERE = Outcome(b"none"), Outcome(wire.OK)


class Shelves:
    """The shelves of all namespaces.

    Args:
        service: whose verb `shelf` it is.
        index, coherence: what exists, and when that may be believed.
    """

    def __init__(self, service: Service, index: Index, coherence: Coherence) -> None:
        self._service = service
        self._index = index
        self._coherence = coherence
        self._stock = service.stock
        self._shelves = service.stock.shelves
        self._tables: dict[bytes, int] = {}  # how large the next one of a namespace is
        self._making: dict[bytes, list[Answer]] = {}
        self._taken_bytes = 0  # by all that are not released
        self._epoch = coherence.epoch
        self._resting_ticks = 0

    def __len__(self) -> int:
        return len(self._shelves)

    @property
    def taken_bytes(self) -> int:
        """Memory that they take."""
        return self._taken_bytes

    # -- the verb

    def shelf(self, peer: Peer, request: wire.Request) -> None:
        """Hands out the shelf of a namespace; the word is `none` if there is none to be had now."""
        service = self._service
        prefix = service.enter(peer, request.options, READ)
        answer = Answer(peer, request, 1)
        found = self._shelves.get(prefix)
        if found is not None and peer.passes_descriptors:
            self._hand_out(found, answer)
        elif prefix in self._making and peer.passes_descriptors:
            self._making[prefix].append(answer)
        elif self._can_make(prefix) and peer.passes_descriptors:
            self._make(prefix, answer)
        else:
            service.settle(answer, 0, _NONE)

    def _hand_out(self, found: Shelf, answer: Answer) -> None:
        if not answer.peer.gone:
            found.readers.add(answer.peer)
        answer.lends = found.memory
        self._service.settle(answer, 0, _THERE)

    def _can_make(self, prefix: bytes) -> bool:
        if self._service.outside.make_shelf is None or self._resting_ticks or not self._coherence.coherent:
            return False
        size_bytes = PARTS * self._table_bytes(prefix)
        fits = self._taken_bytes + size_bytes <= self._service.limits.shelves_bytes_max
        return size_bytes > 0 and fits and len(self._shelves) + len(self._making) < _SHELVES_MAX

    def _table_bytes(self, prefix: bytes) -> int:
        """Returns how large the table of a namespace's next shelf is: a power of two, 0 for none."""
        most = self._service.spaces[prefix].shelf_bytes_max // PARTS
        if most < TABLE_BYTES_MIN:
            return 0
        wanted = max(
            self._tables.get(prefix, TABLE_BYTES_FIRST),
            self._index.totals(prefix).objects * TABLE_BYTES_PER_OBJECT,
        )
        return min(1 << (wanted - 1).bit_length(), 1 << most.bit_length() - 1)

    def _make(self, prefix: bytes, answer: Answer) -> None:
        service, table_bytes = self._service, self._table_bytes(prefix)
        space, size_bytes = service.spaces[prefix], PARTS * table_bytes
        self._making[prefix] = [answer]
        self._taken_bytes += size_bytes
        made: list[Memory] = []

        def make() -> None:
            assert service.outside.make_shelf is not None
            made.append(service.outside.make_shelf(table_bytes))

        def came(_: Task, outcome: Outcome) -> None:
            waiting = self._making.pop(prefix)
            found = None
            if outcome.error is not None:
                self._fail(outcome.error, size_bytes)
            elif service.spaces.get(prefix) is not space:  # it was dropped meanwhile
                self._release(made[0])
            else:
                found = self._open(prefix, made[0], table_bytes)
            for one in waiting:
                if found is None:
                    service.settle(one, 0, _NONE)
                else:
                    self._hand_out(found, one)

        service.orders.order([Task(make)], [came], answer)

    def _open(self, prefix: bytes, memory: Memory, table_bytes: int) -> Shelf | None:
        try:
            memory.believe(True)  # the first time tells whether it can be at all
            believed = self._is_believable
            memory.believe(believed)
            memory.beat(self._service.outside.monotonic_s() + _BELIEVED_S)
        except OSError as error:
            self._release(memory)
            self._fail(error, 0)
            return None
        lasts: deque[tuple[int, bytes]] | None = deque() if prefix in self._service.evictions.follows else None
        waiting: list[bytes] = []
        if lasts is None and len(self._index) * TABLE_BYTES_PER_OBJECT <= _FILLED_MOST * table_bytes:
            waiting = self._index.names()
        found = Shelf(memory, table_bytes, lasts, believed, waiting)
        self._stock.add(prefix, found)
        return found

    def _fail(self, error: Exception, size_bytes: int) -> None:
        self._taken_bytes -= size_bytes
        self._resting_ticks = _AGAIN_TICKS
        log.warning("there is no memory for a shelf: %s; clients ask instead", error)

    # -- their ends

    def retire(self, prefix: bytes) -> None:
        """Makes an end of the shelf of a namespace, if it has one."""
        found = self._stock.remove(prefix)
        if found is not None:
            found.memory.retire()
            self._release(found.memory)

    def retire_all(self) -> None:
        """Makes an end of all shelves."""
        for prefix in list(self._shelves):
            self.retire(prefix)

    def close(self) -> None:
        """Makes an end of all, at once."""
        for found in self._shelves.values():
            found.memory.retire()
            found.memory.release()
        self._shelves.clear()

    def _release(self, memory: Memory) -> None:
        """Frees the memory of a shelf, which takes a while."""
        memory.retire()

        def released(_: Task, __: Outcome) -> None:
            self._taken_bytes -= memory.size_bytes

        self._service.orders.order([Task(memory.release)], [released])

    # -- time

    @property
    def _is_believable(self) -> bool:
        return self._coherence.coherent and not self._service.store_away and self._coherence.epoch == self._epoch

    def judge(self) -> None:
        """Says of all shelves whether they are believed, or makes an end of them; to be called before one waits."""
        if self._coherence.epoch != self._epoch:
            self.retire_all()
            self._epoch = self._coherence.epoch
        believed = self._is_believable
        for found in self._shelves.values():
            if found.believed != believed:
                found.believed = believed
                found.memory.believe(believed)

    def tick(self) -> None:
        """Does what is due every second."""
        self._resting_ticks = max(0, self._resting_ticks - 1)
        until_s = self._service.outside.monotonic_s() + _BELIEVED_S
        for prefix, found in list(self._shelves.items()):
            found.memory.beat(until_s)
            found.readers = {peer for peer in found.readers if not peer.gone}
            found.alone_ticks = 0 if found.readers else found.alone_ticks + 1
            if found.alone_ticks > _LEFT_ALONE_TICKS:
                self._tables.pop(prefix, None)
                self.retire(prefix)
            elif found.memory.is_small:
                self._outgrow(prefix, found)

    def _outgrow(self, prefix: bytes, found: Shelf) -> None:
        """Makes way for a larger one, if there may be one."""
        before = self._tables.get(prefix)
        self._tables[prefix] = found.table_bytes * _GROWTH
        size_bytes = PARTS * self._table_bytes(prefix)
        grows = self._table_bytes(prefix) > found.table_bytes
        if grows and self._taken_bytes - found.memory.size_bytes + size_bytes <= self._service.limits.shelves_bytes_max:
            self.retire(prefix)
        elif before is None:
            del self._tables[prefix]
        else:
            self._tables[prefix] = before
