"""Handles: by what name a peer calls its uploads, downloads and listings, and how many there may be.

Pure. A handle belongs to one connection and dies with it, or when nobody has used it for long. What it stands for, and
what its end means, is transfers.py's and listings.py's.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

from storekeeper import wire
from storekeeper.errors import BadHandle, BadRequest, Busy, TooMany
from storekeeperd.answers import Peer
from storekeeperd.config import Limits
from storekeeperd.selection import Listing

log = logging.getLogger(__name__)


class Handles:
    """The handles of all peers.

    Args:
        limits: how many there may be, and how long one may be left alone.
        end: called with what a handle stood for when it ends of itself, or with its connection.

    Attributes:
        taken: how many there are, those about to be handed out included.
    """

    def __init__(self, limits: Limits, end: Callable[[Any], None]) -> None:
        self._limits = limits
        self._end = end
        self._last = 0
        self._now = 0.0
        self._used: dict[bytes, tuple[Peer, float]] = {}  # least recently used first
        self.taken = 0

    def forget(self, peer: Peer) -> None:
        """Ends everything a closed connection held."""
        for handle in list(peer.handles):
            self._end(self.take_back(peer, handle))

    def reserve(self, peer: Peer) -> None:
        """Takes a place for a handle; `hand_out` or `give_up` must follow. Raises `TooMany`."""
        limits = self._limits
        if len(peer.handles) + peer.opening >= limits.peer_handles_max:
            raise TooMany(
                f"a connection has at most {limits.peer_handles_max} uploads, downloads and listings; "
                "end one of them first"
            )
        if peer.user.handles >= limits.user_handles_max:
            raise Busy(
                f"uid {peer.uid} has {limits.user_handles_max} uploads, downloads and listings, "
                "as many as one user may; try again in a moment"
            )
        if self.taken >= limits.handles_max:
            raise Busy(f"all {limits.handles_max} uploads, downloads and listings are taken; try again in a moment")
        peer.opening += 1
        peer.user.handles += 1
        self.taken += 1

    def give_up(self, peer: Peer) -> None:
        """Gives a reserved place back."""
        peer.opening -= 1
        peer.user.handles -= 1
        self.taken -= 1

    def hand_out(self, peer: Peer, transfer: Any, *, lasting: bool = False) -> bytes:
        """Uses a reserved place; returns the handle. A lasting one may be left alone while its connection is there."""
        peer.opening -= 1
        self._last += 1
        handle = str(self._last).encode()
        peer.handles[handle] = transfer
        peer.user.listings += isinstance(transfer, Listing)
        if not lasting:
            self._used[handle] = peer, self._now
        return handle

    def take_back(self, peer: Peer, handle: wire.Frame) -> Any:
        """Ends a handle; returns what it stood for."""
        self.taken -= 1
        peer.user.handles -= 1
        self._used.pop(bytes(handle), None)
        transfer = peer.handles.pop(bytes(handle))
        peer.user.listings -= isinstance(transfer, Listing)
        return transfer

    def find(self, peer: Peer, handle: wire.Frame, kinds: Any) -> Any:
        """Returns what a handle stands for; raises `BadHandle` if it is none of those kinds."""
        key = bytes(handle[:20])
        transfer = peer.handles.get(key)
        if not isinstance(transfer, kinds):
            raise BadHandle(
                "this connection has no such handle; handles end with their connection, "
                f"and when they were not used for {self._limits.handle_idle_s:g} s"
            )
        if self._used.pop(key, None) is not None:  # to the end
            self._used[key] = peer, self._now
        return transfer

    def expire(self, now: float) -> None:
        """Ends what was not used for too long: an upload keeps space on the disk, a listing memory.

        Args:
            now: seconds, monotonic; to be called about once a second.
        """
        # What was used since the last call has that one's time.
        oldest, self._now = self._now - self._limits.handle_idle_s, now
        for handle, (peer, used) in list(itertools.takewhile(lambda item: item[1][1] < oldest, self._used.items())):
            transfer = peer.handles[handle]
            if getattr(transfer, "ranges", 0):  # it is in use
                del self._used[handle]
                self._used[handle] = peer, now
            else:
                log.info("ended a handle of uid %d pid %d, unused for %.0f s", peer.uid, peer.pid, now - used)
                self._end(self.take_back(peer, handle))


def arguments(request: wire.Request, count: int) -> list[wire.Frame]:
    """Returns the arguments of a request; raises `BadRequest` unless there are so many."""
    if len(request.arguments) != count:
        verb = request.verb
        raise BadRequest(f"{verb.decode()} takes as arguments: {wire.ARGUMENTS[verb]}")
    return request.arguments
