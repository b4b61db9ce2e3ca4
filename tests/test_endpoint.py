"""endpoint.py: the socket file, and who may take it over."""

from __future__ import annotations

import errno
import os
import socket
import stat
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storekeeperd import endpoint
from storekeeperd.endpoint import Endpoint, socket_path
from storekeeperd.exits import EX_CANTCREAT, EX_CONFIG, EX_NOPERM, EX_TEMPFAIL, StartError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def bind(path: Path) -> Iterator[Callable[..., Endpoint]]:
    """Gives a function that makes endpoints; they are closed with the test."""
    made: list[Endpoint] = []

    def make(address: str = f"ipc://{path}", mode: int = 0o600) -> Endpoint:
        made.append(Endpoint(address, mode))
        return made[-1]

    yield make
    for each in made:
        each.socket.close()
        each.close()


def refused(address: str | Path) -> StartError:
    with pytest.raises(StartError) as caught:
        Endpoint(str(address), 0o600)
    return caught.value


def dead_socket(path: Path) -> None:
    """Leaves what a killed daemon leaves."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


def test_an_address_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert socket_path("ipc:///a/b") == Path("/a/b")
    assert socket_path("/a/../b") == Path("/b")
    assert socket_path("ipc://s") == tmp_path / "s"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "inproc://x", "ipcx:///x"])
def test_other_transports_are_refused(address: str) -> None:
    error = refused(address)
    assert error.status == EX_CONFIG
    assert address in str(error)


def test_a_path_may_have_107_bytes_and_no_more(bind: Callable[..., Endpoint], tmp_path: Path) -> None:
    longest = f"{tmp_path}/" + "x" * (107 - len(os.fsencode(tmp_path)) - 1)
    with socket.socket(socket.AF_UNIX) as sock:
        bind(f"ipc://{longest}")
        sock.connect(longest)
    error = refused(f"ipc://{longest}x")
    assert error.status == EX_CONFIG
    assert "108 bytes, at most 107" in str(error)
    assert not os.path.exists(f"{longest}x.lock")


def test_the_length_of_a_path_is_in_bytes() -> None:
    with pytest.raises(StartError, match="121 bytes"):
        socket_path("/" + "é" * 60)


def test_somebody_can_connect(bind: Callable[..., Endpoint], path: Path) -> None:
    bound = bind()
    assert bound.path == path
    assert bound.address == f"ipc://{path}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        accepted, _ = bound.socket.accept()
        accepted.close()


def test_the_socket_neither_blocks_nor_leaks_into_programs(bind: Callable[..., Endpoint]) -> None:
    bound = bind()
    assert not bound.socket.getblocking()
    assert not bound.socket.get_inheritable()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_mode_it_is_given(bind: Callable[..., Endpoint], path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        bind(mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_folders_on_the_way_are_made(bind: Callable[..., Endpoint], tmp_path: Path) -> None:
    bind(f"ipc://{tmp_path}/a/b/s")
    assert (tmp_path / "a/b/s").is_socket()


def test_a_dead_socket_is_taken_over(bind: Callable[..., Endpoint], path: Path) -> None:
    dead_socket(path)
    bind()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))


def test_a_socket_that_somebody_answers_on_is_not_taken(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        error = refused(path)
        assert error.status == EX_TEMPFAIL
        assert "another process answers there" in str(error)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))


def test_the_socket_of_another_daemon_is_not_taken(bind: Callable[..., Endpoint], path: Path) -> None:
    first = bind()
    error = refused(path)
    assert error.status == EX_TEMPFAIL
    assert "another daemon listens there" in str(error)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
    first.socket.close()
    assert refused(path).status == EX_TEMPFAIL  # the lock says that it lives, whatever its socket says
    assert path.is_socket()


def test_the_address_is_free_again_after_close(bind: Callable[..., Endpoint], path: Path) -> None:
    for _ in range(3):
        bound = bind()
        bound.socket.close()
        bound.close()
        assert not path.exists()


def test_closing_leaves_the_socket_itself_open(bind: Callable[..., Endpoint]) -> None:
    bound = bind()
    bound.close()
    bound.close()
    assert bound.socket.fileno() >= 0


def test_a_socket_that_somebody_else_put_there_is_not_removed(bind: Callable[..., Endpoint], path: Path) -> None:
    bound = bind()
    os.rename(path, f"{path}.old")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        bound.close()
        assert path.is_socket()


def test_a_socket_that_is_gone_already_is_no_trouble(bind: Callable[..., Endpoint], path: Path) -> None:
    bound = bind()
    path.unlink()
    bound.close()


def test_a_regular_file_is_not_removed(path: Path) -> None:
    path.write_text("precious")
    error = refused(path)
    assert error.status == EX_CANTCREAT
    assert "is not a socket" in str(error)
    assert path.read_text() == "precious"


def test_a_directory_is_not_removed(path: Path) -> None:
    path.mkdir()
    assert refused(path).status == EX_CANTCREAT
    assert path.is_dir()


def test_a_socket_of_another_kind_is_not_removed(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert refused(path).status == EX_CANTCREAT
        assert path.is_socket()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    error = refused(tmp_path / "f/s")
    assert error.status == EX_CANTCREAT
    assert f"cannot listen on {tmp_path}/f/s" in str(error)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.EACCES, EX_NOPERM),
        (errno.EPERM, EX_NOPERM),
        (errno.EROFS, EX_NOPERM),
        (errno.ENOSPC, EX_CANTCREAT),
        (errno.EMFILE, EX_CANTCREAT),
    ],
)
def test_what_the_system_refuses_is_told(monkeypatch: pytest.MonkeyPatch, path: Path, number: int, status: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, "refused")

    monkeypatch.setattr(endpoint, "os", types.SimpleNamespace(**{**vars(os), "open": refuse}))
    error = refused(path)
    assert error.status == status
    assert os.strerror(number) in str(error)
    assert not path.exists()


def test_a_failure_after_the_lock_gives_it_back(
    monkeypatch: pytest.MonkeyPatch, bind: Callable[..., Endpoint], path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "refused")

    with monkeypatch.context() as patch:
        patch.setattr(endpoint, "os", types.SimpleNamespace(**{**vars(os), "chmod": refuse}))
        assert refused(path).status == EX_NOPERM
    bind()
