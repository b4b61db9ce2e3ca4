"""The ZMTP front: accepts connections on a Unix socket, asks the kernel who calls, and carries messages.

Owns the sockets. Every connection is bounded: a message by zmtp.Engine, what a peer is owed by `peer_bytes_max` and
`peer_requests_max` - above them it is not read from until it has read its answers. A peer that breaks the protocol
loses its connection and nothing else happens. What messages mean is the service's business.
"""

from __future__ import annotations

import errno
import itertools
import logging
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from storekeeper import framing, wire, zmtp
from storekeeper.errors import ProtocolError
from storekeeperd.answers import Peer
from storekeeperd.config import Limits
from storekeeperd.loop import READ, WRITE, Loop
from storekeeperd.service import HIT_AFTER, HIT_BEFORE, Service

log = logging.getLogger(__name__)

_READ_BYTES = 16 * 1024
"""Read per turn and connection: some 200 small requests, so that others get their turn soon."""
_HEAD_BYTES_MAX = 512 * 1024
"""What heads, keys and options of a message may add to its payload."""
_FRAMES_MAX = 2 * wire.BATCH_ITEMS_MAX + 8
_SEND_BUFFERS = 64
_JOIN_BYTES_MAX = 64 * 1024
"""Replies that wait together are joined up to this; above, the kernel gathers them."""
_ACCEPTS_PER_TURN = 64
_MESSAGES_PER_LOOK = 32
"""Messages taken before the clock is looked at again."""
_TURN_S = 0.005
"""How long one connection may keep the loop before the others have their turn."""


_EXISTS = framing.encode_prefix([wire.VERSION, b"exists"])
_encode_hit = framing.message_of_one_frame(HIT_BEFORE, HIT_AFTER)


class Connection:
    """One peer's socket, its ZMTP engine and what waits to be sent to it."""

    def __init__(self, listener: Listener, sock: socket.socket, peer: Peer, limits: Limits) -> None:
        self._listener = listener
        self.socket = sock
        self.peer = peer
        self._limits = limits
        self._engine = zmtp.Engine(
            socket_type=b"ROUTER",
            as_server=True,
            message_bytes_max=limits.message_bytes_max + _HEAD_BYTES_MAX,
            frames_max=max(_FRAMES_MAX, 2 * limits.batch_items_max + 8),
        )
        self._out: deque[Any] = deque()
        self._out_bytes = 0
        self._events = READ
        self.opened = time.monotonic()

    @property
    def greeted(self) -> bool:
        """Whether the handshake is complete."""
        return self._engine.ready

    def ready(self, events: int) -> None:
        """Takes what epoll says about the socket."""
        try:
            if events & WRITE:
                self._flush()
            if events & ~WRITE and self._events & READ:
                self._receive()
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self._listener.drop(self)
                return
            self.advance()
        except (ProtocolError, OSError) as error:
            self._listener.drop(self, error)

    def send(self, frames: list[Any]) -> None:
        """Queues a message; `advance` sends it."""
        for buffer in framing.encode_message(frames):
            self._out.append(buffer)
            self._out_bytes += len(buffer)

    def advance(self) -> None:
        """Takes the messages that are there, as far as the peer's bounds allow, and sends what is queued."""
        turn_ends = time.monotonic() + _TURN_S
        while self._take_some():
            if time.monotonic() > turn_ends:
                self._listener.yield_turn(self)
                break
        if self._out:
            self._flush()
        wanted = (0 if self._is_paused() else READ) | (WRITE if self._out else 0)
        if wanted != self._events:
            self._events = wanted
            self._listener.loop.change(self.socket.fileno(), wanted)

    def _take_some(self) -> bool:
        """Takes a few messages; False if no more are there, or the peer's bounds are reached."""
        if self._is_paused():
            return False
        engine, peer, out, listener = self._engine, self.peer, self._out, self._listener
        next_after, is_hit = engine.next_after, listener.is_hit
        hits = hit_bytes = 0
        more = False
        for _ in range(_MESSAGES_PER_LOOK):
            exists = next_after(_EXISTS)
            if exists is not None:
                if is_hit(*exists):
                    data = _encode_hit(exists[0])
                    out.append(data)
                    hits += 1
                    hit_bytes += len(data)
                    continue
                listener.take(self, peer, [wire.VERSION, b"exists", *exists])
            else:
                message = engine.next_message()
                if engine.outgoing:
                    self._send_protocol()
                if message is None:
                    break
                listener.take(self, peer, message)
            if self._is_paused():
                break
        else:
            more = True
        self._out_bytes += hit_bytes
        listener.requests += hits
        return more

    def _is_paused(self) -> bool:
        peer, limits = self.peer, self._limits
        return (
            self._out_bytes + peer.owed_bytes > limits.peer_bytes_max or peer.owed_requests >= limits.peer_requests_max
        )

    def _receive(self) -> None:
        room = self._engine.room()
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
                return
            self._out_bytes -= sent
            while sent:
                size = len(out[0])
                if size > sent:
                    out[0] = memoryview(out[0])[sent:]
                    break
                sent -= size
                out.popleft()

    @property
    def owed(self) -> bool:
        """Whether the peer still waits for something that will come."""
        return bool(self._out or self.peer.owed_requests)


class Listener:
    """Accepts connections and carries their messages to the service and back.

    Args:
        loop: where to wait.
        service: who answers.
        limits: bounds of every connection.
        sock: a bound and listening AF_UNIX stream socket; the listener owns it from now on.
        on_change: called when connections came or went.
    """

    def __init__(
        self,
        loop: Loop,
        service: Service,
        limits: Limits,
        sock: socket.socket,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.loop = loop
        self._service = service
        self._limits = limits
        self._socket: socket.socket | None = sock
        self._on_change = on_change
        self.is_hit = service.is_hit
        self.connections: dict[int, Connection] = {}
        self.accepted = 0
        self.refused = 0
        self.broken = 0
        self._broken_said = 0
        self._unfinished: dict[int, Connection] = {}
        self.requests = 0
        sock.setblocking(False)
        loop.watch(sock.fileno(), READ, self._accept)

    def take(self, connection: Connection, peer: Peer, message: list[wire.Frame]) -> None:
        """Hands a message to the service, and replies that are there at once to the connection."""
        self.requests += 1
        if type(message) is zmtp.Overlong:
            self._service.refuse_long(peer, message)
        else:
            self._service.request(peer, message)
        replies = self._service.replies
        while replies and replies[0][0] is peer:
            connection.send(replies.popleft()[1])

    def deliver(self) -> None:
        """Sends the replies that the service has ready."""
        replies = self._service.replies
        connections = {}
        while replies:
            peer, frames = replies.popleft()
            connection = peer.carrier
            if connection is not None:
                connection.send(frames)
                connections[id(connection)] = connection
        for connection in connections.values():
            self._advance(connection)

    def drop(self, connection: Connection, error: Exception | None = None) -> None:
        """Ends a connection; what its peer held is released."""
        peer = connection.peer
        if peer.carrier is None:
            return
        if isinstance(error, ProtocolError):
            self.broken += 1
            log.debug("dropped uid %d pid %d: %s", peer.uid, peer.pid, error)
        peer.carrier = None
        descriptor = connection.socket.fileno()
        self.loop.unwatch(descriptor)
        del self.connections[descriptor]
        connection.socket.close()
        self._service.gone(peer)
        self._on_change()

    def drop_mute(self, now: float) -> None:
        """Ends connections that have not greeted in time."""
        oldest = now - self._limits.handshake_timeout_s
        for connection in list(self.connections.values()):
            if not connection.greeted and connection.opened < oldest:
                self.drop(connection, ProtocolError("no greeting in time"))

    def say_broken(self) -> None:
        """Says how many connections broke the protocol since the last call; one line, however many there were."""
        if self.broken != self._broken_said:
            log.warning("dropped %d connections that broke the protocol", self.broken - self._broken_said)
            self._broken_said = self.broken

    def yield_turn(self, connection: Connection) -> None:
        """Lets the others go first: the connection goes on with what it has received in the next turn."""
        self._unfinished[id(connection)] = connection
        self.loop.wake()

    def go_on(self) -> None:
        """Gives the connections that yielded their next turn."""
        if self._unfinished:
            unfinished, self._unfinished = self._unfinished, {}
            for connection in unfinished.values():
                if connection.peer.carrier is connection:
                    self._advance(connection)

    def stop_accepting(self) -> None:
        """Closes the listening socket; connections stay."""
        if self._socket is not None:
            self.loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    @property
    def owed(self) -> bool:
        """Whether any peer still waits for something that will come."""
        return any(connection.owed for connection in self.connections.values())

    def close(self) -> None:
        """Ends everything."""
        self.stop_accepting()
        for connection in list(self.connections.values()):
            self.drop(connection)

    def _advance(self, connection: Connection) -> None:
        try:
            connection.advance()
        except (ProtocolError, OSError) as error:
            self.drop(connection, error)

    def _accept(self, _: int) -> None:
        assert self._socket is not None
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.debug("cannot accept: %s", error)
                self.refused += 1
                self._pause_accepting()
                return
            if not self._open(sock):
                return

    def _open(self, sock: socket.socket) -> bool:
        """Takes a connection, or refuses it; returns whether more may be accepted now."""
        if len(self.connections) >= self._limits.connections_max:
            self.refused += 1
            sock.close()
            return True
        try:
            sock.setblocking(False)
            # unix(7), SO_PEERCRED: who called connect(); nothing the peer sends can change it.
            pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            peer = Peer(uid, gid, pid)
            connection = peer.carrier = Connection(self, sock, peer, self._limits)
            self.loop.watch(sock.fileno(), READ, connection.ready)
        except OSError as error:  # epoll_ctl(2): ENOMEM, or ENOSPC by fs.epoll.max_user_watches
            log.debug("cannot take a connection: %s", error)
            self.refused += 1
            sock.close()
            self._pause_accepting()
            return False
        self.accepted += 1
        self.connections[sock.fileno()] = connection
        self._on_change()
        return True

    def _pause_accepting(self) -> None:
        """Out of descriptors: wait a moment instead of spinning on a socket that stays ready."""
        assert self._socket is not None
        self.loop.change(self._socket.fileno(), 0)

        def resume() -> None:
            if self._socket is not None:
                self.loop.change(self._socket.fileno(), READ)

        self.loop.call_later(0.1, resume)
