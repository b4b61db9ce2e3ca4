"""reader.py: what is opened, what is read at once and what only where waiting is allowed. The rest: test_disk.py."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import by_hand, held
from storekeeperd import moments, reader
from storekeeperd.ground import Ground
from storekeeperd.operations import Budget, Get, Open, Operation, Outcome, Read, Stat, WouldWait
from storekeeperd.proofs import Proofs
from storekeeperd.reader import Reader
from storekeeperd.sight import ABSENT
from storekeeperd.sights import Sights

MIB = 1024 * 1024
Does = Callable[..., Outcome]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store/n").mkdir(parents=True)
    return tmp_path / "store"


@pytest.fixture
def ground(store: Path) -> Iterator[Ground]:
    with held(store) as ground:
        yield ground


def made(*, read_nowait: bool = True, inline_bytes_max: int = 64 * 1024) -> Reader:
    sights = Sights(attributes=False, boot=moments.boot())
    proofs = Proofs(attributes=False, boot=moments.boot(), is_over=sights.is_over)
    return Reader(sights, proofs, read_nowait=read_nowait, inline_bytes_max=inline_bytes_max)


def does(ground: Ground, reader: Reader) -> Does:
    """Gives a function that carries out one operation as a job of its own."""

    def do(operation: Operation, *, wait: bool = True) -> Outcome:
        method = {Get: reader.get, Stat: reader.stat, Open: reader.open, Read: reader.read}[type(operation)]
        with ground.stay() as stay:
            return method(operation, stay, wait)  # type: ignore[operator]

    return do


@pytest.fixture
def do(ground: Ground) -> Does:
    return does(ground, made())


@pytest.fixture
def opened(do: Does) -> Iterator[Callable[[bytes], int]]:
    """Gives a function that opens objects; they are closed with the test."""
    with contextlib.ExitStack() as stack:

        def open_one(name: bytes) -> int:
            number = do(Open(name)).number
            stack.callback(os.close, number)
            return number

        yield open_one


@pytest.fixture
def break_os(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives a function that replaces functions of `os`, for reader.py alone."""

    def replace(**functions: Callable[..., Any]) -> None:
        monkeypatch.setattr(reader, "os", types.SimpleNamespace(**{**vars(os), **functions}))

    return replace


def fault(number: int) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


def whole(name: bytes) -> Get:
    return Get(name, Budget(MIB, MIB))


# -- what is opened


@pytest.mark.parametrize("name", [b"k", b"n/k"])
def test_an_object_is_told_of_read_and_opened(
    do: Does, opened: Callable[[bytes], int], store: Path, name: bytes
) -> None:
    path = store / os.fsdecode(name)
    path.write_bytes(b"bytes")
    assert do(whole(name)) == Outcome(b"ok", 5, b"bytes")
    told = do(Stat(name))
    assert (told.word, told.seen) == (b"ok", by_hand(path))
    assert json.loads(told.payload) == {"size": 5, "owner": os.geteuid(), "created": path.stat().st_mtime}
    number = opened(name)
    path.unlink()
    assert do(Read(number, 0, 5)).payload == b"bytes"


@pytest.mark.parametrize("known", [False, True])
def test_what_is_no_object_is_absent(do: Does, store: Path, known: bool) -> None:
    (store / "folder").mkdir()
    (store / "link").symlink_to("folder")
    os.mkfifo(store / "fifo")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(store):
        listening.bind("socket")
    (store / "k.ready").touch()
    for name in (b"folder", b"link", b"fifo", b"socket", b"k.ready", b"none", b"none/k", b"n/none"):
        for operation in (Get(name, Budget(MIB, MIB), known=known), Open(name), Stat(name)):
            assert do(operation) == Outcome(b"absent", ABSENT), name


@pytest.mark.parametrize("step", ["open", "fstat"])
def test_what_cannot_be_opened_raises_and_leaves_no_descriptor(
    do: Does, store: Path, break_os: Callable[..., None], step: str
) -> None:
    (store / "k").touch()
    before = os.listdir("/proc/self/fd")
    break_os(**{step: fault(errno.EIO)})
    for operation in (whole(b"k"), Open(b"k")):
        with pytest.raises(OSError, match="Input/output error"):
            do(operation)
    assert os.listdir("/proc/self/fd") == before


# -- budgets and waiting


def test_more_than_a_message_is_large(do: Does, store: Path) -> None:
    (store / "k").write_bytes(b"x" * 11)
    budget = Budget(100, 10)
    assert do(Get(b"k", budget)) == Outcome(b"large", 11)
    assert budget.bytes_left == 100


def test_more_than_the_reply_has_left_comes_later(do: Does, store: Path) -> None:
    (store / "a").write_bytes(b"x" * 6)
    (store / "b").write_bytes(b"y" * 4)
    budget = Budget(10, 10)
    assert do(Get(b"a", budget)).word == b"ok"
    assert do(Get(b"a", budget)) == Outcome(b"later", 6)
    assert do(Get(b"b", budget)).word == b"ok"
    assert budget.bytes_left == 0


def test_what_is_longer_than_it_may_be_is_waited_for_elsewhere(
    ground: Ground, store: Path, break_os: Callable[..., None]
) -> None:
    (store / "k").write_bytes(b"x" * 11)
    do = does(ground, made(inline_bytes_max=10))
    budget = Budget(100, 100)
    with pytest.raises(WouldWait):
        do(Get(b"k", budget), wait=False)
    assert budget.bytes_left == 100
    (store / "k").write_bytes(b"x" * 10)
    break_os(pread=fault(errno.EIO))  # what waits
    assert do(Get(b"k", budget), wait=False).payload == b"x" * 10


def test_bytes_that_are_not_in_memory_are_waited_for_elsewhere(
    do: Does, store: Path, break_os: Callable[..., None]
) -> None:
    (store / "k").write_bytes(b"bytes")
    break_os(preadv=fault(errno.EAGAIN))
    with pytest.raises(WouldWait):
        do(whole(b"k"), wait=False)
    break_os(preadv=lambda *_: 2)
    with pytest.raises(WouldWait):
        do(whole(b"k"), wait=False)
    assert do(whole(b"k"), wait=True).payload == b"bytes"


def test_a_file_system_that_cannot_say_what_is_in_memory_is_asked_once(
    do: Does, store: Path, break_os: Callable[..., None]
) -> None:
    (store / "k").write_bytes(b"bytes")
    asked: list[int] = []

    def preadv(descriptor: int, *_: object) -> int:
        asked.append(descriptor)
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    break_os(preadv=preadv)
    for _ in range(2):
        assert do(whole(b"k"), wait=False).payload == b"bytes"
    assert len(asked) == 1


def test_a_read_in_parts_is_put_together(do: Does, store: Path, break_os: Callable[..., None]) -> None:
    (store / "k").write_bytes(b"0123456789")
    break_os(pread=lambda descriptor, length, offset: os.pread(descriptor, min(length, 3), offset))
    assert do(whole(b"k")).payload == b"0123456789"


def test_a_download_is_read_in_ranges(do: Does, opened: Callable[[bytes], int], store: Path) -> None:
    (store / "k").write_bytes(b"0123456789")
    number = opened(b"k")
    assert do(Read(number, 2, 3)) == Outcome(b"ok", payload=b"234")
    assert do(Read(number, 2, 3), wait=False).payload == b"234"
    assert do(Read(number, 8, 5)).payload == b"89"
    assert do(Read(number, 10, 5)).payload == b""
    assert do(Read(number, 0, 0)).payload == b""
    with pytest.raises(WouldWait):  # a short read may be the end, or not be in memory: a worker finds out
        do(Read(number, 8, 5), wait=False)
