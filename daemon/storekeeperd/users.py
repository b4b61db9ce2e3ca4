"""What all connections of one Unix user hold together, so that one user's cannot take what is there for all.

Pure. Owns the sums, and who goes on when they are too high. A user who is over the bound on bytes has one connection
that goes on, until it has nothing under way any more: if all of them stopped in the middle of a message, none would
ever end. The others wait until there is room again - but not with what is small, up to twice the bound: whoever wants
to know how things stand is answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SMALL_BYTES = 64 * 1024
"""What a connection may hold, or ask for, though its user holds too much."""

_NO_BOUND = 1 << 62


@dataclass(slots=True, eq=False)
class User:
    """One Unix user.

    Attributes:
        uid: who, from the kernel.
        bytes_max: what all connections may hold before only one of them goes on.
        connections: how many there are.
        handles: uploads, downloads and listings, those about to be handed out included.
        listings: of these, listings: each may hold the names of the whole store.
        held_bytes: what all connections hold in buffers, and all requests under way, those of ended ones too.
        leader: the connection that goes on though it is too much.
        waiting: connections that do not.
    """

    uid: int
    bytes_max: int = _NO_BOUND
    connections: int = 0
    handles: int = 0
    listings: int = 0
    held_bytes: int = 0
    leader: Any = None
    waiting: dict[Any, None] = field(default_factory=dict)

    def admits(self, connection: Any, more_bytes: int) -> bool:
        """Returns whether a connection may hold so many bytes; if not, it waits for `released`."""
        over = self.held_bytes - self.bytes_max
        if over <= 0 or (more_bytes <= SMALL_BYTES and over <= self.bytes_max):
            return True
        if self.leader is None:
            self.leader = connection
        if self.leader is connection:
            return True
        self.waiting[connection] = None
        return False

    def changed(self, connection: Any, more_bytes: int, idle: bool) -> None:
        """Takes that a connection holds so many bytes more; and, if it is `idle`, has nothing under way."""
        self.held_bytes += more_bytes
        if idle and self.leader is connection:
            self.leader = None

    def released(self) -> list[Any]:
        """Returns the connections that may go on now: all if there is room, the next one if nobody goes on."""
        if self.held_bytes <= self.bytes_max:
            self.leader = None
            released = list(self.waiting)
            self.waiting.clear()
            return released
        if self.leader is None and self.waiting:
            self.leader = next(iter(self.waiting))
            del self.waiting[self.leader]
            return [self.leader]
        return []

    def left(self, connection: Any) -> None:
        """Takes the end of a connection."""
        self.waiting.pop(connection, None)
        if self.leader is connection:
            self.leader = None
