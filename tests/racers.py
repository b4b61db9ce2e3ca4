"""Client processes that race for room. A program of its own, so that each has an interpreter and a user of its own.

    python racers.py race ADDRESS UID NAME SEED NAMESPACE…    puts, evicts, gives up, lets children be killed
    python racers.py watch ADDRESS UID NAMESPACE…             asks for usage without a pause: never over a bound

Both go on until they are told a line, and say what they did in one line of JSON. Whatever is wrong ends the process
with a traceback.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from storekeeper import Client
from storekeeper.carriers import Carriers
from storekeeper.errors import BatchFailed, QuotaExceeded
from storekeeper.exchange import Exchange
from storekeeper.ranges import check_item

TIMEOUT_S = 60.0
LARGE_BYTES = 4 << 20
_LONGEST_S = 3600


def become(uid: int) -> None:
    """Is another user from now on, without any group."""
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def goes_on() -> bool:
    """Returns whether nobody has said anything yet."""
    return not select.select([0], [], [], 0)[0] and time.monotonic() < _ENDS


_ENDS = time.monotonic() + _LONGEST_S


class Racer:
    """One client that wants more than there is.

    Args:
        address: of the daemon.
        name: how its keys begin.
        seed: of its choices.
        namespaces: where it puts.
    """

    def __init__(self, address: str, name: str, seed: str, namespaces: list[str]) -> None:
        self.address = address
        self.name = name
        self.chance = random.Random(f"{name} {seed}")
        self.clients = {namespace: Client(address, namespace, timeout=TIMEOUT_S) for namespace in namespaces}
        self.there: dict[tuple[str, str], int] = {}
        self.told: Counter[str] = Counter()
        self.number = 0

    def place(self) -> tuple[str, str]:
        """Returns a namespace, and a key that is new in it."""
        self.number += 1
        return self.chance.choice(list(self.clients)), f"{self.name}-{self.number}"

    def data(self) -> bytes:
        return self.chance.randbytes(self.chance.choice((0, 1, 4095, 4096, 4097, 20_000, 70_000)))

    def large(self) -> bytes:
        return bytes(LARGE_BYTES + self.chance.randrange(1, 2 << 20))

    def keep(self, data: bytes) -> None:
        namespace, key = self.place()
        self.clients[namespace].put(data, key=key)
        self.there[namespace, key] = len(data)

    def put(self) -> None:
        self.keep(self.data())

    def put_large(self) -> None:
        self.keep(self.large())

    def put_batch(self) -> None:
        namespace, key = self.place()
        data = [self.data() for _ in range(self.chance.randrange(2, 20))]
        keys = [f"{key}-{number}" for number in range(len(data))]
        try:
            results: list[Any] = self.clients[namespace].put_batch(data, keys=keys)
        except BatchFailed as failed:
            results = failed.results
        for key, part, result in zip(keys, data, results, strict=True):
            if isinstance(result, QuotaExceeded):
                self.told["refused in a batch"] += 1
            elif isinstance(result, Exception):
                raise result
            else:
                self.there[namespace, key] = len(part)

    def any(self) -> tuple[str, str]:
        if not self.there:
            self.keep(b"first")
        return self.chance.choice(list(self.there))

    def replace(self) -> None:
        namespace, key = self.any()
        data = self.large() if self.chance.random() < 0.2 else self.data()
        self.clients[namespace].put(data, key=key, replace=True)
        self.there[namespace, key] = len(data)

    def evict(self) -> None:
        namespace, key = self.any()
        assert self.clients[namespace].evict(key)
        del self.there[namespace, key]

    def evict_some(self) -> None:
        for _ in range(min(len(self.there), self.chance.randrange(2, 12))):
            self.evict()

    def look(self) -> None:
        namespace, key = self.any()
        assert self.clients[namespace].exists(key)
        found = self.clients[namespace].get(key)
        assert len(found) == self.there[namespace, key]

    def linger(self) -> None:
        """Evicts what it is still reading."""
        namespace, key = self.any()
        carrier = Carriers(self.address).take()
        exchange = Exchange(carrier, time.monotonic() + TIMEOUT_S)
        try:
            opened = exchange.ask(b"open", [key.encode()], {"namespace": namespace})
            assert opened.words == ["ok"]
            assert self.clients[namespace].evict(key)
            size = self.there.pop((namespace, key))
            time.sleep(self.chance.random() * 0.02)
            length = min(size, 1 << 20)
            read = exchange.ask(b"read", [opened.details["handle"].encode(), b"0", b"%d" % length])
            assert read.words == ["ok"]
        finally:
            carrier.close()

    def give_up(self) -> None:
        """Begins an upload that is aborted, or whose connection ends."""
        namespace, key = self.place()
        carrier = Carriers(self.address).take()
        exchange = Exchange(carrier, time.monotonic() + TIMEOUT_S)
        options: dict[str, Any] = {"namespace": namespace}
        if self.chance.random() < 0.5:
            options["size"] = LARGE_BYTES
        try:
            begun = exchange.ask(b"upload", [key.encode()], options)
            check_item(begun)
            handle = begun.details["handle"].encode()
            for part in range(self.chance.randrange(4)):
                check_item(exchange.ask(b"write", [handle, b"%d" % (part << 20), bytes(1 << 20)]))
            if self.chance.random() < 0.5:
                assert exchange.ask(b"abort", [handle]).words == ["ok"]
            elif self.chance.random() < 0.5:
                exchange.send(b"write", [handle, b"0", bytes(1 << 20)])
        finally:
            carrier.close()

    def die(self) -> None:
        """Lets a child be killed in the middle of an upload."""
        namespace, key = self.place()
        data = self.large()
        child = os.fork()
        if not child:
            signal.alarm(int(TIMEOUT_S))
            with Client(self.address, namespace, timeout=TIMEOUT_S) as client:
                try:
                    while True:
                        client.put(data, key=key)
                        client.evict(key)
                except QuotaExceeded:
                    pass
                finally:
                    os._exit(0)
        time.sleep(self.chance.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.there[namespace, key] = len(data)
        if not self.clients[namespace].exists(key):
            del self.there[namespace, key]

    def step(self) -> None:
        actions: tuple[Callable[[], None], ...] = (
            self.put, self.put, self.put_batch, self.put_large, self.replace, self.evict, self.evict_some, self.look,
            self.linger, self.give_up, self.die,
        )  # fmt: skip
        action = self.chance.choice(actions)
        try:
            action()
            self.told[action.__name__] += 1
        except QuotaExceeded:
            self.told["refused"] += 1
            if self.there and self.chance.random() < 0.3:
                self.evict_some()

    def run(self) -> Counter[str]:
        while goes_on():
            self.step()
        return self.told


def watch(address: str, namespaces: list[str]) -> Counter[str]:
    """Asks for usage until it is told to stop; returns the most that was used of each bound, and how often it asked."""
    most: Counter[str] = Counter()
    clients = {namespace: Client(address, namespace, timeout=TIMEOUT_S) for namespace in namespaces}
    while goes_on():
        for namespace, client in clients.items():
            told = client.usage(by="user")
            for name, pair in told["bounds"].items():
                assert pair["used"] <= pair["bound"], f"{name} in {namespace}: {pair}"
                most[name] = max(most[name], pair["used"])
            most["asked"] += 1
    return most


def main() -> None:
    mode, address, uid, *arguments = sys.argv[1:]
    become(int(uid))
    if mode == "watch":
        told = watch(address, arguments)
    else:
        name, seed, *namespaces = arguments
        told = Racer(address, name, seed, namespaces).run()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
