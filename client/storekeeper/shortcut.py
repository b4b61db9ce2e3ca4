"""The way past the daemon: what a client reads from a shelf (shelf.py) by itself.

Owns which shelf a client has, and when it asks for one. It asks when the daemon has just answered a read, on the same
connection and within the same deadline: not before some reads have shown that it is worth it, for most clients read
little; and after the end of a shelf not at once again. Where there is none, or it does not have what is looked for, the
daemon is asked as ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from storekeeper.errors import DaemonUnreachable, ProtocolError, StorekeeperError, TimedOut
from storekeeper.exchange import Exchange
from storekeeper.holds import retire
from storekeeper.shelf import Shelf

VARIABLE = "STOREKEEPER_SHELF"
_READS = 8
"""Reads that the daemon answers before it is asked for a shelf: that costs about as much as two of them."""
_AGAIN_S = 0.05
_NONE_AGAIN_S = 1.0


def is_wanted(shelf: bool | None) -> bool:
    """Returns whether a client reads from a shelf where it can; None for what $STOREKEEPER_SHELF says, else yes."""
    return os.environ.get(VARIABLE) != "0" if shelf is None else shelf


def _has_nothing(_: str) -> bool:
    return False


def _gets_nothing(_: str) -> None:
    return None


class Shortcut:
    """What one client reads by itself of one namespace. Thread-safe and fork-safe: it is only looked at.

    Args:
        options: the namespace.
        wanted: whether it reads from a shelf at all.

    Attributes:
        has: returns whether an object is known to exist; False says nothing.
        get: returns the bytes of an object, if they are known; None says nothing.
    """

    def __init__(self, options: Mapping[str, Any], *, wanted: bool) -> None:
        self._options = options
        self._wanted = wanted
        self._shelf: Shelf | None = None
        self._reads = 0
        self._not_before_s = 0.0
        self.has: Callable[[str], bool] = _has_nothing
        self.get: Callable[[str], bytes | None] = _gets_nothing

    @property
    def is_open(self) -> bool:
        """Whether there is a shelf that may know something."""
        return self._shelf is not None

    def pass_by(self, exchange: Exchange) -> None:
        """Asks for a shelf if it is time for that; to be called with what the daemon has just answered a read over."""
        if not self._wanted or not exchange.passes_descriptors:
            return
        if self._shelf is not None and not self._shelf.is_retired:
            return
        self._reads += 1
        if self._reads <= _READS:
            return
        now_s = monotonic()
        if now_s < self._not_before_s:
            return
        self._reads, self._not_before_s = 0, now_s + _AGAIN_S
        self._take(None)
        try:
            self._fetch(exchange)
        except (DaemonUnreachable, TimedOut):
            retire(exchange.keep())  # what was read is there all the same
        except ProtocolError:
            retire(exchange.keep())  # whatever it says now, it is no answer to the next call
            self._not_before_s = now_s + _NONE_AGAIN_S
        except StorekeeperError:
            self._not_before_s = now_s + _NONE_AGAIN_S

    def _fetch(self, exchange: Exchange) -> None:
        try:
            exchange.ask(b"shelf", (), self._options)
            descriptor = exchange.descriptor()
            if descriptor >= 0:
                self._take(Shelf(descriptor))
            else:
                self._not_before_s += _NONE_AGAIN_S
        except (OSError, ValueError):  # no memory for it, or not what it should be
            self._not_before_s += _NONE_AGAIN_S
        finally:
            exchange.drop_descriptors()

    def _take(self, shelf: Shelf | None) -> None:
        self._shelf = shelf
        self.has = _has_nothing if shelf is None else shelf.has
        self.get = _gets_nothing if shelf is None else shelf.get
        if shelf is not None and not self._wanted:  # it was closed meanwhile, by another thread
            self._take(None)

    def close(self) -> None:
        """Knows nothing from now on."""
        self._wanted = False
        self._take(None)
