"""directory.py: finding the daemon of a directory, and starting one."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from conftest import Daemon, eventually
from storekeeper import directory as module
from storekeeper import wire
from storekeeper.directory import directory_client, find_daemon, own_address, start_daemon
from storekeeper.errors import DaemonStopping, DaemonUnreachable, TimedOut


def soon() -> float:
    return time.monotonic() + 10


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    (folder / ".storekeeper").mkdir(parents=True)
    return folder


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Nothing is started; notes what would have been, and says that another daemon owns the directory."""
    started: list[Path] = []

    def spawn(directory: Path) -> int:
        started.append(directory)
        ended, says = os.pipe()
        os.write(says, b"75\n")
        os.close(says)
        return ended

    monkeypatch.setattr(module, "_spawn", spawn)
    return started


def describe(store: Path, address: str, store_id: str = "an id") -> None:
    (store / ".storekeeper" / "address").write_text(address + "\n")
    (store / ".storekeeper" / "store").write_text(json.dumps({"uuid": store_id}))


# -- the address


def test_a_daemon_listens_inside_its_directory() -> None:
    assert own_address(Path("/a/b")) == "ipc:///a/b/.storekeeper/socket"


def test_a_directory_with_a_long_path_has_its_socket_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    rest = len("/.storekeeper/socket")
    longest = Path("/" + "x" * (107 - rest - 1))
    assert own_address(longest) == f"ipc://{longest}/.storekeeper/socket"
    longer = Path(f"{longest}x")
    assert own_address(longer).startswith("ipc:///run/user/1/storekeeperd/")
    assert own_address(longer) == own_address(longer) != own_address(Path(f"{longer}y"))
    assert own_address(Path("/" + "é" * 50)).startswith("ipc:///run/user/1/")  # bytes count


@pytest.mark.parametrize(
    ("folder", "socket"),
    [(0o755, 0o600), (0o700, 0o600), (0o775, 0o660), (0o777, 0o666), (0o1777, 0o666), (0o555, 0o600)],
)
def test_who_may_write_into_the_directory_may_use_its_daemon(store: Path, folder: int, socket: int) -> None:
    store.chmod(folder)
    assert module._socket_mode(store) == socket
    store.chmod(0o700)


# -- finding


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "no json", '"x"'])
def test_no_daemon_is_found_where_nothing_is_written(store: Path, text: str | None) -> None:
    if text is not None:
        describe(store, "ipc:///nowhere/socket")
        (store / ".storekeeper" / "store").write_text(text)
    assert find_daemon(store, soon()) is None


def test_no_daemon_is_found_where_none_listens(store: Path) -> None:
    describe(store, f"ipc://{store}/socket")
    assert find_daemon(store, soon()) is None


def test_the_daemon_that_owns_a_directory_is_found(daemon: Daemon) -> None:
    assert find_daemon(daemon.store, soon()) == daemon.address


@pytest.mark.parametrize("answer", ["an id", "another id", None, DaemonUnreachable("gone"), TimedOut("silent")])
def test_only_a_daemon_that_knows_the_stores_id_is_the_one(
    store: Path, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    def status(_: Any) -> dict[str, str]:
        if isinstance(answer, Exception):
            raise answer
        return {} if answer is None else {"store_id": answer}

    describe(store, "ipc:///there")
    monkeypatch.setattr(module, "somebody_listens", lambda address: True)
    monkeypatch.setattr(module.Client, "status", status)
    if isinstance(answer, TimedOut):
        with pytest.raises(TimedOut):
            find_daemon(store, soon())
    else:
        assert find_daemon(store, soon()) == ("ipc:///there" if answer == "an id" else None)


# -- starting


def test_one_at_a_time_may_start_a_daemon(store: Path) -> None:
    for _ in range(2):
        with module._starting(store) as first:
            assert first
            with module._starting(store) as second:
                assert not second


def test_an_error_while_starting_lets_the_next_one_start(store: Path) -> None:
    with pytest.raises(RuntimeError), module._starting(store):
        raise RuntimeError
    with module._starting(store) as first:
        assert first


def test_who_may_not_lock_does_not_start(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError

    monkeypatch.setattr(module.os, "open", refuse)
    with module._starting(store) as first:
        assert not first


def test_who_is_not_first_waits_for_the_daemon_of_another(
    store: Path, spawned: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([None, None, "ipc:///there"])
    monkeypatch.setattr(module, "find_daemon", lambda *_: next(found))
    with module._starting(store):
        assert start_daemon(store, soon()) == "ipc:///there"
    assert spawned == []


def test_a_directory_that_another_daemon_owns_is_waited_for_until_the_deadline(
    store: Path, spawned: list[Path]
) -> None:
    with pytest.raises(DaemonUnreachable, match="in time"):
        start_daemon(store, time.monotonic() + 0.05)
    assert spawned


def test_a_daemon_that_ends_at_once_is_an_error_with_its_last_words(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spawn(directory: Path) -> int:
        (directory / ".storekeeper" / "log").write_text("first\nthe disk is full\n")
        ended, says = os.pipe()
        os.write(says, b"73\n")
        os.close(says)
        return ended

    monkeypatch.setattr(module, "_spawn", spawn)
    with pytest.raises(DaemonUnreachable, match="ended at once: the disk is full"):
        start_daemon(store, soon())


def test_without_the_extra_the_error_says_what_to_install(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DaemonUnreachable, match=r"storekeeper\[daemon\]"):
        start_daemon(store, soon())


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path, spawned: list[Path]) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DaemonUnreachable, match="none can be started"):
        start_daemon(tmp_path / "file" / "store", soon())
    assert spawned == []


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Callable[[Path], int]]:
    """Gives a function that tells a directory's daemon; it is ended with the test."""
    folders: set[Path] = set()

    def pid_of(folder: Path) -> int:
        folders.add(folder)
        return int((folder / ".storekeeper" / "lock").read_text().split()[1])

    yield pid_of
    for folder in folders:
        pid = pid_of(folder)
        if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: not Path(f"/proc/{pid}").exists())  # noqa: B023 - called in this turn alone


def test_a_daemon_is_started_at_the_first_call_and_found_by_the_next_client(
    tmp_path: Path, ended: Callable[[Path], int]
) -> None:
    folder = tmp_path / "new"
    with directory_client(folder, timeout=20) as one, directory_client(folder) as other:
        assert not folder.exists()
        key = one.put(b"hello")
        pid = ended(folder)
        assert other.get(key) == b"hello"
        assert one.address == other.address == own_address(folder)
        assert ended(folder) == pid
        assert stat.S_IMODE(os.stat(folder / ".storekeeper" / "socket").st_mode) == 0o600


def test_a_program_that_cannot_be_started_is_an_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "too many processes")

    monkeypatch.setattr(module.subprocess, "run", refuse)
    with pytest.raises(DaemonUnreachable, match="too many processes"):
        start_daemon(store, soon())
    with module._starting(store) as first:
        assert first


def test_a_daemon_that_is_stopping_is_none(store: Path, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/stopping"
    describe(store, address)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as stopping:
        stopping.linger = 0
        stopping.bind(address)

        def answer() -> None:
            if stopping.poll(10_000):
                sender, *request = stopping.recv_multipart()
                refusal = wire.encode_refusal(False, request[2], DaemonStopping("stopping"))
                stopping.send_multipart([sender, *refusal])
                stopping.poll(200)

        thread = threading.Thread(target=answer)
        thread.start()
        started = time.monotonic()
        assert find_daemon(store, started + 30) is None
        assert time.monotonic() - started < 20
        thread.join()
