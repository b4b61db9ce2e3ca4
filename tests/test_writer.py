"""writer.py, and what else moves objects between the store and files: put_from and get_to."""

from __future__ import annotations

import gc
import io
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Daemon, eventually
from storekeeper import Client
from storekeeper.errors import DaemonUnreachable, IncompleteUpload, KeyExists, QuotaExceeded, StorekeeperError

MIB = 1024 * 1024
pytestmark = pytest.mark.usefixtures("each_carrier")


@pytest.fixture
def data() -> bytes:
    return os.urandom(5 * MIB + 3)


@pytest.mark.parametrize("size", [None, 5 * MIB + 3])
@pytest.mark.parametrize("step", [1000, MIB, 3 * MIB])
def test_what_is_written_bit_by_bit_appears_whole(client: Client, data: bytes, step: int, size: int | None) -> None:
    with client.writer("k", size=size) as writer:
        assert writer.key == "k"
        assert writer.writable()
        for start in range(0, len(data), step):
            part = bytearray(data[start : start + step])
            assert writer.write(part) == len(part)
            part[:] = bytes(len(part))  # it is the caller's again
        assert not client.exists("k")
    assert client.get("k") == data
    assert client.status()["connections"] == 1


def test_an_empty_one_is_an_empty_object_and_a_key_is_minted(client: Client) -> None:
    with client.writer() as writer:
        pass
    assert client.get(writer.key) == b""


def test_an_exception_or_an_abort_leaves_nothing(daemon: Daemon, client: Client, data: bytes) -> None:
    with pytest.raises(ZeroDivisionError), client.writer("k") as writer:
        writer.write(data)
        raise ZeroDivisionError
    aborted = client.writer("k")
    aborted.write(data)
    aborted.abort()
    aborted.abort()
    forgotten = client.writer("k")
    forgotten.write(data)
    del forgotten
    gc.collect()
    assert client.list() == []
    eventually(lambda: client.status()["connections"] == 1 and client.status()["reserved_bytes"] == 0)


def test_a_closed_one_takes_nothing_more_and_may_be_closed_again(client: Client) -> None:
    writer = client.writer("k")
    writer.write(b"x")
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"y")
    assert client.get("k") == b"x"


def test_a_length_that_was_announced_must_be_kept(client: Client) -> None:
    with pytest.raises(StorekeeperError), client.writer("k", size=10) as writer:
        writer.write(bytes(11))
    with pytest.raises(IncompleteUpload), client.writer("k", size=2 * MIB) as writer:
        writer.write(bytes(3 * MIB))
    assert not client.exists("k")


def test_refusals_come_as_they_do_to_a_put(hall: Callable[..., Any], client: Client) -> None:
    client.put(b"other", key="k")
    with pytest.raises(KeyExists), client.writer("k") as writer:
        writer.write(b"mine")
    with client.writer("k", replace=True) as writer:
        writer.write(b"mine")
    assert client.get("k") == b"mine"
    daemon = hall(f"[quota]\nbytes_max = {4 * MIB}\n")
    with daemon.client(timeout=5) as bounded:
        with pytest.raises(QuotaExceeded):
            bounded.writer("k", size=5 * MIB)
        with pytest.raises(QuotaExceeded), bounded.writer("k") as writer:
            writer.write(bytes(6 * MIB))
        assert bounded.list() == []
        eventually(lambda: bounded.status()["reserved_bytes"] == 0)  # when its connection has ended
        bounded.put(bytes(3 * MIB), key="fits")


def test_a_daemon_that_goes_away_takes_it_along(daemon: Daemon, client: Client, data: bytes) -> None:
    writer = client.writer("k")
    writer.write(data)
    daemon.kill()
    daemon.start()
    with pytest.raises(DaemonUnreachable):
        for _ in range(100):
            writer.write(data)
    assert writer.closed
    assert not client.exists("k")


def test_objects_come_from_files_and_go_into_files(client: Client, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in").write_bytes(b"skipped" + data)
    with open(tmp_path / "in", "rb") as file:
        file.seek(7)
        assert client.put_from(file, "k") == "k"
    assert client.get("k") == data
    with open(tmp_path / "out", "wb") as file:
        file.write(b"before ")
        assert client.get_to("k", file) == len(data)
        file.write(b" after")
        assert client.get_to("absent", file) is None
    assert (tmp_path / "out").read_bytes() == b"before " + data + b" after"
    with open(tmp_path / "out", "ab") as file:
        client.get_to("k", file)
    assert (tmp_path / "out").read_bytes().endswith(b" after" + data)


@pytest.mark.parametrize("size", [0, 10, 3 * MIB])
def test_and_through_what_is_no_file_of_the_system(client: Client, size: int) -> None:
    data = os.urandom(size)
    client.put_from(io.BytesIO(data), "k", ttl=60)
    memory = io.BytesIO()
    assert client.get_to("k", memory) == size
    assert memory.getvalue() == data


def test_and_through_pipes_and_sockets(client: Client, data: bytes) -> None:
    one, other = socket.socketpair()
    with one, other:
        sender = threading.Thread(target=lambda: (one.sendall(data), one.shutdown(socket.SHUT_WR)))
        sender.start()
        with other.makefile("rb") as file:
            client.put_from(file, "k")
        sender.join()
    read_end, write_end = os.pipe()
    got: list[bytes] = []

    def read() -> None:
        with open(read_end, "rb") as file:
            got.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    with open(write_end, "wb") as file:
        assert client.get_to("k", file) == len(data)
    reader.join()
    assert got == [data]
