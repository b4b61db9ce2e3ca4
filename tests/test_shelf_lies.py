"""A daemon that lies: whatever it hands out as a shelf, its clients neither crash nor hang, and keep nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostile import GREETING, message, ready, split
from storekeeper import Client, shelf, wire
from storekeeper.errors import TimedOut
from test_shortcut import held

pytestmark = pytest.mark.usefixtures("by_plain_socket")


class Liar(threading.Thread):
    """A daemon that says yes to everything, and hands out whatever it is told to as a shelf."""

    def __init__(self, path: Path, descriptor: int, *, hangs: bool = False, answer: bytes = b"ok") -> None:
        super().__init__(name="liar")
        self.asked = 0
        self._ends = False
        self._descriptor, self._hangs, self._answer = descriptor, hangs, answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._listener.settimeout(0.02)
        self.start()

    def run(self) -> None:
        while not self._ends:
            with contextlib.suppress(OSError):
                peer, _ = self._listener.accept()
                with peer:
                    peer.settimeout(0.05)
                    peer.sendall(GREETING + ready(wire.DESCRIPTORS, kind=b"ROUTER"))
                    self._talk(peer)

    def _talk(self, peer: socket.socket) -> None:
        data, begun = b"", False
        while not self._ends:
            try:
                part = peer.recv(1 << 16)
            except TimeoutError:
                continue
            if not part:
                return
            data += part
            if not begun and len(data) >= 64:
                data, begun = data[64:], True
            frames, data = split(data) if begun else ([], data)
            bodies = [body for flags, body in frames if not flags & 4]
            while bodies:
                verb, number = bodies[1], bodies[2]
                bodies = bodies[4 if verb == b"shelf" else 5 :]
                if verb != b"shelf":
                    peer.sendall(message(b"SK01", number, b"ok", b"", b"yes"))
                    continue
                self.asked += 1
                if not self._hangs:
                    socket.send_fds(peer, [message(b"SK01", number, b"ok", b"", self._answer)], [self._descriptor])

    def end(self) -> None:
        self._ends = True
        self.join(20)
        self._listener.close()


def memory(data: bytes, *, length: int = 0, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    made = os.memfd_create("lie", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(made, length or len(data))
    os.pwrite(made, data, 0)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, seals)
    return made


def pipe() -> int:
    """The end of a pipe that is read; nobody has the other."""
    here, there = os.pipe()
    try:
        return here
    finally:
        os.close(there)


def header(table: int, ring: int, magic: int = shelf.MAGIC) -> bytes:
    return struct.pack("<3Q", magic, table, ring)


WHOLE = shelf.HEADER_BYTES + 512
LIES: dict[str, Callable[[], int]] = {
    "a pipe": pipe,
    "a device": lambda: os.open("/dev/zero", os.O_RDWR),
    "a folder": lambda: os.open("/", os.O_RDONLY),
    "a file": lambda: os.open(__file__, os.O_RDONLY),
    "nothing": lambda: memory(b""),
    "a byte": lambda: memory(b"x"),
    "a word": lambda: memory(bytes(8)),
    "half a word more": lambda: memory(header(512, 4), length=WHOLE + 4),
    "only a header": lambda: memory(header(0, 0), length=shelf.HEADER_BYTES),
    "no table": lambda: memory(header(0, 512), length=WHOLE),
    "no ring": lambda: memory(header(512, 0), length=WHOLE),
    "a table that is no power": lambda: memory(header(768, 256), length=shelf.HEADER_BYTES + 1024),
    "a tiny table": lambda: memory(header(256, 256), length=WHOLE),
    "a huge table": lambda: memory(header(1 << 63, 512), length=WHOLE),
    "numbers that overflow": lambda: memory(header(1 << 63, (1 << 63) + 512), length=WHOLE),
    "another version": lambda: memory(header(512, 512, 7), length=WHOLE + 512),
    "noise": lambda: memory(os.urandom(1 << 16)),
    "memory that may be cut": lambda: memory(header(512, 512), length=WHOLE + 512, seals=0),
    "a sparse one without end": lambda: memory(header(1 << 46, 512), length=WHOLE - 512 + (1 << 46) + 512),
    "a table of noise": lambda: memory(
        header(512, 512) + bytes(shelf.HEADER_BYTES - 24) + os.urandom(1024), length=WHOLE + 512
    ),
}


@pytest.fixture
def lying(tmp_path: Path) -> Iterator[Callable[..., Liar]]:
    liars: list[Liar] = []

    def lie(descriptor: int, **options: Any) -> Liar:
        liars.append(Liar(tmp_path / "liar", descriptor, **options))
        return liars[-1]

    yield lie
    for liar in liars:
        liar.end()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_whatever_a_daemon_hands_out_a_call_returns_what_was_answered(
    tmp_path: Path, lying: Callable[..., Liar], lie: Callable[[], int]
) -> None:
    descriptor = lie()
    try:
        one = lying(descriptor)
        with Client(f"ipc://{tmp_path}/liar", timeout=10) as client:
            for _ in range(30):
                assert client.exists("k") is True
            assert one.asked >= 1
            client._shortcut.get("k")
            mine = held()
            for _ in range(30):
                assert client.exists("other") is True
            assert held() <= mine
    finally:
        os.close(descriptor)


def test_the_deadline_holds_though_the_daemon_hangs_before_it_hands_out(
    tmp_path: Path, lying: Callable[..., Liar]
) -> None:
    one = lying(-1, hangs=True)
    with Client(f"ipc://{tmp_path}/liar", timeout=1) as client:
        slowest = 0.0
        for _ in range(12):
            began = time.monotonic()
            with contextlib.suppress(TimedOut):
                assert client.exists("k") is True
            slowest = max(slowest, time.monotonic() - began)
        assert one.asked >= 1
        assert slowest < 5
