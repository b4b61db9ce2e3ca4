"""commits.py: durable puts that go their way together, and fail alone."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import adopt, size_of_new
from storekeeperd import publisher as publisher_module
from storekeeperd.disk import Disk
from storekeeperd.ground import WITNESS, Ground
from storekeeperd.home import TEMPORARY
from storekeeperd.operations import Budget, Get, Origin, Outcome, Put
from storekeeperd.sight import ABSENT, UNSEEN

US = Origin(4321)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    (store / TEMPORARY).mkdir(parents=True)
    (store / "team").mkdir()
    (store / os.fsdecode(WITNESS)).touch()
    return store


@pytest.fixture(params=[True, False], ids=["unnamed", "named"])
def disk(store: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    ground = Ground(store)
    found = (store / os.fsdecode(WITNESS)).stat()
    ground.witness = found.st_dev, found.st_ino
    adopt(ground)
    disk = Disk(ground, TEMPORARY, unnamed_files=request.param, commit_group_max=4, sync_together=False)
    yield disk
    disk.close()
    assert os.listdir(store / TEMPORARY) == []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, hinted and linked, in order."""
    made: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "rename", "posix_fadvise")}

    def fsync(descriptor: int) -> None:
        made.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync")
        real["fsync"](descriptor)

    def noting(name: str) -> Callable[..., None]:
        def call(*arguments: object, **keywords: object) -> None:
            real[name](*arguments, **keywords)
            made.append(name)

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("link", "rename", "posix_fadvise"):
        monkeypatch.setattr(os, name, noting(name))
    return made


def put(name: bytes, payload: bytes = b"bytes", *, replace: bool = False) -> Put:
    return Put(name, payload, US, replace, durable=True)


def put_all(disk: Disk, *puts: Put) -> list[Outcome]:
    with disk.stay() as stay:
        return disk.put_together(list(puts), stay)


def size(outcome: Outcome) -> int:
    """The size in what was seen of an object that is new, and ours."""
    return size_of_new(outcome.seen, US.uid)


def words(outcomes: list[Outcome]) -> list[bytes]:
    return [outcome.word for outcome in outcomes]


def test_a_group_is_synced_before_it_is_named_and_its_directory_once(disk: Disk, calls: list[str]) -> None:
    assert words(put_all(disk, put(b"a"), put(b"b"), put(b"c"))) == [b"created"] * 3
    hints, syncs, rest = calls[:3], calls[3:6], calls[6:]
    assert hints == ["posix_fadvise"] * 3
    assert syncs == ["sync"] * 3
    assert rest == ["link"] * 3 + ["sync directory"]


def test_every_directory_is_synced(disk: Disk, calls: list[str], store: Path) -> None:
    outcomes = put_all(disk, put(b"a"), put(b"team/b"), put(b"c"))
    assert [dataclasses.replace(outcome, seen=size(outcome)) for outcome in outcomes] == [Outcome(b"created", 5)] * 3
    assert calls.count("sync directory") == 2
    assert (store / "team" / "b").read_bytes() == b"bytes"


def test_more_than_a_group_go_one_group_after_the_other(disk: Disk, calls: list[str]) -> None:
    assert len(put_all(disk, *[put(b"%d" % number) for number in range(9)])) == 9
    assert calls.count("sync directory") == 3


def test_every_put_of_a_group_has_its_own_answer(disk: Disk, store: Path) -> None:
    put_all(disk, put(b"same"), put(b"other", b"x"), put(b"old", b"x"))
    (store / "folder").mkdir()
    outcomes = put_all(
        disk, put(b"same"), put(b"other"), put(b"old", replace=True), put(b"folder"), put(b"new"), put(b".ready", b"")
    )
    expected = [b"same", b"key_exists", b"replaced", b"not_an_object", b"created", b"bad_key"]
    assert words(outcomes) == expected
    assert [size(outcome) for outcome in outcomes] == [5, 1, 5, ABSENT, 5, ABSENT]


def test_who_cannot_be_synced_gets_no_name_and_the_others_do(
    disk: Disk, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = 0

    def fsync(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced == 2:
            raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(os, "fsync", fsync)
    outcomes = put_all(disk, put(b"a"), put(b"b"), put(b"c"))
    assert words(outcomes) == [b"created", b"disk_failed", b"created"]
    assert sorted(path.name for path in store.iterdir() if path.name[0] != ".") == ["a", "c", "team"]


def test_a_directory_that_cannot_be_synced_is_an_error_of_all_who_have_a_new_name_in_it(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(os, "fsync", refuse)
    outcomes = put_all(disk, put(b"a"), put(b"b"))
    assert [(outcome.word, size(outcome)) for outcome in outcomes] == [(b"disk_failed", 5)] * 2
    monkeypatch.undo()
    # Made again, it is not enough to sync what is there: a copy that was synced takes its place.
    assert words(put_all(disk, put(b"a"))) == [b"same"]


@pytest.mark.parametrize("free", [1, 2, 3])
def test_a_group_is_as_large_as_there_are_descriptors(
    disk: Disk, calls: list[str], monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    begin, open_now = publisher_module.Publisher.begin, 0
    discard = publisher_module.Publisher.discard

    def begin_some(self: publisher_module.Publisher, root: int) -> int:
        nonlocal open_now
        if open_now == free:
            raise OSError(errno.EMFILE, "injected")
        open_now += 1
        return begin(self, root)

    def discard_some(self: publisher_module.Publisher, *arguments: object) -> None:
        nonlocal open_now
        open_now -= 1
        discard(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(publisher_module.Publisher, "begin", begin_some)
    monkeypatch.setattr(publisher_module.Publisher, "discard", discard_some)
    assert words(put_all(disk, *[put(b"%d" % number) for number in range(6)])) == [b"created"] * 6
    assert calls.count("sync directory") == -(-6 // free)


def test_without_any_descriptor_the_first_is_refused_and_the_others_too(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "injected")

    monkeypatch.setattr(publisher_module.Publisher, "begin", refuse)
    assert words(put_all(disk, put(b"a"), put(b"b"))) == [b"busy", b"busy"]


def test_a_store_that_is_away_refuses_all(disk: Disk, store: Path) -> None:
    store.rename(store.with_name("elsewhere"))
    try:
        outcomes = put_all(disk, put(b"a"), put(b"b"))
        assert [(outcome.word, outcome.seen) for outcome in outcomes] == [(b"store_away", UNSEEN)] * 2
    finally:
        store.with_name("elsewhere").rename(store)


def test_an_owner_and_his_time_survive_that_others_make_it_durable(disk: Disk, store: Path) -> None:
    with disk.stay() as stay:
        disk.perform(Put(b"k", b"bytes", Origin(77), replace=False, durable=False), stay)
        created = disk.perform(Get(b"k", Budget(9, 9)), stay)
    assert created.word == b"ok"
    before = os.getxattr(store / "k", "user.storekeeper")
    put_all(disk, put(b"k"))
    after = os.getxattr(store / "k", "user.storekeeper")
    assert after[1] == 1  # synced
    assert after[4:8] == before[4:8] == (77).to_bytes(4, "little")
    assert after[12:20] == before[12:20]
