"""The verbs that change objects: put, evict, touch, pin and unpin, for one as for many.

Pure. Owns what each asks of the disk and what its outcome means; and that room is reserved before anything is put.
Whether somebody may change what is there already decides disk.py, when it has it before it. What was another one's
object is told to chronicle.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storekeeper import wire
from storekeeper.errors import BadRequest, Busy, StorekeeperError
from storekeeperd.access import WRITE
from storekeeperd.answers import Answer, Peer
from storekeeperd.chronicle import ASKED, EVICTED, REPLACED
from storekeeperd.index import Index, charge_of
from storekeeperd.ledger import Charge, SpaceFull
from storekeeperd.operations import ENDLESS, Change, Evict, Life, Mark, Origin, Outcome, Put
from storekeeperd.orders import Ticket, Witness
from storekeeperd.sight import ABSENT, UNSEEN, owner_of

if TYPE_CHECKING:
    from storekeeperd.service import Service

_ABSENT = Outcome(b"absent", ABSENT)
_THERE = (b"created", b"replaced", b"same")
_EVENTS = {b"evicted": EVICTED, b"replaced": REPLACED}


class Changes:
    """The verbs that change objects.

    Args:
        service: whose verbs they are.
        index: what exists.
    """

    def __init__(self, service: Service, index: Index) -> None:
        self._service = service
        self._limits = service.limits
        self._orders = service.orders
        self._index = index

    def put(self, peer: Peer, request: wire.Request) -> None:
        """Stores objects, as far as there is room for them; waits for it where some can be made."""
        arguments, options = request.arguments, request.options
        items = len(arguments) // 2
        objects = self._service.objects
        prefix = objects.check_batch(peer, request, items, WRITE, whole=len(arguments) % 2 == 0)
        payloads = arguments[1::2]
        moved = sum(map(len, payloads))
        if moved > self._limits.message_bytes_max:
            raise self._service.too_large()
        life = self.life(peer, options, prefix)
        charges = self._reserve(peer, request, prefix, payloads)
        if charges is None:
            return  # it waits
        answer = Answer(peer, request, items, cost_bytes=moved)
        durable = self.is_durable(options, prefix)
        answer.details["durability"] = "disk" if durable else "os"
        replace, before_ns = options.get("replace", False), options.get("before", 0)
        origin = self.origin(peer, prefix)
        witnessed = replace and origin.any_owner
        changes: list[tuple[Change, Ticket]] = []
        ticket_of = self._put_tickets(answer, prefix)
        ended = self._service.lifetimes.ended
        names = objects.names(answer, prefix, arguments[::2])
        for position, name in names:
            charge = charges[position]
            if isinstance(charge, StorekeeperError):
                if answer.fail(position, charge):
                    self._service.finish(answer)
                continue
            if name in ended:
                self._service.evictions.hurry(name)
            small = not replace or self._is_small(name)
            put = Put(name, payloads[position], origin, replace, durable, small, before_ns, life)
            ticket = ticket_of(position, charge)
            changes.append((put, self.witness(origin, ticket) if witnessed else ticket))
        if len(names) < items:
            named = {position for position, _ in names}
            for position, charge in enumerate(charges):
                if position not in named and isinstance(charge, Charge):
                    self._service.ledger.release(charge)
        self._orders.change(changes, answer)

    def evict(self, peer: Peer, request: wire.Request) -> None:
        """Removes objects."""
        before_ns = request.options.get("before", 0)

        def change(name: bytes, origin: Origin) -> Change:
            return Evict(name, self._is_small(name), origin, before_ns)

        self._change_each(peer, request, change, removes=True)

    def touch(self, peer: Peer, request: wire.Request) -> None:
        """Lets objects expire so long from now on, or end with the caller's process."""
        options = request.options
        prefix = self._service.enter(peer, options, WRITE)
        process = self._service.identify(peer) if "lifetime" in options else None
        ttl_s = options.get("ttl", self._service.spaces[prefix].ttl_s or None)
        if ttl_s is None and process is None:
            raise BadRequest("touch needs the option ttl or lifetime: the namespace has no lifetime of its own")
        ttl_us = None if ttl_s is None else int(ttl_s * 1e6)
        self._service.keep_lives()
        self._change_each(peer, request, lambda name, origin: Mark(name, origin, ttl_us, process=process))

    def pin(self, peer: Peer, request: wire.Request) -> None:
        """Keeps the daemon from removing objects of its own accord."""
        self._service.enter(peer, request.options, WRITE)  # whoever may not leaves no trace in the store
        self._service.keep_lives()
        self._change_each(peer, request, lambda name, origin: Mark(name, origin, pinned=True))

    def unpin(self, peer: Peer, request: wire.Request) -> None:
        """Takes pins back."""
        self._change_each(peer, request, lambda name, origin: Mark(name, origin, pinned=False))

    # -- what is said of a put; of uploads, too

    def origin(self, peer: Peer, prefix: bytes) -> Origin:
        """Returns who changes something in a namespace."""
        return Origin(peer.uid, self._service.access.any_owner(peer, prefix))

    def is_durable(self, options: Mapping[str, Any], prefix: bytes) -> bool:
        """Returns whether a put is to survive a power cut."""
        durability: str = options.get("durability") or self._service.spaces[prefix].durability
        return durability == "disk"

    def life(self, peer: Peer, options: Mapping[str, Any], prefix: bytes) -> Life:
        """Returns how long an object is to live that is put; raises if that cannot be kept."""
        ttl_s = options.get("ttl", self._service.spaces[prefix].ttl_s)
        process = self._service.identify(peer) if "lifetime" in options else 0
        if not ttl_s and not process:
            return ENDLESS
        self._service.keep_lives()
        return Life(max(1, int(ttl_s * 1e6)) if ttl_s else 0, process)

    def witness(self, origin: Origin, ticket: Callable[[Any, Outcome], None]) -> Witness:
        """Returns the ticket of a change by who may change what others own: if it was another one's, that is an event.

        It is one, too, if nobody had looked at the object yet: whose it was cannot be told any more.
        """
        note, uid = self._service.chronicle.note, origin.uid

        def came(operation: Change, outcome: Outcome, was: int | None) -> None:
            what = _EVENTS.get(outcome.word)
            if what is not None and (was is None or was < 0 or owner_of(was) != uid):
                note(operation.name, what, ASKED, UNSEEN if was is None else was, uid)
            ticket(operation, outcome)

        return Witness(came)

    # -- parts

    def _reserve(
        self, peer: Peer, request: wire.Request, prefix: bytes, payloads: Sequence[wire.Frame]
    ) -> list[Charge | StorekeeperError | None] | None:
        """Reserves room for each item, or says why there is none; None if the request waits until some is made."""
        evictions, ledger, uid = self._service.evictions, self._service.ledger, peer.uid
        if not ledger.bounds_anything:
            return [None] * len(payloads)
        charges: list[Charge | StorekeeperError | None] = []
        if len(payloads) > 1:
            charges += ledger.reserve_all(prefix, uid, list(map(len, payloads)))
            if charges:
                evictions.heed(prefix, uid)
                return charges
        reserve = ledger.reserve
        full: SpaceFull | None = None
        for payload in payloads:
            try:
                charges.append(reserve(prefix, uid, len(payload)))
            except SpaceFull as error:
                full = full or error
                charges.append(error)
            except Busy:  # so is all of the request: its client makes it again
                self._release(charges)
                raise
            except StorekeeperError as error:
                charges.append(error)
        if full is not None:
            # What is refused for another reason needs no room.
            needs = [isinstance(charge, Charge | SpaceFull) for charge in charges]
            full.charge_bytes = sum(charge_of(len(payload)) for payload in itertools.compress(payloads, needs))
            full.objects = sum(needs)
            if evictions.wait(peer, request, self.put, full, sum(map(len, payloads))):
                self._release(charges)
                return None
        evictions.heed(prefix, uid)
        return charges

    def _release(self, charges: Sequence[Charge | StorekeeperError | None]) -> None:
        for charge in charges:
            if isinstance(charge, Charge):
                self._service.ledger.release(charge)

    def _put_tickets(
        self, answer: Answer, prefix: bytes
    ) -> Callable[[int, Charge | None], Callable[[Put, Outcome], None]]:
        """Returns what makes the ticket of each put of a batch, of its position and its charge."""
        service = self._service
        evictions, stock, release, ended = (
            service.evictions,
            service.stock,
            service.ledger.release,
            service.lifetimes.ended,
        )
        uses = evictions.uses(prefix)

        def ticket_of(position: int, charge: Charge | None) -> Callable[[Put, Outcome], None]:
            def came(operation: Put, outcome: Outcome) -> None:
                if charge is not None:
                    release(charge)
                if operation.name in ended:
                    evictions.changed(operation.name)
                if uses is not None and outcome.word in _THERE:
                    uses.use(operation.name, service.now_ms, lease=False)
                if prefix in stock:
                    stock.put(operation, outcome)
                if outcome.error is not None:
                    service.settle(answer, position, outcome)
                elif answer.settle(position, outcome.word, outcome.payload):
                    service.finish(answer)

            return came

        return ticket_of

    def _change_each(self, peer: Peer, request: wire.Request, change: Any, *, removes: bool = False) -> None:
        """Changes each of some objects, or removes it; those that have ended are absent."""
        keys = request.arguments
        objects, ended = self._service.objects, self._service.lifetimes.ended
        prefix = objects.check_batch(peer, request, len(keys), WRITE)
        answer = Answer(peer, request, len(keys))
        origin = self.origin(peer, prefix)
        witnessed = removes and origin.any_owner
        changes: list[tuple[Change, Ticket]] = []
        for position, name in objects.names(answer, prefix, keys):
            if ended and name in ended:
                self._service.settle(answer, position, _ABSENT)
            else:
                ticket = self._item_ticket(answer, position, prefix)
                changes.append((change(name, origin), self.witness(origin, ticket) if witnessed else ticket))
        self._orders.change(changes, answer)

    def _item_ticket(self, answer: Answer, position: int, prefix: bytes) -> Callable[[Any, Outcome], None]:
        def came(operation: Any, outcome: Outcome) -> None:
            self._service.evictions.changed(operation.name)
            if outcome.word == wire.OK:  # it is marked: one that was pinned may be evicted some day
                self._service.evictions.use(prefix, operation.name, lease=False)
            self._service.settle(answer, position, outcome)

        return came

    def _is_small(self, name: bytes) -> bool:
        size = self._index.size(name)
        return size is None or 0 <= size <= self._limits.inline_bytes_max
