"""A seeded crowd around a daemon's parts: users over several connections, on a real directory with real bounds.

Jobs are carried out in any order, between requests and removals of the daemon's own accord; connections end in the
middle of anything. Time is a clock that the world drives. One seed is one crowd. `Crowd.run` plays it, and raises
`Wrong` if a promise is broken:

* no bound is exceeded at any instant, by what is on the disk;
* every request is answered at most once, and never with a fault of the daemon; at the end nobody is owed anything;
* the sums of the index are those of its entries;
* what was acknowledged, and nobody removed or replaced, is there at the end, unless its namespace may evict it;
* what was pinned there, is there at the end, too;
* what was said to be there can be fetched while its lease lasts;
* at the end nothing is reserved, held, ended or ordered, and the index has what the directory has.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from seam import Rig, Setup
from storekeeper import wire
from storekeeperd import moments, sight
from storekeeperd.answers import Peer
from storekeeperd.index import NOBODY, Index, Totals, charge_of
from storekeeperd.jobs import _is_moot
from storekeeperd.ledger import Bounds
from storekeeperd.metadata import Metadata
from storekeeperd.namespaces import LRU, Namespace, Quota
from storekeeperd.operations import Job
from storekeeperd.users import User

STEPS = 600
BOUNDS = Bounds(Quota(400_000, 60), Quota(200_000, 40), {1: Quota(100_000, 20)})
TEAM = "team"
TEAM_BYTES_MAX, TEAM_OBJECTS_MAX, TEAM_USER_BYTES_MAX = 120_000, 20, 90_000

_ATTRIBUTE = "user.storekeeper"
_UNDER_WAY_MAX = 40
_SHARED_KEYS = 25
_SIZES = (0, 1, 4096, 4097, 10_000, 30_000)
_TREASURES_MAX = 6
_KEPT, _PINNED, _LEASED = "kept", "pinned", "leased"


class Wrong(AssertionError):
    """A promise is broken; the message has the seed and the step."""


class Clock:
    """Time since a boot, as the daemon's parts ask for it; it goes on only when it is told to."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms

    def now_ns(self) -> int:
        return self.ms * 1_000_000

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Is the clock of the daemon while the block lasts."""
        with mock.patch.object(moments, "now_ms", self.now_ms), mock.patch.object(moments, "now_ns", self.now_ns):
            yield


@dataclass(slots=True, eq=False)
class Treasure:
    """An object under a key of its own: nobody evicts, replaces or unpins it by a request.

    Attributes:
        key, payload: the object.
        promise: what is to come true of it: kept (in the default namespace), pinned or leased (in the other one).
        peer: who has put it.
        is_promised: whether it was acknowledged.
        said_ms: when it was asked for that was said to be there, by the daemon's time: the lease is from then or later.
    """

    key: bytes
    payload: bytes
    promise: str
    peer: Peer
    is_promised: bool = False
    said_ms: int = 0

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.promise == _KEPT else {"namespace": TEAM}


@dataclass(slots=True)
class Asked:
    """A request that is not answered yet; `treasure` if it is about one, `at_ms` by the daemon's time."""

    peer: Peer
    verb: bytes
    at_ms: int
    treasure: Treasure | None = None


@dataclass(slots=True)
class Measured:
    """What is on the disk, in blocks as they are charged: of all, of users, of the namespace, of users in it."""

    whole: Totals = field(default_factory=Totals)
    of_user: dict[int, Totals] = field(default_factory=dict)
    team: Totals = field(default_factory=Totals)
    team_of_user: dict[int, Totals] = field(default_factory=dict)

    def add(self, size: int, owner: int, in_team: bool) -> None:
        """Adds an object."""
        one = Totals(1, 0, size, charge_of(size))
        self.whole.add(one)
        self.of_user.setdefault(owner, Totals()).add(one)
        if in_team:
            self.team.add(one)
            self.team_of_user.setdefault(owner, Totals()).add(one)


def recounted(index: Index) -> dict[tuple[bytes, int], Totals]:
    """Returns the sums over an index's entries, by namespace and owner."""
    cells: dict[tuple[bytes, int], Totals] = {}
    for name, entry in index._entries.items():
        prefix = name[: name.index(b"/") + 1] if b"/" in name else b""
        if entry < 0:
            owner, one = NOBODY, Totals(1, 1)
        else:
            seen, doubt = entry >> 33, entry >> 32 & 1
            size = sight.size_of(seen)
            owner, one = sight.owner_of(seen), Totals(1, doubt, size, charge_of(size))
        cells.setdefault((prefix, owner), Totals()).add(one)
    return cells


def _filled(sums: dict[Any, Totals]) -> dict[Any, Totals]:
    return {key: totals for key, totals in sums.items() if totals != Totals()}


class Crowd:
    """A daemon's parts on a directory, and a crowd of users.

    Args:
        seed: decides all that happens.
        store: the directory.

    Attributes:
        answered: how many requests of each verb were answered.
        proved: how many promises came true, by what they were.
    """

    def __init__(self, seed: int, store: Path) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.step = 0
        self.answered: dict[bytes, int] = {}
        self.proved = {_KEPT: 0, _PINNED: 0, _LEASED: 0}
        self.rig = Rig(store, Setup(boot=moments.boot()), (TEAM,))
        self.service = self.rig.service
        self.peers = [Peer(uid, uid, 10 + number, User(uid)) for number, uid in enumerate((1, 1, 2, 3, 0))]
        self._past: list[Peer] = []
        self._store = store
        self._asked: dict[bytes, Asked] = {}
        self._last = 0
        self._jobs: list[Job] = []  # begun
        self._handles: dict[Peer, list[tuple[bytes, bytes]]] = {peer: [] for peer in self.peers}
        self._treasures: list[Treasure] = []
        self._turned_ms = 0
        self._lease_ms = self.chance.choice([0, 50, 2000, 2000])
        self._eviction = self.chance.choice([LRU, LRU, "expired-first", "refuse"])
        self._furnish()

    def _furnish(self) -> None:
        service = self.service
        service.ledger._bounds = BOUNDS
        service.ledger._judge()
        service.evictions._lease_ms = self._lease_ms
        space = Namespace(
            bytes_max=TEAM_BYTES_MAX,
            objects_max=TEAM_OBJECTS_MAX,
            user_bytes_max=TEAM_USER_BYTES_MAX,
            eviction=self._eviction,
            owner_only=self.chance.random() < 0.5,
        )
        service.set_space(TEAM, space)

    def run(self) -> None:
        """Plays it to the end."""
        with self.clock.installed():
            try:
                self.rig.scan()
                self._turn()
                for self.step in range(STEPS):
                    self._act()
                    self._work()
                    self._take_replies()
                    self._check_bounds()
                    if self.step % 20 == 0:
                        self._check_sums()
                self._come_to_rest()
                self._check_rest()
                self._check_treasures()
            finally:
                for peer in self.peers:
                    self.service.gone(peer)
                self._carry_out_all()
                self.rig.close()

    def _require(self, condition: object, sentence: str) -> None:
        if not condition:
            raise Wrong(f"seed {self.seed}, step {self.step}, {self._eviction}: {sentence}")

    # -- what the users do

    def _act(self) -> None:
        chance = self.chance
        peer = chance.choice(self.peers)
        if chance.random() < 0.015:
            self._leave(peer)
        elif len(self._asked) >= _UNDER_WAY_MAX:
            return
        elif chance.random() < 0.2:
            self._care(peer)
        elif self._handles[peer] and chance.random() < 0.25:
            self._go_on(peer, chance.randrange(len(self._handles[peer])))
        else:
            self._request(peer)

    def _send(self, peer: Peer, verb: bytes, *arguments: bytes, treasure: Treasure | None = None, **said: Any) -> None:
        self._last += 1
        request_id = b"%d" % self._last
        self._asked[request_id] = Asked(peer, verb, self._turned_ms, treasure)
        self.service.request(peer, wire.encode_request(verb, request_id, said, arguments))

    def _key(self) -> bytes:
        return b"shared-%d" % self.chance.randrange(_SHARED_KEYS)

    def _keys(self) -> list[bytes]:
        return [self._key() for _ in range(3)]

    def _payload(self) -> bytes:
        return self.chance.choice([b"a", b"b"]) * self.chance.choice(_SIZES)

    def _request(self, peer: Peer) -> None:
        """Asks something about keys that everybody has in common."""
        chance = self.chance
        space: dict[str, Any] = {} if chance.random() < 0.4 else {"namespace": TEAM}
        verb = chance.choices(
            [b"put", b"upload", b"evict", b"pin", b"unpin", b"touch", b"open", b"look"], [36, 10, 10, 2, 3, 5, 10, 5]
        )[0]
        said = dict(space)
        if verb in (b"put", b"upload"):
            if chance.random() < 0.3:
                said["replace"] = True
            if chance.random() < 0.3:
                said["ttl"] = chance.choice([0.01, 0.5, 60.0])
            if chance.random() < 0.3:
                said["durability"] = "disk"
        if verb == b"put":
            number = chance.choice([1, 1, 2, 5])
            self._send(peer, verb, *[part for _ in range(number) for part in (self._key(), self._payload())], **said)
        elif verb == b"upload":
            if chance.random() < 0.5:
                said["size"] = chance.choice([10_000, 30_000])
            self._send(peer, verb, self._key(), **said)
        elif verb in (b"evict", b"pin", b"unpin"):
            self._send(peer, verb, *self._keys(), **space)
        elif verb == b"touch":
            self._send(peer, verb, self._key(), ttl=chance.choice([0.005, 60.0]), **space)
        elif verb == b"open":
            self._send(peer, verb, self._key(), **space)
        else:
            self._send(peer, chance.choice([b"exists", b"get", b"verify", b"stat"]), self._key(), **space)

    def _go_on(self, peer: Peer, place: int) -> None:
        """Does something with an upload or a download."""
        chance, handles = self.chance, self._handles[peer]
        verb, handle = handles[place]
        if verb == b"open" and chance.random() < 0.5:
            self._send(peer, b"read", handle, b"0", b"100")
        elif verb == b"open":
            del handles[place]
            self._send(peer, b"close", handle)
        elif chance.random() < 0.4:
            self._send(peer, b"write", handle, b"%d" % (10_000 * chance.randrange(2)), b"a" * 10_000)
        else:
            del handles[place]
            if chance.random() < 0.67:
                self._send(peer, b"commit", handle, chance.choice([b"10000", b"20000"]))
            else:
                self._send(peer, b"abort", handle)

    def _leave(self, peer: Peer) -> None:
        """A connection ends, and the same user comes over another one."""
        self.service.gone(peer)
        self._past.append(peer)
        del self._handles[peer]
        successor = Peer(peer.uid, peer.gid, peer.pid, peer.user)
        self.peers[self.peers.index(peer)] = successor
        self._handles[successor] = []
        self._asked = {number: asked for number, asked in self._asked.items() if asked.peer is not peer}
        # What was not acknowledged is promised to nobody.
        self._treasures = [one for one in self._treasures if one.is_promised or one.peer is not peer]
        for treasure in self._treasures:
            if treasure.peer is peer:
                treasure.peer = successor

    def _care(self, peer: Peer) -> None:
        """Puts an object under a key of its own, or asks for one that was put there."""
        promise = self.chance.choice([_KEPT, _PINNED, _LEASED, _LEASED])
        known = [one for one in self._treasures if one.promise == promise]
        leased = [one for one in known if one.is_promised]
        if promise == _LEASED and leased and self.chance.random() < 0.7:
            treasure = self.chance.choice(leased)
            verb = b"get" if self._is_leased(treasure) and self.chance.random() < 0.6 else b"exists"
            self._send(treasure.peer, verb, treasure.key, treasure=treasure, namespace=TEAM)
        elif len(known) < _TREASURES_MAX:
            key = b"%s-%d" % (promise.encode(), self._last)
            payload = (key * 2000)[: self.chance.choice([10, 4096, 9000])]
            treasure = Treasure(key, payload, promise, peer)
            self._treasures.append(treasure)
            said = {**treasure.options, **({"ttl": 0.3} if promise == _PINNED and self.chance.random() < 0.5 else {})}
            self._send(peer, b"put", key, payload, treasure=treasure, **said)

    # -- what the daemon does

    def _work(self) -> None:
        chance = self.chance
        for _ in range(chance.randrange(4)):
            self._begin_job()
        for _ in range(chance.randrange(4)):
            self._end_job()
        self.clock.ms += chance.randrange(20)
        if chance.random() < 0.5:
            self._turn()
        if chance.random() < 0.05:
            self.service.evictions.tick()
            self.rig.coherence.retry_unanswered()
        if chance.random() < 0.2:
            self.service.ask_disk(100)

    def _turn(self) -> None:
        self._turned_ms = self.clock.ms
        self.service.turn(self._turned_ms)

    def _begin_job(self) -> None:
        """Takes any job; one that nobody will hear of is not carried out, as in jobs.py."""
        jobs = self.service.jobs
        if not jobs:
            return
        place = self.chance.randrange(len(jobs))
        job = jobs[place]
        del jobs[place]
        if _is_moot(job):
            self.service.finished(job)
        else:
            self._jobs.append(job)

    def _end_job(self) -> None:
        if self._jobs:
            job = self._jobs.pop(self.chance.randrange(len(self._jobs)))
            self.rig._carry_out(job)
            self.service.finished(job)

    def _carry_out_all(self) -> None:
        while self.service.jobs or self._jobs:
            self._begin_job()
            self._end_job()

    def _come_to_rest(self) -> None:
        """Everybody who waits is answered, then everybody leaves, and what is due by itself is done."""
        for _ in range(100):
            self._proceed()
            self._take_replies()
            self._check_bounds()
        self._require(not self._asked, f"never answered: {list(self._asked.values())[:3]}")
        for peer in self.peers:
            self.service.gone(peer)
        for _ in range(100):
            self._proceed()
        self._take_replies()

    def _proceed(self) -> None:
        self._carry_out_all()
        self.rig.coherence.retry_unanswered()  # not while a look is under way: it would not count any more
        self.service.ask_disk(512)
        self.service.barriers.proceed()
        self.clock.ms += 10
        self._turn()
        self.service.evictions.tick()

    # -- what is answered

    def _take_replies(self) -> None:
        replies = self.service.replies
        while replies:
            peer, frames = replies.popleft()
            request_id, outcome = bytes(frames[1]), bytes(frames[2])
            asked = self._asked.pop(request_id, None)
            if asked is None:
                raise Wrong(f"seed {self.seed}, step {self.step}: request {request_id!r} was answered twice")
            self._require(peer is asked.peer, f"{asked.verb!r} of one peer was answered to another one")
            words = bytes(frames[4]).split() if outcome == wire.OK and len(frames) > 4 else [outcome]
            self._require(b"internal" not in words, f"a fault of the daemon in {asked.verb!r}: {frames[2:4]}")
            self.answered[asked.verb] = self.answered.get(asked.verb, 0) + 1
            details = json.loads(bytes(frames[3])) if len(frames) > 3 and frames[3] else {}
            if asked.verb in (b"upload", b"open") and outcome == wire.OK and "handle" in details:
                self._handles[peer].append((asked.verb, str(details["handle"]).encode()))
            if asked.treasure is not None:
                payloads = [bytes(frame) for frame in frames[5:]] if outcome == wire.OK else []
                self._learn(asked.treasure, asked, words[0] if words else outcome, payloads)

    def _learn(self, treasure: Treasure, asked: Asked, word: bytes, payloads: list[bytes]) -> None:
        """Takes an answer about an object under a key of its own."""
        verb = asked.verb
        if verb == b"put" and word != b"created":
            self._treasures.remove(treasure)
        elif verb == b"put" and treasure.promise == _PINNED:
            self._send(treasure.peer, b"pin", treasure.key, treasure=treasure, namespace=TEAM)
        elif verb == b"put" or (verb == b"pin" and word == b"ok"):
            treasure.is_promised = True
        elif verb == b"pin":
            self._treasures.remove(treasure)  # it was evicted, or had ended, before it was pinned
        elif verb == b"exists":
            self._learn_whether(treasure, asked, word)
        elif verb == b"get" and self._is_leased(treasure):
            there = word == b"ok" and payloads == [treasure.payload]
            said = f"{treasure.key!r} was leased at {treasure.said_ms}, and at {self._turned_ms} get says {word!r}"
            self._require(there, said)
            self.proved[_LEASED] += 1

    def _learn_whether(self, treasure: Treasure, asked: Asked, word: bytes) -> None:
        if word == b"yes":
            treasure.said_ms = max(treasure.said_ms, asked.at_ms)
        elif treasure in self._treasures:
            self._require(not self._is_leased(treasure), f"{treasure.key!r} was leased, and exists says {word!r}")
            self._treasures.remove(treasure)

    def _is_leased(self, treasure: Treasure) -> bool:
        return treasure.said_ms > 0 and self._turned_ms < treasure.said_ms + self._lease_ms

    # -- promises

    def _measure(self) -> Measured:
        """Looks at the disk: what has a name, and to the whole also what has none and is held open."""
        found = Measured()
        for folder, in_team in ((self._store, False), (self._store / TEAM, True)):
            for entry in os.scandir(folder):
                if entry.is_file() and not entry.name.startswith("."):
                    owner = Metadata.unpack(os.getxattr(entry.path, _ATTRIBUTE)).owner
                    found.add(entry.stat().st_size, owner, in_team)
        nodes = set()
        device = os.stat(self._store).st_dev
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                held = os.stat(int(name))
                is_ours = os.readlink(f"/proc/self/fd/{name}").startswith(f"{self._store}/")
                unnamed = stat.S_ISREG(held.st_mode) and not held.st_nlink and held.st_dev == device
                if unnamed and is_ours and held.st_ino not in nodes:
                    nodes.add(held.st_ino)
                    found.whole.charged_bytes += charge_of(held.st_size)
        return found

    def _check_bounds(self) -> None:
        found = self._measure()
        self._check_bound("the store", found.whole, BOUNDS.quota)
        for uid, totals in found.of_user.items():
            self._check_bound(f"uid {uid}", totals, BOUNDS.users.get(uid, BOUNDS.user_quota))
        self._check_bound("the namespace", found.team, Quota(TEAM_BYTES_MAX, TEAM_OBJECTS_MAX))
        for uid, totals in found.team_of_user.items():
            self._check_bound(f"uid {uid} in the namespace", totals, Quota(TEAM_USER_BYTES_MAX, 0))

    def _check_bound(self, whose: str, totals: Totals, quota: Quota) -> None:
        over = totals.charged_bytes > quota.bytes_max or (quota.objects_max and totals.objects > quota.objects_max)
        self._require(not over, f"the bound of {whose} is exceeded: {totals}, {quota}")

    def _check_sums(self) -> None:
        index = self.rig.index
        cells = recounted(index)
        whole = Totals()
        spaces: dict[bytes, Totals] = {}
        owners: dict[int, Totals] = {}
        for (prefix, owner), totals in cells.items():
            whole.add(totals)
            spaces.setdefault(prefix, Totals()).add(totals)
            owners.setdefault(owner, Totals()).add(totals)
        self._require(cells == _filled(index._cells), f"sums by cell are {index._cells}, a recount says {cells}")
        self._require(whole == index.whole, f"sums of all are {index.whole}, a recount says {whole}")
        self._require(spaces == _filled(index._spaces), f"sums by namespace are not a recount: {spaces}")
        self._require(owners == _filled(index._owners), f"sums by owner are not a recount: {owners}")

    def _check_rest(self) -> None:
        self._check_sums()
        self._check_bounds()
        service = self.service
        ledger, evictions, lifetimes = service.ledger, service.evictions, service.lifetimes
        self._require(ledger.reserved() == Totals(), f"still reserved: {ledger.reserved()}")
        for sums in (ledger._of_cell, ledger._of_user, ledger._of_space):
            self._require(not _filled(sums), f"still reserved: {sums}")
        left = [evictions._ordered, evictions._later, lifetimes.ended, lifetimes._ended_as]
        self._require(not any(left), f"still on their way out: {left}")
        for peer in (*self._past, *self.peers):
            owed = [peer.owed_requests, peer.owed_bytes, peer.user.held_bytes, peer.user.handles]
            self._require(not any(owed), f"still owed to a peer that is gone, or held by its user: {owed}")
        there = set()
        for folder, prefix in ((self._store, ""), (self._store / TEAM, f"{TEAM}/")):
            there |= {f"{prefix}{path.name}".encode() for path in folder.iterdir() if path.is_file()}
        there = {name for name in there if not name.split(b"/")[-1].startswith(b".")}
        self._require(self.rig.coherence.coherent, f"not coherent: {self.rig.coherence.doubts.unanswered}")
        self._require(there == set(self.rig.index.names()), f"index or disk: {there ^ set(self.rig.index.names())}")

    def _check_treasures(self) -> None:
        for treasure in self._treasures:
            if treasure.promise != _LEASED and treasure.is_promised:
                folder = self._store if treasure.promise == _KEPT else self._store / TEAM
                path = folder / os.fsdecode(treasure.key)
                there = path.exists() and path.read_bytes() == treasure.payload
                self._require(there, f"{treasure.key!r} was {treasure.promise}, and is lost")
                self.proved[treasure.promise] += 1
