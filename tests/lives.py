"""A fake disk whose objects have owners, ages and lifetimes, and a service on it; jobs are done when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storekeeper import wire
from storekeeper.errors import Denied, KeyExists, StorekeeperError, from_wire
from storekeeperd import operations as op
from storekeeperd import sight
from storekeeperd.access import Access
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.config import Limits
from storekeeperd.index import Index
from storekeeperd.ledger import Bounds
from storekeeperd.namespaces import Namespace
from storekeeperd.operations import Job, Operation, Outcome, failed
from storekeeperd.outside import Outside
from storekeeperd.service import Service

BLOCK = 4096


class LivingDisk:
    """Objects in memory; knows of each whose it is, when it came and how long it lives."""

    def __init__(self, changed: Callable[[bytes], None]) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.open: dict[int, bytearray] = {}
        self._changed = changed
        self._last_descriptor = 0
        self.now_ms = 1_000_000
        self.kept: dict[bytes, dict[str, Any]] = {}
        self.failing: dict[bytes, StorekeeperError] = {}  # names of which no removal succeeds

    def set(self, name: bytes, payload: bytes | None) -> None:
        """Changes an object, as anybody may; the watcher hears of it."""
        if payload is not None:
            self.objects[name] = payload
        else:
            self.objects.pop(name, None)
            self.kept.pop(name, None)
        self._changed(name)

    def add(self, name: bytes, payload: bytes = b"x", owner: int = 1000, **life: Any) -> None:
        """Puts an object there as another daemon would have."""
        self.kept[name] = {"owner": owner, "created_s": self.now_ms // 1000, **life}
        self.set(name, payload)

    def seen(self, name: bytes) -> int:
        if name not in self.objects:
            return sight.ABSENT
        kept = {"owner": 0, "created_s": 0, **self.kept.get(name, {})}
        return sight.of(len(self.objects[name]), **kept)

    def perform(self, operation: Operation) -> Outcome:
        """Carries out an operation at this instant."""
        name = getattr(operation, "name", b"")
        try:
            outcome: Outcome = getattr(self, f"_{type(operation).__name__.lower()}")(operation)
        except StorekeeperError as error:
            outcome = failed(error)
        if name:
            outcome.seen = self.seen(name)
        return outcome

    def _look(self, _: op.Look) -> Outcome:
        return Outcome(wire.OK)

    def _survey(self, operation: op.Survey) -> Outcome:
        return Outcome(wire.OK, payload=[self.seen(name) for name in operation.names])

    def _get(self, operation: op.Get) -> Outcome:
        payload = self.objects.get(operation.name)
        if payload is None:
            return Outcome(b"absent")
        if len(payload) > operation.budget.bytes_left:
            return Outcome(b"later")
        operation.budget.bytes_left -= len(payload)
        return Outcome(wire.OK, payload=payload)

    def _stat(self, operation: op.Stat) -> Outcome:
        return Outcome(wire.OK if operation.name in self.objects else b"absent", payload=b"{}")

    def _begin(self, _: op.Begin) -> Outcome:
        return Outcome(wire.OK, number=self._descriptor(b""))

    def _write(self, operation: op.Write) -> Outcome:
        content = self.open[operation.descriptor]
        end = operation.offset + len(operation.payload)
        content.extend(bytes(max(0, end - len(content))))
        content[operation.offset : end] = operation.payload
        return Outcome(wire.OK)

    def _open(self, operation: op.Open) -> Outcome:
        if operation.name not in self.objects:
            return Outcome(b"absent")
        return Outcome(wire.OK, number=self._descriptor(self.objects[operation.name]))

    def _read(self, operation: op.Read) -> Outcome:
        content = self.open[operation.descriptor]
        return Outcome(wire.OK, payload=bytes(content[operation.offset : operation.offset + operation.length]))

    def _close(self, operation: op.Close) -> Outcome:
        del self.open[operation.descriptor]
        return Outcome(wire.OK)

    def _descriptor(self, content: bytes) -> int:
        self._last_descriptor += 1
        self.open[self._last_descriptor] = bytearray(content)
        return self._last_descriptor

    def _may(self, name: bytes, origin: op.Origin) -> None:
        owner = self.kept.get(name, {}).get("owner", 0)
        if not origin.any_owner and owner != origin.uid:
            raise Denied(f"it is uid {owner}'s")

    def _evict(self, operation: op.Evict) -> Outcome:
        name = operation.name
        if name in self.failing:
            return failed(self.failing[name], self.seen(name))
        if name in self.objects:
            if operation.only is not None and not sight.is_same(self.seen(name), operation.only):
                return Outcome(b"kept", self.seen(name))
            self._may(name, operation.origin)
            self.set(name, None)
            return Outcome(b"evicted")
        return Outcome(b"absent")

    def _mark(self, operation: op.Mark) -> Outcome:
        name = operation.name
        if name not in self.objects:
            return Outcome(b"absent", sight.ABSENT)
        self._may(name, operation.origin)
        kept = self.kept.setdefault(name, {"owner": 0, "created_s": 0})
        if operation.ttl_us is not None:
            kept["expires_ms"] = self.now_ms + operation.ttl_us // 1000 if operation.ttl_us else 0
        if operation.pinned is not None:
            kept["pinned"] = operation.pinned
        if operation.process is not None:
            kept["process"] = operation.process
        return Outcome(wire.OK, self.seen(name))

    def _verify(self, operation: op.Verify) -> Outcome:
        return Outcome(wire.OK if operation.name in self.objects else b"absent", self.seen(operation.name))

    def _task(self, operation: op.Task) -> Outcome:
        operation.run()
        return Outcome(wire.OK)

    def _put(self, operation: op.Put) -> Outcome:
        return self._living(operation, bytes(operation.payload))

    def _commit(self, operation: op.Commit) -> Outcome:
        return self._living(operation, bytes(self.open.pop(operation.descriptor)))

    def _living(self, operation: op.Put | op.Commit, payload: bytes) -> Outcome:
        name, life = operation.name, operation.life
        old = self.objects.get(name)
        if old is not None and not operation.replace:
            if old == payload:
                return Outcome(b"same", self.seen(name))
            return failed(KeyExists("other bytes"), self.seen(name))
        if old is not None:
            self._may(name, operation.origin)
        self.kept[name] = {
            "owner": operation.origin.uid,
            "created_s": self.now_ms // 1000,
            "expires_ms": self.now_ms + life.ttl_us // 1000 if life.ttl_us else 0,
            "process": life.process,
        }
        self.set(name, payload)
        return Outcome(b"created" if old is None else b"replaced", self.seen(name))


class LivingBench:
    """A service on such a disk."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        bounds: Bounds | None = None,
        outside: Outside | None = None,
        access: Access | None = None,
        **spaces: Namespace,
    ) -> None:
        self.index = Index()
        self.coherence = Coherence(self.index)
        self.service = Service(
            limits or Limits(), self.index, self.coherence, outside=outside, access=access, bounds=bounds
        )
        for name, space in spaces.items():
            self.service.set_space(name, space)
        self.disk = LivingDisk(self.coherence.ask)
        self.peer = Peer(1000, 100, 1)
        self.waiting: list[Job] = []
        self.last_id = 0
        self.ordered: list[Operation] = []
        self.coherence.begin_scan()
        self.coherence.end_scan(complete=True)
        self.coherence.sweep()

    @property
    def now_ms(self) -> int:
        return self.disk.now_ms

    def send(self, verb: bytes, *arguments: bytes, peer: Peer | None = None, **options: Any) -> bytes:
        """Makes a request; what it orders waits."""
        self.last_id += 1
        request_id = b"%d" % self.last_id
        self.service.request(peer or self.peer, wire.encode_request(verb, request_id, options, arguments))
        self.take_out()
        return request_id

    def take_out(self) -> None:
        while self.service.jobs:
            job = self.service.jobs.popleft()
            self.ordered += job.operations
            self.waiting.append(job)

    def do(self, position: int = 0) -> None:
        job = self.waiting.pop(position)
        job.outcomes = [self.disk.perform(operation) for operation in job.operations]
        self.service.finished(job)
        self.take_out()

    def do_all(self) -> None:
        while self.waiting:
            self.do()

    def look(self) -> None:
        """Looks at whatever is in question."""
        while self.service.ask_disk(1000) or self.service.jobs or self.waiting:
            self.take_out()
            self.do_all()

    def turn(self, passed_ms: int = 0) -> bool:
        """Lets time pass; what the daemon does by itself waits to be done. Returns whether there is more at once."""
        self.disk.now_ms += passed_ms
        more = self.service.turn(self.disk.now_ms)
        self.take_out()
        return more

    def settle(self, passed_ms: int = 0) -> None:
        """Lets time pass, and everything be done that follows from it."""
        more = self.turn(passed_ms)
        for _ in range(10_000):
            if not more and not self.waiting:
                break
            self.do_all()
            more = self.turn()
        else:
            raise AssertionError("it never comes to rest")
        self.look()

    def replies(self) -> dict[bytes, list[Any]]:
        replies = {wire.reply_id(frames): frames for _, frames in self.service.replies}
        assert len(replies) == len(self.service.replies), "answered twice"
        self.service.replies.clear()
        return replies

    def reply(self, request_id: bytes) -> wire.Reply:
        reply = wire.decode_reply(self.replies()[request_id])
        for position, message in reply.details.get("errors", {}).items():
            raise from_wire(reply.words[int(position)], message)
        return reply

    def ask(self, verb: bytes, *arguments: bytes, peer: Peer | None = None, **options: Any) -> wire.Reply:
        """Makes a request, carries everything out, returns its reply; raises what was refused."""
        request_id = self.send(verb, *arguments, peer=peer, **options)
        self.do_all()
        return self.reply(request_id)

    def put(self, key: bytes, blocks: int = 1, peer: Peer | None = None, **options: Any) -> list[str]:
        """Puts an object of so many whole blocks."""
        return self.ask(b"put", key, bytes(blocks * BLOCK), peer=peer, **options).words

    def check_rest(self) -> None:
        """Nothing is owed or reserved any more."""
        assert not self.waiting
        reserved = self.service.ledger.reserved()
        assert (reserved.objects, reserved.charged_bytes) == (0, 0)
        assert (self.peer.owed_requests, self.peer.owed_bytes) == (0, 0)
