"""One peer's connection: its socket, its ZMTP engine, what waits to be sent, and how long anything may take.

Owns the socket. A connection is bounded: a message by zmtp.Engine, what a peer is owed by `peer_bytes_max` and
`peer_requests_max`, all of a user's by `user_bytes_max` (users.py): above them it is not read from, so that the peer
has to wait. A peer that is not done with a message or does not read its answers in time is not served any longer.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from storekeeper import framing, wire, zmtp
from storekeeper.errors import ProtocolError, StorekeeperError
from storekeeperd.answers import Peer, WithDescriptor
from storekeeperd.config import Limits
from storekeeperd.loop import READ, WRITE, Loop
from storekeeperd.service import HIT_AFTER, HIT_BEFORE

_READ_BYTES = 16 * 1024
"""Read per turn and connection: some 200 small requests, so that others get their turn soon."""
_HEAD_BYTES_MAX = 512 * 1024
"""What heads, keys and options of a message may add to its payload."""
_SEND_BUFFERS = 64
_JOIN_BYTES_MAX = 64 * 1024
"""Replies that wait together are joined up to this; above, the kernel gathers them."""
_BUFFERS_MAX = 4096
"""Buffers that wait to be sent: short ones cost more than their bytes."""
_MESSAGES_PER_LOOK = 32
"""Messages taken before the clock is looked at again."""
_FRAMES_PER_LOOK = 256
"""And frames: a batch is as long as so many messages."""

_SO_PEERPIDFD = 77
_EXISTS = framing.encode_prefix([wire.VERSION, b"exists"])
_encode_hit = framing.message_of_one_frame(HIT_BEFORE, HIT_AFTER)


class Stalled(Exception):
    """A peer does not go on with what it began."""


class Front(Protocol):
    """What a connection needs of the listener."""

    loop: Loop
    requests: int
    is_hit: Callable[..., bool]
    weigh: Callable[..., int]

    def take(self, connection: Connection, peer: Peer, message: list[wire.Frame]) -> None:
        """Hands a message to the service."""

    def drop(self, connection: Connection, error: Exception | None = None) -> None:
        """Ends the connection."""

    def defers(self, connection: Connection) -> bool:
        """Whether the connection has its turn later."""

    def yield_turn(self, connection: Connection) -> None:
        """Lets the others go first."""

    def slice_s(self) -> float:
        """How long a connection may keep the loop now."""

    def resume(self, peer: Peer) -> None:
        """Lets those connections of a user go on that may."""


class Connection:
    """One connection.

    Args:
        front: the listener.
        sock: its socket, not blocking.
        peer: who it is.
        limits: its bounds.
        refusal: why it is not served: the answer to its first request, after which it ends.
    """

    def __init__(
        self, front: Front, sock: socket.socket, peer: Peer, limits: Limits, refusal: StorekeeperError | None = None
    ) -> None:
        self._front = front
        self.socket = sock
        self.peer = peer
        self.refusal = refusal
        self._limits = limits
        self._engine = zmtp.Engine(
            socket_type=b"ROUTER",
            as_server=True,
            message_bytes_max=limits.message_bytes_max + _HEAD_BYTES_MAX,
            frames_max=frames_max(limits),
        )
        self._out: deque[Any] = deque()
        self._out_bytes = 0
        self._held_bytes = 0  # of the buffers, as the user's sum has it
        self._events = READ
        self._opened = time.monotonic()
        self._greeted = False
        self._last = False  # what waits is the last that is sent
        self._parked: list[wire.Frame] | None = None  # a message whose answer is too large just now
        self._began: float | None = None  # a message that is not complete
        self._stalled: float | None = None  # since when nothing of what waits could be sent

    def ready(self, events: int) -> None:
        """Takes what epoll says about the socket."""
        if self._front.defers(self):
            return
        try:
            if events & WRITE:
                self._flush()
            if events & ~WRITE and self._events & READ:
                self._receive()
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self._front.drop(self)
                return
            self._advance()
        except (ProtocolError, OSError) as error:
            self._end(error)

    def turn(self) -> None:
        """Goes on with what is there: its turn has come, or it has something to send."""
        try:
            if self._events & READ:
                self._receive()
            self._advance()
        except (ProtocolError, OSError) as error:
            self._end(error)

    def send(self, frames: list[Any]) -> None:
        """Queues a message; `turn` or `flush` sends it."""
        for buffer in framing.encode_message(frames):
            self._out.append(buffer)
            self._out_bytes += len(buffer)

    def hand_over(self, frames: WithDescriptor) -> None:
        """Sends a message and the descriptor that it brings, if it can go out now; else it goes without.

        Whoever asks for a descriptor can do without: he finds none beside the answer, and reads in ranges.
        """
        message = b"".join(framing.encode_message(frames))
        sent = 0
        descriptor = frames.transfer.descriptor
        if (
            descriptor >= 0 and not self._out
        ):  # a descriptor arrives with the first byte that it is sent with: unix(7), SCM_RIGHTS
            with contextlib.suppress(OSError):
                sent = socket.send_fds(self.socket, [message], [descriptor])
        if sent < len(message):
            self._out.append(memoryview(message)[sent:])
            self._out_bytes += len(message) - sent

    def send_last(self, frames: list[Any]) -> None:
        """Queues a message, after which the connection ends."""
        self.send(frames)
        self._last = True

    def flush(self) -> None:
        """Sends what is queued, and goes on."""
        try:
            self._advance()
        except (ProtocolError, OSError) as error:
            self._end(error)

    def check(self, now: float) -> None:
        """Raises `Stalled` if the peer lets the daemon wait for too long."""
        limits = self._limits
        if not self._engine.ready or self.refusal is not None:
            if now - self._opened > limits.handshake_timeout_s:
                raise Stalled("it did not greet in time")
        elif self._began is not None and now - self._began > limits.message_timeout_s:
            raise Stalled("a message was not complete in time")
        if self._stalled is not None and now - self._stalled > limits.stall_timeout_s:
            raise Stalled("it does not read its answers")

    def process_descriptor(self) -> int:
        """Returns a descriptor of the process that connected (SO_PEERPIDFD, Linux 6.5); -1 where there is none.

        Whoever asks has to close it.
        """
        try:
            return int(self.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return -1

    def close(self) -> None:
        """Closes the socket; what all of the user's connections hold is less now."""
        self.peer.user.changed(self, -self._held_bytes, idle=True)
        self.peer.user.left(self)
        self.socket.close()

    @property
    def owed(self) -> bool:
        """Whether the peer still waits for something that will come."""
        return bool(self._out or self.peer.owed_requests)

    # -- parts

    def _end(self, error: ProtocolError | OSError) -> None:
        if isinstance(error, ProtocolError) and self._out:
            with contextlib.suppress(OSError):
                self._flush()  # section "The ERROR command": why the handshake failed
        self._front.drop(self, error)

    def _advance(self) -> None:
        """Takes the messages that are there, as far as the bounds allow, and sends what is queued."""
        turn_ends = time.monotonic() + self._front.slice_s()
        while self._take_some():
            if time.monotonic() > turn_ends:
                self._front.yield_turn(self)
                break
        if self._out:
            self._flush()
        self._settle_up()

    def _settle_up(self) -> None:
        """Puts down what is held now, and what is waited for."""
        engine, peer = self._engine, self.peer
        if not self._greeted and engine.ready:
            self._greeted = True
            name, value = wire.DESCRIPTORS
            peer.passes_descriptors = engine.peer_properties.get(name.lower()) == value
        paused = self._is_paused()
        wanted = (0 if paused else READ) | (WRITE if self._out else 0)
        if wanted != self._events:
            self._events = wanted
            self._front.loop.change(self.socket.fileno(), wanted)
        arriving = engine.held_bytes
        if not arriving or paused:  # if it is not read from, it cannot go on
            self._began = None
        elif self._began is None:
            self._began = time.monotonic()
        held = arriving + self._out_bytes
        user = peer.user
        if held != self._held_bytes or user.leader is self:
            user.changed(self, held - self._held_bytes, idle=not held and not peer.owed_requests)
            self._held_bytes = held
        if user.waiting:
            self._front.resume(peer)

    def _take_some(self) -> bool:
        """Takes a few messages; False if no more are there, or the peer's bounds are reached."""
        if self._is_paused():
            return False
        engine, peer, out, front = self._engine, self.peer, self._out, self._front
        next_after, is_hit = engine.next_after, front.is_hit
        hits = hit_bytes = frames = 0
        more = False
        for _ in range(_MESSAGES_PER_LOOK):
            exists = next_after(_EXISTS) if self.refusal is None and self._parked is None else None
            if exists is not None:
                if is_hit(peer, *exists):
                    data = _encode_hit(exists[0])
                    out.append(data)
                    hits += 1
                    hit_bytes += len(data)
                    continue
                front.take(self, peer, [wire.VERSION, b"exists", *exists])
            else:
                try:
                    message = self._parked or engine.next_message()
                finally:  # what the protocol has to say goes out even if it is the last that is said
                    if engine.outgoing:
                        self._send_protocol()
                if message is None:
                    break
                if peer.user.held_bytes > peer.user.bytes_max and not peer.user.admits(self, front.weigh(message)):
                    self._parked = message
                    break
                self._parked = None
                front.take(self, peer, message)
                frames += len(message)
                if frames > _FRAMES_PER_LOOK:
                    more = True
                    break
            if self._is_paused():
                break
        else:
            more = True
        self._out_bytes += hit_bytes
        front.requests += hits
        return more

    def _is_paused(self) -> bool:
        peer, limits = self.peer, self._limits
        return (
            self._out_bytes + peer.owed_bytes > limits.peer_bytes_max
            or len(self._out) > _BUFFERS_MAX
            or self._last
            or peer.owed_requests >= limits.peer_requests_max
            or (peer.user.held_bytes > peer.user.bytes_max and not self._is_admitted())
        )

    def _is_admitted(self) -> bool:
        """Whether the user may hold what this connection holds and what is arriving."""
        arriving = self._limits.message_bytes_max if self._engine.room() is not None else 0
        parked = self._front.weigh(self._parked) if self._parked is not None else 0
        return self.peer.user.admits(self, self._out_bytes + self.peer.owed_bytes + arriving + parked)

    def _receive(self) -> None:
        room = self._engine.room()
        if room is None and self._engine.unparsed_bytes >= _READ_BYTES:
            return  # messages that were not taken yet, for others had their turn: these first
        try:
            if room is not None:
                size = self.socket.recv_into(room)
                if size:
                    self._engine.filled(size)
            else:
                data = self.socket.recv(_READ_BYTES)
                size = len(data)
                if size:
                    self._engine.receive(data)
        except BlockingIOError:
            return
        if not size:
            raise ConnectionResetError(errno.ECONNRESET, "closed by the peer")

    def _send_protocol(self) -> None:
        for buffer in self._engine.outgoing:
            self._out.append(buffer)
            self._out_bytes += len(buffer)
        self._engine.outgoing.clear()

    def _flush(self) -> None:
        out = self._out
        while out:
            try:
                if len(out) == 1:
                    sent = self.socket.send(out[0])
                elif self._out_bytes <= _JOIN_BYTES_MAX:
                    joined = b"".join(out)
                    out.clear()
                    out.append(joined)
                    sent = self.socket.send(joined)
                else:
                    sent = self.socket.sendmsg(list(itertools.islice(out, _SEND_BUFFERS)))
            except BlockingIOError:
                if self._stalled is None:
                    self._stalled = time.monotonic()
                return
            self._stalled = None
            self._out_bytes -= sent
            while sent:
                size = len(out[0])
                if size > sent:
                    out[0] = memoryview(out[0])[sent:]
                    break
                sent -= size
                out.popleft()
        if self._last:
            raise ConnectionResetError(errno.ECONNRESET, "refused")


def frames_max(limits: Limits) -> int:
    """Returns how many frames a message may have."""
    return max(2 * wire.BATCH_ITEMS_MAX + 8, 2 * limits.batch_items_max + 8)
