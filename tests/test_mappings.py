"""mappings.py: large objects by descriptors - views, whole reads, and what can be done with what is handed out."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import mmap
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from conftest import Daemon, eventually
from storekeeper import Client, framing, wire, zmtp
from storekeeper.errors import DaemonUnreachable, QuotaExceeded

pytestmark = pytest.mark.usefixtures("by_plain_socket")

LARGE = 3 * 1024 * 1024 + 17


@pytest.fixture
def data() -> bytes:
    return os.urandom(LARGE)


def as_somebody_else(do: Callable[[], Any]) -> Any:
    """Returns what a function returns in a child that is another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        told: Any = "it failed"
        try:
            os.setgroups([])
            os.setresgid(65533, 65533, 65533)
            os.setresuid(65533, 65533, 65533)
            told = do()
        finally:
            os.write(write_end, json.dumps(told).encode())
            os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with open(read_end, "rb") as pipe:
        return json.load(pipe)


def is_mapped(view: memoryview | None) -> bool:
    return view is not None and isinstance(view.obj, mmap.mmap)


# -- views


@pytest.mark.parametrize("size", [1, 4096, LARGE])
def test_a_view_is_the_file_itself_and_read_only(client: Client, size: int) -> None:
    data = os.urandom(size)
    client.put(data, key="k")
    view = client.view("k")
    assert is_mapped(view)
    assert view is not None
    assert view == data
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    view.release()


def test_of_nothing_there_is_no_view_and_of_an_empty_object_an_empty_one(client: Client) -> None:
    assert client.view("k") is None
    client.put(b"", key="k")
    assert client.view("k") == b""


def test_a_view_stays_as_it_is_whatever_becomes_of_the_key(daemon: Daemon, client: Client, data: bytes) -> None:
    client.put(data, key="k")
    with client.view("k") as view:  # type: ignore[union-attr]
        client.put(b"other", key="k", replace=True)
        assert view == data
        client.evict("k")
        assert view == data
        daemon.kill()
        daemon.start()
        assert view == data
    assert client.view("k") is None


def test_a_view_counts_against_the_quota_until_it_is_released(hall: Callable[..., Any]) -> None:
    daemon = hall(f"[quota]\nbytes_max = {8 << 20}\n[limits]\nhandle_idle_s = 0.1\n")
    with daemon.client(timeout=5) as client:
        client.put(bytes(5 << 20), key="k")
        view = client.view("k")
        assert is_mapped(view)
        client.evict("k")
        time.sleep(1.5)  # however long it is left alone
        with pytest.raises(QuotaExceeded):
            client.put(bytes(5 << 20), key="l")
        del view
        gc.collect()
        eventually(lambda: client.status()["reserved_bytes"] == 0)
        client.put(bytes(5 << 20), key="l")


def test_a_view_takes_no_connection_of_its_own(client: Client, data: bytes) -> None:
    client.put(data, key="k")
    with client.view("k") as view:  # type: ignore[union-attr]
        assert client.get("k") == view
        assert client.status()["connections"] == 1
        with client.view("k") as other:  # type: ignore[union-attr]
            assert other == view
    for _ in range(100):
        client.view("k").release()  # type: ignore[union-attr]
    assert client.status()["connections"] == 1


def test_over_zeromq_a_view_is_a_copy(daemon: Daemon, data: bytes) -> None:
    with daemon.client(carrier="zmq") as client:
        client.put(data, key="k")
        view = client.view("k")
        assert view == data
        assert not is_mapped(view)
        assert view is not None
        assert view.readonly
        assert client.view("absent") is None


def test_a_file_that_others_can_write_to_is_not_mapped(daemon: Daemon, client: Client, data: bytes) -> None:
    (daemon.store / "k").write_bytes(data)
    view = client.view("k")
    assert view == data
    assert not is_mapped(view)
    with open(daemon.store / "k", "r+b") as file:
        file.truncate(10)
    assert view == data  # and nobody dies of SIGBUS
    assert client.get("k") == data[:10]


def test_where_space_is_counted_nobody_else_is_given_a_descriptor(hall: Callable[..., Any]) -> None:
    # He could keep it, let go of its handle, and so hold any amount of space beside his quota.
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    daemon = hall(f"[quota]\nuser_bytes_max = {16 << 20}\n")

    def look() -> list[bool]:
        with Client(daemon.address, timeout=20) as client:
            data = os.urandom(LARGE)
            client.put(data, key="k")
            view = client.view("k")
            return [is_mapped(view), view == data, client.get("k") == data]

    assert as_somebody_else(look) == [False, True, True]
    with daemon.client() as client:
        assert is_mapped(client.view("k"))


# -- whole reads


@pytest.mark.usefixtures("each_carrier")
@pytest.mark.parametrize("size", [256 * 1024, 256 * 1024 + 1, LARGE, 5 << 20])
def test_large_objects_are_read_whole(daemon: Daemon, size: int) -> None:
    data = os.urandom(size)
    with daemon.client() as client:
        client.put(data, key="k")
        assert client.get("k") == data
        target = bytearray(size + 1)
        assert client.get("k", into=target) == size
        assert target == data + b"\0"
        short = bytearray(size - 1)
        with pytest.raises(ValueError, match="the buffer"):
            client.get("k", into=short)
        assert short == bytes(size - 1)
        assert client.get_batch(["k", "absent", "k"]) == [data, None, data]
        for _ in range(10):
            client.get("k")  # by then it has its shelf
        held = daemon.descriptors
        for _ in range(5):
            client.get("k")
        assert daemon.descriptors == held


def test_reading_leaves_no_descriptor_behind(client: Client, data: bytes) -> None:
    client.put(data, key="k")
    for _ in range(10):
        client.get("k")  # by then it has its shelf
    held = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        client.get("k")
        client.view("k")
        with pytest.raises(ValueError, match="the buffer"):
            client.get("k", into=bytearray(1))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= held


# -- what is handed out


class Line:
    """A raw connection that takes descriptors."""

    def __init__(self, address: str, properties: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(address.removeprefix("ipc://"))
        self.engine = zmtp.Engine(
            socket_type=b"DEALER",
            as_server=False,
            message_bytes_max=1 << 30,
            frames_max=10_000,
            properties=properties,
        )
        self.descriptors: list[int] = []
        self.flush()
        while not self.engine.ready:
            self.engine.receive(self.socket.recv(4096))
            self.engine.next_message()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(b"".join(self.engine.outgoing))
        self.engine.outgoing.clear()

    def send(self, verb: bytes, *arguments: bytes, **options: Any) -> None:
        self.socket.sendall(b"".join(framing.encode_message(wire.encode_request(verb, b"1", options, arguments))))

    def receive(self) -> wire.Reply:
        while (message := self.engine.next_message()) is None:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 8)
            assert data
            self.descriptors += descriptors
            self.engine.receive(data)
        return wire.decode_reply(message)

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


def abuses(descriptor: int) -> list[str]:
    """Tries all that would change the object; returns what was not refused."""
    path = f"/proc/self/fd/{descriptor}"
    tries: dict[str, Callable[[], object]] = {
        "write": lambda: os.write(descriptor, b"x"),
        "pwrite": lambda: os.pwrite(descriptor, b"x", 0),
        "truncate": lambda: os.ftruncate(descriptor, 0),
        "reopen": lambda: os.close(os.open(path, os.O_RDWR)),
        "chmod": lambda: os.fchmod(descriptor, 0o666),
        "chown": lambda: os.fchown(descriptor, os.getuid(), -1),
        "map": lambda: mmap.mmap(descriptor, 10, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        "attribute": lambda: os.setxattr(descriptor, b"user.storekeeper", b"x"),
        "write lease": lambda: fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK),
        "read lease": lambda: fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK),
        "times": lambda: os.utime(descriptor, (0, 0)),
    }
    allowed = []
    for what, attempt in tries.items():
        try:
            attempt()
        except OSError as error:
            assert error.errno in (errno.EBADF, errno.EACCES, errno.EPERM, errno.EINVAL, errno.EAGAIN), what
        else:
            allowed.append(what)
    return allowed


def test_another_user_can_do_nothing_but_read_through_what_he_is_given(daemon: Daemon, client: Client) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    client.put(b"x" * LARGE, key="k")
    line = Line(daemon.address)
    try:
        line.send(b"open", b"k", descriptor=True)
        line.receive()
        (descriptor,) = line.descriptors
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            os.setgroups([])
            os.setresgid(65533, 65533, 65533)
            os.setresuid(65533, 65533, 65533)
            os.write(write_end, json.dumps(abuses(descriptor)).encode())
            os._exit(0)
        os.close(write_end)
        os.waitpid(child, 0)
        assert json.loads(os.read(read_end, 1000)) == []
        os.close(read_end)
        assert os.pread(descriptor, LARGE, 0) == b"x" * LARGE
        assert client.verify("k") is True
    finally:
        line.close()


def test_no_descriptor_comes_that_nobody_asked_for(daemon: Daemon, client: Client, data: bytes) -> None:
    client.put(data, key="k")
    line = Line(daemon.address)
    try:
        for options in ({}, {"descriptor": False}):
            line.send(b"open", b"k", **options)
            reply = line.receive()
            assert reply.details["size"] == LARGE
            assert line.descriptors == []
            line.send(b"close", reply.details["handle"].encode())
            line.receive()
        line.send(b"open", b"absent", descriptor=True)
        assert line.receive().words == ["absent"]
        assert line.descriptors == []
    finally:
        line.close()


def test_who_does_not_read_his_answers_gets_it_without_one(daemon: Daemon, client: Client, data: bytes) -> None:
    client.put(data[: 200 * 1024], key="k")
    line = Line(daemon.address)
    try:
        for _ in range(4):
            line.send(b"get", b"k")
        time.sleep(0.3)  # they fill the socket, and more of them waits to be sent
        line.send(b"open", b"k", descriptor=True)
        time.sleep(0.3)
        replies = [line.receive() for _ in range(5)]
        assert sum(len(reply.payloads[0]) for reply in replies if reply.payloads) == 4 * 200 * 1024
        (reply,) = [reply for reply in replies if "size" in reply.details]
        assert line.descriptors == []
        line.send(b"read", reply.details["handle"].encode(), b"0", b"100")
        assert line.receive().payloads[0] == data[:100]
    finally:
        line.close()


def test_a_client_of_zeromq_may_ask_for_one_and_does_without(daemon: Daemon, client: Client, data: bytes) -> None:
    client.put(data, key="k")
    context = zmq.Context()
    with context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(daemon.address)
        for _ in range(20):
            dealer.send_multipart(wire.encode_request(b"open", b"1", {"descriptor": True}, [b"k"]))
            assert dealer.poll(10_000)
            reply = wire.decode_reply(dealer.recv_multipart())
            handle = reply.details["handle"].encode()
            dealer.send_multipart(wire.encode_request(b"read", b"2", {}, [handle, b"0", b"10"]))
            assert dealer.poll(10_000)
            assert wire.decode_reply(dealer.recv_multipart()).payloads[0] == data[:10]
            dealer.send_multipart(wire.encode_request(b"close", b"3", {}, [handle]))
            assert dealer.poll(10_000)
            dealer.recv_multipart()
    context.term()
    held = daemon.descriptors
    eventually(lambda: daemon.descriptors <= held)


def test_a_view_of_a_daemon_that_is_gone_fails_in_time(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.client(timeout=1) as client:
        client.put(b"x" * LARGE, key="k")
        daemon.kill()
        with pytest.raises(DaemonUnreachable):
            client.view("k")
    daemon.start()
