"""A client's line to its daemon: which carrier a call takes, how long it may take, and when it is made again.

Owns deadlines, retries and the idle carriers. A call is a function of an `Exchange`; if the daemon goes away in the
middle, it is made again from its start on a new carrier - all calls of this package can be. Nobody knows then whether
the first one was carried out. So one that removes or replaces says when it was made first (the option `before`): what
was put after that moment is left alone where it can have come after both tries.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from storekeeper.address import Servers
from storekeeper.carriers import Carriers
from storekeeper.errors import (
    Busy,
    ClientClosed,
    DaemonStopping,
    DaemonUnreachable,
    ProtocolError,
    StorekeeperError,
    TimedOut,
    TooMany,
    WrongServer,
)
from storekeeper.exchange import Exchange
from storekeeper.lines import somebody_listens, unreachable

T = TypeVar("T")

TIMEOUT_S_MAX = 1_000_000
_FIRST_GRACE_S = 1.0
_RETRY_PAUSE_S = 0.02


class Session:
    """Calls to one daemon, from any thread and any fork.

    Args:
        address: where it is.
        timeout_s: how long a call may take; more for objects that travel in ranges (see Exchange.allow).
        servers: users who may serve the address; nobody in particular if it is empty.
        carrier: how frames travel, see carriers.kind_of.

    Attributes:
        address: the same; `expect_daemon` and `await_daemon` of a subclass may change it.
        grace_s: how long a daemon that is not there is waited for: a second before it was ever reached, until the
            deadline once it was, not at all after a call found it dead.
    """

    def __init__(
        self, address: str, timeout_s: float, servers: Servers = frozenset(), carrier: str | None = None
    ) -> None:
        if not 0 < timeout_s < TIMEOUT_S_MAX:
            raise ValueError(f"timeout= must lie between 0 and {TIMEOUT_S_MAX} seconds")
        self.address = address
        self.timeout_s = timeout_s
        self.grace_s = min(_FIRST_GRACE_S, timeout_s)
        self._closed = False
        self._servers = servers
        self._carrier = carrier
        self._take_carriers(address)

    def call(self, talk: Callable[[Exchange], T], *, alone: bool = False) -> T:
        """Talks to the daemon, again from the start if it went away meanwhile, until the deadline.

        Args:
            talk: the conversation.
            alone: whether it needs a carrier that nothing else is held by, to keep it.

        Raises:
            StorekeeperError: the daemon's refusal, or why there is no answer.
        """
        started = time.monotonic()
        began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        before_ns = 0
        deadline = started + self.timeout_s
        ranged = False
        self.expect_daemon(deadline)
        while True:
            if self._closed:
                raise ClientClosed("this client was closed; make a new one")
            carriers = self._carriers
            carrier = carriers.take(alone=alone)
            exchange = Exchange(carrier, deadline, ranged=ranged, before_ns=before_ns, settle=carriers.settle)
            try:
                result = talk(exchange)
            except (DaemonUnreachable, DaemonStopping, Busy) as error:
                if isinstance(error, Busy):
                    carriers.set_aside(carrier)
                else:
                    carriers.discard(carrier)
                if self.address.startswith("ipc://"):  # elsewhere there is another clock
                    before_ns = began_ns
                deadline, ranged = exchange.deadline, exchange.ranged
                if exchange.answered or somebody_listens(self.address):
                    self.grace_s = math.inf
                self.await_daemon(error, started, deadline)
            except (TimedOut, ProtocolError, WrongServer):
                carriers.discard(carrier)
                raise
            except StorekeeperError as error:  # a refusal is an answer: nothing is outstanding
                if isinstance(error, TooMany) and carrier.held.living:
                    carriers.set_aside(carrier)  # the views that it holds may be what there is too many of
                    continue
                carriers.give_back(carrier)
                raise
            except BaseException:
                carriers.discard(carrier)
                raise
            else:
                self.grace_s = math.inf
                if not exchange.kept:
                    carriers.give_back(carrier)
                return result

    def close(self) -> None:
        """Closes the idle carriers; those at work are closed when their call ends. Later calls are refused."""
        self._closed = True
        self._carriers.close()

    def expect_daemon(self, deadline: float) -> None:
        """Raises at once if the last call found the daemon dead and it still is: many calls then fail fast."""
        if not self.grace_s and not somebody_listens(self.address):
            raise unreachable(self.address)

    def await_daemon(self, error: StorekeeperError, started: float, deadline: float) -> None:
        """Waits a moment for the next daemon; raises the error if it is time to give up."""
        if time.monotonic() + _RETRY_PAUSE_S >= min(deadline, started + self.grace_s):
            self.grace_s = 0.0
            raise error
        time.sleep(_RETRY_PAUSE_S)

    def move(self, address: str) -> None:
        """Goes on with another address."""
        if address != self.address:
            self._finalizer()
            self.address = address
            self._take_carriers(address)

    def _take_carriers(self, address: str) -> None:
        self._carriers = Carriers(address, self._servers, self._carrier)
        # Also when nobody closes the client: at its collection, or when the interpreter ends.
        self._finalizer: weakref.finalize[Any, Any] = weakref.finalize(self, self._carriers.close)
