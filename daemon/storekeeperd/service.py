"""What the verbs mean: a request in, a reply or a job out.

Pure: no I/O, no clock, no thread. Everything that waits is a `Job` in `jobs`; whoever carries it out hands it back to
`finished`. Answers stand in `replies`. So the same code runs under the loop and under a simulated world.

A hit of `exists` is answered from the index while it is coherent; a miss, and every hit while it is not, is looked at.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from storekeeper import wire
from storekeeper.errors import (
    BadKey,
    BadRequest,
    Busy,
    CorruptObject,
    DaemonStopping,
    InternalError,
    NamespaceMissing,
    StorekeeperError,
    StoreUnavailable,
    TooLarge,
    TooMany,
)
from storekeeperd import faults
from storekeeperd.accounts import Accounts
from storekeeperd.answers import Answer, Peer
from storekeeperd.barriers import Barriers, Verb
from storekeeperd.coherence import Coherence
from storekeeperd.complaints import Complaints
from storekeeperd.config import Limits
from storekeeperd.index import Index
from storekeeperd.listings import Listings
from storekeeperd.operations import (
    ABSENT,
    Budget,
    Change,
    Evict,
    Get,
    Job,
    Look,
    Open,
    Operation,
    Origin,
    Outcome,
    Put,
    Stat,
    Verify,
    failed,
)
from storekeeperd.orders import Orders, Ticket
from storekeeperd.transfers import Transfers

log = logging.getLogger(__name__)

YES, NO = b"yes", b"no"
_ID_BYTES_MAX = wire.ID_BYTES_MAX
HIT_BEFORE, HIT_AFTER = [wire.VERSION], [wire.OK, b"", YES]
"""What stands before and after the request id in the answer to a hit."""


class Service:
    """The verbs over one index.

    Args:
        limits: bounds on requests.
        index, coherence: what exists, and when that may be believed.
        namespaces: names served beside "default".
        status: returns what `status` answers beyond what the service knows itself.
        questions_per_job: names looked at in one job.

    Attributes:
        replies: (peer, frames) to be sent; the driver takes them from here.
        orders: how operations become jobs; jobs: those that wait, the driver takes them from here.
        barriers: requests that wait for the index to be true; the driver reads what the watcher has if they ask.
        prefixes: what names of each namespace begin with.
        store_away: the store's directory is not there; all verbs but `status` are refused.
        complaints: refusals on their way to the log.
    """

    def __init__(
        self,
        limits: Limits,
        index: Index,
        coherence: Coherence,
        *,
        namespaces: Iterable[str] = (),
        status: Callable[[], Mapping[str, Any]] = dict,
        questions_per_job: int = 128,
    ) -> None:
        self.limits = limits
        self.orders = Orders(index, coherence, questions_per_job, self._abandon)
        self.complaints = Complaints()
        self.jobs = self.orders.jobs
        self.replies: deque[tuple[Peer, list[Any]]] = deque()
        self.store_away = False
        self._index = index
        self._has = index.has
        self._coherence = coherence
        self.prefixes = {"default": b"", **{name: name.encode() + b"/" for name in namespaces}}
        self._stopping = False
        transfers = self.transfers = Transfers(self)
        self.barriers = Barriers(coherence, self._resume)
        listings = Listings(self, self.barriers, index)
        accounts = Accounts(self, index, coherence, status)
        self._verbs: dict[bytes, Callable[[Peer, wire.Request], None]] = {
            b"exists": self._exists,
            b"get": self._get,
            b"put": self._put,
            b"evict": self._evict,
            b"stat": self._stat,
            b"verify": self._verify,
            b"status": accounts.status,
            b"usage": accounts.usage,
            b"list": listings.list_names,
            b"upload": transfers.upload,
            b"write": transfers.write,
            b"commit": transfers.commit,
            b"abort": transfers.abort,
            b"open": transfers.open,
            b"read": transfers.read,
            b"close": transfers.close,
        }
        assert self._verbs.keys() == wire.OPTIONS.keys()

    # -- what comes in

    def request(self, peer: Peer, frames: Sequence[wire.Frame]) -> None:
        """Takes one message of a peer. Whatever it holds, it is answered exactly once, unless the peer goes."""
        try:
            request = wire.decode_request(frames)
        except wire.Refused as refused:
            self.complaints.tell_error(peer, b"", refused.error)
            self._send(peer, wire.encode_refusal(refused.envelope, refused.id, refused.error))
            return
        self.guarded(peer, request, self._answer)

    def _answer(self, peer: Peer, request: wire.Request) -> None:
        if self._stopping:
            raise DaemonStopping("the daemon is stopping; try again in a moment")
        if request.verb != b"status":
            self._check_presence()
        self._verbs[request.verb](peer, request)

    def _resume(self, peer: Peer, request: wire.Request, verb: Verb) -> None:
        """Answers a request that has waited."""

        def answer(peer: Peer, request: wire.Request) -> None:
            self._check_presence()
            verb(peer, request)

        self.guarded(peer, request, answer)

    def _check_presence(self) -> None:
        if self.store_away:
            raise StoreUnavailable("the store's directory is not there; the daemon serves again when it is back")

    def guarded(self, peer: Peer, request: wire.Request, answer: Callable[[Peer, wire.Request], None]) -> None:
        """Answers a request; whatever goes wrong is an answer too."""
        try:
            answer(peer, request)
        except StorekeeperError as error:
            self._refuse(peer, request, error)
        except Exception as error:
            self._refuse(
                peer, request, faults.report(f"{request.verb.decode()} of uid {peer.uid} pid {peer.pid}", error)
            )

    def refuse_long(self, peer: Peer, frames: Sequence[wire.Frame]) -> None:
        """Answers a message that was longer than a message may be; `frames` are its first ones."""
        error = self._too_large()
        self.complaints.tell_error(peer, b"", error)
        self._send(peer, self.refusal_of(frames, error))

    @staticmethod
    def refusal_of(frames: Sequence[wire.Frame], error: StorekeeperError) -> list[Any]:
        """Returns the answer that refuses a message, whatever it says."""
        envelope = not frames[0]
        place = 3 if envelope else 2
        request_id = bytes(frames[place][: wire.ID_BYTES_MAX]) if len(frames) > place else b""
        return wire.encode_refusal(envelope, request_id, error)

    def gone(self, peer: Peer) -> None:
        """Takes the end of a connection: what it held is released."""
        peer.gone = True
        self.transfers.forget(peer)

    def stop(self) -> None:
        """Refuses requests from now on; what is under way goes on."""
        self._stopping = True

    def finished(self, job: Job) -> None:
        """Takes back a job with its outcomes."""
        self.orders.finished(job)

    def ask_disk(self, names_max: int) -> int:
        """Turns open questions about names into jobs, at most `names_max`; returns how many it turned."""
        asked = self.orders.ask(names_max)
        self.barriers.proceed()
        return asked

    # -- the verbs

    def is_hit(self, request_id: bytes, options: bytes, key: bytes) -> bool:
        """Returns whether `exists` of one key can be answered with yes at once, from the index.

        The answer is then `HIT_BEFORE`, the request id, `HIT_AFTER`. It is the commonest request by far, so the
        listener asks this before anything is made of the message: a third of the cost, measured.
        """
        return (
            not options
            and self._has(key)
            and self._coherence.coherent
            and b"/" not in key  # a name of another namespace
            and len(request_id) <= _ID_BYTES_MAX
            and not self._stopping
            and not self.store_away
        )

    def _exists(self, peer: Peer, request: wire.Request) -> None:
        keys = request.arguments
        known = self._index.has
        prefix = self._check_batch(request, len(keys))
        fresh = not self._coherence.coherent or request.options.get("fresh", False)
        answer = Answer(peer, request, len(keys))
        operations: list[Operation] = []
        tickets: list[Ticket] = []
        for position, name in self._names(answer, prefix, keys):
            if not fresh and known(name):
                self._settle_word(answer, position, YES)
            else:
                operations.append(Look(name))
                tickets.append(self.orders.look_ticket(name, self._exists_ticket(answer, position)))
        self.orders.order_in_parts(operations, tickets, answer)

    def _get(self, peer: Peer, request: wire.Request) -> None:
        keys = request.arguments
        prefix = self._check_batch(request, len(keys))
        message_bytes_max = self.limits.message_bytes_max
        # What is not known to be there may bring a little; if it turns out to be long, it is for a later reply.
        cost = 0
        for key in keys:
            size = self._index.size(prefix + key)
            cost += self.limits.inline_bytes_max if size is None else message_bytes_max if size < 0 else size
        cost = min(cost, message_bytes_max)
        answer = Answer(peer, request, len(keys), cost_bytes=cost, payloads=True)
        budget = Budget(cost, message_bytes_max)

        def got(operation: Get, outcome: Outcome) -> None:
            position = positions.popleft()
            if outcome.error is None:
                self.orders.observe(operation.name, outcome.seen)
                self.settle(answer, position, outcome)
            else:
                self.observe(operation, outcome, answer, lambda final: self.settle(answer, position, final))

        known = self._index.has
        operations: list[Operation] = []
        positions: deque[int] = deque()
        for position, name in self._names(answer, prefix, keys):
            operations.append(Get(name, budget, known(name)))
            positions.append(position)
        # One job for the whole request: its reads share one budget, and its outcomes come back in order.
        self.orders.order(operations, [got] * len(operations), answer)

    def _put(self, peer: Peer, request: wire.Request) -> None:
        arguments = request.arguments
        items = len(arguments) // 2
        prefix = self._check_batch(request, items, whole=len(arguments) % 2 == 0)
        payloads = arguments[1::2]
        moved = sum(map(len, payloads))
        if moved > self.limits.message_bytes_max:
            raise self._too_large()
        options = request.options
        replace = options.get("replace", False)
        durable = options.get("durability") == "disk"
        origin = Origin(peer.uid)
        answer = Answer(peer, request, items, cost_bytes=moved)
        answer.details["durability"] = "disk" if durable else "os"
        before_ns = options.get("before", 0)
        changes: list[tuple[int, Change]] = []
        for position, name in self._names(answer, prefix, arguments[::2]):
            small = not replace or self._is_small(name)
            changes.append((position, Put(name, payloads[position], origin, replace, durable, small, before_ns)))
        self._change_each(answer, changes)

    def _evict(self, peer: Peer, request: wire.Request) -> None:
        keys = request.arguments
        prefix = self._check_batch(request, len(keys))
        answer = Answer(peer, request, len(keys))
        names = self._names(answer, prefix, keys)
        before_ns = request.options.get("before", 0)
        self._change_each(
            answer, [(position, Evict(name, self._is_small(name), before_ns)) for position, name in names]
        )

    def _verify(self, peer: Peer, request: wire.Request) -> None:
        keys = request.arguments
        prefix = self._check_batch(request, len(keys))
        answer = Answer(peer, request, len(keys))
        self._change_each(answer, [(position, Verify(name)) for position, name in self._names(answer, prefix, keys)])

    def _stat(self, peer: Peer, request: wire.Request) -> None:
        keys = request.arguments
        prefix = self._check_batch(request, len(keys))
        answer = Answer(peer, request, len(keys), payloads=True)
        names = self._names(answer, prefix, keys)
        operations: list[Operation] = [Stat(name) for _, name in names]
        self.orders.order_in_parts(operations, [self._item_ticket(answer, position) for position, _ in names], answer)

    # -- shared by the verbs (and by transfers)

    def prefix(self, options: Mapping[str, Any]) -> bytes:
        """Returns what names of the request's namespace begin with; raises `NamespaceMissing`."""
        if not options:
            return b""
        namespace = options.get("namespace", "default")
        prefix = self.prefixes.get(namespace)
        if prefix is None:
            served = ", ".join(self.prefixes)
            raise NamespaceMissing(f"no namespace {namespace[:64]!r} here; this daemon serves {served}")
        return prefix

    def settle(self, answer: Answer, position: int, outcome: Outcome) -> None:
        """Takes the outcome of one item; sends the answer if it was the last."""
        if outcome.error is not None:
            last = answer.fail(position, outcome.error)
        else:
            last = answer.settle(position, outcome.word, outcome.payload)
        if last:
            self._finish(answer)

    def observe(
        self, operation: Get | Open, outcome: Outcome, answer: Answer, settle: Callable[[Outcome], None]
    ) -> None:
        """Takes what a read found, and settles it: bytes that are not the right ones are moved away before.

        In a turn of its own, for nobody may be replacing the object at that moment. If it was replaced since it was
        read, the client is to ask again.
        """
        self.orders.observe(operation.name, outcome.seen)
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

        self.orders.change([(Verify(operation.name), verified)], answer)

    def reply(
        self,
        peer: Peer,
        request: wire.Request,
        results: bytes,
        payloads: Sequence[Any] = (),
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Answers a request at once."""
        self._send(peer, wire.encode_reply(request.envelope, request.id, results, payloads, details))

    # -- parts

    def _names(self, answer: Answer, prefix: bytes, keys: Sequence[wire.Frame]) -> list[tuple[int, bytes]]:
        """Returns (position, name) of the keys that are keys; fails the items of the others."""
        names = []
        for position, key in enumerate(keys):
            try:
                wire.check_key(key)
            except BadKey as error:
                if answer.fail(position, error):
                    self._finish(answer)
            else:
                names.append((position, prefix + key))
        return names

    def _check_batch(self, request: wire.Request, items: int, *, whole: bool = True) -> bytes:
        """Returns what names of a batch begin with; raises unless it has some items, and not too many."""
        if not items or not whole:
            verb = request.verb
            raise BadRequest(f"{verb.decode()} takes as arguments: {wire.ARGUMENTS[verb]}")
        if items > self.limits.batch_items_max:
            raise TooMany(f"a request has at most {self.limits.batch_items_max} items, this one has {items}")
        return self.prefix(request.options)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"a message carries at most {self.limits.message_bytes_max} bytes of objects; "
            "send larger ones in ranges: upload, write, commit"
        )

    def _is_small(self, name: bytes) -> bool:
        size = self._index.size(name)
        return size is None or 0 <= size <= self.limits.inline_bytes_max

    def _change_each(self, answer: Answer, items: Sequence[tuple[int, Change]]) -> None:
        self.orders.change([(operation, self._item_ticket(answer, position)) for position, operation in items], answer)

    def _item_ticket(self, answer: Answer, position: int) -> Ticket:
        def came(operation: Any, outcome: Outcome) -> None:
            self.orders.observe(operation.name, outcome.seen)
            self.settle(answer, position, outcome)

        return came

    def _exists_ticket(self, answer: Answer, position: int) -> Ticket:
        def looked(_: Look, outcome: Outcome) -> None:
            if outcome.error is not None:
                self.settle(answer, position, outcome)
            else:
                self._settle_word(answer, position, NO if outcome.seen == ABSENT else YES)

        return looked

    def _settle_word(self, answer: Answer, position: int, word: bytes) -> None:
        if answer.settle(position, word):
            self._finish(answer)

    def _refuse(self, peer: Peer, request: wire.Request, error: StorekeeperError) -> None:
        self.complaints.tell_error(peer, request.verb, error)
        self._send(peer, wire.encode_refusal(request.envelope, request.id, error))

    def _finish(self, answer: Answer) -> None:
        errors = answer.details.get("errors")
        if errors:
            position, sentence = next(iter(errors.items()))
            code = answer.words[int(position)].decode()
            self.complaints.tell(answer.peer, answer.request.verb, code, sentence, len(errors))
        self._send(answer.peer, answer.close())

    def _abandon(self, answer: Answer | None, error: InternalError) -> None:
        if answer is not None and answer.left > 0:
            self.complaints.tell_error(answer.peer, answer.request.verb, error)
            self._send(answer.peer, answer.abandon(error))

    def _send(self, peer: Peer, frames: list[Any]) -> None:
        if not peer.gone:
            self.replies.append((peer, frames))
