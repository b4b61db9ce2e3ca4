"""Client processes of real users: each has a uid, a gid and supplementary groups of its own. Both ends.

    python callers.py ADDRESS UID GID GROUP,GROUP…

It imports all it needs, becomes that user, and then makes calls that come by its standard input, many at a time, until
that ends. Each call is answered with `("ok", result)`, or with the error's code and its sentence. Real and effective
uid are that user's; the saved one stays root's, so that it can be told to become somebody else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import hostile
import storekeeper.dealer  # noqa: F401 - while it may be read: loaded when it is needed, that may be as another user
from storekeeper import Client, wire
from storekeeper.errors import StorekeeperError
from storekeeper.exchange import Exchange
from storekeeper.ranges import check_item

HANG_S = 120.0
"""How long anything may take that takes a second where nothing else runs."""
FIRST_UID = 61_000
"""Users and groups from here on have no names on any system that is likely to run this."""

Outcome = tuple[str, Any]
"""("ok", result), or an error's code and sentence."""


class User(NamedTuple):
    """Who somebody is to the kernel."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def become(self, *, for_good: bool = True) -> None:
        """Makes this process that user's; it may come back as root unless for good."""
        os.setresuid(0, 0, 0)
        os.setgroups(self.groups)
        saved = (self.uid, self.gid) if for_good else (0, 0)
        os.setresgid(self.gid, self.gid, saved[1])
        os.setresuid(self.uid, self.uid, saved[0])


class Call(NamedTuple):
    """One call: a method of `Client` or of `Caller` below, with its arguments."""

    namespace: str
    method: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


class Caller:
    """A process that is a user's. Starts at once; the first answer shows that it has."""

    def __init__(self, address: str, user: User) -> None:
        self.user = user
        groups = ",".join(map(str, user.groups))
        command = [sys.executable, __file__, address, str(user.uid), str(user.gid), groups]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._hears, self._says = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, calls: Sequence[Call]) -> list[Outcome]:
        """Lets it make calls, one after the other."""
        pickle.dump(list(calls), self._hears)
        self._hears.flush()
        assert select.select([self._says], [], [], HANG_S)[0], "the caller hangs"
        outcomes: list[Outcome] = pickle.load(self._says)
        assert len(outcomes) == len(calls)
        return outcomes

    def do(self, method: str, *arguments: Any, namespace: str = "default", **options: Any) -> Outcome:
        """Lets it make one call."""
        return self.ask([Call(namespace, method, arguments, options)])[0]

    def get(self, method: str, *arguments: Any, namespace: str = "default", **options: Any) -> Any:
        """Lets it make one call that has to succeed; returns its result."""
        code, result = self.do(method, *arguments, namespace=namespace, **options)
        assert code == "ok", result
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._hears.close()
        self._says.close()


@contextlib.contextmanager
def callers(address: str, users: Sequence[User]) -> Iterator[list[Caller]]:
    """Gives processes of users; they end with the block."""
    started: list[Caller] = []
    try:
        for user in users:
            started.append(Caller(address, user))
        yield started
    finally:
        for caller in started:
            caller.end()


# -- in the process itself


class Deeds:
    """What a caller can be asked to do beside the methods of `Client`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.clients: dict[str, Client] = {}
        self.peer: hostile.Peer | None = None

    def client(self, namespace: str) -> Client:
        if namespace not in self.clients:
            self.clients[namespace] = Client(self.address or None, namespace, timeout=30)
        return self.clients[namespace]

    def carry_out(self, call: Call) -> Outcome:
        deed = getattr(self, f"do_{call.method}", None)
        try:
            if deed is not None:
                return "ok", deed(call.namespace, *call.arguments, **call.options)
            return "ok", getattr(self.client(call.namespace), call.method)(*call.arguments, **call.options)
        except StorekeeperError as error:
            return error.code, str(error)
        except OSError as error:
            return type(error).__name__, str(error)

    def do_upload(self, namespace: str, key: str, data: bytes, *, replace: bool = False) -> str:
        """Puts an object in ranges, however small it is, and says what came of it."""

        def talk(exchange: Exchange) -> str:
            begun = exchange.ask(b"upload", [wire.key_frame(key)], {"namespace": namespace, "replace": replace})
            check_item(begun)
            handle = begun.details["handle"].encode()
            half = len(data) // 2
            for start, part in ((0, data[:half]), (half, data[half:])):
                check_item(exchange.ask(b"write", [handle, b"%d" % start, part]))
            done = exchange.ask(b"commit", [handle, b"%d" % len(data)])
            check_item(done)
            return str(done.words[0])

        return self.client(namespace)._session.call(talk)

    def do_read_range(self, namespace: str, key: str, start: int, length: int) -> bytes | None:
        """Opens an object and reads a range of it; None if it is not there."""

        def talk(exchange: Exchange) -> bytes | None:
            opened = exchange.ask(b"open", [wire.key_frame(key)], {"namespace": namespace})
            check_item(opened)
            if opened.words == ["absent"]:
                return None
            handle = opened.details["handle"].encode()
            told = exchange.ask(b"read", [handle, b"%d" % start, b"%d" % length])
            check_item(told)
            exchange.ask(b"close", [handle])
            return bytes(told.payloads[0])

        return self.client(namespace)._session.call(talk)

    def do_open_file(self, _: str, path: str, flags: int) -> None:
        """Opens a file by itself, past the daemon."""
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW))

    def do_list_folder(self, _: str, path: str) -> list[str]:
        return os.listdir(path)

    def do_remove_file(self, _: str, path: str) -> None:
        os.unlink(path)

    def do_link_file(self, _: str, path: str, to: str) -> None:
        os.link(path, to)

    # who it is

    def do_become(self, _: str, uid: int, gid: int, *groups: int) -> None:
        """Goes on as another user, with the connections that it has."""
        User(uid, gid, groups).become(for_good=False)

    def do_let_go(self, _: str) -> None:
        """Ends all connections: the next call makes a new one."""
        for client in self.clients.values():
            client.close()
        self.clients.clear()

    def do_as_child(self, _: str, user: User, calls: list[Call]) -> list[Outcome]:
        """Forks; the child becomes a user for good, and makes calls with the same `Client` objects."""
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                user.become()
                with os.fdopen(writes, "wb") as told:
                    pickle.dump([self.carry_out(call) for call in calls], told)
            finally:
                os._exit(0)
        os.close(writes)
        with os.fdopen(reads, "rb") as told:
            outcomes: list[Outcome] = pickle.load(told)
        os.waitpid(child, 0)
        return outcomes

    def do_time_pairs(self, namespace: str, verb: bytes, one: list[str], other: list[str], rounds: int) -> Any:
        """Asks about some keys and about others in turn; returns how long each answer took, in nanoseconds."""
        taken: tuple[list[int], list[int]] = ([], [])
        options = b'{"namespace":"%s"}' % namespace.encode()
        pair = [hostile.request(verb, *(key.encode() for key in keys), options=options) for keys in (one, other)]
        with hostile.Peer(self.address) as peer:
            for number in range(rounds):
                for which in (number % 2, 1 - number % 2):
                    began = time.perf_counter_ns()
                    peer.send(pair[which])
                    peer.read()
                    taken[which].append(time.perf_counter_ns() - began)
        return taken


def main(address: str, uid: str, gid: str, groups: str) -> None:
    User(int(uid), int(gid), tuple(int(group) for group in groups.split(",") if group)).become(for_good=False)
    deeds = Deeds(address)
    while True:
        try:
            calls: list[Call] = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump([deeds.carry_out(call) for call in calls], sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.modules["callers"] = sys.modules["__main__"]  # what is pickled is of this module
    main(*sys.argv[1:])
