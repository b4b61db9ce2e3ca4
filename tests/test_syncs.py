"""syncs.py: fsyncs that the kernel makes together."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storekeeperd import syncs as syncs_module
from storekeeperd.syncs import Syncs


@pytest.fixture
def syncs() -> Iterator[Syncs]:
    syncs = Syncs(4)
    if not syncs.together:
        pytest.skip("this kernel syncs no files together")
    yield syncs
    syncs.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    opened = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(10)]
    for each in opened:
        os.pwrite(each, b"bytes", 0)
    yield opened
    for each in opened:
        os.close(each)


def no_fsync(_: int) -> None:
    raise AssertionError("an fsync of its own")


@pytest.mark.parametrize("count", [2, 4, 5, 10])
def test_files_are_synced_together_as_many_at_once_as_allowed(
    syncs: Syncs, files: list[int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[int] = []
    call = syncs._call

    def note(number: int, *arguments: Any) -> int:
        result = call(number, *arguments)
        if number == syncs._submit:
            submitted.append(result)
        return int(result)

    monkeypatch.setattr(syncs, "_call", note)
    monkeypatch.setattr(syncs_module.os, "fsync", lambda _: submitted.append(-1))
    assert syncs.sync(files[:count]) == [None] * count
    assert sum(map(abs, submitted)) == count
    assert max(submitted) == min(4, count)


def test_directories_are_synced_too(syncs: Syncs, files: list[int], tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert syncs.sync([files[0], directory]) == [None, None]
    finally:
        os.close(directory)


def test_one_alone_is_synced_as_ever(syncs: Syncs, files: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(syncs_module.os, "fsync", synced.append)
    assert syncs.sync(files[:1]) == [None]
    assert syncs.sync([]) == []
    assert synced == files[:1]


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_who_fails_fails_alone(syncs: Syncs, files: list[int], place: int) -> None:
    reading, writing = os.pipe()  # a pipe cannot be synced
    batch = [*files[:place], writing, *files[place:5]]
    results = syncs.sync(batch)
    os.close(reading)
    os.close(writing)
    assert [result and result.errno for result in results] == [None] * place + [errno.EINVAL] + [None] * (5 - place)


@pytest.mark.parametrize("place", [0, 2])
def test_a_descriptor_that_is_none_fails_alone(syncs: Syncs, files: list[int], place: int) -> None:
    results = syncs.sync([*files[:place], 1_000_000, *files[place:3]])
    assert [result and result.errno for result in results] == [None] * place + [errno.EBADF] + [None] * (3 - place)


def test_the_error_of_the_disk_is_the_files_own(
    syncs: Syncs, files: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = syncs._ended

    def spoil(count: int) -> int:
        found = ended(count)
        for event in syncs._events[:found]:
            if event.data == 1:
                event.result = -errno.EIO
        return found

    monkeypatch.setattr(syncs, "_ended", spoil)
    results = syncs.sync(files[:3])
    assert [result and result.errno for result in results] == [None, errno.EIO, None]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_what_the_kernel_does_not_take_is_synced_one_after_another(
    syncs: Syncs, files: list[int], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    demand = syncs._demand

    def refuse(*arguments: object) -> int:
        if arguments[0] == syncs._submit:
            raise OSError(number, os.strerror(number))
        return demand(*arguments)

    synced: list[int] = []
    monkeypatch.setattr(syncs, "_demand", refuse)
    monkeypatch.setattr(syncs_module.os, "fsync", synced.append)
    assert syncs.sync(files[:3]) == [None] * 3
    assert synced == files[:3]


def test_a_wait_that_is_interrupted_goes_on(syncs: Syncs, files: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    demand, interrupted = syncs._demand, []

    def interrupt(*arguments: object) -> int:
        if arguments[0] == syncs._getevents and not interrupted:
            interrupted.append(True)
            raise InterruptedError(errno.EINTR, "injected")
        return demand(*arguments)

    monkeypatch.setattr(syncs, "_demand", interrupt)
    assert syncs.sync(files[:3]) == [None] * 3
    assert interrupted


@pytest.mark.parametrize("reason", ["another machine", "refused by the kernel", "not wanted"])
def test_where_it_is_not_offered_it_is_one_after_another(
    files: list[int], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "another machine":
        monkeypatch.setattr(syncs_module.platform, "machine", lambda: "pdp11")
    elif reason == "refused by the kernel":
        monkeypatch.setitem(syncs_module._CALLS, syncs_module.platform.machine(), (1_000_000,) * 4)
    syncs = Syncs(4, together=reason != "not wanted")
    synced: list[int] = []
    monkeypatch.setattr(syncs_module.os, "fsync", synced.append)
    assert not syncs.together
    assert syncs.sync(files[:3]) == [None] * 3
    assert synced == files[:3]
    syncs.close()


def test_several_threads_share_one(syncs: Syncs, files: list[int]) -> None:
    results: list[list[OSError | None]] = []

    def sync() -> None:
        for _ in range(50):
            results.append(syncs.sync(files))

    threads = [threading.Thread(target=sync) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [[None] * 10] * 200


def test_who_ends_it_while_the_disk_hangs_does_not_wait_for_it(syncs: Syncs) -> None:
    with syncs._lock:
        syncs.close()  # the kernel takes it back with the process
        assert syncs.together
