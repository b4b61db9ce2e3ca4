"""Who is given a shelf, and what he can do with it, or by asking for it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Daemon
from mounts import needs_root
from storekeeper import Client, wire
from storekeeper.errors import Denied, StorekeeperError
from test_mappings import Line, as_somebody_else
from test_shortcut import given

pytestmark = pytest.mark.usefixtures("by_plain_socket")


def shelf_of(line: Line) -> int:
    for _ in range(200):  # before the first scan is done there is none
        line.send(b"shelf")
        if line.receive().words == ["ok"]:
            return line.descriptors[-1]
        time.sleep(0.01)
    raise AssertionError("no shelf")


@needs_root
def test_another_user_can_do_nothing_but_read_what_he_is_given(daemon: Daemon, client: Client) -> None:
    line = Line(daemon.address, [wire.DESCRIPTORS])
    try:
        number = shelf_of(line)
        length = os.fstat(number).st_size
        path = f"/proc/self/fd/{number}"
        libc = ctypes.CDLL(None, use_errno=True)

        def protect() -> None:
            with mmap.mmap(number, 4096, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
                at = ctypes.c_void_p()
                text = Path("/proc/self/maps").read_text().splitlines()
                at.value = int(next(row for row in text if "storekeeper-shelf" in row).split("-")[0], 16)
                failed = libc.mprotect(at, 4096, mmap.PROT_READ | mmap.PROT_WRITE)
                assert len(mapped) == 4096
                if failed:
                    raise OSError(ctypes.get_errno(), "mprotect")

        def punch() -> None:
            if libc.fallocate(number, 3, ctypes.c_long(0), ctypes.c_long(4096)):
                raise OSError(ctypes.get_errno(), "fallocate")

        tries: dict[str, Callable[[], object]] = {
            "reopen": lambda: os.close(os.open(path, os.O_RDWR)),
            "truncate": lambda: os.truncate(path, 0),
            "ftruncate": lambda: os.ftruncate(number, 0),
            "chmod": lambda: os.fchmod(number, 0o666),
            "chown": lambda: os.fchown(number, os.getuid(), -1),
            "seal": lambda: fcntl.fcntl(number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
            "write": lambda: os.pwrite(number, b"x", 0),
            "map": lambda: mmap.mmap(number, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
            "protect": protect,
            "punch": punch,
        }

        def abuse() -> list[str]:
            allowed = []
            for what, attempt in tries.items():
                with contextlib.suppress(OSError):
                    attempt()
                    allowed.append(what)
            return allowed

        assert as_somebody_else(abuse) == []
        assert os.fstat(number).st_size == length
        client.put(b"x", key="k")
        given(client)
    finally:
        line.close()


@needs_root
def test_who_may_not_read_is_given_none_and_what_he_was_given_ends_with_the_namespace(
    hall: Callable[..., Daemon],
) -> None:
    daemon = hall()
    with daemon.client() as root:
        root.create_namespace("n", read=["*"])
        root.put(b"x", key="k")

        def look(expected: type[StorekeeperError]) -> bool:
            with Client(daemon.address, "n", timeout=20) as client:
                with pytest.raises(expected):
                    client._session.call(lambda exchange: exchange.ask(b"shelf", (), {"namespace": "n"}))
                return not client._shortcut.is_open

        with daemon.client(namespace="n") as inside:
            inside.put(b"x", key="k")
            given(inside)
            inside.evict("k")
            root.drop_namespace("n")
            root.create_namespace("n")
            has = inside._shortcut.has
            with daemon.client(namespace="n") as anew:
                anew.put(b"secret", key="k")
                given(anew)
            assert not has("k"), "what was handed out by other rules is written to no more"
            assert as_somebody_else(lambda: look(Denied))


def test_a_flood_of_requests_for_it_takes_no_memory_and_harms_nobody(daemon: Daemon, client: Client) -> None:
    client.put(b"x", key="k")
    given(client)
    line = Line(daemon.address, [wire.DESCRIPTORS])
    try:
        for _ in range(300):
            shelf_of(line)
            while line.descriptors:
                os.close(line.descriptors.pop())
        assert client.get("k") == b"x"
        status = client.status()
        assert (status["shelves"], status["shelves_bytes"]) == (1, 16 << 20)
    finally:
        line.close()


def test_when_all_memory_of_shelves_is_taken_others_go_without(daemon: Daemon) -> None:
    with daemon.client() as root, contextlib.ExitStack() as stack:
        for number in range(20):
            root.create_namespace(f"n{number}")
            one = stack.enter_context(daemon.client(namespace=f"n{number}"))
            one.put(b"x", key="k")
            assert all(one.get("k") == b"x" for _ in range(12))
        status = root.status()
        assert status["shelves_bytes"] <= 256 << 20
        assert status["shelves"] == 16
        assert not one._shortcut.is_open
