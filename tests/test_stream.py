"""stream.py: the carrier over a plain Unix socket, against listeners that do just what a test says."""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from storekeeper import framing, zmtp
from storekeeper.errors import BadRequest, DaemonUnreachable, ProtocolError, TimedOut, WrongServer
from storekeeper.stream import Stream

NOBODY = frozenset[int]()
READY = framing.greeting(as_server=True) + framing.encode_ready(b"ROUTER")


class Listener:
    """A listening socket, and the last connection it took."""

    def __init__(self, path: Path, backlog: int = 8) -> None:
        self.address = f"ipc://{path}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(os.fspath(path))
        self.socket.listen(backlog)
        self.socket.settimeout(10)
        self.taken: list[socket.socket] = []

    def accept(self, *, greet: bool = True) -> socket.socket:
        taken, _ = self.socket.accept()
        taken.settimeout(10)
        self.taken.append(taken)
        if greet:
            taken.sendall(READY)
        return taken

    def close(self) -> None:
        for sock in (self.socket, *self.taken):
            sock.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path / "s")
    yield made
    made.close()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def engine() -> zmtp.Engine:
    return zmtp.Engine(socket_type=b"ROUTER", as_server=True, message_bytes_max=1 << 30, frames_max=1000)


def message_of(sock: socket.socket, reader: zmtp.Engine) -> list[Any]:
    """Returns the next message that a listener is sent."""
    while (message := reader.next_message()) is None:
        reader.outgoing.clear()
        data = sock.recv(1 << 16)
        assert data, "the connection ended"
        reader.receive(data)
    return message


def wait_for_the_end(sock: socket.socket) -> None:
    try:
        while sock.recv(1000):
            pass
    except ConnectionResetError:  # it had not read all
        pass


def answer(sock: socket.socket, *frames: bytes) -> None:
    sock.sendall(b"".join(map(bytes, framing.encode_message(list(frames)))))


def test_nothing_but_the_greeting_is_sent_before_the_daemon_has_greeted(listener: Listener) -> None:
    stream = Stream(listener.address, NOBODY)
    stream.send([b"request"])
    taken = listener.accept(greet=False)
    assert taken.recv(1000) == framing.greeting(as_server=False)
    with pytest.raises(TimedOut):
        stream.receive(soon(0.05))
    assert not select.select([taken], [], [], 0)[0]
    taken.sendall(READY)
    with pytest.raises(TimedOut):
        stream.receive(soon(0.05))
    assert taken.recv(1000).endswith(b"\0\x07request")
    stream.close()


def test_messages_go_there_and_back(listener: Listener) -> None:
    stream = Stream(listener.address, NOBODY)
    sent = [[b"a", b"", b"b" * 255], [b"c" * 256, b"d" * 100_000, memoryview(b"e" * 9000)], [b"x"]]
    for frames in sent:
        stream.send(frames)
    taken, reader = listener.accept(), engine()
    got: list[list[Any]] = []

    def serve() -> None:
        for _ in sent:
            got.append(message_of(taken, reader))
            answer(taken, *map(bytes, got[-1]))

    thread = threading.Thread(target=serve)
    thread.start()
    for frames in sent:
        told = stream.receive(soon())
        assert told == [bytes(frame) for frame in frames]
        assert all(type(frame) is bytes for frame in told)
    thread.join()
    assert got == [[bytes(frame) for frame in frames] for frames in sent]
    stream.close()


def test_frames_of_an_answer_may_be_the_received_memory_itself(listener: Listener) -> None:
    stream = Stream(listener.address, NOBODY)
    stream.send([b"x"])
    taken = listener.accept()
    thread = threading.Thread(target=answer, args=(taken, b"head", b"p" * 100_000))
    thread.start()
    head, payload = stream.receive(soon(), copy=False)
    thread.join()
    assert (bytes(head), bytes(payload)) == (b"head", b"p" * 100_000)
    assert type(payload) is bytes
    stream.close()


def test_both_sides_may_send_much_at_once(listener: Listener) -> None:
    # Each fills its end before it reads: whoever blocked in a send would wait for ever.
    stream, size = Stream(listener.address, NOBODY), 8 << 20
    stream.send([b"hello"])
    taken, reader = listener.accept(), engine()

    def serve() -> None:
        assert message_of(taken, reader) == [b"hello"]
        answer(taken, b"first")
        taken.sendall(b"".join(map(bytes, framing.encode_message([b"z" * size]))))
        for number in range(3):
            assert message_of(taken, reader) == [b"%d" % number, b"y" * size]
        answer(taken, b"last")

    thread = threading.Thread(target=serve)
    thread.start()
    assert stream.receive(soon()) == [b"first"]
    for number in range(3):
        stream.send([b"%d" % number, b"y" * size])
    assert stream.receive(soon()) == [b"z" * size]
    assert stream.receive(soon()) == [b"last"]
    thread.join()
    stream.close()


@pytest.mark.parametrize("greet", [False, True])
def test_a_mute_daemon_is_waited_for_until_the_deadline(listener: Listener, greet: bool) -> None:
    stream = Stream(listener.address, NOBODY)
    stream.send([b"x"])
    listener.accept(greet=greet)
    for seconds in (0.0, 0.03, 0.25):
        began = time.monotonic()
        with pytest.raises(TimedOut):
            stream.receive(began + seconds)
        assert time.monotonic() - began >= seconds
    stream.close()


def test_a_full_queue_of_connections_is_waited_for(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "s", backlog=0)
    before, stream = Stream(listener.address, NOBODY), Stream(listener.address, NOBODY)
    before.send([b"first in the queue"])
    stream.send([b"x"])
    with pytest.raises(TimedOut):
        stream.receive(soon(0.05))
    listener.accept()
    with pytest.raises(TimedOut):
        stream.receive(soon(0.05))
    answer(listener.accept(), b"yes")
    assert stream.receive(soon()) == [b"yes"]
    for one in (before, stream, listener):
        one.close()


def test_what_the_daemon_said_before_it_went_is_heard(listener: Listener) -> None:
    stream = Stream(listener.address, NOBODY)
    stream.send([b"x"])
    taken = listener.accept()
    answer(taken, b"yes")
    assert stream.receive(soon()) == [b"yes"]
    answer(taken, b"no more")
    taken.close()
    stream.send([b"y"])
    assert stream.receive(soon()) == [b"no more"]
    with pytest.raises(DaemonUnreachable, match="ended the connection"):
        stream.receive(soon())
    stream.close()


def test_a_daemon_that_went_for_good_is_not_there(listener: Listener, tmp_path: Path) -> None:
    stream = Stream(listener.address, NOBODY)
    stream.send([b"x"])
    listener.accept()
    listener.close()
    with pytest.raises(DaemonUnreachable, match="no daemon answers"):
        stream.receive(soon())
    stream.close()
    (tmp_path / "s").unlink()
    stream = Stream(listener.address, NOBODY)
    with pytest.raises(DaemonUnreachable, match="no daemon answers"):
        stream.send([b"x"])
    stream.close()


def test_who_may_not_connect_is_told_so(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    os.chmod(tmp_path, 0o711)
    for folder in (tmp_path.parent, tmp_path.parent.parent):
        os.chmod(folder, 0o711)
    listener = Listener(tmp_path / "s")
    os.chmod(tmp_path / "s", 0o600)
    os.seteuid(65533)
    try:
        stream = Stream(listener.address, NOBODY)
        with pytest.raises(DaemonUnreachable, match="you may not use the socket"):
            stream.send([b"x"])
    finally:
        os.seteuid(0)
    stream.close()
    listener.close()


def test_an_address_that_is_too_long_is_none() -> None:
    stream = Stream(f"ipc:///{'x' * 200}", NOBODY)
    with pytest.raises(BadRequest, match="no address"):
        stream.send([b"x"])
    stream.close()


def test_nothing_is_sent_to_another_user(listener: Listener) -> None:
    with pytest.raises(WrongServer):
        Stream(listener.address, frozenset({os.geteuid() + 1}))


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n", READY[:64] + b"\x04\x05\x04WHAT", READY + b"\xff\xff"]
)
def test_a_listener_that_speaks_otherwise_is_an_error(listener: Listener, data: bytes) -> None:
    stream = Stream(listener.address, NOBODY)
    stream.send([b"x"])
    listener.accept(greet=False).sendall(data)
    with pytest.raises(ProtocolError):
        stream.receive(soon())
    stream.close()


def test_an_idle_connection_is_whole_until_something_happens_to_it(listener: Listener) -> None:
    streams = [Stream(listener.address, NOBODY) for _ in range(3)]
    for stream in streams:
        stream.send([b"x"])
        answer(listener.accept(), b"yes")
        assert stream.receive(soon()) == [b"yes"]
        assert stream.is_whole()
    answer(listener.taken[0], b"an answer to nothing")
    listener.taken[1].close()
    assert [stream.is_whole() for stream in streams] == [False, False, True]
    for stream in streams:
        stream.close()
        assert not stream.is_whole()


def test_one_that_is_forgotten_is_closed(listener: Listener) -> None:
    stream = Stream(listener.address, NOBODY)
    stream.send([b"x"])
    taken = listener.accept()
    del stream
    gc.collect()
    wait_for_the_end(taken)


def test_a_forked_child_keeps_no_connection_open_and_closes_nothing_else(listener: Listener, tmp_path: Path) -> None:
    ours, others = Stream(listener.address, NOBODY), Stream(listener.address, NOBODY)
    takens = []
    for stream in (ours, others):
        stream.send([b"x"])
        takens.append(listener.accept())
    # Somebody closed descriptors that were not his, and the number is a file's now.
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    number = others._socket.fileno()
    os.dup2(file, number)
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(write_end)
        os.write(number, b"still open")
        os.read(read_end, 1)
        os._exit(0)
    ours.close()
    wait_for_the_end(takens[0])  # though the child lives
    os.close(write_end)
    os.waitpid(child, 0)
    assert (tmp_path / "file").read_bytes() == b"still open"
    others.close()
    for descriptor in (read_end, file):
        os.close(descriptor)


def test_a_router_of_libzmq_is_a_listener_too(tmp_path: Path) -> None:
    context = zmq.Context()
    with context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(f"ipc://{tmp_path}/s")
        stream = Stream(f"ipc://{tmp_path}/s", NOBODY)
        stream.send([b"ping", b"y" * 100_000])

        def echo() -> None:
            assert router.poll(10_000)
            router.send_multipart(router.recv_multipart())

        thread = threading.Thread(target=echo)
        thread.start()
        assert stream.receive(soon()) == [b"ping", b"y" * 100_000]
        thread.join()
        stream.close()
    context.term()
