"""How others fare while one process floods the daemon: a table, and the process that floods. A program of its own.

    PYTHONPATH=client:daemon:tests python tests/floods.py table [SECONDS [KIND…]]    prints the table
    python tests/floods.py flood KIND CONNECTIONS SOCKET                    floods until standard input ends

Each kind is a request that is sent without a pause on every connection, while answers are read as they come.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hostile import GREETING, Peer, connect, ready, request

LARGE = b"flood-large"
"""A 4 MiB object that has to be there for the flood of gets."""
KNOWN = b"flood-known"
"""A small one."""
_LONGEST_S = 120.0
_REPLACE = b'{"replace":true}'
_DURABLE = b'{"replace":true,"durability":"disk"}'
_FRESH = b'{"fresh":true}'


def _key(connection: int, number: int) -> bytes:
    return b"flood-%d-%d" % (connection, number % 4096)


def _absent(connection: int, number: int) -> bytes:
    return b"nothing-%d-%d" % (connection, number)


def _batch(connection: int, number: int, name: Callable[[int, int], bytes]) -> list[bytes]:
    return [name(connection, number * 1024 + item) for item in range(1024)]


KINDS: dict[str, Callable[[int, int], bytes]] = {
    "exists hits": lambda _, __: request(b"exists", KNOWN),
    "exists of 1024 hits": lambda _, __: request(b"exists", *[KNOWN] * 1024),
    "fresh exists, absent": lambda c, n: request(b"exists", _absent(c, n), options=_FRESH),
    "fresh exists of 1024 absent": lambda c, n: request(b"exists", *_batch(c, n, _absent), options=_FRESH),
    "fresh exists of 1024, short": lambda _, __: request(b"exists", *[b"z"] * 1024, options=_FRESH),
    "stat of 1024, short": lambda _, __: request(b"stat", *[b"z"] * 1024),
    "evict of 1024 times the same": lambda _, __: request(b"evict", *[b"z"] * 1024),
    "bad keys, 1024": lambda _, __: request(b"exists", *[b""] * 1024),
    "puts": lambda c, n: request(b"put", _key(c, n), b"x" * 100, options=_REPLACE),
    "puts of 1024": lambda c, n: request(
        b"put", *itertools.chain.from_iterable((key, b"x" * 100) for key in _batch(c, n, _key)), options=_REPLACE
    ),
    "durable puts": lambda c, n: request(b"put", _key(c, n), b"x" * 100, options=_DURABLE),
    "gets of 4 MiB": lambda _, __: request(b"get", LARGE),
    "list": lambda _, __: request(b"list"),
    "fresh usage": lambda _, __: request(b"usage", options=_FRESH),
    "connections": lambda _, __: b"",  # come, ask once, go
}
_BUILT = {
    "gets of 4 MiB": 8,
    "puts of 1024": 8,
    "fresh exists of 1024 absent": 64,
    "exists of 1024 hits": 8,
    "fresh exists of 1024, short": 8,
    "stat of 1024, short": 8,
    "evict of 1024 times the same": 8,
    "bad keys, 1024": 8,
}
"""How many different messages are made before the flood, then sent round and round; 4096 of the short ones."""


class _Flooder:
    """One connection of the flood."""

    def __init__(self, path: str, data: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        connect(self.socket, path)
        self.socket.setblocking(False)
        self.data = memoryview(data)
        self.at = 0
        self.opening = memoryview(GREETING + ready())

    def send(self) -> None:
        if self.opening:
            self.opening = self.opening[self.socket.send(self.opening) :]
            return
        self.at += self.socket.send(self.data[self.at : self.at + (1 << 18)])
        if self.at == len(self.data):
            self.at = 0


def flood(kind: str, connections: int, path: str) -> None:
    """Floods until standard input ends."""
    if kind == "connections":
        _flood_with_connections(connections, path)
        return
    poll = select.epoll()
    flooders = {}
    for number in range(connections):
        data = b"".join(KINDS[kind](number, place) for place in range(_BUILT.get(kind, 4096)))
        flooder = _Flooder(path, data)
        flooders[flooder.socket.fileno()] = flooder
        poll.register(flooder.socket, select.EPOLLIN | select.EPOLLOUT)
    poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    print("flooding", flush=True)
    ends = time.monotonic() + _LONGEST_S
    while time.monotonic() < ends:
        for descriptor, events in poll.poll(1):
            if descriptor == 0:
                return
            flooder = flooders[descriptor]
            with contextlib.suppress(BlockingIOError):
                if events & select.EPOLLIN and not flooder.socket.recv(1 << 20):
                    raise SystemExit("the flood was cut off")
            with contextlib.suppress(BlockingIOError):
                if events & select.EPOLLOUT:
                    flooder.send()


def _flood_with_connections(at_once: int, path: str) -> None:
    data = GREETING + ready() + request(b"exists", KNOWN)
    print("flooding", flush=True)
    ends = time.monotonic() + _LONGEST_S
    while time.monotonic() < ends and not select.select([0], [], [], 0)[0]:
        held = []
        for _ in range(at_once):
            held.append(socket.socket(socket.AF_UNIX))
            connect(held[-1], path)
            held[-1].sendall(data)
        for connection in held:
            with contextlib.suppress(ConnectionError):
                connection.recv(1000)
            connection.close()


@contextlib.contextmanager
def flooding(kind: str, connections: int, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that floods as long as the block lasts."""
    command = [sys.executable, __file__, "flood", kind, str(connections), address.removeprefix("ipc://")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"flooding\n"
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class Fare(NamedTuple):
    """How a victim fared with one verb, in milliseconds."""

    calls: int
    errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def measure_victim(client: Any, seconds: float) -> dict[str, Fare]:
    """Lets an honest client, who has put `victim-kept`, call each verb for so long; the last call is waited for."""
    calls: dict[str, Callable[[int], Any]] = {
        "put": lambda number: client.put(b"v" * 1000, key=f"victim-{number % 100}", replace=True),
        "get": lambda _: client.get("victim-kept"),
        "exists": lambda _: client.exists("victim-kept"),
        "exists, absent": lambda _: client.exists("victim-absent"),
        "connect, exists": lambda _: _come_and_go(client.address),
    }
    fares = {}
    for name, call in calls.items():
        took: list[float] = []
        errors = 0
        ends = time.monotonic() + seconds
        for number in itertools.count():
            started = time.monotonic()
            if started > ends:
                break
            try:
                call(number)
            except Exception as error:  # whatever it is: a table tells
                errors += 1
                print(f"  {name}: {type(error).__name__}: {error}", file=sys.stderr)
            took.append((time.monotonic() - started) * 1000)
        took.sort()
        count = len(took)
        fares[name] = Fare(count, errors, took[count // 2], took[min(count - 1, count * 99 // 100)], took[-1])
    return fares


def _come_and_go(address: str) -> None:
    with Peer(address) as peer:
        assert peer.ask(b"exists", b"victim-kept")[4] == b"yes"


def measure_flood(daemon: Any, kind: str, connections: int, seconds: float, timeout_s: float = 10) -> dict[str, Fare]:
    """How a victim fares while one process floods the daemon with one kind of request; "" for no flood.

    Returns:
        A fare per verb.
    """
    with daemon.client(timeout=timeout_s) as client:
        client.put(b"known", key=KNOWN.decode(), replace=True)
        client.put(bytes(4 << 20), key=LARGE.decode(), replace=True)
        client.put(b"v" * 1000, key="victim-kept", replace=True)
        with flooding(kind, connections, daemon.address) if kind else contextlib.nullcontext():
            time.sleep(0.3)
            return measure_victim(client, seconds)


def table(seconds: float, kinds: list[str]) -> None:
    """Prints the table, a daemon of its own for each line."""
    from conftest import daemons
    from hostile import peak_bytes, reset_peak

    print("| flood | connections | verb | calls | errors | p50 ms | p99 ms | max ms | daemon grew to |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in kinds:
        for connections in (1, 16) if kind else (0,):
            with tempfile.TemporaryDirectory() as folder, daemons(Path(folder)) as start:
                daemon = start("--log-level", "error")
                reset_peak(daemon.pid)
                fares = measure_flood(daemon, kind, connections, seconds)
                peak = peak_bytes(daemon.pid) >> 20
                for verb, fare in fares.items():
                    print(
                        f"| {kind or 'none'} | {connections} | {verb} | {fare.calls} | {fare.errors} "
                        f"| {fare.p50_ms:.2f} | {fare.p99_ms:.2f} | {fare.max_ms:.2f} | {peak} MiB |",
                        flush=True,
                    )


def main() -> None:
    mode, *arguments = sys.argv[1:]
    if mode == "flood":
        kind, connections, path = arguments
        flood(kind, int(connections), path)
    else:
        seconds = float(arguments[0]) if arguments else 2.0
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
        table(seconds, arguments[1:] or ["", *KINDS])


if __name__ == "__main__":
    main()
