"""What the verbs mean: a request in, a reply or a job out.

Pure: no I/O, no clock, no thread. Everything that waits is a `Job` in `jobs`; whoever carries it out hands it back to
`finished`. Answers stand in `replies`. So the same code runs under the loop and under a simulated world.

Owns who may be answered at all, and that everybody is answered once, whatever goes wrong. The verbs themselves are in
objects.py, changes.py, transfers.py, listings.py, accounts.py, foundations.py and shelves.py.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from storekeeper import wire
from storekeeper.errors import (
    Busy,
    DaemonStopping,
    InternalError,
    NamespaceMissing,
    StorekeeperError,
    StoreUnavailable,
    TooLarge,
)
from storekeeperd import faults
from storekeeperd.access import Access, Rules
from storekeeperd.accounts import Accounts
from storekeeperd.answers import Answer, Peer
from storekeeperd.barriers import Barriers, Verb
from storekeeperd.changes import Changes
from storekeeperd.chronicle import Chronicle
from storekeeperd.coherence import Coherence
from storekeeperd.complaints import Complaints
from storekeeperd.config import Limits
from storekeeperd.evictions import Evictions
from storekeeperd.foundations import Foundations
from storekeeperd.index import UNSIZED, Index
from storekeeperd.ledger import Bounds, Ledger
from storekeeperd.lifetimes import Lifetimes
from storekeeperd.listings import Listings
from storekeeperd.namespaces import DEFAULT, Namespace
from storekeeperd.objects import YES, Objects
from storekeeperd.operations import Job, Outcome
from storekeeperd.orders import Orders
from storekeeperd.outside import Outside
from storekeeperd.shelves import Shelves
from storekeeperd.sight import LIFE_AT, expires_of, is_pinned, process_of
from storekeeperd.stock import Stock
from storekeeperd.transfers import Transfers

log = logging.getLogger(__name__)

_NOTES = 10_000
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
        outside: what it asks of the world around it.
        access: who may do what.
        bounds: how much the store may hold.
        questions_per_job: names looked at in one job.

    Attributes:
        replies: (peer, frames) to be sent; the driver takes them from here.
        orders: how operations become jobs; jobs: those that wait, the driver takes them from here.
        barriers: requests that wait for the index to be true; the driver reads what the watcher has if they ask.
        prefixes: what names of each namespace begin with.
        spaces: what each namespace is told.
        leaving: what names of a namespace begin with that is about to be removed: nothing more is begun there.
        lends: whether uploads may be written by descriptors that are handed out.
        store_away: the store's directory is not there; all verbs but `status` are refused.
        complaints: refusals on their way to the log.
        access, ledger, lifetimes, evictions: who may, how much, how long, what goes first.
        chronicle: what became of objects at the hands of others than their owners.
        stock: what clients read by themselves; shelves: where they can.
        now_ms: milliseconds of CLOCK_BOOTTIME, as of this turn.
    """

    def __init__(
        self,
        limits: Limits,
        index: Index,
        coherence: Coherence,
        *,
        namespaces: Iterable[str] = (),
        status: Callable[[], Mapping[str, Any]] = dict,
        outside: Outside | None = None,
        access: Access | None = None,
        bounds: Bounds | None = None,
        questions_per_job: int = 128,
    ) -> None:
        self.limits = limits
        self.outside = outside or Outside()
        self.access = access or Access(())
        self.orders = Orders(index, coherence, questions_per_job, self._abandon)
        self.complaints = Complaints()
        self.jobs = self.orders.jobs
        self.replies: deque[tuple[Peer, list[Any]]] = deque()
        self.store_away = False
        self.leaving: bytes | None = None
        self.lends = False
        self._index = index
        self._has = index.has
        self._coherence = coherence
        self.prefixes: dict[str, bytes] = {}
        self.spaces: dict[bytes, Namespace] = {}
        self._keeps_lives = self._is_minded = False
        self.now_ms = 0
        self._stopping = False
        self.ledger = Ledger(index, bounds or Bounds(), self.outside.free, lambda: coherence.scans > 0)
        self.lifetimes = Lifetimes(index)
        self._ended = self.lifetimes.ended
        self.chronicle = Chronicle(limits.events_max, self.outside.now_s)
        self.evictions = Evictions(self, index, self.ledger, self.lifetimes, int(limits.lease_s * 1000))
        self.stock = Stock(self, index, coherence)
        self.shelves = Shelves(self, index, coherence)
        for name in (DEFAULT, *namespaces):
            self.set_space(name, Namespace())
        objects = self.objects = Objects(self, index, coherence)
        changes = self.changes = Changes(self, index)
        transfers = self.transfers = Transfers(self, objects, changes)
        self.barriers = Barriers(coherence, self._resume)
        listings = Listings(self, self.barriers, index)
        foundations = self._foundations = Foundations(self)
        accounts = Accounts(self, index, coherence, status)
        self._verbs: dict[bytes, Callable[[Peer, wire.Request], None]] = {
            b"exists": objects.exists,
            b"get": objects.get,
            b"put": changes.put,
            b"evict": changes.evict,
            b"touch": changes.touch,
            b"pin": changes.pin,
            b"unpin": changes.unpin,
            b"shelf": self.shelves.shelf,
            b"stat": objects.stat,
            b"verify": objects.verify,
            b"namespaces": foundations.namespaces,
            b"create": foundations.create,
            b"drop": foundations.drop,
            b"status": accounts.status,
            b"usage": accounts.usage,
            b"events": accounts.events,
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
            fault = faults.report(f"{request.verb.decode()} of uid {peer.uid} pid {peer.pid}", error)
            begun = peer.begun
            if begun is not None and begun.request is request:  # what it has ordered must not answer it once more
                self._abandon(begun, fault)
            else:
                self._refuse(peer, request, fault)

    def refuse_long(self, peer: Peer, frames: Sequence[wire.Frame]) -> None:
        """Answers a message that was longer than a message may be; `frames` are its first ones."""
        error = self.too_large()
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
        self.transfers.handles.forget(peer)

    def stop(self) -> None:
        """Refuses requests from now on; what is under way goes on."""
        self._stopping = True

    def finished(self, job: Job) -> None:
        """Takes back a job with its outcomes."""
        self.orders.finished(job)
        if self.leaving is not None:
            self._foundations.turn()

    def ask_disk(self, names_max: int) -> int:
        """Turns open questions about names into jobs, at most `names_max`; returns how many it turned."""
        asked = self.orders.ask(names_max)
        self.barriers.proceed()
        return asked

    # -- namespaces

    def set_space(self, name: str, space: Namespace, rules: Rules | None = None) -> None:
        """Serves a namespace from now on, or by other rules."""
        prefix = b"" if name == DEFAULT else name.encode() + b"/"
        self.shelves.retire(prefix)
        self.prefixes[name] = prefix
        self.spaces[prefix] = space
        self.access.set_rules(prefix, rules or Rules(owner_only=space.owner_only))
        self.ledger.set_space(prefix, space)
        self.evictions.set_space(prefix, space)
        self.chronicle.set_space(prefix)
        self.mind()

    def drop_space(self, name: str) -> None:
        """Serves a namespace no longer."""
        prefix = self.prefixes.pop(name)
        self.shelves.retire(prefix)
        del self.spaces[prefix]
        self.access.set_rules(prefix, None)
        self.ledger.set_space(prefix, None)
        self.evictions.set_space(prefix, None)
        self.chronicle.drop_space(prefix)

    def enter(self, peer: Peer, options: Mapping[str, Any], right: int) -> bytes:
        """Returns what names of the request's namespace begin with; raises `NamespaceMissing` or `Denied`.

        Nothing else is looked up before.
        """
        prefix = b""
        if options and "namespace" in options:
            namespace = options["namespace"]
            found = self.prefixes.get(namespace)
            if found is None:
                served = ", ".join(name for name, known in self.prefixes.items() if self.access.rights(peer, known))
                raise NamespaceMissing(f"no namespace {namespace[:64]!r} here; this daemon serves you {served}")
            prefix = found
        self.access.check(peer, prefix, right)
        if prefix == self.leaving:
            raise Busy("the namespace is being dropped; try again in a moment")
        return prefix

    def hands_out(self, peer: Peer) -> bool:
        """Returns whether a peer may be given descriptors of objects.

        Whoever keeps one keeps the space of its file, and nobody can see it: so not where space is counted, but for
        those who may do everything.
        """
        return not self.ledger.counts or self.access.is_admin(peer)

    # -- time

    def turn(self, now_ms: int) -> bool:
        """Takes the time; does some of what is due by itself, and returns whether there is more to do at once.

        Args:
            now_ms: milliseconds of CLOCK_BOOTTIME.
        """
        self.now_ms = now_ms
        fills = self.stock.turn(now_ms)
        return not self.store_away and (self.evictions.turn(now_ms) or fills)

    def end_due(self) -> None:
        """Takes all that has ended by now for ended, though its removal is not its turn yet."""
        while self.lifetimes.alarm_ms <= self.now_ms and self.lifetimes.expire(self.now_ms, _NOTES):
            pass

    def is_over(self, seen: int) -> bool:
        """Returns whether an object that a look saw has ended by now."""
        if seen >> LIFE_AT <= 0:
            return False
        process = process_of(seen)
        # One that nobody waits for yet may have ended before we came.
        ended = process in self.lifetimes.begun and not is_pinned(seen) and not self.outside.lives(process)
        return ended or 0 < expires_of(seen) <= self.now_ms

    @property
    def keeps_lives(self) -> bool:
        """Whether objects may have lifetimes: then a name alone does not say that one is there."""
        return self._keeps_lives

    @keeps_lives.setter
    def keeps_lives(self, keeps: bool) -> None:
        self._keeps_lives = keeps
        self.mind()

    def keep_lives(self) -> None:
        """Sees to it that later daemons of this store know that its objects may have lifetimes; raises if none may."""
        if not self.keeps_lives:
            self.outside.keep_lives()
            self.keeps_lives = True

    @property
    def believes_names(self) -> bool:
        """Whether a name that a scan found, and nobody has looked at, is believed to be an object that is there."""
        return not self.keeps_lives or not self._index.whole.unsized

    def minds_every_object(self) -> bool:
        """Whether it matters soon what every object is: how large, whose, and how long it lives."""
        return self.keeps_lives or self.ledger.counts or bool(self._index.followed)

    def identify(self, peer: Peer) -> int:
        """Returns the process of a peer; see deathwatch.py."""
        return self.outside.identify(peer)

    # -- the shortest way

    def is_hit(self, peer: Peer, request_id: bytes, options: bytes, key: bytes) -> bool:
        """Returns whether `exists` of one key is answered with yes at once, from the index; takes that for a use.

        The answer is then `HIT_BEFORE`, the request id, `HIT_AFTER`. It is the commonest request by far, so the
        listener asks this before anything is made of the message: a third of the cost, measured.
        """
        return (
            not options
            and self._has(key)
            and self._coherence.coherent
            and b"/" not in key  # a name of another namespace
            and peer.reads_default == self.access.version  # else its rights are not known, or not these
            and len(request_id) <= _ID_BYTES_MAX
            and not self._stopping
            and not self.store_away
            and key not in self._ended
            and (not self._is_minded or self._takes_hit(key))
        )

    def mind(self) -> None:
        """Settles whether a hit of the default namespace takes more than its name."""
        self._is_minded = self._keeps_lives or b"" in self._index.followed or b"" in self.stock

    def _takes_hit(self, key: bytes) -> bool:
        """Returns False if nobody has looked whether an object has ended; takes its use, if it counts."""
        if self._keeps_lives and self._index.size(key) == UNSIZED:
            return False
        self.evictions.use(b"", key)
        self.stock.note(key)
        return True

    # -- shared by the verbs

    def settle(self, answer: Answer, position: int, outcome: Outcome) -> None:
        """Takes the outcome of one item; sends the answer if it was the last."""
        if outcome.error is not None:
            last = answer.fail(position, outcome.error)
        else:
            last = answer.settle(position, outcome.word, outcome.payload)
        if last:
            self.finish(answer)

    def too_large(self) -> TooLarge:
        """Returns the error of a message that carries too much."""
        return TooLarge(
            f"a message carries at most {self.limits.message_bytes_max} bytes of objects; "
            "send larger ones in ranges: upload, write, commit"
        )

    def finish(self, answer: Answer) -> None:
        """Sends an answer that is complete."""
        errors = answer.details.get("errors")
        if errors:
            position, sentence = next(iter(errors.items()))
            code = answer.words[int(position)].decode()
            self.complaints.tell(answer.peer, answer.request.verb, code, sentence, len(errors))
        self._send(answer.peer, answer.close())

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

    def _refuse(self, peer: Peer, request: wire.Request, error: StorekeeperError) -> None:
        self.complaints.tell_error(peer, request.verb, error)
        self._send(peer, wire.encode_refusal(request.envelope, request.id, error))

    def weigh(self, message: Sequence[wire.Frame]) -> int:
        """Returns about how many bytes the answer to a message will bring, at most; before anything is made of it."""
        start = 0 if message[0] else 1
        verb = message[start + 1] if len(message) > start + 1 else b""
        if verb == b"get":
            # The options are not looked at: of objects of other namespaces little is known here.
            return self.objects.weigh(b"", message[start + 4 :])
        return self.limits.message_bytes_max if verb in (b"read", b"list", b"events") else 0

    def _abandon(self, answer: Answer | None, error: InternalError) -> None:
        if answer is not None and answer.left > 0:
            self.complaints.tell_error(answer.peer, answer.request.verb, error)
            self._send(answer.peer, answer.abandon(error))

    def _send(self, peer: Peer, frames: list[Any]) -> None:
        if not peer.gone:
            self.replies.append((peer, frames))
