"""A peer that does as it likes: plain bytes on a Unix socket, without libzmq and without our own parser.

Every wait has an end, and every `Peer` a `close`. What it sends it encodes here, from RFC 37, so that a mistake of
ours in framing.py is not repeated. The figures that an attack may not move are read here too, from /proc.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL" + bytes(16) + b"\0" + bytes(31)
DEADLINE_S = 30.0
"""After that something hangs. No claim of how long anything should take."""


# -- bytes


def frame(body: bytes, *, more: bool = False) -> bytes:
    if len(body) < 256:
        return bytes([more, len(body)]) + body
    return bytes([2 | more]) + len(body).to_bytes(8, "big") + body


def message(*frames: bytes) -> bytes:
    return b"".join(frame(body, more=place + 1 < len(frames)) for place, body in enumerate(frames))


def announce(size: int, *, flags: int = 0, long: bool = True) -> bytes:
    """The head of a frame that never comes."""
    return bytes([flags | 2]) + size.to_bytes(8, "big") if long else bytes([flags, size])


def command(name: bytes, data: bytes = b"") -> bytes:
    body = bytes([len(name)]) + name + data
    return bytes([4, len(body)]) + body if len(body) < 256 else b"\6" + len(body).to_bytes(8, "big") + body


def ready(*properties: tuple[bytes, bytes], kind: bytes = b"DEALER") -> bytes:
    metadata = b"".join(
        bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
        for name, value in ((b"Socket-Type", kind), *properties)
    )
    return command(b"READY", metadata)


def request(verb: bytes, *arguments: bytes, id: bytes = b"1", options: bytes = b"") -> bytes:
    return message(b"SK01", verb, id, options, *arguments)


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Returns the whole frames in some bytes, as (flags, body), and what is left."""
    frames: list[tuple[int, bytes]] = []
    at = 0
    while len(data) - at >= 2:
        if data[at] & 2:
            if len(data) - at < 9:
                break
            size, body = int.from_bytes(data[at + 1 : at + 9], "big"), at + 9
        else:
            size, body = data[at + 1], at + 2
        if body + size > len(data):
            break
        frames.append((data[at], data[body : body + size]))
        at = body + size
    return frames, data[at:]


def connect(to: socket.socket, path: str) -> None:
    """Connects, and waits for it while others stand in the queue: only a blocking socket does (unix(7), EAGAIN)."""
    to.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(DEADLINE_S), 0))
    to.connect(path)
    to.settimeout(DEADLINE_S)


# -- a peer


class Dropped(Exception):  # not an error: many an attack asks for it
    """The daemon ended the connection."""


class Peer:
    """One connection of an attacker.

    Args:
        address: the daemon's, `ipc:///path`.
        greet: whether to shake hands at once.
        properties: what READY says beside the socket type.
    """

    def __init__(self, address: str, *, greet: bool = True, properties: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self._data = b""
        self._frames: list[bytes] = []
        self.commands: list[bytes] = []
        try:
            connect(self.socket, address.removeprefix("ipc://"))
            if greet:
                self.send(GREETING + ready(*properties))
                self.read_handshake()
        except BaseException:
            self.socket.close()
            raise

    def read_handshake(self) -> None:
        """Reads the daemon's greeting and READY, or raises `Dropped`."""
        while len(self._data) < 64:
            self._more()
        assert self._data[:1] == b"\xff" and self._data[10] == 3, self._data
        self._data = self._data[64:]
        while not self.commands:
            self._parse()
            if not self.commands:
                self._more()
        assert self.commands.pop(0).startswith(b"\5READY")

    def send(self, data: bytes, *, timeout_s: float = DEADLINE_S) -> None:
        """Sends all of it; raises `Dropped`, or `TimeoutError` if the daemon does not take it in time."""
        self.socket.settimeout(timeout_s)
        try:
            self.socket.sendall(data)
        except ConnectionError as error:
            raise Dropped from error

    def flood(self, data: bytes, times: int, *, patience_s: float = 0.5, read: bool = False) -> int:
        """Sends something again and again, until the daemon takes no more for so long; returns how many bytes it took.

        Args:
            data: what to send.
            times: how often at most.
            patience_s: how long to wait for the daemon to take more.
            read: whether to read what comes, and throw it away.
        """
        taken = 0
        deadline = time.monotonic() + DEADLINE_S
        self.socket.settimeout(0)
        for _ in range(times):
            left = memoryview(data)
            idle_since = time.monotonic()
            while left:
                if read:
                    self.discard()
                    self.socket.settimeout(0)
                try:
                    sent = self.socket.send(left)
                except BlockingIOError:
                    if time.monotonic() > idle_since + patience_s or time.monotonic() > deadline:
                        return taken
                    time.sleep(0.001)
                    continue
                except ConnectionError as error:
                    raise Dropped from error
                idle_since = time.monotonic()
                left = left[sent:]
                taken += sent
        return taken

    def discard(self) -> int:
        """Reads what is there, and throws it away; returns how many bytes; raises `Dropped`."""
        self.socket.settimeout(0)
        count = 0
        try:
            while data := self.socket.recv(1 << 20):
                count += len(data)
        except BlockingIOError:
            return count
        except ConnectionError as error:
            raise Dropped from error
        raise Dropped

    def read(self, *, timeout_s: float = DEADLINE_S) -> list[bytes]:
        """Returns the next message; raises `Dropped` or `TimeoutError`."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._parse()
            if self._frames and self._whole:
                frames, self._frames, self._whole = self._frames, [], False
                return frames
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            self._more()

    def ask(self, verb: bytes, *arguments: bytes, id: bytes = b"1", options: bytes = b"") -> list[bytes]:
        """Asks and returns the answer's frames: version, id, outcome, details, results, payloads."""
        self.send(request(verb, *arguments, id=id, options=options))
        return self.read()

    def wait_dropped(self, *, timeout_s: float = DEADLINE_S) -> bytes:
        """Reads until the daemon ends the connection; returns what came before that. `TimeoutError` if it does not."""
        deadline = time.monotonic() + timeout_s
        came = [self._data]
        self._data = b""
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                self._more()
            except Dropped:
                return b"".join(came)
            came.append(self._data[-4096:])
            self._data = b""

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    _whole = False

    def _more(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError as error:
            raise Dropped from error
        if not data:
            raise Dropped
        self._data += data

    def _parse(self) -> None:
        """Moves frames out of the data, up to the end of one message."""
        while not self._whole:
            frames, _ = split(self._data[: 9 + self._next_bytes()])
            if not frames:
                return
            flags, body = frames[0]
            self._data = self._data[len(body) + (9 if flags & 2 else 2) :]
            if flags & 4:
                self.commands.append(body)
            else:
                self._frames.append(body)
                self._whole = not flags & 1

    def _next_bytes(self) -> int:
        head = self._data[:9]
        if len(head) < 2:
            return 0
        return int.from_bytes(head[1:9], "big") if head[0] & 2 and len(head) == 9 else head[1]


@contextlib.contextmanager
def crowd(address: str, count: int, *, greet: bool = True) -> Iterator[list[Peer]]:
    """Many peers at once; they end with the block."""
    peers: list[Peer] = []
    try:
        for _ in range(count):
            peers.append(Peer(address, greet=greet))
        yield peers
    finally:
        for peer in peers:
            peer.close()


def strike(path: str, data: bytes) -> socket.socket:
    """Connects, sends what fits at once and lets be: the quickest attack. The caller closes the socket."""
    attacker = socket.socket(socket.AF_UNIX)
    try:
        connect(attacker, path)
        attacker.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionError):  # dropped before the end
            attacker.send(data)
    except BaseException:
        attacker.close()
        raise
    return attacker


def collect(attacker: socket.socket) -> bytes:
    """Waits until a struck daemon has said anything, its greeting for one, or has dropped us; closes. Returns what."""
    with attacker:
        attacker.settimeout(DEADLINE_S)
        try:
            return attacker.recv(1 << 16)
        except ConnectionError:
            return b""


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Lets the kernel believe that what connects meanwhile is that user; needs root."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


# -- figures of a process


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def reset_peak(pid: int) -> None:
    """Lets VmHWM count from now on (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_s(pid: int) -> float:
    fields: Sequence[str] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
