"""How frames travel between a client and its daemon: which carrier does it, and those that are idle.

Owns the choice and the idle carriers. A carrier is one connection, used by one call at a time: so no lock is held while
waiting, another thread never waits for it, and a `__del__` that calls the store inside a call simply takes another
carrier. After any failure a carrier is closed, not used again: a late answer can then reach nobody. Nothing of it
crosses a fork.

There are two, which put the same bytes on the line: stream.py, a plain Unix socket, and dealer.py, a socket of ZeroMQ.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from storekeeper.address import Servers
from storekeeper.stream import Stream

VARIABLE = "STOREKEEPER_CARRIER"
UNIX, ZMQ = "unix", "zmq"
_KINDS = (UNIX, ZMQ)
_IDLE_MAX = 16
"""Idle carriers that a client keeps; those of a burst of threads are closed again."""


class Carrier(Protocol):
    """One connection to a daemon.

    Attributes:
        pid: of the process that made it.
        passes_descriptors: whether an answer may bring a descriptor.
    """

    pid: int
    passes_descriptors: bool

    def send(self, frames: Sequence[Any]) -> None:
        """Queues a message to the daemon; never blocks.

        Args:
            frames: bytes-like objects, which stay as they are until the daemon has answered.
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
    """The idle carriers of one client, ready to be taken by its next calls. Thread-safe, fork-safe and re-entrant.

    Args:
        address: where the daemon is.
        servers: users who may serve it; nobody in particular if it is empty.
        carrier: as in `kind_of`.
    """

    def __init__(self, address: str, servers: Servers = frozenset(), carrier: str | None = None) -> None:
        self._address = address
        self._servers = servers
        self._make = _maker(kind_of(carrier, address))
        # deque.pop and append are atomic and take no lock, so they are safe in a __del__ that interrupts them.
        self._idle: deque[Carrier] = deque()

    def take(self) -> Carrier:
        """Returns a carrier for one call: an idle one of this process, else a new one."""
        pid = os.getpid()
        while True:
            try:
                carrier = self._idle.pop()
            except IndexError:
                return self._make(self._address, self._servers)
            if carrier.pid != pid:
                continue
            if carrier.is_whole():
                return carrier
            carrier.close()

    def give_back(self, carrier: Carrier) -> None:
        """Takes back a carrier that has no answer outstanding."""
        if len(self._idle) < _IDLE_MAX:
            self._idle.append(carrier)
        else:
            carrier.close()

    def close(self) -> None:
        """Closes the idle carriers."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return
