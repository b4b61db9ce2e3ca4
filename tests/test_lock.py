"""lock.py: how the lock of a store is taken, and what is in its way. Two daemons on one store: test_home.py."""

from __future__ import annotations

import errno
import fcntl
import os
import types
from pathlib import Path

import pytest

from storekeeperd import lock
from storekeeperd.exits import EX_DATAERR, EX_TEMPFAIL, StartError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".storekeeper").mkdir()
    return tmp_path / ".storekeeper"


def refused(folder: Path) -> StartError:
    with pytest.raises(StartError) as caught:
        lock.take(folder.parent, folder)
    return caught.value


def test_who_has_it_is_told_and_which_file_it_is(folder: Path) -> None:
    descriptor, witness = lock.take(folder.parent, folder)
    found = (folder / "lock").stat()
    assert witness == (found.st_dev, found.st_ino)
    assert (folder / "lock").read_text() == f"pid {os.getpid()} uid {os.geteuid()}\n"
    os.close(descriptor)


def test_it_is_had_once_until_it_is_closed(folder: Path) -> None:
    descriptor, _ = lock.take(folder.parent, folder)
    error = refused(folder)
    assert error.status == EX_TEMPFAIL
    assert f"{folder.parent} is owned by another daemon: pid {os.getpid()} " in str(error)
    os.close(descriptor)
    os.close(lock.take(folder.parent, folder)[0])


def test_a_lock_without_a_name_is_refused_too(folder: Path) -> None:
    with open(folder / "lock", "w+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "an unknown process" in str(refused(folder))


def test_a_name_in_the_file_alone_is_no_lock(folder: Path) -> None:
    (folder / "lock").write_text("pid 1 uid 0, and then some more text\n")
    os.close(lock.take(folder.parent, folder)[0])
    assert (folder / "lock").read_text() == f"pid {os.getpid()} uid {os.geteuid()}\n"


def test_a_fifo_in_its_place_is_no_lock(folder: Path) -> None:
    os.mkfifo(folder / "lock")
    assert refused(folder).status == EX_DATAERR


def test_a_file_with_a_second_name_is_locked_but_not_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    os.link(tmp_path / "precious", folder / "lock")
    os.close(lock.take(folder.parent, folder)[0])
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_lock_that_is_replaced_while_it_is_taken_is_not_had(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        fcntl.flock(descriptor, operation)
        (folder / "lock").unlink()
        (folder / "lock").touch()

    monkeypatch.setattr(lock, "fcntl", types.SimpleNamespace(**{**vars(fcntl), "flock": flock}))
    error = refused(folder)
    assert error.status == EX_TEMPFAIL
    assert "changes hands" in str(error)


def test_a_file_system_that_locks_only_what_is_open_for_writing_will_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr(lock, "fcntl", types.SimpleNamespace(**{**vars(fcntl), "flock": flock}))
    os.close(lock.take(folder.parent, folder)[0])
