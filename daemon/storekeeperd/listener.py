"""The ZMTP front: accepts connections on a Unix socket, asks the kernel who calls, and gives each its turn.

Owns the listening socket, who is let in, and the order of turns. What a connection may hold is connection.py's. A peer
that breaks the protocol loses its connection and nothing else happens. What messages mean is the service's business.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from functools import partial

from storekeeper import wire, zmtp
from storekeeper.errors import Busy, ProtocolError
from storekeeperd import faults
from storekeeperd.answers import Peer, WithDescriptor
from storekeeperd.config import Limits
from storekeeperd.connection import Connection, Stalled
from storekeeperd.loop import READ, Loop
from storekeeperd.service import Service
from storekeeperd.users import User

log = logging.getLogger(__name__)

_ACCEPTS_PER_TURN = 64
_SLICE_S = 0.001
"""How long one connection may keep the loop before the others have their turn; less if many want one."""
_SLICE_PART_MIN = 4
_TURN_S = 0.0025
"""How long all of them may keep it in one turn."""
_REFUSALS_MAX = 16
"""Connections at once that are told that they are too many; more are closed without a word."""
_SO_PEERGROUPS = 59
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class Listener:
    """Accepts connections and carries their messages to the service and back.

    Args:
        loop: where to wait.
        service: who answers.
        limits: bounds of every connection.
        sock: a bound and listening AF_UNIX stream socket; the listener owns it from now on.
        on_change: called when connections came or went.

    Attributes:
        connections: those that are served, by descriptor.
        accepted, refused, broken, stalled: how many there were; the latter two for breaking the protocol, and for not
            going on with what they began.
        requests: how many were taken.
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
        self.weigh = service.weigh
        self.connections: dict[int, Connection] = {}
        self._refusals: dict[int, Connection] = {}
        self._users: dict[int, User] = {}
        self.accepted = self.refused = self.broken = self.stalled = 0
        self._said = (0, 0)
        self._turns: dict[Connection, None] = {}  # in the order of their turns
        self.requests = 0
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        sock.setblocking(False)
        loop.watch(sock.fileno(), READ, self._accept)

    # -- messages

    def take(self, connection: Connection, peer: Peer, message: list[wire.Frame]) -> None:
        """Hands a message to the service, and replies that are there at once to the connection."""
        self.requests += 1
        if connection.refusal is not None:
            connection.send_last(self._service.refusal_of(message, connection.refusal))
            return
        if type(message) is zmtp.Overlong:
            self._service.refuse_long(peer, message)
        else:
            self._service.request(peer, message)
        replies = self._service.replies
        while replies and replies[0][0] is peer and type(replies[0][1]) is not WithDescriptor:
            connection.send(replies.popleft()[1])

    def deliver(self) -> None:
        """Sends the replies that the service has ready."""
        replies = self._service.replies
        connections: dict[Connection, None] = {}
        while replies:
            peer, frames = replies.popleft()
            connection = peer.carrier
            if connection is not None:
                if type(frames) is WithDescriptor:
                    self._guard(connection, partial(connection.hand_over, frames))
                else:
                    connection.send(frames)
                connections[connection] = None
        for connection in connections:
            self._guard(connection, connection.flush)

    # -- turns

    def slice_s(self) -> float:
        """Returns how long a connection may keep the loop now."""
        return _SLICE_S / min(_SLICE_PART_MIN, 1 + len(self._turns))

    def defers(self, connection: Connection) -> bool:
        """Returns whether a connection has its turn later: it waits for one, or the loop's turn is long enough."""
        if connection in self._turns:
            return True
        if time.monotonic() - self.loop.turn_started < _TURN_S:
            return False
        self.yield_turn(connection)
        return True

    def yield_turn(self, connection: Connection) -> None:
        """Lets the others go first: the connection goes on in one of the next turns."""
        self._turns[connection] = None
        self.loop.wake()

    def go_on(self) -> None:
        """Gives the connections that wait for one their turns, as long as this turn of the loop allows."""
        ends = max(time.monotonic() + _SLICE_S, self.loop.turn_started + _TURN_S)
        for connection in list(self._turns):
            if self._turns.pop(connection, self) is None and connection.peer.carrier is connection:
                self._guard(connection, connection.turn)
            if time.monotonic() >= ends:
                break
        if self._turns:
            self.loop.wake()

    def resume(self, peer: Peer) -> None:
        """Lets those connections of a user go on that may, now that he holds less."""
        for connection in peer.user.released():
            self.yield_turn(connection)

    # -- ends

    def drop(self, connection: Connection, error: Exception | None = None) -> None:
        """Ends a connection; what its peer held is released."""
        peer = connection.peer
        if peer.carrier is None:
            return
        if isinstance(error, ProtocolError):
            self.broken += 1
        elif isinstance(error, Stalled):
            self.stalled += 1
        if error is not None:
            log.debug("dropped uid %d pid %d: %s", peer.uid, peer.pid, error)
        peer.carrier = None
        descriptor = connection.socket.fileno()
        self.loop.unwatch(descriptor)
        self._turns.pop(connection, None)
        connection.close()
        if connection.refusal is not None:
            del self._refusals[descriptor]
            return
        del self.connections[descriptor]
        self._service.gone(peer)
        peer.user.connections -= 1
        self.resume(peer)
        self._on_change()

    def drop_stalled(self, now: float) -> None:
        """Ends connections that do not go on with what they began."""
        for user in list(self._users.values()):  # work of connections that are gone may have ended since
            for waiting in user.released():
                self.yield_turn(waiting)
            if not user.connections and not user.held_bytes:
                del self._users[user.uid]
        for connection in [*self.connections.values(), *self._refusals.values()]:
            try:
                connection.check(now)
            except Stalled as stalled:
                self.drop(connection, stalled)

    def say_dropped(self) -> None:
        """Says how many connections were dropped since the last call; one line, however many there were."""
        said = self.broken, self.stalled
        if said != self._said:
            broken, stalled = self.broken - self._said[0], self.stalled - self._said[1]
            log.warning("dropped connections: %d broke the protocol, %d did not go on in time", broken, stalled)
            self._said = said

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
        for connection in [*self.connections.values(), *self._refusals.values()]:
            self.drop(connection)
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _guard(self, connection: Connection, step: Callable[[], None]) -> None:
        """Takes a step of a connection; a fault of the daemon in it ends that connection and nothing else."""
        try:
            step()
        except Exception as error:
            self._fault(connection, error)

    def _fault(self, connection: Connection, error: Exception) -> None:
        peer = connection.peer
        faults.report(f"a connection of uid {peer.uid} pid {peer.pid}", error)
        self.drop(connection)

    # -- beginnings

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
                if error.errno not in _OUT_OF_FILES or not self._turn_away():
                    self._pause_accepting()
                    return
                continue
            if not self._open(sock):
                return

    def _turn_away(self) -> bool:
        """Closes the next connection though no descriptor is free: by the one kept in reserve. False if that failed.

        Who waits in the queue of the kernel would wait for nothing, and the socket would stay ready: a spin.
        """
        assert self._socket is not None
        if self._reserve < 0:
            return False
        os.close(self._reserve)
        self._reserve = -1
        try:
            self._socket.accept()[0].close()
        except OSError:
            return False
        finally:
            try:
                self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # somebody was quicker; the next pause tries again
                pass
        return self._reserve >= 0

    def _open(self, sock: socket.socket) -> bool:
        """Takes a connection, or refuses it; returns whether more may be accepted now."""
        try:
            sock.setblocking(False)
            # unix(7), SO_PEERCRED: who called connect(); nothing the peer sends can change it.
            pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            refusal = self._refusal_of(uid)
            if refusal is not None:
                self.refused += 1
                self._service.complaints.tell_error(Peer(uid, gid, pid), b"connection", refusal)
                if len(self._refusals) >= _REFUSALS_MAX:
                    sock.close()
                    return True
            user = (None if refusal else self._users.get(uid)) or User(uid, self._limits.user_bytes_max)
            peer = Peer(uid, gid, pid, user, groups=_groups_of(sock))
            connection = peer.carrier = Connection(self, sock, peer, self._limits, refusal)
            self.loop.watch(sock.fileno(), READ, self._guarded(connection))
        except OSError as error:  # epoll_ctl(2): ENOMEM, or ENOSPC by fs.epoll.max_user_watches
            log.debug("cannot take a connection: %s", error)
            self.refused += 1
            sock.close()
            self._pause_accepting()
            return False
        if refusal is not None:
            self._refusals[sock.fileno()] = connection
            return True
        self.accepted += 1
        user.connections += 1
        self._users[uid] = user
        self.connections[sock.fileno()] = connection
        self._on_change()
        return True

    def _guarded(self, connection: Connection) -> Callable[[int], None]:
        def ready(events: int) -> None:
            try:
                connection.ready(events)
            except Exception as error:
                self._fault(connection, error)

        return ready

    def _refusal_of(self, uid: int) -> Busy | None:
        """Returns why a user may have no further connection, None if he may."""
        limits = self._limits
        if len(self.connections) >= limits.connections_max:
            return Busy(f"all {limits.connections_max} connections of the daemon are taken; try again in a moment")
        user = self._users.get(uid)
        if user is not None and user.connections >= limits.user_connections_max:
            return Busy(
                f"uid {uid} has {limits.user_connections_max} connections, as many as one user may; "
                "close some clients, or try again in a moment"
            )
        return None

    def _pause_accepting(self) -> None:
        """Something is wrong: wait a moment instead of spinning on a socket that stays ready."""
        assert self._socket is not None
        self.loop.change(self._socket.fileno(), 0)

        def resume() -> None:
            if self._socket is not None:
                if self._reserve < 0:
                    try:
                        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
                    except OSError:
                        pass
                self.loop.change(self._socket.fileno(), READ)

        self.loop.call_later(0.1, resume)


def _groups_of(sock: socket.socket) -> frozenset[int]:
    """Returns the supplementary groups of whoever connected: unix(7), SO_PEERGROUPS."""
    for length in (64, 65536):  # as many as a process may have
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * length)
        except OSError as error:
            if error.errno == errno.ERANGE:
                continue
            return frozenset()  # a kernel before 4.13
        return frozenset(struct.unpack(f"{len(raw) // 4}I", raw))
    return frozenset()
