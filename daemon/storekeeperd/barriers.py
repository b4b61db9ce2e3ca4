"""Requests that wait until the index is known to be true: for the repair of a loss, or for all that was done before.

Pure. Owns the waiting, not the repair. A request that asks for a `fresh` answer must see everything that was done to
the directory before it came. Where the watch hears of every change that is so once what the kernel had queued by then
is read (the driver does that, and calls `heard`), and every name in doubt is looked at. Elsewhere it takes a scan that
begins after the request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from storekeeper import wire
from storekeeper.errors import StorekeeperError
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.index import Index

_DOUBTS_MAX = 4
"""Sets of names in doubt at once: each may be as large as the store. Who comes later waits for one of them to empty."""

Verb = Callable[[Peer, wire.Request], None]


@dataclass(slots=True, eq=False)
class _Waiter:
    peer: Peer
    request: wire.Request
    then: Verb
    heard: bool
    sizes: bool
    cost_bytes: int
    epoch: int = 0
    scan: int = 0
    refused: bool = False
    doubts: set[bytes] = field(default_factory=set)


class Barriers:
    """Requests that wait.

    Args:
        index, coherence: what they wait for.
        guarded: called as `guarded(peer, request, verb)` when the wait is over; answers, whatever goes wrong.

    Attributes:
        exact: whether the watch hears of every change, whoever makes it.
    """

    def __init__(self, index: Index, coherence: Coherence, guarded: Callable[[Peer, wire.Request, Verb], None]) -> None:
        self.exact = True
        self._index = index
        self._coherence = coherence
        self._guarded = guarded
        self._waiting: list[_Waiter] = []

    def hold(self, peer: Peer, request: wire.Request, then: Verb, *, sizes: bool = False, cost_bytes: int = 0) -> None:
        """Answers a request by `then(peer, request)`: at once if the index may be believed, else when it may.

        With the option `fresh` it waits for all that was done to the directory before; and, with `sizes`, until every
        object was looked at. `cost_bytes` is about what the answer takes, and is owed to the peer until then.
        """
        coherence = self._coherence
        fresh = request.options.get("fresh", False)
        if coherence.coherent and not fresh:
            then(peer, request)
            return
        heard = not (fresh and coherence.watched and self.exact)
        waiter = _Waiter(peer, request, then, heard, fresh and sizes, cost_bytes, coherence.epoch)
        if not coherence.watched or (fresh and not self.exact):
            waiter.scan = coherence.want_scan()
        peer.owed_requests += 1
        peer.owed_bytes += cost_bytes
        self._waiting.append(waiter)

    @property
    def wants_sizes(self) -> bool:
        """Whether somebody waits for every object to be looked at."""
        return any(waiter.sizes for waiter in self._waiting)

    @property
    def unheard(self) -> bool:
        """Whether somebody waits for what the kernel has queued to be read; then `heard` is to be called."""
        return self._coherence.doubts_out < _DOUBTS_MAX and any(not waiter.heard for waiter in self._waiting)

    def heard(self) -> None:
        """Takes that everything which the kernel had to tell was read and asked about."""
        unheard = [waiter for waiter in self._waiting if not waiter.heard]
        if any(waiter.sizes for waiter in unheard):
            self._coherence.ask_all_grown()
        doubts = self._coherence.doubts() if unheard else set()
        for waiter in unheard:
            waiter.heard = True
            waiter.epoch = self._coherence.epoch
            waiter.doubts = doubts

    def fail(self, error: StorekeeperError) -> None:
        """Answers the requests that wait for a scan with an error: there is none that comes to its end."""

        def refuse(_: Peer, __: wire.Request) -> None:
            raise error

        for waiter in self._waiting:
            if waiter.heard and not self._is_repaired(waiter):
                waiter.then = refuse
                waiter.refused = True
        self.proceed()

    def proceed(self) -> None:
        """Answers the requests whose wait is over. To be called when one may be."""
        if not self._waiting:
            return
        over = [waiter for waiter in self._waiting if waiter.peer.gone or self._is_over(waiter)]
        if not over:
            return
        answered = set(map(id, over))
        self._waiting = [waiter for waiter in self._waiting if id(waiter) not in answered]
        awaited = {id(waiter.doubts) for waiter in self._waiting}
        for waiter in over:
            if id(waiter.doubts) not in awaited:
                self._coherence.forget(waiter.doubts)
            waiter.peer.owed_requests -= 1
            waiter.peer.owed_bytes -= waiter.cost_bytes
            if not waiter.peer.gone:
                self._guarded(waiter.peer, waiter.request, waiter.then)

    def _is_over(self, waiter: _Waiter) -> bool:
        return waiter.refused or (
            waiter.heard
            and not waiter.doubts
            and self._is_repaired(waiter)
            and not (waiter.sizes and self._index.whole.unsized)
        )

    def _is_repaired(self, waiter: _Waiter) -> bool:
        return self._coherence.clean >= waiter.epoch and self._coherence.has_scanned(waiter.scan)
