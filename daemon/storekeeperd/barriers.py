"""Requests that wait until the index is known to be true: for the repair of a loss, or for all that was done before.

Pure. Owns the waiting, not the repair. A request that asks for a `fresh` answer must see everything that was done to
the directory before it came. Where the watch hears of every change that is so once what the kernel had queued by then
is read (the driver does that, and calls `heard`), and every name in doubt is looked at. Elsewhere it takes a scan that
begins after the request. If sizes matter, every object is looked at besides: files change without a sound.

Nobody waits for ever: who waits for names that no look can tell of is refused, unless they are of other namespaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from storekeeper import wire
from storekeeper.errors import DiskFailed, StorekeeperError
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence

_DOUBTS_MAX = 4
"""Sets of names in doubt at once: each may be as large as the store. Who comes later waits for one of them to empty."""

_STUCK_SECONDS = 3
"""So long names are looked at in vain before those who wait for them are told."""

Verb = Callable[[Peer, wire.Request], None]


@dataclass(slots=True, eq=False)
class _Waiter:
    """One request, and what it still waits for.

    Attributes:
        space: what names of its namespace begin with.
        fresh: it must see all that was done before it came; sizes: and all sizes as they were.
        heard: what the kernel had to tell when it came has been read.
        epoch, scan, measure: losses that must be repaired, rounds that must be complete (0: none).
        settled: it has taken the doubts of the end, those that a scan or measure has left.
        stuck_s: how long looks have told nothing of what is left of its doubts.
    """

    peer: Peer
    request: wire.Request
    then: Verb
    space: bytes
    cost_bytes: int
    fresh: bool
    sizes: bool
    heard: bool
    epoch: int
    scan: int = 0
    measure: int = 0
    settled: bool = False
    stuck_s: int = 0
    doubts: set[bytes] = field(default_factory=set)


class Barriers:
    """Requests that wait.

    Args:
        coherence: what they wait for.
        guarded: called as `guarded(peer, request, verb)` when the wait is over; answers, whatever goes wrong.

    Attributes:
        exact: whether the watch hears of every change, whoever makes it.
    """

    def __init__(self, coherence: Coherence, guarded: Callable[[Peer, wire.Request, Verb], None]) -> None:
        self.exact = True
        self._coherence = coherence
        self._guarded = guarded
        self._waiting: list[_Waiter] = []
        self._handed_out: list[set[bytes]] = []
        self._unread: dict[bytes, str] = {}  # namespaces that the last scan could not read, and why

    def hold(
        self,
        peer: Peer,
        request: wire.Request,
        then: Verb,
        *,
        space: bytes = b"",
        sizes: bool = False,
        measured: bool = False,
        cost_bytes: int = 0,
    ) -> None:
        """Answers a request by `then(peer, request)`: at once if the index may be believed, else when it may.

        With the option `fresh` it waits for all that was done to the directory before; and, with `sizes`, until every
        object was looked at, with `measured` in any case. `space` is what names of its namespace begin with,
        `cost_bytes` about what the answer takes; it is owed to the peer until then.

        Raises:
            DiskFailed: the last scan could not read that namespace.
        """
        if space in self._unread:
            raise DiskFailed(_cannot_be_read(self._unread[space]))
        coherence = self._coherence
        fresh, sizes = request.options.get("fresh", False) or measured, sizes or measured
        if coherence.coherent and not fresh:
            then(peer, request)
            return
        heard = not (fresh and coherence.watched and self.exact)
        waiter = _Waiter(peer, request, then, space, cost_bytes, fresh, fresh and sizes, heard, coherence.epoch)
        if not coherence.watched or (fresh and not self.exact):
            waiter.scan = coherence.want_scan()
        peer.owed_requests += 1
        peer.owed_bytes += cost_bytes
        self._waiting.append(waiter)

    @property
    def unheard(self) -> bool:
        """Whether somebody waits for what the kernel has queued to be read; then `heard` is to be called."""
        return self._coherence.doubts.sets < _DOUBTS_MAX and any(not waiter.heard for waiter in self._waiting)

    def heard(self) -> None:
        """Takes that everything which the kernel had to tell was read and asked about."""
        unheard = [waiter for waiter in self._waiting if not waiter.heard]
        self._coherence.ask_empty()
        doubts = self._keep(self._coherence.take_doubts()) if unheard else set()
        for waiter in unheard:
            waiter.heard = True
            waiter.epoch = self._coherence.epoch
            waiter.doubts = doubts

    def proceed(self) -> None:
        """Answers the requests whose wait is over. To be called when one may be."""
        if not self._waiting:
            return
        self._give_back(lambda doubts: not doubts)
        taken: dict[bool, set[bytes]] = {}
        over = [waiter for waiter in self._waiting if waiter.peer.gone or self._is_over(waiter, taken)]
        if over:
            self._release(over)
        for waiter in over:
            if not waiter.peer.gone:
                self._guarded(waiter.peer, waiter.request, waiter.then)

    def take_unread(self, unread: dict[bytes, str]) -> None:
        """Takes which namespaces a scan could not read to their end, and why: whoever waits for them is refused."""
        self._unread = unread
        for space, why in unread.items():
            waiting = [waiter for waiter in self._waiting if waiter.space == space]
            self._refuse(waiting, DiskFailed(_cannot_be_read(why)))

    def refuse_unrepaired(self, error: StorekeeperError) -> None:
        """Answers the requests that wait for a scan with an error: there is none that comes to its end."""
        self._refuse([waiter for waiter in self._waiting if waiter.heard and not self._is_repaired(waiter)], error)

    def refuse_all(self, error: StorekeeperError) -> None:
        """Answers all requests that wait with an error."""
        self._refuse(self._waiting, error)

    def tick(self) -> None:
        """Gives up what is waited for in vain. To be called every second."""
        stuck = {id(doubts) for doubts in self._handed_out if self._coherence.doubts.are_stuck(doubts)}
        in_vain = []
        for waiter in self._waiting:
            waiter.stuck_s = waiter.stuck_s + 1 if id(waiter.doubts) in stuck else 0
            if waiter.stuck_s < _STUCK_SECONDS:
                continue
            if any(_is_of(waiter.space, name) for name in waiter.doubts):
                in_vain.append(waiter)
            else:
                waiter.doubts = set()  # no concern of his
        sentence = "the file system does not let some objects be looked at; exists, get and put of others go on"
        self._refuse(in_vain, DiskFailed(sentence))
        self.proceed()

    def _refuse(self, waiters: Iterable[_Waiter], error: StorekeeperError) -> None:
        def refuse(_: Peer, __: wire.Request) -> None:
            raise error

        refused = list(waiters)
        self._release(refused)
        for waiter in refused:
            if not waiter.peer.gone:
                self._guarded(waiter.peer, waiter.request, refuse)

    def _release(self, over: Iterable[_Waiter]) -> None:
        """Takes requests off the list, what they are owed off their peers, and gives back the sets nobody needs."""
        ended = set(map(id, over))
        for waiter in over:
            waiter.peer.owed_requests -= 1
            waiter.peer.owed_bytes -= waiter.cost_bytes
        self._waiting = [waiter for waiter in self._waiting if id(waiter) not in ended]
        needed = {id(waiter.doubts) for waiter in self._waiting}
        self._give_back(lambda doubts: id(doubts) not in needed)

    def _give_back(self, is_over: Callable[[set[bytes]], bool]) -> None:
        for doubts in list(filter(is_over, self._handed_out)):
            self._coherence.doubts.give_back(doubts)
            self._handed_out = [other for other in self._handed_out if other is not doubts]

    def _keep(self, doubts: set[bytes]) -> set[bytes]:
        if doubts:
            self._handed_out.append(doubts)
        return doubts

    def _is_over(self, waiter: _Waiter, taken: dict[bool, set[bytes]]) -> bool:
        """Returns whether a request may be answered; takes it a step further if not. `taken`: see `_take_left`."""
        if not waiter.heard or waiter.doubts or not self._is_repaired(waiter):
            return False
        if not waiter.fresh or waiter.settled:
            return True
        measures = self._coherence.measures
        if waiter.sizes and not waiter.measure:
            waiter.measure = measures.want()
        if not measures.is_complete(waiter.measure):
            return False
        self._take_left(waiter, taken)
        return waiter.settled and not waiter.doubts

    def _take_left(self, waiter: _Waiter, taken: dict[bool, set[bytes]]) -> None:
        """Lets a request wait for what the scan or the measure has left in doubt; those of one moment share a set."""
        coherence, sizes = self._coherence, waiter.sizes
        if sizes not in taken:
            if coherence.doubts.sets >= _DOUBTS_MAX and (sizes or coherence.doubts.unanswered):
                return
            taken[sizes] = self._keep(coherence.take_doubts() if sizes else coherence.take_unanswered())
        waiter.doubts = taken[sizes]
        waiter.settled = True

    def _is_repaired(self, waiter: _Waiter) -> bool:
        return self._coherence.clean >= waiter.epoch and self._coherence.has_scanned(waiter.scan)


def _cannot_be_read(why: str) -> str:
    return f"the namespace's folder cannot be read: {why}; exists, get and put go on as far as it lets them"


def _is_of(space: bytes, name: bytes) -> bool:
    """Returns whether a name is of the namespace whose names begin with `space`."""
    return name.startswith(space) if space else b"/" not in name
