"""What the daemon holds for a connection while no call has it: the handles of views, and how they are given back.

Owns the handles of each carrier: those that something still living depends on, those that are over and are to be
closed, and the closes that were sent and not answered yet. Nobody waits for the answer to a close: it is passed over by
the next call that has the carrier (exchange.py).

A hold may end at any moment: in another thread, in the middle of a call, in the garbage collector, in a forked child,
as the interpreter ends. So nothing here is locked: dicts and deques are changed by single operations, which are atomic.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from storekeeper import wire

if TYPE_CHECKING:
    from storekeeper.carriers import Carrier

_closes = itertools.count(1)


class Held:
    """What is held for one carrier.

    Attributes:
        living: handles that are in use though no call is under way; each as its own value.
        over: handles that are to be closed; whoever has the carrier sends that.
        closing: ids of closes that were sent and not answered yet; only whoever has the carrier looks at them.
        retired: whether no call is made by this carrier any more: it is closed when nothing lives.
    """

    __slots__ = ("closing", "living", "over", "retired")

    def __init__(self) -> None:
        self.living: dict[bytes, bytes] = {}
        self.over: deque[bytes] = deque()
        self.closing: set[bytes] = set()
        self.retired = False


def send_closes(carrier: Carrier, *, later: bool = False) -> None:
    """Sends the closes of what is over, and does not wait; to be called by whoever has the carrier.

    Args:
        carrier: whose.
        later: whether they may wait for the next message, which is about to be sent.
    """
    held = carrier.held
    while True:
        try:
            handle = held.over.popleft()
        except IndexError:
            return
        request_id = b"c%d" % next(_closes)
        held.closing.add(request_id)
        carrier.send(wire.encode_request(b"close", request_id, {}, [handle]), later=later)


def retire(carrier: Carrier) -> None:
    """Sees to it that a carrier that may not be used again is closed: now, or as soon as nothing lives by it."""
    held = carrier.held
    held.retired = True
    # After it was said: the last hold ends either before this look, or sees that it is to close the carrier.
    if not held.living:
        carrier.close()


class Hold:
    """One handle that is held at the daemon until `end`.

    Args:
        carrier: by which it was opened, and to which it belongs.
        handle: which one.
        settle: called with the carrier when there is something to be closed; see Carriers.settle.
    """

    __slots__ = ("_carrier", "_handle", "_settle")

    def __init__(self, carrier: Carrier, handle: bytes, settle: Callable[[Carrier], None]) -> None:
        self._carrier = carrier
        self._handle = handle
        self._settle = settle
        carrier.held.living[handle] = handle

    def end(self) -> None:
        """Lets go of the handle; never waits. To be called once. Does nothing in a forked child: it is the parent's."""
        carrier = self._carrier
        if carrier.pid != os.getpid():
            return
        held = carrier.held
        # One call of C: an interruption comes before all of it, or after, so the handle is always in one of them.
        held.over.extend(map(held.living.pop, (self._handle,)))
        if not held.retired:
            self._settle(carrier)
        elif not held.living:
            carrier.close()
