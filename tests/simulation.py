"""A seeded world around the service: a fake disk with faults, workers that finish in any order, outsiders that change
the directory, a watcher whose hints come late, twice, or never but for a signal of loss, and scans that see names as
readdir(3) may.

One seed is one world, always the same. `World.run` plays it and raises `Wrong` with the log if a promise is broken.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from fake_shelf import FakeMemory
from storekeeper import wire
from storekeeper.errors import DiskFailed, DiskFull, KeyExists
from storekeeperd import operations as op
from storekeeperd.answers import Peer
from storekeeperd.coherence import Coherence
from storekeeperd.config import Limits
from storekeeperd.echoes import MADE, REMOVED
from storekeeperd.index import UNSIZED, Index
from storekeeperd.outside import Outside
from storekeeperd.service import Service
from storekeeperd.sight import ABSENT, UNSEEN

LIMITS = Limits(message_bytes_max=1 << 20, peer_bytes_max=1 << 21, list_names=3)
MOVED_HERE = 0x80  # inotify(7), IN_MOVED_TO
MARKER = (b"", 0x4000)  # IN_Q_OVERFLOW
ONE_PAGE = Limits(message_bytes_max=1 << 20, peer_bytes_max=1 << 21, list_names=100)


class Wrong(AssertionError):
    """A promise is broken; the message has the seed and the log."""


class FakeDisk:
    """Objects in memory. Carries out operations as disk.py does, and fails now and then if told to.

    It knows neither owners nor ages: what it sees of an object is a plain size, and everybody may do everything.
    """

    def __init__(
        self, changed: Callable[[bytes, int], None] = lambda *_: None, chance: random.Random | None = None
    ) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.open: dict[int, bytearray] = {}
        self.ours: set[bytes] = set()  # objects that nobody but us could write to
        self.ghosts: dict[bytes, bytes] = {}  # removed, but looks still see them for a moment
        self.fault_rate = 0.0
        self._changed = changed
        self._chance = chance or random.Random(0)
        self._last_descriptor = 0

    def set(self, name: bytes, payload: bytes | None) -> None:
        """Changes an object, as anybody may; the watcher hears of it."""
        self.ghosts.pop(name, None)
        self.ours.discard(name)
        there = name in self.objects
        if payload is not None:
            self.objects[name] = payload
            self._changed(name, MOVED_HERE if there else MADE)
        elif there:
            del self.objects[name]
            self._changed(name, REMOVED)

    def perform(self, operation: op.Operation, *, wait: bool = True) -> op.Outcome:
        """Carries out an operation at this instant."""
        name = getattr(operation, "name", b"")
        fault = self._chance.random() < self.fault_rate
        if fault and isinstance(operation, op.Look | op.Survey):
            return op.failed(DiskFailed("a fault"), UNSEEN)
        if fault and not isinstance(operation, op.Close):
            if isinstance(operation, op.Commit):
                del self.open[operation.descriptor]
            return op.failed(DiskFull("a fault"), self.size(name) if name else UNSEEN)
        outcome: op.Outcome = getattr(self, f"_{type(operation).__name__.lower()}")(operation)
        # A fault after the effect: the change is made, its own look failed.
        if isinstance(operation, op.Put | op.Evict | op.Commit) and self._chance.random() < self.fault_rate:
            return op.failed(DiskFailed("a fault after the effect"), UNSEEN)
        return outcome

    def size(self, name: bytes) -> int:
        return len(self.objects[name]) if name in self.objects else ABSENT

    def _look(self, operation: op.Look) -> op.Outcome:
        return op.Outcome(b"ok", self._looked(operation.name))

    def _survey(self, operation: op.Survey) -> op.Outcome:
        return op.Outcome(
            b"ok",
            payload=[
                UNSEEN if self._chance.random() < self.fault_rate else self._looked(name) for name in operation.names
            ],
        )

    def _looked(self, name: bytes) -> int:
        return len(self.ghosts[name]) if name in self.ghosts else self.size(name)

    def _get(self, operation: op.Get) -> op.Outcome:
        payload = self.objects.get(operation.name)
        if payload is None:
            return op.Outcome(b"absent", ABSENT)
        budget = operation.budget
        if len(payload) > budget.bytes_max:
            return op.Outcome(b"large", len(payload))
        if len(payload) > budget.bytes_left:
            return op.Outcome(b"later", len(payload))
        budget.bytes_left -= len(payload)
        return op.Outcome(b"ok", len(payload), payload, sealed=operation.name in self.ours)

    def _put(self, operation: op.Put) -> op.Outcome:
        return self._publish(operation.name, bytes(operation.payload), operation.replace)

    def _evict(self, operation: op.Evict) -> op.Outcome:
        there = operation.name in self.objects
        if there and operation.only not in (None, self.size(operation.name)):
            return op.Outcome(b"kept", self.size(operation.name))
        self.set(operation.name, None)
        return op.Outcome(b"evicted" if there else b"absent", self.size(operation.name))

    def _stat(self, operation: op.Stat) -> op.Outcome:
        size = self.size(operation.name)
        if size == ABSENT:
            return op.Outcome(b"absent", size)
        return op.Outcome(b"ok", size, json.dumps({"size": size, "owner": 0, "created": 0.0}).encode())

    def _begin(self, _: op.Begin) -> op.Outcome:
        return op.Outcome(b"ok", number=self._descriptor(bytearray()))

    def _write(self, operation: op.Write) -> op.Outcome:
        content = self.open[operation.descriptor]
        end = operation.offset + len(operation.payload)
        content.extend(bytes(max(0, end - len(content))))
        content[operation.offset : end] = operation.payload
        return op.Outcome(b"ok")

    def _commit(self, operation: op.Commit) -> op.Outcome:
        content = bytes(self.open.pop(operation.descriptor))
        assert len(content) == operation.size
        return self._publish(operation.name, content, operation.replace)

    def _open(self, operation: op.Open) -> op.Outcome:
        if operation.name not in self.objects:
            return op.Outcome(b"absent", ABSENT)
        content = self.objects[operation.name]
        return op.Outcome(b"ok", len(content), number=self._descriptor(bytearray(content)))

    def _read(self, operation: op.Read) -> op.Outcome:
        content = self.open[operation.descriptor]
        return op.Outcome(b"ok", payload=bytes(content[operation.offset : operation.offset + operation.length]))

    def _close(self, operation: op.Close) -> op.Outcome:
        del self.open[operation.descriptor]
        return op.Outcome(b"ok")

    def _task(self, operation: op.Task) -> op.Outcome:
        try:
            operation.run()
        except OSError as error:
            return op.failed(DiskFailed(str(error)))
        return op.Outcome(b"ok")

    def _descriptor(self, content: bytearray) -> int:
        self._last_descriptor += 1
        self.open[self._last_descriptor] = content
        return self._last_descriptor

    def _publish(self, name: bytes, payload: bytes, replace: bool) -> op.Outcome:
        old = self.objects.get(name)
        if old is not None and not replace:
            if old == payload:
                return op.Outcome(b"same", len(old))
            return op.failed(KeyExists("other bytes"), len(old))
        self.set(name, payload)
        self.ours.add(name)
        return op.Outcome(b"created" if old is None else b"replaced", len(payload))


class World:
    """One seeded world.

    Keys `own-N` belong to one client each, which asks one thing at a time and knows what the answer must be. Keys
    `mix-N` are everybody's, outsiders included.
    """

    STEPS = 220

    def __init__(self, seed: int, coherence_type: type[Coherence] = Coherence) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.log: list[str] = []
        self.index = Index()
        self.coherence = coherence_type(self.index)
        self.limits = self.chance.choice((LIMITS, ONE_PAGE))
        self.service = Service(
            self.limits,
            self.index,
            self.coherence,
            outside=Outside(make_shelf=self._make_shelf),
            questions_per_job=self.chance.choice((1, 3, 64)),
        )
        self.shelf: FakeMemory | None = None
        self.disk = FakeDisk(self._kernel_event, self.chance)
        self.calm = self.chance.random() < 0.4  # most is believed, and so much stands on a shelf
        self.disk.fault_rate = 0.0 if self.calm else self.chance.choice((0.0, 0.0, 0.02, 0.1))
        self.faulty = self.disk.fault_rate > 0
        self.loss_rate = self.chance.choice((0.0, 0.02, 0.05) if self.calm else (0.0, 0.05, 0.3))
        self.lossless = not self.loss_rate  # so that each change of a size but those in place is heard of
        self.early = self.chance.random() < 0.3  # a kernel that reports a delete before a look sees it
        self.old_ghosts: list[bytes] = []
        self.events: list[tuple[bytes, int]] = []  # the kernel's queue: names and kinds, or MARKER
        self.service.barriers.exact = self.coherence.echoes.sure = self.chance.random() < 0.8
        self.written_in_place: set[bytes] = set()
        self.measuring: list[bytes] | None = None
        self.measure = 0
        self.changed_at: dict[bytes, int] = {}
        self.running: list[op.Job] = []
        self.finished: list[op.Job] = []
        self.scan: deque[list[bytes]] | None = None
        self.peers = [Peer(1000 + n, 100, n, passes_descriptors=True) for n in range(4)]
        self.asked: dict[bytes, tuple[Peer, list[bytes], int]] = {}
        self.now = 0
        self.last_id = 0
        self.own: dict[bytes, bytes | str | None] = {b"own-%d" % n: None for n in range(4)}
        self.busy: set[bytes] = set()
        self.ever: dict[bytes, set[bytes]] = {}
        for n in range(self.chance.randrange(6)):
            self._outsider_sets(b"mix-%d" % n, b"old")

    # -- playing

    def run(self) -> None:
        """Plays the world to its end, then to rest; raises `Wrong`."""
        try:
            actions = [
                (self._ask_something, 5),
                (self._outsider, 0.7 if self.calm else 3),
                (self._hear, 4),
                (self._work, 12 if self.calm else 6),
                (self._take_back, 10 if self.calm else 5),
                (self._proceed_scan, self.chance.choice((0.3, 1, 4))),
                (lambda: self.service.ask_disk(3), 3),
                (self.coherence.retry_unanswered, 1),
                (self._second_looks, 0.5),
                (self._measure, 2),
                (self.service.barriers.tick, 0.3),
                (self._outsider_writes_in_place, 0.5),
                (self._peer_comes_and_goes, 0.1),
                (self._read_the_shelf, 4),
                (lambda: self._ask(b"shelf", [], {}), self.chance.choice((0, 1))),
            ]
            steps = self.chance.choices([a for a, _ in actions], [w for _, w in actions], k=self.STEPS)
            if self.calm:
                self._begin_with_a_shelf()
            for step in steps:
                self.now += 1
                step()
                self._pump()
            self._come_to_rest()
            self._check_rest()
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(self._story(f"{type(error).__name__}: {error}")) from error

    def _begin_with_a_shelf(self) -> None:
        """The first scan is over, and a shelf is there."""
        for _ in range(200):
            if self.coherence.coherent and (self.shelf is not None or self.chance.random() < 0.3):
                self._ask(b"shelf", [], {})
            self.service.ask_disk(100)
            self._pump()
            self._hear()
            self._work()
            self._take_back()
            self._proceed_scan()
            self._pump()
            if self.shelf is not None and self.shelf.believed:
                return

    def _come_to_rest(self) -> None:
        self._say("--- rest")
        self.disk.fault_rate = 0.0
        self.loss_rate = 0.0
        last = 0
        for _ in range(10_000):
            self.coherence.retry_unanswered()
            self._measure()
            self._second_looks()
            self.service.ask_disk(100)
            self._pump()
            busy = self.events or self.running or self.finished or self.coherence.wants_second_looks
            if not (busy or self.scan is not None or self.coherence.in_doubt) and self.coherence.coherent:
                self._check_names()  # before sizes are looked at, which would hide a wrong name
                self.service.barriers.proceed()
                self._pump()
                if (
                    not self.service.barriers.unheard
                    and not self.coherence.measures.wanted
                    and not self.coherence.in_doubt
                ):
                    if last:
                        return
                    last = self.coherence.measures.want()  # nobody hears of what is written in place
            self._hear()
            self._work()
            self._take_back()
            self._proceed_scan()
            self._pump()
        self._wrong("it never comes to rest")

    def _check_names(self) -> None:
        names = set(self.index.names())
        if names != set(self.disk.objects):
            self._wrong(f"index {sorted(names)} != disk {sorted(self.disk.objects)}")
        for name in names - self.written_in_place if self.lossless else ():
            size = self.index.size(name)
            if size not in (UNSIZED, len(self.disk.objects[name])):
                self._wrong(f"size of {name!r} is {size}, not {len(self.disk.objects[name])}, and it was heard of")

    def _is_excused(self, name: bytes) -> bool:
        """Whether the service cannot know, or is about to learn, what became of an object."""
        on_its_way = MARKER in self.events or any(name == event[0] for event in self.events)
        sees_the_old = self.coherence.wants_second_looks or name in self.written_in_place
        return on_its_way or sees_the_old or not self.coherence.is_settled(name)

    def _check_shelf(self) -> None:
        """What the shelf has is as the directory is now; but for what was written in place, of which nobody hears."""
        for name, data in self.shelf.held.items() if self.shelf and self.shelf.believed else ():
            there = self.disk.objects.get(name)
            if there is None or (data not in (None, there) and name not in self.written_in_place):
                self._wrong(f"the shelf has {name!r} with {data!r}, the directory {there!r}")

    def _check_rest(self) -> None:
        self._check_shelf()
        if not self.coherence.coherent:
            self._wrong("not coherent at rest")
        for name in self.index.names():
            if self.index.size(name) != len(self.disk.objects[name]):
                self._wrong(f"size of {name!r} is {self.index.size(name)}, not {len(self.disk.objects[name])}")
        if self.index.whole.bytes != sum(map(len, self.disk.objects.values())):
            self._wrong(f"{self.index.whole.bytes} bytes in all")
        if self.index.whole.objects != len(self.disk.objects) or self.index.whole.unsized:
            self._wrong(f"{self.index.whole} in all")
        for key, expected in self.own.items():
            if isinstance(expected, str):
                continue
            if self.disk.objects.get(key) != expected:
                self._wrong(f"an acknowledged change of {key!r} is lost: {self.disk.objects.get(key)!r}")
        if self.asked:
            self._wrong(f"never answered: {self.asked}")
        for peer in self.peers:
            if peer.owed_requests or peer.owed_bytes or peer.opening:
                self._wrong(f"owed at rest: {peer}")
            self.service.gone(peer)
        while self.service.jobs or self.running:
            self._pump()
            self._work()
            self._take_back()
        if self.disk.open:
            self._wrong(f"descriptors left open: {list(self.disk.open)}")

    # -- what may happen

    def _ask_something(self) -> None:
        if self.chance.random() < 0.5:
            self._ask_own()
        else:
            self._ask_mixed()

    def _ask_own(self) -> None:
        free = [key for key in self.own if key not in self.busy]
        if not free:
            return
        key = self.chance.choice(free)
        self.busy.add(key)
        verb = self.chance.choice((b"put", b"put", b"evict", b"exists", b"get"))
        if verb == b"put":
            self._ask(b"put", [key, self._payload(key)], {"replace": True} if self.chance.random() < 0.5 else {})
        else:
            fresh = verb == b"exists" and self.chance.random() < 0.3
            self._ask(verb, [key], {"fresh": True} if fresh else {})

    def _ask_mixed(self) -> None:
        keys = [b"mix-%d" % self.chance.randrange(6) for _ in range(self.chance.choice((1, 1, 2, 5)))]
        verbs = (b"put", b"evict", b"exists", b"get", b"stat", b"list", b"usage", b"upload", b"open")
        verb = self.chance.choice(verbs)
        if verb == b"put":
            arguments = [part for key in keys for part in (key, self._payload(key))]
            self._ask(verb, arguments, {"replace": self.chance.random() < 0.7})
        elif verb in (b"upload", b"open"):
            self._ask(verb, keys[:1], {"replace": True} if verb == b"upload" else {})
        elif verb in (b"list", b"usage"):
            self._ask(verb, [], {"fresh": True} if self.chance.random() < 0.5 else {})
        else:
            self._ask(verb, keys, {})

    def _outsider(self) -> None:
        self._outsider_changes(b"mix-%d" % self.chance.randrange(6))

    def _outsider_changes(self, key: bytes) -> None:
        if self.chance.random() < 0.5:
            self._say(f"outsider removes {key!r}")
            payload = self.disk.objects.get(key)
            self.disk.set(key, None)
            if payload is not None and self.early:
                self.disk.ghosts[key] = payload
        else:
            self._outsider_sets(key, b"outside %d" % self.chance.randrange(1000))

    def _outsider_writes_in_place(self) -> None:
        """No event tells of that."""
        key = b"mix-%d" % self.chance.randrange(6)
        if key in self.disk.objects:
            self._say(f"outsider writes to {key!r}")
            self.disk.objects[key] += b"+"
            self.written_in_place.add(key)
            self.ever.setdefault(key, set()).add(self.disk.objects[key])
            self.changed_at[key] = self.now

    def _outsider_sets(self, key: bytes, payload: bytes) -> None:
        self._say(f"outsider sets {key!r}")
        self.ever.setdefault(key, set()).add(payload)
        self.disk.set(key, payload)

    def _peer_comes_and_goes(self) -> None:
        position = self.chance.randrange(len(self.peers))
        old = self.peers[position]
        self._say(f"peer {old.pid} goes")
        self.service.gone(old)
        for request_id, (peer, frames, _) in list(self.asked.items()):
            if peer is old:
                del self.asked[request_id]
                self._forget(frames)
        self.peers[position] = Peer(old.uid, old.gid, old.pid + 100, passes_descriptors=True)

    # -- the shelf

    def _make_shelf(self, table_bytes: int) -> FakeMemory:
        self.shelf = FakeMemory(table_bytes)
        return self.shelf

    def _read_the_shelf(self) -> None:
        """Somebody reads all of it. He knows what may be there of a key of his own; else it is what is there now,
        unless something is on its way that says that it is not.
        """
        for name, data in self.shelf.held.items() if self.shelf and self.shelf.believed else ():
            expected = self.own.get(name, "")
            if name in self.own:
                if name in self.busy or isinstance(expected, str):
                    continue
                if expected is None or data not in (None, expected):
                    self._wrong(f"the shelf has {name!r} with {data!r}, it was {expected!r}")
            there = self.disk.objects.get(name)
            if (there is None or data not in (None, there)) and not self._is_excused(name):
                self._wrong(
                    f"the shelf has {name!r} with {data!r}, there is {there!r}, and nothing else is heard of it"
                )

    def _kernel_event(self, name: bytes, kind: int) -> None:
        """A change was made: its event is queued, or dropped and then a marker is, or it is joined to the last one."""
        self.changed_at[name] = self.now
        if self.chance.random() < self.loss_rate:
            self._say(f"event of {name!r} dropped")
            if MARKER not in self.events:
                self.events.append(MARKER)
        elif self.events[-1:] != [(name, kind)]:
            self.events.append((name, kind))

    def _second_looks(self) -> None:
        """Some 50 ms later: what was removed before the last time is seen to be gone by now."""
        for name in self.old_ghosts:
            self.disk.ghosts.pop(name, None)
        self.old_ghosts = list(self.disk.ghosts)
        self.coherence.ask_second_looks()

    def _measure(self) -> None:
        """Every object is asked about, a few at a time, in a round that somebody wants."""
        if self.measuring is None:
            if self.coherence.measures.due:
                self.measuring = self.index.names()
                self.measure = self.coherence.begin_measure()
            return
        self.coherence.ask_unless_gone(self.measuring[-3:])
        del self.measuring[-3:]
        if not self.measuring:
            self.measuring = None
            self.coherence.measures.complete(self.measure)

    def _hear_all(self) -> None:
        """What a fresh answer waits for: everything the kernel has is read now."""
        self._take(len(self.events))
        self.service.barriers.heard()

    def _hear(self) -> None:
        self._take(self.chance.randint(0, len(self.events)))

    def _take(self, count: int) -> None:
        """Reads events, as watcher.py does: names in the order of their events, but each only once."""
        echoes = self.coherence.echoes
        names: dict[bytes, None] = {}
        deleted: dict[bytes, None] = {}
        lost = False
        for name, kind in self.events[:count]:
            if (name, kind) == MARKER:
                lost = True
                echoes.forget()
            elif not echoes.is_own(name, kind):
                names[name] = None
                if kind == REMOVED:
                    deleted[name] = None
        del self.events[:count]
        if not self.events:
            echoes.drained()
        if names and self.chance.random() < 0.2:
            self.coherence.hear(names, {})  # and they come again
        self.coherence.hear(names, deleted)
        if lost:
            self._say("loss noticed")
            self.coherence.lost("dropped")

    def _work(self) -> None:
        for job in list(self.running):
            if self.chance.random() < 0.5:
                continue
            done = len(job.outcomes)
            operation = job.operations[done]
            outcome = self.disk.perform(operation)
            what = type(operation).__name__ if isinstance(operation, op.Task) else operation
            self._say(f"did {what} -> {outcome.word!r} seen {outcome.seen}")
            changed = outcome.word in (b"created", b"replaced", b"evicted") and operation.name.startswith(b"mix-")
            if changed and self.chance.random() < 0.2:
                self._outsider_changes(operation.name)  # at once: the kernel may join the two events
            job.outcomes.append(outcome)
            if len(job.outcomes) == len(job.operations):
                self.running.remove(job)
                self.finished.append(job)

    def _take_back(self) -> None:
        if self.finished:
            job = self.finished.pop(self.chance.randrange(len(self.finished)))
            self.service.finished(job)

    def _proceed_scan(self) -> None:
        """A scan reads names in chunks; a name that comes or goes meanwhile may be seen or not (readdir(3))."""
        if self.scan is None:
            self.coherence.sweep()
            if self.coherence.wants_scan:
                self._say("scan begins")
                self.disk.ghosts.clear()  # it begins some 50 ms after the loss
                self.coherence.begin_scan()
                names = list(self.disk.objects)
                self.chance.shuffle(names)
                self.scan = deque(names[start : start + 2] for start in range(0, len(names), 2))
            return
        if self.scan:
            chunk = self.scan.popleft()
            seen = [name for name in chunk if name in self.disk.objects or self.chance.random() < 0.5]
            self._say(f"scan sees {seen}")
            self.coherence.scanned(seen)
            return
        self.scan = None
        complete = self.chance.random() > self.disk.fault_rate
        self._say(f"scan ends, complete: {complete}")
        self.coherence.end_scan(complete=complete)

    # -- requests and replies

    def _ask(self, verb: bytes, arguments: list[bytes], options: dict[str, Any]) -> None:
        self.last_id += 1
        request_id = b"%d" % self.last_id
        peer = self.chance.choice(self.peers)
        frames = wire.encode_request(verb, request_id, options, arguments)
        self.asked[request_id] = (peer, frames, self.now)
        self._say(f"{peer.pid} asks {verb.decode()} {arguments} {options} as {self.last_id}")
        self.service.request(peer, frames)

    def _follow_up(self, peer: Peer, verb: bytes, arguments: list[bytes]) -> None:
        """Asks for the next step of a transfer, on the connection that has it."""
        if peer.gone:
            return
        self.last_id += 1
        request_id = b"%d" % self.last_id
        frames = wire.encode_request(verb, request_id, {}, arguments)
        self.asked[request_id] = (peer, frames, self.now)
        self.service.request(peer, frames)

    def _pump(self) -> None:
        if self.service.barriers.unheard and self.chance.random() < 0.5:
            self._hear_all()
        while self.service.jobs:
            self.running.append(self.service.jobs.popleft())
        while self.service.replies:
            peer, frames = self.service.replies.popleft()
            asked = self.asked.pop(wire.reply_id(frames), None)
            if asked is None or asked[0] is not peer:
                self._wrong(f"an answer to nothing: {frames}")
                return
            self._check_reply(peer, asked[1], frames)
            if frames[2] == b"ok" and b"fresh" in asked[1][3]:
                if asked[1][1] == b"list":
                    self._check_fresh(frames, asked[2])
                elif asked[1][1] == b"usage":
                    self._check_fresh_usage(frames, asked[2])
        self.service.stock.turn(self.now)
        self.service.shelves.judge()

    def _check_reply(self, peer: Peer, request: list[bytes], frames: list[Any]) -> None:
        if frames[2] == b"too_many" and request[1] == b"list":  # one at a time: the other one is not at its end yet
            return
        if self.faulty and frames[2] == b"disk_failed" and request[1] in (b"list", b"usage"):
            return
        reply = wire.decode_reply(frames)
        verb, key = request[1], request[4] if len(request) > 4 else b""
        self._say(f"answer to {request[2]!r}: {reply.words}")
        if key in self.own:
            self._check_own(verb, key, request, reply)
            return
        if verb == b"get":
            for name, word, payload in zip(request[4:], reply.words, reply.payloads, strict=True):
                if word == "ok" and payload not in self.ever.get(name, set()):
                    self._wrong(f"{name!r} answered with {payload!r}, which it never was")
        elif verb == b"upload" and "handle" in reply.details:
            handle = reply.details["handle"].encode()
            payload = self._payload(key)
            ending = self.chance.choice((b"commit", b"commit", b"abort", b""))
            self._follow_up(peer, b"write", [handle, b"0", payload[:3]])
            self._follow_up(peer, b"write", [handle, b"3", payload[3:]])
            if ending:
                self._follow_up(peer, ending, [handle] + ([b"%d" % len(payload)] if ending == b"commit" else []))
        elif verb == b"open" and "handle" in reply.details:
            handle = reply.details["handle"].encode()
            self._follow_up(peer, b"read", [handle, b"0", b"100"])
            if self.chance.random() < 0.7:
                self._follow_up(peer, b"close", [handle])
        elif verb == b"list" and "handle" in reply.details:
            self._follow_up(peer, b"list", [reply.details["handle"].encode()])

    def _check_fresh(self, frames: list[Any], asked_at: int) -> None:
        """A fresh list has all that was done before it was asked for; of what was done since it may have either."""
        if self.limits is LIMITS or self.early:  # several pages, ghosts
            return
        listed = set(bytes(frames[5]).split(b"\0")[:-1])
        for name, changed_at in self.changed_at.items():
            if changed_at < asked_at and (name in listed) != (name in self.disk.objects):
                self._wrong(f"{name!r} in a fresh list: {name in listed}, last changed at {changed_at} < {asked_at}")

    def _check_fresh_usage(self, frames: list[Any], asked_at: int) -> None:
        """The same of sizes; of a world that changes meanwhile nothing can be said."""
        if not self.early and all(changed_at < asked_at for changed_at in self.changed_at.values()):
            told = wire.decode_reply(frames).details
            held = [len(payload) for payload in self.disk.objects.values()]
            if (told["objects"], told["bytes"], told["objects_not_sized"]) != (len(held), sum(held), 0):
                self._wrong(f"a fresh usage says {told}, there are {held}")

    def _check_own(self, verb: bytes, key: bytes, request: list[bytes], reply: wire.Reply) -> None:
        """The only user of a key knows what the answer must be."""
        self.busy.discard(key)
        word, expected = reply.words[0], self.own[key]
        unknown = isinstance(expected, str)
        if word in ("disk_full", "disk_failed"):
            if verb in (b"put", b"evict"):
                self.own[key] = "unknown"
        elif verb == b"put":
            payload = request[5]
            if word == "key_exists":
                if not unknown and expected in (None, payload):
                    self._wrong(f"put of {key!r} refused, it held {expected!r}")
            else:
                right = "created" if expected is None else "replaced" if request[3] else "same"
                if not unknown and word != right:
                    self._wrong(f"put of {key!r} says {word}, it was {expected!r}")
                self.own[key] = payload
        elif verb == b"evict":
            if not unknown and (word == "evicted") != (expected is not None):
                self._wrong(f"evict of {key!r} says {word}, it was {expected!r}")
            self.own[key] = None
        elif verb == b"exists":
            if not unknown and (word == "yes") != (expected is not None):
                self._wrong(f"exists of {key!r} says {word}, it was {expected!r}")
        elif verb == b"get" and not unknown and (reply.payloads[0] if word == "ok" else None) != expected:
            self._wrong(f"get of {key!r} gives {word} {reply.payloads}, it was {expected!r}")

    def _forget(self, request: list[bytes]) -> None:
        """The asker is gone: what became of its request it will never know."""
        key = request[4] if len(request) > 4 else b""
        if key in self.own:
            # The change may still be under way: that key is out of the game, for it has no single user any more.
            self.own[key] = "unknown"
            if request[1] not in (b"put", b"evict"):
                self.busy.discard(key)

    def _payload(self, key: bytes) -> bytes:
        payload = b"%s by %d %d" % (key, self.last_id, self.chance.randrange(3))
        self.ever.setdefault(key, set()).add(payload)
        return payload

    # -- telling

    def _say(self, line: str) -> None:
        self.log.append(line)

    def _wrong(self, what: str) -> None:
        raise Wrong(self._story(what))

    def _story(self, what: str) -> str:
        return "\n".join([f"seed {self.seed}:", *self.log, f"WRONG: {what}"])
