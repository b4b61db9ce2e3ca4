"""How frames travel between a client and its daemon: which carrier does it, and those that are idle.

Owns the choice and the carriers at rest. A carrier is one connection, used by one call at a time: so no lock is held
while waiting, another thread never waits for it, and a `__del__` that calls the store inside a call simply takes
another carrier. After any failure a carrier is closed, not used again: a late answer can then reach nobody. Nothing of
it crosses a fork.

What the daemon holds for views (holds.py) ends with their connection, and the space of their files would count as
free. So one that has living views is not closed before the last of them ends: not for being one too many, nor with the
client.

There are two, which put the same bytes on the line: stream.py, a plain Unix socket, and dealer.py, a socket of ZeroMQ.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from storekeeper.address import Servers
from storekeeper.holds import Held, retire, send_closes
from storekeeper.stream import Stream

VARIABLE = "STOREKEEPER_CARRIER"
UNIX, ZMQ = "unix", "zmq"
_KINDS = (UNIX, ZMQ)
_IDLE_MAX = 16
"""Idle carriers that a client keeps; those of a burst of threads are closed again."""
_LIVING_MAX = 8
"""Views of one carrier; at this it rests aside. A daemon allows 16 handles a connection, and a call needs some."""


class Carrier(Protocol):
    """One connection to a daemon.

    Attributes:
        pid: of the process that made it.
        passes_descriptors: whether an answer may bring a descriptor.
        held: what the daemon holds for it while no call has it.
    """

    pid: int
    passes_descriptors: bool
    held: Held

    def send(self, frames: Sequence[Any], *, later: bool = False) -> None:
        """Queues a message to the daemon; never blocks.

        Args:
            frames: bytes-like objects, which stay as they are until the daemon has answered.
            later: whether it may wait for the next message, to go out with it.
        """

    def receive(self, deadline: float, *, copy: bool = True) -> list[Any]:
        """Returns the frames of the next message of the daemon.

        Args:
            deadline: time.monotonic() until which to wait.
            copy: bytes if true; else long frames may be the received memory itself.

        Raises:
            TimedOut: the daemon is there but sent nothing in time.
            DaemonUnreachable: the daemon went away, or was never there; a new carrier may find the next one.
        """

    def descriptor(self) -> int:
        """Returns the descriptor that came with the last message, -1 if none did. It stays the carrier's."""

    def drop_descriptors(self) -> None:
        """Closes what came."""

    def close(self) -> None:
        """Closes the connection at once; what is not sent is dropped. Does nothing in a forked child."""

    def is_whole(self) -> bool:
        """Returns whether an idle connection has not broken since it was made."""


def kind_of(carrier: str | None, address: str) -> str:
    """Returns which carrier a client takes.

    Args:
        carrier: as it was told; None for $STOREKEEPER_CARRIER, else the faster one.
        address: where the daemon is.

    Raises:
        ValueError: there is no such carrier, or it cannot go there.
    """
    local = address.startswith("ipc://")
    wanted = carrier or os.environ.get(VARIABLE) or UNIX
    if wanted not in _KINDS:
        raise ValueError(f"carrier={wanted!r}: there are {' and '.join(_KINDS)}")
    if carrier == UNIX and not local:
        raise ValueError(f"carrier={wanted!r} goes to ipc:// addresses only, not to {address}; 'zmq' goes there")
    return wanted if local else ZMQ


def _maker(kind: str) -> Callable[[str, Servers], Carrier]:
    if kind == UNIX:
        return Stream
    from storekeeper.dealer import Dealer  # whoever never needs ZeroMQ does not load it

    return Dealer


class Carriers:
    """The carriers at rest of one client, ready to be taken by its next calls. Thread-safe, fork-safe and re-entrant.

    Args:
        address: where the daemon is.
        servers: users who may serve it; nobody in particular if it is empty.
        carrier: as in `kind_of`.
    """

    def __init__(self, address: str, servers: Servers = frozenset(), carrier: str | None = None) -> None:
        self._address = address
        self._servers = servers
        self._make = _maker(kind_of(carrier, address))
        # deque.pop, append and remove are atomic and take no lock, so they are safe in a __del__ that interrupts them.
        self._idle: deque[Carrier] = deque()
        self._aside: deque[Carrier] = deque()  # not to be taken: they have many views, or are kept for views alone
        self._closed = False

    def take(self, *, alone: bool = False) -> Carrier:
        """Returns a carrier for one call: an idle one of this process, else a new one.

        Args:
            alone: one that no view lives by: who takes it may close it.
        """
        pid = os.getpid()
        while True:
            try:
                carrier = self._idle.pop()
            except IndexError:
                return self._make(self._address, self._servers)
            if carrier.pid != pid:
                continue
            if not carrier.is_whole():
                carrier.close()
            elif alone and carrier.held.living:
                self.set_aside(carrier)
            else:
                return carrier

    def give_back(self, carrier: Carrier) -> None:
        """Takes back a carrier that has no answer outstanding but to closes, and sends those that are due."""
        if len(carrier.held.living) < _LIVING_MAX and not self._closed and len(self._idle) < _IDLE_MAX:
            self._rest(carrier, self._idle)
        else:
            self.set_aside(carrier)

    def set_aside(self, carrier: Carrier) -> None:
        """Takes back a carrier that may be taken again when one of its views has ended; closes it if none lives."""
        if carrier.held.living:
            self._rest(carrier, self._aside)
        else:
            carrier.close()

    def discard(self, carrier: Carrier) -> None:
        """Takes back a carrier that failed: it is not used again."""
        retire(carrier)

    def settle(self, carrier: Carrier) -> None:
        """Sends the closes that are due of a carrier at rest; if a call has it, that call's end does. Never waits."""
        for place in (self._idle, self._aside):
            try:
                place.remove(carrier)
            except ValueError:
                continue
            self.give_back(carrier)
            return

    def close(self) -> None:
        """Closes the idle carriers, but for those by which views live: these are closed with the last of them."""
        self._closed = True
        pid = os.getpid()
        while True:
            try:
                carrier = self._idle.pop()
            except IndexError:
                return
            if carrier.pid == pid:
                self.give_back(carrier)

    def _rest(self, carrier: Carrier, place: deque[Carrier]) -> None:
        send_closes(carrier)
        place.append(carrier)
        # Whoever let go of a view, or closed the client, before this line found the carrier nowhere and left it to us;
        # whoever does so after it finds it there.
        if carrier.held.over or (self._closed and place is self._idle):
            self.settle(carrier)
