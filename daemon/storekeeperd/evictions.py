"""What the daemon removes of its own accord: objects that have ended, and those that make room for others.

Pure. Owns the order in which that happens, the number of removals under way, and the requests that wait for room. Who
ends is lifetimes.py's to say, who was used last uses.py's, what is too much ledger.py's. Removals go out as any change
does, a few at a time, so that nobody else waits for them.

From the moment it is chosen an object is gone to every reader (`Lifetimes.ended`): who was told that it is there could
fetch it before. It is chosen only while nobody else changes its name, and removed only if it is then still what it was:
what was pinned, replaced or touched meanwhile stays.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from storekeeper import wire
from storekeeper.errors import Busy, NamespaceMissing, StorekeeperError
from storekeeperd import sight
from storekeeperd.answers import Peer
from storekeeperd.chronicle import EVICTED
from storekeeperd.index import Index
from storekeeperd.ledger import Ledger, SpaceFull
from storekeeperd.lifetimes import Lifetimes
from storekeeperd.namespaces import LRU, REFUSE, Namespace
from storekeeperd.operations import Evict, Origin, Outcome
from storekeeperd.uses import Uses

if TYPE_CHECKING:
    from storekeeperd.service import Service

log = logging.getLogger(__name__)

ROOM = "room"
"""Why an object was evicted: to make room, by the policy of its namespace."""

_PER_TURN = 32
_UNDER_WAY_MAX = 64
_NOTES_PER_TURN = 2_000
_SKIPPED_PER_TURN = 256
_LINES_PER_TICK = 20
_OURSELVES = Origin(0, any_owner=True)

Verb = Callable[[Peer, wire.Request], None]


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request that waits for room."""

    peer: Peer
    request: wire.Request
    then: Verb
    cost_bytes: int
    error: SpaceFull


@dataclass(slots=True, eq=False)
class _Space:
    """A namespace in which room is made.

    Attributes:
        rules: its bounds and marks.
        uses: when its objects were used.
        making: whether it is on its way to the low mark.
        by: the user whose put it is for, if nobody waits.
        leaving_bytes, leaving: charged bytes and objects of removals under way.
        waiting: requests, oldest first.
        leased: whether there was something to evict, but for its leases.
        passed: names that were left alone for a reason that may pass; they have their turn again after the next tick.
    """

    rules: Namespace
    uses: Uses = field(default_factory=Uses)
    making: bool = False
    by: int = 0
    leaving_bytes: int = 0
    leaving: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque)
    leased: bool = False
    passed: list[bytes] = field(default_factory=list)


class Evictions:
    """Removals of the daemon's own accord.

    Args:
        service: whose orders carry them out, and who answers those who wait.
        index: what is there.
        ledger: how much that is.
        lifetimes: what has ended.
        lease_ms: how long an object is not evicted after it was read, or said to be there.

    Attributes:
        counts: how many were removed, by cause.
    """

    def __init__(self, service: Service, index: Index, ledger: Ledger, lifetimes: Lifetimes, lease_ms: int) -> None:
        self._service = service
        self._index = index
        self._ledger = ledger
        self._lifetimes = lifetimes
        self._lease_ms = lease_ms
        self._spaces: dict[bytes, _Space] = {}
        self._ordered: set[bytes] = set()
        self._later: list[bytes] = []  # what cannot be removed now; tried again with the next tick
        self._making = False  # some namespace is
        self._lines = 0
        self._untold = 0
        self.counts: Counter[str] = Counter()

    # -- namespaces and uses

    def set_space(self, prefix: bytes, rules: Namespace | None) -> None:
        """Sets the policy of a namespace; None if it is no more."""
        if rules is None or rules.eviction == REFUSE:
            space = self._spaces.pop(prefix, None)
            if space is not None and rules is None:
                self._refuse(space, lambda _: NamespaceMissing("the namespace was dropped meanwhile"))
            elif space is not None:  # no room is made any more
                self._refuse(space, lambda full: full)
        else:
            self._spaces.setdefault(prefix, _Space(rules)).rules = rules
        self._index.followed = {name: space.uses.news for name, space in self._spaces.items()}

    @property
    def follows(self) -> Collection[bytes]:
        """The namespaces in which uses are counted."""
        return self._index.followed

    def uses(self, prefix: bytes) -> Uses | None:
        """Returns the uses of a namespace's objects, for who has many at once; None if they are not counted."""
        space = self._spaces.get(prefix)
        return None if space is None else space.uses

    def use(self, prefix: bytes, name: bytes, *, lease: bool = True) -> None:
        """Takes that an object was read or said to be there (a lease), or put."""
        space = self._spaces.get(prefix)
        if space is not None:
            space.uses.use(name, self._service.now_ms, lease=lease)

    # -- room

    def heed(self, prefix: bytes, uid: int) -> None:
        """Begins to make room if a namespace has reached its high mark; to be called when a user has reserved some."""
        space = self._spaces.get(prefix)
        if space is not None and not space.making and self._level(prefix, space) >= space.rules.high_mark:
            self._begin(space, uid)

    def wait(self, peer: Peer, request: wire.Request, then: Verb, full: SpaceFull, cost_bytes: int) -> bool:
        """Lets a request wait until room is made, and be taken anew by `then`; returns False if none can be."""
        space = self._spaces.get(full.prefix)
        if space is None or full.is_lasting:
            return False
        peer.owed_requests += 1
        peer.owed_bytes += cost_bytes
        peer.user.held_bytes += cost_bytes
        space.waiting.append(_Waiter(peer, request, then, cost_bytes, full))
        self._begin(space, peer.uid)
        return True

    def _begin(self, space: _Space, uid: int) -> None:
        if not space.making:
            space.by = uid
        space.making = self._making = True
        self._service.outside.wake()

    def _level(self, prefix: bytes, space: _Space) -> float:
        """Returns how full a namespace is, what leaves taken for gone: 1 is at its bound."""
        (used_bytes, used), rules = self._ledger.used(prefix), space.rules
        by_bytes = (used_bytes - space.leaving_bytes) / rules.bytes_max if rules.bytes_max else 0.0
        by_objects = (used - space.leaving) / rules.objects_max if rules.objects_max else 0.0
        return max(by_bytes, by_objects)

    def _goal(self, space: _Space) -> float:
        """Returns how full it may be when enough room is made: for who waits first, too."""
        rules = space.rules
        goal = rules.low_mark
        if space.waiting:
            full = space.waiting[0].error
            by_bytes = 1 - full.charge_bytes / rules.bytes_max if rules.bytes_max else 1.0
            by_objects = 1 - full.objects / rules.objects_max if rules.objects_max else 1.0
            goal = min(goal, by_bytes, by_objects)
        return goal

    # -- turns

    def turn(self, now_ms: int) -> bool:
        """Orders some removals; returns whether there is more to do at once.

        Args:
            now_ms: CLOCK_BOOTTIME.
        """
        if now_ms < self._lifetimes.alarm_ms and not self._lifetimes.fresh and not self._making:
            return False  # the common case, in every turn of the loop
        more = self._lifetimes.expire(now_ms, _NOTES_PER_TURN) == _NOTES_PER_TURN
        left = min(_PER_TURN, _UNDER_WAY_MAX - len(self._ordered))
        if self._making:
            left -= left // 2  # the rest is for those who wait for room, however many have ended
        fresh = self._lifetimes.fresh
        for _ in range(min(left, len(fresh))):
            name = fresh.popleft()
            left -= self._end(name)
        more = more or (bool(fresh) and len(self._ordered) < _UNDER_WAY_MAX)
        left = min(_PER_TURN, _UNDER_WAY_MAX - len(self._ordered))
        for prefix, space in self._spaces.items():
            if space.making:
                more = self._make_room(prefix, space, left) or more
        self._making = any(space.making for space in self._spaces.values())
        return more

    def tick(self) -> None:
        """Tries again what could not be removed; to be called every second."""
        self._lifetimes.fresh.extend(self._later)
        self._later.clear()
        self._lines = 0
        if self._untold:
            log.info("%d objects more were evicted, or could not be", self._untold)
            self._untold = 0
        for space in self._spaces.values():
            self._take_up(space)
            for waiter in [waiter for waiter in space.waiting if waiter.peer.gone]:
                space.waiting.remove(waiter)
                self._release(waiter)
            space.uses.prune(self._index.has, 2 * len(self._index) + 1000)

    def _take_up(self, space: _Space) -> None:
        """Lets those have their turn again that were left alone."""
        passed, space.passed = space.passed, []
        for name in passed:
            seen = self._index.seen(name)
            if seen is not None and seen >= 0 and name not in self._lifetimes.ended:
                space.uses.restore(name, self._service.now_ms)
                self._lifetimes.note(name, seen)

    def hurry(self, name: bytes) -> None:
        """Sees to it that an object which has ended is on its way out, before its name is put anew."""
        if name in self._lifetimes.ended and name not in self._ordered:
            self._end(name, at_once=True)

    def changed(self, name: bytes) -> None:
        """Takes that a change of a name was made: what had ended there is not what is there now."""
        if name in self._lifetimes.ended:
            self._lifetimes.revise(name)

    def _end(self, name: bytes, *, at_once: bool = False) -> bool:
        """Orders the removal of an object that has ended; returns whether it did.

        `at_once`: though its name is being changed; its turn is after that, and it stays if it is another one then.
        """
        self._lifetimes.revise(name)
        cause = self._lifetimes.ended.get(name)
        seen = self._index.seen(name)
        if cause is None:
            return False
        if seen is None or seen < 0:
            self._lifetimes.settle(name)
            return False
        if name in self._ordered or (not at_once and self._service.orders.is_changing(name)):
            self._later.append(name)  # it may be another one in a moment; then its end is not this one
            return False
        return self._order(name, seen, cause, None)

    def _make_room(self, prefix: bytes, space: _Space, left: int) -> bool:
        """Evicts some of a namespace's objects; returns whether there is more to do at once."""
        goal, skipped = self._goal(space), 0
        while self._level(prefix, space) > goal:
            if left <= 0 or skipped >= _SKIPPED_PER_TURN:
                return len(self._ordered) < _UNDER_WAY_MAX
            name = self._next_victim(prefix, space)
            if name is None:
                if not space.leaving:
                    space.making = False
                    self._refuse_waiting(space)
                return False
            seen = self._index.seen(name)
            if seen is None or seen < 0 or sight.is_pinned(seen) or name in self._lifetimes.ended:
                skipped += 1
            elif self._service.orders.is_changing(name):
                skipped += 1
                space.passed.append(name)
            else:
                self._lifetimes.ended[name] = ROOM
                by = space.waiting[0].peer.uid if space.waiting else space.by
                left -= self._order(name, seen, ROOM, space, by)
        self._resume(space)
        if not space.leaving:
            space.making = bool(space.waiting)
        return False

    def _next_victim(self, prefix: bytes, space: _Space) -> bytes | None:
        if space.rules.eviction == LRU:
            return space.uses.take(self._service.now_ms, self._lease_ms)
        leased = []
        found = None
        for name in self._lifetimes.soonest(prefix):
            if not space.uses.is_leased(name, self._service.now_ms, self._lease_ms):
                found = name
                break
            leased.append(name)
            if len(leased) >= _SKIPPED_PER_TURN:
                break
        for name in leased:
            self._lifetimes.note(name, self._index.seen(name) or 0)
        space.leased = bool(leased)
        return found

    def _order(self, name: bytes, seen: int, cause: str, space: _Space | None, by: int | None = None) -> bool:
        charge = self._ledger.charge_of(seen)
        if space is not None:
            space.leaving += 1
            space.leaving_bytes += charge
        self._ordered.add(name)

        def came(_: Evict, outcome: Outcome) -> None:
            self._ordered.discard(name)
            if space is not None:
                space.leaving -= 1
                space.leaving_bytes -= charge
            self._take(name, seen, cause, outcome, space, by)

        small = sight.size_of(seen) <= self._service.limits.inline_bytes_max
        self._service.orders.change([(Evict(name, small, _OURSELVES, only=seen), came)])
        return True

    def _take(self, name: bytes, seen: int, cause: str, outcome: Outcome, space: _Space | None, by: int | None) -> None:
        if outcome.error is not None:
            self._say("could not evict", name, f"{cause}: {outcome.error}")
            if space is None:  # it has ended, whatever the disk says
                self._later.append(name)
                return
        elif outcome.word == b"evicted":
            self.counts[cause] += 1
            self._service.chronicle.note(name, EVICTED, cause, seen, by)
            whom = "" if by is None else f" for uid {by}"
            self._say("evicted", name, f"of uid {sight.owner_of(seen)}, {sight.size_of(seen)} bytes: {cause}{whom}")
        self._lifetimes.settle(name, seen)
        if space is not None:
            if outcome.word != b"evicted" and self._index.has(name):  # it may go another time
                space.passed.append(name)
            self._resume(space)

    def _say(self, what: str, name: bytes, more: str) -> None:
        if self._lines >= _LINES_PER_TICK:
            self._untold += 1
            return
        self._lines += 1
        log.info("%s %s %s", what, _shown(name), more)

    # -- who waits

    def _resume(self, space: _Space) -> None:
        """Takes anew those that wait, oldest first, as long as there is room for them."""
        for _ in range(len(space.waiting)):
            waiter = space.waiting[0]
            if not waiter.peer.gone and not self._fits(waiter, space):
                break
            space.waiting.popleft()
            self._release(waiter)
            space.by = waiter.peer.uid  # what has to go further on, goes for what he puts now
            if not waiter.peer.gone:
                self._service.guarded(waiter.peer, waiter.request, waiter.then)

    def _fits(self, waiter: _Waiter, space: _Space) -> bool:
        rules = space.rules
        error, (used_bytes, used) = waiter.error, self._ledger.used(waiter.error.prefix)
        by_bytes = not rules.bytes_max or used_bytes + error.charge_bytes <= rules.bytes_max
        return by_bytes and (not rules.objects_max or used + error.objects <= rules.objects_max)

    def _refuse_waiting(self, space: _Space) -> None:
        if space.rules.eviction == LRU:
            space.leased = len(space.uses) > 0
        soon = space.leased or bool(space.passed)
        said = "what could be, is in use just now, or on its way: try again"

        def error_of(full: SpaceFull) -> StorekeeperError:
            return Busy(f"{full}; {said}") if soon or self._ledger.is_under_way(full.prefix) else full

        self._refuse(space, error_of)

    def _refuse(self, space: _Space, error_of: Callable[[SpaceFull], StorekeeperError]) -> None:
        """Answers those that wait for room with an error, by why there is none."""
        waiting, space.waiting = space.waiting, deque()
        for waiter in waiting:
            self._release(waiter)
            if not waiter.peer.gone:
                self._service.guarded(waiter.peer, waiter.request, _refusing(error_of(waiter.error)))

    @staticmethod
    def _release(waiter: _Waiter) -> None:
        waiter.peer.owed_requests -= 1
        waiter.peer.owed_bytes -= waiter.cost_bytes
        waiter.peer.user.held_bytes -= waiter.cost_bytes


def _refusing(error: StorekeeperError) -> Verb:
    def refuse(_: Peer, __: wire.Request) -> None:
        raise error

    return refuse


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace"))
