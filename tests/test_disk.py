"""disk.py and publisher.py: every operation on a real directory, and what happens when the file system refuses."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import socket
import stat
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import by_hand, held, size_of_new
from storekeeper import wire
from storekeeper.errors import BadKey, BadRequest, CorruptObject, Denied
from storekeeperd import checksums, entries, moments, sight
from storekeeperd import disk as disk_module
from storekeeperd import publisher as publisher_module
from storekeeperd import reader as reader_module
from storekeeperd import sights as sights_module
from storekeeperd.disk import Disk
from storekeeperd.entries import Sorted
from storekeeperd.ground import Ground
from storekeeperd.home import FOLDER, TEMPORARY
from storekeeperd.metadata import ATTRIBUTE, Metadata
from storekeeperd.operations import (
    Begin,
    Budget,
    Close,
    Commit,
    Evict,
    Get,
    Look,
    Mark,
    Open,
    Operation,
    Origin,
    Outcome,
    Put,
    Read,
    Stat,
    Survey,
    Verify,
    WouldWait,
    Write,
)
from storekeeperd.sight import ABSENT, UNSEEN

US = Origin(os.geteuid())
STRANGER = Origin(4321)
MANAGER = Origin(4321, any_owner=True)
MIB = 1024 * 1024


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store/n").mkdir(parents=True)
    return tmp_path / "store"


@pytest.fixture
def ground(store: Path) -> Iterator[Ground]:
    with held(store) as ground:
        yield ground


@pytest.fixture
def private(store: Path, ground: Ground) -> Path:
    return store / TEMPORARY


@pytest.fixture
def attributes(tmp_path: Path) -> bool:
    try:
        os.setxattr(tmp_path, ATTRIBUTE, b"")
    except OSError:
        return False
    return True


@pytest.fixture(params=[True, False], ids=["unnamed", "named"])
def disk(request: pytest.FixtureRequest, ground: Ground, private: Path, attributes: bool) -> Iterator[Disk]:
    """A disk; whatever a test did with it, no private name may be left at its end."""
    disk = Disk(ground, TEMPORARY, unnamed_files=request.param, attributes=attributes)
    yield disk
    disk.close()
    assert os.listdir(private) == []


def do(disk: Disk, operation: Operation, *, wait: bool = True) -> Outcome:
    """Carries out one operation as a job of its own."""
    with disk.stay() as stay:
        return disk.perform(operation, stay, wait=wait)


def ours(seen: int) -> int:
    """The size in what was seen of an object that is new, and ours."""
    return size_of_new(seen, US.uid)


def sized(outcome: Outcome) -> Outcome:
    """An outcome with a size in place of all that was seen."""
    return dataclasses.replace(outcome, seen=ours(outcome.seen))


def listed(store: Path) -> list[str]:
    """What is in a store but for the daemon's own folder."""
    return sorted(set(os.listdir(store)) - {FOLDER})


def scanned(disk: Disk, prefix: bytes) -> Sorted:
    """What a scan of a directory finds, as its scanner takes it."""
    found = Sorted([])
    for data in disk.scan(prefix):
        part = entries.sort(*entries.take_apart(data))
        found.objects += part.objects
        found.doubtful += part.doubtful
        found.foreign += part.foreign
    return found


def put(
    disk: Disk, name: bytes, payload: Any, *, replace: bool = False, durable: bool = False, wait: bool = True
) -> Outcome:
    return do(disk, Put(name, payload, US, replace, durable), wait=wait)


def get(disk: Disk, name: bytes, *, wait: bool = True) -> Outcome:
    return do(disk, Get(name, Budget(MIB, MIB)), wait=wait)


def upload(disk: Disk, *parts: tuple[int, bytes]) -> int:
    begun = do(disk, Begin())
    assert begun.word == wire.OK
    for offset, payload in parts:
        assert do(disk, Write(begun.number, offset, payload)).word == wire.OK
    return begun.number


def commit(disk: Disk, name: bytes, descriptor: int, size: int, *, replace: bool = False) -> Outcome:
    return do(disk, Commit(name, descriptor, size, US, replace, False))


def fault(number: int, name: str = "injected") -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError(number, name)

    return refuse


@pytest.fixture
def break_os(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Gives a function that replaces functions of `os`, for disk.py, reader.py, publisher.py and sights.py alone."""

    def replace(**functions: Callable[..., Any]) -> None:
        broken = types.SimpleNamespace(**{**vars(os), **functions})
        for module in (disk_module, reader_module, publisher_module, sights_module):
            monkeypatch.setattr(module, "os", broken)

    yield replace


# -- looking


def test_a_look_sees_the_size(disk: Disk, store: Path) -> None:
    (store / "k").write_bytes(b"12345")
    (store / "empty").touch()
    (store / "n/k").write_bytes(b"1")
    os.utime(store / "n/k", (0, 0))
    assert sized(do(disk, Look(b"k"))) == Outcome(b"ok", 5, recent=(b"k",))
    assert sized(do(disk, Look(b"empty"))) == Outcome(b"ok", 0, recent=(b"empty",))
    assert do(disk, Look(b"k")).seen == by_hand(store / "k")
    assert do(disk, Look(b"n/k")) == Outcome(b"ok", sight.of(1, os.geteuid(), 0))
    assert do(disk, Look(b"none")) == Outcome(b"ok", ABSENT)
    assert do(disk, Look(b"no-namespace/k")) == Outcome(b"ok", ABSENT)
    assert do(disk, Look(b"k/under-a-file")).word == b"store_away"  # that is no folder


def test_a_look_that_fails_says_nothing(disk: Disk, break_os: Callable[..., None]) -> None:
    break_os(stat=fault(errno.EIO))
    outcome = do(disk, Look(b"k"))
    assert (outcome.word, outcome.seen) == (b"disk_failed", UNSEEN)


# -- putting and getting


@pytest.mark.parametrize("name", [b"k", b"n/k", "é".encode(), b"x" * 255], ids=["plain", "namespace", "é", "long"])
def test_what_was_put_is_got(disk: Disk, store: Path, name: bytes) -> None:
    for payload in (b"", b"x", b"bytes", bytearray(b"array"), memoryview(b"view"), b"x" * 200_000):
        assert sized(put(disk, name, payload)) == Outcome(b"created", len(payload))
        got = get(disk, name)
        assert (got.word, got.seen, bytes(got.payload)) == (b"ok", len(payload), bytes(payload))
        assert (store / os.fsdecode(name)).read_bytes() == bytes(payload)
        assert do(disk, Evict(name, True, US)).word == b"evicted"


def test_an_object_can_be_read_by_owner_and_group_and_written_by_none(disk: Disk, store: Path) -> None:
    before = os.umask(0o777)
    try:
        put(disk, b"k", b"bytes")
    finally:
        os.umask(before)
    assert stat.S_IMODE((store / "k").stat().st_mode) == 0o400
    assert (store / "k").stat().st_nlink == 1


@pytest.mark.parametrize("durable", [False, True], ids=["os", "disk"])
def test_the_same_bytes_again_are_the_same_object(disk: Disk, store: Path, durable: bool) -> None:
    for name, payload in ((b"a", b""), (b"b", b"bytes"), (b"c", b"x" * (2 * MIB + 1))):
        put(disk, name, payload)
        before = (store / os.fsdecode(name)).stat().st_ino
        assert sized(put(disk, name, payload, durable=durable)) == Outcome(b"same", len(payload))
        # A durable one is a synced copy of ours: an fsync of the other file would prove nothing (see publisher.py).
        assert ((store / os.fsdecode(name)).stat().st_ino == before) is not durable


def test_other_bytes_are_refused(disk: Disk, store: Path) -> None:
    put(disk, b"k", b"bytes")
    for other in (b"", b"bytez", b"longer bytes"):
        outcome = put(disk, b"k", other)
        assert (outcome.word, ours(outcome.seen)) == (b"key_exists", 5)
        assert "replace" in str(outcome.error)
        assert (store / "k").read_bytes() == b"bytes"


def test_a_difference_far_behind_is_seen(disk: Disk) -> None:
    put(disk, b"k", bytes(2 * MIB) + b"a")
    assert put(disk, b"k", bytes(2 * MIB) + b"b").word == b"key_exists"


@pytest.mark.parametrize("durable", [False, True], ids=["os", "disk"])
def test_other_bytes_replace_if_asked_to(disk: Disk, store: Path, durable: bool) -> None:
    assert sized(put(disk, b"k", b"old", replace=True, durable=durable)) == Outcome(b"created", 3)
    assert sized(put(disk, b"k", b"newer", replace=True, durable=durable)) == Outcome(b"replaced", 5)
    assert get(disk, b"k").payload == b"newer"
    assert stat.S_IMODE((store / "k").stat().st_mode) == 0o400
    assert (store / "k").stat().st_nlink == 1


def test_whoever_has_the_old_object_open_keeps_it(disk: Disk) -> None:
    put(disk, b"k", b"old")
    opened = do(disk, Open(b"k"))
    put(disk, b"k", b"newer", replace=True)
    assert do(disk, Read(opened.number, 0, 10)).payload == b"old"
    assert do(disk, Evict(b"k", True, US)).word == b"evicted"
    assert do(disk, Read(opened.number, 0, 10)).payload == b"old"
    do(disk, Close(opened.number))


def test_a_reader_sees_the_old_bytes_or_the_new_ones(disk: Disk) -> None:
    put(disk, b"k", b"a" * 5000)
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(bytes(get(disk, b"k").payload))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(100):
        put(disk, b"k", b"ba"[number % 2 : number % 2 + 1] * 5000, replace=True)
    done.set()
    thread.join()
    assert seen <= {b"a" * 5000, b"b" * 5000}


def test_of_many_who_put_at_once_one_creates(disk: Disk) -> None:
    words: list[bytes] = []
    start = threading.Barrier(8)

    def one(number: int) -> None:
        start.wait()
        words.append(put(disk, b"k", b"%d" % number).word)

    threads = [threading.Thread(target=one, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(words) == [b"created"] + [b"key_exists"] * 7


def test_what_is_not_there_is_absent(disk: Disk) -> None:
    for name in (b"k", b"n/k", b"no-namespace/k"):
        assert get(disk, name) == Outcome(b"absent", ABSENT)
        assert do(disk, Open(name)) == Outcome(b"absent", ABSENT)
        assert do(disk, Stat(name)) == Outcome(b"absent", ABSENT)
        assert do(disk, Evict(name, True, US)) == Outcome(b"absent", ABSENT)


def test_an_object_put_by_hand_is_served(disk: Disk, store: Path) -> None:
    (store / "k").write_bytes(b"by hand")
    assert get(disk, b"k").payload == b"by hand"
    assert put(disk, b"k", b"by hand").word == b"same"
    assert do(disk, Evict(b"k", True, US)).word == b"evicted"


def test_a_put_into_a_folder_that_is_gone_makes_none(disk: Disk, store: Path) -> None:
    outcome = put(disk, b"gone/k", b"bytes")
    assert (outcome.word, outcome.seen) == (b"store_away", ABSENT)
    assert outcome.error is not None
    assert outcome.error.retry
    assert listed(store) == ["n"]


# -- waiting


@pytest.mark.parametrize("read_nowait", [True, False])
def test_short_objects_are_read_without_waiting(ground: Ground, read_nowait: bool) -> None:
    disk = Disk(ground, TEMPORARY, attributes=False, read_nowait=read_nowait, inline_bytes_max=10)
    try:
        put(disk, b"k", b"x" * 10, wait=False)
        put(disk, b"empty", b"", wait=False)
        assert get(disk, b"k", wait=False).payload == b"x" * 10
        assert get(disk, b"empty", wait=False).payload == b""
        opened = do(disk, Open(b"k"), wait=False).number
        assert do(disk, Read(opened, 3, 4), wait=False).payload == b"x" * 4
        do(disk, Close(opened), wait=False)
    finally:
        disk.close()


def test_a_long_read_is_not_for_the_loop(ground: Ground) -> None:
    disk = Disk(ground, TEMPORARY, attributes=False, inline_bytes_max=10)
    try:
        put(disk, b"k", b"x" * 11)
        budget = Budget(100, 100)
        with pytest.raises(WouldWait):
            do(disk, Get(b"k", budget), wait=False)
        assert budget.bytes_left == 100
        assert do(disk, Get(b"k", budget), wait=True).payload == b"x" * 11
    finally:
        disk.close()


def test_what_is_opened_is_proven_on_the_loop_up_to_a_mib(disk: Disk) -> None:
    for size, quick in ((0, True), (1 << 20, True), ((1 << 20) + 1, False)):
        put(disk, b"k", bytes(size), replace=True)
        if quick:
            do(disk, Close(do(disk, Open(b"k"), wait=False).number))
        else:
            with pytest.raises(WouldWait):
                do(disk, Open(b"k"), wait=False)
            do(disk, Close(do(disk, Open(b"k")).number))


@pytest.mark.parametrize("place", [0, 200_000, (1 << 20) - 1])
def test_a_wrong_byte_anywhere_is_found_when_it_is_opened(disk: Disk, store: Path, place: int) -> None:
    put(disk, b"k", os.urandom(1 << 20))
    (store / "k").chmod(0o600)
    with open(store / "k", "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    for wait in (False, True):
        assert isinstance(do(disk, Open(b"k"), wait=wait).error, CorruptObject)


def test_a_long_object_that_has_its_name_is_closed_at_once(disk: Disk) -> None:
    put(disk, b"k", bytes(1 << 20))
    first, second = do(disk, Open(b"k")).number, do(disk, Open(b"k")).number
    do(disk, Close(first), wait=False)
    do(disk, Evict(b"k", True, US))
    with pytest.raises(WouldWait):  # its bytes are freed now
        do(disk, Close(second), wait=False)
    do(disk, Close(second))


def test_a_write_in_parts_goes_on(disk: Disk, break_os: Callable[..., None]) -> None:
    break_os(pwrite=lambda descriptor, payload, offset: os.pwrite(descriptor, payload[:3], offset))
    assert put(disk, b"k", b"0123456789").word == b"created"
    descriptor = upload(disk, (0, b"0123"), (4, b"456789"))
    assert commit(disk, b"k", descriptor, 10).word == b"same"


# -- foreign entries


def _link(path: Path) -> None:
    path.with_name(".target").write_bytes(b"target")
    path.symlink_to(".target")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


FOREIGN: dict[str, Callable[[Path], None]] = {
    "directory": Path.mkdir,
    "link": _link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
    "socket": _socket,
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_entry_is_never_served_nor_removed_nor_replaced(
    disk: Disk, store: Path, make: Callable[[Path], None]
) -> None:
    make(store / "k")
    before = os.lstat(store / "k")
    assert do(disk, Look(b"k")) == Outcome(b"ok", ABSENT)
    assert get(disk, b"k") == Outcome(b"absent", ABSENT)
    assert do(disk, Open(b"k")) == Outcome(b"absent", ABSENT)
    assert do(disk, Stat(b"k")) == Outcome(b"absent", ABSENT)
    assert do(disk, Evict(b"k", True, US)) == Outcome(b"absent", ABSENT)
    for replace in (False, True):
        outcome = put(disk, b"k", b"target", replace=replace)
        assert (outcome.word, outcome.seen) == (b"not_an_object", ABSENT)
        assert commit(disk, b"k", upload(disk, (0, b"target")), 6, replace=replace).word == b"not_an_object"
    after = os.lstat(store / "k")
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)


def test_a_directory_that_appears_at_the_last_moment_is_not_an_object(
    disk: Disk, store: Path, break_os: Callable[..., None]
) -> None:
    put(disk, b"k", b"old")

    def rename(*names: Any, **named: Any) -> None:
        (store / "k").unlink()
        (store / "k").mkdir()
        os.rename(*names, **named)

    break_os(rename=rename)
    assert put(disk, b"k", b"new", replace=True).word == b"not_an_object"
    assert (store / "k").is_dir()


# -- evicting


def test_an_evicted_object_is_gone(disk: Disk, store: Path) -> None:
    put(disk, b"k", b"bytes")
    assert do(disk, Evict(b"k", True, US)) == Outcome(b"evicted", ABSENT)
    assert do(disk, Evict(b"k", False, US)) == Outcome(b"absent", ABSENT)
    assert not (store / "k").exists()


def test_somebody_else_may_remove_it_first(disk: Disk, store: Path, break_os: Callable[..., None]) -> None:
    put(disk, b"k", b"bytes")

    def too_late(path: bytes, *, dir_fd: int) -> None:
        os.unlink(path, dir_fd=dir_fd)
        raise FileNotFoundError(errno.ENOENT, "gone")

    break_os(unlink=too_late)
    assert do(disk, Evict(b"k", True, US)) == Outcome(b"absent", ABSENT)
    assert not (store / "k").exists()


def test_an_object_that_cannot_be_removed_is_still_there(disk: Disk, break_os: Callable[..., None]) -> None:
    put(disk, b"k", b"bytes")
    break_os(unlink=fault(errno.EACCES))
    outcome = do(disk, Evict(b"k", True, US))
    assert (outcome.word, ours(outcome.seen)) == (b"disk_failed", 5)
    assert os.strerror(errno.EACCES) in str(outcome.error)


# -- metadata


def told(disk: Disk, name: bytes = b"k") -> dict[str, Any]:
    outcome = do(disk, Stat(name))
    assert outcome.word == b"ok"
    answer = json.loads(outcome.payload)
    assert isinstance(answer, dict)
    assert outcome.seen == sight.of(answer["size"], answer["owner"], int(answer["created"]))
    return answer


def test_owner_and_time_are_kept_with_an_object(disk: Disk, store: Path, attributes: bool) -> None:
    if not attributes:
        pytest.skip("the file system of tmp_path has no user attributes")
    do(disk, Put(b"k", b"bytes", STRANGER, False, False))
    kept = Metadata.unpack(os.getxattr(store / "k", "user.storekeeper"))
    assert kept is not None
    assert (kept.owner, kept.checksum, kept.synced) == (4321, checksums.of(b"bytes"), False)
    assert told(disk) == {"size": 5, "owner": 4321, "created": kept.created_us / 1e6}
    os.utime(store / "k", (1, 1))
    assert told(disk)["created"] == kept.created_us / 1e6


def test_a_replaced_object_has_its_new_owner(disk: Disk, attributes: bool) -> None:
    if not attributes:
        pytest.skip("the file system of tmp_path has no user attributes")
    put(disk, b"k", b"old")
    assert do(disk, Put(b"k", b"new", MANAGER, True, False)).word == b"replaced"
    assert told(disk)["owner"] == MANAGER.uid


def test_a_file_that_came_by_hand_belongs_to_its_unix_owner(disk: Disk, store: Path) -> None:
    (store / "k").write_bytes(b"12")
    os.utime(store / "k", (5, 5))
    assert told(disk) == {"size": 2, "owner": os.geteuid(), "created": 5.0}


NOT_OURS = [
    b"", b"nonsense", b"\xff", b"[" * 3000, b"{}", bytes(52), b"\xff" * 52, b"\x02" + b"\xff" * 51, b"\x02" + bytes(50),
    b"\x02" + bytes(52), b"\x01" + bytes(35), b"\x01" + bytes(51),
]  # fmt: skip


def test_an_attribute_that_is_not_ours_says_nothing(disk: Disk, store: Path, attributes: bool) -> None:
    if not attributes:
        pytest.skip("the file system of tmp_path has no user attributes")
    (store / "k").touch()
    os.utime(store / "k", (5, 5))
    for kept in NOT_OURS:
        os.setxattr(store / "k", ATTRIBUTE, kept)
        assert told(disk) == {"size": 0, "owner": os.geteuid(), "created": 5.0}, kept


def test_without_attributes_objects_belong_to_their_unix_owner(store: Path, ground: Ground) -> None:
    disk = Disk(ground, TEMPORARY, attributes=False)
    try:
        assert put(disk, b"k", b"bytes").word == b"created"
        assert told(disk)["owner"] == os.geteuid()
        with pytest.raises(OSError):
            os.getxattr(store / "k", ATTRIBUTE)
    finally:
        disk.close()


def test_a_stat_that_fails_is_a_typed_error(disk: Disk, break_os: Callable[..., None]) -> None:
    break_os(stat=fault(errno.EIO))
    assert do(disk, Stat(b"k")).word == b"disk_failed"


# -- uploads and downloads


def test_an_upload_is_invisible_until_it_is_committed(disk: Disk, store: Path) -> None:
    descriptor = upload(disk, (6, b"world"), (0, b"hello "))
    assert do(disk, Look(b"k")).seen == ABSENT
    assert scanned(disk, b"") == Sorted([], foreign=Counter(directory=1))
    assert sized(commit(disk, b"k", descriptor, 11)) == Outcome(b"created", 11)
    assert (store / "k").read_bytes() == b"hello world"
    assert stat.S_IMODE((store / "k").stat().st_mode) == 0o400


def test_a_commit_closes_the_upload_whatever_comes_of_it(disk: Disk) -> None:
    put(disk, b"k", b"bytes")
    for size, payload, replace, word in (
        (5, b"bytes", False, b"same"),
        (5, b"other", False, b"key_exists"),
        (5, b"other", True, b"replaced"),
        (6, b"other", True, b"disk_failed"),
        (4, b"other", True, b"disk_failed"),
    ):
        descriptor = upload(disk, (0, payload))
        assert commit(disk, b"k", descriptor, size, replace=replace).word == word
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(descriptor)
    assert get(disk, b"k").payload == b"other"


def test_a_commit_of_another_size_stores_nothing(disk: Disk, store: Path) -> None:
    outcome = commit(disk, b"k", upload(disk, (0, b"bytes")), 6)
    assert (outcome.word, outcome.seen) == (b"disk_failed", ABSENT)
    assert "6 bytes were written, the file has 5" in str(outcome.error)
    assert not (store / "k").exists()


def test_an_upload_that_is_given_up_leaves_nothing(disk: Disk, store: Path) -> None:
    descriptor = upload(disk, (0, b"bytes"))
    assert do(disk, Close(descriptor)) == Outcome(b"ok")
    assert listed(store) == ["n"]


def test_an_empty_upload_is_an_empty_object(disk: Disk) -> None:
    assert sized(commit(disk, b"k", upload(disk), 0)) == Outcome(b"created", 0)


def test_uploads_do_not_disturb_each_other(disk: Disk) -> None:
    uploads = [upload(disk, (0, b"%d" % number)) for number in range(5)]
    for number, descriptor in enumerate(uploads):
        assert commit(disk, b"k%d" % number, descriptor, 1).word == b"created"
    assert [get(disk, b"k%d" % number).payload for number in range(5)] == [b"%d" % number for number in range(5)]


def test_a_download_is_open_until_it_is_closed(disk: Disk) -> None:
    put(disk, b"k", b"0123456789")
    opened = do(disk, Open(b"k"))
    assert (opened.word, sight.size_of(opened.seen), sight.owner_of(opened.seen)) == (b"ok", 10, US.uid)
    assert do(disk, Read(opened.number, 2, 3)) == Outcome(b"ok", payload=b"234")
    assert do(disk, Close(opened.number)) == Outcome(b"ok")
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(opened.number)


def test_a_wrong_descriptor_is_a_typed_error(disk: Disk) -> None:
    for operation in (Read(10**6, 0, 1), Write(10**6, 0, b"x")):
        outcome = do(disk, operation)
        assert (outcome.word, outcome.seen) == (b"disk_failed", UNSEEN)


# -- durability


@pytest.fixture
def syncs(break_os: Callable[..., None]) -> list[str]:
    """What was synced, linked and renamed, in order."""
    events: list[str] = []

    def fsync(descriptor: int) -> None:
        events.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        os.fsync(descriptor)

    def link(*args: Any, **named: Any) -> None:
        os.link(*args, **named)
        events.append("link")

    def rename(*args: Any, **named: Any) -> None:
        os.rename(*args, **named)
        events.append("rename")

    break_os(fsync=fsync, link=link, rename=rename)
    return events


def test_a_durable_object_is_on_the_disk_before_it_has_a_name(disk: Disk, syncs: list[str]) -> None:
    put(disk, b"n/k", b"bytes", durable=True)
    assert syncs == ["sync file", "link", "sync directory"]
    syncs.clear()
    put(disk, b"n/k", b"other", durable=True, replace=True)
    assert syncs == ["sync file", "link", "rename", "sync directory"]


def test_bytes_that_were_there_already_become_durable_too(disk: Disk, syncs: list[str]) -> None:
    put(disk, b"k", b"bytes")
    assert syncs == ["link"]
    syncs.clear()
    assert put(disk, b"k", b"bytes", durable=True).word == b"same"
    assert syncs == ["sync file", "sync file", "link", "rename", "sync directory"]


def test_a_directory_that_cannot_be_synced_is_a_failure_that_tells_what_is_there(
    disk: Disk, break_os: Callable[..., None]
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "injected")

    break_os(fsync=fsync)
    outcome = put(disk, b"k", b"bytes", durable=True)
    assert (outcome.word, ours(outcome.seen)) == (b"disk_failed", 5)


# -- failures


REFUSALS = [
    (errno.ENOSPC, b"disk_full"),
    (errno.EDQUOT, b"disk_full"),
    (errno.EIO, b"disk_failed"),
    (errno.EACCES, b"disk_failed"),
    (errno.EROFS, b"disk_failed"),
]


@pytest.mark.parametrize("step", ["open", "pwrite", "setxattr", "fchmod", "fsync", "rename"])
def test_a_put_that_fails_leaves_the_old_object_and_no_litter(
    disk: Disk, store: Path, private: Path, attributes: bool, break_os: Callable[..., None], step: str
) -> None:
    if step == "setxattr" and not attributes:
        pytest.skip("the file system of tmp_path has no user attributes")
    put(disk, b"k", b"old")
    for number, word in REFUSALS:
        break_os(**{step: fault(number)})
        outcome = put(disk, b"k", b"newer", replace=True, durable=True)
        assert (outcome.word, ours(outcome.seen)) == (word, 3)
        assert outcome.error is not None
        assert outcome.error.code.encode() == word
        assert (store / "k").read_bytes() == b"old"
        assert listed(store) == ["k", "n"]
        assert os.listdir(private) == []


@pytest.mark.parametrize("step", ["fstat", "fchmod", "link"])
def test_a_commit_that_fails_leaves_nothing(
    disk: Disk, store: Path, private: Path, break_os: Callable[..., None], step: str
) -> None:
    for number, word in REFUSALS:
        break_os()
        descriptor = upload(disk, (0, b"bytes"))
        break_os(**{step: fault(number)})
        outcome = commit(disk, b"k", descriptor, 5)
        assert (outcome.word, outcome.seen) == (word, ABSENT)
        assert listed(store) == ["n"]
        assert os.listdir(private) == []


def test_a_private_folder_that_is_gone_is_a_store_that_is_away(disk: Disk, private: Path) -> None:
    private.rmdir()
    assert put(disk, b"k", b"bytes").word == b"store_away"
    assert do(disk, Begin()).word == b"store_away"
    private.mkdir()
    assert put(disk, b"k", b"bytes").word == b"created"


def test_a_message_names_the_reason(disk: Disk, break_os: Callable[..., None]) -> None:
    break_os(pwrite=fault(errno.ENOSPC))
    assert os.strerror(errno.ENOSPC) in str(put(disk, b"k", b"bytes").error)

    def nameless(*_: object) -> int:
        raise OSError("no number")

    break_os(pwrite=nameless)
    outcome = put(disk, b"k", b"bytes")
    assert outcome.word == b"disk_failed"
    assert "no number" in str(outcome.error)


def test_an_object_that_cannot_be_opened_is_a_typed_error(disk: Disk, break_os: Callable[..., None]) -> None:
    put(disk, b"k", b"bytes")
    for number in (errno.EACCES, errno.EIO, errno.EMFILE):
        break_os(open=fault(number))
        for operation in (Get(b"k", Budget(9, 9)), Open(b"k")):
            outcome = do(disk, operation)
            expected = b"busy" if number == errno.EMFILE else b"disk_failed"
            assert (outcome.word, ours(outcome.seen)) == (expected, 5)


def test_an_object_that_cannot_be_read_is_a_typed_error(disk: Disk, break_os: Callable[..., None]) -> None:
    put(disk, b"k", b"bytes")
    break_os(pread=fault(errno.EIO), preadv=fault(errno.EIO))
    assert get(disk, b"k").word == b"disk_failed"
    assert get(disk, b"k", wait=False).word == b"disk_failed"


def test_a_name_that_goes_between_two_calls_is_taken(disk: Disk, break_os: Callable[..., None]) -> None:
    attempts = 0

    def link(*args: Any, **named: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise FileExistsError(errno.EEXIST, "there for a moment")
        os.link(*args, **named)

    break_os(link=link)
    assert sized(put(disk, b"k", b"bytes")) == Outcome(b"created", 5)


def test_a_name_that_comes_and_goes_for_ever_is_given_up(disk: Disk, break_os: Callable[..., None]) -> None:
    break_os(link=fault(errno.EEXIST))
    outcome = put(disk, b"k", b"bytes")
    assert (outcome.word, outcome.seen) == (b"disk_failed", ABSENT)
    assert "try again" in str(outcome.error)


# -- scanning


def test_a_scan_finds_objects_and_counts_what_is_foreign(disk: Disk, store: Path) -> None:
    for number, make in enumerate(FOREIGN.values()):
        make(store / f"foreign{number}")
    for name in (b"a", "é".encode(), b"x" * 255, b".hidden", b"\xff not UTF-8"):
        (store / os.fsdecode(name)).touch()
    (store / "n/c").touch()
    (store / "n/.d").touch()
    (store / "a.ready").touch()
    (store / "b.ready").write_bytes(b"an object")
    found = scanned(disk, b"")
    assert sorted(found.objects) == sorted([b"a", "é".encode(), b"x" * 255])
    assert sorted(found.doubtful) == [b"a.ready", b"b.ready"]
    # Both links; the folder n, too; fifo and socket; the name that is not UTF-8.
    assert found.foreign == Counter(link=2, directory=2, special=2, name=1)
    assert scanned(disk, b"n/") == Sorted([b"c"])


def test_an_empty_directory_has_no_names(disk: Disk) -> None:
    assert scanned(disk, b"n/") == Sorted([])


def test_a_long_directory_comes_in_pieces(disk: Disk, store: Path) -> None:
    (store / "n/.origin").touch()
    for number in range(12_000):
        os.link(store / "n/.origin", store / f"n/{number}")
    assert len(list(disk.scan(b"n/"))) > 1
    assert sorted(scanned(disk, b"n/").objects) == sorted(b"%d" % number for number in range(12_000))


def test_a_directory_that_cannot_be_read_is_no_empty_one(disk: Disk) -> None:
    with pytest.raises(FileNotFoundError):
        list(disk.scan(b"gone/"))


# -- all of it


def test_a_store_whose_path_is_not_utf_8_works(tmp_path: Path) -> None:
    with held(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))) as ground:
        disk = Disk(ground, TEMPORARY, attributes=False)
        try:
            assert put(disk, b"k", b"bytes").word == b"created"
            assert get(disk, b"k").payload == b"bytes"
            assert scanned(disk, b"") == Sorted([b"k"])
        finally:
            disk.close()


def test_a_disk_does_what_a_dictionary_does(disk: Disk, store: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    model: dict[bytes, bytes] = {}
    for _ in range(600):
        name = rng.choice([b"a", b"b", b"n/a"])
        payload = rng.choice([b"", b"1", b"2", b"long" * 3000])
        old = model.get(name)
        what = rng.randrange(4)
        if what == 0:
            assert do(disk, Evict(name, True, US)).word == (b"absent" if old is None else b"evicted")
            model.pop(name, None)
        elif what == 1:
            got = get(disk, name, wait=rng.random() < 0.5)
            assert (got.word, bytes(got.payload)) == ((b"absent", b"") if old is None else (b"ok", old))
        else:
            replace = rng.random() < 0.5
            word = put(disk, name, payload, replace=replace).word
            if old is None:
                assert word == b"created"
            elif replace:
                assert word == b"replaced"
            else:
                assert word == (b"same" if old == payload else b"key_exists")
            if old is None or replace:
                model[name] = payload
        assert ours(do(disk, Look(name)).seen) == (len(model[name]) if name in model else ABSENT)
    assert {part + name for part in (b"", b"n/") for name in scanned(disk, part).objects} == model.keys()


# -- surveys


def test_a_survey_sees_many_names_in_their_order(disk: Disk, store: Path) -> None:
    (store / "k").write_bytes(b"12345")
    (store / "n/empty").touch()
    (store / "k.ready").touch()
    (store / "link").symlink_to("k")
    os.utime(store / "n/empty", (0, 0))
    names = [b"k", b"gone", b"n/empty", b"k.ready", b"link", b"n", b"no-namespace/k", b"k"]
    outcome = do(disk, Survey(names))
    k, empty = by_hand(store / "k"), sight.of(0, os.geteuid(), 0)
    assert outcome.payload == [k, ABSENT, empty, ABSENT, ABSENT, ABSENT, ABSENT, k]
    assert ours(k) == 5
    assert set(outcome.recent) == {b"k", b"k.ready"}  # they may be written to at this moment
    assert do(disk, Survey([])).payload == []


def test_a_survey_says_nothing_of_the_names_it_cannot_see(
    disk: Disk, store: Path, break_os: Callable[..., None]
) -> None:
    (store / "k").touch()

    def stat(name: bytes, **named: Any) -> os.stat_result:
        if name == b"bad":
            raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))
        return os.stat(name, **named)

    break_os(stat=stat)
    assert do(disk, Survey([b"bad", b"k"])).payload == [UNSEEN, by_hand(store / "k")]


def test_a_name_that_the_file_system_could_not_have_is_not_there(disk: Disk) -> None:
    assert do(disk, Survey([b"x" * 256])).payload == [ABSENT]
    assert do(disk, Look(b"x" * 256)).seen == ABSENT


# -- FileConnector's markers


@pytest.fixture
def marking(ground: Ground) -> Iterator[Disk]:
    """A disk that keeps markers."""
    disk = Disk(ground, TEMPORARY, attributes=False, ready_markers=True)
    yield disk
    disk.close()


@pytest.mark.parametrize("name", [b"k.ready", b"n/k.ready", b"k.ready.ready"])
def test_an_empty_file_named_like_a_marker_is_never_an_object(disk: Disk, store: Path, name: bytes) -> None:
    (store / os.fsdecode(name)).touch()
    assert do(disk, Look(name)) == Outcome(b"ok", ABSENT, recent=(name,))  # it may become one
    os.utime(store / os.fsdecode(name), (0, 0))
    assert do(disk, Look(name)) == Outcome(b"ok", ABSENT)
    assert get(disk, name) == Outcome(b"absent", ABSENT)
    assert do(disk, Open(name)) == Outcome(b"absent", ABSENT)
    assert do(disk, Stat(name)) == Outcome(b"absent", ABSENT)
    assert do(disk, Evict(name, True, US)) == Outcome(b"absent", ABSENT)
    assert (store / os.fsdecode(name)).exists()


def test_a_file_named_like_a_marker_with_bytes_in_it_is_an_object(disk: Disk) -> None:
    assert sized(put(disk, b"k.ready", b"bytes")) == Outcome(b"created", 5)
    assert get(disk, b"k.ready").payload == b"bytes"
    assert told(disk, b"k.ready")["size"] == 5
    assert do(disk, Evict(b"k.ready", True, US)) == Outcome(b"evicted", ABSENT)


@pytest.mark.parametrize("replace", [False, True])
def test_an_empty_object_cannot_be_named_like_a_marker(disk: Disk, store: Path, replace: bool) -> None:
    for name in (b"k.ready", b"n/k.ready"):
        for outcome in (
            put(disk, name, b"", replace=replace),
            commit(disk, name, upload(disk), 0, replace=replace),
        ):
            assert (outcome.word, outcome.seen) == (b"bad_key", ABSENT)
            assert isinstance(outcome.error, BadKey)
    assert listed(store) == ["n"]
    assert os.listdir(store / "n") == []


def test_an_object_is_not_replaced_by_an_empty_one_named_like_a_marker(disk: Disk) -> None:
    put(disk, b"k.ready", b"bytes")
    assert put(disk, b"k.ready", b"", replace=True).word == b"bad_key"
    assert get(disk, b"k.ready").payload == b"bytes"


def test_no_markers_are_made_unless_asked_for(disk: Disk, store: Path) -> None:
    put(disk, b"k", b"bytes")
    assert listed(store) == ["k", "n"]
    (store / "k.ready").touch()
    assert do(disk, Evict(b"k", True, US)).word == b"evicted"
    assert listed(store) == ["k.ready", "n"]


def test_a_marker_comes_and_goes_with_its_object(marking: Disk, store: Path) -> None:
    for name in ("k", "n/k", "empty"):
        payload = b"" if name == "empty" else b"bytes"
        assert sized(put(marking, name.encode(), payload)) == Outcome(b"created", len(payload))
        marker = (store / f"{name}.ready").lstat()
        assert stat.S_ISREG(marker.st_mode)
        assert marker.st_size == 0
        assert do(marking, Evict(name.encode(), True, US)) == Outcome(b"evicted", ABSENT)
    assert listed(store) == ["n"]
    assert os.listdir(store / "n") == []


@pytest.mark.parametrize(("payload", "replace"), [(b"bytes", False), (b"other", True)])
def test_a_missing_marker_is_made_by_the_next_put(marking: Disk, store: Path, payload: bytes, replace: bool) -> None:
    (store / "k").write_bytes(b"bytes")
    assert put(marking, b"k", payload, replace=replace).word in (b"same", b"replaced")
    assert (store / "k.ready").stat().st_size == 0


def test_a_put_that_is_refused_makes_no_marker(marking: Disk, store: Path) -> None:
    (store / "k").write_bytes(b"bytes")
    assert put(marking, b"k", b"other").word == b"key_exists"
    assert put(marking, b"n", b"other").word == b"not_an_object"
    assert listed(store) == ["k", "n"]


def test_a_commit_makes_a_marker_too(marking: Disk, store: Path) -> None:
    assert commit(marking, b"k", upload(marking, (0, b"bytes")), 5).word == b"created"
    assert listed(store) == ["k", "k.ready", "n"]


def test_an_object_named_like_a_marker_is_not_removed_as_one(marking: Disk, store: Path) -> None:
    (store / "k.ready").write_bytes(b"an object")
    assert put(marking, b"k", b"bytes").word == b"created"
    assert do(marking, Evict(b"k", True, US)).word == b"evicted"
    assert (store / "k.ready").read_bytes() == b"an object"


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_entry_in_a_markers_place_stays(marking: Disk, store: Path, make: Callable[[Path], None]) -> None:
    make(store / "k.ready")
    before = os.lstat(store / "k.ready")
    assert put(marking, b"k", b"bytes").word == b"created"
    assert do(marking, Evict(b"k", True, US)).word == b"evicted"
    assert os.lstat(store / "k.ready").st_ino == before.st_ino


def test_the_marker_is_made_last_and_removed_last(marking: Disk, store: Path, break_os: Callable[..., None]) -> None:
    seen: list[tuple[str, list[str]]] = []

    def mknod(path: bytes, *args: Any, **named: Any) -> None:
        seen.append(("make", listed(store)))
        os.mknod(path, *args, **named)

    def unlink(path: bytes, **named: Any) -> None:
        seen.append(("remove", listed(store)))
        os.unlink(path, **named)

    break_os(mknod=mknod, unlink=unlink)
    put(marking, b"k", b"bytes")
    do(marking, Evict(b"k", True, US))
    assert seen == [("make", ["k", "n"]), ("remove", ["k", "k.ready", "n"]), ("remove", ["k.ready", "n"])]


def test_a_durable_put_syncs_its_marker_too(marking: Disk, syncs: list[str], store: Path) -> None:
    assert put(marking, b"k", b"bytes", durable=True).word == b"created"
    assert syncs == ["sync file", "link", "sync directory"]
    assert (store / "k.ready").exists()


def test_an_object_whose_marker_has_no_room_for_a_name_is_stored_or_not_but_never_both(
    marking: Disk, store: Path
) -> None:
    # Found before the object is published: mknod(2) of a name over 255 bytes would fail after it.
    outcome = put(marking, b"x" * 255, b"bytes")
    assert (outcome.word == b"created") == (store / ("x" * 255)).exists()


# -- owners


@pytest.fixture
def owned(disk: Disk, attributes: bool) -> Disk:
    """A disk with an object `k` of ours."""
    if not attributes:
        pytest.skip("the file system of tmp_path has no user attributes")
    put(disk, b"k", b"bytes")
    return disk


def everything_of(path: Path) -> tuple[object, ...]:
    """The bytes of a file, and what is said of it."""
    found = path.stat()
    kept = os.getxattr(path, ATTRIBUTE) if ATTRIBUTE in os.listxattr(path) else None
    return path.read_bytes(), kept, found.st_ino, found.st_mode, found.st_nlink, found.st_mtime_ns


def test_a_stranger_evicts_nothing(owned: Disk, store: Path) -> None:
    before = everything_of(store / "k")
    for small in (True, False):
        outcome = do(owned, Evict(b"k", small, STRANGER))
        assert (outcome.word, ours(outcome.seen)) == (b"denied", 5)
        assert isinstance(outcome.error, Denied)
        assert f"uid {US.uid}" in str(outcome.error)
    assert everything_of(store / "k") == before


def test_an_owner_is_who_put_it_not_whose_the_file_is(owned: Disk) -> None:
    assert do(owned, Put(b"theirs", b"bytes", STRANGER, False, False)).word == b"created"
    assert do(owned, Evict(b"theirs", True, US)).word == b"denied"
    assert do(owned, Evict(b"theirs", True, STRANGER)) == Outcome(b"evicted", ABSENT)


def test_a_file_that_came_by_hand_is_evicted_by_its_unix_owner_alone(disk: Disk, store: Path) -> None:
    (store / "k").write_bytes(b"by hand")
    outcome = do(disk, Evict(b"k", True, STRANGER))
    assert (outcome.word, outcome.seen) == (b"denied", by_hand(store / "k"))
    assert do(disk, Evict(b"k", True, US)) == Outcome(b"evicted", ABSENT)


def test_a_manager_evicts_what_others_own(owned: Disk, store: Path) -> None:
    seen = do(owned, Look(b"k")).seen
    assert do(owned, Evict(b"k", True, MANAGER, before_ns=1)) == Outcome(b"absent", seen)  # it came later
    assert do(owned, Evict(b"k", True, MANAGER)) == Outcome(b"evicted", ABSENT)
    assert not (store / "k").exists()


def test_what_is_not_there_is_denied_to_nobody(disk: Disk, store: Path) -> None:
    (store / "folder").mkdir()
    for name in (b"none", b"n/none", b"folder", b"no-namespace/k"):
        assert do(disk, Evict(name, True, STRANGER)) == Outcome(b"absent", ABSENT)
        assert do(disk, Mark(name, STRANGER, pinned=True)) == Outcome(b"absent", ABSENT)


def test_what_another_one_owns_is_not_replaced(owned: Disk, store: Path) -> None:
    before = everything_of(store / "k")
    for outcome in (
        do(owned, Put(b"k", b"other", STRANGER, True, False)),
        do(owned, Put(b"k", b"other", STRANGER, True, True)),
        do(owned, Commit(b"k", upload(owned, (0, b"other")), 5, STRANGER, True, False)),
    ):
        assert (outcome.word, ours(outcome.seen)) == (b"denied", 5)
        assert isinstance(outcome.error, Denied)
    assert do(owned, Put(b"k", b"bytes", STRANGER, True, False)).word == b"same"
    assert everything_of(store / "k") == before
    assert listed(store) == ["k", "n"]


def test_a_file_that_came_by_hand_is_replaced_by_its_unix_owner_alone(disk: Disk, store: Path) -> None:
    (store / "k").write_bytes(b"by hand")
    assert do(disk, Put(b"k", b"other", STRANGER, True, False)).word == b"denied"
    assert (store / "k").read_bytes() == b"by hand"
    assert do(disk, Put(b"k", b"other", US, True, False)).word == b"replaced"


def test_everybody_may_put_the_bytes_that_are_there(owned: Disk) -> None:
    for durable in (False, True):  # it stays whose it was
        outcome = do(owned, Put(b"k", b"bytes", STRANGER, False, durable))
        assert (outcome.word, ours(outcome.seen)) == (b"same", 5)


# -- evicting what was seen


@pytest.mark.parametrize("origin", [US, MANAGER], ids=["owner", "manager"])
def test_what_is_still_as_it_was_seen_is_evicted(owned: Disk, origin: Origin) -> None:
    seen = do(owned, Look(b"k")).seen
    assert do(owned, Evict(b"k", True, origin, only=seen)) == Outcome(b"evicted", ABSENT)
    assert do(owned, Evict(b"k", True, origin, only=seen)) == Outcome(b"absent", ABSENT)


@pytest.mark.parametrize("origin", [US, MANAGER], ids=["owner", "manager"])
def test_what_changed_since_it_was_seen_is_kept(owned: Disk, store: Path, origin: Origin) -> None:
    seen = do(owned, Look(b"k")).seen
    changes: list[Operation] = [
        Put(b"k", b"longer bytes", US, True, False),
        Put(b"k", b"bytes", MANAGER, True, False),
        Mark(b"k", MANAGER, pinned=True),
        Mark(b"k", MANAGER, pinned=False, ttl_us=60_000_000),
    ]
    for change in changes:
        assert do(owned, change).error is None
        now = do(owned, Look(b"k")).seen
        assert do(owned, Evict(b"k", True, origin, only=seen)) == Outcome(b"kept", now)
        assert (store / "k").exists()
        seen = now


def test_what_a_daemon_has_evicted_with_a_condition_takes_its_marker_along(marking: Disk, store: Path) -> None:
    put(marking, b"k", b"bytes")
    seen = do(marking, Look(b"k")).seen
    assert do(marking, Evict(b"k", True, MANAGER, only=seen + 1)).word == b"kept"
    assert listed(store) == ["k", "k.ready", "n"]
    assert do(marking, Evict(b"k", True, MANAGER, only=seen)).word == b"evicted"
    assert listed(store) == ["n"]


# -- marking


def test_a_mark_says_how_long_an_object_lives(owned: Disk) -> None:
    before = do(owned, Look(b"k")).seen
    asked_ms = moments.now_ms()
    outcome = do(owned, Mark(b"k", US, ttl_us=60_000_000))
    assert outcome.word == b"ok"
    expires_ms = sight.expires_of(outcome.seen)
    assert asked_ms + 59_999 <= expires_ms <= moments.now_ms() + 60_001
    assert outcome.seen == sight.of(5, US.uid, sight.created_of(before), expires_ms=expires_ms)
    assert do(owned, Look(b"k")).seen == outcome.seen
    assert do(owned, Mark(b"k", US, ttl_us=0)) == Outcome(b"ok", before)


def test_a_mark_pins_and_releases(owned: Disk) -> None:
    before = do(owned, Look(b"k")).seen
    pinned = do(owned, Mark(b"k", US, pinned=True))
    assert pinned == Outcome(b"ok", sight.of(5, US.uid, sight.created_of(before), pinned=True))
    assert do(owned, Mark(b"k", US)) == pinned
    assert do(owned, Mark(b"k", US, pinned=False)) == Outcome(b"ok", before)


def test_stat_tells_the_life_of_an_object(owned: Disk) -> None:
    def life() -> dict[str, Any]:
        answer = json.loads(do(owned, Stat(b"k")).payload)
        assert isinstance(answer, dict)
        return answer

    plain = life()
    do(owned, Mark(b"k", US, ttl_us=60_000_000))
    living = life()
    assert 50 < living.pop("expires_in") <= 60.001
    assert living == plain
    do(owned, Mark(b"k", US, pinned=True))
    assert life() == {**plain, "pinned": True}


def test_a_mark_leaves_bytes_and_mode_as_they_are(owned: Disk, store: Path) -> None:
    payload, kept, *rest = everything_of(store / "k")
    do(owned, Mark(b"k", US, ttl_us=60_000_000, pinned=True))
    payload_now, kept_now, *rest_now = everything_of(store / "k")
    assert (payload_now, rest_now) == (payload, rest)
    assert stat.S_IMODE((store / "k").stat().st_mode) == 0o400
    old, new = Metadata.unpack(kept), Metadata.unpack(kept_now)  # type: ignore[arg-type]
    assert old is not None
    assert new is not None
    assert new.pinned
    assert new._replace(ttl_us=0, pinned=False) == old
    assert get(owned, b"k").payload == b"bytes"
    assert do(owned, Verify(b"k")).word == b"ok"


def test_a_mark_is_for_the_owner_and_for_managers(owned: Disk, store: Path) -> None:
    before = everything_of(store / "k")
    outcome = do(owned, Mark(b"k", STRANGER, ttl_us=1, pinned=False))
    assert (outcome.word, ours(outcome.seen)) == (b"denied", 5)
    assert isinstance(outcome.error, Denied)
    assert everything_of(store / "k") == before
    assert do(owned, Mark(b"k", MANAGER, pinned=True)).word == b"ok"
    assert do(owned, Evict(b"k", True, STRANGER)).word == b"denied"  # it is whose it was


def test_a_file_that_came_by_hand_can_be_marked(disk: Disk, store: Path, attributes: bool) -> None:
    if not attributes:
        pytest.skip("the file system of tmp_path has no user attributes")
    path = store / "k"
    path.write_bytes(b"by hand")
    path.chmod(0o440)
    os.utime(path, (77, 77))
    assert do(disk, Mark(b"k", STRANGER, pinned=True)).word == b"denied"
    assert os.listxattr(path) == []
    outcome = do(disk, Mark(b"k", US, pinned=True))
    assert outcome == Outcome(b"ok", sight.of(7, US.uid, 77, pinned=True))
    kept = Metadata.unpack(os.getxattr(path, ATTRIBUTE))
    assert kept is not None
    assert (kept.owner, kept.created_us, kept.pinned) == (US.uid, 77_000_000, True)
    assert not kept.proved
    assert not kept.synced
    # There is no checksum of it: it is served as it is, and nobody says that it is right.
    assert get(disk, b"k").payload == b"by hand"
    assert do(disk, Verify(b"k")) == Outcome(b"unknown", outcome.seen)
    opened = do(disk, Open(b"k"), wait=False)
    assert do(disk, Read(opened.number, 3, 4)).payload == b"hand"
    do(disk, Close(opened.number))
    assert path.read_bytes() == b"by hand"


def test_without_attributes_a_mark_is_refused(store: Path, ground: Ground) -> None:
    disk = Disk(ground, TEMPORARY, attributes=False)
    try:
        put(disk, b"k", b"bytes")
        outcome = do(disk, Mark(b"k", US, pinned=True))
        assert (outcome.word, ours(outcome.seen)) == (b"bad_request", 5)
        assert isinstance(outcome.error, BadRequest)
        assert "attributes" in str(outcome.error)
    finally:
        disk.close()


@pytest.mark.parametrize("step", ["setxattr", "fchmod", "open", "fstat"])
def test_a_mark_that_fails_changes_nothing(owned: Disk, store: Path, break_os: Callable[..., None], step: str) -> None:
    before = everything_of(store / "k")
    for number, word in REFUSALS:
        break_os(**{step: fault(number)})
        outcome = do(owned, Mark(b"k", US, ttl_us=1, pinned=True))
        assert (outcome.word, ours(outcome.seen)) == (word, 5)
        assert everything_of(store / "k") == before


def test_foreign_entries_are_not_marked(disk: Disk, store: Path) -> None:
    for number, make in enumerate(FOREIGN.values()):
        make(store / f"foreign{number}")
        assert do(disk, Mark(b"foreign%d" % number, US, pinned=True)) == Outcome(b"absent", ABSENT)
