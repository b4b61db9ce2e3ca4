"""sdnotify.py: a word to systemd, which never gets in the way."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from storekeeperd.sdnotify import Manager


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"{tmp_path}/notify")
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        yield sock


def test_every_word_is_one_datagram(systemd: socket.socket) -> None:
    manager = Manager()
    manager.ready("3 objects")
    manager.status("scanning")
    manager.stopping()
    assert systemd.recv(1000) == b"READY=1\nSTATUS=3 objects"
    assert systemd.recv(1000) == b"STATUS=scanning"
    assert systemd.recv(1000) == b"STOPPING=1"


def test_a_start_asks_for_the_time_it_may_take(systemd: socket.socket) -> None:
    Manager().starting(12.5)
    assert systemd.recv(1000) == b"STATUS=starting\nEXTEND_TIMEOUT_USEC=12500000"


def test_a_status_may_ask_for_more_time(systemd: socket.socket) -> None:
    manager = Manager()
    manager.status("1 of 2\nscanned", 0.1)
    manager.status("2 of 2 scanned", extend_s=0)
    assert systemd.recv(1000) == b"STATUS=1 of 2 scanned\nEXTEND_TIMEOUT_USEC=100000"
    assert systemd.recv(1000) == b"STATUS=2 of 2 scanned"


@pytest.mark.parametrize("seconds", [0.0000001, 1 / 3, 1e9])
def test_a_time_is_written_in_whole_microseconds(systemd: socket.socket, seconds: float) -> None:
    Manager().starting(seconds)
    _, assignment = systemd.recv(1000).split(b"\n")
    name, _, number = assignment.partition(b"=")
    assert name == b"EXTEND_TIMEOUT_USEC"
    assert number.isdigit()
    assert abs(int(number) - seconds * 1_000_000) <= 0.5


def test_a_status_cannot_smuggle_in_another_word(systemd: socket.socket) -> None:
    Manager().status("a\nSTOPPING=1")
    assert systemd.recv(1000) == b"STATUS=a STOPPING=1"


def test_a_status_that_is_not_utf_8_is_sent_all_the_same(systemd: socket.socket) -> None:
    Manager().status("a\udcff")
    assert systemd.recv(1000) == b"STATUS=a?"


def test_programs_started_by_the_daemon_do_not_speak_for_it(systemd: socket.socket) -> None:
    manager = Manager()
    assert "NOTIFY_SOCKET" not in os.environ
    Manager().stopping()
    manager.status("still heard")
    assert systemd.recv(1000) == b"STATUS=still heard"


def test_an_abstract_address_begins_with_an_at(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"storekeeper-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        Manager().stopping()
        assert sock.recv(1000) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "/nobody/there", "@nobody-there", "/" + "x" * 300])
def test_without_a_manager_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    manager = Manager()
    manager.starting(1)
    manager.ready("x")
    manager.status("x", 1)
    manager.stopping()


def test_a_manager_that_does_not_listen_is_not_waited_for(systemd: socket.socket) -> None:
    manager = Manager()
    for _ in range(5000):
        manager.status("x" * 1000)
    assert systemd.recv(2000).startswith(b"STATUS=xxx")


def test_a_word_that_is_too_long_is_dropped(systemd: socket.socket) -> None:
    manager = Manager()
    manager.status("x" * 10_000_000)
    manager.status("short")
    assert systemd.recv(1000) == b"STATUS=short"
