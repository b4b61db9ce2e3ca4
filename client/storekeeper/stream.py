"""A carrier over a plain Unix socket: the same ZMTP bytes as ZeroMQ's, without its threads.

Owns the socket. What is put on the line is framing.py's, what comes from it zmtp.py's.

Who listens is asked of the kernel before anything is sent. The first request goes out with the end of the handshake, as
soon as the daemon has greeted; sooner it would save a round trip, but a listener of libzmq breaks off then (measured).

A send never blocks, for the daemon may want to be read from before it reads on: what does not fit into the socket waits
here, uncopied, and goes out while an answer is waited for. A receive that need not hurry is one call of the kernel: the
socket itself gives up after a moment (socket(7), SO_RCVTIMEO), and the clock is looked at.

A forked child closes its copies of the connections, so that they end with the parent.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import socket
import struct
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from storekeeper import framing, wire, zmtp
from storekeeper.address import Servers, check_server, check_socket
from storekeeper.errors import BadRequest, ProtocolError
from storekeeper.holds import Held
from storekeeper.lines import dropped, exhausted, late, somebody_listens, unreachable
from storekeeper.spin import Spin

_PATIENCE_S = 0.1
"""How long one receive waits in the kernel."""
_CROWDED_S = 0.005
"""How soon to try again when the daemon's queue of new connections is full."""
_CONTROL_BYTES = socket.CMSG_SPACE(struct.calcsize("i"))
"""Room for one descriptor; the kernel closes what there is no room for."""
_SPIN_S = 150e-6
"""How long an answer is looked for before it is waited for (spin.py)."""
_READ_BYTES = 64 * 1024
"""Received at once of what is no long frame. malloc(3) has so much at hand; for more it asks the kernel every time."""
_FORKS_MAX = 10_000
_MESSAGE_BYTES_MAX = 1 << 40
_FRAMES_MAX = 1 << 20
_SEND_BUFFERS = 512
"""Buffers given to the kernel at once; sendmsg(2) takes 1,024."""

_sockets: dict[socket.socket, tuple[int, int]] = {}
"""Sockets of this process until they are closed: descriptor and inode, which nothing else has that got the number."""


def _let_go() -> None:
    """Closes what a forked child has of its parent's connections; what only has the number of one is left alone."""
    for sock, (descriptor, inode) in list(_sockets.items()):
        sock.detach()
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == inode:  # also one that another thread was just closing
                os.close(descriptor)
    _sockets.clear()
    _forks[:] = [0, 0]


_forks = [0, 0]
"""Forks of this process: begun, and ended."""


def _begin_fork() -> None:
    _forks[0] += 1


def _end_fork() -> None:
    _forks[1] += 1


os.register_at_fork(before=_begin_fork, after_in_parent=_end_fork, after_in_child=_let_go)


def _new_socket() -> socket.socket:
    """Returns a socket of which every child that is forked from now on closes its copy."""
    for _ in range(_FORKS_MAX):
        begun = _forks[0]
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        descriptor = made.fileno()
        _sockets[made] = descriptor, os.fstat(descriptor).st_ino
        if _forks == [begun, begun]:
            break
        made.close()  # a fork in another thread came in between: its child has a copy and does not know of it
        _sockets.pop(made, None)
        time.sleep(0)
    else:
        raise OSError(errno.EAGAIN, "too many forks")
    return made


class Stream:
    """One connection to a daemon, as carriers.py has it. Connects with the first message.

    Args:
        address: where the daemon is, ipc:///path.
        servers: users who may serve it; nobody in particular if it is empty.

    Raises:
        TooMany: the process is out of descriptors.
        WrongServer: the address's socket is another user's.
    """

    passes_descriptors = True

    def __init__(self, address: str, servers: Servers) -> None:
        check_socket(address, servers)
        self.pid = os.getpid()
        self.held = Held()
        self._address = address
        self._path = address.removeprefix("ipc://")
        self._servers = servers
        self._connected = False
        self._greeted = False  # by the daemon; nothing but our greeting is sent before
        self._out: list[Any] = []
        self._arrived: list[Any] = []  # what recvmsg(2) gave that brought descriptors: they are owned by this list
        self._engine = zmtp.Engine(
            socket_type=b"DEALER",
            as_server=False,
            message_bytes_max=_MESSAGE_BYTES_MAX,
            frames_max=_FRAMES_MAX,
            properties=[wire.DESCRIPTORS],
            memory=lambda size: io.BytesIO(bytes(size)),
        )
        try:
            self._socket = _new_socket()
        except OSError as error:
            raise exhausted(error) from None
        self._socket.setblocking(False)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        self._look = partial(poll.poll, 0)
        self._spin = Spin(_SPIN_S)

    def send(self, frames: Sequence[Any], *, later: bool = False) -> None:
        """Queues a message; raises as `receive` if nobody is there.

        Args:
            frames: as carriers.py has them.
            later: whether it waits for the next one: both are one call of the kernel then.

        Raises:
            BadRequest: the address is none.
            WrongServer: somebody else serves it than was expected; nothing was sent.
        """
        buffers = framing.encode_message(frames)
        if not self._greeted:
            self._out += buffers
            if not self._connected:
                self._connect()
        elif later:
            self._out += buffers
        elif self._out or len(buffers) > 1:
            self._out += buffers
            self._flush()
        else:
            self._send_one(buffers[0])

    def receive(self, deadline: float, *, copy: bool = True) -> list[Any]:
        """Returns the frames of the next message of the daemon, as carriers.py has it."""
        engine = self._engine
        while True:
            message = engine.next_message()
            if engine.outgoing:
                self._greet()
            if message is not None:
                break
            self._fill(deadline)
        if isinstance(message, zmtp.Overlong):
            raise ProtocolError("an answer that is longer than any may be")
        return message

    def descriptor(self) -> int:
        """Returns the descriptor that came with the last message, -1 if none did. It stays this carrier's."""
        numbers = self._numbers()
        return numbers[-1] if numbers else -1

    def drop_descriptors(self) -> None:
        """Closes what came."""
        if self._arrived:
            # One call of C: an interruption comes before all of it, or after, so nothing is closed twice or never.
            steps = chain(map(os.close, self._numbers()), map(list.clear, (self._arrived,)))
            deque(steps, 0)

    def _numbers(self) -> list[int]:
        return [number for got in self._arrived for *_, packed in got[1] for number in array("i", packed)]

    def close(self) -> None:
        """Closes the connection at once; what is not sent is dropped. Does nothing in a forked child."""
        if self.pid == os.getpid():
            self.drop_descriptors()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # whoever has a copy
            self._socket.close()
            _sockets.pop(self._socket, None)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it was not made whole, or the interpreter is ending
            self.close()

    def is_whole(self) -> bool:
        """Returns whether an idle connection has not broken since it was made."""
        try:
            there = self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return bool(there and self.held.closing)  # else it is at its end, or has an answer to nothing

    # -- parts

    def _connect(self) -> None:
        """Tries to connect, and greets; connects later if the daemon's queue is full."""
        try:
            self._socket.connect(self._path)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno is None:
                raise BadRequest(f"{self._address!r} is no address: {error}; use ipc:///path") from None
            raise unreachable(self._address, error) from None
        if self._servers:
            check_server(self._address, _server_of(self._socket), self._servers)
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(_PATIENCE_S * 1e6)))
        self._connected = True
        for buffer in self._engine.outgoing:
            self._send_one(buffer)  # a new socket has room for it
        self._engine.outgoing.clear()

    def _greet(self) -> None:
        """Ends the handshake, now that the daemon has greeted, and sends what waits."""
        self._out[:0] = self._engine.outgoing
        self._engine.outgoing.clear()
        self._greeted = True
        self._flush()

    def _send_one(self, buffer: bytes) -> None:
        try:
            sent = self._socket.send(buffer, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:  # the daemon may have said why before it went: what it said comes first
            return
        if sent < len(buffer):
            self._out.append(memoryview(buffer)[sent:])

    def _flush(self) -> None:
        """Sends what fits into the socket of what waits."""
        out = self._out
        while out:
            try:
                sent = self._socket.sendmsg(out[:_SEND_BUFFERS], (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:  # as above
                out.clear()
                return
            done = 0
            for buffer in out:
                size = len(buffer)
                if size > sent:
                    break
                sent -= size
                done += 1
            del out[:done]
            if sent:
                out[0] = memoryview(out[0])[sent:]

    def _fill(self, deadline: float) -> None:
        """Receives something, or sends more of what waits; raises if neither comes to pass in time."""
        left_s = deadline - time.monotonic()
        if left_s < -_PATIENCE_S:  # it does not stop sending, but does not answer
            raise late()
        if not self._connected:
            if left_s <= 0:
                raise late()
            time.sleep(min(_CROWDED_S, left_s))
            self._connect()
            return
        flags = 0
        sends = bool(self._out and self._greeted)
        if not sends and self._greeted:
            self._spin.until(self._look)
        if sends or left_s < _PATIENCE_S:
            self._poll(left_s, sends=sends)
            flags = socket.MSG_DONTWAIT
        engine = self._engine
        room = engine.room()
        try:
            if room is not None:
                size = self._socket.recv_into(room, 0, flags or socket.MSG_WAITALL)
                engine.filled(size)
            else:
                data = self._receive_some(flags)
                size = len(data)
                engine.receive(data)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            raise dropped(self._address) if somebody_listens(self._address) else unreachable(self._address)

    def _receive_some(self, flags: int) -> bytes:
        # One call of C puts down what the kernel gives: an interruption in between would lose a descriptor.
        arrived = self._arrived
        flags |= socket.MSG_CMSG_CLOEXEC
        arrived.extend(map(self._socket.recvmsg, (_READ_BYTES,), (_CONTROL_BYTES,), (flags,)))
        data: bytes = arrived[-1][0]
        if not arrived[-1][1]:
            del arrived[-1]
        return data

    def _poll(self, left_s: float, *, sends: bool) -> None:
        """Waits until something can be received, or sent of what waits, and sends that."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if sends else 0))
        if not poll.poll(max(0.0, left_s) * 1000):
            raise late()
        if sends:
            self._flush()


def _server_of(sock: socket.socket) -> int:
    """Returns the user who listens at the other end of a socket: unix(7), SO_PEERCRED."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)
