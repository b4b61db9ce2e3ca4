"""The verbs that leave objects as they are: exists, get, stat and verify, for one as for many.

Pure. Owns what each asks of the disk and what its outcome means. A hit of `exists` is answered from the index while it
is coherent; a miss, and every hit while it is not, is looked at. What has ended is absent, whatever the disk still has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from storekeeper import wire
from storekeeper.errors import BadKey, BadRequest, Busy, CorruptObject, TooMany
from storekeeperd.access import READ
from storekeeperd.answers import Answer, Peer
from storekeeperd.coherence import Coherence
from storekeeperd.index import UNSIZED, Index
from storekeeperd.operations import Budget, Get, Look, Open, Operation, Outcome, Stat, Verify, failed
from storekeeperd.orders import Ticket
from storekeeperd.sight import ABSENT

if TYPE_CHECKING:
    from storekeeperd.service import Service

YES, NO = b"yes", b"no"
_ABSENT = Outcome(b"absent", ABSENT)


class Objects:
    """The verbs on objects.

    Args:
        service: whose verbs they are.
        index, coherence: what exists, and when that may be believed.
    """

    def __init__(self, service: Service, index: Index, coherence: Coherence) -> None:
        self._service = service
        self._limits = service.limits
        self._orders = service.orders
        self._index = index
        self._coherence = coherence

    def exists(self, peer: Peer, request: wire.Request) -> None:
        """Answers whether there are objects."""
        keys = request.arguments
        prefix = self.check_batch(peer, request, len(keys), READ)
        known = self._index.has if self._service.believes_names else self._is_looked_at
        fresh = not self._coherence.coherent or request.options.get("fresh", False)
        answer = Answer(peer, request, len(keys))
        ended, evictions = self._service.lifetimes.ended, self._service.evictions
        uses = prefix in evictions.follows
        stock = self._service.stock
        shelved = prefix in stock
        operations: list[Operation] = []
        tickets: list[Ticket] = []
        for position, name in self.names(answer, prefix, keys):
            if ended and name in ended:
                self._settle_word(answer, position, NO)
            elif not fresh and known(name):
                if uses:
                    evictions.use(prefix, name)
                if shelved:
                    stock.note(name)
                self._settle_word(answer, position, YES)
            else:
                operations.append(Look(name))
                tickets.append(self._orders.look_ticket(name, self._exists_ticket(answer, position, prefix)))
        self._orders.order_in_parts(operations, tickets, answer)

    def _is_looked_at(self, name: bytes) -> bool:
        return self._index.size(name) not in (None, UNSIZED)

    def get(self, peer: Peer, request: wire.Request) -> None:
        """Answers with the bytes of objects."""
        keys = request.arguments
        prefix = self.check_batch(peer, request, len(keys), READ)
        message_bytes_max = self._limits.message_bytes_max
        if peer.passes_descriptors and self._service.hands_out(peer):
            message_bytes_max = min(message_bytes_max, self._limits.descriptor_bytes_min)
        cost = self.weigh(prefix, keys)
        answer = Answer(peer, request, len(keys), cost_bytes=cost, payloads=True)
        budget = Budget(cost, message_bytes_max)

        ended, evictions = self._service.lifetimes.ended, self._service.evictions
        uses = evictions.uses(prefix)
        stock = self._service.stock
        shelved = prefix in stock

        def got(operation: Get, outcome: Outcome) -> None:
            position = positions.popleft()
            if shelved:
                stock.got(operation, outcome)
            if outcome.error is None:
                self._orders.observe(operation.name, outcome.seen)
                if uses is not None and outcome.word == wire.OK:
                    uses.use(operation.name, self._service.now_ms)
                if answer.settle(position, outcome.word, outcome.payload):
                    self._service.finish(answer)
            else:
                self.observe(operation, outcome, answer, lambda final: self._service.settle(answer, position, final))

        known = self._index.has
        operations: list[Operation] = []
        positions: deque[int] = deque()
        for position, name in self.names(answer, prefix, keys):
            if ended and name in ended:
                self._service.settle(answer, position, _ABSENT)
                continue
            operation = Get(name, budget, known(name))
            operations.append(operation)
            positions.append(position)
            if shelved:
                stock.expect(operation)
        # One job for the whole request: its reads share one budget, and its outcomes come back in order.
        self._orders.order(operations, [got] * len(operations), answer)

    def weigh(self, prefix: bytes, keys: Sequence[wire.Frame]) -> int:
        """Returns how many bytes a `get` may bring, by what is known."""
        message_bytes_max = self._limits.message_bytes_max
        cost = 0
        for key in keys:
            # What is not known to be there may bring a little; if it turns out to be long, it is for a later reply.
            size = self._index.size(prefix + key)
            cost += self._limits.inline_bytes_max if size is None else message_bytes_max if size < 0 else size
        return min(cost, message_bytes_max)

    def verify(self, peer: Peer, request: wire.Request) -> None:
        """Holds objects against their checksums."""
        keys = request.arguments
        prefix = self.check_batch(peer, request, len(keys), READ)
        answer = Answer(peer, request, len(keys))
        changes = [
            (Verify(name), self._item_ticket(answer, position)) for position, name in self._alive(answer, prefix, keys)
        ]
        self._orders.change(changes, answer)

    def stat(self, peer: Peer, request: wire.Request) -> None:
        """Answers with size, owner and age of objects."""
        keys = request.arguments
        prefix = self.check_batch(peer, request, len(keys), READ)
        answer = Answer(peer, request, len(keys), payloads=True)
        names = self._alive(answer, prefix, keys)
        operations: list[Operation] = [Stat(name) for _, name in names]
        self._orders.order_in_parts(operations, [self._item_ticket(answer, position) for position, _ in names], answer)

    def observe(
        self, operation: Get | Open, outcome: Outcome, answer: Answer, settle: Callable[[Outcome], None]
    ) -> None:
        """Takes what a read found, and settles it: bytes that are not the right ones are moved away before.

        In a turn of its own, for nobody may be replacing the object at that moment. If it was replaced since it was
        read, the client is to ask again.
        """
        self._orders.observe(operation.name, outcome.seen)
        if not isinstance(outcome.error, CorruptObject):
            settle(outcome)
            return

        def verified(_: Verify, verdict: Outcome) -> None:
            if verdict.error is not None:
                settle(verdict)
            elif isinstance(operation, Get):
                settle(Outcome(b"later", verdict.seen))
            else:
                settle(failed(Busy("the object changed while it was read; try again"), verdict.seen))

        self._orders.change([(Verify(operation.name), verified)], answer)

    # -- for the verbs that change objects, too

    def names(self, answer: Answer, prefix: bytes, keys: Sequence[wire.Frame]) -> list[tuple[int, bytes]]:
        """Returns (position, name) of the keys that are keys; fails the items of the others."""
        if len(keys) > 1 and wire.are_plain(keys):
            return list(enumerate([prefix + key for key in keys]))
        names = []
        for position, key in enumerate(keys):
            try:
                wire.check_key(key)
            except BadKey as error:
                if answer.fail(position, error):
                    self._service.finish(answer)
            else:
                names.append((position, prefix + key))
        return names

    def check_batch(self, peer: Peer, request: wire.Request, items: int, right: int, *, whole: bool = True) -> bytes:
        """Returns what names of a batch begin with.

        Raises unless the batch has some items, and not too many, and the peer has that right in its namespace.
        """
        if not items or not whole:
            verb = request.verb
            raise BadRequest(f"{verb.decode()} takes as arguments: {wire.ARGUMENTS[verb]}")
        if items > self._limits.batch_items_max:
            raise TooMany(f"a request has at most {self._limits.batch_items_max} items, this one has {items}")
        return self._service.enter(peer, request.options, right)

    # -- parts

    def _alive(self, answer: Answer, prefix: bytes, keys: Sequence[wire.Frame]) -> list[tuple[int, bytes]]:
        """Returns as `names`, but without those of objects that have ended: these are settled."""
        names = self.names(answer, prefix, keys)
        ended = self._service.lifetimes.ended
        if ended:
            for position, name in names:
                if name in ended:
                    self._service.settle(answer, position, _ABSENT)
            names = [(position, name) for position, name in names if name not in ended]
        return names

    def _item_ticket(self, answer: Answer, position: int) -> Ticket:
        def came(operation: Any, outcome: Outcome) -> None:
            self._orders.observe(operation.name, outcome.seen)
            over = outcome.error is None and self._service.is_over(outcome.seen)
            self._service.settle(answer, position, _ABSENT if over else outcome)

        return came

    def _exists_ticket(self, answer: Answer, position: int, prefix: bytes) -> Ticket:
        def looked(operation: Look, outcome: Outcome) -> None:
            if outcome.error is not None:
                self._service.settle(answer, position, outcome)
                return
            # What was chosen to go since the look was ordered is gone already, though its file may have been there.
            ended = operation.name in self._service.lifetimes.ended
            there = outcome.seen != ABSENT and not ended and not self._service.is_over(outcome.seen)
            if there:
                self._service.evictions.use(prefix, operation.name)
            self._settle_word(answer, position, YES if there else NO)

        return looked

    def _settle_word(self, answer: Answer, position: int, word: bytes) -> None:
        if answer.settle(position, word):
            self._service.finish(answer)
