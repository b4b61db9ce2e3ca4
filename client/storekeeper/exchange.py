"""One call's conversation with the daemon: requests out, replies matched to them by id, several under way.

Owns the ids. Uses one carrier, to which nobody else talks meanwhile. What earlier calls left to be closed goes out with
the first request, and answers to such closes are passed over (holds.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from storekeeper import wire
from storekeeper.carriers import Carrier
from storekeeper.errors import ProtocolError
from storekeeper.holds import Hold, send_closes

_ids = itertools.count(1)
_NOTHING: Mapping[str, Any] = {}
_RANGED_BYTES_PER_S = 16 * 1024 * 1024


def _leave(_: Carrier) -> None:
    """Settles nothing: what is to be closed goes out with the next request."""


class Exchange:
    """Requests over one carrier until one deadline.

    Args:
        carrier: how they travel.
        deadline: time.monotonic() after which `receive` gives up.
        ranged: whether the deadline already counts in that an object travels in ranges.
        before_ns: when the call was made first, if it is made again: what was put after that moment of CLOCK_BOOTTIME
            is not to be replaced or removed. 0: no such condition.
        settle: as `Carriers.settle`, for what is held longer than the call.

    Attributes:
        deadline, ranged: the same, after `allow`.
        answered: whether the daemon has answered anything.
        kept: whether its carrier is not to be used by other calls any more: whoever keeps it closes it.
    """

    def __init__(
        self,
        carrier: Carrier,
        deadline: float,
        *,
        ranged: bool = False,
        before_ns: int = 0,
        settle: Callable[[Carrier], None] = _leave,
    ) -> None:
        self._carrier = carrier
        self.deadline = deadline
        self.ranged = ranged
        self.answered = False
        self.kept = False
        self._before_ns = before_ns
        self._settle = settle
        self._under_way: set[bytes] = set()

    def allow(self, size_bytes: int) -> None:
        """Puts the deadline off for an object that travels in ranges: a second for every 16 MiB."""
        if not self.ranged:
            self.ranged = True
            self.deadline += size_bytes / _RANGED_BYTES_PER_S

    def ask(
        self,
        verb: bytes,
        arguments: Iterable[Any] = (),
        options: Mapping[str, Any] = _NOTHING,
    ) -> wire.Reply:
        """Sends a request and returns its reply.

        Raises:
            StorekeeperError: the daemon refused it, did not answer in time, or is not there.
        """
        self.send(verb, arguments, options)
        return self.receive()

    def send(self, verb: bytes, arguments: Iterable[Any], options: Mapping[str, Any] = _NOTHING) -> bytes:
        """Sends a request without waiting; returns its id."""
        request_id = b"%d" % next(_ids)
        if self._before_ns and (verb == b"evict" or options.get("replace")):
            options = {"before": self._before_ns, **options}
        if self._carrier.held.over:
            send_closes(self._carrier, later=True)
        self._carrier.send(wire.encode_request(verb, request_id, options, arguments))
        self._under_way.add(request_id)
        return request_id

    def receive(self, *, copy: bool = True) -> wire.Reply:
        """Returns the next reply to a request under way; they may come in any order.

        Args:
            copy: payloads as bytes if true; else as what they were received into.
        """
        return wire.decode_reply(self._next(copy=copy))

    @property
    def passes_descriptors(self) -> bool:
        """Whether an answer may bring a descriptor."""
        return self._carrier.passes_descriptors

    def descriptor(self) -> int:
        """Returns the descriptor that came with the last reply, -1 if none did. It stays the carrier's."""
        return self._carrier.descriptor()

    def drop_descriptors(self) -> None:
        """Closes what came."""
        self._carrier.drop_descriptors()

    def keep(self) -> Carrier:
        """Takes the carrier out of use: what the daemon holds for this connection is held until somebody closes it.

        To be called if the call was given one that is not held for others, too (`Session.call`, alone).
        """
        self.kept = True
        return self._carrier

    def hold(self, handle: bytes) -> Hold:
        """Holds a handle beyond the call: until the hold ends, whatever else the carrier is used for."""
        return Hold(self._carrier, handle, self._settle)

    def close_later(self, handle: bytes) -> None:
        """Has a handle closed when the call ends, without waiting for the answer."""
        self._carrier.held.over.append(handle)

    @property
    def under_way(self) -> int:
        """How many requests are not answered yet."""
        return len(self._under_way)

    def drain(self) -> None:
        """Takes in the replies still under way, whatever they say, so that the carrier can serve another call."""
        while self._under_way:
            self._next()

    def _next(self, *, copy: bool = True) -> list[Any]:
        """Returns the frames of the next reply to a request under way."""
        closing = self._carrier.held.closing
        while True:
            frames = self._carrier.receive(self.deadline, copy=copy)
            request_id = wire.reply_id(frames)
            if request_id in self._under_way:
                break
            if request_id not in closing:
                raise ProtocolError("an answer to nothing that was asked")
            closing.remove(request_id)  # whatever it says: a handle that is closed already is closed, too
        self.answered = True
        self._under_way.remove(request_id)
        return frames
