"""connection.py, users.py and listener.py on a real daemon with small limits: time-outs, and what one user may hold."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Daemon, eventually
from storekeeper import framing, wire
from storekeeper.errors import Busy
from test_listener import Raw

MIB = 1024 * 1024


@pytest.fixture
def limited(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[..., Daemon]:
    """Gives a function that starts a daemon with some limits."""

    def start(**limits: object) -> Daemon:
        lines = [f"{name} = {value}" for name, value in limits.items()]
        (tmp_path / "limits.toml").write_text("\n".join(["[limits]", *lines, ""]))
        return start_daemon("--config", str(tmp_path / "limits.toml"))

    return start


def told(daemon: Daemon) -> dict[str, int]:
    with daemon.client() as client:
        return client.status()


def resident_mib(daemon: Daemon) -> int:
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    raise AssertionError


def put_of(size: int, key: bytes = b"k") -> bytes:
    return b"".join(framing.encode_message([wire.VERSION, b"put", b"1", b"", key, bytes(size)]))


# -- time


def test_a_message_that_is_not_complete_in_time_ends_its_connection(limited: Callable[..., Daemon]) -> None:
    daemon = limited(message_timeout_s=0.5)
    half, idle = Raw(daemon.address), Raw(daemon.address)
    half.socket.sendall(put_of(100_000)[:50_000])
    assert half.is_dropped()
    assert told(daemon)["stalled"] == 1
    assert idle.ask(wire.VERSION, b"exists", b"1", b"", b"k")[4] == b"no"  # between messages one may take one's time
    half.close()
    idle.close()


def test_a_message_that_comes_byte_by_byte_is_not_waited_for_any_longer(limited: Callable[..., Daemon]) -> None:
    daemon = limited(message_timeout_s=0.5)
    raw = Raw(daemon.address)
    sent = 0
    with pytest.raises(ConnectionError):
        for byte in put_of(100_000):
            raw.socket.sendall(bytes([byte]))
            sent += 1
            time.sleep(0.01)
    assert sent < 1000
    raw.close()


def test_a_peer_that_does_not_read_its_answers_is_not_kept_for_ever(limited: Callable[..., Daemon]) -> None:
    daemon = limited(stall_timeout_s=0.5)
    with daemon.client() as client:
        key = client.put(bytes(4 * MIB)).encode()
        slow = Raw(daemon.address)
        for _ in range(4):
            slow.send(wire.VERSION, b"get", b"1", b"", key)
        eventually(lambda: client.status()["stalled"] == 1)
        eventually(lambda: client.status()["connections"] == 1)
        slow.close()


def test_a_peer_that_reads_slowly_but_reads_is_served(limited: Callable[..., Daemon]) -> None:
    daemon = limited(stall_timeout_s=1.0)
    with daemon.client() as client:
        key = client.put(bytes(2 * MIB)).encode()
    slow = Raw(daemon.address)
    slow.send(wire.VERSION, b"get", b"1", b"", key)
    got = 0
    while got < 2 * MIB:
        got += len(slow.socket.recv(64 * 1024))
        time.sleep(0.08)  # 2.6 s in all
    slow.close()


def test_a_handle_that_is_left_alone_ends(limited: Callable[..., Daemon]) -> None:
    daemon = limited(handle_idle_s=0.5)
    raw = Raw(daemon.address)
    handle = json.loads(raw.ask(wire.VERSION, b"upload", b"1", b"", b"k")[3])["handle"].encode()
    raw.ask(wire.VERSION, b"write", b"2", b"", handle, b"0", bytes(100))

    def ended() -> bool:
        time.sleep(2.0)  # longer than it may be left alone, and to be noticed
        return raw.ask(wire.VERSION, b"write", b"3", b"", handle, b"0", b"x")[2] == b"bad_handle"

    eventually(ended)
    assert "ended a handle of uid" in daemon.log.read_text()
    assert not [name for name in os.listdir(f"/proc/{daemon.pid}/fd") if _leads_to_unnamed(daemon, name)]
    raw.close()


def _leads_to_unnamed(daemon: Daemon, name: str) -> bool:
    try:
        found = os.readlink(f"/proc/{daemon.pid}/fd/{name}")
        return found.startswith(str(daemon.store)) and "(deleted)" in found
    except FileNotFoundError:
        return False


# -- number


def test_one_user_may_have_so_many_connections_and_is_told(limited: Callable[..., Daemon]) -> None:
    daemon = limited(user_connections_max=3)
    held = [Raw(daemon.address) for _ in range(3)]
    with daemon.client(timeout=0.5) as client:
        with pytest.raises(Busy, match="3 connections, as many as one user may"):
            client.exists("k")
        threading.Timer(0.2, held.pop().close).start()
        with daemon.client(timeout=10) as patient:
            assert patient.exists("k") is False
    assert "refused connection of uid" in daemon.log.read_text()
    for raw in held:
        raw.close()


def test_those_who_are_too_many_are_told_or_closed_but_never_kept(limited: Callable[..., Daemon]) -> None:
    daemon = limited(user_connections_max=2, handshake_timeout_s=0.5)
    held = [Raw(daemon.address) for _ in range(2)]
    crowd = [Raw(daemon.address, False) for _ in range(100)]
    for raw in crowd:
        assert raw.is_dropped()
        raw.close()
    assert held[0].ask(wire.VERSION, b"exists", b"1", b"", b"k")[4] == b"no"
    for raw in held:
        raw.close()
    eventually(lambda: told(daemon)["refused"] >= 100)


# -- memory


def test_many_large_messages_of_one_user_at_once_all_arrive_in_little_memory(limited: Callable[..., Daemon]) -> None:
    daemon = limited(user_bytes_max=16 * MIB, stall_timeout_s=120, message_timeout_s=120)
    before = resident_mib(daemon)
    raws = [Raw(daemon.address) for _ in range(40)]
    messages = [put_of(4 * MIB - 300, b"k%d" % number) for number in range(len(raws))]
    for raw in raws:
        raw.socket.setblocking(False)
    # All of them are begun before any is complete: bytes wait in the kernel, not in the daemon.
    left = {raw: memoryview(message) for raw, message in zip(raws, messages, strict=True)}
    peak, deadline = 0, time.monotonic() + 60
    while left:
        assert time.monotonic() < deadline, f"{len(left)} messages do not get on"
        moved = False
        for raw in list(left):
            try:
                sent = raw.socket.send(left[raw][: 256 * 1024])
            except BlockingIOError:
                continue
            moved = True
            left[raw] = left[raw][sent:]
            if not left[raw]:
                del left[raw]
        peak = max(peak, resident_mib(daemon))
        if not moved:
            time.sleep(0.002)
    for raw in raws:
        raw.socket.settimeout(30)
        assert raw.receive()[4] == b"created"
        raw.close()
    assert peak - before < 64, f"{peak - before} MiB"


def test_slow_readers_of_one_user_hold_no_more_than_he_may(limited: Callable[..., Daemon]) -> None:
    daemon = limited(user_bytes_max=32 * MIB, stall_timeout_s=2.0)
    with daemon.client() as client:
        key = client.put(os.urandom(4 * MIB)).encode()
        before = resident_mib(daemon)
        slow = [Raw(daemon.address) for _ in range(60)]
        for raw in slow:
            for _ in range(3):
                raw.send(wire.VERSION, b"get", b"1", b"", key)
        peak, ends = 0, time.monotonic() + 1.5
        while time.monotonic() < ends:
            peak = max(peak, resident_mib(daemon))
            time.sleep(0.02)
        assert peak - before < 110, f"{peak - before} MiB"  # the bound, and what one turn may add to it
        # Small requests are served all the time; large ones wait until the slow readers are dropped.
        client.put(b"small", key="small")
        assert client.get("small") == b"small"
        assert client.exists(key.decode())
        eventually(lambda: client.status()["stalled"] >= 3, 30)
        for raw in slow:
            raw.close()
        assert client.get(key.decode()) is not None


def test_a_flood_of_pings_without_reading_is_bounded(limited: Callable[..., Daemon]) -> None:
    daemon = limited(stall_timeout_s=1.0)
    before = resident_mib(daemon)
    raw = Raw(daemon.address)
    raw.socket.settimeout(5)
    pings = framing.encode_command(b"PING", b"\0\0") * 5000
    with pytest.raises((TimeoutError, ConnectionError)):
        while True:
            raw.socket.sendall(pings)
    assert resident_mib(daemon) - before < 24
    raw.close()
