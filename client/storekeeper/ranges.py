"""Large objects: moved in ranges over one exchange, several ranges under way, so that neither side holds much.

Owns the window and the order of the ranged verbs. An upload that is interrupted leaves nothing behind: the daemon
forgets it with the connection.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from storekeeper import wire
from storekeeper.errors import StorekeeperError, from_wire
from storekeeper.exchange import Exchange

WINDOW = 4
"""Ranges under way: enough to keep both sides busy (2 stall, 8 gain nothing, measured)."""

_PART_BYTES = 16 * 1024 * 1024
"""Written at once into a file of the daemon's."""

Progress = Callable[[int], None]
"""Called with the number of bytes that have just been moved."""


Sink = Callable[[int, memoryview], None]
"""Called with the place of a part in the object, and the part, which is only valid during the call."""

Begin = Callable[[int], Sink]
"""Called with the size of an object that is about to arrive; again if it has to begin anew. Gives the sink."""


def nothing(_: int) -> None:
    """Progress that nobody watches."""


class Torn(Exception):  # not an error of the store: the call must not be made again for it
    """The daemon went away when some of an object was written already to where it cannot be taken back."""


def in_order(target: BinaryIO) -> Begin:
    """Returns what takes an object's parts as they come, and writes them to a stream in their order."""
    waiting: dict[int, bytes] = {}
    place = 0

    def begin(_: int) -> Sink:
        if place:
            raise Torn
        waiting.clear()
        return keep

    def keep(start: int, part: memoryview) -> None:
        nonlocal place
        waiting[start] = bytes(part)
        while place in waiting:
            block = waiting.pop(place)
            left = memoryview(block)
            while left:
                count = target.write(left)
                if count is None:
                    raise BlockingIOError(errno.EAGAIN, "the file takes no more without waiting")
                left = left[count:]
            place += len(block)

    return begin


def upload(
    exchange: Exchange,
    key: bytes,
    data: memoryview,
    options: Mapping[str, Any],
    progress: Progress = nothing,
) -> wire.Reply:
    """Sends an object in ranges; returns the reply to its commit.

    Raises:
        StorekeeperError: the daemon refused it; nothing was stored.
    """
    size = len(data)
    asked = {**options, "size": size}
    if exchange.passes_descriptors:
        asked["descriptor"] = True
    begun = exchange.ask(b"upload", [key], asked)
    descriptor = exchange.descriptor()
    check_item(begun)
    handle = begun.details["handle"].encode()
    exchange.allow(size)
    if descriptor >= 0:
        error = _fill(descriptor, data, progress)
        exchange.drop_descriptors()  # it is published when nobody can write to it any more
        if error is not None:
            exchange.ask(b"abort", [handle])
            raise error
        return exchange.ask(b"commit", [handle, b"%d" % size])
    sent = acknowledged = 0
    try:
        while acknowledged < size:
            while sent < size and sent - acknowledged < WINDOW * wire.RANGE_BYTES:
                part = data[sent : sent + wire.RANGE_BYTES]
                exchange.send(b"write", [handle, b"%d" % sent, part])
                sent += len(part)
            check_item(exchange.receive())
            moved = min(wire.RANGE_BYTES, size - acknowledged)
            acknowledged += moved
            progress(moved)
    except StorekeeperError as error:
        _give_up(exchange, error, b"abort", handle)
        raise
    return exchange.ask(b"commit", [handle, b"%d" % size])


def _fill(descriptor: int, data: memoryview, progress: Progress) -> StorekeeperError | None:
    """Writes an object into the file that the daemon has lent; returns why it could not."""
    place = 0
    while place < len(data):
        try:
            written = os.pwrite(descriptor, data[place : place + _PART_BYTES], place)
        except OSError as error:
            code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk_failed"
            cure = "free some space or quota and try again" if code == "disk_full" else "see to the disk"
            return from_wire(code, f"{error.strerror}; nothing was stored: {cure}")
        place += written
        progress(written)
    return None


class Download:
    """An object that is fetched in ranges; it stays the same object whatever happens to its key meanwhile.

    Args:
        exchange: over which it comes.
        key: which one.
        options: the namespace, if it is not the default one.

        descriptor: whether to ask for one, where the carrier passes them.

    Attributes:
        size: of the object in bytes; None if there is none.
        handle: by which the daemon knows it, if there is one.
        descriptor: of the object's file, for reading; -1 if none came. Whoever asked for it closes it.
    """

    def __init__(self, exchange: Exchange, key: bytes, options: Mapping[str, Any], *, descriptor: bool = False) -> None:
        self._exchange = exchange
        if descriptor and exchange.passes_descriptors:
            options = {**options, "descriptor": True}
        opened = exchange.ask(b"open", [key], options)
        self.descriptor = exchange.descriptor()
        check_item(opened)
        self.size: int | None = None
        if opened.words != ["absent"]:
            self.size = int(opened.details["size"])
            self.handle: bytes = opened.details["handle"].encode()

    def fetch(self, begin: Begin, progress: Progress = nothing) -> None:
        """Fetches all of it: `begin` is told the size and gives the sink that gets each part with its place."""
        assert self.size is not None
        exchange, size = self._exchange, self.size
        exchange.allow(size)
        try:
            self._fetch_all(begin(size), progress)
        except StorekeeperError as error:
            _give_up(exchange, error, b"close", self.handle)
            raise
        exchange.ask(b"close", [self.handle])

    def _fetch_all(self, sink: Sink, progress: Progress) -> None:
        assert self.size is not None
        exchange, size = self._exchange, self.size
        starts: dict[bytes, int] = {}
        asked = received = 0
        while received < size:
            while asked < size and asked - received < WINDOW * wire.RANGE_BYTES:
                length = min(wire.RANGE_BYTES, size - asked)
                request_id = exchange.send(b"read", [self.handle, b"%d" % asked, b"%d" % length])
                starts[request_id] = asked
                asked += length
            reply = exchange.receive(copy=False)
            check_item(reply)
            part = memoryview(reply.payloads[0])
            start = starts.pop(reply.id)
            if len(part) != min(wire.RANGE_BYTES, size - start):
                raise from_wire("disk_failed", "the object became shorter while it was read")
            sink(start, part)
            received += len(part)
            progress(len(part))


def _give_up(exchange: Exchange, error: StorekeeperError, verb: bytes, handle: bytes) -> None:
    """Ends a transfer that was refused in the middle, so that the carrier can serve the next call.

    After an error of the line itself the carrier is closed anyway, and the transfer with it.
    """
    if error.code not in ("timed_out", "unreachable", "protocol"):
        exchange.drain()
        exchange.ask(verb, [handle])


def check_item(reply: wire.Reply, position: int = 0) -> None:
    """Raises the typed error of one item of a reply, if it failed."""
    error = item_error(reply, position)
    if error is not None:
        raise error


def item_error(reply: wire.Reply, position: int) -> StorekeeperError | None:
    """Returns the typed error of one item of a reply, None if it did not fail."""
    errors = reply.details.get("errors")
    if not errors or str(position) not in errors:
        return None
    return from_wire(reply.words[position], str(errors[str(position)]))
