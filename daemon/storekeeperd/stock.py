"""What stands on the shelves: what is put on, and what is taken off; where there are any is shelves.py's to say.

Pure. Owns the rules. A shelf only says what the index says, or what a read brought, and never more than that:

* An object is taken off when an operation of our own begins to change it, when anything is heard of its name, and when
  a look does not find it; all of that before anybody is told. While one of these is not over, it is not put on.
* Bytes come from a put, or from a read of a file that nobody can change in place; those of a read only if nothing was
  heard of the name since the read was ordered.
* What does not simply live on, because it expires, is tied to a process or pinned, is not on it.
* Where room is made by use, nobody tells of the reads from the shelf. So an object is put on it by a read alone, and
  taken off after half a lease; that counts as a use, so that whoever has just seen it can fetch it for a lease longer.
* A new shelf is filled with what exists, as far as it has room to spare, some names in each turn of the loop.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from storekeeper import wire
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index
from storekeeperd.operations import Get, Outcome, Put
from storekeeperd.sight import LIFE_AT, size_of

if TYPE_CHECKING:
    from storekeeperd.service import Service

DATA_BYTES_MAX = 64 * 1024
"""Bytes of an object that are put on: a few of them fit into the least of rings."""
_FILLED_PER_TURN = 128
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

    def enter(self, key: bytes, data: Any = None, *, spare: bool = False) -> bool:
        """Puts down that an object exists, with its bytes if they are given; returns whether that was news.

        `spare`: only if no other has to go for it.
        """

    def keeps(self, key: bytes) -> bool:
        """Returns whether an object is on with its bytes, and these will not be overwritten soon."""

    def withdraw(self, key: bytes) -> None:
        """Takes an object off, if it is on."""

    def retire(self) -> None:
        """Makes an end of it."""

    def release(self) -> None:
        """Frees what it takes."""


@dataclass(slots=True, eq=False)
class Shelf:
    """One shelf.

    Attributes:
        memory: what it is written to.
        table_bytes: how large it is.
        lasts: when what was put on by reads is taken off, where room is made by use: moments and keys, in order.
        waiting: names that are put on while there is room to spare, and nobody has asked for them.
        believed: whether it says that it is to be believed.
        readers: connections that were given it.
        alone_ticks: for how long none of them is there any more.
    """

    memory: Memory
    table_bytes: int
    lasts: deque[tuple[int, bytes]] | None
    believed: bool
    waiting: list[bytes]
    readers: set[Peer] = field(default_factory=set)
    alone_ticks: int = 0


class Stock:
    """What stands on the shelves.

    Args:
        service: whose namespaces they are.
        index, coherence: what exists, and when that may be believed.

    Attributes:
        shelves: those that there are, by namespace.
    """

    def __init__(self, service: Service, index: Index, coherence: Coherence) -> None:
        self._service = service
        self._index = index
        self._coherence = coherence
        self.shelves: dict[bytes, Shelf] = {}
        self._expected: dict[bytes, Get] = {}  # reads under way since which nothing was heard of a name
        self._residence_ms = int(service.limits.lease_s * 500)

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self.shelves

    def add(self, prefix: bytes, found: Shelf) -> None:
        """Begins with a shelf."""
        self.shelves[prefix] = found
        self._changed()

    def remove(self, prefix: bytes) -> Shelf | None:
        """Ends with the shelf of a namespace, and returns it, if it has one."""
        found = self.shelves.pop(prefix, None)
        if found is not None:
            for _, name in found.lasts or ():
                self._use(prefix, name)
            self._changed()
        return found

    def _changed(self) -> None:
        """Sees to it that everybody tells us who has to, and nobody else."""
        self._expected.clear()  # nothing was heard while there was none
        self._coherence.withdraw = self.withdraw if self.shelves else None
        self._service.mind()

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

    def _shelf_of(self, name: bytes) -> Shelf | None:
        return self.shelves.get(name[: name.index(b"/") + 1] if b"/" in name else b"")

    def _enter(self, found: Shelf, name: bytes, data: Any, *, spare: bool = False) -> None:
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
        if found.memory.enter(_key_of(name), data, spare=spare) and found.lasts is not None:
            found.lasts.append((self._service.now_ms + self._residence_ms, name))

    # -- what is taken off

    def withdraw(self, name: bytes) -> None:
        """Takes an object off: it is being changed, or something was heard of its name.

        What is not in the index is not on a shelf: this is called before a name leaves it.
        """
        self._expected.pop(name, None)
        if not self._index.has(name):
            return
        if b"/" in name:
            place = name.index(b"/") + 1
            found = self.shelves.get(name[:place])
            if found is not None:
                found.memory.withdraw(name[place:])
        else:
            found = self.shelves.get(b"")
            if found is not None:
                found.memory.withdraw(name)

    # -- time

    def turn(self, now_ms: int) -> bool:
        """Takes off what has been on for long enough, where room is made by use; before room is made.

        Fills those that are new, too; returns whether there is more to fill.
        """
        for prefix, found in self.shelves.items():
            if found.waiting:
                self._fill(prefix, found)
            lasts = found.lasts
            while lasts and lasts[0][0] <= now_ms:
                _, name = lasts.popleft()
                self.withdraw(name)
                self._use(prefix, name)

        return any(found.waiting for found in self.shelves.values())

    def _fill(self, prefix: bytes, found: Shelf) -> None:
        """Puts some more of what exists on a new shelf."""
        names = found.waiting[-_FILLED_PER_TURN:]
        del found.waiting[-_FILLED_PER_TURN:]
        for name in names:
            if name.startswith(prefix) if prefix else b"/" not in name:
                self._enter(found, name, None, spare=True)

    def _use(self, prefix: bytes, name: bytes) -> None:
        """Takes that an object that was on the shelf until now may just have been seen there."""
        if self._index.has(name):
            self._service.evictions.use(prefix, name)


def _key_of(name: bytes) -> bytes:
    return name[name.index(b"/") + 1 :] if b"/" in name else name
