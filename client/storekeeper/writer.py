"""An object that is written bit by bit, by whoever makes it: a file object over an upload.

Owns its connection while it is open, and the order of its ranges. What was written is nowhere to be seen before
`close`; an error, or `abort`, leaves nothing of it. A daemon that goes away meanwhile takes it along: nobody has the
bytes to send them again, so that is an error, unlike in `Client.put`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from storekeeper import wire
from storekeeper.carriers import Carrier
from storekeeper.errors import BadHandle, DaemonUnreachable, StorekeeperError
from storekeeper.exchange import Exchange
from storekeeper.ranges import WINDOW, check_item
from storekeeper.session import Session


class Writer(io.RawIOBase):
    """A writable, unseekable binary file; to be used with `with`, by one thread and one process.

    Args:
        session: the line to the daemon.
        key: of the object.
        options: of its put.
        size: its length in bytes, if it is known: room is reserved at once, and nothing else is accepted.

    Attributes:
        key: the same.

    Raises:
        StorekeeperError: it may not be written, or there is no room for so much.
    """

    def __init__(self, session: Session, key: str, options: Mapping[str, Any], size: int | None) -> None:
        super().__init__()
        self.key = key
        self._timeout_s = session.timeout_s
        self._waiting = bytearray()
        self._sent = 0
        self._carrier: Carrier | None = None
        told = dict(options) if size is None else {**options, "size": size}

        def begin(exchange: Exchange) -> bytes:
            begun = exchange.ask(b"upload", [wire.key_frame(key)], told)
            check_item(begun)
            self._carrier = exchange.keep()
            return str(begun.details["handle"]).encode()

        self._handle = session.call(begin, alone=True)
        assert self._carrier is not None
        self._exchange: Exchange = Exchange(self._carrier, 0.0)

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, data: Any) -> int:
        """Takes any bytes-like object; returns its length. They are copied, and sent when there are enough.

        Raises:
            StorekeeperError: the daemon refuses them, or is gone; nothing will be stored.
        """
        if self.closed:
            raise ValueError("this writer is closed")
        view = memoryview(data)
        self._waiting += view if view.c_contiguous else view.tobytes()
        size = view.nbytes
        while len(self._waiting) >= wire.RANGE_BYTES:
            self._send(wire.RANGE_BYTES)
        return size

    def close(self) -> None:
        """Publishes what was written, whole; the object is there when this returns.

        Raises:
            StorekeeperError: it could not be stored, and is not.
        """
        if self.closed:
            return
        try:
            if self._waiting:
                self._send(len(self._waiting))
            self._until(0)
            check_item(self._exchange.ask(b"commit", [self._handle, b"%d" % self._sent]))
        except (DaemonUnreachable, BadHandle) as error:
            raise _lost(error) from None
        finally:
            self.abort()

    def abort(self) -> None:
        """Gives it up; nothing of it is stored. Does nothing once it is closed."""
        if not self.closed:
            super().close()
            self._waiting.clear()
            if self._carrier is not None:
                self._carrier.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # One that nobody closed is given up: half of what was meant would be worse than nothing.
        self.abort()

    # -- parts

    def _send(self, size: int) -> None:
        """Sends the first of what waits, when there is room in the window."""
        try:
            self._until(WINDOW - 1)
            part = bytes(self._waiting[:size])
            del self._waiting[:size]
            self._exchange.send(b"write", [self._handle, b"%d" % self._sent, part])
            self._sent += size
        except (DaemonUnreachable, BadHandle) as error:
            self.abort()
            raise _lost(error) from None
        except BaseException:  # an interruption, too: nobody could say what was sent
            self.abort()
            raise

    def _until(self, under_way_max: int) -> None:
        """Waits until no more ranges than that are not answered."""
        self._exchange.deadline = time.monotonic() + self._timeout_s
        while self._exchange.under_way > under_way_max:
            check_item(self._exchange.receive())


def _lost(error: StorekeeperError) -> DaemonUnreachable:
    """Returns the error of a writer whose daemon went away; the next one does not know it (ZeroMQ reconnects)."""
    return DaemonUnreachable(f"{error}; what was written is lost: write it again from its start")
