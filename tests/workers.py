"""Client processes of the crash campaigns. A program of its own, so that each has an interpreter of its own.

    python workers.py own ADDRESS NAME SEED         mixed load on keys of its own, with a ledger of what is acknowledged
    python workers.py shared ADDRESS NAME SEED      the same few keys as others, with a history of its calls
    python workers.py brief ADDRESS NAME SEED       one short-lived client after the other
    python workers.py nursery ADDRESS               forks children to be killed in the middle of something
    python workers.py interrupted ADDRESS SEED N    is interrupted so many times in the middle of calls

ADDRESS may be a directory, whose daemon is then found, or started.

All but `interrupted` go by their standard input: at its end they stop, at a line they stand still, say how things are
in one line of JSON, and wait for the next line. Whatever is wrong ends the process with a traceback.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

from storekeeper import Client, StorekeeperError, framing, wire
from storekeeper.carriers import Carriers
from storekeeper.directory import directory_client
from storekeeper.errors import KeyExists
from storekeeper.exchange import Exchange

TIMEOUT_S = 30.0
LARGE_BYTES = (4 << 20) + 1
SHARED_KEYS = ["shared-0", "shared-1", "shared-2"]
DEAD = "dead-"
"""How the keys of children begin that are to be killed."""
_LONGEST_S = 4 * 3600
"""A worker ends by itself after that, whoever forgot it."""


def digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def held() -> dict[str, int]:
    """Returns how many descriptors and threads, those of ZeroMQ included, this process has for good, and its memory."""
    gc.collect()
    counts = []
    for _ in range(40):
        counts.append((len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
        time.sleep(0.005)
    descriptors, threads = (min(column) for column in zip(*counts, strict=True))
    with open("/proc/self/statm") as told:
        memory = int(told.read().split()[1]) * resource.getpagesize()
    return {"descriptors": descriptors, "threads": threads, "memory": memory}


def connect(address: str) -> Client:
    """Returns a client of the daemon at an address, or of the one that owns a directory."""
    return directory_client(address) if address.startswith("/") else Client(address, timeout=TIMEOUT_S)


class Worker(ABC):
    """A load that goes on until standard input ends."""

    def __init__(self, store: Client, name: str, seed: str) -> None:
        self.store = store
        self.name = name
        self.chance = random.Random(f"{name} {seed}")
        self.calls: Counter[str] = Counter()
        self.first: dict[str, int] = {}

    @abstractmethod
    def step(self) -> None: ...

    def report(self) -> dict[str, Any]:
        return {}

    def run(self) -> None:
        ends = time.monotonic() + _LONGEST_S
        while time.monotonic() < ends:
            self.step()
            while select.select([0], [], [], 0)[0]:
                if not sys.stdin.buffer.readline():
                    return
                now = held()
                self.first = self.first or now
                told = {**self.report(), "calls": self.calls, "first": self.first, "now": now}
                print(json.dumps(told), flush=True)
                if not sys.stdin.buffer.readline():
                    return


class Own(Worker):
    """Keys that nobody else touches: every answer but one is known beforehand, with or without a kill.

    Only an evict that was made again may say False although there was an object.
    """

    SMALL, LARGE = 50, 3

    def __init__(self, store: Client, name: str, seed: str) -> None:
        super().__init__(store, name, seed)
        self.small = [f"{name}-{number:02}" for number in range(self.SMALL)]
        self.large = [f"{name}-large-{number}" for number in range(self.LARGE)]
        self.there: dict[str, str] = {}
        self.false_evicts = 0

    def report(self) -> dict[str, Any]:
        ledger = {key: self.there.get(key) for key in (*self.small, *self.large)}
        return {"ledger": ledger, "false_evicts": self.false_evicts}

    def data(self, key: str) -> bytes:
        if key in self.large:
            return self.chance.randbytes(LARGE_BYTES + self.chance.randrange(1 << 20))
        return self.chance.randbytes(self.chance.choice((0, 1, 100, 1000, 1000, 40_000, 70_000, 300_000)))

    def some(self, keys: list[str]) -> list[str]:
        return self.chance.sample(keys, min(len(keys), self.chance.randrange(1, 9)))

    def step(self) -> None:
        verb, weight = self.chance.choice(self.VERBS)
        if self.chance.random() < weight:
            getattr(self, verb)()
            self.calls[verb] += 1

    VERBS = (
        ("put", 1), ("put_durable", 0.3), ("put_replace", 1), ("put_again", 0.3), ("put_large", 0.15),
        ("put_batch", 0.4), ("get", 1), ("get_batch", 0.4), ("exists", 1), ("exists_batch", 0.4), ("evict", 1),
        ("evict_batch", 0.3), ("names", 0.2), ("stat", 0.3), ("usage", 0.05),
    )  # fmt: skip

    def _put(self, key: str, **options: Any) -> None:
        data = self.data(key)
        assert self.store.put(data, key=key, **options) == key
        self.there[key] = digest(data)

    def put(self) -> None:
        absent = [key for key in self.small if key not in self.there]
        if absent:
            self._put(self.chance.choice(absent))

    def put_durable(self) -> None:
        self._put(self.chance.choice(self.small), durability="disk", replace=True)

    def put_replace(self) -> None:
        self._put(self.chance.choice(self.small), replace=True)

    def put_large(self) -> None:
        self._put(self.chance.choice(self.large), replace=True)

    def put_again(self) -> None:
        """Other bytes under a key that is taken are refused, and do nothing."""
        if self.there:
            key = self.chance.choice(list(self.there))
            try:
                self.store.put(b"other bytes", key=key)
            except KeyExists:
                return
            raise AssertionError(f"{key} was taken, and put all the same")

    def put_batch(self) -> None:
        keys = self.some(self.small)
        data = [self.data(key) for key in keys]
        assert self.store.put_batch(data, keys=keys, replace=True) == keys
        self.there.update(zip(keys, map(digest, data), strict=True))

    def _check(self, key: str, found: bytes | None) -> None:
        there = None if found is None else digest(found)
        assert there == self.there.get(key), f"{key}: got {there}, acknowledged is {self.there.get(key)}"

    def get(self) -> None:
        key = self.chance.choice([*self.small, *self.large])
        self._check(key, self.store.get(key))

    def get_batch(self) -> None:
        keys = self.some([*self.small, *self.large])
        for key, found in zip(keys, self.store.get_batch(keys), strict=True):
            self._check(key, found)

    def exists(self) -> None:
        key = self.chance.choice(self.small)
        assert self.store.exists(key, fresh=self.chance.random() < 0.1) == (key in self.there), key

    def exists_batch(self) -> None:
        keys = self.some(self.small)
        assert self.store.exists_batch(keys) == [key in self.there for key in keys], keys

    def _evicted(self, key: str, answer: bool) -> None:
        if self.there.pop(key, None) is None:
            assert not answer, f"{key} was not there, and evicted all the same"
        elif not answer:
            self.false_evicts += 1

    def evict(self) -> None:
        key = self.chance.choice([*self.small, *self.large])
        self._evicted(key, self.store.evict(key))

    def evict_batch(self) -> None:
        keys = self.some(self.small)
        for key, answer in zip(keys, self.store.evict_batch(keys), strict=True):
            self._evicted(key, answer)

    def names(self) -> None:
        found = self.store.list(f"{self.name}-")
        assert found == sorted(self.there), set(found).symmetric_difference(self.there)

    def stat(self) -> None:
        key = self.chance.choice(self.small)
        assert (self.store.stat(key) is not None) == (key in self.there), key

    def usage(self) -> None:
        assert self.store.usage()["objects"] >= len(self.there)


def shared_value(tag: str, size: int) -> bytes:
    """Returns bytes that say who put them, and show at any place if they are not whole."""
    mark = f"<{tag}:{size}>".encode()
    return (mark * (1 + size // len(mark)))[: max(len(mark), size)]


def tag_of(found: bytes) -> str:
    """Returns who put these bytes; fails if they are not all of one value."""
    head = found[: found.index(b">") + 1]
    tag, size = head[1:-1].decode().rsplit(":", 1)
    assert found == shared_value(tag, int(size)), f"torn: {len(found)} bytes that begin with {head!r}"
    return tag


class Shared(Worker):
    """Keys that others change at the same time; the history is for histories.py to judge."""

    def __init__(self, store: Client, name: str, seed: str) -> None:
        super().__init__(store, name, seed)
        self.history: list[tuple[int, int, str, str, str | None, bool]] = []

    def report(self) -> dict[str, Any]:
        return {"history": self.history}

    def step(self) -> None:
        chance = self.chance
        key = chance.choice(SHARED_KEYS)
        verb = chance.choice(("put", "put", "put", "new", "evict", "evict", "get", "get", "get", "exists"))
        tag = f"{self.name}-{len(self.history)}"
        size = chance.choice((0, 0, 100, 1000, 70_000, 500_000))
        data = shared_value(tag, LARGE_BYTES if chance.random() < 0.02 else size)
        invoked = time.monotonic_ns()
        value, answer = getattr(self, verb)(key, tag, data)
        self.history.append((invoked, time.monotonic_ns(), key, verb, value, answer))
        self.calls[verb] += 1

    def put(self, key: str, tag: str, data: bytes) -> tuple[str | None, bool]:
        self.store.put(data, key=key, replace=True)
        return tag, True

    def new(self, key: str, tag: str, data: bytes) -> tuple[str | None, bool]:
        try:
            self.store.put(data, key=key)
        except KeyExists:
            return tag, False
        return tag, True

    def evict(self, key: str, tag: str, data: bytes) -> tuple[str | None, bool]:
        return None, self.store.evict(key)

    def get(self, key: str, tag: str, data: bytes) -> tuple[str | None, bool]:
        found = self.store.get(key)
        return (None, False) if found is None else (tag_of(found), True)

    def exists(self, key: str, tag: str, data: bytes) -> tuple[str | None, bool]:
        return None, self.store.exists(key)


class Brief(Worker):
    """Clients that live for a few calls, and are closed, forgotten, or forgotten in a cycle."""

    def step(self) -> None:
        store = Client(self.store.address, timeout=TIMEOUT_S)
        key = f"{self.name}-{self.chance.randrange(20)}"
        data = self.chance.randbytes(self.chance.choice((10, 1000, 100_000)))
        store.put(data, key=key, replace=True)
        assert store.get(key) == data
        if self.chance.random() < 0.3:
            assert store.evict(key)
        ends = self.chance.randrange(3)
        if ends == 0:
            store.close()
        elif ends == 1:
            store.me = store  # type: ignore[attr-defined]
        self.calls["client"] += 1


# -- children to be killed


def busy(action: Callable[[], object]) -> None:
    """Does something again and again; refusals are answers too, for others hold handles as well."""
    while True:
        try:
            action()
        except StorekeeperError:
            time.sleep(0.001)


def upload(address: str) -> None:
    store = Client(address)
    data = bytes(20 << 20)
    busy(lambda: store.put(data, key=f"{DEAD}upload", replace=True))


def download(address: str) -> None:
    store = Client(address)
    busy(lambda: store.get("large"))


def listing(address: str) -> None:
    store = Client(address)
    busy(store.list)


def batches(address: str) -> None:
    store = Client(address)
    keys = [f"{DEAD}{number}" for number in range(40)]
    data = [bytes(20_000)] * 40

    def all_of_them() -> None:
        store.put_batch(data, keys=keys, replace=True)
        store.get_batch([*keys, "large"])
        store.evict_batch(keys)

    busy(all_of_them)


def in_flight(address: str) -> None:
    """Requests without end, and no answer is ever read."""
    exchange = Exchange(Carriers(address).take(), time.monotonic() + TIMEOUT_S)
    for number in range(100_000):
        key = b"%s%d" % (DEAD.encode(), number % 40)
        exchange.send(b"put", [key, bytes(20_000)], {"replace": True, "durability": "disk" if number % 9 else "os"})
        exchange.send(b"get", [key, b"small"])
        exchange.send(b"evict", [key])
        exchange.send(b"list", [])
        exchange.send(b"upload", [key])
        exchange.send(b"open", [b"large"])
        time.sleep(0.0002)
    time.sleep(TIMEOUT_S)


def handles(address: str) -> None:
    """As many handles as a connection may have, none of them in use."""
    exchange = Exchange(Carriers(address).take(), time.monotonic() + TIMEOUT_S)
    held = 0
    while True:
        try:
            if held % 2:
                assert exchange.ask(b"open", [b"large"]).words == ["ok"]
            else:
                handle = exchange.ask(b"upload", [b"%snever" % DEAD.encode()]).details["handle"].encode()
                exchange.ask(b"write", [handle, b"0", bytes(1 << 20)])
            held += 1
        except StorekeeperError:
            time.sleep(TIMEOUT_S)


def half_a_message(address: str) -> None:
    """A range of an upload of which only the beginning ever comes."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(address.removeprefix("ipc://"))
    begin = wire.encode_request(b"upload", b"1", {}, [f"{DEAD}half".encode()])
    write = wire.encode_request(b"write", b"2", {}, [b"1", b"0", bytes(900_000)])
    line.sendall(framing.greeting(as_server=False) + framing.encode_ready(b"DEALER"))
    line.sendall(b"".join(map(bytes, framing.encode_message(begin))))
    line.sendall(b"".join(map(bytes, framing.encode_message(write)))[:500_000])
    time.sleep(TIMEOUT_S)


def in_threads(address: str) -> None:
    for action in (upload, download, listing, batches):
        threading.Thread(target=action, args=(address,), daemon=True).start()
    time.sleep(TIMEOUT_S)


DYING: dict[str, Callable[[str], None]] = {
    action.__name__: action
    for action in (upload, download, listing, batches, in_flight, handles, half_a_message, in_threads)
}


def nursery(address: str) -> None:
    """Forks a child for every line, which names what it does; at an empty line takes leave of it."""
    child = 0
    for line in sys.stdin:
        if line.strip():
            child = os.fork()
            if not child:
                signal.alarm(120)
                DYING[line.strip()](address)
                os._exit(0)
            print(child, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


# -- interruptions


class Interrupted:
    """Raises KeyboardInterrupt in the middle of calls, by a timer."""

    SMALL = 8

    def __init__(self, address: str, seed: str) -> None:
        self.store = Client(address, timeout=TIMEOUT_S)
        self.chance = random.Random(f"interrupted {seed}")
        self.armed = 0
        self.struck: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.took = dict.fromkeys(self.CALLS, 0.001)
        self.keys = [f"small-{number}" for number in range(self.SMALL)]
        self.may: dict[str, set[str | None]] = {key: {None} for key in (*self.keys, "large")}
        self.fixed = [b"%d" % number * 1000 for number in range(4)]
        self.fixed_keys = self.store.put_batch(self.fixed, keys=[f"fixed-{number}" for number in range(4)])
        self.fixed_large = self.chance.randbytes(LARGE_BYTES)
        self.store.put(self.fixed_large, key="fixed-large")
        self.store.evict(self.store.put(bytes(1 << 20)))  # pyzmq's thread for what is sent without a copy is made now
        signal.signal(signal.SIGALRM, self.strike)

    def strike(self, *_: object) -> None:
        if self.armed:
            self.armed -= 1
            raise KeyboardInterrupt

    def interrupt(self, verb: str, call: Callable[[], Any]) -> tuple[bool, Any]:
        """Makes a call that is interrupted once, perhaps twice; returns whether it came to its end, and its result."""
        done, result = False, None
        times = self.chance.choice((1, 1, 2))
        # Twice as long as it takes mostly: half of the strikes miss, but none of its moments is spared.
        delay = self.chance.random() * self.took[verb] * 1.5 + 1e-6
        began = time.monotonic()
        try:
            try:
                self.armed = times
                signal.setitimer(signal.ITIMER_REAL, delay, 1e-4 if times == 2 else 0)
                result = call()
                done = True
                self.armed = 0
            except KeyboardInterrupt:
                self.armed = min(self.armed, 1)
                time.sleep(0.0003 if self.armed else 0)
                self.armed = 0
        except KeyboardInterrupt:
            pass
        finally:
            self.armed = 0
            signal.setitimer(signal.ITIMER_REAL, 0)
        if done:
            self.took[verb] += (time.monotonic() - began - self.took[verb]) / 8
            self.missed[verb] += 1
        else:
            self.struck[verb] += 1
        return done, result

    # Each returns a call to be interrupted, and what to do about its result if it came to its end.

    def data(self, large: bool) -> bytes:
        return self.chance.randbytes(LARGE_BYTES if large else self.chance.choice((0, 10, 1000, 70_000)))

    def change(self, key: str, data: bytes | None, call: Callable[[], Any], verb: str) -> None:
        after = None if data is None else digest(data)
        done, _ = self.interrupt(verb, call)
        self.may[key] = {after} if done else {*self.may[key], after}

    def put(self) -> None:
        key, data = self.chance.choice(self.keys), self.data(False)
        self.change(key, data, lambda: self.store.put(data, key=key, replace=True), "put")

    def put_large(self) -> None:
        data = self.data(True)
        self.change("large", data, lambda: self.store.put(data, key="large", replace=True), "put_large")

    def evict(self) -> None:
        key = self.chance.choice([*self.keys, "large"])
        self.change(key, None, lambda: self.store.evict(key), "evict")

    def put_batch(self) -> None:
        keys = self.chance.sample(self.keys, 4)
        data = [self.data(False) for _ in keys]
        done, _ = self.interrupt("put_batch", lambda: self.store.put_batch(data, keys=keys, replace=True))
        for key, part in zip(keys, data, strict=True):
            self.may[key] = {digest(part)} if done else {*self.may[key], digest(part)}

    def get(self) -> None:
        number = self.chance.randrange(4)
        done, found = self.interrupt("get", lambda: self.store.get(f"fixed-{number}"))
        assert not done or found == self.fixed[number]

    def get_batch(self) -> None:
        keys = [*self.fixed_keys, "fixed-large", "missing"]
        done, found = self.interrupt("get_batch", lambda: self.store.get_batch(keys))
        assert not done or found == [*self.fixed, self.fixed_large, None]

    def get_large(self) -> None:
        done, found = self.interrupt("get_large", lambda: self.store.get("fixed-large"))
        assert not done or found == self.fixed_large

    def get_into(self) -> None:
        target = bytearray(LARGE_BYTES)
        done, found = self.interrupt("get_into", lambda: self.store.get("fixed-large", into=target))
        assert not done or (found == LARGE_BYTES and target == self.fixed_large)

    def exists(self) -> None:
        done, found = self.interrupt("exists", lambda: self.store.exists_batch(["fixed-0", "missing"]))
        assert not done or found == [True, False]

    def names(self) -> None:
        done, found = self.interrupt("names", lambda: self.store.list("fixed-"))
        assert not done or found == [*self.fixed_keys, "fixed-large"]

    def status(self) -> None:
        done, found = self.interrupt("status", lambda: self.store.status()["version"])
        assert not done or found

    def first(self) -> None:
        """The first call of a client, with all that is made for it."""

        def call() -> None:
            with Client(self.store.address) as store:
                assert store.get("fixed-1") == self.fixed[1]

        self.interrupt("first", call)

    CALLS = (
        "put", "put_large", "evict", "put_batch", "get", "get_batch", "get_large", "get_into", "exists", "names",
        "status", "first",
    )  # fmt: skip

    def check(self) -> None:
        """Sees that the next calls are answered, and by their own answers."""
        number = self.chance.randrange(4)
        assert self.store.get(f"fixed-{number}") == self.fixed[number]
        key = self.chance.choice([*self.keys, "large"])
        found = self.store.get(key)
        assert (None if found is None else digest(found)) in self.may[key], f"{key}: {found and len(found)} bytes"
        assert self.store.exists("missing") is False
        assert self.store.exists("fixed-0") is True

    def run(self, count: int) -> dict[str, Any]:
        for verb in self.CALLS:
            getattr(self, verb)()
        self.check()
        before = held()
        while self.struck.total() < count:
            verb = self.chance.choice(self.CALLS)
            getattr(self, verb)()
            self.check()
        time.sleep(0.1)
        # What the interrupted calls sent has been done by now, or never will be.
        for key, may in self.may.items():
            found = self.store.get(key)
            assert (None if found is None else digest(found)) in may, key
        return {"struck": self.struck, "missed": self.missed, "first": before, "now": held()}


WORKERS: dict[str, type[Worker]] = {"own": Own, "shared": Shared, "brief": Brief}


def main() -> None:
    mode, address, *arguments = sys.argv[1:]
    if mode == "nursery":
        nursery(address)
    elif mode == "interrupted":
        seed, count = arguments
        print(json.dumps(Interrupted(address, seed).run(int(count))), flush=True)
    else:
        with connect(address) as store:
            # It has been reached then, so that every later call waits for it; and what pyzmq keeps for itself is made.
            store.evict(store.put(bytes(1 << 20)))
            WORKERS[mode](store, *arguments).run()


if __name__ == "__main__":
    main()
