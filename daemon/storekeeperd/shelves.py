"""What stands on the shelves: memory that clients read by themselves, so that they need not ask (storekeeper/shelf.py).

Pure. Owns which namespaces have one, what is put on it, and when it is taken off. How it is written is segment.py's.

A shelf only says what the index says, or what a read brought, and never more than that:

* An object is taken off when an operation of our own begins to change it, when anything is heard of its name, and when
  a look does not find it; all of that before anybody is told. While one of these is not over, it is not put on.
* Bytes come from a put, or from a read of a file that nobody can change in place; those of a read only if nothing was
  heard of the name since the read was ordered.
* What does not simply live on, because it expires, is tied to a process or pinned, is not on it.
* While hits are not believed the shelf is not either; when something was lost an end is made of it, and of that of a
  namespace whose rules change.
* Where room is made by use, nobody tells of the reads from the shelf. So an object is put on it by a read alone, and
  taken off after half a lease; that counts as a use, so that whoever has just seen it can fetch it for a lease longer.

A shelf is a cache: when keys or bytes have to go too early, a larger one takes its place, empty. When nobody has been
there for a while who was given it, its memory is free.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from storekeeper import wire
from storekeeperd.access import READ
from storekeeperd.answers import Answer, Peer
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.operations import Get, Outcome, Put, Task
from storekeeperd.sight import LIFE_AT, size_of

if TYPE_CHECKING:
    from storekeeperd.service import Service

log = logging.getLogger(__name__)

TABLE_BYTES_MIN = 64 * 1024
TABLE_BYTES_FIRST = 1024 * 1024
PARTS = 4
"""A shelf is so many times as long as its table, but for a page."""
DATA_BYTES_MAX = TABLE_BYTES_MIN
"""Bytes of an object that are put on: a few of them fit into the least of rings."""
_GROWTH = 4
_BELIEVED_S = 3.0
"""How long a shelf is believed if nothing more is heard of the daemon; it tells once a second."""
_SHELVES_MAX = 1000
"""The kernel unlocks no more than 2048 locks of a thread that dies: ROBUST_LIST_LIMIT of linux/futex.h."""
_LEFT_ALONE_TICKS = 60
_AGAIN_TICKS = 60
"""How long after there was no memory it is tried again."""
_NONE, _THERE = Outcome(b"none"), Outcome(wire.OK)
_PUT = (b"created", b"replaced")


class Memory(Protocol):
    """The memory of a shelf, as segment.Segment."""

    size_bytes: int
    descriptor: int

    @property
    def is_small(self) -> bool:
        """Whether a larger one would be of use."""

    def believe(self, believed: bool) -> None:
        """Says whether what stands here is true."""

    def beat(self, until_s: float) -> None:
        """Says until when it is believed, if nothing more is heard."""

    def enter(self, key: bytes, data: Any = None) -> bool:
        """Puts down that an object exists, with its bytes if they are given; returns whether that was news."""

    def keeps(self, key: bytes) -> bool:
        """Returns whether an object is on with its bytes, and these will not be overwritten soon."""

    def withdraw(self, key: bytes) -> None:
        """Takes an object off, if it is on."""

    def retire(self) -> None:
        """Makes an end of it."""

    def release(self) -> None:
        """Frees what it takes."""


@dataclass(slots=True, eq=False)
class _Shelf:
    """One shelf.

    Attributes:
        memory: what it is written to.
        table_bytes: how large it is.
        lasts: when what was put on by reads is taken off, where room is made by use: moments and keys, in order.
        believed: whether it says that it is to be believed.
        readers: connections that were given it.
        alone_ticks: for how long none of them is there any more.
    """

    memory: Memory
    table_bytes: int
    lasts: deque[tuple[int, bytes]] | None
    believed: bool
    readers: set[Peer] = field(default_factory=set)
    alone_ticks: int = 0


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
        self._shelves: dict[bytes, _Shelf] = {}
        self._tables: dict[bytes, int] = {}  # how large the next one of a namespace is
        self._making: dict[bytes, list[Answer]] = {}
        self._taken_bytes = 0  # by all that are not released
        self._expected: dict[bytes, Get] = {}  # reads under way since which nothing was heard of a name
        self._epoch = coherence.epoch
        self._resting_ticks = 0
        self._residence_ms = int(service.limits.lease_s * 500)

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self._shelves

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

    def _hand_out(self, found: _Shelf, answer: Answer) -> None:
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
        return min(self._tables.get(prefix, TABLE_BYTES_FIRST), 1 << most.bit_length() - 1)

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

    def _open(self, prefix: bytes, memory: Memory, table_bytes: int) -> _Shelf | None:
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
        found = self._shelves[prefix] = _Shelf(memory, table_bytes, lasts, believed)
        self._changed()
        return found

    def _fail(self, error: Exception, size_bytes: int) -> None:
        self._taken_bytes -= size_bytes
        self._resting_ticks = _AGAIN_TICKS
        log.warning("there is no memory for a shelf: %s; clients ask instead", error)

    # -- what is put on

    def put(self, operation: Put, outcome: Outcome) -> None:
        """Takes that an object was put."""
        found = self._shelf_of(operation.name)
        if found is not None and found.lasts is None and outcome.word in _PUT:
            self._enter(found, operation.name, operation.payload)

    def expect(self, operation: Get) -> None:
        """Takes that an object is about to be read.

        What is being changed is not expected: it may be read as it was, and the end of the change tells nobody.
        """
        if self._coherence.is_settled(operation.name):
            self._expected[operation.name] = operation

    def got(self, operation: Get, outcome: Outcome) -> None:
        """Takes what a read brought."""
        name = operation.name
        if self._expected.get(name) is not operation:
            return
        del self._expected[name]
        found = self._shelf_of(name)
        if found is None or outcome.word != wire.OK or not outcome.sealed:
            return
        if not found.memory.keeps(_key_of(name)):  # it may be: who reads has no shelf perhaps
            self._enter(found, name, outcome.payload)

    def note(self, name: bytes) -> None:
        """Takes that somebody was told that an object exists."""
        found = self._shelf_of(name)
        if found is not None:
            self._enter(found, name, None)

    def _shelf_of(self, name: bytes) -> _Shelf | None:
        return self._shelves.get(name[: name.index(b"/") + 1] if b"/" in name else b"")

    def _enter(self, found: _Shelf, name: bytes, data: Any) -> None:
        seen = self._index.seen(name)
        if seen is None or not self._coherence.coherent or not self._coherence.is_settled(name):
            return
        if seen < 0:  # nobody has looked whether it ends of itself
            if data is not None or self._service.keeps_lives:
                return
        elif seen >> LIFE_AT or (data is not None and size_of(seen) != len(data)):
            return
        if name in self._service.lifetimes.ended:
            return
        if data is not None and len(data) > DATA_BYTES_MAX:
            data = None
        if found.memory.enter(_key_of(name), data) and found.lasts is not None:
            found.lasts.append((self._service.now_ms + self._residence_ms, name))

    # -- what is taken off

    def withdraw(self, name: bytes) -> None:
        """Takes an object off: it is being changed, or something was heard of its name."""
        self._expected.pop(name, None)
        if b"/" in name:
            place = name.index(b"/") + 1
            found = self._shelves.get(name[:place])
            if found is not None:
                found.memory.withdraw(name[place:])
        else:
            found = self._shelves.get(b"")
            if found is not None:
                found.memory.withdraw(name)

    def retire(self, prefix: bytes) -> None:
        """Makes an end of the shelf of a namespace, if it has one."""
        found = self._shelves.pop(prefix, None)
        if found is not None:
            found.memory.retire()
            for _, name in found.lasts or ():
                self._use(prefix, name)
            self._release(found.memory)
            self._changed()

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

    def _changed(self) -> None:
        """Sees to it that everybody tells us who has to, and nobody else."""
        self._expected.clear()  # nothing was heard while there was none
        self._coherence.withdraw = self.withdraw if self._shelves else None
        self._service.mind()

    # -- time

    @property
    def _is_believable(self) -> bool:
        return self._coherence.coherent and not self._service.store_away and self._coherence.epoch == self._epoch

    def turn(self, now_ms: int) -> None:
        """Takes off what has been on for long enough, where room is made by use; before room is made."""
        for prefix, found in self._shelves.items():
            lasts = found.lasts
            while lasts and lasts[0][0] <= now_ms:
                _, name = lasts.popleft()
                self.withdraw(name)
                self._use(prefix, name)

    def _use(self, prefix: bytes, name: bytes) -> None:
        """Takes that an object that was on the shelf until now may just have been seen there."""
        if self._index.has(name):
            self._service.evictions.use(prefix, name)

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

    def _outgrow(self, prefix: bytes, found: _Shelf) -> None:
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


def _key_of(name: bytes) -> bytes:
    return name[name.index(b"/") + 1 :] if b"/" in name else name
