"""Uploads that are written by a descriptor of their file: what is published can be written to by nobody any more."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Daemon, eventually
from storekeeper import Client
from storekeeper.errors import BadRequest, IncompleteUpload, QuotaExceeded, StorekeeperError
from storekeeper.ranges import check_item
from test_mappings import Line, as_somebody_else

SIZE = 6 * 1024 * 1024


class Lender(Line):
    """A raw connection with one upload, and the descriptor of its file."""

    def __init__(self, address: str, size: int = SIZE, **options: Any) -> None:
        super().__init__(address)
        self.send(b"upload", b"k", size=size, descriptor=True, **options)
        self.handle = self.receive().details["handle"].encode()

    @property
    def file(self) -> int:
        (descriptor,) = self.descriptors
        return descriptor

    def let_go(self) -> None:
        os.close(self.descriptors.pop())

    def commit(self, size: int = SIZE) -> str:
        self.send(b"commit", self.handle, b"%d" % size)
        reply = self.receive()
        check_item(reply)
        return reply.words[0]


@pytest.fixture
def lender(daemon: Daemon, client: Client) -> Iterator[Lender]:
    if "leases" in client.status()["lacks"]:
        pytest.skip("the file system has no leases")
    made = Lender(daemon.address)
    yield made
    made.close()


def test_what_is_written_by_it_is_published_at_the_commit(lender: Lender, client: Client) -> None:
    data = os.urandom(SIZE)
    os.pwrite(lender.file, data, 0)
    assert not client.exists("k")
    lender.let_go()
    assert lender.commit() == "created"
    assert client.get("k") == data
    assert client.verify("k") is True
    info = client.stat("k")
    assert info is not None
    assert (info.size, info.owner) == (SIZE, os.geteuid())


def copied(descriptor: int) -> Any:
    return os.dup(descriptor)


def mapped(descriptor: int) -> Any:
    return mmap.mmap(descriptor, SIZE)


def on_its_way(descriptor: int) -> Any:
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [descriptor])
    one.close()
    return other


def opened_anew(descriptor: int) -> Any:
    return open(f"/proc/self/fd/{descriptor}", "r+b")  # as root, or whom the daemon runs as


@pytest.mark.parametrize("keep", [copied, mapped, on_its_way, opened_anew])
def test_whoever_keeps_a_way_to_write_is_refused(lender: Lender, client: Client, keep: Callable[[int], Any]) -> None:
    os.pwrite(lender.file, os.urandom(SIZE), 0)
    kept = keep(lender.file)
    lender.let_go()
    with pytest.raises(BadRequest, match="can still write"):
        lender.commit()
    assert not client.exists("k")
    if isinstance(kept, int):
        os.close(kept)
    else:
        kept.close()
    assert client.list() == []


def test_whoever_has_not_let_go_is_refused(lender: Lender, client: Client) -> None:
    os.pwrite(lender.file, bytes(SIZE), 0)
    with pytest.raises(BadRequest, match="can still write"):
        lender.commit()
    assert not client.exists("k")


@pytest.mark.parametrize("written", [0, SIZE - 1, SIZE + 1])
def test_another_length_than_is_said_is_refused(lender: Lender, client: Client, written: int) -> None:
    os.ftruncate(lender.file, written)
    lender.let_go()
    with pytest.raises(StorekeeperError):
        lender.commit()
    assert not client.exists("k")
    eventually(lambda: client.status()["reserved_bytes"] == 0)


def test_a_reader_that_is_left_harms_nothing(lender: Lender, client: Client) -> None:
    data = os.urandom(SIZE)
    os.pwrite(lender.file, data, 0)
    reading = os.open(f"/proc/self/fd/{lender.file}", os.O_RDONLY)
    lender.let_go()
    assert lender.commit() == "created"
    with pytest.raises(OSError, match=r"Bad file descriptor"):
        os.pwrite(reading, b"x", 0)
    os.close(reading)
    assert client.get("k") == data


def test_a_client_that_dies_with_it_leaves_nothing(lender: Lender, daemon: Daemon, client: Client) -> None:
    os.pwrite(lender.file, bytes(SIZE), 0)
    held = daemon.descriptors
    lender.close()
    lender.descriptors.clear()
    eventually(lambda: client.status()["connections"] == 1 and daemon.descriptors < held)
    assert client.list() == []


def test_who_was_lent_a_file_may_send_ranges_all_the_same(lender: Lender, client: Client) -> None:
    lender.let_go()
    lender.send(b"write", lender.handle, b"0", b"first")
    check_item(lender.receive())
    with pytest.raises(IncompleteUpload):
        lender.commit()


@pytest.mark.parametrize(("settings", "lent"), [("[quota]\nbytes_max = 100000000\n", 0), ("", 1)])
def test_nothing_is_lent_where_anything_is_bounded_but_to_who_may_everything(
    hall: Callable[..., Any], settings: str, lent: int
) -> None:
    daemon = hall(settings)
    with daemon.client() as client:
        client.put(b"x", key="first")  # waits until all is measured, where something is bounded
    assert as_somebody_else(lambda: len(Lender(daemon.address).descriptors)) == lent
    line = Lender(daemon.address)
    assert len(line.descriptors) == 1
    line.close()


def test_another_user_who_was_lent_a_file_cannot_open_it_anew(hall: Callable[..., Any]) -> None:
    daemon = hall("")

    def lend() -> list[str]:
        line = Lender(daemon.address)
        os.pwrite(line.file, b"x" * SIZE, 0)
        tries: dict[str, Callable[[], Any]] = {
            "open": lambda: os.open(f"/proc/self/fd/{line.file}", os.O_RDWR),
            "chmod": lambda: os.fchmod(line.file, 0o666),
            "lease": lambda: fcntl.fcntl(line.file, fcntl.F_SETLEASE, fcntl.F_WRLCK),
        }
        done = []
        for what, attempt in tries.items():
            try:
                attempt()
                done.append(what)
            except OSError:
                pass
        line.let_go()
        return [*done, line.commit()]

    assert as_somebody_else(lend) == ["created"]
    with daemon.client() as client:
        assert client.get("k") == b"x" * SIZE
        info = client.stat("k")
        assert info is not None
        assert info.owner == 65533


@pytest.mark.usefixtures("each_carrier")
def test_large_puts_are_the_same_whatever_carries_them(daemon: Daemon, tmp_path: Path) -> None:
    data = os.urandom(SIZE)
    with daemon.client() as client:
        client.put(data, key="k", durability="disk")
        client.put(data, key="k")
        with pytest.raises(StorekeeperError):
            client.put(data[:-1] + b"?", key="k")
        client.put(data[:-1], key="k", replace=True)
        assert client.get("k") == data[:-1]
        held = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            client.put(data, key="l", replace=True)
        assert len(os.listdir("/proc/self/fd")) == held


def test_a_put_over_a_quota_is_refused_before_anything_is_written(hall: Callable[..., Any]) -> None:
    daemon = hall(f"[quota]\nbytes_max = {SIZE}\n")
    with daemon.client(timeout=5) as client:
        with pytest.raises(QuotaExceeded):
            client.put(bytes(SIZE + 1), key="k")
        client.put(bytes(SIZE), key="k")
