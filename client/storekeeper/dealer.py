"""A carrier over ZeroMQ: one pyzmq DEALER. For every address that libzmq knows, `ipc://` and `tcp://` among them.

Owns the process's ZeroMQ context. Nothing of it crosses a fork: a child makes its own context and sockets, leaves the
parent's alone, and closes its copies of their connections, so that they end with the parent.

Nothing is sent without a copy: pyzmq would release the buffers in a thread of its own, which an interruption, a signal
handler that sends or the end of the interpreter can break for good.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

import zmq

from storekeeper.address import Servers, check_server, check_socket
from storekeeper.errors import BadRequest, DaemonUnreachable
from storekeeper.holds import Held
from storekeeper.lines import dropped, exhausted, late, somebody_listens, unreachable

_PATIENCE_MS = 50
"""How long to wait for an answer before asking whether the daemon is still there."""

_EVENT = struct.Struct("=Hi")
"""zmq_socket_monitor(3): what happened, and the descriptor."""
_SOCKETS_MAX = 16_384

_monitors = itertools.count(1)
"""Numbers for the names of monitors: pyzmq's own, made of a descriptor's number, are used again too early."""

_descriptors: dict[int, str] = {}
"""Connections of this process, by descriptor: where each leads."""

_context: tuple[int, zmq.Context[zmq.Socket[bytes]]] | None = None


def _process_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Returns this process's context, made at first use: two threads, six descriptors, one millisecond."""
    global _context  # noqa: PLW0603 - one per process, like the threads behind it
    if _context is None or _context[0] != os.getpid():
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context.set(zmq.MAX_SOCKETS, min(_SOCKETS_MAX, context.get(zmq.SOCKET_LIMIT)))
        _context = (os.getpid(), context)
    return _context[1]


def _let_go() -> None:
    """Closes what a forked child has of its parent's connections; what only has the number of one is left alone."""
    for descriptor, address in list(_descriptors.items()):
        with contextlib.suppress(OSError):
            copy = socket.socket(fileno=os.dup(descriptor))
            with copy:
                ours = copy.family == socket.AF_UNIX and f"ipc://{copy.getpeername()}" == address
            if ours:
                os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_let_go)


class Dealer:
    """One connection to a daemon, as carriers.py has it.

    Args:
        address: where the daemon is.
        servers: users who may serve it; nobody in particular if it is empty.

    Raises:
        BadRequest: the address is none.
        WrongServer: its socket is another user's.
    """

    passes_descriptors = False

    def __init__(self, address: str, servers: Servers = frozenset()) -> None:
        check_socket(address, servers)
        self.held = Held()
        self._servers = servers
        self._guarded = bool(servers) and address.startswith("ipc://")
        self._held: list[list[bytes]] = []
        self.pid = os.getpid()
        self._address = address
        self._descriptor = -1
        self._broken = False
        try:
            self._socket = _process_context().socket(zmq.DEALER)
        except zmq.ZMQError as error:
            raise exhausted(error) from None
        try:
            self._events = self._socket.get_monitor_socket(
                zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECTED | (zmq.EVENT_CLOSED if self._guarded else 0),
                f"inproc://storekeeper-{next(_monitors)}",
            )
        except zmq.ZMQError as error:
            self._socket.close(0)
            raise exhausted(error) from None
        try:
            self._socket.setsockopt(zmq.LINGER, 0)
            if self._guarded:  # by itself it would send what is left to whoever is there then
                self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
            else:
                self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
                self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
            self._socket.setsockopt(zmq.SNDHWM, 0)
            self._socket.setsockopt(zmq.RCVHWM, 0)
            self._events.setsockopt(zmq.LINGER, 0)
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise BadRequest(f"{address!r} is no address: {error}; use ipc:///path") from None
        self._connected = False

    def send(self, frames: Sequence[Any], *, later: bool = False) -> None:
        """Queues a message to the daemon.

        Args:
            frames: bytes-like objects; they are copied, for a send may outlive the call that gave up on it.
            later: makes no difference: ZeroMQ's thread sends what there is.
        """
        if self._guarded and not self._connected:  # nothing leaves before the kernel has said who listens
            self._held.append([bytes(frame) for frame in frames])
            return
        last = len(frames) - 1
        for position, frame in enumerate(frames):
            flags = zmq.NOBLOCK | (zmq.SNDMORE if position < last else 0)
            self._socket.send(frame, flags)  # never blocks: its queue has no high-water mark

    def receive(self, deadline: float, *, copy: bool = True) -> list[Any]:
        """Returns the frames of the next message of the daemon.

        Args:
            deadline: time.monotonic() until which to wait.
            copy: bytes if true; else the received memory itself.

        Raises:
            TimedOut: the daemon is there but sent nothing in time.
            DaemonUnreachable: the daemon went away, or was never there; a new carrier may find the next one.
        """
        self._wait(deadline)
        if not self._connected:
            with contextlib.suppress(DaemonUnreachable):  # there is an answer all the same
                self._take_events()  # which connection it is: a forked child has to know
        frames: list[Any] = self._socket.recv_multipart(zmq.NOBLOCK, copy=copy)
        return frames if copy else [memoryview(frame) for frame in frames]

    def descriptor(self) -> int:
        """Returns -1: libzmq drops what descriptors it is sent."""
        return -1

    def drop_descriptors(self) -> None:
        """Does nothing: there are none."""

    def close(self) -> None:
        """Closes the connection at once; what is not sent is dropped. Does nothing in a forked child."""
        if self.pid == os.getpid() and not self._socket.closed:
            _descriptors.pop(self._descriptor, None)
            self._socket.disable_monitor()
            self._events.close(0)
            self._socket.close(0)

    def __del__(self) -> None:
        # One that nobody closed: the call that had it was interrupted before it could. Left to itself, its monitor
        # would fill up, and ZeroMQ's thread, which serves all others, wait for ever.
        with contextlib.suppress(Exception):  # it was not made whole, or the interpreter is ending
            self.close()

    def is_whole(self) -> bool:
        """Returns whether the connection has not broken since it was made."""
        try:
            self._take_events()
        except DaemonUnreachable:
            return False
        return True

    def _wait(self, deadline: float) -> None:
        while True:
            if self.pid != os.getpid():  # forked in the middle of a call: libzmq would wait for threads of the parent
                raise dropped(self._address)
            left_ms = (deadline - time.monotonic()) * 1000
            if self._held:
                self._events.poll(max(0, min(_PATIENCE_MS, int(left_ms) + 1)))
                self._take_events()
                if self._connected:
                    held, self._held = self._held, []
                    for frames in held:
                        self.send(frames)
            elif self._socket.poll(max(0, min(_PATIENCE_MS, int(left_ms) + 1))):
                return
            try:
                self._take_events()
            except DaemonUnreachable:
                if self._socket.poll(0):  # the last word came in between
                    return
                raise
            if not self._connected and not somebody_listens(self._address):
                raise unreachable(self._address)
            if left_ms <= 0:
                raise late()

    def _check_server(self, descriptor: int) -> None:
        """Asks the kernel who listens there, before anything is sent."""
        if self._guarded:
            with contextlib.suppress(OSError):  # it is closed again, and no other one is made: nothing is ever sent
                check_server(self._address, _server_of(descriptor), self._servers)

    def _take_events(self) -> None:
        """Raises `DaemonUnreachable` if the connection broke: a request in flight is then lost without a word."""
        while not self._broken and self._events.poll(0):
            event, descriptor = _EVENT.unpack(self._events.recv_multipart()[0])
            if event != zmq.EVENT_CONNECTED:
                _descriptors.pop(self._descriptor, None)
                self._broken = True
                break
            self._check_server(descriptor)
            self._connected = True
            self._descriptor = descriptor
            _descriptors[descriptor] = self._address
        if self._broken:
            raise dropped(self._address) if somebody_listens(self._address) else unreachable(self._address)


def _server_of(descriptor: int) -> int:
    """Returns the user who listens at the other end of a socket: unix(7), SO_PEERCRED."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        credentials = copy.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)
